//! TCPRoute and TLSRoute: which connections to a parent go where, without looking inside.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::{BackendRef, ParentReference, route::DefaultGateways};
use crate::format;

/// Which TCP connections to its parents go where.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "TCPRoute",
    root = "TcpRoute",
    plural = "tcproutes",
    namespaced,
    status = "super::RouteStatus",
    derive = "PartialEq",
    schema = "disabled",
    doc = "TCPRoute of the Gateway API: which TCP connections to its parents go where."
)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteSpec {
    /// What the route attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parent_refs: Vec<ParentReference>,
    /// Default Gateways to attach to (experimental); without effect in a mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<DefaultGateways>,
    /// The rules: exactly one in v1.6.
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<TcpRouteRule>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpRouteRule {
    /// Name of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub name: Option<String>,
    /// Where the connection goes.
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
}

/// Which TLS connections to its parents go where, by the name in their first message (SNI).
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "TLSRoute",
    root = "TlsRoute",
    plural = "tlsroutes",
    namespaced,
    status = "super::RouteStatus",
    derive = "PartialEq",
    schema = "disabled",
    doc = "TLSRoute of the Gateway API: which TLS connections to its parents go where, by server name."
)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteSpec {
    /// What the route attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub parent_refs: Vec<ParentReference>,
    /// Default Gateways to attach to (experimental); without effect in a mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_default_gateways: Option<DefaultGateways>,
    /// Server names that the route is for.
    #[schemars(schema_with = "server_names")]
    pub hostnames: Vec<String>,
    /// The rules: exactly one in v1.6.
    #[schemars(length(min = 1, max = 1))]
    pub rules: Vec<TlsRouteRule>,
}

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsRouteRule {
    /// Name of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub name: Option<String>,
    /// Where the connection goes.
    #[schemars(length(min = 1, max = 16))]
    pub backend_refs: Vec<BackendRef>,
}

/// Host names as elsewhere, but at least one and up to 1024 (v1.6).
fn server_names(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = format::hostnames(generator);
    schema.insert("minItems".to_owned(), 1.into());
    schema.insert("maxItems".to_owned(), 1024.into());
    schema
}
