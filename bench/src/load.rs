//! The load generator: one bounded piece of work against one address, reported by two lines on standard output.

mod closed;
mod held;
mod open;

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::client::{Call, Client, Protocol};
use crate::stats::{Arrivals, Latencies, Summary};

/// Longest that any piece of work may take beyond the time it asks for; phases under an instrumented proxy need minutes.
const LIMIT: Duration = Duration::from_secs(600);

/// Errors after which one client gives up: the run is worthless by then, and its report says so.
const ERRORS_MAX: u64 = 10;

/// What to do, given to the child process as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// What to speak.
    pub(crate) protocol: Protocol,
    /// Whom to call: the client's side of the pair.
    pub(crate) address: SocketAddr,
    /// `Host` or `:authority`.
    pub(crate) authority: String,
    /// Bytes of a gRPC call's message.
    pub(crate) body: usize,
    /// Connections.
    pub(crate) connections: usize,
    /// Streams on each gRPC connection.
    pub(crate) streams: usize,
    /// What to do on them.
    pub(crate) work: Work,
}

/// The kinds of work.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Closed loop: every client sends its next request when the answer to the last one is there.
    Saturate {
        /// Not measured, in milliseconds.
        warm_ms: u64,
        /// Measured, in milliseconds.
        measure_ms: u64,
    },
    /// Open loop at a fixed rate; latency is counted from the time a request was due.
    Fixed {
        /// How requests follow each other.
        arrivals: Arrivals,
        /// Requests per second.
        rate: u64,
        /// Not measured, in milliseconds.
        warm_ms: u64,
        /// Measured, in milliseconds.
        measure_ms: u64,
    },
    /// Closed loop with a new connection for each request.
    Connect {
        /// Not measured, in milliseconds.
        warm_ms: u64,
        /// Measured, in milliseconds.
        measure_ms: u64,
    },
    /// One request on each connection; all are then held open until a line comes on standard input.
    Idle,
    /// Every connection sends, then receives.
    Bulk {
        /// MiB each way on each connection.
        mib: u64,
    },
    /// Exact numbers of requests on the same connections; before each a line is awaited on standard input.
    Phases {
        /// Requests of each phase.
        counts: Vec<u64>,
    },
}

/// What the child reports, one JSON object a line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The measured time begins; with idle connections: all are open.
    Begin,
    /// The measured time, or a phase, is over.
    End(Outcome),
}

/// What came out of the measured time.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Requests (or connections, or transfers) that were answered.
    pub(crate) requests: u64,
    /// Requests that failed, over the whole run.
    pub(crate) errors: u64,
    /// What the first of them said.
    pub(crate) first_error: Option<String>,
    /// Length of the measured time, in seconds.
    pub(crate) seconds: f64,
    /// Latencies of the answered requests.
    pub(crate) latency: Summary,
}

/// Does the work and writes its events to standard output.
pub(crate) async fn run(spec: Spec) -> Result<()> {
    let work = async {
        match spec.work.clone() {
            Work::Saturate { warm_ms, measure_ms } => closed::saturate(&spec, false, millis(warm_ms), millis(measure_ms)).await,
            Work::Connect { warm_ms, measure_ms } => closed::saturate(&spec, true, millis(warm_ms), millis(measure_ms)).await,
            Work::Fixed { arrivals, rate, warm_ms, measure_ms } => {
                open::fixed(&spec, arrivals, rate, millis(warm_ms), millis(measure_ms)).await
            }
            Work::Idle => held::idle(&spec, lines()).await,
            Work::Bulk { mib } => held::bulk(&spec, mib).await,
            Work::Phases { counts } => closed::phases(&spec, &counts, lines()).await,
        }
    };
    timeout(LIMIT, work).await.with_context(|| format!("the work did not end within {LIMIT:?}"))?
}

/// Makes `count` requests on one connection: shows that a pair carries requests, and warms it up.
pub(crate) async fn probe(spec: &Spec, count: usize) -> Result<()> {
    if spec.protocol == Protocol::Tcp {
        return held::probe(spec.address).await;
    }
    let mut clients = Client::connect(spec.protocol, spec.address, None, &spec.call(), 1).await?;
    let client = clients.first_mut().context("there is no client")?;
    for _ in 0..count {
        client.exchange().await?;
    }
    Ok(())
}

