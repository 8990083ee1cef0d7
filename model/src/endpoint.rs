//! One place where a backend's application can be reached.

use crate::SpiffeId;
use crate::proto;
use crate::wire::{WireError, text};
use std::net::SocketAddr;

/// An endpoint: address, identity and what is known of the workload behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Who must answer, by mTLS; `None`: outside the mesh, spoken to in plaintext.
    pub identity: Option<SpiffeId>,
    /// The topology zone.
    pub zone: Option<String>,
    /// The workload instance (a pod's name).
    pub workload: String,
    /// The workload's `version` label.
    pub version: Option<String>,
    /// Terminating but still serving: used only when nothing else is left.
    pub draining: bool,
}

impl From<&Endpoint> for proto::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { address, identity, zone, workload, version, draining } = endpoint;
        Self {
            address: address.to_string(),
            identity: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            zone: zone.clone().unwrap_or_default(),
            workload: workload.clone(),
            version: version.clone().unwrap_or_default(),
            draining: *draining,
        }
    }
}

impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = WireError;

    fn try_from(endpoint: proto::Endpoint) -> Result<Self, WireError> {
        let proto::Endpoint { address, identity, zone, workload, version, draining } = endpoint;
        Ok(Self {
            address: address.parse().map_err(|e| WireError::invalid("endpoint.address", e))?,
            // A name that does not parse must not turn into plaintext.
            identity: text(identity).map(|id| id.parse().map_err(|e| WireError::invalid("endpoint.identity", e))).transpose()?,
            zone: text(zone),
            workload,
            version: text(version),
            draining,
        })
    }
}

/// A change of one backend's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointsUpdate {
    /// Which backend, by its key.
    pub backend: crate::ServicePort,
    /// Whether the whole set is replaced by `upsert`.
    pub reset: bool,
    /// New and changed endpoints.
    pub upsert: Vec<Endpoint>,
    /// Addresses of endpoints that are gone.
    pub remove: Vec<SocketAddr>,
}

impl From<&EndpointsUpdate> for proto::EndpointsUpdate {
    fn from(update: &EndpointsUpdate) -> Self {
        let EndpointsUpdate { backend, reset, upsert, remove } = update;
        Self {
            backend: backend.to_string(),
            reset: *reset,
            upsert: upsert.iter().map(Into::into).collect(),
            remove: remove.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<proto::EndpointsUpdate> for EndpointsUpdate {
    type Error = WireError;

    fn try_from(update: proto::EndpointsUpdate) -> Result<Self, WireError> {
        let proto::EndpointsUpdate { backend, reset, upsert, remove } = update;
        Ok(Self {
            backend: backend.parse().map_err(|e| WireError::invalid("endpoints.backend", e))?,
            reset,
            upsert: upsert.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            remove: remove.iter().map(|a| a.parse().map_err(|e| WireError::invalid("endpoints.remove", e))).collect::<Result<_, _>>()?,
        })
    }
}
