//! EndpointSlices and pods → endpoints with identity, zone and version.

use std::net::{IpAddr, SocketAddr};

use heddle_model::{Endpoint, ServicePort, SpiffeId, TrustDomain};
use k8s_openapi::api::discovery::v1 as discovery;

use super::reach::{Reach, Topology};
use super::service::{self, Frontend, is_tcp, port_number};
use crate::snapshot::{ObjectKey, Pod, Sidecar, Snapshot};

/// What the name of a [`ServicePort`] begins with when it means one pod. No Kubernetes name has a colon.
const POD_PREFIX: &str = "pod:";

/// The key of the backend that is one pod: `namespace/pod:NAME:port`, or `namespace/pod:NAME@IP:port` when the address is
/// not the pod's first one.
///
/// A client that dials a pod's own address means that pod (Gateway API conformance `MeshFrontend`): no route of a Service
/// applies, and the only endpoint is the address that was dialled. [`super::endpoints`] understands these keys.
pub(crate) fn pod_key(key: &ObjectKey, pod: &Pod, address: SocketAddr) -> ServicePort {
    let name = if pod.ips.first() == Some(&address.ip()) {
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
    let Some((name, reach)) = Reach::parse(&backend.name) else {
        return Vec::new();
    };
    let key = ObjectKey::new(&backend.namespace, name);
    let Some(frontend) = Frontend::find(snapshot, &key, backend.port) else {
        return Vec::new();
    };
    let is_usable = |endpoint: &discovery::Endpoint| draining(endpoint.conditions.as_ref()) == Some(false);
    let topology = Topology::of(snapshot, &key, frontend.service, &reach.node, is_usable);
    let source = Source { snapshot, trust_domain, publishes_all: publishes_all(&frontend) };
    let mut found: Vec<Endpoint> = snapshot
        .endpoint_slices
        .by_index(&key)
        .filter(|(_, slice)| reach.takes_slice(slice))
        .flat_map(|(slice_key, slice)| {
            let ports: Vec<u16> = slice_ports(slice, frontend.port_name()).collect();
            let entries = slice.endpoints.iter().filter(|entry| topology.takes(entry));
            entries.flat_map(|entry| source.of_slice(slice_key, entry, &ports)).collect::<Vec<_>>()
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

/// Whether a Service's slices call endpoints ready that are not (`publishNotReadyAddresses`).
fn publishes_all(frontend: &Frontend<'_>) -> bool {
    frontend.service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
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

/// What the endpoints of one Service are made of.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    snapshot: &'a Snapshot,
    trust_domain: &'a TrustDomain,
    publishes_all: bool,
}

impl Source<'_> {
    /// The endpoints that one entry of a slice means: none when it is not to be used.
    fn of_slice(&self, slice: &ObjectKey, entry: &discovery::Endpoint, ports: &[u16]) -> Vec<Endpoint> {
        let Some(draining) = draining(entry.conditions.as_ref()) else {
            return Vec::new();
        };
        let addresses = entry.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok());
        let addresses = addresses.flat_map(|ip| ports.iter().map(move |port| SocketAddr::new(ip, *port)));
        let target = entry.target_ref.as_ref().filter(|r| r.kind.as_deref() == Some("Pod"));
        let Some(target) = target else {
            // Written by hand, or of a Service without selector.
            return addresses.filter_map(|a| Some(self.at(a)?.endpoint(a, entry.zone.clone(), draining))).collect();
        };
        let namespace = target.namespace.as_deref().unwrap_or(&slice.namespace);
        let key = ObjectKey::new(namespace, target.name.as_deref().unwrap_or_default());
        // A pod that the snapshot has not seen may be meshed: plaintext to it would be a guess, so it waits.
        let Some(pod) = self.snapshot.pods.get(&key) else {
            return Vec::new();
        };
        let is_predecessor = !pod.uid.is_empty() && target.uid.as_deref().is_some_and(|uid| *uid != *pod.uid);
        // Where readiness says nothing, a sidecar that does not listen yet would only cost the client an attempt.
        if is_predecessor || (self.publishes_all && pod.sidecar == Sidecar::Starting) {
            return Vec::new();
        }
        let Some(workload) = workload(self.trust_domain, &key, pod) else {
            return Vec::new();
        };
        addresses.map(|address| workload.endpoint(address, entry.zone.clone(), draining)).collect()
    }

    /// Who has an address that no entry names the pod of; `None`: nobody who may be spoken to. Outside of the cluster there is nobody to
    /// know, and a pod that was reached in this way is none the less meshed.
    fn at(&self, address: SocketAddr) -> Option<Workload> {
        if address.ip().is_loopback() {
            return Some(Workload::default());
        }
        match service::pod_at(self.snapshot, address.ip(), address.port()) {
            Some((key, pod)) => workload(self.trust_domain, key, pod),
            None => Some(Workload::default()),
        }
    }
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
fn workload(trust_domain: &TrustDomain, key: &ObjectKey, pod: &Pod) -> Option<Workload> {
    let identity = if pod.is_meshed() { Some(SpiffeId::workload(trust_domain, &key.namespace, &pod.service_account).ok()?) } else { None };
    let version = pod.labels.get("version").filter(|v| !v.is_empty()).map(str::to_owned);
    Some(Workload { name: key.name.to_string(), identity, version })
}

/// The one endpoint of a key that [`pod_key`] made. Whether the pod is ready does not matter: the client chose it.
fn pod_endpoint(snapshot: &Snapshot, trust_domain: &TrustDomain, backend: &ServicePort, name: &str) -> Option<Endpoint> {
    let (name, ip) = match name.split_once('@') {
        Some((name, ip)) => (name, Some(ip.parse::<IpAddr>().ok()?)),
        None => (name, None),
    };
    let key = ObjectKey::new(&backend.namespace, name);
    let pod = snapshot.pods.get(&key).filter(|pod| !pod.ended)?;
    let ip = pod.ips.iter().copied().find(|candidate| ip.is_none_or(|ip| ip == *candidate))?;
    Some(workload(trust_domain, &key, pod)?.endpoint(SocketAddr::new(ip, backend.port), None, false))
}
