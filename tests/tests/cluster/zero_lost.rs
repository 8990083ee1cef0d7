//! Nothing is lost: a client with busy, idle and fresh connections over HTTP/1.1, HTTP/2 and gRPC counts every request, and never tries
//! again, while everything around it restarts.

use heddle_tests::cluster::api::path;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::mesh::DEPLOYMENT;
use heddle_tests::cluster::report::{millis, seconds};
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service, split};
use heddle_tests::cluster::{World, say, script};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// All that the client calls.
const URLS: [&str; 3] = ["http://server/", "h2c://server:81/", "grpc://server:82"];

/// Between two pods that are asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// The kubelet looks once a second, and EndpointSlice controller and kube-proxy follow.
const GONE_FROM_SERVICE: Duration = Duration::from_secs(5);

fn deployment(namespace: &str, name: &str) -> String {
    path("apps/v1", "Deployment", Some(namespace), name)
}

/// A disturbance: what it is, and how long it took; asserts that no request failed meanwhile, nor in the ones that follow.
struct Watch<'a> {
    world: &'a World,
    load: &'a Load,
}

impl Watch<'_> {
    async fn during(&self, what: &str, disturbance: impl Future<Output = ()>) {
        say(what);
        let (before, began) = (self.load.tallies().await, Instant::now());
        disturbance.await;
        let took = began.elapsed();
        // Idle connections rest for some seconds: they meet what has changed only now.
        self.load.more(self.world, 4).await;
        let window = self.load.tallies().await.since(&before);
        let figure = format!("{} of {} requests failed (in {})", window.failed(), window.total(), seconds(took));
        self.world.report.figure("zero lost", what, figure);
        window.assert_flawless(what);
    }
}

/// Rolling restarts, scaling, a killed leader, kube-proxy and the API server.
pub(crate) async fn restarts_and_scaling(world: &World) {
    let namespace = world.namespace("zero", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.api.apply(&service(&namespace, "reports", "reports", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(3)).await;
    let reports = world.start(&Workload::server(&namespace, "reports").deployment(1)).await.remove(0);
    let small = ["--busy", "1", "--idle", "1", "--fresh", "1", "--rate", "4", "--rest-ms", "3000"];
    let args: Vec<&str> = URLS.iter().copied().chain(small).chain(["--report", "http://reports"]).collect();
    let peers = Workload::client(&namespace, "peers", &args).deployment(2);
    world.start(&peers).await;
    let args: Vec<&str> = URLS.iter().copied().chain(["--busy", "2", "--idle", "2", "--fresh", "1", "--rest-ms", "6000"]).collect();
    let load = Load::start(world, &namespace, "client", &args).await;
    let watch = Watch { world, load: &load };
    let (server, peers) = (deployment(&namespace, "server"), deployment(&namespace, "peers"));

    watch
        .during("rolling restart of 3 servers", async {
            let _took = world.restart(&server).await;
        })
        .await;
    watch
        .during("rolling restart of the client's peers", async {
            let _took = world.restart(&peers).await;
        })
        .await;
    let asked = reports.ask("/stats").await["asked"].clone();
    assert_eq!((&asked["/ok"], &asked["/failed"]), (&json!(2), &json!(null)), "the peers' own requests, told at their end: {asked}");
    let injection = Injection { world, namespace: &namespace };
    watch
        .during("rolling restart of the control plane", async {
            injection
                .unnoticed("rolling restart of the control plane", async {
                    let _took = world.restart(DEPLOYMENT).await;
                })
                .await;
        })
        .await;
    let deleted = Box::pin(injection.unnoticed("leader's pod deleted", leader_deleted(world)));
    watch.during("leader's pod deleted", deleted).await;
    watch.during("leader's process killed, a Deployment made at once", Box::pin(leader_killed(&injection))).await;
    for program in ["kube-proxy", "kube-apiserver"] {
        watch.during(&format!("{program} restarted"), async { drop(script::cluster("restart", &[program, "3"]).await) }).await;
    }
    let scale = async |replicas: u32| {
        world.api.patch(&server, &json!({"spec": {"replicas": replicas}})).await;
        world.rolled_out(&server).await;
    };
    watch.during("scaled 3 to 1", scale(1)).await;
    watch.during("scaled 1 to 5", scale(5)).await;
    watch.during("scaled 5 to 1", scale(1)).await;
    let all = load.tallies().await;
    world.report.figure("zero lost", "all of it", all.words());
    all.assert_flawless("all of it");
}

/// Asks for pods in a namespace of the mesh while something happens to the control plane; as dry runs, ten a second.
struct Injection<'a> {
    world: &'a World,
    namespace: &'a str,
}

impl Injection<'_> {
    /// How many were asked for, and the refusals, each with its time since the beginning.
    async fn during(&self, disturbance: impl Future<Output = ()>) -> (usize, Vec<(Duration, String)>) {
        let (began, mut asked, mut refusals) = (Instant::now(), 0, Vec::new());
        let pod = Workload::server(self.namespace, "dry-run").pod();
        let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", self.namespace);
        let asking = async {
            loop {
                asked += 1;
                match self.world.api.post(&path, &pod).await {
                    Ok(made) => assert!(made.to_string().contains("heddle-sidecar"), "a pod without its sidecar: {made}"),
                    Err(refusal) => refusals.push((began.elapsed(), refusal.message)),
                }
                sleep(ASK_EVERY).await;
            }
        };
        tokio::select! {
            () = asking => {}
            () = disturbance => {}
        }
        (asked, refusals)
    }

    /// None is refused.
    async fn unnoticed(&self, what: &str, disturbance: impl Future<Output = ()>) {
        let (asked, refusals) = self.during(disturbance).await;
        self.world.report.figure("zero lost", &format!("{what}: injection"), format!("{} of {asked} pods refused", refusals.len()));
        assert!(refusals.is_empty(), "{} of {asked} pods were refused during: {what}: {refusals:#?}", refusals.len());
    }
}