impl Spec {
    fn call(&self) -> Call {
        Call { authority: self.authority.clone(), body: self.body }
    }

    /// Opens all connections and gives all clients.
    async fn connect(&self) -> Result<Vec<Client>> {
        let call = self.call();
        let mut clients = Vec::with_capacity(self.connections * self.streams);
        for _ in 0..self.connections {
            clients.extend(Client::connect(self.protocol, self.address, None, &call, self.streams).await?);
        }
        Ok(clients)
    }
}

/// What the clients of one run share.
#[derive(Debug, Default)]
struct Tally {
    stopped: AtomicBool,
    measuring: AtomicBool,
    answered: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
    latencies: Mutex<Latencies>,
}

impl Tally {
    /// A tally that keeps latencies from the start.
    fn measuring() -> Self {
        Self { measuring: AtomicBool::new(true), ..Self::default() }
    }

    fn answer(&self, latency: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.measuring.load(Ordering::Relaxed) {
            lock(&self.latencies).record(latency);
        }
    }

    fn fail(&self, error: &anyhow::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_error).get_or_insert_with(|| format!("{error:#}"));
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Ends the measured time, which began when `answered_before` requests were answered.
    fn outcome(&self, began: Instant, answered_before: u64) -> Outcome {
        self.measuring.store(false, Ordering::Relaxed);
        let latencies = std::mem::take(&mut *lock(&self.latencies));
        Outcome {
            requests: self.answered() - answered_before,
            errors: self.errors.load(Ordering::Relaxed) + latencies.dropped(),
            first_error: lock(&self.first_error).clone(),
            seconds: began.elapsed().as_secs_f64(),
            latency: latencies.summarize(),
        }
    }
}

/// Writes one event as a line.
fn say(event: &Event) -> Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes())?;
    stdout.flush().context("nobody reads the events")
}

/// Reads standard input on a thread of its own; the channel ends with the input.
fn lines() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;
    use crate::origin::{Addresses, Origin};

    pub(super) async fn origin() -> (Addresses, JoinHandle<Result<()>>) {
        let origin = Origin::bind(100).await.unwrap();
        (origin.addresses().unwrap(), tokio::spawn(origin.serve()))
    }

    pub(super) fn spec(protocol: Protocol, address: SocketAddr) -> Spec {
        Spec { protocol, address, authority: "bench".to_owned(), body: 100, connections: 2, streams: 3, work: Work::Idle }
    }

    #[tokio::test]
    async fn every_protocol_of_the_origin_answers() {
        let (addresses, server) = origin().await;
        probe(&spec(Protocol::Http1, addresses.http1), 10).await.unwrap();
        probe(&spec(Protocol::Grpc, addresses.grpc), 10).await.unwrap();
        probe(&spec(Protocol::Tcp, addresses.tcp), 1).await.unwrap();
        server.abort();
    }

    #[tokio::test]
    async fn streams_share_a_connection_only_where_there_are_streams() {
        let (addresses, server) = origin().await;
        assert_eq!(spec(Protocol::Http1, addresses.http1).connect().await.unwrap().len(), 2);
        assert_eq!(spec(Protocol::Grpc, addresses.grpc).connect().await.unwrap().len(), 6);
        server.abort();
    }

    #[tokio::test]
    async fn what_is_no_answer_of_the_origin_is_an_error() {
        let (addresses, server) = origin().await;
        // HTTP/1.1 to the HTTP/2 port, and gRPC to the HTTP/1.1 port.
        assert!(probe(&spec(Protocol::Http1, addresses.grpc), 1).await.is_err());
        assert!(probe(&spec(Protocol::Grpc, addresses.http1), 1).await.is_err());
        server.abort();
    }

    #[test]
    fn events_survive_the_way_through_a_pipe() {
        let outcome = Outcome { requests: 3, first_error: Some("a reason".to_owned()), ..Outcome::default() };
        let line = serde_json::to_string(&Event::End(outcome)).unwrap();
        let Event::End(read) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert_eq!((read.requests, read.first_error.as_deref()), (3, Some("a reason")));
    }
}
