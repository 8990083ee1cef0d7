//! `heddle uninstall`: takes away everything that the installation and the control plane have made, and waits until it is gone.

use crate::chart::kinds::Kind;
use crate::cluster::progress::Progress;
use crate::cluster::release::{self, Installed};
use crate::cluster::{self, Cluster, ClusterError, all};
use crate::command_line::Uninstall;
use crate::install::{InstallError, LOOK_EVERY};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use serde_json::json;
use std::process::ExitCode;
use tokio::time::{Instant, sleep};

/// The ConfigMaps that the control plane makes in namespaces with injection.
const TRUST_ROOTS: &str = "heddle-trust-roots";
/// What asks to be kept; Helm reads it too.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");
/// The control plane's pods.
const PODS: &str = "app.kubernetes.io/name=heddle,app.kubernetes.io/component=control-plane";

/// Runs the command.
pub(crate) fn uninstall(options: &Uninstall) -> ExitCode {
    let progress = Progress::new(options.output);
    cluster::run("uninstall", async {
        match begin(options, &progress).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                progress.fail(&error.to_string());
                error.status()
            }
        }
    })
}

async fn begin(options: &Uninstall, progress: &Progress) -> Result<(), InstallError> {
    let Uninstall { target, namespace, keep_crds, timeout, output: _ } = options;
    let cluster = Cluster::connect(target).await?;
    let installed = Installed::look(&cluster, namespace).await?;
    if let Some(refusal) = installed.refusal("uninstall") {
        return Err(InstallError::Refused(refusal));
    }
    warn_of_meshed(&cluster, progress).await?;
    let began = Instant::now();
    let found = release::objects(&cluster, release::OURS).await?;
    let mut removed = Vec::new();
    // In two turns: what the control plane makes can only be taken away for good when it has ended.
    let (first, then): (Vec<_>, Vec<_>) = found.into_iter().partition(|(kind, _)| is_first(*kind));
    for turn in [first, then] {
        let ends = turn.iter().any(|(kind, _)| kind.name() == "Deployment");
        removed.extend(remove(&cluster, turn, *keep_crds, progress).await?);
        if ends {
            wait(progress, options, began, || pods(&cluster, namespace)).await?;
        }
    }
    trust_roots(&cluster, progress).await?;
    wait(progress, options, began, || remaining(&cluster, &removed)).await?;
    if removed.is_empty() {
        progress.done("nothing was installed");
    } else {
        progress.done(&format!("{} objects are gone after {:.0} s", removed.len(), began.elapsed().as_secs_f64()));
    }
    let objects: Vec<_> = removed.iter().map(|gone| json!({ "kind": gone.kind.name(), "name": gone.name })).collect();
    progress.result(&json!({ "removed": objects, "timeout": timeout.to_string() }));
    Ok(())
}

/// What goes in the first turn: admission, which nobody will answer, and the control plane.
fn is_first(kind: Kind) -> bool {
    matches!(kind.name(), "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" | "Deployment")
}

/// An object that was removed.
#[derive(Debug)]
struct Gone {
    kind: Kind,
    namespace: String,
    name: String,
}

async fn remove(
    cluster: &Cluster,
    found: Vec<(Kind, Vec<DynamicObject>)>,
    keep_crds: bool,
    progress: &Progress,
) -> Result<Vec<Gone>, ClusterError> {
    let mut removed = Vec::new();
    for (kind, objects) in found {
        for object in objects {
            let name = object.metadata.name.unwrap_or_default();
            let asks_to_stay = object.metadata.annotations.is_some_and(|all| all.get(KEEP.0).is_some_and(|value| value == KEEP.1));
            if asks_to_stay || (keep_crds && kind.name() == "CustomResourceDefinition") {
                progress.note(&format!("{} {name} stays", kind.name()));
                continue;
            }
            let namespace = object.metadata.namespace.unwrap_or_default();
            if cluster.delete(kind, &namespace, &name).await? {
                progress.done(&format!("{} {name} removed", kind.name()));
            }
            removed.push(Gone { kind, namespace, name });
        }
    }
    Ok(removed)
}