/// The leader ends as pods do: the other replica takes the Lease at once.
async fn leader_deleted(world: &World) {
    let (leader, holder) = (world.leader().await, world.lease_holder().await);
    world.api.delete(&leader.path()).await;
    let taken = world.another_leader(&holder).await;
    world.report.figure("zero lost", "another replica leads, after the leader's pod was deleted", millis(taken));
    world.gone(&leader).await;
    world.rolled_out(DEPLOYMENT).await;
}

/// Kills the leader's process. Its container starts again under the name that the Lease has, or another replica leads once that is over.
/// Whoever asks for a pod by itself in the moment until the dead
/// replica leaves its Service may be refused: the API server tries a webhook's Service once. Deployments and Jobs ask again.
async fn leader_killed(injection: &Injection<'_>) {
    let (world, namespace) = (injection.world, injection.namespace);
    let leader = world.leader().await;
    let began = Instant::now();
    let disturbance = async {
        leader.kill("heddle-control-plane");
        let renewed = world.lease_renewed().await;
        let pods = world.start(&Workload::server(namespace, "meanwhile").deployment(1)).await;
        assert!(pods.iter().all(heddle_tests::cluster::pod::Pod::is_injected));
        let ready = began.elapsed();
        world.report.figure("zero lost", "a Deployment made when the leader is killed is ready after", seconds(ready));
        world
            .until("a leader again", async || {
                let now = world.lease_renewed().await;
                if now == renewed { Err(format!("the Lease was renewed last at {now}")) } else { Ok(()) }
            })
            .await;
        world.report.figure("zero lost", "a replica leads, after the leader was killed (at most)", millis(began.elapsed()));
        world.rolled_out(DEPLOYMENT).await;
    };
    let (asked, refusals) = injection.during(disturbance).await;
    let last = refusals.last().map(|(at, _)| *at).unwrap_or_default();
    let figure = format!("{} of {asked} pods refused, the last one after {}", refusals.len(), millis(last));
    world.report.figure("zero lost", "leader killed: injection of pods asked for once", figure);
    assert!(last <= GONE_FROM_SERVICE, "pods are refused for {last:?} after the leader was killed: {refusals:#?}");
}

/// From 0 to 100 % in steps of ten, over all three protocols.
pub(crate) async fn canary_in_steps(world: &World) {
    let namespace = world.namespace("steps", true).await;
    world.api.apply(&service(&namespace, "server", "none", &ALL_PORTS)).await;
    for version in ["v1", "v2"] {
        world.api.apply(&service(&namespace, version, version, &ALL_PORTS)).await;
        world.start(&Workload::server(&namespace, version).deployment(2)).await;
    }
    let routes = [("HTTPRoute", "http", 80), ("HTTPRoute", "h2c", 81), ("GRPCRoute", "grpc", 82)];
    let step = async |v2: u32| {
        for (kind, name, port) in routes {
            let mut route = split(&namespace, kind, name, ("server", port), &[("v1", 100 - v2), ("v2", v2)]);
            for backend in route["spec"]["rules"][0]["backendRefs"].as_array_mut().unwrap() {
                backend["port"] = port.into();
            }
            world.api.apply(&route).await;
        }
    };
    step(0).await;
    for (kind, name, _) in routes {
        world.accepted(&path("gateway.networking.k8s.io/v1", kind, Some(&namespace), name)).await;
    }
    let args: Vec<&str> =
        URLS.iter().copied().chain(["--busy", "2", "--idle", "1", "--fresh", "1", "--rate", "10", "--rest-ms", "2000"]).collect();
    let load = Load::start(world, &namespace, "client", &args).await;
    let began = Instant::now();
    assert_eq!(load.tallies().await.of("v2"), 0, "v2 has no share yet");
    for v2 in (10..=100).step_by(10) {
        step(v2).await;
        load.more(world, 3).await;
    }
    world
        .until("v2 to have everything", async || {
            let window = load.more(world, 2).await;
            if window.of("v1") == 0 { Ok(()) } else { Err(format!("{window:?}")) }
        })
        .await;
    let all = load.tallies().await;
    world.report.figure("zero lost", "canary 0 to 100 in steps of 10", format!("{} ({})", all.words(), seconds(began.elapsed())));
    all.assert_flawless("the steps");
    for (kind, tally) in &all.0 {
        let both = tally.by_app.contains_key("v1") && tally.by_app.contains_key("v2");
        assert!(both, "{kind} did not see both versions: {:?}", tally.by_app);
    }
}
