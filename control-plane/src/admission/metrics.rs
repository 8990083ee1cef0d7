//! How often the webhooks were asked, how it went, and how long it took.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use std::time::Duration;

/// Seconds. An answer takes milliseconds; the API server waits for 10 s and makes a person wait with it.
const BUCKETS: [f64; 6] = [0.001, 0.005, 0.025, 0.1, 1.0, 5.0];

/// Which webhook: the label `path`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// New pods.
    Inject,
    /// Routes and policies.
    Validate,
}

/// How it went: the label `verdict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The object is as it should be, or none of ours.
    Allowed,
    /// The pod gets its sidecar.
    Injected,
    /// The object was refused, with a sentence.
    Refused,
    /// What the pod needs in its namespace could not be put there.
    Unavailable,
    /// The question could not be read.
    Malformed,
    /// The answer took too long.
    Late,
}

/// The metrics of admission. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl Metrics {
    /// Makes them, in a registry.
    ///
    /// # Errors
    /// When there is a metric of the same name already: a fault of this program.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("heddle_control_plane_admission_requests_total", "Questions of the API server to the webhooks"),
            &["path", "verdict"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("heddle_control_plane_admission_seconds", "Time to answer them").buckets(BUCKETS.to_vec()),
            &["path"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self { requests, seconds })
    }

    pub(super) fn answered(&self, path: Path, verdict: Verdict, took: Duration) {
        let path = match path {
            Path::Inject => "inject",
            Path::Validate => "validate",
        };
        let verdict = match verdict {
            Verdict::Allowed => "allowed",
            Verdict::Injected => "injected",
            Verdict::Refused => "refused",
            Verdict::Unavailable => "unavailable",
            Verdict::Malformed => "malformed",
            Verdict::Late => "late",
        };
        self.requests.with_label_values(&[path, verdict]).inc();
        self.seconds.with_label_values(&[path]).observe(took.as_secs_f64());
    }
}
