//! Checks of the control plane: its replicas, its webhooks, and whether the API server really reaches them.

use super::authority::roots;
use super::{Finding, authority};
use crate::chart::{self, kinds};
use crate::cluster::release::{CONTROL_PLANE, Installed};
use crate::cluster::{Cluster, ClusterError};
use crate::install::{has_bundle, replicas};
use crate::version::{CONTROL_PLANE_PODS, has_ended, listed};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Where the dry run's pod would be: a namespace that every cluster has, and that injection serves.
const DRY_RUN_NAMESPACE: &str = "default";

/// Before an installation: whether there is one.
pub(super) async fn nothing_installed(cluster: &Cluster, namespace: &str) -> Finding {
    const NAME: &str = "installation";
    match Installed::look(cluster, namespace).await {
        Ok(Installed::Nothing) => Finding::good(NAME, "there is none yet"),
        Ok(Installed::Ours { version, .. }) => {
            Finding::warning(NAME, format!("heddle {version} is in namespace {namespace}"), "heddle upgrade changes it")
        }
        Ok(other) => Finding::warning(NAME, "heddle is installed", other.refusal("upgrade").unwrap_or_default()),
        Err(error) => Finding::not_made(NAME, &error),
    }
}

/// The replicas and their versions.
pub(super) async fn serving(cluster: &Cluster, namespace: &str) -> Vec<Finding> {
    const NAME: &str = "control plane";
    let Some(kind) = kinds::named("Deployment") else { return Vec::new() };
    let deployment = match cluster.get(kind, namespace, CONTROL_PLANE).await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            let text = format!("not in namespace {namespace}");
            return vec![Finding::failure(NAME, text, "heddle install, or --namespace where it is")];
        }
        Err(error) => return vec![Finding::not_made(NAME, &error)],
    };
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let pods = match api.list(&ListParams::default().labels(CONTROL_PLANE_PODS)).await {
        Ok(pods) => pods.items,
        Err(error) => return vec![Finding::not_made(NAME, &cluster.failed("list pods", &error))],
    };
    vec![replicas_of(&deployment, namespace), versions(&pods)]
}

/// Whether there is neither a control plane nor a webhook that waits for one.
pub(super) async fn is_absent(cluster: &Cluster, namespace: &str) -> bool {
    for (kind, name) in [("Deployment", CONTROL_PLANE), ("MutatingWebhookConfiguration", "heddle-injector")] {
        let Some(kind) = kinds::named(kind) else { return false };
        if !matches!(cluster.get(kind, namespace, name).await, Ok(None)) {
            return false;
        }
    }
    true
}

fn replicas_of(deployment: &DynamicObject, namespace: &str) -> Finding {
    const NAME: &str = "control plane";
    let wanted = deployment.data.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
    let look = format!("kubectl describe pods --namespace {namespace} --selector {CONTROL_PLANE_PODS}");
    let available = deployment.data.pointer("/status/availableReplicas").and_then(Value::as_i64).unwrap_or(0);
    match replicas(deployment) {
        Some(missing) if available == 0 => Finding::failure(NAME, missing, look),
        Some(missing) => Finding::warning(NAME, missing, look),
        None if wanted == 0 => {
            let way_out = "running pods go on with what they know, and new meshed pods are refused: set controlPlane.replicas";
            Finding::failure(NAME, "it is scaled to zero", way_out)
        }
        None if wanted == 1 => {
            let way_out = "while it restarts, no new pod of a meshed namespace starts: set controlPlane.replicas to 2";
            Finding::warning(NAME, "its one replica is ready", way_out)
        }
        None => Finding::good(NAME, format!("all {wanted} replicas are ready")),
    }
}

fn versions(pods: &[Pod]) -> Finding {
    const NAME: &str = "control plane version";
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !has_ended(pod)) {
        let version = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app.kubernetes.io/version"));
        *counts.entry(version.cloned().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
    }
    if counts.keys().all(|version| version == chart::VERSION) {
        Finding::good(NAME, listed(&counts))
    } else {
        Finding::warning(NAME, format!("{}, and this is heddle {}", listed(&counts), chart::VERSION), "bring both to one version")
    }
}

