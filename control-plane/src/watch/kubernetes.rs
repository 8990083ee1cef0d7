//! The Kubernetes API as a source: one watch for each kind, and every few seconds a look at which kinds there are.
//!
//! ```text
//! kinds    what is watched, and in which version it is served
//! held     what was last seen of each kind, so that a list that begins anew yields deletions
//! read     an object of the API → a change of the snapshot, without what nobody asks about
//! ```
//!
//! kube's watcher lists in pages, resumes where it was, and begins anew where the API server has forgotten that (410 Gone). What is added
//! here: kinds that come and go, mistakes that cost one object and nothing else, and batches: everything that has arrived is one step,
//! and nothing is waited for.

mod held;
mod kinds;
mod read;

pub use kinds::Kinds;

use super::{Batch, Problem, Severity};
use crate::ca::Chain;
use crate::metrics::Metrics;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use held::Held;
use kinds::{HEDDLE, Kind};
use kube::core::DynamicObject;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamMap;

/// How many objects are asked for at a time: what client-go asks for; some 5 MB of pods.
const PAGE: u32 = 500;

/// How long one watch goes on, in seconds; it is resumed where it was. An API server that vanished without a word is noticed after it, and
/// five seconds more.
const WATCH: u32 = 60;

/// How long a connection to the API server may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How often to look for kinds that are not there: as long as an operator may wait after installing them.
const LOOK_FOR_ABSENT: Duration = Duration::from_secs(5);

/// How often to look when all are there: what goes away is noticed by its watch first.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How long after a watch says that its kind is not there.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// How often in a row the API server must say that a kind is not served before its objects are gone: policies are among them, and one
/// wrong answer of an API server that starts must not open a door.
const CONFIRMED: u32 = 2;

/// Most events in one batch; there is a batch after each.
const MAX_EVENTS: usize = 4096;

/// Most problems that are told of; nobody reads the thousandth.
const MAX_PROBLEMS: usize = 1_000;

/// The first pause after an error; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// The longest pause: an API server that is back after a restart is asked again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After so long without an error pauses begin anew. Not with the first success: a list that fails has begun well each time.
const CALM: Duration = Duration::from_secs(30);

/// Has a client notice an API server that has vanished without a word: for lists and single requests as for watches. A connection on which
/// nothing was read for longer than any watch may be silent is given up.
pub fn notice_silence(mut config: kube::Config) -> kube::Config {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH) + 10));
    // The silence of a connection that waits in the pool is no silence of the API server.
    config.reset_reader_on_write = true;
    config
}

/// Watches a cluster and sends what changed; the first batch, which may be empty, says that every kind that there is was listed once.
///
/// An API server that is away is waited for, with pauses; what was read before stays in force. Runs until the receiver is gone or it is
/// cancelled; cancel safe.
pub async fn watch_cluster(client: Client, kinds: Kinds, batches: mpsc::Sender<Batch>, metrics: Arc<Metrics>) {
    let mut source = Source::new(client, kinds, metrics);
    loop {
        tokio::select! {
            () = source.wait() => {}
            // Nothing is lost: nobody would take it.
            () = batches.closed() => return,
        }
        source.drain();
        if let Some(batch) = source.batch()
            && batches.send(batch).await.is_err()
        {
            return;
        }
    }
}

type Events = BoxStream<'static, Result<Event<DynamicObject>, watcher::Error>>;
type Found = Result<Vec<Option<&'static str>>, kube::Error>;

/// The watches, and what they have said.
struct Source {
    client: Client,
    kinds: Vec<&'static Kind>,
    /// In the order of `kinds`.
    held: Vec<Held>,
    /// By the place in `kinds`.
    streams: StreamMap<usize, Events>,
    /// The next look at which kinds there are.
    look: BoxFuture<'static, Found>,
    look_at: Instant,
    pauses: Pauses,
    was_looked: bool,
    /// The problems of the last batch; `None`: there was none.
    told: Option<Vec<Problem>>,
    metrics: Arc<Metrics>,
}

