//! Spans on their way out: worker threads hand over finished ones, the control thread exports them by OTLP.
//!
//! Handing over never blocks and never waits: when the export cannot keep up, or there is no collector, spans are dropped (the former
//! counted). Sampling is decided before, by [`crate::trace::TraceContext`].
//!
//! ```text
//! telemetry.rs   what a span is, the sink, the exporting task
//!   otlp         spans as opentelemetry's, and its exporter
//!   logs         the sidecar's own log lines
//! ```

pub mod logs;
mod otlp;

#[cfg(test)]
mod tests;

use crate::config::Config;
use futures_util::FutureExt;
use heddle_model::Settings;
use opentelemetry_sdk::Resource;
use otlp::Exporter;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// Spans that wait. At 1 % of 10,000 requests a second, with three spans each, this is thirteen seconds of a collector's absence; at
/// about 300 bytes a span it is 1.2 MiB at most.
pub const SPANS_MAX: usize = 4096;
/// Spans in one export: the size that OpenTelemetry's own batch processor uses.
const BATCH_MAX: usize = 512;
/// A span waits so long for company; then it goes. Short enough to look live.
const LINGER: Duration = Duration::from_millis(500);
/// What is left at the end may take so long in all.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Which side of a call a span describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request received from another workload: the inbound leg.
    Server,
    /// An attempt sent.
    Client,
    /// The outbound leg, which the attempts hang from: the application's own call, seen from beside it.
    Internal,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SpanStatus {
    /// Nothing to say: neither side calls it an error.
    #[default]
    Unset,
    /// An error, described for people.
    Error(Cow<'static, str>),
}

/// A finished span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRecord {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span; not 0.
    pub span_id: u64,
    /// Its parent; 0: it is the first of its trace.
    pub parent_id: u64,
    /// Which side.
    pub kind: SpanKind,
    /// The route, or the method where none matched: never a path, which has no end of values.
    pub name: Cow<'static, str>,
    /// Begin, in Unix nanoseconds.
    pub start_unix_nanos: u64,
    /// End, in Unix nanoseconds.
    pub end_unix_nanos: u64,
    /// What is known about it.
    pub attributes: SpanAttributes,
    /// How it ended.
    pub status: SpanStatus,
}

/// What is known about a span; names follow OpenTelemetry's semantic conventions where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpanAttributes {
    /// `http.request.method`.
    pub method: Option<Cow<'static, str>>,
    /// `http.response.status_code`.
    pub status_code: Option<u16>,
    /// `rpc.grpc.status_code`.
    pub grpc_status: Option<u32>,
    /// `url.path`, without its query, which may hold secrets.
    pub path: Option<String>,
    /// `server.address`: the authority that the client asked for.
    pub server_address: Option<String>,
    /// `network.peer.address`: the other end of the connection, with its port.
    pub peer_address: Option<std::net::SocketAddr>,
    /// `heddle.direction`: `inbound` or `outbound`.
    pub direction: Option<&'static str>,
    /// `heddle.route`: the object and rule that decided.
    pub route: Option<String>,
    /// `heddle.backend`: the Service port.
    pub backend: Option<String>,
    /// `heddle.peer`: the SPIFFE id of the other side.
    pub peer: Option<String>,
    /// `heddle.attempt`: counted from 1.
    pub attempt: Option<u32>,
    /// `error.type`: the cause, from a closed set.
    pub error_type: Option<Cow<'static, str>>,
}

/// Where workers put finished spans. Cloning gives another end of the same channel.
#[derive(Debug, Clone)]
pub struct SpanSink {
    sender: mpsc::Sender<SpanRecord>,
    active: Arc<AtomicBool>,
    full: IntCounter,
}

/// The task that exports: [`Telemetry::run`] on the control thread.
#[derive(Debug)]
pub struct Telemetry {
    receiver: mpsc::Receiver<SpanRecord>,
    active: Arc<AtomicBool>,
    settings: watch::Receiver<Arc<Settings>>,
    resource: Resource,
    spans: IntCounterVec,
    endpoint: Option<String>,
    exporter: Option<Exporter>,
    /// Spans in the export that is going on.
    exporting: usize,
    failing: bool,
}

