//! What `/metrics` says of the certificate.

use heddle_identity::Certificate;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles; cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    not_after: IntGauge,
    renewed: IntCounter,
    failed: IntCounter,
    renewals: IntCounterVec,
    trust_changes: IntCounter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let renewals = Opts::new("heddle_certificate_renewals_total", "Requests for a certificate, by result.");
        let renewals = valid(IntCounterVec::new(renewals, &["result"]));
        Self {
            not_after: valid(IntGauge::new(
                "heddle_certificate_expiry_timestamp_seconds",
                "When the workload's certificate expires, in Unix seconds; 0 before there is one.",
            )),
            renewed: renewals.with_label_values(&["ok"]),
            failed: renewals.with_label_values(&["failed"]),
            renewals,
            trust_changes: valid(IntCounter::new("heddle_trust_bundle_changes_total", "Times that the roots were replaced.")),
        }
    }

    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let Self { not_after, renewed: _, failed: _, renewals, trust_changes } = self;
        registry.register(Box::new(not_after.clone()))?;
        registry.register(Box::new(renewals.clone()))?;
        registry.register(Box::new(trust_changes.clone()))
    }

    pub(super) fn renewed(&self, certificate: &Certificate) {
        self.not_after.set(i64::try_from(certificate.not_after()).unwrap_or(i64::MAX));
        self.renewed.inc();
    }

    pub(super) fn failed(&self) {
        self.failed.inc();
    }

    #[cfg(test)]
    pub(super) fn failures(&self) -> u64 {
        self.failed.get()
    }

    pub(super) fn trust_changed(&self) {
        self.trust_changes.inc();
    }
}

fn valid<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("a valid metric name")
}
