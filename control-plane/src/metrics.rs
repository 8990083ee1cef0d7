//! Every metric of the control plane, with its labels: closed sets, so that their number never grows with the mesh.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Seconds. Resolving takes microseconds for a Service without routes and must stay far below the 20 ms in which changes are gathered.
const RESOLVE_BUCKETS: [f64; 6] = [0.000_1, 0.000_5, 0.002, 0.01, 0.05, 0.25];

/// What a bound refused: the label `bound` of `heddle_control_plane_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Connections of sidecars.
    Connections,
    /// Time for a TLS handshake, or its success.
    Handshake,
    /// Discovery streams.
    Streams,
    /// Time for the first message.
    Hello,
    /// Targets of one stream.
    Targets,
    /// Connections to the admin endpoints.
    Admin,
    /// Answers kept for other streams.
    Kept,
    /// Events that wait to be posted.
    Events,
    /// Tokens that are being checked.
    Reviews,
    /// Connections to the webhooks.
    Webhook,
}

/// Why a certificate was refused: the label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Neither a token nor a client certificate.
    NoProof,
    /// A token that nobody has.
    UnknownToken,
    /// A token for another audience.
    Audience,
    /// A token whose time is over.
    ExpiredToken,
    /// A token whose pod or service account is gone.
    Gone,
    /// A token that is no pod's.
    Unbound,
    /// Tokens cannot be checked now.
    Unavailable,
    /// The client certificate of the connection has expired.
    Expired,
    /// The request is malformed, or asks for another identity.
    Request,
    /// The authority cannot sign.
    Authority,
}

/// What was sent to a sidecar: the label `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// An outbound policy.
    Outbound,
    /// An inbound policy.
    Inbound,
    /// Endpoints of a backend.
    Endpoints,
    /// Roots.
    Trust,
    /// Settings.
    Settings,
    /// A heartbeat.
    Heartbeat,
}

/// The metrics and their registry: one set for each running control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The revision of the snapshot being served.
    pub revision: IntGauge,
    /// Age of that snapshot, set when metrics are read.
    pub snapshot_age: IntGauge,
    /// Objects of the snapshot by kind.
    pub objects: IntGaugeVec,
    /// Documents that could not be used.
    pub problems: IntGauge,
    /// Open discovery streams.
    pub sidecars: IntGauge,
    /// Open connections of sidecars.
    pub connections: IntGauge,
    /// Time to resolve one target.
    pub resolve: Histogram,
    /// Certificates signed for workloads.
    pub issued: IntCounter,
    /// Lists of a kind that began anew; more than one a kind and start means that a watch could not be resumed.
    pub watch_lists: IntCounterVec,
    /// Lists and watches of a kind that failed.
    pub watch_errors: IntCounterVec,
    /// End of the control plane's own certificate.
    pub serving_expiry: IntGauge,
    /// End of the issuing certificate.
    pub issuer_expiry: IntGauge,
    /// Whether this replica leads.
    pub leader: IntGauge,
    /// Pods that should have a sidecar and have none.
    pub naked_pods: IntGauge,
    statuses: IntCounterVec,
    /// Questions of the API server to the webhooks.
    pub admission: crate::admission::Metrics,
    pushes: IntCounterVec,
    acks: IntCounterVec,
    refused_certificates: IntCounterVec,
    refused: IntCounterVec,
}

