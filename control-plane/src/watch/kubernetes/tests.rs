//! The source against an API server in the same process. The clock is paused: pauses and polls pass at once.

mod server;

use self::server::Server;
use super::super::{Batch, Change, Problem};
use super::{Kinds, watch_cluster};
use crate::metrics::Metrics;
use crate::snapshot::{ObjectKey, Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const PODS: &str = "/api/v1/pods";
const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const GATEWAY_V1: &str = "gateway.networking.k8s.io/v1";
const HTTP_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const OURS: &str = "heddle.dev/v1alpha1";

/// Longer than any pause, poll and watch of the source, on the paused clock.
const LONGEST: Duration = Duration::from_secs(600);

/// What has arrived from a server.
struct Cluster {
    batches: mpsc::Receiver<Batch>,
    task: JoinHandle<()>,
    metrics: Arc<Metrics>,
    snapshot: Snapshot,
    names: BTreeSet<String>,
    problems: Vec<Problem>,
    /// The names of each batch's changes, `-` before those that are gone.
    log: Vec<Vec<String>>,
}

impl Cluster {
    fn watch(server: &Server) -> Self {
        Self::watch_kinds(server, Kinds::default())
    }

    fn watch_kinds(server: &Server, kinds: Kinds) -> Self {
        let (sender, batches) = mpsc::channel(super::super::MAX_BATCHES);
        let metrics = Arc::new(Metrics::new().unwrap());
        let task = tokio::spawn(watch_cluster(server.client(), kinds, sender, metrics.clone()));
        Self { batches, task, metrics, snapshot: Snapshot::default(), names: BTreeSet::new(), problems: Vec::new(), log: Vec::new() }
    }

    /// A server with our definitions, and with everything that is on it taken in.
    async fn started(server: &Server) -> Self {
        let mut cluster = Self::watch(server);
        cluster.batch().await;
        cluster
    }

    async fn batch(&mut self) {
        let Batch { changes, problems } = tokio::time::timeout(LONGEST, self.batches.recv()).await.expect("no batch came").unwrap();
        self.problems = problems;
        let mut names = Vec::new();
        for change in changes {
            let name = match &change {
                Change::Apply(object) => object.id().to_string(),
                Change::Pod(key, _) => format!("Pod/{key}"),
                Change::Delete(id) => format!("-{id}"),
            };
            match name.strip_prefix('-') {
                // What came and went within one batch was never there.
                Some(gone) => _ = self.names.remove(gone),
                None => _ = self.names.insert(name.clone()),
            }
            names.push(name);
            match change {
                Change::Apply(object) => self.snapshot.apply(object),
                Change::Pod(key, pod) => self.snapshot.apply_pod(key, pod),
                Change::Delete(id) => self.snapshot.delete(&id.kind, id.namespace.as_deref().unwrap_or_default(), &id.name),
            };
        }
        names.sort();
        self.log.push(names);
    }

    /// Takes in batches until something is true of what has arrived.
    async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            self.batch().await;
        }
    }

    async fn until_there(&mut self, name: &str) {
        self.until(|cluster| cluster.names.contains(name)).await;
    }

    async fn until_gone(&mut self, name: &str) {
        self.until(|cluster| !cluster.names.contains(name)).await;
    }

    fn problem_texts(&self) -> Vec<&str> {
        self.problems.iter().map(|problem| problem.text.as_str()).collect()
    }
}

/// Waits until something is true of the server.
async fn eventually(condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONGEST, looking).await.expect("it never became true");
}

fn with_ours() -> Server {
    let server = Server::new();
    server.install(OURS, &["trafficpolicies", "authenticationpolicies", "meshconfigs"]);
    server
}

fn with_gateway_api() -> Server {
    let server = with_ours();
    server.install(GATEWAY_V1, &["httproutes", "grpcroutes", "tcproutes", "tlsroutes", "referencegrants"]);
    server
}

fn pod(name: &str) -> Value {
    let containers = json!([{"name": "app", "image": "app", "env": [{"name": "A", "value": "1"}]}]);
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"containers": containers}, "status": {"podIP": "10.0.0.1"}})
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}, "status": {}})
}

