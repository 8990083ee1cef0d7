//! Snapshot × target → policy: pure, total, and the same in any order of the objects' arrival.
//!
//! What cannot be honoured becomes an invalid backend, a failing filter or a rule left out, never a panic and never an open
//! door; `crate::status` says the same in words.
//!
//! ```text
//! service           names, addresses and ports of Services
//! attach            routes and policies on a Service
//! route, filter     rules in the model's terms
//! backend           references to Services
//! traffic_policy    limits, retries, use of backends
//! reach, endpoint   where backends can be reached
//! inbound           ports of a workload
//! ```

pub(crate) mod attach;
pub(crate) mod backend;
pub mod endpoint;
pub(crate) mod filter;
pub(crate) mod inbound;
mod reach;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod traffic_policy;

use std::net::SocketAddr;
use std::time::Duration;

use heddle_crds::heddle::{EgressDefault, MeshConfig, MeshConfigSpec};
use heddle_model::route::Precedence;
use heddle_model::{
    BackendTarget, Endpoint, InboundPolicy, MtlsMode, OutboundPolicy, Protocol, ResourceRef, Route, RouteBackend, RouteTable, Rule,
    ServicePort, Settings, Target, TrustDomain,
};

use self::attach::Attached;
use self::backend::Backends;
pub use self::reach::Client;
use self::service::{Destination, Frontend};
use self::traffic_policy::{Limits, Traffic};
use crate::snapshot::{ObjectKey, Pod, Snapshot};

/// The name of the one `MeshConfig` that counts.
pub const MESH_CONFIG_NAME: &str = "default";

/// The trust domain without a `MeshConfig`.
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// What holds for the whole mesh, from `MeshConfig` or by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// How long a workload's certificate is valid.
    pub certificate_lifetime: Duration,
    /// Whether plaintext is taken where no `AuthenticationPolicy` says.
    pub mtls: MtlsMode,
}

/// Resolves an outbound destination for a client: a namespace, or a [`Client`]. `None`: the mesh does not know it, and
/// [`Settings::egress_allow`] decides.
///
/// An authority is `host:port`, where the host is a Service as applications write it: `reviews`, `reviews.shop`,
/// `reviews.shop.svc` or `reviews.shop.svc.cluster.local`, or a pod of a headless one (`web-0.web`). An address is one of a Service
/// (cluster IP, external IP, load balancer) with a port of it, a node's with a `nodePort`, or one of a pod, to which no route of a
/// Service applies.
pub fn outbound<'c>(snapshot: &Snapshot, client: impl Into<Client<'c>>, target: &Target) -> Option<OutboundPolicy> {
    let client = client.into();
    let destination = match target {
        Target::Authority(authority) => service::by_authority(snapshot, client.namespace, authority),
        Target::Address(address) => service::by_address(snapshot, *address),
        Target::InboundPort(_) => None,
    };
    Some(match destination? {
        Destination::Service(frontend, family) => to_service(snapshot, Client { family, ..client }, &frontend),
        Destination::Pod { key, pod, address } => to_pod(snapshot, key, pod, address),
    })
}

/// Whether the answer of [`outbound`] for a target, when it is a Service, depends on Services, routes and policies alone. A port of a
/// node does not: that an address is one of a node is known from the pods there.
pub fn depends_on_rules_only(snapshot: &Snapshot, target: &Target) -> bool {
    match target {
        Target::Authority(authority) => authority.parse().map_or(true, |address| service::is_of_services(snapshot, address)),
        Target::Address(address) => service::is_of_services(snapshot, *address),
        Target::InboundPort(_) => false,
    }
}

/// Whether a backend of an answer was chosen for the client's node, so that the answer is for clients of that node only.
pub fn depends_on_node(policy: &OutboundPolicy) -> bool {
    policy.backends.iter().any(|backend| reach::names_node(&backend.service))
}

/// Resolves a container's port of a pod. `None`: there is no such pod, and nothing is permitted.
pub fn inbound(snapshot: &Snapshot, namespace: &str, workload: &str, port: u16) -> Option<InboundPolicy> {
    inbound::inbound(snapshot, mesh(snapshot).mtls, &ObjectKey::new(namespace, workload), port)
}

/// The endpoints of a backend, sorted by address. Besides Services' ports it understands the keys which [`outbound`] makes: of single pods
/// for their addresses (`namespace/pod:NAME:port`), and of what clients of one address family or node may use of a Service
/// (`namespace/NAME@ipv4:port`, `namespace/NAME@node=NODE:port`).
pub fn endpoints(snapshot: &Snapshot, backend: &ServicePort) -> Vec<Endpoint> {
    endpoint::endpoints(snapshot, &mesh(snapshot).trust_domain, backend)
}

/// What is the same for every sidecar.
pub fn settings(snapshot: &Snapshot) -> Settings {
    let default = MeshConfigSpec::default();
    let MeshConfigSpec { trust_domain: _, mtls: _, certificate_lifetime: _, tracing, access_log, egress } =
        mesh_config(snapshot).map_or(&default, |(_, config)| &config.spec);
    Settings {
        otlp_endpoint: tracing.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty()),
        sampling_ppm: parts_per_million(tracing.sampling_percent),
        access_log: access_log.enabled,
        egress_allow: match egress.default {
            EgressDefault::Allow => true,
            EgressDefault::Deny => false,
        },
    }
}

