//! Pods that should have a sidecar and have none: created before their namespace opted in, or while the webhook was not asked. Pure.
//!
//! A naked pod is reached in plaintext and its own traffic passes by the mesh, which nobody notices from outside. So it is said, and
//! not repaired: to evict somebody's pod is a decision for people.

use crate::inject::INJECT_LABEL;
use crate::snapshot::{ObjectKey, Pod, Sidecar, Snapshot};
use serde::{Deserialize, Serialize};

/// The namespaces whose pods are never injected, whatever their labels say.
const KUBE_SYSTEM: &str = "kube-system";

/// A pod without the sidecar that it, or its namespace, asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naked {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What tells it from another of that name; none in files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// What it lacks, why that may be, and the way out.
    pub sentence: String,
}

/// All naked pods, by namespace and name; `system_namespace` is the control plane's own, which has none.
pub fn naked(snapshot: &Snapshot, system_namespace: &str) -> Vec<Naked> {
    let exempt = |key: &ObjectKey| *key.namespace == *KUBE_SYSTEM || *key.namespace == *system_namespace;
    snapshot.pods.iter().filter(|(key, _)| !exempt(key)).filter_map(|(key, pod)| judge(snapshot, key, pod)).collect()
}

fn judge(snapshot: &Snapshot, key: &ObjectKey, pod: &Pod) -> Option<Naked> {
    let by_pod = pod.labels.get(INJECT_LABEL);
    let namespace = snapshot.namespaces.get(&ObjectKey::new("", &key.namespace));
    let labels = namespace.and_then(|namespace| namespace.metadata.labels.as_ref());
    let by_namespace = labels.and_then(|labels| labels.get(INJECT_LABEL)).map(String::as_str);
    let asker = match (by_pod, by_namespace) {
        (Some("disabled"), _) => return None,
        (Some("enabled"), _) => "it".to_owned(),
        (_, Some("enabled")) => format!("namespace {}", key.namespace),
        (_, _) => return None,
    };
    let running = !pod.ended && !pod.terminating;
    let without = match pod.sidecar {
        Sidecar::Absent => true,
        Sidecar::Starting | Sidecar::Started => false,
    };
    if !running || !without {
        return None;
    }
    let sentence = if pod.host_network {
        format!("has no sidecar although {asker} asks for one: with hostNetwork it cannot have one; label it {INJECT_LABEL}: disabled")
    } else {
        format!(
            "has no sidecar although {asker} asks for one: it was created before that, or without the webhook; delete it, so that it is created anew"
        )
    };
    let uid = Some(pod.uid.to_string()).filter(|uid| !uid.is_empty());
    Some(Naked { namespace: key.namespace.to_string(), pod: key.name.to_string(), uid, sentence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::objects;

    const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {heddle.dev/inject: enabled}}
---
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: naked, namespace: shop, uid: u-1}
spec: {containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: dressed, namespace: shop}
spec: {initContainers: [{name: heddle-sidecar, restartPolicy: Always}], containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: declines, namespace: shop, labels: {heddle.dev/inject: disabled}}
spec: {containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: done, namespace: shop}
spec: {containers: [{name: a}]}
status: {phase: Succeeded}
---
apiVersion: v1
kind: Pod
metadata: {name: node, namespace: shop}
spec: {hostNetwork: true, containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: asks, namespace: other, labels: {heddle.dev/inject: enabled}}
spec: {containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: does-not-ask, namespace: other}
spec: {containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: control-plane, namespace: heddle-system, labels: {heddle.dev/inject: enabled}}
spec: {containers: [{name: a}]}
---
apiVersion: v1
kind: Pod
metadata: {name: dns, namespace: kube-system, labels: {heddle.dev/inject: enabled}}
spec: {containers: [{name: a}]}
";

    #[test]
    fn pods_that_should_have_a_sidecar_and_have_none_are_found_with_the_way_out() {
        let mut snapshot = Snapshot::default();
        for object in objects(PODS) {
            snapshot.apply(object);
        }
        let found = naked(&snapshot, "heddle-system");
        let names: Vec<_> = found.iter().map(|naked| format!("{}/{}", naked.namespace, naked.pod)).collect();
        assert_eq!(names, ["other/asks", "shop/naked", "shop/node"]);
        assert!(found[0].sentence.contains("although it asks"), "{}", found[0].sentence);
        assert!(found[1].sentence.contains("although namespace shop asks") && found[1].sentence.contains("delete it"));
        assert_eq!(found[1].uid.as_deref(), Some("u-1"));
        assert!(found[2].sentence.contains("hostNetwork"), "{}", found[2].sentence);
    }
}
