//! A mesh from nothing, and the canary example as ordinary Deployments and Services.

use heddle_tests::cluster::World;
use heddle_tests::cluster::load::{Load, Tallies};
use heddle_tests::cluster::mesh::NAMESPACE;
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::report::{millis, seconds};
use heddle_tests::cluster::wire::{Capture, Flow, begins_with_tls, contains};
use heddle_tests::cluster::workload::{ALL_PORTS, HTTP, Workload, account, service, split};
use serde_json::json;
use tokio::time::Instant;

/// The example, as it is in the repository.
const SERVICES: &str = include_str!("../../../examples/canary/services.yaml");
const ROUTES: &str = include_str!("../../../examples/canary/routes.yaml");
const POLICY: &str = include_str!("../../../examples/canary/policy.yaml");

/// The chart is there; a route of a kind that was installed after it is taken in without a restart; a pod gets its sidecar.
pub(crate) async fn installed_from_nothing(world: &World) {
    let began = Instant::now();
    let namespace = world.namespace("first", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.api.apply(&split(&namespace, "HTTPRoute", "server", ("server", 80), &[("server", 1)])).await;
    world.accepted(&format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/server")).await;
    world.report.figure("install", "Gateway API installed after the mesh: a route is accepted", seconds(began.elapsed()));
    let pod = world.start_pod(&Workload::server(&namespace, "server").pod()).await;
    assert!(pod.is_injected(), "no sidecar in {:#}", pod.object["spec"]["initContainers"]);
    for pod in world.control_plane().await {
        assert!(!pod.is_injected(), "the control plane's own {} has a sidecar", pod.name);
        let restarts = pod.object["status"]["containerStatuses"][0]["restartCount"].as_u64();
        assert_eq!(restarts, Some(0), "{} of {NAMESPACE} was restarted", pod.name);
    }
}

/// The example's pods: each version a Deployment with its service account.
async fn shop(world: &World) -> String {
    let namespace = world.namespace("canary", true).await;
    for name in ["front", "reviews", "ratings"] {
        world.api.apply(&account(&namespace, name)).await;
    }
    world.api.apply_manifest(SERVICES, &namespace).await;
    world.api.apply_manifest(ROUTES, &namespace).await;
    world.api.apply_manifest(POLICY, &namespace).await;
    let of =
        |name: &str, app: &str, version: &str| Workload::server(&namespace, name).label("app", app).label("version", version).account(app);
    let deployments = [
        of("front", "front", "v1").deployment(1),
        of("reviews-v1", "reviews", "v1").deployment(2),
        of("reviews-v2", "reviews", "v2").deployment(1),
        of("ratings", "ratings", "v1").deployment(1),
    ];
    for deployment in &deployments {
        world.api.apply(deployment).await;
    }
    for deployment in &deployments {
        world.start(deployment).await;
    }
    namespace
}

/// Of the answers of both versions, how many percent are of v2.
fn share(tallies: &Tallies) -> f64 {
    let count = |app| f64::from(u32::try_from(tallies.of(app)).unwrap());
    100.0 * count("reviews-v2") / (count("reviews-v1") + count("reviews-v2"))
}

/// Shares by weight, the header's rule, an edit while requests are under way, the chain of three applications, and mTLS by the metrics.
pub(crate) async fn by_weight_by_header_and_edited_live(world: &World) {
    let namespace = shop(world).await;
    let route = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/reviews");
    world.accepted(&route).await;
    let load =
        Load::start(world, &namespace, "load", &["http://reviews/", "--busy", "4", "--idle", "1", "--fresh", "1", "--rate", "20"]).await;
    let testers = ["http://reviews/", "--busy", "1", "--idle", "0", "--fresh", "1", "--header", "end-user: beta-tester"];
    let testers = Load::start(world, &namespace, "testers", &testers).await;

    let window = until_requests(world, &load, 1500).await;
    world.report.figure("canary", "share of the version that has 10 %", format!("{:.1} % of {}", share(&window), window.total()));
    // Five times the standard deviation of 1,500 draws of a tenth.
    assert!((share(&window) - 10.0).abs() <= 4.0, "{:.1} %: {window:?}", share(&window));

    let weights = |v1: u32, v2: u32| {
        let backends = json!([{"name": "reviews-v1", "port": 80, "weight": v1}, {"name": "reviews-v2", "port": 80, "weight": v2}]);
        let mut rules = json!([{}, {"name": "everybody", "backendRefs": backends}]);
        rules[0] = json!({
            "name": "beta-testers",
            "matches": [{"headers": [{"name": "end-user", "value": "beta-tester"}]}],
            "backendRefs": [{"name": "reviews-v2", "port": 80}],
        });
        json!({"spec": {"rules": rules}})
    };
    let began = Instant::now();
    world.api.patch(&route, &weights(0, 100)).await;
    world.until("the edit to be in force", async || only(&load, world, "reviews-v2").await).await;
    world.report.figure("canary", "an edit, until 20 requests in a row show it", millis(began.elapsed()));
    world.api.patch(&route, &weights(50, 50)).await;
    world
        .until("the next edit to be in force", async || {
            let window = load.more(world, 2).await;
            if window.of("reviews-v1") > 0 { Ok(()) } else { Err(format!("{window:?}")) }
        })
        .await;
    let window = until_requests(world, &load, 500).await;
    assert!((share(&window) - 50.0).abs() <= 12.0, "{:.1} %: {window:?}", share(&window));

    let all = testers.tallies().await;
    all.assert_flawless("the edits (beta testers)");
    assert_eq!(all.of("reviews-v1"), 0, "a beta tester saw the old version: {all:?}");
    let all = load.tallies().await;
    all.assert_flawless("the edits");
    world.report.figure("canary", "requests during live edits", all.words());

    let front = &world.pods(&namespace, "app=front").await[0];
    let chain = front.call("http://reviews/via?http://ratings/chain").await.unwrap();
    assert!(chain["body"].as_str().unwrap_or_default().contains("ratings"), "{chain}");
    served_by_mtls(world, &namespace).await;
}

/// So many requests from now on.
async fn until_requests(world: &World, load: &Load, requests: u64) -> Tallies {
    let before = load.tallies().await;
    world
        .until(&format!("{requests} requests"), async || {
            let window = load.tallies().await.since(&before);
            if window.total() >= requests { Ok(window) } else { Err(format!("{}", window.total())) }
        })
        .await
}

/// Whether the next 20 answers are all of one version.
async fn only(load: &Load, world: &World, app: &str) -> Result<(), String> {
    let window = until_requests(world, load, 20).await;
    if window.of(app) == window.total() { Ok(()) } else { Err(format!("{window:?}")) }
}

/// Every request that sidecars have brought to an application came from a verified peer, but for those of nobody's sidecar.
async fn served_by_mtls(world: &World, namespace: &str) {
    for pod in world.pods(namespace, "app=reviews").await {
        world
            .until("metrics of served requests", async || {
                let metrics = pod.metrics().await?;
                let by = |mtls| metrics.sum("heddle_http_requests_total", &[("direction", "inbound"), ("mtls", mtls)]);
                match (by("true"), by("false")) {
                    (verified, plain) if verified > 0.0 && plain == 0.0 => Ok(()),
                    (verified, plain) => Err(format!("{}: {verified} by mTLS and {plain} without", pod.name)),
                }
            })
            .await;
    }
}

/// Packets between the pods' network namespaces: TLS and nothing else between meshed pods; a pair outside the mesh shows that the same
/// look finds what is in the clear.
pub(crate) async fn nothing_in_the_clear_between_pods(world: &World) {
    let meshed = world.namespace("wire", true).await;
    let outside = world.namespace("clear", false).await;
    let mut servers = Vec::new();
    for namespace in [&meshed, &outside] {
        world.api.apply(&service(namespace, "server", "server", &ALL_PORTS)).await;
        servers.push(world.start_pod(&Workload::server(namespace, "server").pod()).await);
    }
    let capture = Capture::start().await;
    let marker = format!("secret-marker-{}", fastrand::u64(..));
    let mut clients = Vec::new();
    for (namespace, is_meshed) in [(&meshed, true), (&outside, false)] {
        let urls = ["http", "h2c"].map(|kind| format!("{kind}://server:{}/{marker}", if kind == "http" { 80 } else { 81 }));
        let args = [urls[0].as_str(), &urls[1], "grpc://server:82", "--busy", "1", "--idle", "0"];
        let load = if is_meshed {
            Load::start(world, namespace, "client", &args).await
        } else {
            Load::start_outside(world, namespace, "client", &args).await
        };
        clients.push(load.pod);
    }
    // The client outside the mesh began last; once its packets are seen, so are the others'.
    world
        .until("the marker between pods outside the mesh", async || {
            let flows = capture.flows();
            let found = flows.iter().any(|(flow, bytes)| is_between(flow, &clients[1], &servers[1]) && contains(bytes, &marker));
            if found { Ok(()) } else { Err(format!("{} flows", flows.len())) }
        })
        .await;
    let flows = capture.flows();
    let between: Vec<_> = flows.iter().filter(|(flow, bytes)| is_between(flow, &clients[0], &servers[0]) && !bytes.is_empty()).collect();
    let to_server = between.iter().filter(|(flow, _)| flow.to.1 == HTTP).count();
    assert!(to_server >= 3, "three protocols make at least three connections: {:?}", flows.keys());
    let look = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    let all: Vec<_> = between.iter().map(|(flow, bytes)| format!("{flow:?}: {} bytes, {:?}", bytes.len(), look(bytes))).collect();
    for (flow, bytes) in &between {
        assert!(begins_with_tls(bytes), "{flow:?} does not begin as TLS does; all of them:\n{}", all.join("\n"));
        assert!(!contains(bytes, &marker), "{flow:?} has the marker in the clear");
    }
    let bytes: usize = between.iter().map(|(_, bytes)| bytes.len()).sum();
    let figure = format!("TLS in all {} directions of connections, {bytes} bytes, the marker in none", between.len());
    world.report.figure("canary", "on the wire between meshed pods", figure);
}

fn is_between(flow: &Flow, a: &Pod, b: &Pod) -> bool {
    let (from, to) = (flow.from.0.to_string(), flow.to.0.to_string());
    (from == a.ip && to == b.ip) || (from == b.ip && to == a.ip)
}
