//! A cluster as the commands see it: connecting, applying, looking and removing, with errors that say what to do.

pub(crate) mod progress;
pub(crate) mod release;

use crate::chart::kinds::{self, Kind};
use clap::Args;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Who owns the fields that are applied (server-side apply).
const FIELD_MANAGER: &str = "heddle";
/// An API server that is there answers far sooner; one that is not shall not keep anybody waiting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An API server ends a request itself after 60 s.
const READ_TIMEOUT: Duration = Duration::from_secs(65);
/// Objects that are asked for at once.
const PAGE: u32 = 500;

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Target {
    /// File with the address and the credentials of the cluster; KUBECONFIG or ~/.kube/config by default
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in that file; its current one by default
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// Why something could not be done in the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No cluster is configured, or its configuration is wrong.
    #[error("no cluster to talk to: {0}; give --kubeconfig FILE, or set KUBECONFIG")]
    Configuration(String),
    /// Nobody answers.
    #[error("the API server {url} does not answer: {reason}")]
    Unreachable {
        /// The API server.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// A right is missing.
    #[error("no right to {action}: {message}; ask an administrator of the cluster, or be one")]
    Forbidden {
        /// What was to be done.
        action: String,
        /// What the API server says.
        message: String,
    },
    /// Somebody else owns fields that differ.
    #[error("{action}: {message}; --force-conflicts takes these fields over")]
    Conflict {
        /// What was to be done.
        action: String,
        /// What the API server says: who owns what.
        message: String,
    },
    /// The API server refused.
    #[error("{action}: {message}")]
    Refused {
        /// What was to be done.
        action: String,
        /// What the API server says.
        message: String,
    },
}

/// What an apply has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Applied {
    /// It was not there.
    Created,
    /// It was different.
    Changed,
    /// It was the same.
    Unchanged,
}

