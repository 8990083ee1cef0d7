//! Who leads: a Lease (coordination.k8s.io/v1) that one replica holds and renews, with the rules and times of client-go's leader election.
//!
//! A replica takes a lease that nobody holds, or whose holder has not changed it for as long as the lease says, by this replica's own
//! monotonic clock: clocks of different machines are never compared. Every write carries the `resourceVersion` that was read, so that of
//! two that take it at once one is refused. Whoever could not renew for [`RENEW_DEADLINE`] stops writing, five seconds before anybody may
//! take over.

use crate::cluster::{self, ApiError, Patience, bounded};
use crate::events::timestamp;
use crate::metrics::Metrics;
use heddle_identity::unix_now;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::PostParams;
use kube::{Api, Client};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a lease is respected after its last change (client-go: `LeaseDuration`).
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long after its last renewal the holder goes on writing (client-go: `RenewDeadline`).
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often everybody looks (client-go: `RetryPeriod`).
pub const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How long one request may take: two fit into [`RENEW_DEADLINE`], so that a lost answer costs no leadership.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// How long giving up the lease may take at the end: after that the others wait for its end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// One replica's part in the election.
#[derive(Debug)]
pub struct Campaign {
    api: Api<Lease>,
    identity: String,
    /// The lease as it was when this replica last saw it change.
    seen: Option<(Lease, Instant)>,
    holds: bool,
}

impl Campaign {
    /// Campaigns for the lease [`cluster::NAME`] of a namespace, as `identity`, which is this pod's name.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), identity: identity.to_owned(), seen: None, holds: false }
    }

    /// Takes part until `stop`, and then gives up the lease, so that another replica leads at once. `until` tells until when this one leads.
    pub async fn run(mut self, until: watch::Sender<Option<Instant>>, mut stop: watch::Receiver<bool>, metrics: Arc<Metrics>) {
        let mut patience = Patience::new("lease read or renewed");
        loop {
            let turn = tokio::select! {
                // A request that is cut off may have renewed the lease; giving it up below covers that.
                _ = stop.wait_for(|stop| *stop) => break,
                turn = self.turn() => turn,
            };
            match turn {
                Ok(led) => {
                    patience.succeeded();
                    self.tell(led, &until);
                }
                Err(error) => {
                    // Who leads stays so until the deadline of the last renewal.
                    patience.failed(&error);
                }
            }
            let leads = until.borrow().is_some_and(|until| Instant::now() < until);
            metrics.leader.set(i64::from(leads));
            let pause = RETRY_PERIOD.mul_f64(0.9 + fastrand::f64() / 5.0);
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        until.send_replace(None);
        metrics.leader.set(0);
        if self.holds {
            self.release().await;
        }
    }

    fn tell(&mut self, led: Option<Instant>, until: &watch::Sender<Option<Instant>>) {
        match (self.holds, led.is_some()) {
            (false, true) => tracing::info!(identity = self.identity, "this replica leads"),
            (true, false) => tracing::warn!(identity = self.identity, "another replica leads"),
            (true, true) | (false, false) => {}
        }
        self.holds = led.is_some();
        until.send_replace(led);
    }

    /// Renews the lease, or takes it where it is free; returns until when this replica leads.
    async fn turn(&mut self) -> Result<Option<Instant>, ApiError> {
        let began = Instant::now();
        if let Some((lease, _)) = self.seen.as_ref().filter(|_| self.holds) {
            match self.write(lease.clone(), began).await {
                // Somebody else wrote: what is there now counts.
                Err(error) if error.is_conflict() => {}
                written => return written,
            }
        }
        let lease = bounded(REQUEST_TIMEOUT, self.api.get(cluster::NAME)).await?;
        self.look(lease.clone(), began);
        if !self.is_free(began) {
            return Ok(None);
        }
        match self.write(lease, began).await {
            Err(error) if error.is_conflict() => Ok(None),
            written => written,
        }
    }

    /// Remembers a lease, and since when it is as it is.
    fn look(&mut self, lease: Lease, now: Instant) {
        match &self.seen {
            // By its version, so that no clock of its holder counts.
            Some((seen, _)) if seen.metadata.resource_version == lease.metadata.resource_version => {}
            Some(_) | None => self.seen = Some((lease, now)),
        }
    }

    /// Whether the lease may be taken.
    fn is_free(&self, now: Instant) -> bool {
        let Some((lease, since)) = &self.seen else {
            return false;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let duration =
            spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(LEASE_DURATION, Duration::from_secs);
        holder.is_empty() || holder == self.identity || now.duration_since(*since) >= duration
    }

    async fn write(&mut self, mut lease: Lease, began: Instant) -> Result<Option<Instant>, ApiError> {
        let old = lease.spec.take().unwrap_or_default();
        let now = MicroTime(timestamp(unix_now()));
        let is_mine = old.holder_identity.as_deref() == Some(self.identity.as_str());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: old.acquire_time.filter(|_| is_mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_mine))),
            ..old
        });
        let params = PostParams { field_manager: Some(cluster::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = bounded(REQUEST_TIMEOUT, self.api.replace(cluster::NAME, &params, &lease)).await?;
        self.seen = Some((written, began));
        // From before the request: the server may have counted from its arrival.
        Ok(Some(began + RENEW_DEADLINE))
    }

    async fn release(&self) {
        let Some((lease, _)) = &self.seen else {
            return;
        };
        let mut lease = lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        match bounded(RELEASE_TIMEOUT, self.api.replace(cluster::NAME, &PostParams::default(), &lease)).await {
            Ok(_) => tracing::info!(identity = self.identity, "leadership given up"),
            Err(error) => tracing::warn!(%error, "leadership not given up: another replica leads when the lease ends"),
        }
    }
}

#[cfg(test)]
#[path = "election/tests.rs"]
mod tests;
