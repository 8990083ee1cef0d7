//! Elections on a paused clock, against an API server that keeps one Lease and its versions.

use super::*;
use crate::test_support::api::{Answer, Api as Fake, Request};
use serde_json::{Value, json};
use std::sync::Mutex;
use tokio::task::JoinHandle;

/// A Lease as an API server keeps it; `down`: it does not answer.
#[derive(Default)]
struct Kept {
    spec: Value,
    version: u64,
    down: bool,
}

#[derive(Clone)]
struct Server {
    kept: Arc<Mutex<Kept>>,
    fake: Fake,
}

impl Server {
    fn new() -> Self {
        let kept = Arc::new(Mutex::new(Kept { spec: json!({}), version: 1, down: false }));
        let fake = Fake::or_silence({
            let kept = kept.clone();
            move |request| answer(&mut kept.lock().unwrap(), request)
        });
        Self { kept, fake }
    }

    fn holder(&self) -> String {
        self.kept.lock().unwrap().spec["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    fn set_down(&self, down: bool) {
        self.kept.lock().unwrap().down = down;
    }
}

fn answer(kept: &mut Kept, request: &Request) -> Option<Answer> {
    if kept.down {
        return None;
    }
    assert_eq!(request.path, "/apis/coordination.k8s.io/v1/namespaces/heddle-system/leases/heddle-control-plane");
    if request.method == "PUT" {
        if request.body["metadata"]["resourceVersion"] != json!(kept.version.to_string()) {
            return Some(Answer::refused(409, "Conflict"));
        }
        kept.spec = request.body["spec"].clone();
        kept.version += 1;
    }
    let metadata = json!({"name": "heddle-control-plane", "resourceVersion": kept.version.to_string()});
    Some(Answer::ok(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": kept.spec})))
}

/// A replica that campaigns.
struct Replica {
    leadership: super::super::Leadership,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(server: &Server, identity: &str) -> Self {
        let (until, led) = watch::channel(None);
        let (stop, stopped) = watch::channel(false);
        let campaign = Campaign::new(server.fake.client(), "heddle-system", identity);
        let task = tokio::spawn(campaign.run(until, stopped, Arc::new(Metrics::new().unwrap())));
        Self { leadership: super::super::Leadership::new(led), stop, task }
    }

    async fn stop(self) {
        self.stop.send_replace(true);
        self.task.await.unwrap();
    }
}

/// Lets so much time pass, in which everybody acts.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_renews_and_the_other_waits() {
    let server = Server::new();
    let mut first = Replica::start(&server, "cp-1");
    first.leadership.gained().await;
    let second = Replica::start(&server, "cp-2");
    for _ in 0..60 {
        pass(Duration::from_secs(1)).await;
        assert!(first.leadership.leads() && !second.leadership.leads());
    }
    let kept = server.kept.lock().unwrap().spec.clone();
    assert_eq!((&kept["leaseDurationSeconds"], &kept["leaseTransitions"]), (&json!(15), &json!(1)));
    assert!(kept["renewTime"].is_string() && kept["acquireTime"].is_string());
}

#[tokio::test(start_paused = true)]
async fn who_ends_in_order_is_followed_at_once() {
    let server = Server::new();
    let mut first = Replica::start(&server, "cp-1");
    first.leadership.gained().await;
    let mut second = Replica::start(&server, "cp-2");
    pass(Duration::from_secs(5)).await;
    first.stop().await;
    assert_eq!(server.holder(), "");
    let left = Instant::now();
    second.leadership.gained().await;
    assert!(left.elapsed() <= RETRY_PERIOD * 2, "{:?}", left.elapsed());
    assert_eq!(server.holder(), "cp-2");
}

#[tokio::test(start_paused = true)]
async fn who_vanishes_is_followed_when_the_lease_has_ended_and_not_before() {
    let server = Server::new();
    let mut first = Replica::start(&server, "cp-1");
    first.leadership.gained().await;
    let mut second = Replica::start(&server, "cp-2");
    pass(Duration::from_secs(5)).await;
    first.task.abort();
    let left = Instant::now();
    second.leadership.gained().await;
    let waited = left.elapsed();
    assert!(waited >= LEASE_DURATION - RETRY_PERIOD * 2 && waited <= LEASE_DURATION + RETRY_PERIOD * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_writing_before_another_may_lead() {
    let server = Server::new();
    let mut first = Replica::start(&server, "cp-1");
    first.leadership.gained().await;
    server.set_down(true);
    let down = Instant::now();
    while first.leadership.leads() {
        pass(Duration::from_millis(100)).await;
    }
    assert!(down.elapsed() <= RENEW_DEADLINE + Duration::from_millis(100), "{:?}", down.elapsed());
    assert!(RENEW_DEADLINE + super::super::WRITE_TIMEOUT < LEASE_DURATION);
    // It comes back as the holder that it still is.
    server.set_down(false);
    first.leadership.gained().await;
    assert_eq!(server.holder(), "cp-1");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_take_it_at_once_one_is_refused() {
    let server = Server::new();
    let (mut a, mut b) =
        (Campaign::new(server.fake.client(), "heddle-system", "a"), Campaign::new(server.fake.client(), "heddle-system", "b"));
    let (a, b) = tokio::join!(a.turn(), b.turn());
    assert_eq!((a.unwrap().is_some(), b.unwrap().is_some()), (true, false));
}

#[tokio::test(start_paused = true)]
async fn a_missing_lease_makes_nobody_a_leader() {
    let fake = Fake::new(|_| Answer::refused(404, "NotFound"));
    let mut campaign = Campaign::new(fake.client(), "heddle-system", "a");
    assert!(campaign.turn().await.unwrap_err().is_not_found());
}