impl Source {
    fn new(client: Client, kinds: Kinds, metrics: Arc<Metrics>) -> Self {
        let kinds = kinds.list();
        let mut source = Self {
            held: kinds.iter().map(|kind| Held::new(kind)).collect(),
            look: look(client.clone(), kinds.clone(), Duration::ZERO),
            look_at: Instant::now(),
            client,
            kinds,
            streams: StreamMap::new(),
            pauses: Pauses::default(),
            was_looked: false,
            told: None,
            metrics,
        };
        for (at, kind) in source.kinds.clone().into_iter().enumerate().filter(|(_, kind)| kind.is_built_in()) {
            source.found(at, kind.versions.first().copied());
        }
        source
    }

    /// Waits for one thing to happen, and takes it in.
    ///
    /// Cancel safe: what has happened is taken in before it returns.
    async fn wait(&mut self) {
        tokio::select! {
            Some((at, event)) = self.streams.next() => self.take(at, event),
            found = &mut self.look => self.looked(found),
        }
    }

    /// Takes in everything else that has happened already.
    fn drain(&mut self) {
        for _ in 0..MAX_EVENTS {
            let Some(Some((at, event))) = self.streams.next().now_or_never() else { return };
            self.take(at, event);
        }
    }

    /// What to tell; `None`: no news, or not everything was listed yet.
    fn batch(&mut self) -> Option<Batch> {
        let is_whole = self.was_looked && self.held.iter().all(Held::is_whole);
        if self.told.is_none() && !is_whole {
            return None;
        }
        let changes: Vec<_> = self.held.iter_mut().flat_map(|held| held.take_changes().into_values()).collect();
        let problems: Vec<_> = self.held.iter().flat_map(Held::problems).take(MAX_PROBLEMS).cloned().collect();
        if changes.is_empty() && self.told.as_ref() == Some(&problems) {
            return None;
        }
        self.told = Some(problems.clone());
        Some(Batch { changes, problems })
    }

    fn take(&mut self, at: usize, event: Result<Event<DynamicObject>, watcher::Error>) {
        let Some(held) = self.held.get_mut(at) else { return };
        match event {
            Ok(event) => {
                if matches!(event, Event::Init) {
                    self.metrics.watch_lists.with_label_values(&[held.kind.name]).inc();
                }
                held.take(event);
            }
            Err(error) => {
                self.metrics.watch_errors.with_label_values(&[held.kind.name]).inc();
                tracing::debug!(kind = held.kind.name, %error, "watch");
                if is_missing(&error) {
                    self.look_within(LOOK_SOON);
                } else if is_lost(&error) {
                    let pause = self.pauses.next_pause();
                    self.begin(at, pause);
                } else if let watcher::Error::InitialListFailed(error) = error {
                    self.troubled(at, &error);
                }
            }
        }
    }

