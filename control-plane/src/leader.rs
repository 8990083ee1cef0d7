//! What only one replica does: it holds a Lease, and while it does it writes statuses, roots and the webhooks' `caBundle`s.
//!
//! ```text
//! election   who leads
//! status     conditions and counts → the `status` of routes and policies
//! replicas   what the other replicas count
//! roots      the ConfigMap of roots in every namespace with injection
//! webhooks   the roots in the webhooks' configurations
//! naked      pods without the sidecar that they should have
//! ```
//!
//! Everything else is done by every replica alike, so that losing the leader costs nothing but seconds in which statuses stand still.

pub mod election;
pub mod naked;
pub mod replicas;
pub mod roots;
pub mod status;
pub mod webhooks;

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a write of the leader may take. A write begins while the lease is held for certain, until [`election::RENEW_DEADLINE`] after
/// its last renewal, and so ends before [`election::LEASE_DURATION`] after it, when another replica may lead.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// Whether this replica leads, for those who write.
#[derive(Debug, Clone)]
pub struct Leadership(watch::Receiver<Option<Instant>>);

impl Leadership {
    /// `until`: this replica leads until then, unless it renews.
    #[must_use]
    pub fn new(until: watch::Receiver<Option<Instant>>) -> Self {
        Self(until)
    }

    /// Whether a write may begin now.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this replica leads. Cancel safe. Where nobody campaigns any more, for ever.
    pub async fn gained(&mut self) {
        while !self.leads() {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
