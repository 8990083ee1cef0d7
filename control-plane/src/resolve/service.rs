//! Services as frontends: what a name or an address means, which ports there are, and what is spoken on them.

use std::net::{IpAddr, SocketAddr};

use heddle_model::{Protocol, ServicePort};
use k8s_openapi::api::core::v1 as core;

use crate::snapshot::{ObjectKey, Snapshot};

/// The DNS suffix of the cluster. Kubernetes lets an installation choose another one; nearly none does.
const CLUSTER_DOMAIN: [&str; 2] = ["cluster", "local"];

/// What a Service's type means for routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// It has a frontend: a cluster IP (or, in local mode, only a name).
    Cluster,
    /// It has endpoints and no frontend (`clusterIP: None`).
    Headless,
    /// It is a DNS alias. Following it would let its author borrow the client's reach (kubernetes/kubernetes#103675).
    External,
}

/// A port of a Service, TCP and with a number that fits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frontend<'a> {
    pub(crate) key: &'a ObjectKey,
    pub(crate) service: &'a core::Service,
    pub(crate) port: &'a core::ServicePort,
    pub(crate) number: u16,
}

impl<'a> Frontend<'a> {
    /// Finds a port of a Service by its number.
    pub(crate) fn find(snapshot: &'a Snapshot, key: &ObjectKey, number: u16) -> Option<Self> {
        let (key, service) = snapshot.services.get_key_value(key)?;
        ports(service).find(|(n, _)| *n == number).map(|(number, port)| Self { key, service, port, number })
    }

    /// The port as backends are keyed.
    pub(crate) fn service_port(&self) -> ServicePort {
        ServicePort { namespace: self.key.namespace.to_string(), name: self.key.name.to_string(), port: self.number }
    }

    /// The port's name; ports of single-port Services may have none.
    pub(crate) fn port_name(&self) -> &'a str {
        self.port.name.as_deref().unwrap_or_default()
    }

    /// What the Service itself declares: `appProtocol`, else the prefix of the port's name, else nothing.
    pub(crate) fn declared_protocol(&self) -> Protocol {
        self.port
            .app_protocol
            .as_deref()
            .and_then(Protocol::from_app_protocol)
            .or_else(|| Protocol::from_port_name(self.port_name()))
            .unwrap_or(Protocol::Detect)
    }
}

/// What kind of Service it is.
pub(crate) fn kind(service: &core::Service) -> ServiceKind {
    let spec = service.spec.as_ref();
    if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        ServiceKind::External
    } else if spec.and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        ServiceKind::Headless
    } else {
        ServiceKind::Cluster
    }
}

/// The TCP ports with their numbers; a number outside 1..=65535 is left out.
pub(crate) fn ports(service: &core::Service) -> impl Iterator<Item = (u16, &core::ServicePort)> {
    service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((port_number(port.port)?, port)))
}

/// Kubernetes' default protocol is TCP.
pub(crate) fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p == "TCP")
}

/// A port number as Kubernetes writes it, when it is one.
pub(crate) fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Whether a Service's selector picks a pod with these labels. A Service without selector picks none.
pub(crate) fn selects(service: &core::Service, pod: &core::Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) else {
        return false;
    };
    let Some(labels) = &pod.metadata.labels else {
        return false;
    };
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// What an outbound destination is.
#[derive(Debug)]
pub(crate) enum Destination<'a> {
    /// A port of a Service.
    Service(Frontend<'a>),
    /// One pod, by one of its addresses.
    Pod { key: &'a ObjectKey, pod: &'a core::Pod, address: SocketAddr },
}

/// Finds what `host:port` names, as a client in `client_namespace` writes it.
pub(crate) fn by_authority<'a>(snapshot: &'a Snapshot, client_namespace: &str, authority: &str) -> Option<Destination<'a>> {
    if let Ok(address) = authority.parse() {
        return by_address(snapshot, address);
    }
    let (host, port) = authority.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let labels: Vec<&str> = host.split('.').collect();
    let (name, namespace) = match labels.as_slice() {
        [name] => (*name, client_namespace),
        [name, namespace] | [name, namespace, "svc"] => (*name, *namespace),
        [name, namespace, "svc", domain @ ..] if *domain == CLUSTER_DOMAIN => (*name, *namespace),
        _ => return None,
    };
    let frontend = Frontend::find(snapshot, &ObjectKey::new(namespace, name), port)?;
    match kind(frontend.service) {
        // A headless Service has no frontend for routes, but its name resolves to its endpoints.
        ServiceKind::Cluster | ServiceKind::Headless => Some(Destination::Service(frontend)),
        ServiceKind::External => None,
    }
}

/// Finds what an address belongs to: a Service's cluster IP, else a pod. A loopback address belongs to whoever dials it, although pods
/// of local mode have it.
pub(crate) fn by_address(snapshot: &Snapshot, address: SocketAddr) -> Option<Destination<'_>> {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() {
        return None;
    }
    let mut services = snapshot.services.by_index(&ip).filter(|(_, service)| kind(service) == ServiceKind::Cluster).peekable();
    if services.peek().is_some() {
        return services.find_map(|(key, _)| Frontend::find(snapshot, key, address.port())).map(Destination::Service);
    }
    let candidates: Vec<_> = snapshot.pods.by_index(&ip).filter(|(_, pod)| !has_ended(pod)).collect();
    let found = match candidates.as_slice() {
        [only] => Some(only),
        // Pods on the host's network share its address: only a declared port can tell them apart.
        several => several.iter().find(|(_, pod)| container_ports(pod).any(|(number, _)| number == address.port())),
    };
    found.map(|(key, pod)| Destination::Pod { key, pod, address: SocketAddr::new(ip, address.port()) })
}

/// The addresses on which a pod can be reached.
pub(crate) fn pod_ips(pod: &core::Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let primary = status.and_then(|s| s.pod_ip.as_deref());
    let all = status.into_iter().flat_map(|s| s.pod_ips.iter().flatten()).map(|p| p.ip.as_str());
    primary.into_iter().chain(all).filter_map(|ip| ip.parse().ok())
}

/// The cluster IPs of a Service.
pub(crate) fn cluster_ips(service: &core::Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let primary = spec.and_then(|s| s.cluster_ip.as_deref());
    let all = spec.into_iter().flat_map(|s| s.cluster_ips.iter().flatten()).map(String::as_str);
    primary.into_iter().chain(all).filter_map(|ip| ip.parse().ok())
}

/// The TCP ports that a pod's containers declare, with their names. Sidecars of the native form are among them.
pub(crate) fn container_ports(pod: &core::Pod) -> impl Iterator<Item = (u16, Option<&str>)> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
        .flat_map(|container| container.ports.iter().flatten())
        .filter(|port| is_tcp(port.protocol.as_deref()))
        .filter_map(|port| Some((port_number(port.container_port)?, port.name.as_deref())))
}

fn has_ended(pod: &core::Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}
