//! How connections to one outbound destination are treated.

use crate::ResourceRef;
use crate::backend::{Backend, BackendTarget, RouteBackend};
use crate::filter::Filter;
use crate::name::ServicePort;
use crate::proto;
use crate::protocol::Protocol;
use crate::route::{RouteTable, Rule};
use crate::wire::{WireError, duration, millis, port, source};
use std::time::Duration;

/// The resolved answer for one outbound destination. Every backend index in it is within `backends`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboundPolicy {
    /// The Service port that was addressed; `None`: an address outside any Service.
    pub service: Option<ServicePort>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The backends that routes refer to by index.
    pub backends: Vec<Backend>,
    /// Where HTTP requests go; a request that no rule matches gets 404.
    pub http: RouteTable,
    /// Where opaque connections go, by weight; empty: refused.
    pub tcp: Vec<RouteBackend>,
    /// The object that decides about opaque connections.
    pub tcp_source: Option<ResourceRef>,
    /// How long an opaque connection may stay silent; `None`: for ever.
    pub tcp_idle: Option<Duration>,
}

impl OutboundPolicy {
    fn check(&self) -> Result<(), WireError> {
        let within = |backend: &RouteBackend| match &backend.target {
            BackendTarget::Backend(index) => *index < self.backends.len(),
            BackendTarget::Invalid { .. } => true,
        };
        let filters_within = |filters: &[Filter]| {
            filters.iter().all(|filter| match filter {
                Filter::Mirror(mirror) => within(&mirror.backend),
                Filter::RequestHeaders(_)
                | Filter::ResponseHeaders(_)
                | Filter::Redirect(_)
                | Filter::Rewrite(_)
                | Filter::Cors(_)
                | Filter::Fail { .. } => true,
            })
        };
        let rule_within =
            |rule: &Rule| filters_within(&rule.filters) && rule.backends.iter().all(|b| within(b) && filters_within(&b.filters));
        if self.http.rules().iter().all(rule_within) && self.tcp.iter().all(within) {
            Ok(())
        } else {
            Err(WireError::invalid("route_backend.backend", "no such index among the policy's backends"))
        }
    }
}

impl From<&OutboundPolicy> for proto::OutboundPolicy {
    fn from(policy: &OutboundPolicy) -> Self {
        let OutboundPolicy { service, protocol, backends, http, tcp, tcp_source, tcp_idle } = policy;
        Self {
            service_namespace: service.as_ref().map(|s| s.namespace.clone()).unwrap_or_default(),
            service_name: service.as_ref().map(|s| s.name.clone()).unwrap_or_default(),
            port: service.as_ref().map_or(0, |s| u32::from(s.port)),
            protocol: proto::Protocol::from(*protocol).into(),
            backends: backends.iter().map(Into::into).collect(),
            http: Some(http.into()),
            tcp: tcp.iter().map(Into::into).collect(),
            tcp_source: tcp_source.as_ref().map(Into::into),
            tcp_idle_ms: millis(*tcp_idle),
        }
    }
}

impl TryFrom<proto::OutboundPolicy> for OutboundPolicy {
    type Error = WireError;

    fn try_from(policy: proto::OutboundPolicy) -> Result<Self, WireError> {
        let protocol = policy.protocol().into();
        let proto::OutboundPolicy {
            service_namespace,
            service_name,
            port: wire_port,
            protocol: _,
            backends,
            http,
            tcp,
            tcp_source,
            tcp_idle_ms,
        } = policy;
        let service = if service_name.is_empty() {
            None
        } else {
            Some(ServicePort { namespace: service_namespace, name: service_name, port: port("outbound.port", wire_port)? })
        };
        let policy = Self {
            service,
            protocol,
            backends: backends.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            http: http.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            tcp: tcp.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            tcp_source: source(tcp_source),
            tcp_idle: duration(tcp_idle_ms),
        };
        policy.check()?;
        Ok(policy)
    }
}
