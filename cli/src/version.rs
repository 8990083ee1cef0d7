//! `heddle version`: this binary, the control plane of the cluster, and the sidecars by version. Without a cluster: this binary.

use crate::chart;
use crate::cluster::release::CONTROL_PLANE;
use crate::cluster::{self, Cluster, ClusterError, all};
use crate::command_line::{Output, Version};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use tokio::time::{Duration, timeout};

/// The version is asked for in scripts and in haste: a cluster that does not answer by then is left out.
const CLUSTER_MAX: Duration = Duration::from_secs(5);
/// The control plane's pods, in whatever namespace.
pub(crate) const CONTROL_PLANE_PODS: &str = "app.kubernetes.io/name=heddle,app.kubernetes.io/component=control-plane";
/// Pods that have a sidecar.
const INJECTED: &str = "heddle.dev/injected=true";
/// Where injection writes which sidecar it has added.
const SIDECAR_VERSION: &str = "heddle.dev/sidecar-version";

/// The versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    version: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    cluster: Option<InCluster>,
}

/// The versions in the cluster: how many pods have each.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InCluster {
    /// Replicas of the control plane.
    pub(crate) control_plane: BTreeMap<String, usize>,
    /// Sidecars.
    pub(crate) sidecars: BTreeMap<String, usize>,
}

/// Runs the command.
pub(crate) fn version(options: &Version) -> ExitCode {
    let Version { output, client, target } = options;
    cluster::run("version", async {
        let found = if *client { Ok(None) } else { look(target).await };
        let (cluster, trouble) = match found {
            Ok(cluster) => (cluster, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let versions = Versions { version: chart::VERSION, cluster };
        let status = match output {
            Output::Text => crate::print(text(&versions).as_bytes()),
            Output::Json => crate::print(format!("{}\n", serde_json::to_string(&versions).unwrap_or_default()).as_bytes()),
        };
        if let Some(trouble) = trouble {
            eprintln!("heddle version: {trouble}");
        }
        status
    })
}

/// What is in the cluster; nothing where none is configured.
async fn look(target: &cluster::Target) -> Result<Option<InCluster>, ClusterError> {
    let cluster = match Cluster::connect(target).await {
        Err(ClusterError::Configuration(_)) if target.context.is_none() && target.kubeconfig.is_none() => return Ok(None),
        other => other?,
    };
    let late = || ClusterError::Unreachable { url: cluster.url.clone(), reason: format!("no answer within {CLUSTER_MAX:?}") };
    timeout(CLUSTER_MAX, in_cluster(&cluster)).await.map_err(|_| late())?.map(Some)
}

/// The versions in a cluster.
///
/// # Errors
///
/// When pods cannot be listed.
pub(crate) async fn in_cluster(cluster: &Cluster) -> Result<InCluster, ClusterError> {
    let pods = |labels: &'static str| async move {
        let api: Api<Pod> = Api::all(cluster.client());
        all(&api, &ListParams::default().labels(labels)).await.map_err(|error| cluster.failed("list pods", &error))
    };
    let (control_plane, sidecars) = (pods(CONTROL_PLANE_PODS).await?, pods(INJECTED).await?);
    Ok(InCluster {
        control_plane: count(&control_plane, |pod| pod.metadata.labels.as_ref()?.get("app.kubernetes.io/version")),
        sidecars: count(&sidecars, |pod| pod.metadata.annotations.as_ref()?.get(SIDECAR_VERSION)),
    })
}

/// Whether a pod has ended and only its record is left.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// How many pods have each version; pods that have ended have none.
fn count(pods: &[Pod], version: impl Fn(&Pod) -> Option<&String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !has_ended(pod)) {
        *counts.entry(version(pod).cloned().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
    }
    counts
}

fn text(versions: &Versions) -> String {
    let Versions { version, cluster } = versions;
    let mut text = format!("heddle {version}\n");
    if let Some(InCluster { control_plane, sidecars }) = cluster {
        text.push_str(&format!("{CONTROL_PLANE} {}\n", listed(control_plane)));
        text.push_str(&format!("heddle-sidecar {}\n", listed(sidecars)));
    }
    text
}

/// Versions with their counts, as in `0.1.0 (2), 0.2.0 (1)`.
pub(crate) fn listed(counts: &BTreeMap<String, usize>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(version, count)| format!("{version} ({count})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(version: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": { "annotations": { SIDECAR_VERSION: version } }, "status": { "phase": phase } }))
            .unwrap()
    }

    #[test]
    fn running_pods_are_counted_by_version() {
        let pods = [pod("0.1.0", "Running"), pod("0.2.0", "Pending"), pod("0.1.0", "Running"), pod("0.1.0", "Succeeded")];
        let counts = count(&pods, |pod| pod.metadata.annotations.as_ref()?.get(SIDECAR_VERSION));
        assert_eq!(listed(&counts), "0.1.0 (2), 0.2.0 (1)");
    }

    #[test]
    fn without_a_cluster_there_is_one_line() {
        assert_eq!(text(&Versions { version: "0.1.0", cluster: None }), "heddle 0.1.0\n");
        let cluster = Some(InCluster::default());
        assert_eq!(text(&Versions { version: "0.1.0", cluster }), "heddle 0.1.0\nheddle-control-plane none\nheddle-sidecar none\n");
        assert_eq!(serde_json::to_value(Versions { version: "0.1.0", cluster: None }).unwrap(), json!({ "version": "0.1.0" }));
    }
}
