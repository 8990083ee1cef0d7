//! The roots in the webhooks' configurations: by them the API server knows the control plane. Kept by the leader.

use super::{Leadership, WRITE_TIMEOUT};
use crate::cluster::{self, ApiError, Patience, bounded};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The configuration that injects.
pub const INJECTOR: &str = "heddle-injector";

/// The configuration that validates.
pub const VALIDATOR: &str = "heddle-validator";

/// How often the configurations are looked at: a chart that is installed again makes them anew, and until then they let no pod in.
const LOOK: Duration = Duration::from_secs(5);

/// Keeps `caBundle` of both configurations equal to `pem` while this replica leads, until cancelled.
pub async fn keep(client: Client, mut pem: watch::Receiver<Arc<str>>, mut leadership: Leadership) {
    let mut patience = Patience::new("webhook configurations kept");
    loop {
        leadership.gained().await;
        let roots = pem.borrow_and_update().clone();
        match look(&client, &roots).await {
            Ok(()) => {
                patience.succeeded();
                tokio::select! {
                    Ok(()) = pem.changed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err(error) => tokio::time::sleep(patience.failed(&error)).await,
        }
    }
}

async fn look(client: &Client, roots: &str) -> Result<(), ApiError> {
    let injector = |configuration: &MutatingWebhookConfiguration| {
        let webhooks = configuration.webhooks.iter().flatten();
        webhooks.map(|webhook| (webhook.name.clone(), webhook.client_config.clone())).collect()
    };
    let validator = |configuration: &ValidatingWebhookConfiguration| {
        let webhooks = configuration.webhooks.iter().flatten();
        webhooks.map(|webhook| (webhook.name.clone(), webhook.client_config.clone())).collect()
    };
    bundle(Api::all(client.clone()), INJECTOR, injector, roots).await?;
    bundle(Api::all(client.clone()), VALIDATOR, validator, roots).await
}

/// Writes the roots into the webhooks of a configuration that have others.
async fn bundle<K>(
    api: Api<K>,
    name: &str,
    webhooks: impl Fn(&K) -> Vec<(String, WebhookClientConfig)>,
    roots: &str,
) -> Result<(), ApiError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let configuration = match bounded(cluster::REQUEST_TIMEOUT, api.get(name)).await {
        // Switched off in the chart, or not installed yet.
        Err(error) if error.is_not_found() => return Ok(()),
        configuration => configuration?,
    };
    let roots = ByteString(roots.as_bytes().to_vec());
    let other: Vec<_> = webhooks(&configuration)
        .into_iter()
        .filter(|(_, client)| client.ca_bundle.as_ref() != Some(&roots))
        .map(|(webhook, _)| json!({"name": webhook, "clientConfig": {"caBundle": &roots}}))
        .collect();
    if other.is_empty() {
        return Ok(());
    }
    // Webhooks are merged by name. Only what was read is written: a changed configuration is looked at again.
    let patch = json!({"metadata": {"resourceVersion": configuration.meta().resource_version}, "webhooks": other});
    let params = PatchParams { field_manager: Some(cluster::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match bounded(WRITE_TIMEOUT, api.patch(name, &params, &Patch::Strategic(&patch))).await {
        Ok(_) => {
            tracing::info!(configuration = name, webhooks = other.len(), "the webhooks have the mesh's roots");
            Ok(())
        }
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::api::{Answer, Api as Fake};

    fn configuration(name: &str, bundles: &[Option<&str>]) -> serde_json::Value {
        let webhooks: Vec<_> = bundles
            .iter()
            .enumerate()
            .map(|(at, bundle)| {
                json!({
                    "name": format!("{at}.heddle.dev"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"service": {"name": "s", "namespace": "n"}, "caBundle": bundle.map(|b| ByteString(b.into()))},
                })
            })
            .collect();
        json!({"metadata": {"name": name, "resourceVersion": "7"}, "webhooks": webhooks})
    }

    #[tokio::test]
    async fn only_webhooks_with_other_roots_are_written() {
        let fake = Fake::new(|request| {
            let name = request.path.rsplit('/').next().unwrap_or_default();
            match (request.method.as_str(), name) {
                ("GET", INJECTOR) => Answer::ok(configuration(name, &[None, Some("roots"), Some("old")])),
                ("GET", _) => Answer::refused(404, "NotFound"),
                _ => Answer::ok(configuration(name, &[])),
            }
        });
        look(&fake.client(), "roots").await.unwrap();
        let requests = fake.requests();
        let patches: Vec<_> = requests.iter().filter(|request| request.method == "PATCH").collect();
        assert_eq!(patches.len(), 1);
        assert_eq!(patches[0].path, "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/heddle-injector");
        let body = &patches[0].body;
        assert_eq!(body["metadata"]["resourceVersion"], "7");
        let names: Vec<_> = body["webhooks"].as_array().unwrap().iter().map(|webhook| webhook["name"].clone()).collect();
        assert_eq!(names, ["0.heddle.dev", "2.heddle.dev"]);
        assert_eq!(body["webhooks"][0]["clientConfig"]["caBundle"], "cm9vdHM=");
    }
}
