//! Cost follows use: ten thousand Services that nobody calls leave a sidecar as it is.

use heddle_tests::cluster::World;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::report::{mebibytes, seconds};
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Services that nobody calls.
const SERVICES: usize = 10_000;
/// Of them, with an EndpointSlice: most of a cluster's are of the same few shapes, and each object is work for this machine.
const SLICES: usize = 2_000;
/// Requests to the API server at a time.
const AT_ONCE: usize = 16;
/// What a sidecar's memory may differ by: its own traffic goes on meanwhile.
const DIFFERENCE_MAX: u64 = 1024 * 1024;

fn objects(namespace: &str) -> Vec<Value> {
    let mut objects = Vec::new();
    for n in 0..SERVICES {
        let name = format!("unused-{n}");
        // Headless, as the test cluster has 4,000 cluster IPs; a Service is a Service for the mesh.
        let mut service = service(namespace, &name, &name, &[("http", 80, "http"), ("grpc", 90, "grpc")]);
        service["spec"]["clusterIP"] = "None".into();
        service["spec"].as_object_mut().unwrap().remove("selector");
        objects.push(service);
        if n < SLICES {
            let addresses =
                |m: usize| json!({"addresses": [format!("10.{}.{}.{m}", 100 + n / 200, n % 200)], "conditions": {"ready": true}});
            objects.push(json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4",
                "ports": [{"name": "http", "port": 8080}],
                "endpoints": [addresses(1), addresses(2), addresses(3), addresses(4), addresses(5)],
            }));
        }
    }
    objects
}

/// What a sidecar has cost so far.
struct Cost {
    /// Anonymous memory, in bytes.
    memory: u64,
    /// What it has subscribed to.
    targets: f64,
    /// Answers that it was sent.
    updates: f64,
    /// Streams that it has opened: each begins with an answer for each target.
    streams: f64,
}

async fn cost(pod: &Pod) -> Cost {
    let metrics = pod.metrics().await.unwrap();
    let sum = |name| metrics.sum(name, &[]);
    Cost {
        memory: pod.memory("heddle-sidecar").1,
        targets: sum("heddle_config_targets"),
        updates: sum("heddle_config_updates_total"),
        streams: sum("heddle_control_plane_connections_total"),
    }
}

/// Bytes of a sidecar that is under way, before and after.
pub(crate) async fn ten_thousand_services_cost_nothing(world: &World) {
    let namespace = world.namespace("used", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(1)).await;
    let load = Load::start(world, &namespace, "client", &["http://server/", "--busy", "2", "--idle", "0", "--fresh", "1"]).await;
    // Warm: what traffic alone makes of a fresh sidecar's memory is behind it.
    load.more(world, 100).await;
    let before = cost(&load.pod).await;
    let replicas_before: Vec<_> = replicas(world).await;

    let unused = world.namespace("unused", false).await;
    let began = Instant::now();
    let mut left = objects(&unused).into_iter();
    let mut calls = JoinSet::new();
    let api = Arc::new(world.api.clone());
    loop {
        while calls.len() < AT_ONCE
            && let Some(object) = left.next()
        {
            let api = api.clone();
            calls.spawn(async move { api.create(&object).await });
        }
        match calls.join_next().await {
            Some(made) => drop(made.unwrap().unwrap_or_else(|e| panic!("an unused object is refused: {e:?}"))),
            None => break,
        }
    }
    world.report.figure("configuration", &format!("{SERVICES} Services and {SLICES} EndpointSlices made in"), seconds(began.elapsed()));
    // A change behind them all, seen by the sidecar: the control plane has taken in everything before it.
    world.api.apply(&service(&namespace, "last", "server", &ALL_PORTS)).await;
    let caller = world.start_pod(&Workload::server(&namespace, "caller").pod()).await;
    world.until("a Service that was made last", async || caller.call("http://last/").await).await;
    load.more(world, 100).await;

    let after = cost(&load.pod).await;
    let difference = i128::from(after.memory) - i128::from(before.memory);
    let (was, is) = (mebibytes(before.memory), mebibytes(after.memory));
    let figure = format!("{was} before, {is} after: {difference:+} bytes; targets {} and {}", before.targets, after.targets);
    world.report.figure("configuration", "anonymous memory of a sidecar", figure);
    for (before, after) in replicas_before.iter().zip(replicas(world).await) {
        let figure = format!("{} before, {} after", mebibytes(*before), mebibytes(after));
        world.report.figure("configuration", "memory of a control plane's replica", figure);
    }
    assert_eq!(before.targets, after.targets, "targets of a sidecar that uses none of it");
    // A certificate's end, or a busy replica's silence, may have ended a stream meanwhile.
    let (updates, streams) = (after.updates - before.updates, after.streams - before.streams);
    assert!(updates <= streams * after.targets, "{updates} answers in {streams} new streams for {} targets", after.targets);
    assert!(after.memory.saturating_sub(before.memory) <= DIFFERENCE_MAX, "{difference} bytes more");
    load.tallies().await.assert_flawless("ten thousand Services");
}

async fn replicas(world: &World) -> Vec<u64> {
    world.control_plane().await.iter().map(|pod| pod.memory("heddle-control-plane").0).collect()
}
