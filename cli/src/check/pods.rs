//! Checks of the pods: versions of their sidecars, pods that should have one and do not, and namespaces that two meshes want.

use super::Finding;
use crate::chart;
use crate::cluster::{Cluster, ClusterError, all};
use crate::version::{has_ended, in_cluster, listed};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, ListParams};
use std::collections::BTreeMap;

/// The label that asks for injection.
const INJECT: &str = "heddle.dev/inject";
/// Names that are shown of a list; the count says how many there are.
const SHOWN_MAX: usize = 5;
/// Groups whose webhooks are another mesh's.
const OTHER_GROUPS: [(&str, &str); 5] = [
    ("Istio", "istio.io"),
    ("Linkerd", "linkerd.io"),
    ("Consul", "consul.hashicorp.com"),
    ("Kuma", "kuma.io"),
    ("Open Service Mesh", "openservicemesh.io"),
];
/// Labels and annotations of a namespace that ask another mesh for a proxy, with the value that asks; empty: any value.
const OTHER_ASKS: [(&str, &str, &str); 7] = [
    ("Istio", "istio-injection", "enabled"),
    ("Istio", "istio.io/rev", ""),
    ("Istio", "istio.io/dataplane-mode", "ambient"),
    ("Linkerd", "linkerd.io/inject", "enabled"),
    ("Consul", "consul.hashicorp.com/connect-inject", "true"),
    ("Kuma", "kuma.io/sidecar-injection", "enabled"),
    ("Open Service Mesh", "openservicemesh.io/sidecar-injection", "enabled"),
];

/// The sidecars' versions against this one.
pub(super) async fn versions(cluster: &Cluster) -> Finding {
    match in_cluster(cluster).await {
        Ok(found) => versions_of(&found.sidecars),
        Err(error) => Finding::not_made("sidecars", &error),
    }
}

fn versions_of(counts: &BTreeMap<String, usize>) -> Finding {
    const NAME: &str = "sidecars";
    if counts.is_empty() {
        return Finding::good(NAME, "there are none yet");
    }
    let others: usize = counts.iter().filter(|(version, _)| *version != chart::VERSION).map(|(_, count)| count).sum();
    if others == 0 {
        Finding::good(NAME, listed(counts))
    } else {
        let text = format!("{}: {others} are not of heddle {}", listed(counts), chart::VERSION);
        Finding::warning(
            NAME,
            text,
            "they work with a control plane of their version or the next; start their pods again: kubectl rollout restart",
        )
    }
}

/// Pods of namespaces that ask for injection that have no sidecar.
pub(super) async fn naked(cluster: &Cluster) -> Finding {
    match look(cluster).await {
        Ok((namespaces, pods)) => naked_of(namespaces, &pods),
        Err(error) => Finding::not_made("pods", &error),
    }
}

/// How many namespaces ask for injection, and the pods that should have a sidecar.
async fn look(cluster: &Cluster) -> Result<(usize, Vec<Pod>), ClusterError> {
    let asking: Api<Namespace> = Api::all(cluster.client());
    let asking = all(&asking, &ListParams::default().labels(&format!("{INJECT}=enabled"))).await;
    let asking = asking.map_err(|error| cluster.failed("list namespaces", &error))?;
    let mut pods = Vec::new();
    let list = |api: Api<Pod>, labels: &'static str| async move {
        all(&api, &ListParams::default().labels(labels)).await.map_err(|error| cluster.failed("list pods", &error))
    };
    for name in asking.iter().filter_map(|namespace| namespace.metadata.name.as_deref()) {
        pods.extend(
            list(Api::namespaced(cluster.client(), name), "heddle.dev/injected!=true,heddle.dev/inject notin (disabled,enabled)").await?,
        );
    }
    pods.extend(list(Api::all(cluster.client()), "heddle.dev/injected!=true,heddle.dev/inject=enabled").await?);
    Ok((asking.len(), pods))
}

fn naked_of(namespaces: usize, pods: &[Pod]) -> Finding {
    const NAME: &str = "pods";
    let naked: Vec<_> = pods.iter().filter(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()).collect();
    if naked.is_empty() {
        return Finding::good(
            NAME,
            match namespaces {
                0 => "no namespace asks for sidecars yet".to_owned(),
                count => format!("all that should have a sidecar have one ({count} namespaces ask for it)"),
            },
        );
    }
    let name = |pod: &&Pod| {
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
    };
    let shown = some(naked.iter().map(name));
    let way_out = "they were made before injection was asked for, and are outside the mesh: start them again (kubectl rollout restart), or label them heddle.dev/inject=disabled";
    Finding::warning(NAME, format!("{} have no sidecar and should have one: {shown}", naked.len()), way_out)
}

