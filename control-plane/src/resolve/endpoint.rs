//! EndpointSlices and pods → endpoints with identity, zone and version.

use std::net::{IpAddr, SocketAddr};

use heddle_model::{Endpoint, ServicePort, SpiffeId, TrustDomain};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

use super::service::{Frontend, is_tcp, pod_ips, port_number};
use crate::snapshot::{ObjectKey, Snapshot};

/// The container whose presence makes a pod's endpoints meshed.
pub const SIDECAR_CONTAINER: &str = "heddle-sidecar";

/// What the name of a [`ServicePort`] begins with when it means one pod. No Kubernetes name has a colon.
const POD_PREFIX: &str = "pod:";

/// The key of the backend that is one pod: `namespace/pod:NAME:port`, or `namespace/pod:NAME@IP:port` when the address is
/// not the pod's first one.
///
/// A client that dials a pod's own address means that pod (Gateway API conformance `MeshFrontend`): no route of a Service
/// applies, and the only endpoint is the address that was dialled. [`super::endpoints`] understands these keys.
pub(crate) fn pod_key(key: &ObjectKey, pod: &core::Pod, address: SocketAddr) -> ServicePort {
    let name = if pod_ips(pod).next() == Some(address.ip()) {
        format!("{POD_PREFIX}{}", key.name)
    } else {
        format!("{POD_PREFIX}{}@{}", key.name, address.ip())
    };
    ServicePort { namespace: key.namespace.to_string(), name, port: address.port() }
}

/// The endpoints behind a key of a backend, sorted by address, each address once.
pub(crate) fn endpoints(snapshot: &Snapshot, trust_domain: &TrustDomain, backend: &ServicePort) -> Vec<Endpoint> {
    if let Some(name) = backend.name.strip_prefix(POD_PREFIX) {
        return pod_endpoint(snapshot, trust_domain, backend, name).into_iter().collect();
    }
    let key = ObjectKey::new(&backend.namespace, &backend.name);
    let Some(frontend) = Frontend::find(snapshot, &key, backend.port) else {
        return Vec::new();
    };
    let mut found: Vec<Endpoint> = snapshot
        .endpoint_slices
        .by_index(&key)
        .flat_map(|(slice_key, slice)| {
            let ports: Vec<u16> = slice_ports(slice, frontend.port_name()).collect();
            slice.endpoints.iter().flat_map(move |endpoint| of_slice(snapshot, trust_domain, slice_key, endpoint, &ports))
        })
        .collect();
    // Slices may overlap while they are rewritten. The order makes the choice independent of arrival: serving before
    // draining, and an identity before none, so that a duplicate never turns mTLS into plaintext.
    found.sort_by(|a, b| {
        let rank = |e: &Endpoint| (e.address, e.draining, e.identity.is_none());
        rank(a)
            .cmp(&rank(b))
            .then_with(|| (&a.workload, &a.identity, &a.version, &a.zone).cmp(&(&b.workload, &b.identity, &b.version, &b.zone)))
    });
    found.dedup_by_key(|e| e.address);
    found
}

/// The numbers of a slice's ports with this name.
fn slice_ports<'a>(slice: &'a discovery::EndpointSlice, name: &'a str) -> impl Iterator<Item = u16> {
    slice
        .ports
        .iter()
        .flatten()
        .filter(move |port| port.name.as_deref().unwrap_or_default() == name && is_tcp(port.protocol.as_deref()))
        .filter_map(|port| port.port.and_then(port_number))
}

/// The endpoints that one entry of a slice means: none when it is not ready.
fn of_slice(
    snapshot: &Snapshot,
    trust_domain: &TrustDomain,
    slice: &ObjectKey,
    entry: &discovery::Endpoint,
    ports: &[u16],
) -> Vec<Endpoint> {
    let Some(draining) = draining(entry.conditions.as_ref()) else {
        return Vec::new();
    };
    let target = entry.target_ref.as_ref().filter(|r| r.kind.as_deref() == Some("Pod"));
    let workload = match target {
        None => Workload::default(),
        Some(reference) => {
            let key =
                ObjectKey::new(reference.namespace.as_deref().unwrap_or(&slice.namespace), reference.name.as_deref().unwrap_or_default());
            // A pod that the snapshot has not seen may be meshed: plaintext to it would be a guess, so it waits.
            match snapshot.pods.get(&key).and_then(|pod| workload(trust_domain, &key, pod)) {
                Some(workload) => workload,
                None => return Vec::new(),
            }
        }
    };
    let addresses = entry.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
    addresses
        .flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)))
        .map(|address| workload.endpoint(address, entry.zone.clone(), draining))
        .collect()
}

/// `Some(false)`: ready; `Some(true)`: terminating but still serving; `None`: not to be used.
fn draining(conditions: Option<&discovery::EndpointConditions>) -> Option<bool> {
    // Unset is ready (discovery/v1).
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    match (terminating, ready, serving) {
        (false, true, _) => Some(false),
        (true, _, true) => Some(true),
        (false, false, _) | (true, _, false) => None,
    }
}

/// What is known of the workload behind an address.
#[derive(Debug, Default)]
struct Workload {
    name: String,
    identity: Option<SpiffeId>,
    version: Option<String>,
}

impl Workload {
    fn endpoint(&self, address: SocketAddr, zone: Option<String>, draining: bool) -> Endpoint {
        Endpoint {
            address,
            identity: self.identity.clone(),
            zone: zone.filter(|z| !z.is_empty()),
            workload: self.name.clone(),
            version: self.version.clone(),
            draining,
        }
    }
}

/// `None`: it is meshed and cannot be named, so it must not be spoken to.
fn workload(trust_domain: &TrustDomain, key: &ObjectKey, pod: &core::Pod) -> Option<Workload> {
    let identity = if is_meshed(pod) {
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|a| !a.is_empty()).unwrap_or("default");
        Some(SpiffeId::workload(trust_domain, &key.namespace, account).ok()?)
    } else {
        None
    };
    let version = pod.metadata.labels.as_ref().and_then(|l| l.get("version")).filter(|v| !v.is_empty()).cloned();
    Some(Workload { name: key.name.to_string(), identity, version })
}

/// Whether a pod has a sidecar of ours, native or as an ordinary container.
pub(crate) fn is_meshed(pod: &core::Pod) -> bool {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        .any(|container| container.name == SIDECAR_CONTAINER)
}

/// The one endpoint of a key that [`pod_key`] made. Whether the pod is ready does not matter: the client chose it.
fn pod_endpoint(snapshot: &Snapshot, trust_domain: &TrustDomain, backend: &ServicePort, name: &str) -> Option<Endpoint> {
    let (name, ip) = match name.split_once('@') {
        Some((name, ip)) => (name, Some(ip.parse::<IpAddr>().ok()?)),
        None => (name, None),
    };
    let key = ObjectKey::new(&backend.namespace, name);
    let pod = snapshot.pods.get(&key)?;
    let ip = pod_ips(pod).find(|candidate| ip.is_none_or(|ip| ip == *candidate))?;
    Some(workload(trust_domain, &key, pod)?.endpoint(SocketAddr::new(ip, backend.port), None, false))
}