impl SpanSink {
    /// Whether there is a collector; spans made otherwise are wasted.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Hands over a span, or drops it. Never blocks.
    pub fn try_send(&self, span: SpanRecord) {
        if !self.is_active() {
            return;
        }
        if self.sender.try_send(span).is_err() {
            self.full.inc();
        }
    }
}

impl Telemetry {
    /// The sink and the task. `settings` says where spans go, and may say otherwise at any time.
    #[must_use]
    pub fn new(config: &Config, settings: watch::Receiver<Arc<Settings>>) -> (SpanSink, Self) {
        let (sender, receiver) = mpsc::channel(SPANS_MAX);
        let opts = Opts::new("heddle_telemetry_spans_total", "Finished spans, by what became of them.");
        let spans = IntCounterVec::new(opts, &["result"]).expect("a valid metric name");
        let active = Arc::new(AtomicBool::new(false));
        let sink = SpanSink { sender, active: Arc::clone(&active), full: spans.with_label_values(&["queue_full"]) };
        let resource = otlp::resource(config);
        (sink, Self { receiver, active, settings, resource, spans, endpoint: None, exporter: None, exporting: 0, failing: false })
    }

    /// Adds the counts to a registry.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.spans.clone()))
    }

    /// Exports until `ended`, and then what is left, for [`FLUSH_TIMEOUT`] at most. Not cancel safe: dropped, it loses a batch.
    pub async fn run(mut self, ended: impl Future<Output = ()>) {
        let ended = ended.shared();
        let late = ended.clone().then(|()| sleep(FLUSH_TIMEOUT));
        // The loser of the two is not needed any more: what the work still held is counted below.
        tokio::select! {
            () = self.work(ended) => {}
            () = late => {
                let left = self.exporting + self.receiver.len();
                self.spans.with_label_values(&["export_failed"]).inc_by(left as u64);
                tracing::warn!(left, "spans lost at the end: the collector is too slow");
            }
        }
    }

    /// Exports until `ended`, and then all that is left.
    async fn work(&mut self, mut ended: impl Future<Output = ()> + Unpin) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let (mut ending, mut settings_live) = (false, true);
        self.choose_exporter();
        loop {
            let due = Instant::now() + LINGER;
            // Collect: until the batch is full, or its first span has lingered.
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                tokio::select! {
                    // `recv_many` is cancel safe: what is not in the batch is in the channel.
                    received = self.receiver.recv_many(&mut batch, room) => if received == 0 {
                        // Closed, by us below or because all sinks are gone, and empty.
                        return self.export(&mut batch).await;
                    },
                    () = sleep_until(due), if !batch.is_empty() => break,
                    changed = self.settings.changed(), if settings_live => {
                        settings_live = changed.is_ok();
                        self.choose_exporter();
                    }
                    () = &mut ended, if !ending => {
                        ending = true;
                        self.receiver.close();
                    }
                }
            }
            self.export(&mut batch).await;
        }
    }

    /// Exports a batch and empties it, whatever comes of it.
    async fn export(&mut self, batch: &mut Vec<SpanRecord>) {
        if batch.is_empty() {
            return;
        }
        let spans = std::mem::take(batch);
        let Some(exporter) = &self.exporter else { return };
        let count = spans.len() as u64;
        self.exporting = spans.len();
        let result = exporter.export(spans).await;
        self.exporting = 0;
        match result {
            Ok(()) => {
                self.spans.with_label_values(&["exported"]).inc_by(count);
                if std::mem::replace(&mut self.failing, false) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                self.spans.with_label_values(&["export_failed"]).inc_by(count);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(endpoint = self.endpoint, %error, "spans cannot be exported, they are dropped until they can");
                }
            }
        }
    }

    /// Follows the settings.
    fn choose_exporter(&mut self) {
        let endpoint = self.settings.borrow_and_update().otlp_endpoint.clone();
        if endpoint == self.endpoint {
            return;
        }
        self.endpoint = endpoint;
        self.failing = false;
        self.exporter = match self.endpoint.as_deref().map(|at| Exporter::new(at, &self.resource)).transpose() {
            Ok(exporter) => exporter,
            Err(error) => {
                tracing::warn!(endpoint = self.endpoint, error, "spans are not exported");
                None
            }
        };
        self.active.store(self.exporter.is_some(), Ordering::Relaxed);
    }
}