/// Other meshes in the cluster, and namespaces that both are asked for.
pub(super) async fn other_meshes(cluster: &Cluster) -> Vec<Finding> {
    const NAME: &str = "other meshes";
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client());
    let namespaces: Api<Namespace> = Api::all(cluster.client());
    let webhooks =
        all(&webhooks, &ListParams::default()).await.map_err(|error| cluster.failed("list mutatingwebhookconfigurations", &error));
    let namespaces = all(&namespaces, &ListParams::default()).await.map_err(|error| cluster.failed("list namespaces", &error));
    match (webhooks, namespaces) {
        (Ok(webhooks), Ok(namespaces)) => vec![others(&webhooks, &namespaces)],
        (Err(error), _) | (_, Err(error)) => vec![Finding::not_made(NAME, &error)],
    }
}

fn others(webhooks: &[MutatingWebhookConfiguration], namespaces: &[Namespace]) -> Finding {
    const NAME: &str = "other meshes";
    let both: Vec<_> = namespaces
        .iter()
        .filter_map(|namespace| {
            let labels = namespace.metadata.labels.as_ref()?;
            if labels.get(INJECT).map(String::as_str) != Some("enabled") {
                return None;
            }
            let says = |name: &str| labels.get(name).or_else(|| namespace.metadata.annotations.as_ref()?.get(name));
            let asked = OTHER_ASKS.iter().find(|(_, name, value)| says(name).is_some_and(|said| value.is_empty() || said == value))?;
            Some(format!("{} ({}: {})", namespace.metadata.name.as_deref().unwrap_or_default(), asked.0, asked.1))
        })
        .collect();
    if !both.is_empty() {
        let text = format!("{} namespaces ask for two meshes: {}", both.len(), some(both.iter().cloned()));
        return Finding::failure(NAME, text, "two redirections of one pod exclude each other: take one of the labels away");
    }
    let present: Vec<_> = OTHER_GROUPS
        .iter()
        .filter(|(_, group)| {
            webhooks.iter().flat_map(|configuration| configuration.webhooks.iter().flatten()).any(|webhook| webhook.name.ends_with(group))
        })
        .map(|(mesh, _)| *mesh)
        .collect();
    if present.is_empty() {
        Finding::good(NAME, "there is none")
    } else {
        Finding::good(NAME, format!("{} is there too; no namespace asks for both", present.join(" and ")))
    }
}

/// The first few names.
fn some(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(SHOWN_MAX);
    let mut shown = names.take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
    if more > 0 {
        shown.push_str(&format!(" and {more} more"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use serde_json::json;

    fn namespace(labels: &serde_json::Value) -> Namespace {
        serde_json::from_value(json!({ "metadata": { "name": "shop", "labels": labels } })).unwrap()
    }

    #[test]
    fn a_namespace_with_two_meshes_is_a_failure() {
        let istio: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": { "name": "istio-sidecar-injector" },
            "webhooks": [{ "name": "namespace.sidecar-injector.istio.io", "clientConfig": {}, "sideEffects": "None", "admissionReviewVersions": ["v1"] }],
        }))
        .unwrap();
        let both = namespace(&json!({ INJECT: "enabled", "istio.io/rev": "canary" }));
        let finding = others(std::slice::from_ref(&istio), &[both]);
        assert_eq!((finding.level, finding.text.as_str()), (Level::Failure, "1 namespaces ask for two meshes: shop (Istio: istio.io/rev)"));
        let ours = namespace(&json!({ INJECT: "enabled", "istio-injection": "disabled" }));
        assert_eq!(others(&[istio], &[ours]).text, "Istio is there too; no namespace asks for both");
        let theirs = namespace(&json!({ "istio-injection": "enabled" }));
        assert_eq!(others(&[], &[theirs]).text, "there is none");
    }

    #[test]
    fn naked_pods_are_named() {
        let pod = |name: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": { "namespace": "shop", "name": name }, "status": { "phase": phase } })).unwrap()
        };
        assert_eq!(naked_of(1, &[pod("job", "Succeeded")]).level, Level::Good);
        let pods: Vec<_> = (0..7).map(|n| pod(&format!("p{n}"), "Running")).collect();
        let finding = naked_of(1, &pods);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.text.starts_with("7 have") && finding.text.ends_with("shop/p4 and 2 more"), "{}", finding.text);
    }

    #[test]
    fn other_versions_are_counted() {
        let counts = |pairs: &[(&str, usize)]| pairs.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect();
        assert_eq!(versions_of(&counts(&[(chart::VERSION, 3)])).level, Level::Good);
        let finding = versions_of(&counts(&[(chart::VERSION, 3), ("0.0.9", 2)]));
        assert!(finding.level == Level::Warning && finding.text.contains("2 are not of heddle"), "{}", finding.text);
    }
}
