//! The Gateway API kinds that a mesh reads, v1.6 with the fields of its experimental channel.
//!
//! Types of our own rather than generated ones: an unknown enumeration value is kept ([`PathMatchType::Unknown`] and its
//! like) and becomes a status condition, the defaults of the API server are applied while reading (so that a file means
//! what the same object means in a cluster), and every limit is an attribute beside its field.
//! Source: `apis/v1` of sigs.k8s.io/gateway-api v1.6.1.

mod filter;
mod grpc_route;
mod http_route;
mod policy;
mod reference;
mod reference_grant;
mod route;
mod rules;
mod session;
mod stream_route;

pub use filter::{
    CorsFilter, ExternalAuthFilter, ExternalAuthProtocol, ForwardBodyConfig, Fraction, GrpcAuthConfig, HeaderFilter, HttpAuthConfig,
    HttpHeader, HttpRouteFilter, HttpRouteFilterType, PathModifier, PathModifierType, RedirectScheme, RequestMirrorFilter,
    RequestRedirectFilter, UrlRewriteFilter,
};
pub use grpc_route::{
    GrpcBackendRef, GrpcHeaderMatch, GrpcMethodMatch, GrpcRoute, GrpcRouteFilter, GrpcRouteFilterType, GrpcRouteMatch, GrpcRouteRule,
    GrpcRouteSpec,
};
pub use http_route::{
    HttpBackendRef, HttpHeaderMatch, HttpMethod, HttpPathMatch, HttpQueryParamMatch, HttpRoute, HttpRouteMatch, HttpRouteRetry,
    HttpRouteRule, HttpRouteSpec, HttpRouteTimeouts, PathMatchType,
};
pub use policy::{PolicyAncestorStatus, PolicyStatus, PolicyTargetRef};
pub use reference::{BackendObjectReference, BackendRef, LocalObjectReference, ParentReference};
pub use reference_grant::{ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};
pub use route::{DefaultGateways, RouteParentStatus, RouteStatus, ValueMatchType};
pub(crate) use rules::{grpc_route, http_route, policy_targets, stream_route};
pub use session::{CookieConfig, CookieLifetimeType, SessionPersistence, SessionPersistenceType};
pub use stream_route::{TcpRoute, TcpRouteRule, TcpRouteSpec, TlsRoute, TlsRouteRule, TlsRouteSpec};

/// The API group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";
