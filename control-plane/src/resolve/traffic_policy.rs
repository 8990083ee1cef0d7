//! TrafficPolicy → limits, retries and the use of backends; and which policy applies to a port.

use std::time::Duration;

use heddle_crds::heddle::{self as crds, TrafficPolicy, TrafficPolicySpec};
use heddle_model::retry::{ATTEMPTS_MAX, Backoff, RetryBudget, RetryPolicy};
use heddle_model::timeout::Timeouts;
use heddle_model::{LoadBalancing, Protocol, ResourceRef};

use super::attach::{self, Target};
use super::service::Frontend;
use crate::snapshot::{ObjectKey, Snapshot};

/// What "no limit" becomes for connecting, where the model has no such value: the kernel gives up after some two minutes.
const NO_CONNECT_LIMIT: Duration = Duration::from_secs(3_600);

/// The largest share and rate of a retry budget, as the schema has them.
const BUDGET_MAX: RetryBudget = RetryBudget { percent: 100, min_per_second: 1_000_000 };

/// How many times its base a backoff may grow to, when no maximum is written.
const BACKOFF_GROWTH: u32 = 10;

/// A TrafficPolicy in the model's terms. What it does not say is `None`.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    pub(crate) source: ResourceRef,
    pub(crate) load_balancing: Option<LoadBalancing>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) http1_idle_timeout: Option<Duration>,
    pub(crate) retry_budget: Option<RetryBudget>,
    pub(crate) protocol: Option<Protocol>,
    timeouts: Limits,
    retry: Option<RetryDefaults>,
}

/// Limits as written: `Some(0)` is "none", `None` is nothing said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) request: Option<Duration>,
    pub(crate) attempt: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

impl Limits {
    fn says_nothing(self) -> bool {
        let Self { request, attempt, idle } = self;
        request.is_none() && attempt.is_none() && idle.is_none()
    }
}

/// Retries as a rule writes them (GEP-1731).
#[derive(Debug, Clone, Default)]
pub(crate) struct RuleRetry {
    pub(crate) attempts: Option<u32>,
    pub(crate) statuses: Vec<u16>,
    pub(crate) backoff: Option<Duration>,
}

#[derive(Debug, Clone)]
struct RetryDefaults {
    attempts: Option<u32>,
    statuses: Vec<u16>,
    grpc_codes: Vec<u32>,
    methods: Vec<String>,
    backoff: Option<Backoff>,
}

impl Traffic {
    /// Reads a policy; the error says why it cannot be honoured.
    pub(crate) fn parse(key: &ObjectKey, spec: &TrafficPolicySpec) -> Result<Self, String> {
        let TrafficPolicySpec {
            target_refs: _, // read by `attach`
            mode: _,        // read by `attach`
            load_balancer,
            timeouts,
            retry,
            retry_budget,
            connection_pool,
            protocol,
            header_limit: _, // told by `without_effect`
        } = spec;
        let timeouts = timeouts.unwrap_or_default();
        let crds::Timeouts { connect, request, backend_request, idle } = timeouts;
        let per_try = retry.as_ref().and_then(|r| r.per_try_timeout).map(|d| d.get());
        Ok(Self {
            source: ResourceRef::new("TrafficPolicy", &*key.namespace, &*key.name),
            load_balancing: load_balancer.map(|l| load_balancing(l.policy)),
            connect_timeout: connect.map(|d| if d.is_zero() { NO_CONNECT_LIMIT } else { d.get() }),
            http1_idle_timeout: connection_pool.and_then(|p| p.http1_idle_timeout).map(|d| d.get()),
            retry_budget: retry_budget.map(budget),
            protocol: protocol.map(declared),
            timeouts: Limits {
                request: request.map(|d| d.get()),
                attempt: shorter(backend_request.map(|d| d.get()), per_try),
                idle: idle.map(|d| d.get()),
            },
            retry: retry.as_ref().map(RetryDefaults::parse).transpose()?,
        })
    }

    /// How long an opaque connection may stay silent.
    pub(crate) fn idle(&self) -> Option<Duration> {
        self.timeouts.idle.filter(|d| !d.is_zero())
    }
}

impl RetryDefaults {
    fn parse(retry: &crds::Retry) -> Result<Self, String> {
        let crds::Retry { attempts, codes, grpc_codes, methods, backoff, per_try_timeout: _ } = retry;
        let mut grpc_codes: Vec<u32> = grpc_codes.iter().map(|code| u32::from(code.number())).collect();
        grpc_codes.sort_unstable();
        grpc_codes.dedup();
        let backoff = match backoff {
            None => None,
            Some(crds::Backoff { base, max }) => {
                let base = base.map_or_else(|| Backoff::default().base(), |d| d.get());
                let max = max.map_or_else(|| base.saturating_mul(BACKOFF_GROWTH), |d| d.get());
                Some(Backoff::try_new(base, max).map_err(|e| format!("spec.retry.{e}"))?)
            }
        };
        Ok(Self { attempts: *attempts, statuses: sorted(codes), grpc_codes, methods: methods.clone(), backoff })
    }
}

/// What of a policy is read and cannot be honoured, for its status.
pub(crate) fn without_effect(spec: &TrafficPolicySpec) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if spec.header_limit.is_some() {
        fields.push("headerLimit (the sidecar's HEDDLE_HEADER_LIMIT decides)");
    }
    if spec.retry_budget.is_some_and(|b| b.interval.is_some()) {
        fields.push("retryBudget.interval (always 10s)");
    }
    fields
}

