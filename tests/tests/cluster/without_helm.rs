//! The mesh without Helm: the command `heddle` checks the cluster, installs the same chart, upgrades it, and leaves nothing behind.

use super::removal::{inventory, traces};
use heddle_tests::cluster::mesh::{DEPLOYMENT, NAMESPACE, RELEASE};
use heddle_tests::cluster::report::seconds;
use heddle_tests::cluster::workload::Workload;
use heddle_tests::cluster::{PATIENCE, World, say, script};
use heddle_tests::process;
use serde_json::Value;
use tokio::time::Instant;

const SECRET: &str = "/api/v1/namespaces/heddle-system/secrets/heddle-ca";
const BUDGET: &str = "/apis/policy/v1/namespaces/heddle-system/poddisruptionbudgets/heddle-control-plane";
const INJECTOR: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/heddle-injector";

/// Runs the command on the cluster; its output, or what it said when it failed.
async fn heddle(args: &[&str]) -> Result<String, String> {
    let kubeconfig = script::state().join("kubeconfig");
    let mut all: Vec<&str> = args.to_vec();
    all.extend(["--kubeconfig", kubeconfig.to_str().expect("a path of ASCII")]);
    script::try_run(process::heddle(), &all).await
}

async fn done(args: &[&str]) -> String {
    heddle(args).await.unwrap_or_else(|reason| panic!("heddle {}: {reason}", args.join(" ")))
}

/// The findings of `heddle check`, and whether all is well.
async fn check(args: &[&str]) -> (bool, String) {
    let mut all = vec!["check", "--output", "json"];
    all.extend(args);
    // A failed check is said by the exit status as well.
    let text = match heddle(&all).await {
        Ok(text) | Err(text) => text,
    };
    let json = &text[text.find('{').unwrap_or_default()..];
    let report: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"));
    (report["ok"] == true, report["findings"].to_string())
}

/// From nothing to a mesh and back.
pub(crate) async fn checked_installed_upgraded_and_removed(world: &World) {
    if world.api.find(DEPLOYMENT).await.is_some() {
        say("the chart is installed by Helm: the command says so, and Helm takes it away");
        let refusal = heddle(&["upgrade"]).await.unwrap_err();
        assert!(refusal.contains("helm upgrade heddle CHART --namespace heddle-system"), "{refusal}");
        script::cluster("helm", &["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"]).await;
    }
    // Helm leaves the namespace; the command makes its own.
    if world.api.find(&format!("/api/v1/namespaces/{NAMESPACE}")).await.is_some() {
        world.api.delete(&format!("/api/v1/namespaces/{NAMESPACE}")).await;
    }
    world
        .until("the namespace of the installation before to be gone", async || {
            let found = world.api.find(&format!("/api/v1/namespaces/{NAMESPACE}")).await;
            found.map_or(Ok(()), |namespace| Err(namespace["status"].to_string()))
        })
        .await;
    let (well, findings) = check(&["--pre"]).await;
    assert!(well && findings.contains("there is none yet"), "{findings}");
    let (well, findings) = check(&[]).await;
    assert!(!well && findings.contains("heddle install"), "{findings}");

    let began = Instant::now();
    done(&["install", "--set", "image.tag=test,image.pullPolicy=Never", "--timeout", "3m"]).await;
    world.report.figure("without Helm", "heddle install, until two replicas are ready", seconds(began.elapsed()));
    let (well, findings) = check(&[]).await;
    assert!(well && findings.contains("a pod got its sidecar (dry run)") && findings.contains("days left"), "{findings}");
    let twice = heddle(&["install"]).await.unwrap_err();
    assert!(twice.contains("`heddle upgrade` changes it"), "{twice}");

    let namespace = world.namespace("without-helm", true).await;
    let pod = world.start_pod(&Workload::server(&namespace, "server").pod()).await;
    assert!(pod.is_injected());
    let versions: Value = serde_json::from_str(&done(&["version", "--output", "json"]).await).unwrap();
    assert_eq!(versions["controlPlane"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), 2, "{versions}");
    assert!(versions["sidecars"].as_object().is_some_and(|counts| !counts.is_empty()), "{versions}");

    upgraded(world).await;

    world.delete_namespace(&namespace).await;
    let began = Instant::now();
    done(&["uninstall"]).await;
    world.report.figure("without Helm", "heddle uninstall, until all is gone", seconds(began.elapsed()));
    world
        .until_within(PATIENCE, "nothing to be left", async || {
            let left = traces(inventory(world).await);
            if left.is_empty() { Ok(()) } else { Err(format!("{} objects: {left:#?}", left.len())) }
        })
        .await;
}

/// One replica fewer: what the chart no longer makes goes, what the control plane has written stays, and values given before hold.
async fn upgraded(world: &World) {
    let (authority, injector) = (world.api.get(SECRET).await, world.api.get(INJECTOR).await);
    assert!(authority["data"]["tls.key"].is_string(), "the control plane has filled its Secret");
    done(&["upgrade", "--set", "controlPlane.replicas=1"]).await;
    assert_eq!(world.api.get(SECRET).await["data"], authority["data"]);
    assert_eq!(world.api.get(INJECTOR).await["webhooks"], injector["webhooks"]);
    assert!(world.api.find(BUDGET).await.is_none(), "one replica has no budget");
    let deployment = world.api.get(DEPLOYMENT).await;
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned();
    assert!(image.ends_with(":test") && deployment["spec"]["replicas"] == 1, "{image}, {}", deployment["spec"]["replicas"]);
}
