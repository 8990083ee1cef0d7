//! Status: conditions as Gateway API says, how many sidecars have the present version, and columns that answer it at a glance.

use heddle_tests::cluster::api::path;
use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::mesh::conditions;
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service, split};
use heddle_tests::cluster::{World, script};
use serde_json::{Value, json};

/// The condition of a kind.
fn condition<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|c| c["type"] == kind)
}

/// A good route, one whose backend is missing until it comes, and a policy, all with their conditions, in force in both clients.
pub(crate) async fn status_says_what_is_in_force(world: &World) {
    let namespace = world.namespace("status", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(1)).await;
    world.api.apply(&split(&namespace, "HTTPRoute", "good", ("server", 80), &[("server", 1)])).await;
    world.api.apply(&split(&namespace, "HTTPRoute", "missing", ("server", 81), &[("late", 1)])).await;
    let policy = json!({
        "apiVersion": "heddle.dev/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "good", "namespace": namespace},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "server"}], "timeouts": {"request": "5s"}},
    });
    world.api.apply(&policy).await;
    let mut clients = Vec::new();
    for name in ["one", "two"] {
        clients.push(Load::start(world, &namespace, name, &["http://server/", "--busy", "1", "--idle", "0", "--fresh", "0"]).await);
    }
    let route = |name: &str| path("gateway.networking.k8s.io/v1", "HTTPRoute", Some(&namespace), name);
    let good = world.accepted(&route("good")).await;
    let parent = &good["status"]["parents"][0];
    assert_eq!(parent["parentRef"]["name"], "server", "{parent}");
    assert!(parent["controllerName"].as_str().unwrap_or_default().contains('/'), "{parent}");
    world
        .until("the good route's backends to be resolved, and the route to be in force in both clients", async || {
            let object = world.api.get(&route("good")).await;
            let all = conditions(&object);
            let resolved = condition(&all, "ResolvedRefs").is_some_and(|c| c["status"] == "True");
            let in_force = condition(&all, "heddle.dev/InForce");
            let counted = in_force.is_some_and(|c| c["status"] == "True" && c["message"].as_str().unwrap_or_default().contains("2 of 2"));
            if resolved && counted { Ok(()) } else { Err(json!(all).to_string()) }
        })
        .await;
    let refs = |status: &'static str, reason: &'static str| {
        let path = route("missing");
        async move || {
            let object = world.api.get(&path).await;
            let all = conditions(&object);
            let found = condition(&all, "ResolvedRefs").is_some_and(|c| c["status"] == status && c["reason"] == reason);
            if found { Ok(()) } else { Err(json!(all).to_string()) }
        }
    };
    world.until("the missing backend to be named", refs("False", "BackendNotFound")).await;
    world.api.apply(&service(&namespace, "late", "server", &[("h2c", 81, "kubernetes.io/h2c"), ("one", 1, "http")])).await;
    let mut late = split(&namespace, "HTTPRoute", "missing", ("server", 81), &[("late", 1)]);
    late["spec"]["rules"][0]["backendRefs"][0]["port"] = 81.into();
    world.api.apply(&late).await;
    world.until("the backend that came later", refs("True", "ResolvedRefs")).await;

    world.accepted(&path("heddle.dev/v1alpha1", "TrafficPolicy", Some(&namespace), "good")).await;
    columns(world, &namespace).await;
    for client in clients {
        client.tallies().await.assert_flawless("changes of status");
    }
}

/// `kubectl get` answers: accepted, in force in how many, since when.
async fn columns(world: &World, namespace: &str) {
    let table = world
        .until("columns with figures", async || {
            let table = script::try_cluster("kubectl", &["get", "trafficpolicies", "-n", namespace]).await?;
            if table.contains("2/2") { Ok(table) } else { Err(table) }
        })
        .await;
    for column in ["NAME", "TARGET", "ACCEPTED", "IN FORCE", "AGE"] {
        assert!(table.contains(column), "no column {column}:\n{table}");
    }
    for kind in ["meshconfigs", "authenticationpolicies"] {
        let table = script::cluster("kubectl", &["get", kind, "-A"]).await;
        if !table.is_empty() {
            assert!(table.contains("ACCEPTED") && table.contains("AGE"), "{kind}:\n{table}");
        }
    }
}
