//! What one worker knows of one endpoint: exchanges in flight, a moving average of its latency, and whether connecting to it fails.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How fast a latency is forgotten: after this time 1/e of an estimate is left. Linkerd's and Finagle's value.
const DECAY: Duration = Duration::from_secs(10);
/// A failed attempt counts as at least so slow, however quickly it failed.
const PENALTY_MIN: Duration = Duration::from_millis(10);
/// An estimate never exceeds this: beyond it an endpoint is not chosen anyway, and the way back must have an end.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Connect failures in a row that eject: one may be a lost packet or a restart.
const FAILURES_MAX: u32 = 2;
/// The first ejection; each further one is twice as long.
const EJECTION_MIN: Duration = Duration::from_secs(1);
/// The longest ejection.
const EJECTION_MAX: Duration = Duration::from_secs(30);

/// What all endpoints of a balancer share.
#[derive(Debug, Default)]
pub(super) struct Ejections {
    /// Endpoints in the set.
    size: Cell<usize>,
    /// Ejected ones among them.
    ejected: Cell<usize>,
    /// When the next ejection ends.
    next: Cell<Option<Instant>>,
    /// The latency of a typical exchange, in seconds: what is assumed of endpoints that nothing is known of. 0: nothing is known.
    typical: Cell<f64>,
    typical_at: Cell<Option<Instant>>,
}

impl Ejections {
    pub(super) fn set_size(&self, size: usize) {
        self.size.set(size);
    }

    /// Whether an ejection has ended.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.get().is_some_and(|next| next <= now)
    }

    pub(super) fn set_next(&self, next: Option<Instant>) {
        self.next.set(next);
    }

    /// Whether one more may be ejected: at most half of them, so that failures elsewhere (of this node, say) never empty the set.
    fn has_room(&self) -> bool {
        (self.ejected.get() + 1) * 2 <= self.size.get()
    }

    /// Whether the set has shrunk so far that more than half of it is ejected.
    fn is_overfull(&self) -> bool {
        self.ejected.get() * 2 > self.size.get()
    }

    fn observe(&self, seconds: f64, now: Instant) {
        let keep = self.typical_at.replace(Some(now)).map_or(0.0, |at| remaining(at, now));
        // At least a small step for each exchange: at thousands per second time alone would hardly move it.
        let keep = keep.min(0.99);
        self.typical.set(self.typical.get() * keep + seconds * (1.0 - keep));
    }
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(super) struct Load {
    in_flight: Cell<u32>,
    /// In seconds, as of `observed_at`.
    latency: Cell<f64>,
    observed_at: Cell<Option<Instant>>,
    /// Connect failures in a row.
    failures: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    /// Not in the set any more.
    removed: Cell<bool>,
    shared: Rc<Ejections>,
}

impl Load {
    pub(super) fn new(shared: Rc<Ejections>) -> Self {
        Self {
            in_flight: Cell::new(0),
            latency: Cell::new(0.0),
            observed_at: Cell::new(None),
            failures: Cell::new(0),
            ejected_until: Cell::new(None),
            removed: Cell::new(false),
            shared,
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    /// What one more exchange costs there: those in flight and itself, times the latency.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        f64::from(self.in_flight.get() + 1) * self.latency(now)
    }

    /// The estimate in seconds, above 0. Without news it goes back to what is typical, so that an endpoint is tried again some time.
    pub(super) fn latency(&self, now: Instant) -> f64 {
        let typical = match self.shared.typical.get() {
            unknown if unknown <= 0.0 => 0.001,
            known => known,
        };
        match self.observed_at.get() {
            Some(at) => typical + (self.latency.get() - typical) * remaining(at, now),
            None => typical,
        }
    }

    /// Learns a latency: at once when it is worse than the estimate, slowly when it is better.
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        // A resolution above 0 keeps every cost above 0.
        let seconds = latency.clamp(Duration::from_micros(1), LATENCY_MAX).as_secs_f64();
        let estimate = match self.observed_at.get() {
            None => seconds,
            Some(at) => {
                let before = self.latency(now);
                let keep = remaining(at, now);
                if seconds >= before { seconds } else { before * keep + seconds * (1.0 - keep) }
            }
        };
        self.latency.set(estimate);
        self.observed_at.set(Some(now));
        self.shared.observe(seconds, now);
    }

    /// Learns of a failure after `elapsed`: at least doubles the estimate.
    pub(super) fn penalise(&self, elapsed: Duration, now: Instant) {
        let seconds = (2.0 * self.latency(now)).max(elapsed.max(PENALTY_MIN).as_secs_f64());
        self.latency.set(seconds.min(LATENCY_MAX.as_secs_f64()));
        self.observed_at.set(Some(now));
    }

    pub(super) fn connect_failed(&self, now: Instant) {
        self.failures.set(self.failures.get().saturating_add(1));
        let failures = self.failures.get();
        if failures < FAILURES_MAX || self.removed.get() || self.ejected_until.get().is_some() || !self.shared.has_room() {
            return;
        }
        let doublings = (failures - FAILURES_MAX).min(5);
        let until = now + (EJECTION_MIN * 2u32.pow(doublings)).min(EJECTION_MAX);
        self.ejected_until.set(Some(until));
        self.shared.ejected.set(self.shared.ejected.get() + 1);
        self.shared.next.set(Some(self.shared.next.get().map_or(until, |next| next.min(until))));
    }

    pub(super) fn connected(&self) {
        if self.failures.replace(0) > 0 {
            self.end_ejection();
        }
    }

    /// Whether others are to be preferred: ejected, or just back from it and being tried by one exchange.
    pub(super) fn is_avoided(&self) -> bool {
        self.ejected_until.get().is_some() || (self.failures.get() >= FAILURES_MAX && self.in_flight.get() > 0)
    }

    pub(super) fn ejected_until(&self) -> Option<Instant> {
        self.ejected_until.get()
    }

    /// Ends the ejection if its time is up. The failures stay: the next one ejects again, for longer.
    pub(super) fn readmit(&self, now: Instant) {
        if self.ejected_until.get().is_some_and(|until| until <= now) {
            self.end_ejection();
        }
    }

    /// Takes it out of the set: it no longer counts among the ejected.
    pub(super) fn remove(&self) {
        self.end_ejection();
        self.removed.set(true);
    }

    /// Ends the ejection if too many are ejected for the size of the set.
    pub(super) fn yield_room(&self) {
        if self.shared.is_overfull() {
            self.end_ejection();
        }
    }

    fn end_ejection(&self) {
        if self.ejected_until.take().is_some() {
            self.shared.ejected.set(self.shared.ejected.get() - 1);
        }
    }
}

/// How much of what was known at `at` is left: 1 now, 1/e after [`DECAY`].
fn remaining(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
}