/// Says which namespaces still ask for injection: their running pods keep their sidecars, which go on with what they know.
async fn warn_of_meshed(cluster: &Cluster, progress: &Progress) -> Result<(), ClusterError> {
    let api: Api<Pod> = Api::all(cluster.client());
    let pods = all(&api, &ListParams::default().labels("heddle.dev/injected=true")).await;
    let pods = pods.map_err(|error| cluster.failed("list pods", &error))?;
    let ended = |pod: &Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase == "Succeeded" || phase == "Failed")
    };
    let count = pods.iter().filter(|pod| !ended(pod)).count();
    if count > 0 {
        progress.warn(&format!(
            "{count} pods have a sidecar: they go on until their certificates expire, and new ones start without; \
             take the label heddle.dev/inject away and start them again"
        ));
    }
    Ok(())
}

/// Removes the roots from every namespace; most go by themselves, because their owner is gone.
async fn trust_roots(cluster: &Cluster, progress: &Progress) -> Result<(), ClusterError> {
    let api: Api<ConfigMap> = Api::all(cluster.client());
    let parameters = ListParams::default().fields(&format!("metadata.name={TRUST_ROOTS}"));
    let found = all(&api, &parameters).await.map_err(|error| cluster.failed("list configmaps", &error))?;
    for config_map in found {
        let namespace = config_map.metadata.namespace.unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(cluster.client(), &namespace);
        match api.delete(TRUST_ROOTS, &DeleteParams::default()).await {
            Ok(_) => progress.done(&format!("ConfigMap {TRUST_ROOTS} removed from {namespace}")),
            Err(error) if cluster::is_absent(&error) => {}
            Err(error) => return Err(cluster.failed(format!("delete ConfigMap {TRUST_ROOTS} in {namespace}"), &error)),
        }
    }
    Ok(())
}

/// The control plane's pods that are there still.
async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, ClusterError> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let pods = api.list(&ListParams::default().labels(PODS)).await.map_err(|error| cluster.failed("list pods", &error))?;
    Ok(pods.items.into_iter().filter_map(|pod| pod.metadata.name).map(|name| format!("pod {name}")).collect())
}

/// The removed objects that are there still, with what holds them.
async fn remaining(cluster: &Cluster, removed: &[Gone]) -> Result<Vec<String>, ClusterError> {
    let mut remaining = Vec::new();
    for Gone { kind, namespace, name } in removed {
        if let Some(object) = cluster.get(*kind, namespace, name).await? {
            let finalizers = object.metadata.finalizers.unwrap_or_default();
            let held = if finalizers.is_empty() { String::new() } else { format!(" (held by {})", finalizers.join(", ")) };
            remaining.push(format!("{} {name}{held}", kind.name()));
        }
    }
    Ok(remaining)
}

/// Waits until nothing remains.
async fn wait<F, R>(progress: &Progress, options: &Uninstall, began: Instant, mut remaining: F) -> Result<(), InstallError>
where
    F: FnMut() -> R,
    R: Future<Output = Result<Vec<String>, ClusterError>>,
{
    let mut said = usize::MAX;
    loop {
        let left = remaining().await?;
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= options.timeout.get() {
            return Err(InstallError::Refused(format!("still there after {}: {}", options.timeout, left.join(", "))));
        }
        if left.len() != said {
            progress.note(&format!("waiting for {}", left.join(", ")));
            said = left.len();
        }
        sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::kinds;

    #[test]
    fn admission_goes_before_what_answers_it() {
        let order: Vec<_> = kinds::all().rev().map(Kind::name).collect();
        let place = |name: &str| order.iter().position(|kind| *kind == name).unwrap();
        assert!(place("MutatingWebhookConfiguration") < place("Deployment"));
        assert!(place("Deployment") < place("CustomResourceDefinition"));
        assert!(place("CustomResourceDefinition") < place("Namespace"));
    }
}
