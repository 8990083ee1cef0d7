//! A pod as the mesh knows it: with its name and its place in the index two kilobytes, where the API's own type takes ten and its JSON
//! fifteen. There is one for every endpoint.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use crate::resolve::service::{is_tcp, port_number};

/// The container whose presence makes a pod meshed.
pub const SIDECAR_CONTAINER: &str = "heddle-sidecar";

/// The prefix of annotations that are kept.
const OUR_ANNOTATIONS: &str = "heddle.dev/";

/// What the mesh knows of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// All labels.
    pub labels: Names,
    /// The annotations of `heddle.dev`.
    pub annotations: Names,
    /// What tells it from an earlier pod of the same name; empty in files.
    pub uid: Box<str>,
    /// When it was created, in Unix seconds.
    pub created: Option<u64>,
    /// Its ServiceAccount; `default` where none is named.
    pub service_account: Box<str>,
    /// The node on which it runs; empty before it is placed.
    pub node: Box<str>,
    /// Whether it uses its node's network: then it has no addresses of its own, and no sidecar can stand before it.
    pub host_network: bool,
    /// The first part of its DNS name in its headless Service; empty: the pod's name is not in the DNS.
    pub hostname: Box<str>,
    /// The headless Service in which it has a DNS name; empty: none.
    pub subdomain: Box<str>,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// The addresses of its node.
    pub host_ips: Vec<IpAddr>,
    /// The TCP ports that its containers declare, native sidecars included.
    pub ports: Vec<Port>,
    /// Whether it has a sidecar.
    pub sidecar: Sidecar,
    /// Whether all of its containers have ended for good (phase `Succeeded` or `Failed`).
    pub ended: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A declared TCP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The name, by which a Service may mean it.
    pub name: Option<Box<str>>,
}

/// Whether a pod has a sidecar of ours, native or as an ordinary container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sidecar {
    /// It has none: it was not injected.
    #[default]
    Absent,
    /// It has one that does not listen yet, or not any more.
    Starting,
    /// It has one; nobody says that it is not started.
    Started,
}

impl Pod {
    /// Whether its sidecar takes mTLS for it. It does from injection on: what a pod with a sidecar is sent in plaintext would be a guess.
    pub fn is_meshed(&self) -> bool {
        !self.host_network && self.sidecar != Sidecar::Absent
    }
}

impl From<core::Pod> for Pod {
    fn from(pod: core::Pod) -> Self {
        let core::Pod { metadata, spec, status } = pod;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let sidecar = Sidecar::of(&spec, &status);
        let text = |text: Option<String>| text.unwrap_or_default().into_boxed_str();
        let annotations = metadata.annotations.into_iter().flatten().filter(|(name, _)| name.starts_with(OUR_ANNOTATIONS));
        let account = spec.service_account_name.filter(|account| !account.is_empty());
        let native = spec.init_containers.iter().flatten();
        let declared = spec.containers.iter().chain(native).flat_map(|container| container.ports.iter().flatten());
        Self {
            labels: metadata.labels.into_iter().flatten().collect(),
            annotations: annotations.collect(),
            uid: text(metadata.uid),
            created: metadata.creation_timestamp.and_then(|time| u64::try_from(time.0.as_second()).ok()).filter(|seconds| *seconds != 0),
            service_account: account.map_or_else(|| "default".into(), String::into_boxed_str),
            node: text(spec.node_name),
            host_network: spec.host_network.unwrap_or(false),
            hostname: text(spec.hostname),
            subdomain: text(spec.subdomain),
            ips: addresses(status.pod_ip.as_deref(), status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str())),
            host_ips: addresses(status.host_ip.as_deref(), status.host_ips.iter().flatten().map(|ip| ip.ip.as_str())),
            ports: declared
                .filter(|port| is_tcp(port.protocol.as_deref()))
                .filter_map(|port| Some(Port { number: port_number(port.container_port)?, name: port.name.as_deref().map(Into::into) }))
                .collect(),
            sidecar,
            ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            terminating: metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Sidecar {
    fn of(spec: &core::PodSpec, status: &core::PodStatus) -> Self {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        if !containers.into_iter().any(|container| container.name == SIDECAR_CONTAINER) {
            return Self::Absent;
        }
        let statuses = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        match statuses.into_iter().find(|status| status.name == SIDECAR_CONTAINER).and_then(|status| status.started) {
            Some(false) => Self::Starting,
            Some(true) | None => Self::Started,
        }
    }
}

/// The primary address and the others, each once; what is none is left out.
fn addresses<'a>(primary: Option<&'a str>, all: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for address in primary.into_iter().chain(all).filter_map(|text| text.parse().ok()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Labels or annotations, by name. A sorted list: a map would take half a kilobyte for the five that a pod has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names(Box<[(Box<str>, Box<str>)]>);

impl Names {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let Self(names) = self;
        names.binary_search_by(|(found, _)| (**found).cmp(name)).ok().and_then(|index| names.get(index)).map(|(_, value)| &**value)
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let Self(names) = self;
        names.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl FromIterator<(String, String)> for Names {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(names: I) -> Self {
        let mut names: Vec<(Box<str>, Box<str>)> = names.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        names.dedup_by(|(later, _), (first, _)| later == first);
        Self(names.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(pod: serde_json::Value) -> Pod {
        serde_json::from_value::<core::Pod>(pod).unwrap().into()
    }

    #[test]
    fn a_pod_keeps_what_the_mesh_needs() {
        let pod = pod(json!({
            "metadata": {
                "name": "web-0", "uid": "u", "labels": {"b": "2", "a": "1"}, "creationTimestamp": "1970-01-01T00:01:00Z",
                "annotations": {"heddle.dev/log-level": "debug", "kubernetes.io/config.source": "api"},
            },
            "spec": {
                "hostname": "web-0", "subdomain": "web", "nodeName": "n",
                "containers": [{"name": "app", "ports": [{"name": "serve", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}],
            },
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "?"}], "hostIP": "192.168.0.1"},
        }));
        assert_eq!((pod.labels.get("a"), pod.labels.get("b"), pod.labels.get("c")), (Some("1"), Some("2"), None));
        assert_eq!(pod.annotations.iter().collect::<Vec<_>>(), [("heddle.dev/log-level", "debug")]);
        assert_eq!((pod.created, &*pod.service_account, &*pod.node), (Some(60), "default", "n"));
        assert_eq!(pod.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!(pod.ports, [Port { number: 80, name: Some("serve".into()) }]);
        assert!(!pod.is_meshed() && !pod.ended && !pod.terminating);
    }

    #[test]
    fn a_pod_of_the_host_s_network_is_never_meshed() {
        let spec = |host_network: bool| json!({"spec": {"hostNetwork": host_network, "containers": [], "initContainers": [{"name": "heddle-sidecar"}]}});
        assert!(pod(spec(false)).is_meshed());
        assert!(!pod(spec(true)).is_meshed());
    }

    #[test]
    fn a_sidecar_is_started_unless_the_kubelet_says_otherwise() {
        let with = |started: Option<bool>| {
            let status =
                json!({"name": "heddle-sidecar", "started": started, "image": "", "imageID": "", "ready": false, "restartCount": 0});
            pod(json!({
                "spec": {"containers": [], "initContainers": [{"name": "heddle-sidecar"}]}, "status": {"initContainerStatuses": [status]},
            }))
            .sidecar
        };
        assert_eq!([None, Some(false), Some(true)].map(with), [Sidecar::Started, Sidecar::Starting, Sidecar::Started]);
    }
}