/// The configurations of the webhooks, and the Service behind them.
pub(super) async fn webhooks(cluster: &Cluster, namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, kind, needed) in
        [("heddle-injector", "MutatingWebhookConfiguration", true), ("heddle-validator", "ValidatingWebhookConfiguration", false)]
    {
        let Some(kind) = kinds::named(kind) else { continue };
        findings.push(match cluster.get(kind, "", name).await {
            Ok(Some(configuration)) => bundle(name, &configuration.data, heddle_identity::unix_now()),
            Ok(None) if needed => {
                Finding::failure("webhook", format!("{name} is absent: no pod gets a sidecar"), "heddle upgrade, or helm upgrade")
            }
            Ok(None) => Finding::good("webhook", format!("{name} is turned off")),
            Err(error) => Finding::not_made("webhook", &error),
        });
    }
    findings.push(service(cluster, namespace).await);
    findings
}

/// Whether the API server can trust a webhook.
fn bundle(name: &str, configuration: &Value, now: u64) -> Finding {
    const NAME: &str = "webhook";
    const WAY_OUT: &str = "the leader of the control plane writes it: see its log";
    if !has_bundle(configuration) {
        return Finding::failure(NAME, format!("{name} has no caBundle"), WAY_OUT);
    }
    let webhooks = configuration.get("webhooks").and_then(Value::as_array).into_iter().flatten();
    for webhook in webhooks {
        let bundle = webhook.pointer("/clientConfig/caBundle").cloned().unwrap_or_default();
        // The API writes bytes as base64.
        let pem = serde_json::from_value::<ByteString>(bundle).map(|bytes| bytes.0).unwrap_or_default();
        let expiries = authority::expiries(&pem);
        if expiries.is_empty() {
            return Finding::failure(NAME, format!("the caBundle of {name} holds no certificate"), WAY_OUT);
        }
        if expiries.iter().all(|expiry| *expiry <= now) {
            return Finding::failure(NAME, format!("the caBundle of {name} has expired"), WAY_OUT);
        }
    }
    Finding::good(NAME, format!("{name} is trusted by the API server"))
}

/// Whether somebody is behind the Service.
async fn service(cluster: &Cluster, namespace: &str) -> Finding {
    const NAME: &str = "service";
    let api: Api<EndpointSlice> = Api::namespaced(cluster.client(), namespace);
    match api.list(&ListParams::default().labels(&format!("kubernetes.io/service-name={CONTROL_PLANE}"))).await {
        Ok(slices) => {
            let ready = |slice: &EndpointSlice| {
                slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready != Some(false)))
                    .count()
            };
            match slices.items.iter().map(ready).sum::<usize>() {
                0 => Finding::failure(NAME, format!("{CONTROL_PLANE} has no endpoint that is ready"), "see the check `control plane`"),
                count => Finding::good(NAME, format!("{CONTROL_PLANE} has {count} endpoints that are ready")),
            }
        }
        Err(error) => Finding::not_made(NAME, &cluster.failed("list endpointslices", &error)),
    }
}

/// Makes a pod in a dry run: the API server really asks the webhook, and nothing is stored.
pub(super) async fn injection(cluster: &Cluster) -> Finding {
    const NAME: &str = "injection";
    let pod = serde_json::from_value::<Pod>(json!({
        "metadata": { "generateName": "heddle-check-", "namespace": DRY_RUN_NAMESPACE, "labels": { "heddle.dev/inject": "enabled" } },
        "spec": { "containers": [{ "name": "check", "image": "check:1" }] },
    }));
    let Ok(pod) = pod else { return Finding::failure(NAME, "the pod of the dry run is no pod", "report this") };
    let api: Api<Pod> = Api::namespaced(cluster.client(), DRY_RUN_NAMESPACE);
    let answer = api.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await;
    injected(answer.map_err(|error| cluster.failed(format!("create a pod in namespace {DRY_RUN_NAMESPACE} (dry run)"), &error)))
}

