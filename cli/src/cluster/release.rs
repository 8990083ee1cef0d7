//! What is installed in a cluster, and by whom: the record that `heddle install` keeps, or the labels that Helm leaves.

use super::{Cluster, ClusterError};
use crate::chart::kinds::{self, Kind};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Name of the ConfigMap with the record.
pub(crate) const RECORD: &str = "heddle-release";
/// What every object that was installed by this command has.
pub(crate) const OURS: &str = "app.kubernetes.io/part-of=heddle,app.kubernetes.io/managed-by=heddle";
/// Name of most objects of the control plane.
pub(crate) const CONTROL_PLANE: &str = "heddle-control-plane";

const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const HELM_NAMESPACE: &str = "meta.helm.sh/release-namespace";
const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// An installation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Installed {
    /// None.
    Nothing,
    /// By `heddle install`, in the namespace that was asked about.
    Ours {
        /// The version.
        version: String,
        /// The values that were given.
        values: Value,
    },
    /// By Helm.
    Helm {
        /// The release's name.
        release: String,
        /// Its namespace.
        namespace: String,
    },
    /// By `heddle install`, in another namespace.
    Elsewhere {
        /// Which.
        namespace: String,
    },
    /// By other means, such as `helm template` with `kubectl apply`.
    Otherwise,
}

impl Installed {
    /// Looks what there is.
    ///
    /// # Errors
    ///
    /// When it cannot be looked at, or when the record is not one.
    pub(crate) async fn look(cluster: &Cluster, namespace: &str) -> Result<Self, ClusterError> {
        let (Some(config_map), Some(binding)) = (kinds::named("ConfigMap"), kinds::named("ClusterRoleBinding")) else {
            return Ok(Self::Nothing);
        };
        if let Some(record) = cluster.get(config_map, namespace, RECORD).await? {
            return read(&record);
        }
        // There is one of it in a cluster, wherever the control plane is.
        let Some(binding) = cluster.get(binding, "", CONTROL_PLANE).await? else { return Ok(Self::Nothing) };
        let subject = binding.data.pointer("/subjects/0/namespace").and_then(Value::as_str).unwrap_or_default().to_owned();
        let annotation = |name: &str| binding.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
        let managed_by = binding.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str);
        Ok(match (managed_by, annotation(HELM_RELEASE)) {
            (_, Some(release)) => Self::Helm { release, namespace: annotation(HELM_NAMESPACE).unwrap_or(subject) },
            (Some("heddle"), None) if subject != namespace => Self::Elsewhere { namespace: subject },
            // The record went missing, or the first object of an installation was the last.
            (Some("heddle"), None) => Self::Ours { version: String::new(), values: json!({}) },
            (Some(_) | None, None) => Self::Otherwise,
        })
    }

    /// Why this command must not touch it, if so.
    pub(crate) fn refusal(&self, command: &str) -> Option<String> {
        match self {
            Self::Nothing | Self::Ours { .. } => None,
            Self::Helm { release, namespace } => {
                let arguments = if command == "uninstall" { "" } else { " CHART" };
                Some(format!("heddle was installed by Helm: use `helm {command} {release}{arguments} --namespace {namespace}`"))
            }
            Self::Elsewhere { namespace } => {
                Some(format!("heddle is installed in namespace {namespace}, and a cluster has one: give --namespace {namespace}"))
            }
            Self::Otherwise => {
                let object = format!("ClusterRoleBinding {CONTROL_PLANE}");
                Some(format!("heddle was installed by other means ({object} has no owner's label): use what installed it"))
            }
        }
    }
}

/// The record as an object.
pub(crate) fn record(namespace: &str, version: &str, values: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": RECORD,
            "namespace": namespace,
            "labels": { "app.kubernetes.io/part-of": "heddle", MANAGED_BY: "heddle" },
        },
        "data": { "version": version, "values": values.to_string() },
    })
}

fn read(record: &DynamicObject) -> Result<Installed, ClusterError> {
    let field = |name: &str| record.data.pointer(&format!("/data/{name}")).and_then(Value::as_str).unwrap_or_default();
    let values = serde_json::from_str(field("values")).map_err(|error| ClusterError::Refused {
        action: format!("read ConfigMap {RECORD}"),
        message: format!("its values are no JSON ({error}): delete it and give the values again"),
    })?;
    Ok(Installed::Ours { version: field("version").to_owned(), values })
}