fn route(name: &str, weight: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80, "weight": weight}]}],
        },
    })
}

#[tokio::test(start_paused = true)]
async fn the_first_batch_has_everything_and_lists_come_in_pages() {
    let server = with_gateway_api();
    (0..1201).for_each(|index| server.put(PODS, pod(&format!("web-{index}"))));
    server.put(SERVICES, service("web"));
    server.put(HTTP_ROUTES, route("web", &json!(1)));
    server.put("/apis/heddle.dev/v1alpha1/meshconfigs", json!({"metadata": {"name": "default"}, "spec": {}}));
    let cluster = Cluster::started(&server).await;
    assert_eq!(cluster.names.len(), 1204);
    for name in ["Pod/shop/web-1200", "Service/shop/web", "HTTPRoute/shop/web", "MeshConfig/default"] {
        assert!(cluster.names.contains(name), "{name}");
    }
    assert_eq!(cluster.problem_texts(), [""; 0]);
    assert_eq!(server.asked(PODS)[..2], [1, 2]);
    assert!(cluster.metrics.text().unwrap().contains("heddle_control_plane_watch_lists_total{kind=\"Pod\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn changes_and_deletions_follow() {
    let server = with_ours();
    let mut cluster = Cluster::started(&server).await;
    server.put(PODS, pod("a"));
    server.put(SERVICES, service("web"));
    cluster.until_there("Pod/shop/a").await;
    cluster.until_there("Service/shop/web").await;
    server.delete(PODS, "shop", "a");
    cluster.until_gone("Pod/shop/a").await;
    assert_eq!(cluster.names, BTreeSet::from(["Service/shop/web".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_in_the_middle_of_a_line_is_resumed_where_it_was() {
    let server = with_ours();
    let mut cluster = Cluster::started(&server).await;
    server.put(PODS, pod("a"));
    cluster.until_there("Pod/shop/a").await;
    server.cut();
    server.put(PODS, pod("b"));
    cluster.until_there("Pod/shop/b").await;
    assert_eq!(server.asked(PODS)[0], 1, "the list began anew");
}

#[tokio::test(start_paused = true)]
async fn what_happened_while_nobody_listened_comes_as_one_step() {
    let server = with_ours();
    ["same", "gone", "changed"].into_iter().for_each(|name| server.put(PODS, pod(name)));
    let mut cluster = Cluster::started(&server).await;
    server.unheard(|server| {
        server.delete(PODS, "shop", "gone");
        server.put(PODS, json!({"metadata": {"name": "changed", "namespace": "shop", "labels": {"a": "b"}}, "spec": {"containers": []}}));
        server.put(PODS, pod("new"));
    });
    cluster.until_gone("Pod/shop/gone").await;
    assert_eq!(cluster.log[1..], [["-Pod/shop/gone", "Pod/shop/changed", "Pod/shop/new"].map(str::to_owned).to_vec()]);
    assert_eq!(cluster.snapshot.pods.get(&ObjectKey::new("shop", "changed")).unwrap().labels.get("a"), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_saves_a_quiet_watch_from_beginning_anew() {
    let server = with_ours();
    server.put(PODS, pod("a"));
    let mut cluster = Cluster::started(&server).await;
    eventually(|| server.asked(PODS)[2] == 1).await;
    server.put(SERVICES, service("busy"));
    cluster.until_there("Service/shop/busy").await;
    server.bookmark(PODS);
    server.forget();
    // Services have no bookmark, and begin anew; so what is said of pods is not for want of forgetting.
    server.cut();
    eventually(|| server.asked(PODS)[2] > 1 && server.asked(SLICES)[0] > 1).await;
    server.put(PODS, pod("b"));
    cluster.until_there("Pod/shop/b").await;
    assert_eq!(server.asked(PODS)[0], 1);
}

#[tokio::test(start_paused = true)]
async fn kinds_come_and_go_while_it_runs() {
    let server = Server::new();
    let mut cluster = Cluster::started(&server).await;
    assert_eq!(cluster.problems.len(), 3, "{:?}", cluster.problem_texts());
    assert!(cluster.problem_texts()[0].starts_with("TrafficPolicy: is not served by the API server"));

    server.install(OURS, &["trafficpolicies", "authenticationpolicies", "meshconfigs"]);
    cluster.until(|cluster| cluster.problems.is_empty()).await;

    server.install(GATEWAY_V1, &["httproutes"]);
    server.put(HTTP_ROUTES, route("web", &json!(1)));
    cluster.until_there("HTTPRoute/shop/web").await;

    server.uninstall(GATEWAY_V1);
    cluster.until_gone("HTTPRoute/shop/web").await;
    server.put(PODS, pod("a"));
    cluster.until_there("Pod/shop/a").await;

    server.install(GATEWAY_V1, &["httproutes"]);
    server.put(HTTP_ROUTES, route("again", &json!(1)));
    cluster.until_there("HTTPRoute/shop/again").await;
}

#[tokio::test(start_paused = true)]
async fn one_wrong_answer_about_a_kind_opens_no_door() {
    let server = with_ours();
    server.put("/apis/heddle.dev/v1alpha1/meshconfigs", json!({"metadata": {"name": "default"}, "spec": {"mtls": {"mode": "Strict"}}}));
    let mut cluster = Cluster::started(&server).await;
    let before = server.asked(OURS)[0];
    server.hide(OURS, true);
    server.cut();
    eventually(|| server.asked(OURS)[0] == before + 1).await;
    server.hide(OURS, false);
    eventually(|| server.asked(OURS)[0] > before + 3).await;
    server.put(PODS, pod("a"));
    cluster.until_there("Pod/shop/a").await;
    assert!(cluster.names.contains("MeshConfig/default") && !cluster.log.concat().contains(&"-MeshConfig/default".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn the_first_version_that_is_served_is_watched() {
    let server = with_ours();
    let path = |version: &str| format!("/apis/gateway.networking.k8s.io/{version}/tcproutes");
    server.install("gateway.networking.k8s.io/v1alpha2", &["tcproutes"]);
    let tcp = json!({"metadata": {"name": "db", "namespace": "shop"}, "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "db"}], "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]}});
    server.put(&path("v1alpha2"), tcp.clone());
    let mut cluster = Cluster::started(&server).await;
    assert!(cluster.names.contains("TCPRoute/shop/db"), "{:?}", cluster.problem_texts());

    server.install(GATEWAY_V1, &["tcproutes"]);
    server.put(&path("v1"), tcp);
    eventually(|| server.asked(&path("v1"))[2] > 0).await;
    server.delete(&path("v1"), "shop", "db");
    cluster.until_gone("TCPRoute/shop/db").await;
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_not_to_be_read_is_not_asked_for() {
    let server = with_gateway_api();
    server.put(HTTP_ROUTES, route("web", &json!(1)));
    let mut cluster = Cluster::watch_kinds(&server, Kinds { gateway_api: false });
    cluster.batch().await;
    assert!(cluster.names.is_empty());
    assert_eq!((server.asked(HTTP_ROUTES), server.asked(GATEWAY_V1)), ([0; 3], [0; 3]));
}

#[tokio::test(start_paused = true)]
async fn a_mistake_costs_its_object_and_the_last_good_version_stays() {
    let server = with_gateway_api();
    server.put(HTTP_ROUTES, route("bad", &json!("ninety")));
    server.put(HTTP_ROUTES, route("good", &json!(1)));
    let mut cluster = Cluster::started(&server).await;
    assert_eq!(cluster.names, BTreeSet::from(["HTTPRoute/shop/good".to_owned()]));
    let [text] = cluster.problem_texts()[..] else { panic!("{:?}", cluster.problem_texts()) };
    assert!(text.starts_with("HTTPRoute/shop/bad: spec.rules[0].backendRefs[0].weight: expected an integer"), "{text}");

    server.put(HTTP_ROUTES, route("good", &json!(-7)));
    cluster.until(|cluster| cluster.problems.len() == 3).await;
    let good = &cluster.snapshot.http_routes.get(&ObjectKey::new("shop", "good")).unwrap().spec;
    assert_eq!(good.rules[0].backend_refs[0].weight, 1);
    assert!(cluster.problem_texts().contains(&"note: HTTPRoute/shop/good: the last good version stays in force"));

    server.put(HTTP_ROUTES, route("good", &json!(2)));
    server.delete(HTTP_ROUTES, "shop", "bad");
    cluster.until(|cluster| cluster.problems.is_empty()).await;
    let good = &cluster.snapshot.http_routes.get(&ObjectKey::new("shop", "good")).unwrap().spec;
    assert_eq!(good.rules[0].backend_refs[0].weight, 2);
}

#[tokio::test(start_paused = true)]
async fn routes_of_gateways_alone_are_left_to_others() {
    let server = with_gateway_api();
    let mut foreign = route("edge", &json!(1));
    foreign["spec"]["parentRefs"] = json!([{"name": "gateway"}]);
    foreign["spec"]["future"] = json!(true);
    server.put(HTTP_ROUTES, foreign.clone());
    server.put(HTTP_ROUTES, route("moved", &json!(1)));
    let mut cluster = Cluster::started(&server).await;
    assert_eq!((cluster.names.len(), cluster.problems.len()), (1, 0), "{:?}", cluster.problem_texts());
    foreign["metadata"]["name"] = json!("moved");
    server.put(HTTP_ROUTES, foreign);
    cluster.until_gone("HTTPRoute/shop/moved").await;
    server.put(HTTP_ROUTES, route("edge", &json!(1)));
    cluster.until_there("HTTPRoute/shop/edge").await;
}

#[tokio::test(start_paused = true)]
async fn the_rules_between_fields_hold_in_a_cluster_too() {
    let server = with_ours();
    server.put(
        SLICES,
        json!({"metadata": {"name": "web-1", "namespace": "shop"}, "addressType": "IPv6", "ports": [], "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    );
    server.put(SERVICES, service("web"));
    let cluster = Cluster::started(&server).await;
    assert_eq!(cluster.names, BTreeSet::from(["Service/shop/web".to_owned()]));
    let [text] = cluster.problem_texts()[..] else { panic!("{:?}", cluster.problem_texts()) };
    assert!(text.starts_with("EndpointSlice/shop/web-1: endpoints[0].addresses[0]: expected an IPv6 address"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_before_all_is_known_and_a_refusal_is_named_later() {
    let server = with_gateway_api();
    server.put(SERVICES, service("web"));
    server.refuse(HTTP_ROUTES, 403);
    let mut cluster = Cluster::watch(&server);
    eventually(|| server.asked(HTTP_ROUTES)[0] > 5).await;
    assert!(cluster.batches.try_recv().is_err(), "answers without routes would be wrong");
    server.refuse(HTTP_ROUTES, 0);
    cluster.batch().await;
    assert!(cluster.names.contains("Service/shop/web") && cluster.problems.is_empty());

    server.refuse(HTTP_ROUTES, 403);
    server.unheard(|_| {});
    cluster.until(|cluster| !cluster.problems.is_empty()).await;
    assert!(cluster.problem_texts()[0].starts_with("HTTPRoute: cannot be listed: "), "{:?}", cluster.problem_texts());
    assert!(cluster.problem_texts()[0].contains("allow the control plane's ServiceAccount to list and watch it"));
    server.refuse(HTTP_ROUTES, 0);
    cluster.until(|cluster| cluster.problems.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_takes_nothing_out_of_force() {
    let server = with_gateway_api();
    server.put(HTTP_ROUTES, route("web", &json!(1)));
    server.put(PODS, pod("a"));
    let mut cluster = Cluster::started(&server).await;
    let paths = [PODS, SERVICES, SLICES, HTTP_ROUTES];
    paths.iter().for_each(|path| server.refuse(path, 503));
    server.hide_with(GATEWAY_V1, 503);
    server.unheard(|server| server.put(PODS, pod("b")));
    eventually(|| server.asked(PODS)[2] > 10).await;
    paths.iter().for_each(|path| server.refuse(path, 0));
    server.hide(GATEWAY_V1, false);
    cluster.until_there("Pod/shop/b").await;
    assert!(cluster.log.concat().iter().all(|name| !name.starts_with('-')), "{:?}", cluster.log);
}

#[tokio::test(start_paused = true)]
async fn what_decides_nothing_is_no_change_and_takes_no_memory() {
    let server = with_ours();
    let slice = |trigger: &str| {
        let annotations = json!({"endpoints.kubernetes.io/last-change-trigger-time": trigger});
        let labels = json!({"kubernetes.io/service-name": "web"});
        json!({"metadata": {"name": "web-1", "namespace": "shop", "annotations": annotations, "labels": labels}, "addressType": "IPv4", "ports": [], "endpoints": []})
    };
    server.put(SERVICES, service("web"));
    server.put(SLICES, slice("1"));
    let mut cluster = Cluster::started(&server).await;
    let revision = cluster.snapshot.revision();
    let mut web = service("web");
    web["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Update", "apiVersion": "v1"}]);
    web["metadata"]["labels"] = json!({"team": "shop"});
    web["status"]["conditions"] =
        json!([{"type": "A", "status": "True", "reason": "B", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    server.put(SERVICES, web);
    server.put(SLICES, slice("2"));
    cluster.until(|cluster| cluster.log.concat().len() >= 4).await;
    assert_eq!(cluster.snapshot.revision(), revision);
    // It is still there: nothing was compared with nothing.
    let by_service = ObjectKey::new("shop", "web");
    assert_eq!(cluster.snapshot.endpoint_slices.by_index(&by_service).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens_any_more() {
    let cluster = Cluster::started(&with_ours()).await;
    let Cluster { batches, task, .. } = cluster;
    drop(batches);
    tokio::time::timeout(LONGEST, task).await.expect("it goes on").unwrap();
}

/// What can happen to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Put(usize),
    Delete(usize),
    Cut,
    Unheard(usize),
    Bookmark,
    Forget,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..5).prop_map(Step::Put),
        3 => (0_usize..5).prop_map(Step::Delete),
        1 => Just(Step::Cut),
        2 => (0_usize..5).prop_map(Step::Unheard),
        1 => Just(Step::Bookmark),
        1 => Just(Step::Forget),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_the_snapshot_becomes_what_the_cluster_is(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let server = with_ours();
            let mut cluster = Cluster::started(&server).await;
            let mut present: BTreeMap<usize, u64> = BTreeMap::new();
            let mut edition = 0;
            let mut edited = |index: usize| {
                edition += 1;
                let mut pod = pod(&format!("p{index}"));
                pod["metadata"]["labels"] = json!({"edition": edition.to_string()});
                (pod, edition)
            };
            for step in steps {
                match step {
                    Step::Put(index) => {
                        let (pod, edition) = edited(index);
                        server.put(PODS, pod);
                        present.insert(index, edition);
                    }
                    Step::Delete(index) => if present.remove(&index).is_some() { server.delete(PODS, "shop", &format!("p{index}")) },
                    Step::Cut => server.cut(),
                    Step::Unheard(index) => {
                        let (pod, edition) = edited(index);
                        let next = (index + 1) % 5;
                        let has_next = present.remove(&next).is_some();
                        server.unheard(|server| {
                            server.put(PODS, pod);
                            if has_next {
                                server.delete(PODS, "shop", &format!("p{next}"));
                            }
                        });
                        present.insert(index, edition);
                    }
                    Step::Bookmark => server.bookmark(PODS),
                    Step::Forget => server.forget(),
                    Step::Settle => tokio::time::sleep(Duration::from_secs(7)).await,
                }
            }
            let expected: BTreeMap<_, _> = present.iter().map(|(index, edition)| (format!("p{index}"), edition.to_string())).collect();
            cluster.until(|cluster| {
                let pods = cluster.snapshot.pods.iter();
                let found: BTreeMap<_, _> =
                    pods.map(|(key, pod)| (key.name.to_string(), pod.labels.get("edition").unwrap_or_default().to_owned())).collect();
                found == expected
            }).await;
        });
    }
}
