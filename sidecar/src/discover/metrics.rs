//! What `/metrics` says of the configuration and its age; computed when asked.

use super::Discovery;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

/// One collector for all of it, so that the numbers of one scrape belong together.
#[derive(Debug)]
pub(super) struct Metrics {
    discovery: Discovery,
    connected: IntGauge,
    age: Gauge,
    revision: IntGauge,
    targets: IntGaugeVec,
    updates: IntCounterVec,
    refused: IntCounter,
    attempts: IntCounter,
    connections: IntCounter,
}

impl Metrics {
    pub(super) fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            connected: valid(IntGauge::new(
                "heddle_control_plane_connected",
                "Whether the control plane is heard: 1, or 0 while the sidecar goes on with the last known configuration.",
            )),
            age: valid(Gauge::new(
                "heddle_config_age_seconds",
                "How long ago the control plane was last heard; since the sidecar's start when it never was.",
            )),
            revision: valid(IntGauge::new("heddle_config_revision", "The revision of the control plane's snapshot at its last heartbeat.")),
            targets: valid(IntGaugeVec::new(
                Opts::new("heddle_config_targets", "Destinations and ports asked about, by state."),
                &["state"],
            )),
            updates: valid(IntCounterVec::new(Opts::new("heddle_config_updates_total", "Updates received, by result."), &["result"])),
            refused: valid(IntCounter::new(
                "heddle_config_targets_refused_total",
                "Destinations not asked about because too many are in use.",
            )),
            attempts: valid(IntCounter::new("heddle_control_plane_attempts_total", "Times that a stream to the control plane was tried.")),
            connections: valid(IntCounter::new("heddle_control_plane_connections_total", "Streams to the control plane that were begun.")),
        }
    }

    fn all(&self) -> [&dyn Collector; 8] {
        let Self { discovery: _, connected, age, revision, targets, updates, refused, attempts, connections } = self;
        [connected, age, revision, targets, updates, refused, attempts, connections]
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (connected, age, counts, tally) = {
            let state = self.discovery.state();
            (state.is_connected(), state.age(self.discovery.shared.started), state.counts, state.tally())
        };
        self.connected.set(i64::from(connected));
        self.age.set(age.as_secs_f64());
        self.revision.set(signed(counts.revision));
        for (state, count) in ["pending", "unknown", "in_force"].into_iter().zip(tally) {
            self.targets.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        // Only scrapes write these, one at a time or with the same numbers: what is counted elsewhere is carried over.
        for (result, count) in [("applied", counts.applied), ("invalid", counts.invalid)] {
            carry(&self.updates.with_label_values(&[result]), count);
        }
        carry(&self.refused, counts.refused);
        carry(&self.attempts, counts.attempts);
        carry(&self.connections, counts.connections);
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}

fn carry(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn valid<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("a valid metric name")
}
