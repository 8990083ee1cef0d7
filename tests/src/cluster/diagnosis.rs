//! What a failed scenario leaves to be read: warnings, pods that are not well, the last lines of their containers.

use super::api::Api;
use serde_json::Value;
use std::fmt::Write as _;

/// Lines of each log.
const LINES: usize = 15;
/// Pods whose logs are shown.
const PODS: usize = 8;

/// Of these namespaces.
pub(super) async fn of(api: &Api, namespaces: &[String]) -> String {
    let mut text = String::new();
    for namespace in namespaces {
        let _infallible = writeln!(text, "=== namespace {namespace}");
        for event in api.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=type=Warning&limit=40")).await {
            let about = &event["involvedObject"];
            let (kind, name) = (field(&about["kind"]), field(&about["name"]));
            let _infallible = writeln!(text, "warning: {kind} {name}: {}: {}", field(&event["reason"]), field(&event["message"]));
        }
        let pods = api.list(&format!("/api/v1/namespaces/{namespace}/pods")).await;
        for pod in &pods {
            let _infallible = writeln!(text, "pod {} {}", field(&pod["metadata"]["name"]), state(pod));
        }
        // The mesh's own pods always; of others those that are not well, else the first ones.
        let well = |pod: &&Value| namespace != super::mesh::NAMESPACE && condition(pod, "Ready") == "True";
        let (fine, ill): (Vec<_>, Vec<_>) = pods.iter().partition(well);
        for pod in ill.into_iter().chain(fine).take(PODS) {
            logs(api, namespace, pod, &mut text).await;
        }
    }
    text
}

async fn logs(api: &Api, namespace: &str, pod: &Value, text: &mut String) {
    let name = field(&pod["metadata"]["name"]);
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let container = field(&container["name"]);
            let log = api.logs(namespace, &name, &container, LINES).await;
            if !log.is_empty() {
                let _infallible = writeln!(text, "--- log of {name}/{container}:\n{log}");
            }
        }
    }
}

fn state(pod: &Value) -> String {
    let mut states = Vec::new();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in pod["status"][list].as_array().into_iter().flatten() {
            states.push(format!("{}={}", field(&container["name"]), container["state"]));
        }
    }
    let gone = if pod["metadata"]["deletionTimestamp"].is_null() { "" } else { " terminating" };
    format!("{}{gone} ready={} {}", field(&pod["status"]["phase"]), condition(pod, "Ready"), states.join(" "))
}

fn condition(pod: &Value, kind: &str) -> String {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == kind).map(|c| field(&c["status"])).unwrap_or_default()
}

fn field(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
