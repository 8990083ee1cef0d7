//! What takes longer than a gate may: an hour under load while everything around restarts, and as many meshed pods as two cores bear.

use heddle_tests::cluster::api::path;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::mesh::DEPLOYMENT;
use heddle_tests::cluster::report::{mebibytes, seconds};
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service, split};
use heddle_tests::cluster::{World, say, script};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How long; `HEDDLE_SOAK_MINUTES` says otherwise.
const MINUTES: u64 = 60;
/// What a sidecar's memory may grow by from its first minutes to the end.
const GROWTH_MAX: u64 = 4 * 1024 * 1024;
/// Steps of density, in pods.
const STEPS: [u32; 4] = [20, 50, 80, 100];

/// Certificates of one minute, a load over three protocols, and one disturbance after the other until the time is over.
pub(crate) async fn an_hour_of_disturbances(world: &World) {
    let minutes = std::env::var("HEDDLE_SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(MINUTES);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    world.mesh_config(&json!({"certificateLifetime": "1m"})).await;
    let namespace = world.namespace("soak", true).await;
    world.api.apply(&service(&namespace, "server", "none", &ALL_PORTS)).await;
    for version in ["v1", "v2"] {
        world.api.apply(&service(&namespace, version, version, &ALL_PORTS)).await;
        world.start(&Workload::server(&namespace, version).deployment(2)).await;
    }
    let route = |v2: u32| split(&namespace, "HTTPRoute", "server", ("server", 80), &[("v1", 100 - v2), ("v2", v2)]);
    world.api.apply(&route(50)).await;
    let args = ["http://server/", "h2c://v1:81/", "grpc://v2:82", "--rest-ms", "6000"];
    let load = Load::start(world, &namespace, "client", &args).await;
    load.more(world, 200).await;
    let before = load.pod.memory("heddle-sidecar").1;
    let mut rounds = 0;
    while Instant::now() < end {
        let version = ["v1", "v2"][rounds % 2];
        let _took = world.restart(&path("apps/v1", "Deployment", Some(&namespace), version)).await;
        world.api.apply(&route([10, 50, 90][rounds % 3])).await;
        match rounds % 4 {
            0 => world.leader().await.kill("heddle-control-plane"),
            1 => drop(script::cluster("restart", &["kube-proxy"]).await),
            2 => drop(script::cluster("restart", &["kube-apiserver", "5"]).await),
            _ => drop(world.restart(DEPLOYMENT).await.as_secs()),
        }
        world.rolled_out(DEPLOYMENT).await;
        load.more(world, 20).await;
        let all = load.tallies().await;
        all.assert_flawless("the soak");
        rounds += 1;
        say(&format!("round {rounds}: {}", all.words()));
    }
    let after = load.pod.memory("heddle-sidecar").1;
    let all = load.tallies().await;
    world.report.figure("soak", &format!("{minutes} min, {rounds} rounds of disturbances"), all.words());
    world.report.figure("soak", "memory of the client's sidecar", format!("{} before, {} after", mebibytes(before), mebibytes(after)));
    assert!(after.saturating_sub(before) <= GROWTH_MAX, "it grew from {} to {}", mebibytes(before), mebibytes(after));
    world.mesh_config(&json!({"certificateLifetime": "24h"})).await;
}

/// More and more meshed pods on the one node; what each sidecar and the control plane take.
pub(crate) async fn as_many_pods_as_fit(world: &World) {
    let namespace = world.namespace("dense", true).await;
    let pods = Workload::new(&namespace, "pod", &["hold"]);
    for step in STEPS {
        let began = Instant::now();
        let all = world.start(&pods.deployment(step)).await;
        let took = began.elapsed();
        let memory: Vec<u64> = all.iter().map(|pod| pod.memory("heddle-sidecar").1).collect();
        let mean = memory.iter().sum::<u64>() / u64::from(step);
        let figure = format!("{}; a sidecar {} anonymous on average", seconds(took), mebibytes(mean));
        world.report.figure("density", &format!("{step} meshed pods, ready after"), figure);
        for pod in world.control_plane().await {
            world.report.figure("density", "a control plane's replica", mebibytes(pod.memory("heddle-control-plane").0));
        }
    }
}
