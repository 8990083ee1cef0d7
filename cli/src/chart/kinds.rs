//! The kinds that the chart makes: their place in the API, and the order in which they come and go.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// A kind and where the API has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    /// Whether its objects are in namespaces.
    pub(crate) namespaced: bool,
}

const fn kind(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str, namespaced: bool) -> Kind {
    Kind { group, version, kind, plural, namespaced }
}

/// All of them, in the order in which they are applied: what others refer to comes first, and admission last.
///
/// They are removed in the opposite order, so that nothing is sent to a webhook that nobody serves.
const KINDS: [Kind; 20] = [
    kind("", "v1", "Namespace", "namespaces", false),
    kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", false),
    kind("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false),
    kind("", "v1", "ServiceAccount", "serviceaccounts", true),
    kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false),
    kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false),
    kind("rbac.authorization.k8s.io", "v1", "Role", "roles", true),
    kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", true),
    kind("", "v1", "Secret", "secrets", true),
    kind("coordination.k8s.io", "v1", "Lease", "leases", true),
    kind("", "v1", "ConfigMap", "configmaps", true),
    kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", true),
    kind("", "v1", "Service", "services", true),
    kind("heddle.dev", "v1alpha1", "MeshConfig", "meshconfigs", false),
    kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true),
    kind("apps", "v1", "Deployment", "deployments", true),
    kind("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors", true),
    kind("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors", true),
    kind("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", false),
    kind("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false),
];

/// All kinds in the order in which they are applied.
pub(crate) fn all() -> impl DoubleEndedIterator<Item = Kind> {
    KINDS.into_iter()
}

/// The kind of an object, if the chart can make it.
pub(crate) fn of(object: &Value) -> Option<Kind> {
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    all().find(|known| text("kind") == Some(known.kind) && text("apiVersion") == Some(&known.api_version()))
}

/// A kind by its name.
pub(crate) fn named(name: &str) -> Option<Kind> {
    all().find(|known| known.kind == name)
}

/// The place of an object in the order in which objects are applied; equal for objects of one kind.
pub(crate) fn order(object: &Value) -> usize {
    let kind = object.get("kind").and_then(Value::as_str);
    all().position(|known| kind == Some(known.kind)).unwrap_or(usize::MAX)
}

impl Kind {
    /// Its name, such as `Service`.
    pub(crate) const fn name(self) -> &'static str {
        self.kind
    }

    fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As the client wants it.
    pub(crate) fn resource(self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, self.version, self.kind), self.plural)
    }

    /// The group and the plural, as reviews of rights name them.
    pub(crate) const fn group_and_plural(self) -> (&'static str, &'static str) {
        (self.group, self.plural)
    }
}
