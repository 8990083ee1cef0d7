//! What an installation still waits for: definitions, replicas, and webhooks that the API server trusts.

use super::{InstallError, LOOK_EVERY};
use crate::chart::kinds;
use crate::cluster::release::CONTROL_PLANE;
use crate::cluster::{Cluster, identity};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{Api, DynamicObject, ListParams};
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep};

/// An API server takes well under a second to serve a new kind.
const ESTABLISHED_MAX: Duration = Duration::from_secs(30);

/// Waits until the API server serves the kinds whose definitions are among the objects.
pub(super) async fn established(cluster: &Cluster, objects: &[Value]) -> Result<(), InstallError> {
    let began = Instant::now();
    for object in objects {
        let (Some(kind), _, name) = identity(object) else { continue };
        if kind.name() != "CustomResourceDefinition" {
            continue;
        }
        while !cluster.get(kind, "", name).await?.is_some_and(|found| condition(&found, "Established").is_some_and(|(holds, _)| holds)) {
            if began.elapsed() > ESTABLISHED_MAX {
                return Err(InstallError::Refused(format!("the API server does not serve {name}: see `kubectl describe crd {name}`")));
            }
            sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// What the control plane still misses; nothing when it serves.
pub(super) async fn missing(cluster: &Cluster, namespace: &str) -> Result<Option<String>, InstallError> {
    let Some(kind) = kinds::named("Deployment") else { return Ok(None) };
    let Some(deployment) = cluster.get(kind, namespace, CONTROL_PLANE).await? else {
        return Ok(Some(format!("Deployment {CONTROL_PLANE} is not there")));
    };
    if let Some(missing) = replicas(&deployment) {
        return Ok(Some(missing));
    }
    for (kind, name) in [("MutatingWebhookConfiguration", "heddle-injector"), ("ValidatingWebhookConfiguration", "heddle-validator")] {
        let Some(kind) = kinds::named(kind) else { continue };
        // The chart may leave the one for validation out.
        let Some(configuration) = cluster.get(kind, "", name).await? else { continue };
        if !has_bundle(&configuration.data) {
            return Ok(Some(format!("{} {name} has no caBundle yet: the leader of the control plane writes it", kind.name())));
        }
    }
    Ok(None)
}

/// What a Deployment's replicas miss.
pub(crate) fn replicas(deployment: &DynamicObject) -> Option<String> {
    let number = |path: &str| deployment.data.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let wanted = number("/spec/replicas");
    if number("/status/observedGeneration") < deployment.metadata.generation.unwrap_or(0) {
        return Some("the Deployment is not looked at yet by its controller".to_owned());
    }
    let (updated, available, all) = (number("/status/updatedReplicas"), number("/status/availableReplicas"), number("/status/replicas"));
    if updated < wanted || available < wanted {
        Some(format!("{} of {wanted} replicas are ready", updated.min(available)))
    } else if all > wanted {
        Some(format!("{} replicas of the version before are ending", all - wanted))
    } else {
        None
    }
}

/// Whether every webhook of a configuration has the authority by which the API server trusts it.
pub(crate) fn has_bundle(configuration: &Value) -> bool {
    let webhooks = configuration.get("webhooks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let bundle = |webhook: &Value| webhook.pointer("/clientConfig/caBundle").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    !webhooks.is_empty() && webhooks.iter().all(bundle)
}

/// A condition of an object: whether it holds, and its message.
fn condition<'a>(object: &'a DynamicObject, name: &str) -> Option<(bool, &'a str)> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition = conditions.iter().find(|condition| condition.get("type").and_then(Value::as_str) == Some(name))?;
    let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
    Some((text("status") == "True", text("message")))
}

/// A sentence for each pod of the control plane that is not ready.
pub(super) async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, kube::Error> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let selector = "app.kubernetes.io/name=heddle,app.kubernetes.io/component=control-plane";
    Ok(api.list(&ListParams::default().labels(selector)).await?.items.iter().filter_map(trouble).collect())
}

/// Why a pod is not ready.
fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return None;
    }
    for container in status.container_statuses.as_deref().unwrap_or_default() {
        let reason = |state: Option<&ContainerState>| {
            let state = state?;
            let waiting = state.waiting.as_ref().map(|waiting| (waiting.reason.clone(), waiting.message.clone()));
            let ended = state.terminated.as_ref().map(|ended| (ended.reason.clone(), ended.message.clone()));
            let (reason, message) = waiting.or(ended)?;
            Some([reason, message].into_iter().flatten().collect::<Vec<_>>().join(": "))
        };
        let parts: Vec<_> = [container.state.as_ref(), container.last_state.as_ref()].into_iter().filter_map(reason).collect();
        if !parts.is_empty() {
            return Some(format!("pod {name}: {}", parts.join("; before: ")));
        }
    }
    let waiting = conditions.iter().find(|condition| condition.status != "True" && condition.message.is_some());
    let message = waiting.and_then(|condition| condition.message.as_deref()).unwrap_or("not ready");
    Some(format!("pod {name}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "x", "generation": 2 },
            "spec": { "replicas": 2 }, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn replicas_are_ready_when_all_are_of_the_new_version() {
        for (status, expected) in [
            (json!({ "observedGeneration": 1 }), Some("not looked at")),
            (json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 1, "replicas": 2 }), Some("1 of 2")),
            (json!({ "observedGeneration": 2, "updatedReplicas": 1, "availableReplicas": 2, "replicas": 3 }), Some("1 of 2")),
            (
                json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 3, "replicas": 3 }),
                Some("1 replicas of the version before"),
            ),
            (json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2, "replicas": 2 }), None),
        ] {
            let found = replicas(&deployment(&status));
            match expected {
                Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?}"),
                None => assert_eq!(found, None),
            }
        }
    }

    #[test]
    fn a_webhook_without_a_bundle_is_not_ready() {
        assert!(!has_bundle(&json!({ "webhooks": [{ "clientConfig": { "caBundle": "eA==" } }, { "clientConfig": {} }] })));
        assert!(!has_bundle(&json!({})));
        assert!(has_bundle(&json!({ "webhooks": [{ "clientConfig": { "caBundle": "eA==" } }] })));
    }

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p" },
            "status": { "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "exitCode": 64, "reason": "Error", "message": "--listen is missing" } },
            }] },
        }))
        .unwrap();
        assert_eq!(trouble(&pod).unwrap(), "pod p: CrashLoopBackOff; before: Error: --listen is missing");
    }
}