/// What holds for the whole mesh. A trust domain that is none counts as unset, and the object's status says so.
pub fn mesh(snapshot: &Snapshot) -> MeshSettings {
    let default = MeshConfigSpec::default();
    let MeshConfigSpec { trust_domain, mtls, certificate_lifetime, tracing: _, access_log: _, egress: _ } =
        mesh_config(snapshot).map_or(&default, |(_, config)| &config.spec);
    MeshSettings {
        trust_domain: trust_domain
            .parse()
            .unwrap_or_else(|_| DEFAULT_TRUST_DOMAIN.parse().expect("the constant is a trust domain by SPIFFE-ID §2.1")),
        certificate_lifetime: certificate_lifetime.get(),
        mtls: inbound::mtls_mode(mtls.mode),
    }
}

/// The one that counts.
pub(crate) fn mesh_config(snapshot: &Snapshot) -> Option<(&ObjectKey, &MeshConfig)> {
    snapshot.mesh_configs.get_key_value(&ObjectKey::new("", MESH_CONFIG_NAME))
}

/// Nonsense, such as NaN, samples nothing.
fn parts_per_million(percent: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 0..=1,000,000 just before; a cast of NaN gives 0")]
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0..=1,000,000 just before")]
    let parts = (percent * 10_000.0).round().clamp(0.0, 1_000_000.0) as u32;
    parts
}

fn to_service(snapshot: &Snapshot, client: Client<'_>, frontend: &Frontend<'_>) -> OutboundPolicy {
    let policy = traffic_policy::of_port(snapshot, frontend);
    let protocol = traffic_policy::protocol(frontend, policy.as_ref());
    let mut backends = Backends::new(snapshot, policy.as_ref()).for_client(client);
    let source = ResourceRef::new("Service", &*frontend.key.namespace, &*frontend.key.name);

    let (http, tcp) = match protocol {
        // Opaque by declaration: no request is ever seen, so no route applies.
        Protocol::Opaque | Protocol::Tls => (RouteTable::default(), vec![whole(backends.service(frontend))]),
        // A declared HTTP port never degrades to opaque bytes.
        Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            (http_table(snapshot, client.namespace, frontend, &source, &mut backends, policy.as_ref()), Vec::new())
        }
        Protocol::Detect => {
            let http = http_table(snapshot, client.namespace, frontend, &source, &mut backends, policy.as_ref());
            (http, vec![whole(backends.service(frontend))])
        }
    };
    OutboundPolicy {
        service: Some(frontend.service_port()),
        protocol,
        backends: backends.into_list(),
        http,
        tcp_source: (!tcp.is_empty()).then_some(source),
        tcp_idle: policy.as_ref().and_then(Traffic::idle),
        tcp,
    }
}

/// The routes of a port; without any, one rule that sends everything to the Service itself.
fn http_table(
    snapshot: &Snapshot,
    client_namespace: &str,
    frontend: &Frontend<'_>,
    source: &ResourceRef,
    backends: &mut Backends<'_>,
    policy: Option<&Traffic>,
) -> RouteTable {
    let Attached { http, grpc } = attach::routes(snapshot, frontend, client_namespace);
    if http.is_empty() && grpc.is_empty() {
        let target = backends.service(frontend);
        return implicit(source, target, policy);
    }
    // Only one kind applies to a port, GRPCRoute before HTTPRoute (GEP-1426); a kind without a single rule that can be
    // implemented leaves the port to the other. Decided before the conversion that fills the list of backends.
    let routes = if grpc_applies(snapshot, &grpc) || http.is_empty() {
        grpc.iter().map(|(key, r)| route::grpc(key, r, backends, policy).route).collect()
    } else {
        http.iter().map(|(key, r)| route::http(key, r, backends, policy).route).collect()
    };
    RouteTable::new(Precedence::Specificity, routes)
}

/// Whether at least one rule of these GRPCRoutes is implemented, so that they take the port.
pub(crate) fn grpc_applies(snapshot: &Snapshot, routes: &[(&ObjectKey, &heddle_crds::gateway::GrpcRoute)]) -> bool {
    let mut scratch = Backends::new(snapshot, None);
    routes.iter().any(|(key, r)| route::grpc(key, r, &mut scratch, None).implemented > 0)
}

/// The table of a destination without routes.
fn implicit(source: &ResourceRef, target: BackendTarget, policy: Option<&Traffic>) -> RouteTable {
    let rule = Rule {
        source: source.clone(),
        matches: Vec::new(),
        filters: Vec::new(),
        backends: vec![whole(target)],
        timeouts: traffic_policy::timeouts(Limits::default(), source, policy),
        retry: traffic_policy::retry(None, source, policy),
        session_persistence: None,
    };
    RouteTable::new(Precedence::Specificity, vec![Route { source: source.clone(), created: None, rules: vec![rule] }])
}

fn to_pod(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod, address: SocketAddr) -> OutboundPolicy {
    let protocol = inbound::protocol(snapshot, &key.namespace, pod, address.port());
    let mut backends = Backends::new(snapshot, None);
    let target = backends.pod(key, pod, address, protocol);
    let source = ResourceRef::new("Pod", &*key.namespace, &*key.name);
    let tcp = if protocol.is_http() { Vec::new() } else { vec![whole(target.clone())] };
    let http = match protocol {
        Protocol::Opaque | Protocol::Tls => RouteTable::default(),
        Protocol::Detect | Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => implicit(&source, target, None),
    };
    OutboundPolicy {
        service: None,
        protocol,
        backends: backends.into_list(),
        http,
        tcp_source: (!tcp.is_empty()).then_some(source),
        tcp_idle: None,
        tcp,
    }
}

/// A backend that takes everything.
fn whole(target: BackendTarget) -> RouteBackend {
    RouteBackend { weight: 1, target, filters: Vec::new() }
}

#[cfg(test)]
mod tests;