/// The objects in the cluster with these labels, of the kinds that the chart makes, by kind in the order of removal.
///
/// # Errors
///
/// When a kind cannot be listed.
pub(crate) async fn objects(cluster: &Cluster, labels: &str) -> Result<Vec<(Kind, Vec<DynamicObject>)>, ClusterError> {
    let mut objects = Vec::new();
    for kind in kinds::all().rev() {
        let found = cluster.list(kind, labels).await?;
        if !found.is_empty() {
            objects.push((kind, found));
        }
    }
    Ok(objects)
}

/// Whether version `left` is newer than `right`, by their numbers; what is no number counts as 0.
pub(crate) fn is_newer(left: &str, right: &str) -> bool {
    let numbers = |version: &str| version.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap_or(0)).collect::<Vec<u64>>();
    numbers(left) > numbers(right)
}

/// The labels of an object.
pub(crate) fn labels(object: &DynamicObject) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    object.metadata.labels.as_ref().unwrap_or(&NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake;

    #[test]
    fn the_record_reads_as_it_was_written() {
        let values = json!({ "controlPlane": { "replicas": 3 } });
        let object: DynamicObject = serde_json::from_value(record("mesh", "0.1.0", &values)).unwrap();
        assert_eq!(read(&object).unwrap(), Installed::Ours { version: "0.1.0".to_owned(), values });
    }

    #[test]
    fn a_broken_record_says_what_to_do() {
        let mut object = record("mesh", "0.1.0", &json!({}));
        object["data"]["values"] = json!("{");
        let error = read(&serde_json::from_value(object).unwrap()).unwrap_err().to_string();
        assert!(error.contains("heddle-release") && error.contains("delete it"), "{error}");
    }

    fn binding(labels: &Value, annotations: &Value) -> Value {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": CONTROL_PLANE, "labels": labels, "annotations": annotations },
            "subjects": [{ "namespace": "system" }],
        })
    }

    async fn looked(found: Option<Value>) -> Installed {
        let cluster = fake::cluster(move |request| match (&found, request.contains("clusterrolebindings")) {
            (Some(binding), true) => (200, binding.clone()),
            (Some(_) | None, _) => fake::absent(),
        });
        Installed::look(&cluster, "mesh").await.unwrap()
    }

    #[tokio::test]
    async fn who_installed_it_is_found_by_what_there_is_once_in_a_cluster() {
        let managed_by = |name: &str| json!({ MANAGED_BY: name });
        assert_eq!(looked(None).await, Installed::Nothing);
        let helm = binding(&managed_by("Helm"), &json!({ HELM_RELEASE: "r", HELM_NAMESPACE: "h" }));
        assert_eq!(looked(Some(helm)).await, Installed::Helm { release: "r".to_owned(), namespace: "h".to_owned() });
        let ours = binding(&managed_by("heddle"), &json!({}));
        assert_eq!(looked(Some(ours)).await, Installed::Elsewhere { namespace: "system".to_owned() });
        assert_eq!(looked(Some(binding(&json!({}), &json!({})))).await, Installed::Otherwise);
    }

    #[test]
    fn versions_compare_by_numbers() {
        assert!(is_newer("0.10.0", "0.9.1") && is_newer("1.0.0", "0.9"));
        assert!(!is_newer("0.1.0", "0.1.0") && !is_newer("", "0.1.0"));
    }

    #[test]
    fn whoever_installed_it_is_named() {
        let helm = Installed::Helm { release: "mesh".to_owned(), namespace: "system".to_owned() };
        assert!(helm.refusal("upgrade").unwrap().contains("helm upgrade mesh CHART --namespace system"));
        assert!(helm.refusal("uninstall").unwrap().contains("`helm uninstall mesh --namespace system`"));
        assert!(Installed::Elsewhere { namespace: "a".to_owned() }.refusal("upgrade").unwrap().contains("--namespace a"));
        assert!(Installed::Nothing.refusal("install").is_none());
    }
}
