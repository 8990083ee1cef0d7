//! GRPCRoute: which gRPC calls to a parent go where.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    HeaderFilter, LocalObjectReference, ParentReference, RequestMirrorFilter, SessionPersistence, ValueMatchType,
    reference::{BackendRef, one, service_kind},
    route::DefaultGateways,
};
use crate::{format, open_enum::open_enum};

/// Which gRPC calls to its parents go where.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GRPCRoute",
    root = "GrpcRoute",
    plural = "grpcroutes",
    namespaced,
    status = "super::RouteStatus",
    derive = "PartialEq",
    schema = "disabled",
    doc = "GRPCRoute of the Gateway API: which gRPC calls to its parents go where."
)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteSpec {
    /// What the route attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parent_refs: Vec<ParentReference>,
    /// Default Gateways to attach to (experimental); without effect in a mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<DefaultGateways>,
    /// Hosts, for Gateways; in a mesh nothing is inferred from them (GEP-1294).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "format::hostnames")]
    pub hostnames: Vec<String>,
    /// The rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<GrpcRouteRule>,
}

/// One rule: matches (any of them), filters, backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteRule {
    /// Name of the rule, unique in its route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub name: Option<String>,
    /// The rule applies when any of these matches. Empty: it always does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub matches: Vec<GrpcRouteMatch>,
    /// What is done to the call and its response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<GrpcRouteFilter>,
    /// Where the call goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<GrpcBackendRef>,
    /// Keeps sessions at one endpoint (experimental, GEP-1619).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// Conditions on one call; all of them have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteMatch {
    /// Condition on service and method; any when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcMethodMatch>,
    /// Conditions on headers. Of two entries for one name the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<GrpcHeaderMatch>,
}

/// A condition on service and method of a call; at least one of them is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrpcMethodMatch {
    /// How they are compared; `Exact` by default.
    #[serde(rename = "type", default)]
    pub match_type: ValueMatchType,
    /// Full name of the service; any when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub service: Option<String>,
    /// Name of the method; any when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub method: Option<String>,
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrpcHeaderMatch {
    /// How the value is compared; `Exact` by default.
    #[serde(rename = "type", default)]
    pub match_type: ValueMatchType,
    /// Name, compared without regard to case.
    #[schemars(schema_with = "format::header_name")]
    pub name: String,
    /// What the value is compared with.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// One filter: its type, and the field of that type's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcRouteFilter {
    /// Which of the other fields counts.
    #[serde(rename = "type")]
    pub filter_type: GrpcRouteFilterType,
    /// Changes the headers of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderFilter>,
    /// Changes the headers of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderFilter>,
    /// Sends a copy of the call elsewhere and ignores the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirrorFilter>,
    /// A filter that another kind describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<LocalObjectReference>,
}

open_enum! {
    /// The filters of GRPCRoute.
    pub enum GrpcRouteFilterType {
        /// `requestHeaderModifier`.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// `responseHeaderModifier`.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// `requestMirror`.
        RequestMirror = "RequestMirror",
        /// `extensionRef`.
        ExtensionRef = "ExtensionRef",
    }
}

/// A backend with its share, and filters of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcBackendRef {
    /// API group; the core group by default.
    #[serde(default)]
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind; `Service` by default.
    #[serde(default = "service_kind")]
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
    /// Namespace; unset is the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::label")]
    pub namespace: Option<String>,
    /// Port of the Service; required for a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Share of the calls: this weight over the sum of the rule's weights. 0 is no share; 1 by default.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// What is done to calls that go to this backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<GrpcRouteFilter>,
}

impl GrpcBackendRef {
    /// The reference with its weight, without its filters.
    #[must_use]
    pub fn backend(&self) -> BackendRef {
        let Self { group, kind, name, namespace, port, weight, filters: _ } = self;
        BackendRef {
            group: group.clone(),
            kind: kind.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
            port: *port,
            weight: *weight,
        }
    }
}
