//! One JSON line per exchange, on its way out: workers hand over records, the control thread writes them.
//!
//! Off by default. Exchanges that the proxy itself failed are always logged, with their cause, up to a rate. Handing over never blocks:
//! when writing cannot keep up, records are dropped and counted.

mod line;

use crate::cause::Cause;
use crate::metrics::Direction;
use heddle_model::Settings;
use prometheus::{IntCounter, Registry};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

/// Records that wait: a fifth of a second at 10,000 a second. With texts cut at [`TEXT_MAX`] they take 16 MiB at the very worst, and 1 MiB
/// as a rule.
const RECORDS_MAX: usize = 2048;
/// Records written at once.
const BATCH_MAX: usize = 256;
/// Bytes of one text: a path or a header may be a hundred times as long, and a line is not the place for it.
const TEXT_MAX: usize = 1024;
/// While the log is off, failed exchanges are logged at this rate: enough to see what fails, too little to hurt.
const FAILURES_PER_SECOND: u64 = 10;
/// So many may come at once.
const FAILURES_BURST: u64 = 50;
/// What is left at the end may take so long in all.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// One exchange, finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When it ended, in Unix nanoseconds.
    pub ended_unix_nanos: u64,
    /// The direction.
    pub direction: Direction,
    /// `HTTP/1.1`, `HTTP/2`, `tcp` and the like.
    pub protocol: &'static str,
    /// The method; empty for an opaque connection.
    pub method: String,
    /// The authority that the client asked for; for an opaque connection, what it was for.
    pub authority: String,
    /// The path. A query, which may hold secrets, is cut off.
    pub path: String,
    /// The status that the client was told; 0: none.
    pub status: u16,
    /// What made the proxy answer itself.
    pub cause: Cause,
    /// The object and rule that decided; empty: none.
    pub route: String,
    /// The Service port that it went to; empty: none.
    pub backend: String,
    /// The last endpoint tried.
    pub endpoint: Option<SocketAddr>,
    /// Endpoints tried.
    pub attempts: u32,
    /// From the first byte to the last.
    pub duration: Duration,
    /// Bytes of the request's body, or sent by the client.
    pub request_bytes: u64,
    /// Bytes of the response's body, or sent to the client.
    pub response_bytes: u64,
    /// The SPIFFE id of the client, proven by mTLS; empty: none.
    pub peer: String,
    /// The trace; 0: none.
    pub trace_id: u128,
    /// `x-request-id`; empty: none.
    pub request_id: String,
}

/// Where workers put records. Cloning gives another end of the same channel.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: mpsc::Sender<Record>,
    shared: Arc<Shared>,
}

/// The task that writes: [`Writer::run`] on the control thread.
#[derive(Debug)]
pub struct Writer {
    receiver: mpsc::Receiver<Record>,
    settings: watch::Receiver<Arc<Settings>>,
    shared: Arc<Shared>,
    /// Records in the batch that is being written.
    writing: usize,
}

#[derive(Debug)]
struct Shared {
    /// Whether all exchanges are logged. Written by the control thread.
    all: AtomicBool,
    /// When the rate of failures is back to nothing, in nanoseconds since `started` (the generic cell rate algorithm, whose whole state is
    /// one number). Only failures touch it.
    busy_until: AtomicU64,
    started: Instant,
    written: IntCounter,
    dropped: IntCounter,
    suppressed: IntCounter,
}

impl AccessLog {
    /// The handle and the task. `settings` say whether all exchanges are logged, and may say otherwise at any time.
    #[must_use]
    pub fn new(settings: watch::Receiver<Arc<Settings>>, now: Instant) -> (Self, Writer) {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a valid metric");
        let shared = Arc::new(Shared {
            all: AtomicBool::new(settings.borrow().access_log),
            busy_until: AtomicU64::new(0),
            started: now,
            written: counter("heddle_access_log_written_total", "Exchanges written to the access log."),
            dropped: counter("heddle_access_log_dropped_total", "Exchanges not logged because writing cannot keep up."),
            suppressed: counter("heddle_access_log_suppressed_total", "Failed exchanges not logged because there are too many."),
        });
        let (sender, receiver) = mpsc::channel(RECORDS_MAX);
        (Self { sender, shared: Arc::clone(&shared) }, Writer { receiver, settings, shared, writing: 0 })
    }