impl Metrics {
    /// Makes all metrics.
    ///
    /// # Errors
    /// When two of them have one name: a fault of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let made = Make(&registry);
        Ok(Self {
            revision: made.gauge("snapshot_revision", "Revision of the snapshot that is served")?,
            snapshot_age: made.gauge("snapshot_age_seconds", "Seconds since the snapshot last changed")?,
            objects: made.gauges("objects", "Objects of the snapshot", "kind")?,
            problems: made.gauge("problems", "Documents and files that cannot be used; see /status")?,
            sidecars: made.gauge("sidecars", "Sidecars with an open discovery stream")?,
            connections: made.gauge("connections", "Open connections of sidecars")?,
            resolve: made.resolve()?,
            issued: made.counter("certificates_issued_total", "Certificates signed for workloads")?,
            watch_lists: made.counters("watch_lists_total", "Lists of a kind that began, at first or anew", "kind")?,
            watch_errors: made.counters("watch_errors_total", "Lists and watches of a kind that failed", "kind")?,
            serving_expiry: made.gauge("serving_certificate_expiry_seconds", "End of the control plane's own certificate, Unix time")?,
            issuer_expiry: made.gauge("issuing_certificate_expiry_seconds", "End of the authority's issuing certificate, Unix time")?,
            leader: made.gauge("leader", "Whether this replica writes statuses: 1 or 0")?,
            naked_pods: made.gauge("naked_pods", "Running pods that should have a sidecar and have none")?,
            statuses: made.counters("status_writes_total", "Statuses written to the API server", "result")?,
            admission: crate::admission::Metrics::new(&registry)?,
            pushes: made.counters("pushes_total", "Messages sent to sidecars", "kind")?,
            acks: made.counters("acks_total", "Versions that sidecars took or refused", "result")?,
            refused_certificates: made.counters("certificates_refused_total", "Certificate requests refused", "reason")?,
            refused: made.counters("refused_total", "What a bound refused", "bound")?,
            registry,
        })
    }

    /// Counts a message to a sidecar.
    pub fn pushed(&self, kind: Push) {
        let label = match kind {
            Push::Outbound => "outbound",
            Push::Inbound => "inbound",
            Push::Endpoints => "endpoints",
            Push::Trust => "trust",
            Push::Settings => "settings",
            Push::Heartbeat => "heartbeat",
        };
        self.pushes.with_label_values(&[label]).inc();
    }

    /// Counts an acknowledgement.
    pub fn acked(&self, in_force: bool) {
        self.acks.with_label_values(&[if in_force { "in_force" } else { "refused" }]).inc();
    }

    /// Counts a status that was written, or could not be.
    pub fn status_written(&self, written: bool) {
        self.statuses.with_label_values(&[if written { "written" } else { "failed" }]).inc();
    }

    /// Counts a refused certificate request.
    pub fn refused_certificate(&self, reason: Refusal) {
        let label = match reason {
            Refusal::NoProof => "no_proof",
            Refusal::UnknownToken => "unknown_token",
            Refusal::Audience => "audience",
            Refusal::ExpiredToken => "expired_token",
            Refusal::Gone => "gone",
            Refusal::Unbound => "unbound",
            Refusal::Unavailable => "unavailable",
            Refusal::Expired => "expired",
            Refusal::Request => "request",
            Refusal::Authority => "authority",
        };
        self.refused_certificates.with_label_values(&[label]).inc();
    }

    /// Counts what a bound refused.
    pub fn refused(&self, bound: Bound) {
        let label = match bound {
            Bound::Connections => "connections",
            Bound::Handshake => "handshake",
            Bound::Streams => "streams",
            Bound::Hello => "hello",
            Bound::Targets => "targets",
            Bound::Admin => "admin",
            Bound::Kept => "kept",
            Bound::Events => "events",
            Bound::Reviews => "reviews",
            Bound::Webhook => "webhook",
        };
        self.refused.with_label_values(&[label]).inc();
    }

    /// Writes all of them in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric is inconsistent: a fault of this file.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

struct Make<'a>(&'a Registry);

impl Make<'_> {
    fn registered<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("heddle_control_plane_{name}"), help)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.registered(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec, prometheus::Error> {
        self.registered(IntGaugeVec::new(Self::opts(name, help), &[label])?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.registered(IntCounter::with_opts(Self::opts(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
        self.registered(IntCounterVec::new(Self::opts(name, help), &[label])?)
    }

    fn resolve(&self) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::new("heddle_control_plane_resolve_seconds", "Time to resolve one target");
        self.registered(Histogram::with_opts(opts.buckets(RESOLVE_BUCKETS.to_vec()))?)
    }
}
