//! What a sidecar asks the control plane about.

use crate::proto;
use crate::wire::{WireError, port};
use std::fmt;
use std::net::SocketAddr;

/// An outbound destination, or an inbound port of the sidecar's own workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Where an intercepted connection meant to go.
    Address(SocketAddr),
    /// A destination by name, `host:port`, the host as the application writes it.
    Authority(String),
    /// A port on which the sidecar's own application listens.
    InboundPort(u16),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "outbound {address}"),
            Self::Authority(authority) => write!(f, "outbound {authority}"),
            Self::InboundPort(port) => write!(f, "inbound port {port}"),
        }
    }
}

impl From<&Target> for proto::Target {
    fn from(target: &Target) -> Self {
        use proto::target::Target as Wire;
        Self {
            target: Some(match target {
                Target::Address(address) => Wire::Address(address.to_string()),
                Target::Authority(authority) => Wire::Authority(authority.clone()),
                Target::InboundPort(port) => Wire::InboundPort(u32::from(*port)),
            }),
        }
    }
}

impl TryFrom<Option<proto::Target>> for Target {
    type Error = WireError;

    fn try_from(target: Option<proto::Target>) -> Result<Self, WireError> {
        use proto::target::Target as Wire;
        let target = target.and_then(|t| t.target).ok_or(WireError::Missing("target"))?;
        Ok(match target {
            Wire::Address(address) => Self::Address(address.parse().map_err(|e| WireError::invalid("target.address", e))?),
            Wire::Authority(authority) => Self::Authority(authority),
            Wire::InboundPort(value) => Self::InboundPort(port("target.inbound_port", value)?),
        })
    }
}