    /// Whether an exchange that ended so is to be logged: to be asked once for each, before its record is made. One load, as a rule.
    #[must_use]
    pub fn wants(&self, cause: Cause, now: Instant) -> bool {
        if self.shared.all.load(Relaxed) {
            return true;
        }
        if matches!(cause, Cause::None | Cause::Filter) {
            return false;
        }
        let admitted = self.shared.admit_failure(now);
        if !admitted {
            self.shared.suppressed.inc();
        }
        admitted
    }

    /// Hands over a record, or drops it. Never blocks.
    pub fn try_send(&self, record: Record) {
        if self.sender.try_send(record.bounded()).is_err() {
            self.shared.dropped.inc();
        }
    }
}

impl Shared {
    /// Whether one more failure is within the rate.
    fn admit_failure(&self, now: Instant) -> bool {
        const EACH: u64 = 1_000_000_000 / FAILURES_PER_SECOND;
        let now = u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        let next = |busy_until: u64| {
            let next = busy_until.max(now).saturating_add(EACH);
            (next - now <= EACH * FAILURES_BURST).then_some(next)
        };
        self.busy_until.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

impl Record {
    /// Cuts what a client may have made long, and what may be secret.
    fn bounded(mut self) -> Self {
        if let Some(query) = self.path.find('?') {
            self.path.truncate(query);
        }
        for text in [&mut self.method, &mut self.authority, &mut self.path, &mut self.request_id] {
            if text.len() > TEXT_MAX {
                let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                *text = format!("{}…", &text[..end]);
            }
        }
        self
    }
}

impl Writer {
    /// Adds the counts to a registry.
    ///
    /// # Errors
    /// When the registry has metrics of these names.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let Shared { all: _, busy_until: _, started: _, written, dropped, suppressed } = &*self.shared;
        for counter in [written, dropped, suppressed] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(())
    }

    /// Writes until `ended`, and then what is left, for a second at most. What cannot be written is dropped and counted, and writing goes
    /// on with the next. Not cancel safe: dropped, it loses a batch.
    pub async fn run(mut self, out: impl AsyncWrite + Unpin, ended: impl Future<Output = ()>) {
        let ending = Notify::new();
        let finished = {
            let mut serving = pin!(self.serve(out, &ending));
            // Whoever is second goes on below: nothing is lost by either.
            tokio::select! {
                () = &mut serving => return,
                () = ended => ending.notify_one(),
            }
            timeout(FLUSH_TIMEOUT, serving).await.is_ok()
        };
        if !finished {
            let lost = self.receiver.len() + self.writing;
            self.shared.dropped.inc_by(lost as u64);
            tracing::warn!(lost, "access log lost at the end: its reader is too slow");
        }
    }

    /// Writes until all handles are gone, or `ending` is notified and all is written.
    async fn serve(&mut self, mut out: impl AsyncWrite + Unpin, ending: &Notify) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut failing = false;
        let mut settings_live = true;
        loop {
            tokio::select! {
                // `recv_many` is cancel safe: what is not in the batch is in the channel. 0: closed and empty.
                received = self.receiver.recv_many(&mut batch, BATCH_MAX) => match received {
                    0 => return,
                    _ => self.write(&mut out, &mut batch, &mut failing).await,
                },
                changed = self.settings.changed(), if settings_live => {
                    settings_live = changed.is_ok();
                    self.shared.all.store(self.settings.borrow_and_update().access_log, Relaxed);
                }
                () = ending.notified() => self.receiver.close(),
            }
        }
    }

    /// Writes a batch and empties it.
    async fn write(&mut self, out: &mut (impl AsyncWrite + Unpin), batch: &mut Vec<Record>, failing: &mut bool) {
        self.writing = batch.len();
        let count = batch.len() as u64;
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for record in batch.drain(..) {
            line::write(&record, &mut lines);
        }
        let written = async {
            out.write_all(&lines).await?;
            out.flush().await
        };
        let written = written.await;
        self.writing = 0;
        match written {
            Ok(()) => {
                self.shared.written.inc_by(count);
                *failing = false;
            }
            Err(error) => {
                self.shared.dropped.inc_by(count);
                if !std::mem::replace(failing, true) {
                    tracing::warn!(%error, "the access log cannot be written, records are dropped until it can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
