//! The writer against an API server of a few lines.

use super::*;
use crate::ca::Ca;
use crate::test_support::api::{Answer, Api as Fake, Request};
use crate::test_support::{Folder, objects, trust};
use crate::watch::{Batch, Change, Publisher};
use std::sync::Mutex;

const YAML: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, appProtocol: http}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, generation: 3}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: of-a-gateway, generation: 1}
spec:
  parentRefs: [{name: gateway}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: nowhere, generation: 1}
spec: {targetRefs: [{group: '', kind: Service, name: nobody}]}
";

/// Statuses by path; `conflicts`: so many writes are refused first.
struct Server {
    statuses: Arc<Mutex<HashMap<String, Value>>>,
    conflicts: Arc<Mutex<usize>>,
    fake: Fake,
}

impl Server {
    fn new() -> Self {
        let (statuses, conflicts) = (Arc::new(Mutex::new(HashMap::new())), Arc::new(Mutex::new(0)));
        let fake = Fake::new({
            let (statuses, conflicts) = (statuses.clone(), conflicts.clone());
            move |request| answer(&mut statuses.lock().unwrap(), &mut conflicts.lock().unwrap(), request)
        });
        Self { statuses, conflicts, fake }
    }

    fn written(&self) -> Vec<String> {
        self.fake.requests().into_iter().filter(|request| request.method == "PATCH").map(|request| request.path).collect()
    }
}

fn answer(statuses: &mut HashMap<String, Value>, conflicts: &mut usize, request: &Request) -> Answer {
    let resources = |names: &[&str]| {
        let resources: Vec<_> =
            names.iter().map(|name| json!({"name": name, "kind": "K", "namespaced": true, "singularName": "", "verbs": []})).collect();
        Answer::ok(json!({"kind": "APIResourceList", "groupVersion": "g/v", "resources": resources}))
    };
    match request.path.as_str() {
        "/apis/gateway.networking.k8s.io/v1" => return resources(&["httproutes"]),
        "/apis/heddle.dev/v1alpha1" => return resources(&["trafficpolicies", "meshconfigs"]),
        _ => {}
    }
    let path = request.path.trim_end_matches("/status").to_owned();
    if request.method == "PATCH" {
        if *conflicts > 0 {
            *conflicts -= 1;
            return Answer::refused(409, "Conflict");
        }
        assert_eq!(request.body["metadata"]["resourceVersion"], "7");
        statuses.insert(path.clone(), request.body["status"].clone());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    let status = statuses.get(&path).cloned().unwrap_or_else(|| json!({}));
    Answer::ok(json!({"apiVersion": "g/v", "kind": "K", "metadata": {"name": name, "resourceVersion": "7", "uid": "u"}, "status": status}))
}

struct Fixture {
    sources: Sources,
    events: tokio::sync::mpsc::Receiver<Event>,
    leadership: Leadership,
    _until: watch::Sender<Option<Instant>>,
}

fn fixture() -> Fixture {
    let metrics = Arc::new(Metrics::new().unwrap());
    let mut publisher = Publisher::new(metrics.clone());
    publisher.apply(Batch { changes: objects(YAML).into_iter().map(Change::Apply).collect(), problems: Vec::new() });
    let domain = publisher.trust_domain();
    publisher.trust(&domain, &trust(&domain));
    let (_, views) = watch::channel(Arc::new(publisher.view(None).unwrap()));
    let folder = Folder::new("status");
    let ca = Ca::open(folder.path(), &domain, unix_now()).unwrap();
    let serving = Arc::new(ca.serving(Duration::from_secs(60), unix_now()).unwrap());
    let replicas = Replicas::new("heddle-system", "cp-1", watch::channel(serving).1);
    let (recorder, events) = Recorder::new(metrics.clone());
    let sources = Sources { views, sidecars: Arc::new(Sidecars::new(metrics.clone())), replicas, events: recorder, metrics };
    let (until, led) = watch::channel(Some(Instant::now() + Duration::from_secs(3600)));
    Fixture { sources, events, leadership: Leadership::new(led), _until: until }
}

const CANARY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/canary";

#[tokio::test(start_paused = true)]
async fn statuses_are_written_once_and_refusals_are_told() {
    let server = Server::new();
    let mut fixture = fixture();
    let mut writer = Writer::new(server.fake.client(), fixture.leadership.clone(), &fixture.sources);
    writer.turn().await.unwrap();
    let policy = "/apis/heddle.dev/v1alpha1/namespaces/default/trafficpolicies/nowhere/status";
    assert_eq!(server.written(), [format!("{CANARY}/status"), policy.to_owned()], "a Gateway's route is not ours to speak about");
    let status = server.statuses.lock().unwrap()[CANARY].clone();
    let conditions = &status["parents"][0]["conditions"];
    assert_eq!((&conditions[0]["type"], &conditions[0]["observedGeneration"]), (&json!("Accepted"), &json!(3)));
    assert_eq!(conditions[2]["reason"], "NotInUse");
    let event = fixture.events.recv().await.unwrap();
    assert!(format!("{event:?}").contains("TargetNotFound"), "{event:?}");

    let asked = server.fake.requests().len();
    writer.turn().await.unwrap();
    assert_eq!(server.fake.requests().len(), asked, "nothing is new, and nothing is asked");
    // Another leader reads what there is, and writes nothing.
    let mut next = Writer::new(server.fake.client(), fixture.leadership.clone(), &fixture.sources);
    next.turn().await.unwrap();
    assert_eq!(server.written().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_tried_again_and_is_no_error() {
    let server = Server::new();
    *server.conflicts.lock().unwrap() = 1;
    let fixture = fixture();
    let mut writer = Writer::new(server.fake.client(), fixture.leadership.clone(), &fixture.sources);
    writer.turn().await.unwrap();
    assert!(!server.statuses.lock().unwrap().contains_key(CANARY));
    writer.turn().await.unwrap();
    assert!(server.statuses.lock().unwrap().contains_key(CANARY));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_any_more_writes_nothing() {
    let server = Server::new();
    let fixture = fixture();
    fixture._until.send_replace(None);
    let mut writer = Writer::new(server.fake.client(), fixture.leadership.clone(), &fixture.sources);
    writer.turn().await.unwrap();
    assert_eq!(server.fake.requests().len(), 0);
}

#[test]
fn objects_of_problems_are_named_as_the_api_names_them() {
    let named = |text| named(text).map(|r| (r.api_version, r.namespace, r.name));
    let route = ("gateway.networking.k8s.io/v1".to_owned(), "shop".to_owned(), "canary".to_owned());
    assert_eq!(named("HTTPRoute/shop/canary"), Some(route));
    assert_eq!(named("MeshConfig/default"), Some(("heddle.dev/v1alpha1".to_owned(), String::new(), "default".to_owned())));
    assert_eq!(named("Pod/shop/web"), None);
}
