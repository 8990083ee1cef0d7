//! Services as frontends: what a name or an address means, which ports there are, and what is spoken on them.

use std::net::{IpAddr, SocketAddr};

use heddle_model::{Protocol, ServicePort};
use k8s_openapi::api::core::v1 as core;

use super::reach::Family;
use crate::snapshot::{ObjectKey, Pod, PodIndex, ServiceIndex, Snapshot};

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
pub(crate) fn selects(service: &core::Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty());
    selector.is_some_and(|selector| selector.iter().all(|(name, value)| pod.labels.get(name) == Some(value)))
}

/// What an outbound destination is.
#[derive(Debug)]
pub(crate) enum Destination<'a> {
    /// A port of a Service; of which family the dialled address is, if it was one.
    Service(Frontend<'a>, Option<Family>),
    /// One pod, by one of its addresses.
    Pod { key: &'a ObjectKey, pod: &'a Pod, address: SocketAddr },
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
    let service = |name, namespace| by_name(snapshot, name, namespace, port);
    let pod = |hostname, name, namespace| by_hostname(snapshot, hostname, name, namespace, port);
    // Where one name could be both, it is the Service (a resolver would say the pod): what is a Service must not depend on pods, because
    // such answers outlive changes of pods.
    match labels.as_slice() {
        [name] => service(name, client_namespace),
        [first, second] => service(first, second).or_else(|| pod(first, second, client_namespace)),
        [name, namespace, "svc"] => service(name, namespace),
        [hostname, name, namespace] | [hostname, name, namespace, "svc"] => pod(hostname, name, namespace),
        [name, namespace, "svc", domain @ ..] if *domain == CLUSTER_DOMAIN => service(name, namespace),
        [hostname, name, namespace, "svc", domain @ ..] if *domain == CLUSTER_DOMAIN => pod(hostname, name, namespace),
        _ => None,
    }
}

fn by_name<'a>(snapshot: &'a Snapshot, name: &str, namespace: &str, port: u16) -> Option<Destination<'a>> {
    let frontend = Frontend::find(snapshot, &ObjectKey::new(namespace, name), port)?;
    match kind(frontend.service) {
        // A headless Service has no frontend for routes, but its name resolves to its endpoints.
        ServiceKind::Cluster | ServiceKind::Headless => Some(Destination::Service(frontend, None)),
        ServiceKind::External => None,
    }
}

/// A pod of a headless Service by its own name, as those of a StatefulSet have one (`web-0.web`).
fn by_hostname<'a>(snapshot: &'a Snapshot, hostname: &str, service: &str, namespace: &str, port: u16) -> Option<Destination<'a>> {
    let (_, found) = snapshot.services.get_key_value(&ObjectKey::new(namespace, service))?;
    if kind(found) != ServiceKind::Headless {
        return None;
    }
    let named = snapshot.pods.in_namespace(namespace).filter(|(_, pod)| *pod.hostname == *hostname && *pod.subdomain == *service);
    let (key, pod) = named.filter(|(_, pod)| !pod.ended && selects(found, pod)).min_by_key(|(_, pod)| pod.terminating)?;
    Some(Destination::Pod { key, pod, address: SocketAddr::new(*pod.ips.first()?, port) })
}

/// Finds what an address belongs to: a Service by an address of its own, else a pod, else a Service by a port of a node. A loopback
/// address belongs to whoever dials it, although pods of local mode have it.
pub(crate) fn by_address(snapshot: &Snapshot, address: SocketAddr) -> Option<Destination<'_>> {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() {
        return None;
    }
    let family = Some(Family::of(ip));
    let at = ServiceIndex::Address(ip);
    let mut services = snapshot.services.by_index(&at).filter(|(_, service)| kind(service) == ServiceKind::Cluster).peekable();
    if services.peek().is_some() {
        let found = services.find_map(|(key, _)| Frontend::find(snapshot, key, address.port()));
        return found.map(|frontend| Destination::Service(frontend, family));
    }
    if let Some((key, pod)) = pod_at(snapshot, ip, address.port()) {
        return Some(Destination::Pod { key, pod, address: SocketAddr::new(ip, address.port()) });
    }
    snapshot.pods.by_index(&PodIndex::Node(ip)).next()?;
    let at = ServiceIndex::NodePort(address.port());
    let found = snapshot.services.by_index(&at).find_map(|(key, service)| {
        let (_, (number, port)) = node_ports(service).find(|(node_port, _)| *node_port == address.port())?;
        Some(Frontend { key, service, port, number })
    });
    found.map(|frontend| Destination::Service(frontend, family))
}

/// The pod that has an address. Pods on their node's network share its address with the node's own daemons, so they have only the ports
/// that they declare; an address of a pod that is being deleted may belong to the next one already.
pub(crate) fn pod_at(snapshot: &Snapshot, ip: IpAddr, port: u16) -> Option<(&ObjectKey, &Pod)> {
    snapshot
        .pods
        .by_index(&PodIndex::Address(ip))
        .filter(|(_, pod)| !pod.host_network || pod.ports.iter().any(|declared| declared.number == port))
        .min_by_key(|(key, pod)| (pod.terminating, pod.host_network, std::cmp::Reverse(pod.created), *key))
}

/// Whether what an address leads to depends on Services alone, and not on pods.
pub(crate) fn is_of_services(snapshot: &Snapshot, address: SocketAddr) -> bool {
    let at = ServiceIndex::Address(address.ip().to_canonical());
    snapshot.services.by_index(&at).any(|(_, service)| kind(service) == ServiceKind::Cluster)
}

/// The addresses at which a Service can be dialled, wherever the client is: its cluster IPs, its external IPs, and those of its load
/// balancer, which a node answers by itself unless it is told that the balancer must see the traffic (KEP-1860, `ipMode`).
pub(crate) fn frontend_ips(service: &core::Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let external = spec.into_iter().flat_map(|s| s.external_ips.iter().flatten()).map(String::as_str);
    let ingress = service.status.iter().flat_map(|s| s.load_balancer.iter()).flat_map(|b| b.ingress.iter().flatten());
    let balanced = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_deref());
    cluster_ips(service).chain(external.chain(balanced).filter_map(|ip| ip.parse().ok()))
}

/// The cluster IPs of a Service, the primary one first.
pub(crate) fn cluster_ips(service: &core::Service) -> impl Iterator<Item = IpAddr> {
    let spec = service.spec.as_ref();
    let primary = spec.and_then(|s| s.cluster_ip.as_deref());
    let all = spec.into_iter().flat_map(|s| s.cluster_ips.iter().flatten()).map(String::as_str);
    primary.into_iter().chain(all).filter_map(|ip| ip.parse().ok())
}

/// The ports of nodes that lead to a Service, and the Service's port of each.
pub(crate) fn node_ports(service: &core::Service) -> impl Iterator<Item = (u16, (u16, &core::ServicePort))> {
    ports(service).filter_map(|(number, port)| Some((port.node_port.and_then(port_number)?, (number, port))))
}
