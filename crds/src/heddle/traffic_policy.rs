//! TrafficPolicy: how the mesh sends requests to a Service.

#![expect(clippy::duplicated_attributes, reason = "columns of kube's derive repeat their types")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::GatewayDuration,
    format,
    gateway::{PolicyTargetRef, policy_targets},
    mistake::{Mistake, Mistakes},
};

/// How the mesh sends requests to a Service, or to one port of it: load balancing, time limits, retries, pools.
///
/// It is valid for all clients of the Service. Where a route's rule says something too (`timeouts`, `retry`), the rule
/// wins, field by field. Of two policies with the same target the older one wins (GEP-713).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tp",
    category = "heddle",
    namespaced,
    status = "crate::gateway::PolicyStatus",
    derive = "PartialEq",
    doc = "How the mesh sends requests to a Service: load balancing, time limits, retries, pools.",
    printcolumn(name = "Target", type_ = "string", description = "First target", json_path = ".spec.targetRefs[0].name"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "In force", type_ = "string", description = "In how many sidecars, of how many", json_path = ".status.inForce"),
    printcolumn(name = "Since", type_ = "date", description = "Since when in all of them", json_path = ".status.inForceSince"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What the policy is about: Services of its namespace, or single ports of them by `sectionName`.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<PolicyTargetRef>,
    /// `Enforce` (the default) or `Shadow`: evaluated and counted, without effect.
    #[serde(default)]
    pub mode: Mode,
    /// How an endpoint is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Time limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// What is tried again. Unset: one more try, only for failures that are known to have left the request unprocessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// How many retries there may be, as a share of requests. Unset: 20 %, and always 10 a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// Connections that are kept for later requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// The protocol of the target; wins over `appProtocol` and the port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<DeclaredProtocol>,
    /// Most bytes of the headers (or the trailers) of one message. Unset: 98304 (96 KiB). Above it the answer is 431.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub header_limit: Option<u32>,
}

/// Whether a policy has effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// The policy has effect.
    #[default]
    Enforce,
    /// The policy is evaluated and counted, without effect.
    Shadow,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LoadBalancer {
    /// `LeastRequest` (the default), `LeastConnection`, `RoundRobin` or `Random`.
    #[serde(default)]
    pub policy: LoadBalancerPolicy,
}

/// Ways to choose an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerPolicy {
    /// The less loaded of two random endpoints, by requests in flight and latency.
    #[default]
    LeastRequest,
    /// The endpoint with the fewest requests or connections in flight, of all.
    LeastConnection,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// Time limits; `0s` means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// Until a connection to an endpoint is ready, handshake included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<GatewayDuration>,
    /// From the request's first byte to the response's last, all tries included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// One try at one endpoint; not longer than `request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<GatewayDuration>,
    /// How long a connection or a stream may carry nothing in either direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<GatewayDuration>,
}

/// What is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first one, at most; 1 by default, 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// Status codes of responses that are tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub codes: Vec<u16>,
    /// gRPC status codes of responses that are tried again, as long as no message has been passed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub grpc_codes: Vec<GrpcCode>,
    /// Methods that may be tried again although they are not idempotent (RFC 9110 §9.2.2), such as `POST`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "format::methods")]
    pub methods: Vec<String>,
    /// Waits between tries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Time limit of one try; the shorter one of this and `timeouts.backendRequest` counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<GatewayDuration>,
}

/// Waits between tries: exponential from `base` to `max`, with jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backoff {
    /// Before the first retry; 25ms by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<GatewayDuration>,
    /// At most; ten times `base` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<GatewayDuration>,
}

/// Status codes of gRPC that stand for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum GrpcCode {
    /// 1: the caller gave up.
    Cancelled = 1,
    /// 2: no better code is known.
    Unknown = 2,
    /// 3: the request is wrong, whatever the state of the system.
    InvalidArgument = 3,
    /// 4: too late.
    DeadlineExceeded = 4,
    /// 5: no such entity.
    NotFound = 5,
    /// 6: the entity is there already.
    AlreadyExists = 6,
    /// 7: the caller may not.
    PermissionDenied = 7,
    /// 8: a quota or a resource is used up.
    ResourceExhausted = 8,
    /// 9: the system is not in the state that the call needs.
    FailedPrecondition = 9,
    /// 10: a conflict with another call.
    Aborted = 10,
    /// 11: beyond the valid range.
    OutOfRange = 11,
    /// 12: not implemented.
    Unimplemented = 12,
    /// 13: an invariant is broken.
    Internal = 13,
    /// 14: not available at the moment.
    Unavailable = 14,
    /// 15: data are lost or damaged.
    DataLoss = 15,
    /// 16: the caller is not known.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The number on the wire (`grpc-status`).
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Retries in percent of the requests of the last `interval`; 20 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u32>,
    /// Retries a second that are always allowed; 10 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1_000_000))]
    pub min_retries_per_second: Option<u32>,
    /// The time over which requests are counted; 10s by default, not more than 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<GatewayDuration>,
}

/// Connections that are kept for later requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// How long an unused HTTP/1 connection is kept; 3s by default, shorter where the server is seen to close earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http1_idle_timeout: Option<GatewayDuration>,
}

/// What a port speaks, in the words of `appProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeclaredProtocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, which is HTTP/2 with gRPC's rules for errors.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS of the applications' own.
    Tls,
}

/// The longest interval of a retry budget: ten minutes, because the counts of the whole interval are kept.
const MAX_BUDGET_INTERVAL_MS: u128 = 600_000;

/// The rules that the schema cannot say.
pub(crate) fn traffic_policy(spec: &TrafficPolicySpec) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    policy_targets(&spec.target_refs, &["Service"], &mut mistakes);
    if let Some(timeouts) = &spec.timeouts
        && let (Some(request), Some(backend_request)) = (timeouts.request, timeouts.backend_request)
        && !request.is_zero()
        && backend_request > request
    {
        mistakes.add("spec.timeouts.backendRequest", format!("must not be longer than request, which is {request}"));
    }
    if let Some(Backoff { base: Some(base), max: Some(max) }) = spec.retry.as_ref().and_then(|retry| retry.backoff)
        && base > max
    {
        mistakes.add("spec.retry.backoff.base", format!("must not be longer than max, which is {max}"));
    }
    if let Some(interval) = spec.retry_budget.as_ref().and_then(|budget| budget.interval)
        && (interval.is_zero() || interval.get().as_millis() > MAX_BUDGET_INTERVAL_MS)
    {
        mistakes.add("spec.retryBudget.interval", format!("must be above 0s and at most 10m, found {interval}"));
    }
    mistakes.into_vec()
}
