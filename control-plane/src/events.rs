//! Kubernetes Events: what an operator must know, beside the object that it is about. Never waited for, deduplicated, bounded.

use crate::cluster::{self, ApiError, NAME, bounded};
use crate::metrics::{Bound, Metrics};
use heddle_identity::unix_now;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1 as wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Most events that wait to be posted. More at a time say the same thing of many objects, which metrics say better.
const MAX_WAITING: usize = 256;

/// How long the same event about the same object is not repeated.
const QUIET: Duration = Duration::from_secs(600);

/// Most events that are remembered for [`QUIET`].
const MAX_REMEMBERED: usize = 4096;

/// Shortest time between two events: 20 a second at most, whatever happens in the mesh.
const GAP: Duration = Duration::from_millis(50);

/// Longest note, in bytes (events.k8s.io/v1: 1 kB).
const MAX_NOTE: usize = 1024;

/// Longest prefix of an event's name, in bytes: a name has 253, of which 17 tell events of one object apart.
const MAX_PREFIX: usize = 200;

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Such as `v1` or `gateway.networking.k8s.io/v1`.
    pub api_version: String,
    /// Such as `Pod`.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where it is known: `kubectl describe` shows an event only with it.
    pub uid: Option<String>,
}

/// Whether something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It went as it should.
    Normal,
    /// Somebody may have to act.
    Warning,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    regarding: Regarding,
    severity: Severity,
    reason: String,
    note: String,
}

impl Event {
    /// Something went wrong. `reason` is one word in CamelCase of at most 128 characters, `note` a sentence.
    pub fn warning(regarding: Regarding, reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(regarding, Severity::Warning, reason.into(), note.into())
    }

    /// Something went as it should.
    pub fn normal(regarding: Regarding, reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self::new(regarding, Severity::Normal, reason.into(), note.into())
    }

    fn new(regarding: Regarding, severity: Severity, reason: String, mut note: String) -> Self {
        note.truncate(note.floor_char_boundary(MAX_NOTE));
        Self { regarding, severity, reason, note }
    }

    /// The namespace that it is posted into: events about cluster-scoped objects go to `default`.
    fn namespace(&self) -> &str {
        if self.regarding.namespace.is_empty() { "default" } else { &self.regarding.namespace }
    }

    fn to_wire(&self, instance: &str, now: u64) -> wire::Event {
        let Self { regarding: Regarding { api_version, kind, namespace, name, uid }, severity, reason, note } = self;
        // Not `generateName`: it would have to be a name itself, without the dot by which events are told from their objects.
        let prefix = name[..name.floor_char_boundary(MAX_PREFIX)].trim_end_matches(['.', '-']);
        wire::Event {
            metadata: ObjectMeta {
                name: Some(format!("{prefix}.{:016x}", fastrand::u64(..))),
                namespace: Some(self.namespace().to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(timestamp(now))),
            action: Some(reason.clone()),
            reason: Some(reason.clone()),
            note: Some(note.clone()),
            type_: Some(match severity {
                Severity::Normal => "Normal".to_owned(),
                Severity::Warning => "Warning".to_owned(),
            }),
            regarding: Some(ObjectReference {
                api_version: Some(api_version.clone()),
                kind: Some(kind.clone()),
                name: Some(name.clone()),
                namespace: (!namespace.is_empty()).then(|| namespace.clone()),
                uid: uid.clone(),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(format!("heddle.dev/{NAME}")),
            reporting_instance: Some(instance.chars().take(128).collect()),
            ..wire::Event::default()
        }
    }
}

/// A moment for the API, from Unix seconds.
pub(crate) fn timestamp(now: u64) -> Timestamp {
    i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok()).unwrap_or(Timestamp::MAX)
}

/// Where events are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: Option<mpsc::Sender<Event>>,
    metrics: Arc<Metrics>,
}

impl Recorder {
    /// Makes the two ends: the one that hands in, and the one that [`post`] empties.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self { sender: Some(sender), metrics }, receiver)
    }

    /// Drops everything: where there is no cluster, nobody reads events.
    #[must_use]
    pub fn nobody(metrics: Arc<Metrics>) -> Self {
        Self { sender: None, metrics }
    }

    /// Hands in an event, and never waits: when too many wait, it is dropped and counted.
    pub fn record(&self, event: Event) {
        if let Some(sender) = &self.sender
            && sender.try_send(event).is_err()
        {
            self.metrics.refused(Bound::Events);
        }
    }
}

/// Posts what is handed in, one after the other, until cancelled. `instance` is this pod's name. An event that cannot be posted is lost.
pub async fn post(client: Client, instance: String, mut events: mpsc::Receiver<Event>) {
    let mut posted: HashMap<Event, Instant> = HashMap::new();
    while let Some(event) = events.recv().await {
        let now = Instant::now();
        posted.retain(|_, at| now.duration_since(*at) < QUIET);
        if posted.contains_key(&event) {
            continue;
        }
        if posted.len() >= MAX_REMEMBERED {
            posted.clear();
        }
        if let Err(error) = post_one(&client, &instance, &event).await {
            tracing::debug!(%error, reason = event.reason, note = event.note, "event not posted");
        }
        posted.insert(event, now);
        tokio::time::sleep(GAP).await;
    }
}

async fn post_one(client: &Client, instance: &str, event: &Event) -> Result<(), ApiError> {
    let api: Api<wire::Event> = Api::namespaced(client.clone(), event.namespace());
    let (params, body) = (PostParams::default(), event.to_wire(instance, unix_now()));
    bounded(cluster::REQUEST_TIMEOUT, api.create(&params, &body)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::api::{Answer, Api as Fake};

    fn event(name: &str, note: &str) -> Event {
        let regarding = Regarding {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: Some("u".to_owned()),
        };
        Event::warning(regarding, "CertificateRefused", note)
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_event_is_posted_once_in_a_while() {
        let fake = Fake::new(|request| Answer::created(request.body.clone()));
        let (recorder, events) = Recorder::new(Arc::new(Metrics::new().unwrap()));
        for _ in 0..3 {
            recorder.record(event("a", "no"));
            recorder.record(event("b", "no"));
        }
        drop(recorder);
        post(fake.client(), "cp-1".to_owned(), events).await;
        let requests = fake.requests();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert_eq!(requests[0].path, "/apis/events.k8s.io/v1/namespaces/shop/events");
        let body = &requests[0].body;
        assert_eq!(
            (&body["reason"], &body["type"], &body["regarding"]["uid"]),
            (&"CertificateRefused".into(), &"Warning".into(), &"u".into())
        );
        let names: Vec<_> = requests.iter().map(|request| request.body["metadata"]["name"].as_str().unwrap_or_default()).collect();
        assert!(names[0].starts_with("a.") && names[1].starts_with("b.") && names[0].len() == 18, "{names:?}");
    }

    #[tokio::test]
    async fn too_many_are_dropped_and_counted() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let (recorder, _events) = Recorder::new(metrics.clone());
        for _ in 0..=MAX_WAITING {
            recorder.record(event("a", "no"));
        }
        assert!(metrics.text().unwrap().contains("refused_total{bound=\"events\"} 1"));
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        assert_eq!(event("a", &"ä".repeat(1000)).note.len(), 1024);
    }
}
