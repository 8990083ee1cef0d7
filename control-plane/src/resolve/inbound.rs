//! How connections to a port of a workload are treated: its protocol, its Service, and whether plaintext is taken.

use heddle_crds::heddle::{self as crds, AuthenticationPolicy};
use heddle_model::{InboundPolicy, MtlsMode, Protocol, ResourceRef};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::attach::{self, Target};
use super::service::{self, Frontend, ServiceKind};
use super::traffic_policy;
use crate::snapshot::{ObjectKey, Pod, Snapshot};

/// The policy of a container's port; `None`: there is no such pod.
pub(crate) fn inbound(snapshot: &Snapshot, default: MtlsMode, key: &ObjectKey, port: u16) -> Option<InboundPolicy> {
    let pod = snapshot.pods.get(key)?;
    let frontends = frontends(snapshot, &key.namespace, pod, port);
    let policies: Vec<_> = frontends.iter().map(|f| traffic_policy::of_port(snapshot, f)).collect();
    let protocols = frontends.iter().zip(&policies).map(|(frontend, policy)| traffic_policy::protocol(frontend, policy.as_ref()));
    let (mtls, mtls_source) = mtls(snapshot, default, &key.namespace, pod, &frontends);
    Some(InboundPolicy {
        port,
        protocol: agreed(protocols),
        mtls,
        mtls_source,
        idle: policies.iter().flatten().next().and_then(traffic_policy::Traffic::idle),
        service: frontends.first().map(|f| ResourceRef::new("Service", &*f.key.namespace, &*f.key.name)),
    })
}

/// What is spoken on a port of a pod, as the Services in front of it declare.
pub(crate) fn protocol(snapshot: &Snapshot, namespace: &str, pod: &Pod, port: u16) -> Protocol {
    let frontends = frontends(snapshot, namespace, pod, port);
    agreed(frontends.iter().map(|f| traffic_policy::protocol(f, traffic_policy::of_port(snapshot, f).as_ref())))
}

/// The Service ports that lead to a port of a pod: those with a frontend first, then the oldest, then by name and port.
fn frontends<'a>(snapshot: &'a Snapshot, namespace: &str, pod: &Pod, port: u16) -> Vec<Frontend<'a>> {
    let mut found: Vec<Frontend<'a>> = selecting(snapshot, namespace, pod)
        .flat_map(|(key, service)| {
            let ports = service::ports(service).filter(|(number, p)| target_port(*number, p, pod) == Some(port));
            ports.map(move |(number, port)| Frontend { key, service, port, number })
        })
        .collect();
    found.sort_by_key(|f| (service::kind(f.service) != ServiceKind::Cluster, attach::age(f.key, &f.service.metadata), f.number));
    found
}

/// The Services whose selector picks a pod.
fn selecting<'a>(snapshot: &'a Snapshot, namespace: &str, pod: &Pod) -> impl Iterator<Item = (&'a ObjectKey, &'a core::Service)> {
    snapshot
        .services
        .in_namespace(namespace)
        .filter(|(_, s)| service::kind(s) != ServiceKind::External)
        .filter(|(_, s)| service::selects(s, pod))
}

/// The port of the pod's containers to which a Service's port leads.
fn target_port(number: u16, port: &core::ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None => Some(number),
        // Unset and 0 are the same to the API server.
        Some(IntOrString::Int(0)) => Some(number),
        Some(IntOrString::Int(target)) => service::port_number(*target),
        Some(IntOrString::String(name)) => pod.ports.iter().find(|p| p.name.as_deref() == Some(name)).map(|p| p.number),
    }
}

/// One protocol for what several Services declare of the same port: where they contradict each other, the bytes decide.
fn agreed(protocols: impl Iterator<Item = Protocol>) -> Protocol {
    protocols
        .filter(|p| *p != Protocol::Detect)
        .map(Some)
        .reduce(|a, b| match (a, b) {
            (Some(a), Some(b)) if a == b => Some(a),
            (Some(a), Some(b)) if a.is_http() && b.is_http() => Some(Protocol::Http),
            (_, _) => None,
        })
        .flatten()
        .unwrap_or(Protocol::Detect)
}