/// What the dry run shows.
fn injected(answer: Result<Pod, ClusterError>) -> Finding {
    const NAME: &str = "injection";
    match answer {
        Ok(pod) => {
            let spec = pod.spec.unwrap_or_default();
            if spec.init_containers.unwrap_or_default().iter().any(|container| container.name == "heddle-sidecar") {
                Finding::good(NAME, "a pod got its sidecar (dry run)")
            } else {
                let text = format!("a pod in namespace {DRY_RUN_NAMESPACE} got no sidecar (dry run)");
                Finding::failure(NAME, text, "see the selectors of MutatingWebhookConfiguration heddle-injector")
            }
        }
        // Pod Security looks at the pod that came back from the webhook, so the webhook was reached.
        Err(ClusterError::Forbidden { message, .. } | ClusterError::Refused { message, .. }) if message.contains("PodSecurity") => {
            Finding::good(
                NAME,
                format!(
                    "the webhook answers; Pod Security of namespace {DRY_RUN_NAMESPACE} refuses NET_ADMIN, which the redirection needs"
                ),
            )
        }
        Err(error @ ClusterError::Forbidden { .. }) => Finding::not_made(NAME, &error),
        Err(error) => Finding::failure(
            NAME,
            error.to_string(),
            "the API server must reach the Service heddle-control-plane at port 443 (container port 15017): see firewalls and NetworkPolicies",
        ),
    }
}

/// The roots that the webhooks' configurations hold, as PEM.
pub(super) async fn bundles(cluster: &Cluster) -> Vec<u8> {
    let Some(kind) = kinds::named("MutatingWebhookConfiguration") else { return Vec::new() };
    let Ok(Some(configuration)) = cluster.get(kind, "", "heddle-injector").await else { return Vec::new() };
    let bundle = configuration.data.pointer("/webhooks/0/clientConfig/caBundle").cloned().unwrap_or_default();
    serde_json::from_value::<ByteString>(bundle).map(|bytes| bytes.0).unwrap_or_default()
}

/// The roots that sidecars of some namespace trust, as PEM; empty where there are none.
pub(super) async fn trust_roots(cluster: &Cluster) -> Vec<u8> {
    roots(cluster).await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::cluster::fake;

    fn deployment(wanted: i64, available: i64) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "x" }, "spec": { "replicas": wanted },
            "status": { "updatedReplicas": wanted, "availableReplicas": available, "replicas": wanted },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a_webhook_that_was_left_behind_is_looked_at_without_a_control_plane() {
        assert!(is_absent(&fake::cluster(|_| fake::absent()), "n").await);
        let left = fake::cluster(|request| {
            if request.ends_with("/heddle-injector") { (200, json!({ "metadata": { "name": "heddle-injector" } })) } else { fake::absent() }
        });
        assert!(!is_absent(&left, "n").await);
    }

    #[test]
    fn replicas_decide() {
        let level = |wanted, available| replicas_of(&deployment(wanted, available), "n").level;
        assert_eq!(level(2, 2), Level::Good);
        assert_eq!(level(2, 1), Level::Warning);
        assert_eq!(level(2, 0), Level::Failure);
        assert_eq!(level(1, 1), Level::Warning);
        assert_eq!(level(0, 0), Level::Failure);
    }

    #[test]
    fn a_bundle_that_is_no_certificate_is_a_failure() {
        let configuration = json!({ "webhooks": [{ "clientConfig": { "caBundle": "eA==" } }] });
        assert_eq!(bundle("w", &configuration, 0).text, "the caBundle of w holds no certificate");
        assert_eq!(bundle("w", &json!({}), 0).level, Level::Failure);
    }

    #[test]
    fn the_dry_run_decides() {
        let pod: Pod =
            serde_json::from_value(json!({ "spec": { "containers": [], "initContainers": [{ "name": "heddle-sidecar" }] } })).unwrap();
        assert_eq!(injected(Ok(pod)).level, Level::Good);
        assert_eq!(injected(Ok(Pod::default())).level, Level::Failure);
        let refused = |message: &str| injected(Err(ClusterError::Refused { action: "a".to_owned(), message: message.to_owned() })).level;
        assert_eq!(refused("failed calling webhook"), Level::Failure);
        assert_eq!(refused("violates PodSecurity \"restricted:latest\""), Level::Good);
        let forbidden = ClusterError::Forbidden { action: "a".to_owned(), message: "pods is forbidden".to_owned() };
        assert_eq!(injected(Err(forbidden)).level, Level::Warning);
    }
}
