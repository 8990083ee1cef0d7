//! What `/metrics` says of traffic: counted by each worker for itself, summed when asked.
//!
//! A worker's [`Metrics`] stay in its thread and only it writes them, so that counting is a load, an addition and a store, without a
//! lock and without an atomic read-modify-write; a scrape reads them from the control thread. Label sets are looked up when a policy
//! comes into force, never for a request: [`ExchangeMetrics`] and [`TcpMetrics`] are the handles that remain.
//!
//! ```text
//! metrics.rs    what is counted, the handles
//!   series      counters of one writer, and the set of label sets with its bound
//!   families    from counters to Prometheus' families
//!   sum         the metrics of several threads as one
//! ```

mod families;
mod series;
mod sum;
#[cfg(test)]
mod tests;

pub use sum::{encode, gather};

use crate::cause::Cause;
use families::Collected;
use prometheus::core::Collector;
use prometheus::{IntCounterVec, Opts, Registry};
use series::{Flow, Shared};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Series of one worker. Workers carry the same traffic and so have the same series, which are summed: this is close to the bound of
/// the process, and 10,000 series are what Prometheus takes from one target without a thought.
pub const SERIES_MAX: usize = 10_000;

/// Seen from the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
}

impl Direction {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What HTTP exchanges are told apart by: texts of [`heddle_model::ResourceRef`] and [`heddle_model::ServicePort`], never what a client
/// wrote.
#[derive(Debug, Clone, Copy)]
pub struct ExchangeLabels<'a> {
    /// The direction.
    pub direction: Direction,
    /// The Service port that the client asked for.
    pub service: &'a str,
    /// The object and rule that decided, or `none`.
    pub route: &'a str,
    /// The Service port that it went to, or `none`.
    pub backend: &'a str,
    /// The endpoint's version label, or `none`.
    pub version: &'a str,
    /// Whether the other sidecar was authenticated.
    pub mtls: bool,
}

/// What opaque connections are told apart by; as [`ExchangeLabels`].
#[derive(Debug, Clone, Copy)]
pub struct TcpLabels<'a> {
    /// The direction.
    pub direction: Direction,
    /// The Service port that the client asked for.
    pub service: &'a str,
    /// The Service port that it went to, or `none`.
    pub backend: &'a str,
    /// The endpoint's version label, or `none`.
    pub version: &'a str,
    /// Whether the other sidecar was authenticated.
    pub mtls: bool,
}

/// The metrics of one thread. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    shared: Arc<Shared>,
    room: Rc<Room>,
    exchanges: RefCell<Handles<ExchangeMetrics>>,
    tcp: RefCell<Handles<TcpMetrics>>,
    retries: IntCounterVec,
    handshakes: IntCounterVec,
    limits: IntCounterVec,
}

/// Handles by their labels. Found without a copy of the labels: each opaque connection asks once or twice.
#[derive(Debug)]
struct Handles<T> {
    by_hash: HashMap<u64, Vec<Known<T>>>,
    state: RandomState,
}

#[derive(Debug)]
struct Known<T> {
    labels: Vec<String>,
    mtls: bool,
    handle: Rc<T>,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { by_hash: HashMap::new(), state: RandomState::new() }
    }
}

impl<T> Handles<T> {
    fn find(&self, labels: &[&str], mtls: bool) -> Option<Rc<T>> {
        let known = self.by_hash.get(&self.state.hash_one((labels, mtls)))?;
        known.iter().find(|k| k.mtls == mtls && k.labels == labels).map(|k| k.handle.clone())
    }

    fn add(&mut self, labels: &[&str], mtls: bool, handle: Rc<T>) {
        let hash = self.state.hash_one((labels, mtls));
        self.by_hash.entry(hash).or_default().push(Known { labels: owned(labels), mtls, handle });
    }
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|l| (*l).to_owned()).collect()
}

/// How many more series there may be.
#[derive(Debug)]
struct Room {
    left: Cell<usize>,
    shared: Arc<Shared>,
}