/// A connection to a cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// The API server's address.
    pub(crate) url: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Configuration`].
    pub(crate) async fn connect(target: &Target) -> Result<Self, ClusterError> {
        let Target { kubeconfig, context } = target;
        let wrong = |error: &dyn std::error::Error| ClusterError::Configuration(chain(error));
        let options = KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
        let mut config = match kubeconfig {
            Some(file) => {
                let read = Kubeconfig::read_from(file).map_err(|error| wrong(&error))?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| wrong(&error))?
            }
            None if context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| wrong(&error))?,
            None => Config::infer().await.map_err(|error| wrong(&error))?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, url })
    }

    /// The client, for what is only looked at.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// An API of a kind; `namespace` counts only where the kind has namespaces.
    pub(crate) fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = kind.resource();
        if kind.namespaced { Api::namespaced_with(self.client(), namespace, &resource) } else { Api::all_with(self.client(), &resource) }
    }

    /// An error with what was tried.
    pub(crate) fn failed(&self, action: impl Into<String>, error: &kube::Error) -> ClusterError {
        let action = action.into();
        if matches!(error, kube::Error::HyperError(_) | kube::Error::Service(_)) {
            return ClusterError::Unreachable { url: self.url.clone(), reason: chain(error) };
        }
        let Some(status) = answer(error) else { return ClusterError::Refused { action, message: chain(error) } };
        let message = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        if status.code == 401 {
            ClusterError::Configuration("the credentials are not accepted".to_owned())
        } else if status.is_forbidden() && !message.contains("admission webhook") {
            ClusterError::Forbidden { action, message }
        } else if status.is_conflict() {
            ClusterError::Conflict { action, message }
        } else {
            ClusterError::Refused { action, message }
        }
    }

    /// Looks an object up; nothing where the object, or its whole kind, is absent.
    ///
    /// # Errors
    ///
    /// See [`ClusterError`].
    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
        match self.api(kind, namespace).get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.failed(format!("get {} {name}", kind.name()), &error)),
        }
    }

    /// The objects of a kind with labels, in all namespaces; none where the kind is absent.
    ///
    /// # Errors
    ///
    /// See [`ClusterError`].
    pub(crate) async fn list(&self, kind: Kind, labels: &str) -> Result<Vec<DynamicObject>, ClusterError> {
        let api: Api<DynamicObject> = Api::all_with(self.client(), &kind.resource());
        match all(&api, &ListParams::default().labels(labels)).await {
            Ok(items) => Ok(items),
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            Err(error) => Err(self.failed(format!("list {}", kind.group_and_plural().1), &error)),
        }
    }

    /// Applies an object (server-side apply); `force` takes over fields that somebody else owns.
    ///
    /// # Errors
    ///
    /// See [`ClusterError`].
    pub(crate) async fn apply(&self, object: &Value, force: bool) -> Result<Applied, ClusterError> {
        let (kind, namespace, name) = identity(object);
        let action = format!("apply {} {name}", object.get("kind").and_then(Value::as_str).unwrap_or("?"));
        let Some(kind) = kind else { return Err(ClusterError::Refused { action, message: "the kind is not known".to_owned() }) };
        let api = self.api(kind, namespace);
        let before = self.get(kind, namespace, name).await?;
        let parameters = PatchParams { force, ..PatchParams::apply(FIELD_MANAGER) };
        let after = api.patch(name, &parameters, &Patch::Apply(object)).await.map_err(|error| {
            if is_absent(&error) && before.is_none() {
                let brings = kind.resource().api_version;
                let message =
                    format!("the cluster lacks the kind, or the namespace {namespace}: install what brings {brings}, or turn it off");
                return ClusterError::Refused { action: action.clone(), message };
            }
            self.failed(&action, &error)
        })?;
        Ok(match before {
            None => Applied::Created,
            Some(before) if before.metadata.resource_version == after.metadata.resource_version => Applied::Unchanged,
            Some(_) => Applied::Changed,
        })
    }

    /// Asks for an object's removal; false when it is not there.
    ///
    /// # Errors
    ///
    /// See [`ClusterError`].
    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<bool, ClusterError> {
        let parameters = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        match self.api(kind, namespace).delete(name, &parameters).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.failed(format!("delete {} {name}", kind.name()), &error)),
        }
    }
}

/// What the API server answered, if it did.
fn answer(error: &kube::Error) -> Option<&kube::core::Status> {
    if let kube::Error::Api(status) = error { Some(status) } else { None }
}

/// Whether an object, or its whole kind, is absent: of a kind that it does not know, an API server says so without a reason.
pub(crate) fn is_absent(error: &kube::Error) -> bool {
    answer(error).is_some_and(|status| status.code == 404)
}

/// All objects of a list, page by page.
///
/// # Errors
///
/// The first page that fails.
pub(crate) async fn all<K>(api: &Api<K>, parameters: &ListParams) -> Result<Vec<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    let mut parameters = parameters.clone().limit(PAGE);
    loop {
        let page = api.list(&parameters).await?;
        items.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters = parameters.continue_token(&token),
            Some(_) | None => return Ok(items),
        }
    }
}

/// An object's kind, namespace and name.
pub(crate) fn identity(object: &Value) -> (Option<Kind>, &str, &str) {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    (kinds::of(object), text("/metadata/namespace"), text("/metadata/name"))
}

/// An error with its causes; a cause that its parent has told already is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Runs a command on one thread: what it does is waiting for the API server.
pub(crate) fn run<F: Future<Output = ExitCode>>(name: &str, command: F) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            eprintln!("heddle {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An API server that answers as a test says.
#[cfg(test)]
pub(crate) mod fake {
    use super::{Client, Cluster, Value};
    use std::convert::Infallible;
    use std::sync::Arc;

    /// A cluster whose API server answers to the method and the path, as in `GET /api/v1/namespaces/a`, with a status and a body.
    pub(crate) fn cluster(answer: impl Fn(&str) -> (u16, Value) + Send + Sync + 'static) -> Cluster {
        let answer = Arc::new(answer);
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (code, body) = answer(&format!("{} {}", request.method(), request.uri().path()));
            let response = http::Response::builder().status(code).body(kube::client::Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        Cluster { client: Client::new(service, "default"), url: "https://fake".to_owned() }
    }

    /// The body of a refusal.
    pub(crate) fn refused(code: u16, reason: &str, message: &str) -> (u16, Value) {
        (code, serde_json::json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message }))
    }

    /// The answer for what is not there.
    pub(crate) fn absent() -> (u16, Value) {
        refused(404, "NotFound", "not found")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config_map() -> Value {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "n" } })
    }

    fn at(version: &str) -> Value {
        let mut object = config_map();
        object["metadata"]["resourceVersion"] = json!(version);
        object
    }

    #[tokio::test]
    async fn an_apply_says_what_it_has_done() {
        for (before, after, expected) in
            [(None, "1", Applied::Created), (Some("1"), "2", Applied::Changed), (Some("1"), "1", Applied::Unchanged)]
        {
            let cluster = fake::cluster(move |request| match (request.starts_with("GET"), before) {
                (true, Some(version)) => (200, at(version)),
                (true, None) => fake::absent(),
                (false, _) => (200, at(after)),
            });
            assert_eq!(cluster.apply(&config_map(), false).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn refusals_are_told_apart_and_say_what_to_do() {
        for ((code, reason, message), parts) in [
            ((403, "Forbidden", "configmaps is forbidden"), ["no right to apply ConfigMap a", "administrator"]),
            ((409, "Conflict", "conflict with \"kubectl-scale\""), ["kubectl-scale", "--force-conflicts"]),
            ((404, "NotFound", "namespaces \"n\" not found"), ["lacks the kind, or the namespace n", "turn it off"]),
            ((403, "Forbidden", "admission webhook \"x\" denied the request: no"), ["apply ConfigMap a", "denied the request"]),
            ((401, "Unauthorized", "Unauthorized"), ["credentials are not accepted", "KUBECONFIG"]),
            ((500, "InternalError", ""), ["apply ConfigMap a", "InternalError"]),
        ] {
            let cluster = fake::cluster(
                move |request| {
                    if request.starts_with("GET") { fake::absent() } else { fake::refused(code, reason, message) }
                },
            );
            let error = cluster.apply(&config_map(), false).await.unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[tokio::test]
    async fn a_kind_that_the_cluster_lacks_has_no_objects() {
        // As an API server answers for a path that it does not know: no reason, and a body that is no JSON object.
        let cluster = fake::cluster(|_| (404, json!("404 page not found")));
        let kind = kinds::named("PodMonitor").unwrap();
        assert!(cluster.list(kind, "a=b").await.unwrap().is_empty());
        assert!(cluster.get(kind, "n", "x").await.unwrap().is_none());
        assert!(!cluster.delete(kind, "n", "x").await.unwrap());
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let inner = std::io::Error::other("refused");
        let outer = ClusterError::Unreachable { url: "u".to_owned(), reason: inner.to_string() };
        assert_eq!(chain(&outer), "the API server u does not answer: refused");
    }
}
