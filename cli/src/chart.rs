//! The Helm chart, embedded in this binary, and its rendering without Helm: values in, objects out.

pub(crate) mod kinds;
pub(crate) mod schema;
pub(crate) mod values;

use crate::template::{self, RenderError};
use serde_json::{Value, json};

/// Embeds files of the chart by their paths in it.
macro_rules! embedded {
    ($($path:literal,)*) => { &[$(($path, include_str!(concat!("../../charts/heddle/", $path)))),*] };
}

/// The templates that make objects; a test says when one is missing.
const TEMPLATES: &[(&str, &str)] = embedded![
    "templates/availability.yaml",
    "templates/ca.yaml",
    "templates/crds/heddle.dev_authenticationpolicies.yaml",
    "templates/crds/heddle.dev_meshconfigs.yaml",
    "templates/crds/heddle.dev_trafficpolicies.yaml",
    "templates/deployment.yaml",
    "templates/injection.yaml",
    "templates/meshconfig.yaml",
    "templates/monitoring.yaml",
    "templates/networkpolicy.yaml",
    "templates/rbac.yaml",
    "templates/service.yaml",
    "templates/serviceaccount.yaml",
    "templates/webhooks.yaml",
];
const HELPERS: &str = include_str!("../../charts/heddle/templates/_helpers.tpl");
const CHART: &str = include_str!("../../charts/heddle/Chart.yaml");
const VALUES: &str = include_str!("../../charts/heddle/values.yaml");
const SCHEMA: &str = include_str!("../../charts/heddle/values.schema.json");

/// The release's name, which is part of a label.
pub(crate) const RELEASE: &str = "heddle";

/// Why the chart makes no objects.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChartError {
    /// Values that the schema refuses, a sentence each.
    #[error("the values cannot be used:\n  {}", .0.join("\n  "))]
    Values(Vec<String>),
    /// A template that cannot be rendered, as with a value that was deleted by null.
    #[error("the chart cannot be rendered: {0}")]
    Template(#[from] RenderError),
    /// A file of the chart that is not what it should be, which a test rules out for the values that it knows.
    #[error("the chart cannot be rendered: {file}: {sentence}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        sentence: String,
    },
}

/// What a rendering is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Release<'a> {
    /// The namespace of the control plane.
    pub(crate) namespace: &'a str,
    /// Whether it is the first installation; else it is an upgrade.
    pub(crate) install: bool,
}

/// The objects of the chart for `user`'s values, in the order in which they are applied.
///
/// # Errors
///
/// See [`ChartError`]; every mistake in the values is named.
pub(crate) fn objects(user: &Value, release: Release<'_>) -> Result<Vec<Value>, ChartError> {
    let values = checked(user)?;
    let chart: Value = yaml("Chart.yaml", CHART)?;
    let field = |name: &str| chart.get(name).cloned().unwrap_or_default();
    let data = json!({
        "Values": values,
        "Chart": { "Name": field("name"), "Version": field("version"), "AppVersion": field("appVersion") },
        "Release": {
            "Name": RELEASE,
            "Namespace": release.namespace,
            "Service": "heddle",
            "IsInstall": release.install,
            "IsUpgrade": !release.install,
        },
    });
    let mut objects = Vec::new();
    for (file, text) in template::render(HELPERS, TEMPLATES, &data)? {
        for document in documents(&text) {
            let mut object = yaml(&file, &document)?;
            if !object.is_null() {
                without_hooks(&mut object);
                objects.push(object);
            }
        }
    }
    objects.sort_by_key(kinds::order);
    Ok(objects)
}

/// The chart's values with `user`'s over them, checked.
fn checked(user: &Value) -> Result<Value, ChartError> {
    let mut values: Value = yaml("values.yaml", VALUES)?;
    values::merge(&mut values, user);
    let schema: Value = serde_json::from_str(SCHEMA)
        .map_err(|error| ChartError::File { file: "values.schema.json".to_owned(), sentence: error.to_string() })?;
    let mistakes = schema::check(&schema, &values);
    if mistakes.is_empty() { Ok(values) } else { Err(ChartError::Values(mistakes)) }
}

