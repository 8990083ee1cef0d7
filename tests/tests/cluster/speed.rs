//! How fast a change is in force, and what the mesh adds to a pod's start; memory of both planes.

use heddle_tests::cluster::World;
use heddle_tests::cluster::pod::Pod;
use heddle_tests::cluster::report::{mebibytes, millis, percentile, percentiles};
use heddle_tests::cluster::workload::{ALL_PORTS, HTTP, Workload, account, service, split};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Changes of each kind: enough for a median and a slowest.
const CHANGES: usize = 30;
/// Sidecars that a change is awaited in.
const CLIENTS: usize = 3;
/// A change that takes longer has failed its purpose.
const CHANGE_MAX: Duration = Duration::from_secs(2);

/// Writes a change, and calls from every client until each has seen it: the time of the slowest.
async fn in_force(world: &World, clients: &[Pod], url: &str, app: &str, change: impl Future<Output = Value>) -> Duration {
    let began = Instant::now();
    change.await;
    for client in clients {
        world
            .until(&format!("{app} in {}", client.name), async || {
                // Without a pause between looks: a call takes a millisecond or two.
                let until = Instant::now() + Duration::from_secs(1);
                loop {
                    let answer = client.call(url).await?;
                    if answer["app"] == app {
                        return Ok(());
                    }
                    if Instant::now() > until {
                        return Err(answer.to_string());
                    }
                }
            })
            .await;
    }
    began.elapsed()
}

/// Weights of a route, and endpoints of a Service, changed again and again; from the request to the API server to the last sidecar.
pub(crate) async fn changes_are_in_force(world: &World) {
    let namespace = world.namespace("speed", true).await;
    for version in ["v1", "v2"] {
        world.api.apply(&account(&namespace, version)).await;
        world.api.apply(&service(&namespace, version, version, &ALL_PORTS)).await;
    }
    let mut servers = Vec::new();
    for version in ["v1", "v2"] {
        servers.push(world.start_pod(&Workload::server(&namespace, version).account(version).pod()).await);
    }
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        clients.push(world.start_pod(&Workload::server(&namespace, &format!("client-{n}")).pod()).await);
    }
    world.api.apply(&service(&namespace, "routed", "none", &ALL_PORTS)).await;
    let route = |v1, v2| split(&namespace, "HTTPRoute", "routed", ("routed", 80), &[("v1", v1), ("v2", v2)]);
    in_force(world, &clients, "http://routed/", "v1", world.api.apply(&route(1, 0))).await;
    let mut weights = Vec::new();
    for n in 0..CHANGES {
        let (app, route) = if n % 2 == 0 { ("v2", route(0, 1)) } else { ("v1", route(1, 0)) };
        weights.push(in_force(world, &clients, "http://routed/", app, world.api.apply(&route)).await);
    }
    world.report.figure("speed", &format!("a changed weight, until in force in {CLIENTS} sidecars"), percentiles(&weights));

    let mut sliced = service(&namespace, "sliced", "none", &[("http", 80, "http")]);
    sliced["spec"].as_object_mut().unwrap().remove("selector");
    world.api.apply(&sliced).await;
    let slice = |pod: &Pod| {
        let conditions = json!({"ready": true, "serving": true, "terminating": false});
        let reference = json!({"kind": "Pod", "namespace": namespace, "name": pod.name, "uid": pod.object["metadata"]["uid"]});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "sliced-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "sliced"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": HTTP, "protocol": "TCP", "appProtocol": "http"}],
            "endpoints": [{"addresses": [pod.ip], "conditions": conditions, "targetRef": reference}],
        })
    };
    in_force(world, &clients, "http://sliced/", "v1", world.api.apply(&slice(&servers[0]))).await;
    let mut slices = Vec::new();
    for n in 0..CHANGES {
        let server = &servers[(n + 1) % 2];
        slices.push(in_force(world, &clients, "http://sliced/", &server.name, world.api.apply(&slice(server))).await);
    }
    world.report.figure("speed", &format!("a changed EndpointSlice, until in force in {CLIENTS} sidecars"), percentiles(&slices));
    for (what, values) in [("weight", &weights), ("EndpointSlice", &slices)] {
        let median = percentile(values, 50);
        assert!(median <= CHANGE_MAX, "half of the changes of a {what} took {} and more", millis(median));
    }
    memory(world, &clients).await;
}

/// Resident memory, all of it and without the pages of the binary's file.
async fn memory(world: &World, pods: &[Pod]) {
    let words = |(all, anonymous): (u64, u64)| format!("{} resident, {} of it anonymous", mebibytes(all), mebibytes(anonymous));
    let sidecar = pods.iter().map(|pod| pod.memory("heddle-sidecar")).max().unwrap_or_default();
    world.report.figure("speed", "memory of a sidecar", words(sidecar));
    for pod in world.control_plane().await {
        world.report.figure("speed", "memory of a control plane's replica", words(pod.memory("heddle-control-plane")));
    }
}

/// From the creation of a pod to its condition Ready, with and without the mesh, in turns.
pub(crate) async fn a_pods_start(world: &World) {
    let meshed = world.namespace("start", true).await;
    let outside = world.namespace("start-outside", false).await;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for n in 0..4 {
        for (namespace, times) in [(&meshed, &mut with), (&outside, &mut without)] {
            let began = Instant::now();
            let pod = world.start_pod(&Workload::server(namespace, &format!("pod-{n}")).pod()).await;
            times.push(began.elapsed());
            world.api.delete(&pod.path()).await;
        }
    }
    world.report.figure("speed", "a pod's start in the mesh", percentiles(&with));
    world.report.figure("speed", "a pod's start outside the mesh", percentiles(&without));
    let added = percentile(&with, 50).saturating_sub(percentile(&without, 50));
    world.report.figure("speed", "start-up time that the mesh adds", millis(added));
    // Two more containers to start, a second each (the kubelet looks once a second), and what the machine is busy with besides.
    assert!(added <= Duration::from_secs(8), "the mesh adds {added:?} to a pod's start");
}
