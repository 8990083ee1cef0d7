//! The kubelet's probes and hooks in strict mode: HTTP, HTTPS, TCP, gRPC and exec, by number and by name, and a TCP probe that says no.

use heddle_tests::cluster::World;
use heddle_tests::cluster::workload::{HTTP, Workload, strict};
use serde_json::{Value, json};

fn all(probe: &Value) -> Value {
    let mut probe = probe.clone();
    probe["periodSeconds"] = 1.into();
    let mut startup = probe.clone();
    startup["failureThreshold"] = 30.into();
    json!({"livenessProbe": probe, "readinessProbe": probe, "startupProbe": startup})
}

/// One pod for each way to probe; all become ready without a restart, and stay.
pub(crate) async fn probes_work_in_strict_mode(world: &World) {
    let namespace = world.namespace("probes", true).await;
    world.api.apply(&strict(&namespace)).await;
    let probes = [
        ("http", json!({"httpGet": {"port": HTTP, "path": "/healthz", "httpHeaders": [{"name": "x-probe", "value": "1"}]}})),
        ("named", json!({"httpGet": {"port": "http", "path": "/healthz"}})),
        ("https", json!({"httpGet": {"port": 8443, "path": "/healthz", "scheme": "HTTPS"}})),
        ("tcp", json!({"tcpSocket": {"port": 9000}})),
        ("grpc", json!({"grpc": {"port": HTTP}})),
        ("exec", json!({"exec": {"command": ["/heddle-test-app", "call", "http://127.0.0.1:8080/healthz"]}})),
    ];
    let server = |name: &str, probe: &Value| {
        let args = ["serve", "--http", "8080", "--https", "8443", "--tcp", "9000"];
        Workload::new(&namespace, name, &args).container(&all(probe)).container(&json!({
            "ports": [{"name": "http", "containerPort": HTTP}],
            "lifecycle": {"postStart": {"httpGet": {"port": HTTP, "path": "/poststart"}}},
        }))
    };
    for (name, probe) in &probes {
        world.api.create(&server(name, probe).pod()).await.unwrap();
    }
    let nobody = Workload::new(&namespace, "nobody", &["serve", "--http", "8080"])
        .container(&json!({"readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1}}));
    world.api.create(&nobody.pod()).await.unwrap();

    let mut ready = Vec::new();
    for (name, _) in &probes {
        ready.push(world.ready_pod(&namespace, name).await);
    }
    for pod in &ready {
        // A hook that comes before the application listens starts the container again, here as without the mesh.
        world
            .until(&format!("the hook of {} to arrive", pod.name), async || {
                let asked = pod.try_ask("/stats").await?["asked"].clone();
                if asked["/poststart"].as_u64() >= Some(1) { Ok(()) } else { Err(asked.to_string()) }
            })
            .await;
    }
    for (name, _) in &probes {
        let pod = world.ready_pod(&namespace, name).await;
        let events = world.api.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=reason%3DUnhealthy")).await;
        // Startup probes may fail while the application starts; the others begin after them.
        let about = |event: &&Value| {
            let message = event["message"].to_string();
            event["involvedObject"]["name"] == pod.name.as_str() && (message.contains("Liveness") || message.contains("Readiness"))
        };
        let failed: Vec<_> = events.iter().filter(about).map(|event| event["message"].clone()).collect();
        let restarts = pod.object["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
        assert!(failed.is_empty() || restarts > 0, "a probe of {name} failed: {failed:?}");
    }
    world
        .until("the probe of a port without a listener to fail", async || {
            let events = world.api.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=reason%3DUnhealthy")).await;
            let about =
                |event: &&Value| event["involvedObject"]["name"] == "nobody" && !event["message"].to_string().contains("heddle-sidecar");
            if events.iter().any(|event| about(&event)) { Ok(()) } else { Err(format!("{} events", events.len())) }
        })
        .await;
    let nobody = world.find_pod(&namespace, "nobody").await.unwrap();
    assert!(!nobody.is_ready(), "nobody listens on 9000, and yet the pod is ready");

    // What the application says of itself still decides.
    let pod = world.start_pod(&Workload::server(&namespace, "moody").pod()).await;
    for (page, wanted) in [("/ready/off", false), ("/ready/on", true)] {
        pod.ask(page).await;
        world
            .until(&format!("the pod after {page}"), async || {
                let now = world.find_pod(&namespace, &pod.name).await.ok_or("gone")?.is_ready();
                if now == wanted { Ok(()) } else { Err(format!("ready: {now}")) }
            })
            .await;
    }
}
