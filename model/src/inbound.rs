//! How connections to one port of the sidecar's own workload are treated.

use crate::ResourceRef;
use crate::proto;
use crate::protocol::Protocol;
use crate::wire::{WireError, duration, millis, port, source};
use std::time::Duration;

/// Whether plaintext is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MtlsMode {
    /// mTLS and plaintext.
    Permissive,
    /// As permissive, and counts what strict would refuse.
    Audit,
    /// mTLS only.
    #[default]
    Strict,
}

/// The resolved answer for one inbound port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPolicy {
    /// The port on which the application listens.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether plaintext is taken.
    pub mtls: MtlsMode,
    /// The object that says so; `None`: the built-in default.
    pub mtls_source: Option<ResourceRef>,
    /// How long an opaque connection may stay silent; `None`: for ever.
    pub idle: Option<Duration>,
    /// The Service that selects the port, for metrics.
    pub service: Option<ResourceRef>,
}

impl From<MtlsMode> for proto::MtlsMode {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Audit => Self::Audit,
            MtlsMode::Strict => Self::Strict,
        }
    }
}

impl From<proto::MtlsMode> for MtlsMode {
    fn from(mode: proto::MtlsMode) -> Self {
        match mode {
            proto::MtlsMode::Permissive => Self::Permissive,
            proto::MtlsMode::Audit => Self::Audit,
            proto::MtlsMode::Unspecified | proto::MtlsMode::Strict => Self::Strict,
        }
    }
}

impl From<&InboundPolicy> for proto::InboundPolicy {
    fn from(policy: &InboundPolicy) -> Self {
        let InboundPolicy { port, protocol, mtls, mtls_source, idle, service } = policy;
        Self {
            port: u32::from(*port),
            protocol: proto::Protocol::from(*protocol).into(),
            mtls: proto::MtlsMode::from(*mtls).into(),
            mtls_source: mtls_source.as_ref().map(Into::into),
            idle_ms: millis(*idle),
            service: service.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::InboundPolicy> for InboundPolicy {
    type Error = WireError;

    fn try_from(policy: proto::InboundPolicy) -> Result<Self, WireError> {
        let protocol = policy.protocol().into();
        let mtls = policy.mtls().into();
        let proto::InboundPolicy { port: wire_port, protocol: _, mtls: _, mtls_source, idle_ms, service } = policy;
        Ok(Self {
            port: port("inbound.port", wire_port)?,
            protocol,
            mtls,
            mtls_source: source(mtls_source),
            idle: duration(idle_ms),
            service: source(service),
        })
    }
}
