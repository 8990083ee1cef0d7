//! The chart upgraded while sidecars of the version before still run, and gone without a trace.

use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::mesh::{NAMESPACE, RELEASE};
use heddle_tests::cluster::report::seconds;
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service};
use heddle_tests::cluster::{World, say, script};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::OnceLock;
use tokio::time::Instant;

/// Every object of the API before the chart was installed.
static BEFORE: OnceLock<BTreeSet<String>> = OnceLock::new();
/// The tag of images that speak the next version of the protocol between the planes.
const NEXT: &str = "test-next";
/// Objects that come and go by themselves in any cluster.
const RESTLESS: [&str; 6] = ["events", "leases", "pods", "endpointslices", "controllerrevisions", "componentstatuses"];

/// Takes stock.
pub(crate) async fn before_anything(world: &World) {
    if world.api.find(heddle_tests::cluster::mesh::DEPLOYMENT).await.is_some() {
        say("the chart is installed already: what there was before it is not known, and only names will be looked at");
        return;
    }
    let stock = inventory(world).await;
    assert!(stock.len() > 50, "a cluster has more objects than these: {stock:?}");
    BEFORE.set(stock).expect("once");
}

/// Every object of every kind that can be listed, as `plural.group namespace/name`, with its finalizers.
pub(super) async fn inventory(world: &World) -> BTreeSet<String> {
    let mut versions = vec!["/api/v1".to_owned()];
    for group in world.api.get("/apis").await["groups"].as_array().into_iter().flatten() {
        versions.push(format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap_or_default()));
    }
    let mut found = BTreeSet::new();
    for version in versions {
        let group = version.trim_start_matches("/apis/").trim_start_matches("/api/").split('/').next().unwrap_or_default().to_owned();
        for resource in world.api.get(&version).await["resources"].as_array().into_iter().flatten() {
            let name = resource["name"].as_str().unwrap_or_default();
            let listable = resource["verbs"].as_array().into_iter().flatten().any(|verb| verb == "list");
            if !listable || name.contains('/') {
                continue;
            }
            for object in world.api.list(&format!("{version}/{name}")).await {
                found.insert(line(&group, name, &object));
            }
        }
    }
    found
}

fn line(group: &str, plural: &str, object: &Value) -> String {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    let finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let own: Vec<_> = finalizers.iter().filter(|f| f.to_string().contains("heddle")).map(ToString::to_string).collect();
    // A cluster IP is its Service's.
    let owner = &object["spec"]["parentRef"];
    let (namespace, name) = match (owner["namespace"].as_str(), owner["name"].as_str()) {
        (Some(namespace), Some(name)) if plural == "ipaddresses" => (namespace.to_owned(), name.to_owned()),
        _ => (field("namespace"), field("name")),
    };
    format!("{plural}.{group} {namespace}/{name} {}", own.join(","))
}

/// The chart with images of the next version: old sidecars go on, new pods get new ones, and both talk to each other.
pub(crate) async fn upgraded_with_old_sidecars(world: &World) {
    say("building images of the next version of the protocol");
    script::next_images(NEXT).await;
    let namespace = world.namespace("upgrade", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    let deployment = Workload::server(&namespace, "server").deployment(2);
    world.start(&deployment).await;
    let args = ["http://server/", "h2c://server:81/", "grpc://server:82", "--rest-ms", "4000"];
    let old = Load::start(world, &namespace, "old", &args).await;
    let began = Instant::now();
    world.helm("upgrade", &["--set", &format!("image.tag={NEXT}")]).await.unwrap_or_else(|reason| panic!("helm upgrade: {reason}"));
    world.report.figure("upgrade", "helm upgrade, until two replicas are ready", seconds(began.elapsed()));
    for pod in world.control_plane().await {
        let image = pod.object["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
        assert!(image.ends_with(NEXT), "{} runs {image}", pod.name);
    }
    // Old sidecars hear of what changes now.
    let new = Load::start(world, &namespace, "new", &args).await;
    assert!(sidecar_image(&new.pod.object).ends_with(NEXT), "{}", sidecar_image(&new.pod.object));
    assert!(!sidecar_image(&old.pod.object).ends_with(NEXT), "{}", sidecar_image(&old.pod.object));
    let server = heddle_tests::cluster::api::path_of(&deployment);
    world.restart(&server).await;
    for load in [&old, &new] {
        load.more(world, 4).await;
        let connected = load.pod.metrics().await.unwrap().sum("heddle_control_plane_connected", &[]);
        assert_eq!(connected, 1.0, "{} lost its control plane", load.pod.name);
    }
    let all = old.tallies().await;
    world.report.figure("upgrade", "an old sidecar's client, the servers replaced meanwhile", all.words());
    all.assert_flawless("the upgrade");
    new.tallies().await.assert_flawless("the upgrade, with a new sidecar");
}

fn sidecar_image(pod: &Value) -> String {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let sidecar = containers.into_iter().find(|c| c["name"] == "heddle-sidecar").expect("a sidecar");
    sidecar["image"].as_str().unwrap_or_default().to_owned()
}

/// Uninstalled: nothing of it is left, not in the namespaces of applications either, and those go on.
pub(crate) async fn uninstalled_without_a_trace(world: &World) {
    let namespace = world.namespace("left", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(1)).await;
    let load = Load::start(world, &namespace, "client", &["http://server/", "--busy", "1", "--idle", "1"]).await;
    let began = Instant::now();
    let uninstall = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "120s"];
    script::try_cluster("helm", &uninstall).await.unwrap_or_else(|reason| panic!("helm uninstall: {reason}"));
    world.report.figure("uninstall", "helm uninstall", seconds(began.elapsed()));
    world
        .until_within(heddle_tests::cluster::PATIENCE * 2, "nothing to be left", async || {
            let left = traces(inventory(world).await);
            if left.is_empty() { Ok(()) } else { Err(format!("{} objects: {left:#?}", left.len())) }
        })
        .await;
    world.report.figure("uninstall", "until nothing is left", seconds(began.elapsed()));
    // A pod of a namespace that had opted in starts again, without a sidecar.
    let plain = world.start_pod(&Workload::server(&namespace, "after").pod()).await;
    assert!(!plain.is_injected());
    load.more(world, 3).await;
    load.tallies().await.assert_flawless("the removal of the mesh");
    world.api.delete(&format!("/api/v1/namespaces/{NAMESPACE}")).await;
}

/// What is there and was not, or has our name, but for what any namespace has and what tests have made.
pub(super) fn traces(stock: BTreeSet<String>) -> Vec<String> {
    let of_tests = format!("-{}", std::process::id());
    let ours = |entry: &String| entry.contains("heddle") && !entry.starts_with("events.");
    let new = |entry: &String| BEFORE.get().is_some_and(|before| !before.contains(entry));
    let restless = |entry: &String| RESTLESS.iter().any(|kind| entry.starts_with(&format!("{kind}.")));
    let usual = |entry: &String| {
        ["configmaps.v1 heddle-system/kube-root-ca.crt ", "serviceaccounts.v1 heddle-system/default ", "namespaces.v1 /heddle-system "]
            .contains(&entry.as_str())
    };
    // Namespaces of tests, and what is in them, unless it has our name.
    let test = |entry: &String| entry.split(' ').nth(1).is_some_and(|name| name.contains(&of_tests)) && !entry.contains("heddle");
    let gateway_api = |entry: &String| entry.contains("gateway.networking.k8s.io");
    let left = stock.into_iter().filter(|e| ours(e) || (new(e) && !restless(e) && !test(e) && !gateway_api(e)));
    left.filter(|entry| !usual(entry)).collect()
}
