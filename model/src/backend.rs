//! Where a rule sends requests, and how a backend is to be treated.

use crate::ResourceRef;
use crate::filter::{self, Filter};
use crate::name::ServicePort;
use crate::proto;
use crate::protocol::Protocol;
use crate::retry::RetryBudget;
use crate::wire::{WireError, duration, millis, port, source};
use std::time::Duration;

/// How long a connection to an endpoint may take; a dead pod must not hold a request for longer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an idle HTTP/1 connection is kept for reuse. Node closes after 5 s, Gunicorn after 2 s: shorter than most servers.
pub const HTTP1_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// One weighted reference of a rule to a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteBackend {
    /// Its share is weight / sum of weights; 0 gets nothing.
    pub weight: u32,
    /// Where its share goes.
    pub target: BackendTarget,
    /// Filters for this backend only, after the rule's.
    pub filters: Vec<Filter>,
}

/// A backend, or the answer for the share of a reference that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// An index into [`crate::OutboundPolicy::backends`].
    Backend(usize),
    /// Requests get this answer (Gateway API: 500 for the share of an invalid reference).
    Invalid {
        /// The HTTP status.
        status: u16,
        /// What is wrong, for people.
        message: String,
    },
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum LoadBalancing {
    /// Least of in-flight × latency (moving average), of two random choices.
    #[default]
    LeastRequest,
    /// Strictly the fewest requests in flight.
    LeastConnection,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
}

/// A backend: the endpoints of a Service's port, and the policy for using them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Which Service port.
    pub service: ServicePort,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Bound of dialling and handshake.
    pub connect_timeout: Duration,
    /// How long an idle HTTP/1 connection is kept.
    pub http1_idle_timeout: Duration,
    /// How much retries may add.
    pub retry_budget: RetryBudget,
    /// What the application speaks; [`Protocol::Detect`]: what the client speaks.
    pub protocol: Protocol,
    /// The policy that shaped this; `None`: built-in defaults.
    pub source: Option<ResourceRef>,
}

impl Backend {
    /// A backend with the built-in defaults.
    pub fn new(service: ServicePort) -> Self {
        Self {
            service,
            load_balancing: LoadBalancing::default(),
            connect_timeout: CONNECT_TIMEOUT,
            http1_idle_timeout: HTTP1_IDLE_TIMEOUT,
            retry_budget: RetryBudget::default(),
            protocol: Protocol::Detect,
            source: None,
        }
    }
}

impl From<&RouteBackend> for proto::RouteBackend {
    fn from(backend: &RouteBackend) -> Self {
        use proto::route_backend::Target;
        let RouteBackend { weight, target, filters } = backend;
        Self {
            weight: *weight,
            target: Some(match target {
                BackendTarget::Backend(index) => Target::Backend(u32::try_from(*index).unwrap_or(u32::MAX)),
                BackendTarget::Invalid { status, message } => {
                    Target::Invalid(proto::InvalidBackend { status: u32::from(*status), message: message.clone() })
                }
            }),
            filters: filters.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::RouteBackend> for RouteBackend {
    type Error = WireError;

    fn try_from(backend: proto::RouteBackend) -> Result<Self, WireError> {
        use proto::route_backend::Target;
        let proto::RouteBackend { weight, target, filters } = backend;
        Ok(Self {
            weight,
            target: match target.ok_or(WireError::Missing("route_backend.target"))? {
                Target::Backend(index) => BackendTarget::Backend(index as usize),
                Target::Invalid(proto::InvalidBackend { status, message }) => {
                    BackendTarget::Invalid { status: filter::status("invalid_backend.status", status)?, message }
                }
            },
            filters: filters.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<LoadBalancing> for proto::LoadBalancing {
    fn from(balancing: LoadBalancing) -> Self {
        match balancing {
            LoadBalancing::LeastRequest => Self::LeastRequest,
            LoadBalancing::LeastConnection => Self::LeastConnection,
            LoadBalancing::RoundRobin => Self::RoundRobin,
            LoadBalancing::Random => Self::Random,
        }
    }
}

impl From<proto::LoadBalancing> for LoadBalancing {
    fn from(balancing: proto::LoadBalancing) -> Self {
        match balancing {
            proto::LoadBalancing::Unspecified | proto::LoadBalancing::LeastRequest => Self::LeastRequest,
            proto::LoadBalancing::LeastConnection => Self::LeastConnection,
            proto::LoadBalancing::RoundRobin => Self::RoundRobin,
            proto::LoadBalancing::Random => Self::Random,
        }
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        let Backend { service, load_balancing, connect_timeout, http1_idle_timeout, retry_budget, protocol, source } = backend;
        Self {
            key: service.to_string(),
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            port: u32::from(service.port),
            load_balancing: proto::LoadBalancing::from(*load_balancing).into(),
            connect_timeout_ms: millis(Some(*connect_timeout)),
            http1_idle_timeout_ms: millis(Some(*http1_idle_timeout)),
            retry_budget: Some(proto::RetryBudget { percent: retry_budget.percent, min_per_second: retry_budget.min_per_second }),
            protocol: proto::Protocol::from(*protocol).into(),
            source: source.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = WireError;

    fn try_from(backend: proto::Backend) -> Result<Self, WireError> {
        let load_balancing = backend.load_balancing().into();
        let protocol = backend.protocol().into();
        let proto::Backend {
            key: _, // the sum of the three that follow
            namespace,
            name,
            port: wire_port,
            load_balancing: _,
            connect_timeout_ms,
            http1_idle_timeout_ms,
            retry_budget,
            protocol: _,
            source: from,
        } = backend;
        Ok(Self {
            service: ServicePort { namespace, name, port: port("backend.port", wire_port)? },
            load_balancing,
            connect_timeout: duration(connect_timeout_ms).unwrap_or(CONNECT_TIMEOUT),
            http1_idle_timeout: Duration::from_millis(http1_idle_timeout_ms),
            retry_budget: retry_budget
                .map_or_else(RetryBudget::default, |b| RetryBudget { percent: b.percent, min_per_second: b.min_per_second }),
            protocol,
            source: source(from),
        })
    }
}
