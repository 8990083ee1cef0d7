//! Clients that keep an address busy, and count what comes of it: so many connections, on each one request after the other.

use crate::http1::Message;
use crate::wait::{self, PATIENCE};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Failures that are kept as text; all are counted.
const KEPT_FAILURES: usize = 20;
/// A head that is longer is a failure.
const HEAD_MAX: usize = 64 * 1024;

/// Waits until no other scenario under load is going on in this process, and keeps others waiting: two of them would measure each other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}

/// What is to be sent, and by how many.
#[derive(Debug, Clone)]
pub struct Plan {
    address: SocketAddr,
    clients: usize,
    request: Vec<u8>,
    reconnect: bool,
    limit: u64,
}

/// What came of the requests so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers with status 200, by the field `X-App` of their heads.
    pub answers: BTreeMap<String, u64>,
    /// Everything else: other answers, and requests without one.
    pub failed: u64,
    /// The first of those in words.
    pub failures: Vec<String>,
    /// The longest that a request took, failed ones too.
    pub slowest: Duration,
}

/// Clients at work; they end when this is dropped.
#[derive(Debug)]
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Plan {
    /// `GET /` to this address, by four clients, until they are told to stop.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, clients: 4, reconnect: false, limit: u64::MAX, request: Vec::new() }.request("GET", "")
    }

    /// So many clients.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Another method, and further fields, each with its line end. A method that needs one has a short body.
    #[must_use]
    pub fn request(mut self, method: &str, fields: &str) -> Self {
        let body = if matches!(method, "POST" | "PUT") { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
        self.request = format!("{method} / HTTP/1.1\r\nHost: load\r\n{fields}{body}").into_bytes();
        self
    }

    /// A connection for each request.
    #[must_use]
    pub fn reconnecting(mut self) -> Self {
        self.reconnect = true;
        self
    }

    /// So many requests and no more.
    #[must_use]
    pub fn limit(mut self, requests: u64) -> Self {
        self.limit = requests;
        self
    }

    /// Begins.
    pub fn start(self) -> Load {
        let plan = Arc::new(self);
        let tally: Arc<Mutex<Tally>> = Arc::default();
        let (stop, stopped) = watch::channel(false);
        let left = Arc::new(AtomicU64::new(plan.limit));
        let mut clients = JoinSet::new();
        for _ in 0..plan.clients {
            clients.spawn(client(plan.clone(), left.clone(), tally.clone(), stopped.clone()));
        }
        Load { tally, stop, clients }
    }

    /// Sends as many as the limit says, and no failure is allowed.
    ///
    /// # Panics
    /// When a request fails.
    pub async fn run(self) -> Tally {
        let tally = self.start().done().await;
        tally.assert_flawless();
        tally
    }
}

impl Tally {
    /// Requests so far.
    pub fn total(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failed
    }

    /// Answers of an application.
    pub fn of(&self, app: &str) -> u64 {
        self.answers.get(app).copied().unwrap_or_default()
    }

    /// The share of an application in all answers, in percent.
    pub fn share(&self, app: &str) -> f64 {
        let all: u64 = self.answers.values().sum();
        // Counts of tests: far below 2^52.
        100.0 * f64::from(u32::try_from(self.of(app)).unwrap_or(u32::MAX)) / f64::from(u32::try_from(all).unwrap_or(u32::MAX))
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let answers = self.answers.iter().map(|(app, n)| (app.clone(), n - earlier.of(app))).collect();
        Self { answers, failed: self.failed - earlier.failed, failures: self.failures.clone(), slowest: self.slowest }
    }

    /// Asserts that every request was answered with 200, and that there was one.
    ///
    /// # Panics
    /// When not.
    pub fn assert_flawless(&self) {
        assert_eq!(
            self.failed,
            0,
            "{} of {} requests failed, the first ones:\n  {}",
            self.failed,
            self.total(),
            self.failures.join("\n  ")
        );
        assert!(self.total() > 0, "no request was made");
    }

    fn count(&mut self, outcome: Result<Message, String>, took: Duration, at: Duration) {
        self.slowest = self.slowest.max(took);
        let reason = match outcome {
            Ok(answer) if answer.status() == 200 => {
                *self.answers.entry(answer.header("x-app").unwrap_or_default().to_owned()).or_default() += 1;
                return;
            }
            Ok(answer) => format!("{}: {}", answer.start, answer.text()),
            Err(reason) => reason,
        };
        self.failed += 1;
        if self.failures.len() < KEPT_FAILURES {
            self.failures.push(format!("after {at:?} (took {took:?}): {reason}"));
        }
    }
}

impl Load {
    /// What has come of it so far.
    ///
    /// # Panics
    /// Never, unless a client did.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic while counting").clone()
    }

    /// Waits for so many more requests, and gives what came of them (and a few more).
    pub async fn more(&self, requests: u64) -> Tally {
        let before = self.tally();
        wait::until(&format!("{requests} more requests"), async || {
            let window = self.tally().since(&before);
            if window.total() >= requests { Ok(window) } else { Err(format!("{} were made", window.total())) }
        })
        .await
    }

    /// Stops after the requests that are under way.
    pub async fn stop(self) -> Tally {
        self.stop.send_replace(true);
        self.done().await
    }

    /// Waits until all requests of the plan are done.
    ///
    /// # Panics
    /// When a client did, or more than two minutes have passed.
    pub async fn done(mut self) -> Tally {
        let all = async {
            while let Some(client) = self.clients.join_next().await {
                client.expect("a client that does not panic");
            }
        };
        timeout(PATIENCE * 4, all).await.expect("the load to end");
        self.tally()
    }
}

async fn client(plan: Arc<Plan>, left: Arc<AtomicU64>, tally: Arc<Mutex<Tally>>, stopped: watch::Receiver<bool>) {
    let began = Instant::now();
    let mut connection = None;
    let ticket = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    while !*stopped.borrow() && ticket() {
        let start = Instant::now();
        let outcome = match timeout(PATIENCE, exchange(&plan, &mut connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let keep = |answer: &Message| !answer.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if plan.reconnect || !outcome.as_ref().is_ok_and(keep) {
            connection = None;
        }
        tally.lock().expect("no panic while counting").count(outcome, start.elapsed(), start - began);
    }
}

/// One request on the connection, which is made when there is none.
async fn exchange(plan: &Plan, connection: &mut Option<TcpStream>) -> io::Result<Message> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(plan.address).await?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    stream.write_all(&plan.request).await?;
    let mut bytes = Vec::with_capacity(1024);
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            let seen = String::from_utf8_lossy(&bytes).into_owned();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("ended without an answer; so far {seen:?}")));
        }
        if bytes.len() > HEAD_MAX {
            return Err(io::Error::other("the answer's head has no end"));
        }
    };
    let mut answer = Message::parse(&bytes[..head]);
    let length: usize = answer.header("content-length").and_then(|v| v.parse().ok()).ok_or_else(|| io::Error::other("no length"))?;
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ended within the body"));
        }
    }
    if bytes.len() > head + length {
        return Err(io::Error::other("more than one answer"));
    }
    answer.body = bytes.split_off(head);
    Ok(answer)
}
