//! Every kind that Heddle reads, as one type, and the name of an object.

use std::fmt;

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Serialize;

use crate::{
    gateway::{self, GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute},
    heddle::{self, AuthenticationPolicy, LocalWorkload, MeshConfig, TrafficPolicy},
    mistake::Mistake,
    service,
};

/// An object of one of the kinds that Heddle reads. Boxed, because their sizes differ by kilobytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Box<Namespace>),
    /// `v1` Service.
    Service(Box<Service>),
    /// `v1` ServiceAccount.
    ServiceAccount(Box<ServiceAccount>),
    /// `v1` Pod.
    Pod(Box<Pod>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// `gateway.networking.k8s.io/v1` HTTPRoute.
    HttpRoute(Box<HttpRoute>),
    /// `gateway.networking.k8s.io/v1` GRPCRoute.
    GrpcRoute(Box<GrpcRoute>),
    /// `gateway.networking.k8s.io/v1` TCPRoute.
    TcpRoute(Box<TcpRoute>),
    /// `gateway.networking.k8s.io/v1` TLSRoute.
    TlsRoute(Box<TlsRoute>),
    /// `gateway.networking.k8s.io/v1` ReferenceGrant.
    ReferenceGrant(Box<ReferenceGrant>),
    /// `heddle.dev/v1alpha1` TrafficPolicy.
    TrafficPolicy(Box<TrafficPolicy>),
    /// `heddle.dev/v1alpha1` AuthenticationPolicy.
    AuthenticationPolicy(Box<AuthenticationPolicy>),
    /// `heddle.dev/v1alpha1` MeshConfig.
    MeshConfig(Box<MeshConfig>),
    /// `heddle.dev/v1alpha1` LocalWorkload.
    LocalWorkload(Box<LocalWorkload>),
}

impl Object {
    /// The kind, as manifests write it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Service(_) => "Service",
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::Pod(_) => "Pod",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::GrpcRoute(_) => "GRPCRoute",
            Self::TcpRoute(_) => "TCPRoute",
            Self::TlsRoute(_) => "TLSRoute",
            Self::ReferenceGrant(_) => "ReferenceGrant",
            Self::TrafficPolicy(_) => "TrafficPolicy",
            Self::AuthenticationPolicy(_) => "AuthenticationPolicy",
            Self::MeshConfig(_) => "MeshConfig",
            Self::LocalWorkload(_) => "LocalWorkload",
        }
    }

    /// The metadata.
    #[must_use]
    pub const fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::TcpRoute(object) => &object.metadata,
            Self::TlsRoute(object) => &object.metadata,
            Self::ReferenceGrant(object) => &object.metadata,
            Self::TrafficPolicy(object) => &object.metadata,
            Self::AuthenticationPolicy(object) => &object.metadata,
            Self::MeshConfig(object) => &object.metadata,
            Self::LocalWorkload(object) => &object.metadata,
        }
    }

    /// The metadata, to be changed.
    pub const fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Namespace(object) => &mut object.metadata,
            Self::Service(object) => &mut object.metadata,
            Self::ServiceAccount(object) => &mut object.metadata,
            Self::Pod(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
            Self::HttpRoute(object) => &mut object.metadata,
            Self::GrpcRoute(object) => &mut object.metadata,
            Self::TcpRoute(object) => &mut object.metadata,
            Self::TlsRoute(object) => &mut object.metadata,
            Self::ReferenceGrant(object) => &mut object.metadata,
            Self::TrafficPolicy(object) => &mut object.metadata,
            Self::AuthenticationPolicy(object) => &mut object.metadata,
            Self::MeshConfig(object) => &mut object.metadata,
            Self::LocalWorkload(object) => &mut object.metadata,
        }
    }

    /// The name of the object, unique in a cluster.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        let meta = self.meta();
        ObjectId { kind: self.kind().to_owned(), namespace: meta.namespace.clone(), name: meta.name.clone().unwrap_or_default() }
    }

    /// What breaks the rules between fields that an API server would check (CEL), or that the schema cannot say.
    ///
    /// Objects from [`crate::manifest`] have passed; those of a cluster have, as far as its definitions know the rules.
    #[must_use]
    pub fn mistakes(&self) -> Vec<Mistake> {
        match self {
            Self::HttpRoute(route) => gateway::http_route(&route.spec),
            Self::GrpcRoute(route) => gateway::grpc_route(&route.spec),
            Self::TcpRoute(route) => {
                gateway::stream_route(&route.spec.parent_refs, route.spec.rules.iter().map(|rule| rule.backend_refs.as_slice()))
            }
            Self::TlsRoute(route) => {
                gateway::stream_route(&route.spec.parent_refs, route.spec.rules.iter().map(|rule| rule.backend_refs.as_slice()))
            }
            Self::TrafficPolicy(policy) => heddle::traffic_policy(&policy.spec),
            Self::AuthenticationPolicy(policy) => heddle::authentication_policy(&policy.spec),
            Self::MeshConfig(config) => heddle::mesh_config(config.metadata.name.as_deref().unwrap_or_default(), &config.spec),
            Self::LocalWorkload(workload) => heddle::local_workload(&workload.spec),
            Self::Service(object) => service::service(object),
            Self::EndpointSlice(slice) => service::endpoint_slice(slice),
            Self::Namespace(_) | Self::ServiceAccount(_) | Self::Pod(_) | Self::ReferenceGrant(_) => Vec::new(),
        }
    }

    /// Forgets the status of the kinds whose status a control plane writes: in a file it is an old copy.
    pub(crate) fn clear_status(&mut self) {
        match self {
            Self::HttpRoute(object) => object.status = None,
            Self::GrpcRoute(object) => object.status = None,
            Self::TcpRoute(object) => object.status = None,
            Self::TlsRoute(object) => object.status = None,
            Self::TrafficPolicy(object) => object.status = None,
            Self::AuthenticationPolicy(object) => object.status = None,
            Self::MeshConfig(object) => object.status = None,
            // Not ours to write, or without one.
            Self::Namespace(_)
            | Self::Service(_)
            | Self::ServiceAccount(_)
            | Self::Pod(_)
            | Self::EndpointSlice(_)
            | Self::ReferenceGrant(_)
            | Self::LocalWorkload(_) => {}
        }
    }
}

impl Serialize for Object {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Namespace(object) => object.serialize(serializer),
            Self::Service(object) => object.serialize(serializer),
            Self::ServiceAccount(object) => object.serialize(serializer),
            Self::Pod(object) => object.serialize(serializer),
            Self::EndpointSlice(object) => object.serialize(serializer),
            Self::HttpRoute(object) => object.serialize(serializer),
            Self::GrpcRoute(object) => object.serialize(serializer),
            Self::TcpRoute(object) => object.serialize(serializer),
            Self::TlsRoute(object) => object.serialize(serializer),
            Self::ReferenceGrant(object) => object.serialize(serializer),
            Self::TrafficPolicy(object) => object.serialize(serializer),
            Self::AuthenticationPolicy(object) => object.serialize(serializer),
            Self::MeshConfig(object) => object.serialize(serializer),
            Self::LocalWorkload(object) => object.serialize(serializer),
        }
    }
}

/// The name of an object: `HTTPRoute/default/reviews`, or `MeshConfig/default` without a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The kind.
    pub kind: String,
    /// The namespace; none for kinds of the whole cluster.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name } = self;
        match namespace {
            Some(namespace) => write!(f, "{kind}/{namespace}/{name}"),
            None => write!(f, "{kind}/{name}"),
        }
    }
}
