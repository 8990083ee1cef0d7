//! Counters that one thread writes and others read, and the label sets that they belong to.

use crate::cause::Cause;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// The value of labels that found no room.
pub(super) const OVERFLOW: &str = "overflow";
/// Classes of status codes, by index; TCP uses the first.
pub(super) const CODE_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
/// A counter for each class and cause, and one for those that found no room.
const OUTCOMES: usize = CODE_CLASSES.len() * Cause::ALL.len() + 1;

/// Upper bounds of HTTP durations in nanoseconds: 1-2.5-5 steps where most answers are, so that an interpolated quantile is off by less
/// than half; above a quarter of a second only what a person or a timeout would tell apart. Each bound is a series per label set.
pub(super) const HTTP_BOUNDS: [u64; 12] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];
/// The same for opaque connections: a probe, a query, a session, a day.
pub(super) const TCP_BOUNDS: [u64; 6] = [10_000_000, 1_000_000_000, 10_000_000_000, 60_000_000_000, 3_600_000_000_000, 86_400_000_000_000];

/// A number that one thread raises. Others may read it at any time.
///
/// With one writer a load and a store do what an atomic addition does, at a fifth of its cost.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Takes over a count that is kept elsewhere; never goes back.
    pub(super) fn raise(&self, total: u64) {
        self.0.store(self.value().max(total), Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that one thread sets.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicU64);

impl Gauge {
    pub(super) fn up(&self) {
        self.0.store(self.value() + 1, Relaxed);
    }

    pub(super) fn down(&self) {
        debug_assert!(self.value() > 0, "what ends has begun");
        self.0.store(self.value().saturating_sub(1), Relaxed);
    }

    pub(super) fn set(&self, value: usize) {
        self.0.store(value as u64, Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram of durations.
#[derive(Debug)]
pub(super) struct Durations {
    pub(super) bounds: &'static [u64],
    /// One for each bound, not cumulative, and one for what is above.
    pub(super) counts: Box<[Counter]>,
    pub(super) sum_nanos: Counter,
}

impl Durations {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| Counter::default()).collect(), sum_nanos: Counter::default() }
    }

    pub(super) fn observe(&self, duration: Duration) {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into());
        let bucket = self.bounds.iter().position(|b| nanos <= *b).unwrap_or(self.bounds.len());
        self.counts[bucket].add(1);
        self.sum_nanos.add(nanos);
    }
}

/// What is counted for one set of labels.
#[derive(Debug)]
pub(super) struct Flow {
    /// Values in the order of the labels' names.
    pub(super) labels: Vec<String>,
    pub(super) open: Gauge,
    pub(super) durations: Durations,
    pub(super) sent_by_client: Counter,
    pub(super) sent_to_client: Counter,
    /// By `mtls`, made at first use; a kilobyte each.
    outcomes: [OnceLock<Box<[Counter]>>; 2],
}

impl Flow {
    /// Counts an end. `room` is asked for each series that this begins.
    pub(super) fn outcome(&self, mtls: bool, class: usize, cause: Cause, room: impl Fn(usize) -> bool) {
        let table = self.outcomes[usize::from(mtls)].get_or_init(|| (0..OUTCOMES).map(|_| Counter::default()).collect());
        let counter = &table[class * Cause::ALL.len() + cause as usize];
        if counter.value() == 0 && !room(1) {
            table[OUTCOMES - 1].add(1);
        } else {
            counter.add(1);
        }
    }

    /// What was counted, by `mtls`, class and cause; `None` for the last two: no room.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (bool, Option<(&'static str, Cause)>, u64)> {
        let tables = [false, true].into_iter().filter_map(|mtls| Some((mtls, self.outcomes[usize::from(mtls)].get()?)));
        tables.flat_map(|(mtls, table)| {
            let counted = table.iter().enumerate().map(move |(n, counter)| {
                let class = CODE_CLASSES.get(n / Cause::ALL.len()).copied();
                (mtls, class.zip(Cause::ALL.get(n % Cause::ALL.len()).copied()), counter.value())
            });
            counted.filter(|(.., count)| *count > 0)
        })
    }
}

