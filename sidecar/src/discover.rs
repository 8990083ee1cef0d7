//! What the control plane says, by target: asked for on first use, kept up to date, and kept as last known good while it is away.
//!
//! ```text
//! discover.rs   the handle that worker threads use
//!   state       pure: targets, answers, endpoints; messages in, messages out
//!   stream      the task: one stream to the control plane at a time, reconnecting
//!   channel     one connection: dial, TLS, HTTP/2
//!   queue       what is to be said on a stream
//!   metrics     ages and counts
//! ```
//!
//! The handle takes a mutex: once for each connection or target, never for each request.

pub mod channel;
mod metrics;
mod queue;
mod state;
mod stream;

#[cfg(test)]
mod tests;

pub use state::{Inventory, InventoryItem};
pub use stream::Stream;

use crate::config::Config;
use crate::credentials::Credentials;
use fastrand::Rng;
use heddle_identity::SpiffeIdError;
use heddle_model::{Endpoint, InboundPolicy, OutboundPolicy, Settings, Target};
use state::{Overrides, State};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// The generated client.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
pub(crate) mod wire {
    include!("gen/heddle.v1.rs");
}

/// What is known about a target.
#[derive(Debug)]
pub enum Known<T> {
    /// Nothing yet. The control plane may be away: whoever waits bounds the wait.
    Pending,
    /// It is not in the mesh. Outbound, [`Settings::egress_allow`] decides; inbound, nothing is permitted.
    Unknown,
    /// The policy in force.
    Policy(Arc<T>),
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Unknown => Self::Unknown,
            Self::Policy(policy) => Self::Policy(Arc::clone(policy)),
        }
    }
}

/// The endpoints of a backend, by address. Replaced as a whole; equal sets are not announced.
pub type Endpoints = watch::Receiver<Arc<Vec<Endpoint>>>;

/// An outbound policy in force, and where its backends are.
#[derive(Debug)]
pub struct ResolvedOutbound {
    /// The policy.
    pub policy: OutboundPolicy,
    /// Its version, as the control plane names it.
    pub version: String,
    /// The endpoints of each of `policy.backends`, by the same index. Known when the policy comes into force.
    pub endpoints: Vec<Endpoints>,
}

/// An inbound policy in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedInbound {
    /// The policy.
    pub policy: InboundPolicy,
    /// Its version, as the control plane names it.
    pub version: String,
}

/// Asks about targets. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    started: Instant,
}

impl Discovery {
    /// The handle, and the task behind it. What the pod's annotations set takes the place of the mesh's settings.
    ///
    /// # Errors
    /// When the trust domain makes no SPIFFE id.
    pub fn new(config: &Config, credentials: &Credentials, rng: Rng) -> Result<(Self, Stream), SpiffeIdError> {
        let state = State::new(Overrides { sampling_ppm: config.pod.trace_sampling_ppm, access_log: config.pod.access_log });
        let discovery = Self { shared: Arc::new(Shared { state: Mutex::new(state), started: Instant::now() }) };
        let stream = Stream::new(config, discovery.clone(), credentials.clone(), rng)?;
        Ok((discovery, stream))
    }

    /// What is known about an outbound destination. Subscribes on first use; while a receiver lives, the answer is kept up to date.
    ///
    /// Beyond 4,096 targets in use the answer stays [`Known::Pending`], and `heddle_config_targets_refused_total` counts it.
    #[must_use]
    pub fn outbound(&self, target: &Target) -> watch::Receiver<Known<ResolvedOutbound>> {
        self.state().outbound(target)
    }

    /// What is known about a port of the workload. As [`Discovery::outbound`].
    #[must_use]
    pub fn inbound(&self, port: u16) -> watch::Receiver<Known<ResolvedInbound>> {
        self.state().inbound(port)
    }

    /// What is the same for the whole sidecar. Until the control plane has spoken: no export, no egress.
    #[must_use]
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.state().settings()
    }

    /// Whether the control plane is there at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.state().is_connected()
    }

    /// Everything that is in force, for `/config`.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        self.state().inventory(self.shared.started)
    }

    /// Adds ages and counts to a registry.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        registry.register(Box::new(metrics::Metrics::new(self.clone())))
    }

    /// Never held across an await. Every change is complete before a panic could happen in it, so poison says nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery").finish_non_exhaustive()
    }
}
