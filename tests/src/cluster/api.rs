//! The Kubernetes API as a test uses it: any object as JSON, one call each.

use super::script;
use kube::client::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::time::Duration;

/// Who applies, for the API server's bookkeeping of fields.
const MANAGER: &str = "heddle-tests";
/// One call; what takes longer is an API server in trouble.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Kinds without a namespace.
const CLUSTER_WIDE: [&str; 7] =
    ["Namespace", "MeshConfig", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PriorityClass", "Node"];

/// A client of the API server, as administrator.
#[derive(Clone)]
pub struct Api {
    client: Client,
}

/// Why the API server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; 0: there was no answer.
    pub code: u16,
    /// What it said.
    pub message: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Connects with the cluster's kubeconfig.
    ///
    /// # Panics
    /// When there is none.
    pub async fn connect() -> Self {
        let file = script::state().join("kubeconfig");
        let kubeconfig = Kubeconfig::read_from(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("the cluster's kubeconfig");
        config.read_timeout = Some(CALL_LIMIT);
        config.connect_timeout = Some(CALL_LIMIT);
        Self { client: Client::try_from(config).expect("a client of the cluster") }
    }

    /// The client itself.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    async fn call(&self, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Result<Value, Refusal> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type).body(body);
        let request = request.expect("a request");
        self.client.request::<Value>(request).await.map_err(|error| {
            if let kube::Error::Api(status) = error {
                return Refusal { code: status.code, message: status.message };
            }
            Refusal { code: 0, message: error.to_string() }
        })
    }

    /// An object or a list, when it is there and the API server answers.
    pub async fn find(&self, path: &str) -> Option<Value> {
        self.call("GET", path, "application/json", Vec::new()).await.ok()
    }

    /// An object or a list.
    ///
    /// # Panics
    /// When it is not there.
    pub async fn get(&self, path: &str) -> Value {
        self.call("GET", path, "application/json", Vec::new()).await.unwrap_or_else(|e| panic!("GET {path}: {e:?}"))
    }

    /// The items of a list; none when it cannot be read.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let list = self.find(path).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Makes an object, or changes it to this (server-side apply).
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn apply(&self, object: &Value) -> Value {
        self.try_apply(object).await.unwrap_or_else(|e| panic!("{} is refused: {e:?}", path_of(object)))
    }

    /// The same, with the refusal as a value.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn try_apply(&self, object: &Value) -> Result<Value, Refusal> {
        let path = format!("{}?fieldManager={MANAGER}&force=true", path_of(object));
        self.call("PATCH", &path, "application/apply-patch+yaml", object.to_string().into_bytes()).await
    }

    /// Makes an object that is not there yet.
    ///
    /// # Errors
    /// What the API server, or a webhook through it, said.
    pub async fn create(&self, object: &Value) -> Result<Value, Refusal> {
        let path = path_of(object);
        let (collection, _name) = path.rsplit_once('/').unwrap_or((&path, ""));
        self.call("POST", collection, "application/json", object.to_string().into_bytes()).await
    }

    /// Posts to a path, such as a subresource.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.call("POST", path, "application/json", body.to_string().into_bytes()).await
    }

    /// Changes fields of an object (JSON merge patch).
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn patch(&self, path: &str, patch: &Value) -> Value {
        let answer = self.call("PATCH", path, "application/merge-patch+json", patch.to_string().into_bytes()).await;
        answer.unwrap_or_else(|e| panic!("PATCH {path}: {e:?}"))
    }

    /// Deletes an object; one that is gone already is none to delete.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete(&self, path: &str) {
        self.delete_with(path, &json!({"propagationPolicy": "Background"})).await;
    }

    /// Deletes an object with these options.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete_with(&self, path: &str, options: &Value) {
        match self.call("DELETE", path, "application/json", options.to_string().into_bytes()).await {
            Ok(_) | Err(Refusal { code: 404, .. }) => {}
            Err(refusal) => panic!("DELETE {path}: {refusal:?}"),
        }
    }

    /// The log of a container; empty when there is none.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str, lines: usize) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines={lines}");
        let request = http::Request::builder().uri(path).body(Vec::new()).expect("a request");
        self.client.request_text(request).await.unwrap_or_default()
    }

    /// Applies every object of a manifest as people write it, those without a namespace in `namespace`.
    ///
    /// # Panics
    /// When it is no YAML, or the API server refuses.
    pub async fn apply_manifest(&self, yaml: &str, namespace: &str) {
        for mut object in objects(yaml) {
            let kind = object["kind"].as_str().unwrap_or_default();
            if object["metadata"]["namespace"].is_null() && !CLUSTER_WIDE.contains(&kind) {
                object["metadata"]["namespace"] = namespace.into();
            }
            self.apply(&object).await;
        }
    }
}

/// The objects of a manifest.
///
/// # Panics
/// When it is no YAML.
pub fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).unwrap_or_else(|e| panic!("no YAML: {e}: {yaml}"))
}

/// Where the API has an object.
///
/// # Panics
/// When the object lacks its type or name.
pub fn path_of(object: &Value) -> String {
    let text = |value: &Value, what: &str| value.as_str().unwrap_or_else(|| panic!("no {what} in {object}")).to_owned();
    let kind = text(&object["kind"], "kind");
    let namespace = object["metadata"]["namespace"].as_str();
    assert!(namespace.is_some() || CLUSTER_WIDE.contains(&kind.as_str()), "no namespace in {object}");
    path(&text(&object["apiVersion"], "apiVersion"), &kind, namespace, &text(&object["metadata"]["name"], "name"))
}

/// The same, by its names.
pub fn path(api_version: &str, kind: &str, namespace: Option<&str>, name: &str) -> String {
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    let lower = kind.to_lowercase();
    let plural = match lower.strip_suffix('y') {
        // policies; gateways
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ if lower.ends_with("class") => format!("{lower}es"),
        _ => format!("{lower}s"),
    };
    let namespaced = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
    format!("{root}/{api_version}{namespaced}/{plural}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_their_paths() {
        assert_eq!(path("v1", "Pod", Some("a"), "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(path("apps/v1", "Deployment", Some("a"), "b"), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(
            path("heddle.dev/v1alpha1", "TrafficPolicy", Some("a"), "b"),
            "/apis/heddle.dev/v1alpha1/namespaces/a/trafficpolicies/b"
        );
        assert_eq!(path("scheduling.k8s.io/v1", "PriorityClass", None, "b"), "/apis/scheduling.k8s.io/v1/priorityclasses/b");
        assert_eq!(path_of(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})), "/api/v1/namespaces/n");
    }

    #[test]
    fn manifests_are_read_as_people_write_them() {
        let read = objects("# a comment\nkind: A\n---\nkind: B\nspec: {on: \"yes\", n: 1}\n");
        assert_eq!(read, [json!({"kind": "A"}), json!({"kind": "B", "spec": {"on": "yes", "n": 1}})]);
    }
}