/// The class of a status code, as an index of [`CODE_CLASSES`].
pub(super) fn code_class(status: u16) -> usize {
    match usize::from(status / 100) {
        class @ 1..=5 => class,
        _ => 0,
    }
}

/// All label sets of one kind. Locked when one is added, and by scrapes.
#[derive(Debug)]
pub(super) struct Flows {
    bounds: &'static [u64],
    all: Mutex<Vec<Arc<Flow>>>,
}

impl Flows {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, all: Mutex::default() }
    }

    /// Series of one label set: buckets with the one for all, sum, count, two of bytes, one of what is open. Outcomes come on top.
    pub(super) fn cost(&self) -> usize {
        self.bounds.len() + 6
    }

    pub(super) fn all(&self) -> MutexGuard<'_, Vec<Arc<Flow>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, labels: &[&str]) -> Option<Arc<Flow>> {
        self.all().iter().find(|f| f.labels == labels).cloned()
    }

    pub(super) fn add(&self, labels: Vec<String>) -> Arc<Flow> {
        let flow = Arc::new(Flow {
            labels,
            open: Gauge::default(),
            durations: Durations::new(self.bounds),
            sent_by_client: Counter::default(),
            sent_to_client: Counter::default(),
            outcomes: Default::default(),
        });
        self.all().push(Arc::clone(&flow));
        flow
    }
}

/// Gauges by backend. Locked when endpoints change, and by scrapes.
#[derive(Debug, Default)]
pub(super) struct Backends(Mutex<Vec<(String, Arc<Gauge>)>>);

impl Backends {
    pub(super) fn all(&self) -> MutexGuard<'_, Vec<(String, Arc<Gauge>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, backend: &str) -> Option<Arc<Gauge>> {
        self.all().iter().find(|(b, _)| b == backend).map(|(_, gauge)| Arc::clone(gauge))
    }

    pub(super) fn add(&self, backend: &str) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::default());
        self.all().push((backend.to_owned(), Arc::clone(&gauge)));
        gauge
    }

    /// Whether it was there.
    pub(super) fn remove(&self, backend: &str) -> bool {
        let mut all = self.all();
        let before = all.len();
        all.retain(|(b, _)| b != backend);
        all.len() < before
    }
}

/// What a worker writes and scrapes read.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) http: Flows,
    pub(super) tcp: Flows,
    pub(super) backends: Backends,
    /// By cause.
    pub(super) attempts: [Counter; Cause::ALL.len()],
    pub(super) budget_exhausted: Counter,
    pub(super) replays: Counter,
    pub(super) mirrors_skipped: Counter,
    pub(super) accepted: Counter,
    pub(super) pool_opened: Counter,
    pub(super) pool_reused: Counter,
    pub(super) pool_evicted: Counter,
    pub(super) pool_idle: Gauge,
    pub(super) overflows: Counter,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            http: Flows::new(&HTTP_BOUNDS),
            tcp: Flows::new(&TCP_BOUNDS),
            backends: Backends::default(),
            attempts: Default::default(),
            budget_exhausted: Counter::default(),
            replays: Counter::default(),
            mirrors_skipped: Counter::default(),
            accepted: Counter::default(),
            pool_opened: Counter::default(),
            pool_reused: Counter::default(),
            pool_evicted: Counter::default(),
            pool_idle: Gauge::default(),
            overflows: Counter::default(),
        }
    }
}

impl Shared {
    /// Counts an attempt by its cause's flag. The usual one is the first, so that the search ends at once.
    pub(super) fn attempt(&self, flag: &'static str) {
        let cause = Cause::ALL.into_iter().find(|c| c.flag() == flag);
        debug_assert!(cause.is_some(), "\"{flag}\" is no cause's flag");
        if let Some(cause) = cause {
            self.attempts[cause as usize].add(1);
        }
    }
}