impl Room {
    /// Takes room for `count` series; `false`, and counted: there is none.
    fn take(&self, count: usize) -> bool {
        let left = self.left.get().checked_sub(count);
        match left {
            Some(left) => self.left.set(left),
            None => self.shared.overflows.add(1),
        }
        left.is_some()
    }
}

impl Metrics {
    /// Nothing counted, in a registry of its own.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let shared = Arc::new(Shared::default());
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels).expect("a valid metric");
            register(&registry, counter.clone());
            counter
        };
        let retries = counter("heddle_http_retries_total", "Further tries of requests, by reason.", &["reason"]);
        let handshakes = counter("heddle_tls_handshakes_total", "Handshakes of mesh mTLS, by side and outcome.", &["side", "outcome"]);
        let limits = counter("heddle_limits_hit_total", "Connections and requests refused or cut by a limit of this sidecar.", &["limit"]);
        register(&registry, Collected::new(Arc::clone(&shared)));
        let room = Rc::new(Room { left: Cell::new(SERIES_MAX), shared: Arc::clone(&shared) });
        let inner = Inner { registry, shared, room, exchanges: RefCell::default(), tcp: RefCell::default(), retries, handshakes, limits };
        Self { inner: Rc::new(inner) }
    }

    /// Where the control thread reads them.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.inner.registry.clone()
    }

    /// The handles for exchanges with these labels; the same ones each time. Beyond [`SERIES_MAX`], those of an overflow series.
    #[must_use]
    pub fn exchange(&self, labels: ExchangeLabels<'_>) -> Rc<ExchangeMetrics> {
        let ExchangeLabels { direction, service, route, backend, version, mtls } = labels;
        let labels = [direction.as_str(), service, route, backend, version];
        self.handle(&self.inner.exchanges, &self.inner.shared.http, &labels, |flow, room| ExchangeMetrics { flow, mtls, room }, mtls)
    }

    /// The handles for opaque connections with these labels; as [`Metrics::exchange`].
    #[must_use]
    pub fn tcp(&self, labels: TcpLabels<'_>) -> Rc<TcpMetrics> {
        let TcpLabels { direction, service, backend, version, mtls } = labels;
        let labels = [direction.as_str(), service, backend, version];
        self.handle(&self.inner.tcp, &self.inner.shared.tcp, &labels, |flow, room| TcpMetrics { flow, mtls, room }, mtls)
    }

    fn handle<T, const N: usize>(
        &self,
        handles: &RefCell<Handles<T>>,
        flows: &series::Flows,
        labels: &[&str; N],
        make: impl Fn(Arc<Flow>, Rc<Room>) -> T,
        mtls: bool,
    ) -> Rc<T> {
        let mut handles = handles.borrow_mut();
        if let Some(known) = handles.find(labels, mtls) {
            return known;
        }
        let mut labels = *labels;
        // The flow may be there for the other value of `mtls`: most series do not tell these apart.
        let flow = match flows.find(&labels) {
            Some(flow) => flow,
            None if self.inner.room.take(flows.cost()) => flows.add(owned(&labels)),
            None => {
                // What stands for all that finds no room keeps its direction only, which comes first.
                labels[1..].fill(series::OVERFLOW);
                if let Some(known) = handles.find(&labels, mtls) {
                    return known;
                }
                flows.find(&labels).unwrap_or_else(|| flows.add(owned(&labels)))
            }
        };
        let handle = Rc::new(make(flow, self.inner.room.clone()));
        handles.add(&labels, mtls, handle.clone());
        handle
    }

    /// Counts an attempt that ended so: a value of [`Cause::flag`].
    pub fn attempt(&self, flag: &'static str) {
        self.inner.shared.attempt(flag);
    }

    /// Counts a further try.
    pub fn retry(&self, reason: &'static str) {
        self.inner.retries.with_label_values(&[reason]).inc();
    }

    /// Counts a further try that the budget did not allow.
    pub fn budget_exhausted(&self) {
        self.inner.shared.budget_exhausted.add(1);
    }

    /// Counts a request sent again because its kept connection was closed before it came.
    pub fn reuse_race_replayed(&self) {
        self.inner.shared.replays.add(1);
    }

    /// Counts a copy of a request that was not sent: too many under way, or a body too long to keep.
    pub fn mirror_skipped(&self) {
        self.inner.shared.mirrors_skipped.add(1);
    }

    /// Counts an accepted connection.
    pub fn accepted(&self) {
        self.inner.shared.accepted.add(1);
    }

    /// Counts a refusal by a limit, by the limit's name.
    pub fn limit_hit(&self, limit: &'static str) {
        self.inner.limits.with_label_values(&[limit]).inc();
    }

    /// Counts a handshake of mesh mTLS; `side` is this sidecar's part, `client` or `server`.
    pub fn tls_handshake(&self, side: &'static str, ok: bool) {
        self.inner.handshakes.with_label_values(&[side, if ok { "ok" } else { "failed" }]).inc();
    }

    /// Says how many endpoints a backend has. Each worker says the same: the greatest number is shown.
    pub fn endpoints(&self, backend: &str, count: usize) {
        let backends = &self.inner.shared.backends;
        match backends.find(backend) {
            Some(gauge) => gauge.set(count),
            None if self.inner.room.take(1) => backends.add(backend).set(count),
            None => {}
        }
    }

    /// Takes a backend that no policy refers to any more out of the metrics.
    pub fn endpoints_gone(&self, backend: &str) {
        if self.inner.shared.backends.remove(backend) {
            self.inner.room.left.set(self.inner.room.left.get() + 1);
        }
    }

    /// Counts a connection opened to an endpoint or to the application.
    pub fn pool_opened(&self) {
        self.inner.shared.pool_opened.add(1);
    }

    /// Counts an exchange on a kept connection.
    pub fn pool_reused(&self) {
        self.inner.shared.pool_reused.add(1);
    }

    /// Says how many connections are idle.
    pub fn pool_idle(&self, count: usize) {
        self.inner.shared.pool_idle.set(count);
    }

    /// Says how many connections were closed because the pool was full, in all.
    pub fn pool_evicted(&self, total: u64) {
        self.inner.shared.pool_evicted.raise(total);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Handles of HTTP exchanges with the same labels.
#[derive(Debug)]
pub struct ExchangeMetrics {
    flow: Arc<Flow>,
    mtls: bool,
    room: Rc<Room>,
}

impl ExchangeMetrics {
    /// One more is in flight; [`ExchangeMetrics::finish`] or [`ExchangeMetrics::abandon`] is to follow.
    pub fn start(&self) {
        self.flow.open.up();
    }

    /// One has ended. `status`: what the client was told, 0 for nothing; bytes are those of the bodies.
    pub fn finish(&self, status: u16, cause: Cause, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.flow.open.down();
        self.flow.durations.observe(duration);
        self.flow.sent_by_client.add(request_bytes);
        self.flow.sent_to_client.add(response_bytes);
        self.flow.outcome(self.mtls, series::code_class(status), cause, |count| self.room.take(count));
    }

    /// One goes on under other labels.
    pub fn abandon(&self) {
        self.flow.open.down();
    }
}

/// Handles of opaque connections with the same labels.
#[derive(Debug)]
pub struct TcpMetrics {
    flow: Arc<Flow>,
    mtls: bool,
    room: Rc<Room>,
}

impl TcpMetrics {
    /// One more is open; [`TcpMetrics::finish`] or [`TcpMetrics::abandon`] is to follow.
    pub fn start(&self) {
        self.flow.open.up();
    }

    /// Bytes have passed. To be called as they do: a connection may last for days.
    pub fn transferred(&self, by_client: u64, to_client: u64) {
        self.flow.sent_by_client.add(by_client);
        self.flow.sent_to_client.add(to_client);
    }

    /// One has ended.
    pub fn finish(&self, cause: Cause, duration: Duration) {
        self.flow.open.down();
        self.flow.durations.observe(duration);
        self.flow.outcome(self.mtls, 0, cause, |count| self.room.take(count));
    }

    /// One goes on under other labels.
    pub fn abandon(&self) {
        self.flow.open.down();
    }
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("names and labels of this file's metrics are different and valid");
}
