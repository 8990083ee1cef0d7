//! Which sidecars are connected, and which versions they say are in force: what `/status` shows of them.

use crate::metrics::Metrics;
use crate::serve::force::{self, Counts, Said};
use crate::serve::view::View;
use heddle_model::{Settings, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most discovery streams: eight times the 1,000 connected sidecars of the scale target.
pub const MAX_STREAMS: usize = 8192;

/// Most sidecars that are shown: all connected ones, and as many that have gone.
const MAX_SHOWN: usize = 2 * MAX_STREAMS;

/// Longest reason of a refused version that is kept, in characters.
const MAX_REASON: usize = 512;

/// How long a sidecar that has gone is still shown: long enough to see who left in a rolling update.
const SHOWN_AFTER_END: Duration = Duration::from_secs(600);

/// What is known of all sidecars.
#[derive(Debug)]
pub struct Sidecars {
    records: Mutex<Records>,
    replica: u64,
    /// Counts what changes [`Sidecars::counts`].
    changes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Records {
    streams: usize,
    next: u64,
    // By namespace and workload; at most MAX_SHOWN.
    sidecars: BTreeMap<(String, String), Record>,
}

#[derive(Debug)]
struct Record {
    stream: u64,
    ended: Option<Instant>,
    version: String,
    targets: BTreeMap<Target, Acks>,
    settings: Option<Settings>,
}

#[derive(Debug, Default)]
struct Acks {
    sent: String,
    in_force: Option<String>,
    error: Option<String>,
}

/// One sidecar in `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its workload: a pod's name.
    pub workload: String,
    /// The version that it says it has.
    pub version: String,
    /// Whether its stream is open.
    pub connected: bool,
    /// How many of its targets have the latest version in force.
    pub acks: AckCount,
    /// All its targets.
    pub targets: Vec<TargetStatus>,
}

/// How many targets of a sidecar have the latest version in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AckCount {
    /// So many have.
    pub in_force: usize,
    /// So many there are.
    pub targets: usize,
}

/// One target of a sidecar in `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// The target, such as `outbound reviews:80`.
    pub target: String,
    /// The version that was sent last.
    pub sent: String,
    /// The version that was last acknowledged.
    pub in_force: Option<String>,
    /// Why the sidecar could not take the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// There are [`MAX_STREAMS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyStreams;

impl Sidecars {
    /// Nobody is connected yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { records: Mutex::default(), replica: fastrand::u64(..), changes: watch::Sender::new(0), metrics }
    }

    /// Records a new stream; a second one of the same workload takes the place of the first in the record.
    ///
    /// # Errors
    /// When there are too many.
    pub fn connect(self: &Arc<Self>, namespace: &str, workload: &str, version: &str, now: Instant) -> Result<Connected, TooManyStreams> {
        let mut records = self.lock();
        if records.streams >= MAX_STREAMS {
            return Err(TooManyStreams);
        }
        // Here and not by a timer: only new streams add records.
        records.sidecars.retain(|_, record| record.ended.is_none_or(|ended| now.duration_since(ended) < SHOWN_AFTER_END));
        if records.sidecars.len() >= MAX_SHOWN {
            records.sidecars.retain(|_, record| record.ended.is_none());
        }
        records.streams += 1;
        records.next += 1;
        let stream = records.next;
        let key = (namespace.to_owned(), workload.to_owned());
        let record = Record { stream, ended: None, version: version.to_owned(), targets: BTreeMap::new(), settings: None };
        records.sidecars.insert(key.clone(), record);
        self.metrics.sidecars.set(i64::try_from(records.streams).unwrap_or(i64::MAX));
        drop(records);
        self.changed();
        Ok(Connected { sidecars: self.clone(), key, stream })
    }

    /// Reports on all of them, in the order of their names.
    pub fn report(&self) -> Vec<SidecarStatus> {
        let records = self.lock();
        records.sidecars.iter().map(|((namespace, workload), record)| record.report(namespace, workload)).collect()
    }

    /// In how many of the connected ones each object is in force, by the current answers of `view`.
    pub fn counts(&self, view: &View) -> Counts {
        let said: Vec<_> = {
            let records = self.lock();
            let connected = records.sidecars.iter().filter(|(_, record)| record.ended.is_none());
            connected.map(|((namespace, workload), record)| record.said(namespace, workload, view)).collect()
        };
        Counts { replica: self.replica, objects: force::count(view, &said) }
    }

    /// Tells of changes that [`Sidecars::counts`] would show.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    // Every change is whole when the lock is released, also by a panic.
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn said(&self, namespace: &str, workload: &str, view: &View) -> Said {
        Said {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            targets: self.targets.iter().map(|(target, acks)| (target.clone(), acks.in_force.clone())).collect(),
            has_settings: self.settings.as_ref() == Some(view.settings()),
        }
    }

    fn report(&self, namespace: &str, workload: &str) -> SidecarStatus {
        let Self { stream: _, ended, version, targets, settings: _ } = self;
        SidecarStatus {
            namespace: namespace.to_owned(),
            workload: workload.to_owned(),
            version: version.clone(),
            connected: ended.is_none(),
            acks: AckCount {
                in_force: targets.values().filter(|acks| acks.in_force.as_ref() == Some(&acks.sent)).count(),
                targets: targets.len(),
            },
            targets: targets
                .iter()
                .map(|(target, Acks { sent, in_force, error })| TargetStatus {
                    target: target.to_string(),
                    sent: sent.clone(),
                    in_force: in_force.clone(),
                    error: error.clone(),
                })
                .collect(),
        }
    }
}