/// The version of Heddle that the chart installs.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Splits a stream at its `---` lines; the chart has no such line inside of a value.
fn documents(text: &str) -> Vec<String> {
    text.split("\n---").map(|document| document.trim_start_matches("---").to_owned()).filter(|document| has_content(document)).collect()
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
}

fn yaml(file: &str, text: &str) -> Result<Value, ChartError> {
    serde_saphyr::from_str(text).map_err(|error| ChartError::File { file: file.to_owned(), sentence: error.to_string() })
}

/// Takes away what only Helm reads. What asks to be kept stays: `uninstall` reads it.
fn without_hooks(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    annotations.retain(|name, _| name != "helm.sh/hook" && !name.starts_with("meta.helm.sh/"));
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// Objects as a stream of YAML documents.
pub(crate) fn stream(objects: &[Value]) -> Result<String, ChartError> {
    let mut text = String::new();
    for object in objects {
        let document =
            serde_saphyr::to_string(object).map_err(|error| ChartError::File { file: "output".to_owned(), sentence: error.to_string() })?;
        text.push_str("---\n");
        text.push_str(&document);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Values with everything on that the chart can make.
    fn everything() -> Value {
        let on = || json!({ "enabled": true });
        let monitoring = json!({ "podMonitor": on(), "serviceMonitor": on() });
        json!({ "meshConfig": { "create": true }, "networkPolicy": on(), "monitoring": monitoring, "istio": on(), "crds": { "keep": true } })
    }

    const FIRST: Release<'_> = Release { namespace: "heddle-system", install: true };

    fn names(objects: &[Value]) -> Vec<String> {
        objects
            .iter()
            .map(|object| format!("{}/{}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn every_file_of_the_chart_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/heddle/templates");
        let mut found = BTreeSet::new();
        for folder in ["", "crds"] {
            for entry in std::fs::read_dir(root.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "yaml") {
                    found.insert(format!("templates/{}", path.strip_prefix(&root).unwrap().display()));
                }
            }
        }
        assert_eq!(found, TEMPLATES.iter().map(|(path, _)| (*path).to_owned()).collect());
    }

    #[test]
    fn the_chart_renders_with_its_own_values() {
        let objects = objects(&json!({}), FIRST).unwrap();
        let names = names(&objects);
        for expected in
            ["Deployment/heddle-control-plane", "Secret/heddle-ca", "ConfigMap/heddle-injection", "Service/heddle-control-plane"]
        {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
        assert!(!names.iter().any(|name| name.starts_with("MeshConfig") || name.starts_with("NetworkPolicy")), "{names:?}");
        let place = |kind: &str| names.iter().position(|name| name.starts_with(kind)).unwrap();
        assert!(place("CustomResourceDefinition") < place("ServiceAccount") && place("ServiceAccount") < place("Deployment"));
        assert!(place("Deployment") < place("MutatingWebhookConfiguration"));
    }

    #[test]
    fn every_object_of_every_switch_is_of_a_known_kind() {
        let objects = objects(&everything(), FIRST).unwrap();
        for object in &objects {
            assert!(kinds::of(object).is_some(), "{object}");
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "heddle", "{object}");
        }
        let names = names(&objects);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        let mesh_config = objects.iter().find(|object| object["kind"] == "MeshConfig").unwrap();
        assert!(mesh_config["metadata"].get("annotations").is_none(), "{mesh_config}");
        let definition = objects.iter().find(|object| object["kind"] == "CustomResourceDefinition").unwrap();
        assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }

    #[test]
    fn what_is_printed_reads_as_what_was_rendered() {
        let objects = objects(&everything(), FIRST).unwrap();
        let text = stream(&objects).unwrap();
        let read: Vec<Value> = documents(&text).iter().map(|document| yaml("text", document).unwrap()).collect();
        assert_eq!(read, objects);
    }

    #[test]
    fn values_of_the_user_are_checked() {
        let user = json!({ "controlPlane": { "replicas": 0, "replica": 3 }, "trustDomain": "Example" });
        let text = objects(&user, FIRST).unwrap_err().to_string();
        for part in ["controlPlane.replicas", "controlPlane.replica:", "trustDomain"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
