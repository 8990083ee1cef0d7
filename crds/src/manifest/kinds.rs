//! The table of kinds that are read from files: how each is called, checked and decoded. A new kind is one entry.

use std::sync::LazyLock;

use super::{
    decode::{self, Finding},
    limits::Limits,
    suggest,
    tree::Node,
};
use crate::{
    gateway::{self, GrpcRouteSpec, HttpRouteSpec, ReferenceGrantSpec, TcpRouteSpec, TlsRouteSpec},
    heddle::{self, AuthenticationPolicySpec, LocalWorkloadSpec, MeshConfigSpec, TrafficPolicySpec},
    object::Object,
};

/// One kind.
pub(super) struct KindInfo {
    pub(super) kind: &'static str,
    pub(super) group: &'static str,
    /// Versions that are read; the first is the one to write.
    pub(super) versions: &'static [&'static str],
    pub(super) namespaced: bool,
    /// Whether names are DNS labels rather than DNS subdomains.
    pub(super) label_names: bool,
    pub(super) decode: fn(&Node, &mut Vec<Finding>) -> Option<Object>,
    /// Limits of the spec; none for Kubernetes' own kinds, whose limits its API server knows.
    pub(super) limits: Option<&'static LazyLock<Limits>>,
}

impl KindInfo {
    /// The `apiVersion` to write.
    pub(super) fn api_version(&self) -> String {
        api_version(self.group, self.versions.first().copied().unwrap_or_default())
    }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// What is to be done with an object.
pub(super) enum Verdict {
    /// It is read.
    Read(&'static KindInfo),
    /// It is an ordinary Kubernetes object that a mesh has no use for.
    Ignore,
    /// It is skipped, which is worth a note.
    Note(String),
    /// It cannot be meant like this.
    Refuse(String),
}

/// Kinds of the Gateway API that are about gateways at the edge.
const EDGE_KINDS: &[&str] = &["BackendTLSPolicy", "Gateway", "GatewayClass", "ListenerSet", "UDPRoute"];
/// Most letters by which a mistyped group may differ from the right one.
const NEAR_GROUP: usize = 3;

/// Finds the kind of an object.
pub(super) fn find(api_version: &str, kind: &str) -> Verdict {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(info) = KINDS.iter().find(|info| info.kind == kind && info.group == group) {
        return if info.versions.contains(&version) {
            Verdict::Read(info)
        } else {
            Verdict::Refuse(format!("{kind} is read in version {:?}, not {api_version:?}", info.api_version()))
        };
    }
    let built_in = group != gateway::GROUP && (!group.contains('.') || group.ends_with(".k8s.io"));
    if let Some(info) = KINDS.iter().find(|info| info.kind == kind) {
        let ours = matches!(info.group, gateway::GROUP | heddle::GROUP);
        let near = group.len().abs_diff(info.group.len()) <= NEAR_GROUP && suggest::nearest(group, [info.group]).is_some();
        if near || group == gateway::GROUP || group == heddle::GROUP || (built_in && (ours || !group.is_empty())) {
            return Verdict::Refuse(format!("{kind} is read in version {:?}, not {api_version:?}", info.api_version()));
        }
    }
    if group == gateway::GROUP || group == heddle::GROUP {
        if EDGE_KINDS.contains(&kind) && group == gateway::GROUP {
            return Verdict::Note("a mesh has no use for this kind; it is skipped".to_owned());
        }
        let known = KINDS.iter().filter(|info| info.group == group).map(|info| info.kind);
        let hint = suggest::hint(kind, known);
        return Verdict::Refuse(format!("unknown kind {kind:?} of group {group:?}{hint}"));
    }
    if built_in {
        let known = KINDS.iter().filter(|info| info.group == group).map(|info| info.kind);
        // A mistyped Service must not vanish silently; a ReplicationController may.
        return match suggest::nearest(kind, known) {
            Some(meant) if group.is_empty() && !CORE_KINDS.contains(&kind) => {
                Verdict::Refuse(format!("unknown kind {kind:?}, did you mean {meant:?}?"))
            }
            Some(_) | None => Verdict::Ignore,
        };
    }
    Verdict::Note(format!("kind {kind} of {api_version:?} is not one that Heddle reads; it is skipped"))
}

/// Whether objects of a kind that is read have a namespace; nothing for other kinds.
pub(super) fn is_namespaced(kind: &str) -> Option<bool> {
    KINDS.iter().find(|info| info.kind == kind).map(|info| info.namespaced)
}

/// Other kinds of the core group, which are never mistyped ones of ours.
const CORE_KINDS: &[&str] = &[
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
];

static HTTP_ROUTE: LazyLock<Limits> = LazyLock::new(Limits::of::<HttpRouteSpec>);
static GRPC_ROUTE: LazyLock<Limits> = LazyLock::new(Limits::of::<GrpcRouteSpec>);
static TCP_ROUTE: LazyLock<Limits> = LazyLock::new(Limits::of::<TcpRouteSpec>);
static TLS_ROUTE: LazyLock<Limits> = LazyLock::new(Limits::of::<TlsRouteSpec>);
static REFERENCE_GRANT: LazyLock<Limits> = LazyLock::new(Limits::of::<ReferenceGrantSpec>);
static TRAFFIC_POLICY: LazyLock<Limits> = LazyLock::new(Limits::of::<TrafficPolicySpec>);
static AUTHENTICATION_POLICY: LazyLock<Limits> = LazyLock::new(Limits::of::<AuthenticationPolicySpec>);
static MESH_CONFIG: LazyLock<Limits> = LazyLock::new(Limits::of::<MeshConfigSpec>);
static LOCAL_WORKLOAD: LazyLock<Limits> = LazyLock::new(Limits::of::<LocalWorkloadSpec>);

/// An entry of the table for a kind of Kubernetes' own.
const fn built_in(kind: &'static str, group: &'static str, decode: fn(&Node, &mut Vec<Finding>) -> Option<Object>) -> KindInfo {
    KindInfo { kind, group, versions: &["v1"], namespaced: true, label_names: false, decode, limits: None }
}

/// An entry of the table for a kind of the Gateway API.
const fn gateway_kind(
    kind: &'static str,
    versions: &'static [&'static str],
    limits: &'static LazyLock<Limits>,
    decode: fn(&Node, &mut Vec<Finding>) -> Option<Object>,
) -> KindInfo {
    let group = gateway::GROUP;
    KindInfo { kind, group, versions, namespaced: true, label_names: false, decode, limits: Some(limits) }
}

/// An entry of the table for a kind of Heddle's own.
const fn heddle_kind(
    kind: &'static str,
    limits: &'static LazyLock<Limits>,
    decode: fn(&Node, &mut Vec<Finding>) -> Option<Object>,
) -> KindInfo {
    let (group, versions) = (heddle::GROUP, &[heddle::VERSION] as &[&str]);
    KindInfo { kind, group, versions, namespaced: true, label_names: false, decode, limits: Some(limits) }
}

/// Reads `node` as a `T` and wraps it.
macro_rules! read_as {
    ($variant:ident) => {
        |node, findings| decode::decode(node, findings).map(|object| Object::$variant(Box::new(object)))
    };
}

/// Every kind that is read.
static KINDS: &[KindInfo] = &[
    KindInfo { namespaced: false, label_names: true, ..built_in("Namespace", "", read_as!(Namespace)) },
    KindInfo { label_names: true, ..built_in("Service", "", read_as!(Service)) },
    built_in("ServiceAccount", "", read_as!(ServiceAccount)),
    built_in("Pod", "", read_as!(Pod)),
    built_in("EndpointSlice", "discovery.k8s.io", read_as!(EndpointSlice)),
    // The versions that the CRDs of v1.6 serve, and the alpha ones that were the same up to v1.5.
    gateway_kind("HTTPRoute", &["v1", "v1beta1"], &HTTP_ROUTE, read_as!(HttpRoute)),
    gateway_kind("GRPCRoute", &["v1"], &GRPC_ROUTE, read_as!(GrpcRoute)),
    gateway_kind("TCPRoute", &["v1", "v1alpha2"], &TCP_ROUTE, read_as!(TcpRoute)),
    gateway_kind("TLSRoute", &["v1", "v1alpha3", "v1alpha2"], &TLS_ROUTE, read_as!(TlsRoute)),
    gateway_kind("ReferenceGrant", &["v1", "v1beta1"], &REFERENCE_GRANT, read_as!(ReferenceGrant)),
    heddle_kind("TrafficPolicy", &TRAFFIC_POLICY, read_as!(TrafficPolicy)),
    heddle_kind("AuthenticationPolicy", &AUTHENTICATION_POLICY, read_as!(AuthenticationPolicy)),
    KindInfo { namespaced: false, ..heddle_kind("MeshConfig", &MESH_CONFIG, read_as!(MeshConfig)) },
    KindInfo { label_names: true, ..heddle_kind("LocalWorkload", &LOCAL_WORKLOAD, read_as!(LocalWorkload)) },
];