    /// A list failed: what is said of it stays until a list succeeds.
    fn troubled(&mut self, at: usize, error: &kube::Error) {
        let Some(held) = self.held.get_mut(at) else { return };
        let is_forbidden = matches!(error, kube::Error::Api(status) if status.code == 403);
        let way_out = if is_forbidden {
            "; allow the control plane's ServiceAccount to list and watch it, or have it not read"
        } else {
            "; what was read before stays in force"
        };
        let message = format!("cannot be listed: {}{way_out}", Chain(error));
        let trouble = of_kind(Severity::Error, held.kind, &message);
        if self.told.is_none() && held.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(kind = held.kind.name, message, "waiting for the API server");
        }
        held.trouble = Some(trouble);
    }

    /// Takes in which kinds there are.
    fn looked(&mut self, found: Found) {
        let next = match found {
            Ok(found) => {
                self.was_looked = true;
                let is_best = |(kind, version): (&&Kind, &Option<_>)| kind.versions.first() == version.as_ref();
                let all_there = self.kinds.iter().zip(&found).all(is_best);
                found.into_iter().enumerate().for_each(|(at, version)| self.found(at, version));
                if all_there { LOOK_AGAIN } else { LOOK_FOR_ABSENT }
            }
            Err(error) => {
                if !self.was_looked {
                    tracing::warn!(error = %Chain(&error), "waiting for the API server to say which kinds it has");
                }
                self.pauses.next_pause()
            }
        };
        self.look_in(next);
    }

    /// Begins, goes on with, or ends the watch of a kind, which is served in this version.
    fn found(&mut self, at: usize, version: Option<&'static str>) {
        let Some(held) = self.held.get_mut(at) else { return };
        match version {
            Some(version) if held.version == Some(version) => held.absences = 0,
            Some(version) => {
                if !held.kind.is_built_in() {
                    tracing::info!(kind = held.kind.name, version, "kind is watched");
                }
                (held.version, held.absences, held.trouble) = (Some(version), 0, None);
                self.begin(at, Duration::ZERO);
                return;
            }
            None if held.version.is_some() => {
                held.absences += 1;
                if held.absences >= CONFIRMED {
                    tracing::warn!(kind = held.kind.name, "kind is not served any more: its objects are gone");
                    self.streams.remove(&at);
                    held.retire();
                }
            }
            None => {}
        }
        // Without these nobody can say what the mesh is to do, and nobody would look for the reason here.
        if held.version.is_none() && held.kind.group == HEDDLE {
            let message = "is not served by the API server: install the CustomResourceDefinitions of the chart";
            held.trouble = Some(of_kind(Severity::Warning, held.kind, message));
        }
    }

    /// Begins the watch of a kind, with a list, after a pause.
    fn begin(&mut self, at: usize, pause: Duration) {
        let Some((kind, version)) = self.held.get(at).and_then(|held| Some((held.kind, held.version?))) else { return };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource(version));
        let config = watcher::Config::default().timeout(WATCH).page_size(PAGE);
        let watch = async move {
            tokio::time::sleep(pause).await;
            watcher(api, config).backoff(Pauses::default())
        };
        self.streams.insert(at, watch.flatten_stream().boxed());
    }

    fn look_within(&mut self, longest: Duration) {
        if self.look_at > Instant::now() + longest {
            self.look_in(longest);
        }
    }

    fn look_in(&mut self, delay: Duration) {
        self.look_at = Instant::now() + delay;
        self.look = look(self.client.clone(), self.kinds.clone(), delay);
    }
}

fn look(client: Client, kinds: Vec<&'static Kind>, delay: Duration) -> BoxFuture<'static, Found> {
    async move {
        tokio::time::sleep(delay).await;
        kinds::served(&client, &kinds).await
    }
    .boxed()
}

/// Whether an error says that there is no such kind.
fn is_missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 404
        }
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchStartFailed(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

/// Whether a watch cannot go on from where it was, whenever it is tried again. kube's watcher begins anew when it hears so of a watch that
/// is open; when a watch is refused for it, it would ask for the same for ever: the version is forgotten (410), or the API server never
/// had it, because its store was restored from a backup (400, 504). Where it is not allowed (401, 403) the list will tell when it is again.
fn is_lost(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => matches!(status.code, 400 | 401 | 403 | 410 | 504),
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

fn of_kind(level: Severity, kind: &Kind, message: &str) -> Problem {
    Problem {
        level,
        file: None,
        line: None,
        column: None,
        object: Some(kind.name.to_owned()),
        field: None,
        message: message.to_owned(),
        text: format!("{}: {message}", kind.name),
    }
}

/// Pauses after errors, with jitter, so that neither watches nor replicas ask together.
#[derive(Debug)]
struct Pauses {
    pause: Duration,
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { pause: FIRST_PAUSE, last: None }
    }
}

impl Pauses {
    fn next_pause(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) > CALM) {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.pause.mul_f64(0.5 + fastrand::f64() / 2.0);
        (self.pause, self.last) = ((self.pause * 2).min(LONGEST_PAUSE), Some(now + pause));
        pause
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.next_pause())
    }
}

impl Backoff for Pauses {
    /// See [`CALM`].
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
