//! HTTPRoute: which HTTP requests to a parent go where.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    HttpRouteFilter, ParentReference, SessionPersistence, ValueMatchType,
    reference::{BackendRef, one, service_kind},
    route::DefaultGateways,
};
use crate::{duration::GatewayDuration, format, open_enum::open_enum};

/// Which HTTP requests to its parents go where.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    root = "HttpRoute",
    plural = "httproutes",
    namespaced,
    status = "super::RouteStatus",
    derive = "PartialEq",
    schema = "disabled",
    doc = "HTTPRoute of the Gateway API: which HTTP requests to its parents go where."
)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteSpec {
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
    /// The rules. Absent, as on an API server: one rule that matches everything.
    #[serde(default = "match_all_rules")]
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<HttpRouteRule>,
}

/// One rule: matches (any of them), filters, backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Name of the rule, unique in its route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub name: Option<String>,
    /// The rule applies when any of these matches. Absent or empty: it always does.
    #[serde(default = "match_all")]
    #[schemars(length(max = 64))]
    pub matches: Vec<HttpRouteMatch>,
    /// What is done to the request and its response.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<HttpRouteFilter>,
    /// Where the request goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<HttpBackendRef>,
    /// Time limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpRouteTimeouts>,
    /// What is tried again (experimental, GEP-1731).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<HttpRouteRetry>,
    /// Keeps sessions at one endpoint (experimental, GEP-1619).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

impl Default for HttpRouteRule {
    fn default() -> Self {
        Self {
            name: None,
            matches: match_all(),
            filters: Vec::new(),
            backend_refs: Vec::new(),
            timeouts: None,
            retry: None,
            session_persistence: None,
        }
    }
}

/// Conditions on one request; all of them have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// Condition on the path; every path by default.
    #[serde(default)]
    pub path: HttpPathMatch,
    /// Conditions on headers. Of two entries for one name the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<HttpHeaderMatch>,
    /// Conditions on query parameters. Of two entries for one name the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<HttpQueryParamMatch>,
    /// Condition on the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
}

/// A condition on the path, without the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpPathMatch {
    /// How the path is compared; `PathPrefix` by default.
    #[serde(rename = "type", default = "path_prefix")]
    pub match_type: PathMatchType,
    /// What it is compared with; `/` by default.
    #[serde(default = "slash")]
    #[schemars(length(max = 1024))]
    pub value: String,
}

impl Default for HttpPathMatch {
    fn default() -> Self {
        Self { match_type: path_prefix(), value: slash() }
    }
}

open_enum! {
    /// How a path is compared.
    pub enum PathMatchType {
        /// The whole path.
        Exact = "Exact",
        /// Leading path elements: `/abc` matches `/abc`, `/abc/` and `/abc/def`, not `/abcd`.
        PathPrefix = "PathPrefix",
        /// A regular expression that has to match the whole path.
        RegularExpression = "RegularExpression",
    }
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpHeaderMatch {
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

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpQueryParamMatch {
    /// How the value is compared; `Exact` by default.
    #[serde(rename = "type", default)]
    pub match_type: ValueMatchType,
    /// Name, compared with regard to case.
    #[schemars(schema_with = "format::header_name")]
    pub name: String,
    /// What the value is compared with.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

open_enum! {
    /// Methods of HTTP (RFC 9110 §9, RFC 5789); `Any` only in a CORS filter.
    pub enum HttpMethod {
        /// `GET`.
        Get = "GET",
        /// `HEAD`.
        Head = "HEAD",
        /// `POST`.
        Post = "POST",
        /// `PUT`.
        Put = "PUT",
        /// `DELETE`.
        Delete = "DELETE",
        /// `CONNECT`.
        Connect = "CONNECT",
        /// `OPTIONS`.
        Options = "OPTIONS",
        /// `TRACE`.
        Trace = "TRACE",
        /// `PATCH`.
        Patch = "PATCH",
        /// `*`: every method; valid in `cors.allowMethods` only.
        Any = "*",
    }
}

/// A backend with its share, and filters of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpBackendRef {
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
    /// Share of the requests: this weight over the sum of the rule's weights. 0 is no share; 1 by default.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
    /// What is done to requests that go to this backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<HttpRouteFilter>,
}

impl HttpBackendRef {
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

/// Time limits of a rule; `0s` disables one (GEP-1742).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteTimeouts {
    /// From the request's first byte to the response's last, all tries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// One try at one backend; not longer than `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<GatewayDuration>,
}

/// What is tried again, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpRouteRetry {
    /// Status codes of responses that are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// Tries after the first one, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub attempts: Option<u32>,
    /// Least wait before a try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<GatewayDuration>,
}

fn match_all_rules() -> Vec<HttpRouteRule> {
    vec![HttpRouteRule::default()]
}

fn match_all() -> Vec<HttpRouteMatch> {
    vec![HttpRouteMatch::default()]
}

const fn path_prefix() -> PathMatchType {
    PathMatchType::PathPrefix
}

fn slash() -> String {
    "/".to_owned()
}