/// A stream's place in the record, given up when it is dropped.
#[derive(Debug)]
pub struct Connected {
    sidecars: Arc<Sidecars>,
    key: (String, String),
    stream: u64,
}

impl Connected {
    /// A version of the answer for a target was sent.
    pub fn sent(&self, target: &Target, version: &str) {
        self.with(|record| version.clone_into(&mut record.targets.entry(target.clone()).or_default().sent));
    }

    /// The mesh's settings were sent.
    pub fn sent_settings(&self, settings: &Settings) {
        self.with(|record| record.settings = Some(settings.clone()));
        self.sidecars.changed();
    }

    /// The sidecar took a version (`error` is empty), or could not.
    pub fn acked(&self, target: &Target, version: &str, error: &str) {
        self.sidecars.metrics.acked(error.is_empty());
        // Only what was sent is recorded, so that the peer cannot make the record grow.
        self.with(|record| {
            if let Some(acks) = record.targets.get_mut(target) {
                if error.is_empty() {
                    acks.in_force = Some(version.to_owned());
                    acks.error = None;
                } else {
                    acks.error = Some(error.chars().take(MAX_REASON).collect());
                }
            }
        });
        self.sidecars.changed();
    }

    /// The sidecar does not ask about a target any more.
    pub fn unsubscribed(&self, target: &Target) {
        self.with(|record| drop(record.targets.remove(target)));
    }

    fn with(&self, change: impl FnOnce(&mut Record)) {
        let mut records = self.sidecars.lock();
        // A later stream of the same workload owns the record now.
        if let Some(record) = records.sidecars.get_mut(&self.key).filter(|record| record.stream == self.stream) {
            change(record);
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.with(|record| record.ended = Some(Instant::now()));
        let mut records = self.sidecars.lock();
        records.streams -= 1;
        self.sidecars.metrics.sidecars.set(i64::try_from(records.streams).unwrap_or(i64::MAX));
        drop(records);
        self.sidecars.changed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecars() -> Arc<Sidecars> {
        Arc::new(Sidecars::new(Arc::new(Metrics::new().unwrap())))
    }

    #[track_caller]
    fn check(sidecars: &Sidecars, expected: &[(&str, bool, usize, usize)]) {
        let shown: Vec<_> = sidecars.report().into_iter().map(|s| (s.workload, s.connected, s.acks.in_force, s.acks.targets)).collect();
        let expected: Vec<_> = expected.iter().map(|(w, c, k, n)| ((*w).to_owned(), *c, *k, *n)).collect();
        assert_eq!(shown, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_is_in_force_when_it_is_acknowledged_and_nothing_newer_was_sent() {
        let sidecars = sidecars();
        let connected = sidecars.connect("n", "w", "1", Instant::now()).unwrap();
        let target = Target::InboundPort(80);
        connected.acked(&target, "never sent", "");
        check(&sidecars, &[("w", true, 0, 0)]);
        connected.sent(&target, "a");
        check(&sidecars, &[("w", true, 0, 1)]);
        connected.acked(&target, "a", "");
        check(&sidecars, &[("w", true, 1, 1)]);
        connected.sent(&target, "b");
        connected.acked(&target, "b", "no such index");
        check(&sidecars, &[("w", true, 0, 1)]);
        connected.unsubscribed(&target);
        check(&sidecars, &[("w", true, 0, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_is_shown_for_a_while_and_a_reconnection_keeps_its_record() {
        let sidecars = sidecars();
        let old = sidecars.connect("n", "w", "1", Instant::now()).unwrap();
        let new = sidecars.connect("n", "w", "1", Instant::now()).unwrap();
        drop(old);
        check(&sidecars, &[("w", true, 0, 0)]);
        drop(new);
        check(&sidecars, &[("w", false, 0, 0)]);
        tokio::time::advance(SHOWN_AFTER_END).await;
        let _other = sidecars.connect("n", "x", "1", Instant::now()).unwrap();
        check(&sidecars, &[("x", true, 0, 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_bounded() {
        let sidecars = sidecars();
        let mut streams: Vec<_> = (0..MAX_STREAMS).map(|_| sidecars.connect("n", "w", "1", Instant::now()).unwrap()).collect();
        assert!(sidecars.connect("n", "w", "1", Instant::now()).is_err());
        streams.pop();
        assert!(sidecars.connect("n", "w", "1", Instant::now()).is_ok());
    }
}