/// The mode of a port: the policies of a Service's port win over those of a Service, those over the namespace's, and that
/// over the default of the mesh.
fn mtls(snapshot: &Snapshot, default: MtlsMode, namespace: &str, pod: &Pod, frontends: &[Frontend<'_>]) -> (MtlsMode, Option<ResourceRef>) {
    let services: Vec<_> = selecting(snapshot, namespace, pod).map(|(key, _)| key).collect();
    let ports = frontends.iter().filter_map(|f| f.port.name.as_deref().map(|name| Target { service: f.key, section: Some(name) }));
    let by_port = |mode| strictest(ports.clone().filter_map(|target| of_service(snapshot, namespace, mode, target)));
    let whole = services.iter().map(|key| Target { service: key, section: None });
    let by_service = |mode| strictest(whole.clone().filter_map(|target| of_service(snapshot, namespace, mode, target)));
    let winner = |mode| by_port(mode).or_else(|| by_service(mode)).or_else(|| of_namespace(snapshot, namespace, mode));

    let source = |key: &ObjectKey| Some(ResourceRef::new("AuthenticationPolicy", &*key.namespace, &*key.name));
    let (enforced, enforced_by) = match winner(crds::Mode::Enforce) {
        Some((key, policy)) => (mode(policy), source(key)),
        None => (default, super::mesh_config(snapshot).map(|(key, _)| ResourceRef::new("MeshConfig", "", &*key.name))),
    };
    // A shadowed strict policy is what `Audit` is for: it refuses nothing and counts what it would refuse.
    match winner(crds::Mode::Shadow) {
        Some((key, policy)) if enforced == MtlsMode::Permissive && mode(policy) != MtlsMode::Permissive => (MtlsMode::Audit, source(key)),
        Some(_) | None => (enforced, enforced_by),
    }
}

/// The winner for one Service or port: the oldest.
fn of_service<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    mode: crds::Mode,
    target: Target<'_>,
) -> Option<(&'a ObjectKey, &'a AuthenticationPolicy)> {
    oldest(snapshot, namespace, mode, |policy| policy.spec.target_refs.iter().any(|r| target.is(r)))
}

/// The winner for a namespace: the oldest.
fn of_namespace<'a>(snapshot: &'a Snapshot, namespace: &str, mode: crds::Mode) -> Option<(&'a ObjectKey, &'a AuthenticationPolicy)> {
    oldest(snapshot, namespace, mode, |policy| policy.spec.target_refs.iter().any(|r| is_namespace(r, namespace)))
}

/// Whether a reference of a policy in `namespace` means that namespace.
pub(crate) fn is_namespace(reference: &heddle_crds::gateway::PolicyTargetRef, namespace: &str) -> bool {
    matches!(reference.group.as_str(), "" | "core") && reference.kind == "Namespace" && reference.name == namespace
}

fn oldest<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    mode: crds::Mode,
    targets: impl Fn(&AuthenticationPolicy) -> bool,
) -> Option<(&'a ObjectKey, &'a AuthenticationPolicy)> {
    snapshot
        .authentication_policies
        .in_namespace(namespace)
        .filter(|(_, policy)| policy.spec.mode == mode && targets(policy))
        .min_by_key(|(key, policy)| attach::age(key, &policy.metadata))
}

/// Of the winners of several Services in front of one workload, the strictest: one more Service must not open a port.
fn strictest<'a>(
    policies: impl Iterator<Item = (&'a ObjectKey, &'a AuthenticationPolicy)>,
) -> Option<(&'a ObjectKey, &'a AuthenticationPolicy)> {
    let rank = |policy: &AuthenticationPolicy| match mode(policy) {
        MtlsMode::Strict => 0,
        MtlsMode::Audit => 1,
        MtlsMode::Permissive => 2,
    };
    policies.min_by_key(|(key, policy)| (rank(policy), attach::age(key, &policy.metadata)))
}

fn mode(policy: &AuthenticationPolicy) -> MtlsMode {
    mtls_mode(policy.spec.mtls.mode)
}

/// The model's word for a mode.
pub(crate) fn mtls_mode(mode: crds::MtlsMode) -> MtlsMode {
    match mode {
        crds::MtlsMode::Permissive => MtlsMode::Permissive,
        crds::MtlsMode::Audit => MtlsMode::Audit,
        crds::MtlsMode::Strict => MtlsMode::Strict,
    }
}
