//! By what each kind is looked up, besides its name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use heddle_crds::gateway::{GrpcRoute, HttpRoute, ParentReference, ReferenceGrant, TcpRoute, TlsRoute};
use heddle_crds::heddle::{AuthenticationPolicy, MeshConfig, TrafficPolicy};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

use super::store::Stored;
use super::{ObjectKey, Pod};
use crate::resolve::service::{frontend_ips, node_ports};

/// The label by which an EndpointSlice names its Service (discovery/v1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What leads to a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServiceIndex {
    /// A cluster IP, an external IP, or the address of its load balancer.
    Address(IpAddr),
    /// A port of every node.
    NodePort(u16),
}

impl Stored for Service {
    type Index = ServiceIndex;

    fn index(_: &ObjectKey, service: &Self) -> BTreeSet<ServiceIndex> {
        let ports = node_ports(service).map(|(port, _)| ServiceIndex::NodePort(port));
        frontend_ips(service).map(ServiceIndex::Address).chain(ports).collect()
    }
}

/// By the Service that its label names.
impl Stored for EndpointSlice {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, slice: &Self) -> BTreeSet<ObjectKey> {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        service.map(|name| ObjectKey::new(&key.namespace, name)).into_iter().collect()
    }
}

/// What leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodIndex {
    /// An address of its own.
    Address(IpAddr),
    /// An address of the node on which it runs.
    Node(IpAddr),
}

/// A pod that has ended holds no address: the next pod may have it already.
impl Stored for Pod {
    type Index = PodIndex;

    fn index(_: &ObjectKey, pod: &Self) -> BTreeSet<PodIndex> {
        if pod.ended {
            return BTreeSet::new();
        }
        pod.ips.iter().copied().map(PodIndex::Address).chain(pod.host_ips.iter().copied().map(PodIndex::Node)).collect()
    }
}

/// Declares routes, which are looked up by the Services that are their parents.
macro_rules! by_parent {
    ($($route:ty),+) => {
        $(/// By the Services that are its parents.
        impl Stored for $route {
            type Index = ObjectKey;

            fn index(key: &ObjectKey, route: &Self) -> BTreeSet<ObjectKey> {
                parents(key, &route.spec.parent_refs)
            }
        })+
    };
}

by_parent!(HttpRoute, GrpcRoute, TcpRoute, TlsRoute);

fn parents(route: &ObjectKey, references: &[ParentReference]) -> BTreeSet<ObjectKey> {
    let services = references.iter().filter(|parent| parent.is_service());
    services.map(|parent| ObjectKey::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &parent.name)).collect()
}

/// By the Services that are its targets.
impl Stored for TrafficPolicy {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, policy: &Self) -> BTreeSet<ObjectKey> {
        let services = policy.spec.target_refs.iter().filter(|target| target.is_service());
        services.map(|target| ObjectKey::new(&key.namespace, &target.name)).collect()
    }
}

/// Declares kinds that are looked up by name or namespace only.
macro_rules! not_indexed {
    ($($kind:ty: $why:literal,)+) => {
        $(#[doc = $why]
        impl Stored for $kind {
            type Index = ();

            fn index(_: &ObjectKey, _: &Self) -> BTreeSet<()> {
                BTreeSet::new()
            }
        })+
    };
}

not_indexed! {
    Namespace: "By name.",
    ReferenceGrant: "By the namespace that it opens.",
    AuthenticationPolicy: "There are few, and they are looked up by namespace.",
    MeshConfig: "There is one.",
}
