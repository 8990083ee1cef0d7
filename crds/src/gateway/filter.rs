//! What is done to a request and its response on the way: the filters of HTTPRoute.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BackendObjectReference, HttpMethod, LocalObjectReference};
use crate::{format, open_enum::open_enum};

/// One filter: its type, and the field of that type's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteFilter {
    /// Which of the other fields counts.
    #[serde(rename = "type")]
    pub filter_type: HttpRouteFilterType,
    /// Changes the headers of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderFilter>,
    /// Changes the headers of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderFilter>,
    /// Sends a copy of the request elsewhere and ignores the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirrorFilter>,
    /// Answers with a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirectFilter>,
    /// Changes host and path before the request is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewriteFilter>,
    /// Answers preflight requests and adds the headers of cross-origin sharing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsFilter>,
    /// Asks an authorization service (experimental, GEP-1494).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_auth: Option<ExternalAuthFilter>,
    /// A filter that another kind describes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_ref: Option<LocalObjectReference>,
}

open_enum! {
    /// The filters of HTTPRoute.
    pub enum HttpRouteFilterType {
        /// `requestHeaderModifier`.
        RequestHeaderModifier = "RequestHeaderModifier",
        /// `responseHeaderModifier`.
        ResponseHeaderModifier = "ResponseHeaderModifier",
        /// `requestMirror`.
        RequestMirror = "RequestMirror",
        /// `requestRedirect`.
        RequestRedirect = "RequestRedirect",
        /// `urlRewrite`.
        UrlRewrite = "URLRewrite",
        /// `cors`.
        Cors = "CORS",
        /// `externalAuth` (experimental).
        ExternalAuth = "ExternalAuth",
        /// `extensionRef`.
        ExtensionRef = "ExtensionRef",
    }
}

/// A header and its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpHeader {
    /// Name, compared without regard to case.
    #[schemars(schema_with = "format::header_name")]
    pub name: String,
    /// Value.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

/// Changes of headers: first `set`, then `add`, then `remove`; a name should be in one of them only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderFilter {
    /// Replaces every value of these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub set: Vec<HttpHeader>,
    /// Adds a value to these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub add: Vec<HttpHeader>,
    /// Removes these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub remove: Vec<String>,
}

/// Where a copy of the request is sent, and how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestMirrorFilter {
    /// Where the copy goes.
    pub backend_ref: BackendObjectReference,
    /// Share of requests copied, in percent; all of them when neither this nor `fraction` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Share of requests copied, as a fraction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<Fraction>,
}

/// A fraction of at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fraction {
    /// Not more than the denominator.
    #[schemars(range(max = 2_147_483_647))]
    pub numerator: u32,
    /// 100 by default.
    #[serde(default = "hundred")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub denominator: u32,
}

/// Answers with a redirect to the request's URL, changed as the fields say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestRedirectFilter {
    /// Scheme of the `Location`; unset keeps the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// Host of the `Location`; unset keeps the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::hostname")]
    pub hostname: Option<String>,
    /// Path of the `Location`; unset keeps the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// Port of the `Location`; unset is the port of `scheme` when that is set, else the listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308; 302 by default.
    #[serde(default = "found")]
    pub status_code: u16,
}

impl RequestRedirectFilter {
    /// The status codes of the Gateway API; any other one is an unsupported value.
    pub const STATUS_CODES: &'static [u16] = &[301, 302, 303, 307, 308];
}

open_enum! {
    /// Schemes of a redirect.
    pub enum RedirectScheme {
        /// `http`.
        Http = "http",
        /// `https`.
        Https = "https",
    }
}

/// Changes host and path of a request before it is forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UrlRewriteFilter {
    /// The new `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::hostname")]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// How a path is changed: its type, and the field of that type's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathModifier {
    /// Which of the other fields counts.
    #[serde(rename = "type")]
    pub modifier_type: PathModifierType,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replace_full_path: Option<String>,
    /// What takes the place of the matched prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub replace_prefix_match: Option<String>,
}

open_enum! {
    /// Ways to change a path.
    pub enum PathModifierType {
        /// `replaceFullPath`.
        ReplaceFullPath = "ReplaceFullPath",
        /// `replacePrefixMatch`.
        ReplacePrefixMatch = "ReplacePrefixMatch",
    }
}

/// Cross-origin resource sharing (the Fetch standard's CORS protocol).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CorsFilter {
    /// Origins that may read responses; `*` alone for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "format::cors_origins")]
    pub allow_origins: Vec<String>,
    /// Whether credentials may be sent; no by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_credentials: Option<bool>,
    /// Methods that may be used; `*` alone for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub allow_methods: Vec<HttpMethod>,
    /// Request headers that may be used; `*` alone for all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "format::header_names")]
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "format::header_names")]
    pub expose_headers: Vec<String>,
    /// How long a preflight answer may be kept, in seconds; 5 by default.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub max_age: u32,
}

/// Asks an authorization service before forwarding; every failure to get an answer refuses the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalAuthFilter {
    /// How the service is asked.
    pub protocol: ExternalAuthProtocol,
    /// The authorization service.
    pub backend_ref: BackendObjectReference,
    /// About asking by gRPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcAuthConfig>,
    /// About asking by HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpAuthConfig>,
    /// Whether, and how much of, the body is sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_body: Option<ForwardBodyConfig>,
}

open_enum! {
    /// How an authorization service is asked.
    pub enum ExternalAuthProtocol {
        /// Envoy's `ext_authz` by gRPC.
        Grpc = "GRPC",
        /// A request with the original one's head.
        Http = "HTTP",
    }
}

/// About asking an authorization service by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrpcAuthConfig {
    /// Request headers that are sent along; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_headers: Vec<String>,
}

/// About asking an authorization service by HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpAuthConfig {
    /// Prefix that is put before the request's path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub path: Option<String>,
    /// Request headers that are sent along, besides those that always are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that are copied to the request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub allowed_response_headers: Vec<String>,
}

/// How much of a request's body is sent to an authorization service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForwardBodyConfig {
    /// Bytes at most; 0 or unset sends none.
    #[serde(default)]
    pub max_size: u16,
}

const fn hundred() -> u32 {
    100
}

const fn found() -> u16 {
    302
}

const fn five() -> u32 {
    5
}