/// The policy that applies to a port: one that targets the port before one that targets the whole Service; the older one
/// before the younger one. Policies that are invalid, or only shadow, do not take part.
pub(crate) fn of_port(snapshot: &Snapshot, frontend: &Frontend<'_>) -> Option<Traffic> {
    let of_target = |section: Option<&str>| {
        let target = Target { service: frontend.key, section };
        let mut policies: Vec<_> = attached(snapshot, target).collect();
        policies.sort_by_key(|(key, policy)| attach::age(key, &policy.metadata));
        policies.into_iter().find_map(|(key, policy)| Traffic::parse(key, &policy.spec).ok())
    };
    let section = frontend.port.name.as_deref();
    section.and_then(|section| of_target(Some(section))).or_else(|| of_target(None))
}

/// The enforced policies with exactly this target.
pub(crate) fn attached<'a>(snapshot: &'a Snapshot, target: Target<'a>) -> impl Iterator<Item = (&'a ObjectKey, &'a TrafficPolicy)> {
    snapshot
        .traffic_policies
        .by_index(target.service)
        .filter(|(_, policy)| policy.spec.mode == crds::Mode::Enforce)
        .filter(move |(_, policy)| policy.spec.target_refs.iter().any(|r| target.is(r)))
}

/// What is spoken on a port: as a TrafficPolicy declares, else as the Service does.
pub(crate) fn protocol(frontend: &Frontend<'_>, policy: Option<&Traffic>) -> Protocol {
    policy.and_then(|p| p.protocol).unwrap_or_else(|| frontend.declared_protocol())
}

/// The limits of a rule: what the rule says, else what the policy of the Service says, field by field.
pub(crate) fn timeouts(rule: Limits, rule_source: &ResourceRef, policy: Option<&Traffic>) -> Timeouts {
    let default = policy.map(|p| p.timeouts).unwrap_or_default();
    let limit = |rule: Option<Duration>, policy: Option<Duration>| rule.or(policy).filter(|d| !d.is_zero());
    let source = if !rule.says_nothing() {
        Some(rule_source.clone())
    } else if !default.says_nothing() {
        policy.map(|p| p.source.clone())
    } else {
        None
    };
    Timeouts {
        request: limit(rule.request, default.request),
        attempt: limit(rule.attempt, default.attempt),
        idle: limit(rule.idle, default.idle),
        source,
    }
}

/// The retries of a rule: what the rule says, else what the policy of the Service says, field by field.
pub(crate) fn retry(rule: Option<&RuleRetry>, rule_source: &ResourceRef, policy: Option<&Traffic>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let of_policy = policy.and_then(|p| p.retry.as_ref());
    let statuses = match (rule, of_policy) {
        (Some(rule), _) if !rule.statuses.is_empty() => sorted(&rule.statuses),
        (_, Some(policy)) => policy.statuses.clone(),
        (_, None) => Vec::new(),
    };
    RetryPolicy {
        attempts: rule
            .and_then(|r| r.attempts)
            .or_else(|| of_policy.and_then(|p| p.attempts))
            .unwrap_or(default.attempts)
            .min(ATTEMPTS_MAX),
        statuses,
        grpc_codes: of_policy.map(|p| p.grpc_codes.clone()).unwrap_or_default(),
        methods: of_policy.map(|p| p.methods.clone()).unwrap_or_default(),
        backoff: rule
            .and_then(|r| r.backoff)
            .and_then(|base| Backoff::try_new(base, base.saturating_mul(BACKOFF_GROWTH)).ok())
            .or_else(|| of_policy.and_then(|p| p.backoff))
            .unwrap_or(default.backoff),
        source: match (rule, of_policy, policy) {
            (Some(_), _, _) => Some(rule_source.clone()),
            (None, Some(_), Some(policy)) => Some(policy.source.clone()),
            (None, _, _) => None,
        },
    }
}

fn sorted(codes: &[u16]) -> Vec<u16> {
    let mut codes = codes.to_vec();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// The shorter of two limits, where zero is "none".
fn shorter(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) if a.is_zero() => Some(b),
        (Some(a), Some(b)) if b.is_zero() => Some(a),
        (Some(a), Some(b)) => Some(a.min(b)),
        (Some(only), None) | (None, Some(only)) => Some(only),
        (None, None) => None,
    }
}

fn budget(budget: crds::RetryBudget) -> RetryBudget {
    let crds::RetryBudget { percent, min_retries_per_second, interval: _ } = budget;
    let default = RetryBudget::default();
    RetryBudget {
        percent: percent.unwrap_or(default.percent).min(BUDGET_MAX.percent),
        min_per_second: min_retries_per_second.unwrap_or(default.min_per_second).min(BUDGET_MAX.min_per_second),
    }
}

fn load_balancing(policy: crds::LoadBalancerPolicy) -> LoadBalancing {
    match policy {
        crds::LoadBalancerPolicy::LeastRequest => LoadBalancing::LeastRequest,
        crds::LoadBalancerPolicy::LeastConnection => LoadBalancing::LeastConnection,
        crds::LoadBalancerPolicy::RoundRobin => LoadBalancing::RoundRobin,
        crds::LoadBalancerPolicy::Random => LoadBalancing::Random,
    }
}

fn declared(protocol: crds::DeclaredProtocol) -> Protocol {
    match protocol {
        crds::DeclaredProtocol::Http => Protocol::Http,
        crds::DeclaredProtocol::Http2 => Protocol::Http2,
        crds::DeclaredProtocol::Grpc => Protocol::Grpc,
        crds::DeclaredProtocol::Tcp => Protocol::Opaque,
        crds::DeclaredProtocol::Tls => Protocol::Tls,
    }
}
