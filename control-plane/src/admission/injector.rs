//! `/inject`: gives a new pod its sidecar, decided by the request alone.
//!
//! Which pods arrive is up to the webhook's selectors: those of namespaces and pods that ask. What arrives gets a sidecar, unless
//! the pod itself says no, or is in a namespace that must start without us.

use super::namespace::{Namespaces, POD_SECURITY_LABEL};
use super::review::{AdmissionRequest, Answer, Operation};
use crate::events::{Event, Recorder, Regarding};
use crate::inject::{self, Decision, InjectionConfig, REDIRECT_CONTAINER};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The namespace of the cluster itself: a pod there that waits for us may be one that we need to start.
const KUBE_SYSTEM: &str = "kube-system";

/// How long the roots may take. The API server waits for 10 s, and asks anew when a person or a controller does.
const ROOTS_TIMEOUT: Duration = Duration::from_secs(6);

/// Gives pods their sidecars. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Injector<N> {
    configs: watch::Receiver<Arc<InjectionConfig>>,
    namespaces: N,
    recorder: Recorder,
    system_namespace: Arc<str>,
}

impl<N: Namespaces> Injector<N> {
    /// Makes an injector. `configs` has the operator's configuration; pods of `system_namespace` (the control plane's own) are left
    /// alone; refusals become Events by `recorder`.
    pub fn new(configs: watch::Receiver<Arc<InjectionConfig>>, namespaces: N, recorder: Recorder, system_namespace: &str) -> Self {
        Self { configs, namespaces, recorder, system_namespace: system_namespace.into() }
    }

    /// Answers for one pod. Cancel safe: the roots may have been written.
    pub async fn review(&self, request: AdmissionRequest) -> Answer {
        let namespace = request.namespace.clone().unwrap_or_default();
        let is_pod =
            request.kind.group.is_empty() && request.kind.kind == "Pod" && request.sub_resource.as_deref().is_none_or(str::is_empty);
        let protected = namespace.is_empty() || namespace == KUBE_SYSTEM || *namespace == *self.system_namespace;
        let pod = match &request.object {
            Some(pod) if is_pod && !protected && request.operation == Operation::Create => pod,
            Some(_) | None => return Answer::allowed(request.uid),
        };
        let config = self.configs.borrow().clone();
        match inject::inject(pod, &config) {
            Decision::Skipped(_) => Answer::allowed(request.uid),
            Decision::Refused(reasons) => {
                let message = format!("{} cannot have a sidecar: {}", request.subject(), reasons.join("; "));
                if !request.dry_run {
                    self.recorder.record(Event::warning(regarding(&request, &namespace), "InjectionRefused", message.as_str()));
                }
                Answer::refused(request.uid, message)
            }
            Decision::Injected { pod: injected, warnings } => {
                if !request.dry_run
                    && let Err(reason) = self.ensure_roots(&namespace).await
                {
                    let subject = request.subject();
                    let message = format!(
                        "{subject} cannot start now: the ConfigMap {} of namespace {namespace}, which its sidecar needs, cannot be written: {reason}; try again",
                        inject::TRUST_ROOTS
                    );
                    return Answer::unavailable(request.uid, message);
                }
                Answer::patched(request.uid.clone(), pod, &injected).warning(warnings).warning(self.forbidden(&namespace))
            }
        }
    }

    async fn ensure_roots(&self, namespace: &str) -> Result<(), String> {
        let ensured = tokio::time::timeout(ROOTS_TIMEOUT, self.namespaces.ensure_roots(namespace)).await;
        ensured.unwrap_or_else(|_| Err(format!("the API server did not answer within {ROOTS_TIMEOUT:?}")))
    }

    /// The API server refuses the pod right after us, and says only which rule it breaks.
    fn forbidden(&self, namespace: &str) -> Option<String> {
        let level = self.namespaces.label(namespace, POD_SECURITY_LABEL).filter(|level| level != "privileged")?;
        Some(format!(
            "namespace {namespace} enforces Pod Security \"{level}\", which forbids NET_ADMIN of {REDIRECT_CONTAINER}: label it {POD_SECURITY_LABEL}: privileged, or take it out of the mesh"
        ))
    }
}

/// The object that people look at: the controller that makes the pod, or else the pod, which will never be there.
fn regarding(request: &AdmissionRequest, namespace: &str) -> Regarding {
    let metadata = request.object.as_ref().and_then(|pod| pod.get("metadata")).unwrap_or(&Value::Null);
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let owner = owners.into_iter().flatten().find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true));
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let namespace = namespace.to_owned();
    match owner {
        Some(owner) => {
            let uid = Some(text(owner, "uid")).filter(|uid| !uid.is_empty());
            Regarding { api_version: text(owner, "apiVersion"), kind: text(owner, "kind"), namespace, name: text(owner, "name"), uid }
        }
        None => {
            let name = [request.name.clone(), text(metadata, "name"), text(metadata, "generateName").trim_end_matches('-').to_owned()];
            let name = name.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "pod".to_owned());
            Regarding { api_version: "v1".to_owned(), kind: "Pod".to_owned(), namespace, name, uid: None }
        }
    }
}
