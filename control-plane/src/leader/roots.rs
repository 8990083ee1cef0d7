//! The ConfigMap `heddle-trust-roots` in every namespace with injection: what a sidecar trusts when it starts.
//!
//! The injector ensures it before it lets a pod in; the leader keeps it, in namespaces that ask for injection by their label and wherever
//! it is already. It belongs to the ClusterRole of the control plane, so that uninstalling collects it.

use super::{Leadership, WRITE_TIMEOUT};
use crate::cluster::{self, ApiError, NAME, Patience, bounded};
use crate::serve::View;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "heddle-trust-roots";

/// Its key.
pub const KEY: &str = "root.pem";

/// The label by which a namespace asks for injection, and its value.
const INJECT: (&str, &str) = ("heddle.dev/inject", "enabled");

/// How long a ConfigMap that was ensured is taken to be there: the leader looks as often.
const LOOK: Duration = Duration::from_secs(30);

/// Most namespaces that are remembered as ensured.
const MAX_REMEMBERED: usize = 10_000;

/// ConfigMaps of one page of a list.
const PAGE: u32 = 500;

/// Ensures the ConfigMap in single namespaces. Cheap to clone; clones share what they remember.
#[derive(Clone)]
pub struct Roots {
    client: Client,
    pem: watch::Receiver<Arc<str>>,
    remembered: Arc<Mutex<Remembered>>,
}

#[derive(Default)]
struct Remembered {
    /// The uid of the ClusterRole that owns the ConfigMaps.
    owner: Option<String>,
    /// What was ensured where, and when. Every change is one insertion or removal, whole even after a panic.
    ensured: HashMap<String, (Arc<str>, Instant)>,
}

impl Roots {
    /// Writes `pem`, the roots as text.
    #[must_use]
    pub fn new(client: Client, pem: watch::Receiver<Arc<str>>) -> Self {
        Self { client, pem, remembered: Arc::default() }
    }

    /// Makes sure that a namespace has the present roots. Asks the API server only where that was not done lately.
    ///
    /// Cancel safe: the request may have had its effect.
    ///
    /// # Errors
    /// When the ConfigMap cannot be written.
    pub async fn ensure(&self, namespace: &str) -> Result<(), ApiError> {
        let pem = self.pem.borrow().clone();
        let is_known =
            |remembered: &Remembered| remembered.ensured.get(namespace).is_some_and(|(ensured, at)| *ensured == pem && at.elapsed() < LOOK);
        if is_known(&self.lock()) { Ok(()) } else { self.apply(namespace, &pem).await }
    }

    async fn apply(&self, namespace: &str, pem: &Arc<str>) -> Result<(), ApiError> {
        let owner = self.owner().await?;
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP,
                "labels": {"app.kubernetes.io/managed-by": "heddle"},
                // Neither `controller` nor `blockOwnerDeletion`: nothing has to wait for it.
                "ownerReferences": [{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": NAME, "uid": owner}],
            },
            "data": {KEY: &**pem},
        });
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        // Forced: nobody else has a say in what the mesh trusts.
        let params = PatchParams::apply(cluster::FIELD_MANAGER).force();
        let applied = bounded(WRITE_TIMEOUT, api.patch_metadata(CONFIG_MAP, &params, &Patch::Apply(&object))).await;
        let mut remembered = self.lock();
        match applied {
            Ok(_) => {
                if remembered.ensured.len() >= MAX_REMEMBERED {
                    remembered.ensured.clear();
                }
                remembered.ensured.insert(namespace.to_owned(), (pem.clone(), Instant::now()));
                Ok(())
            }
            Err(error) => {
                remembered.ensured.remove(namespace);
                // The ClusterRole may be another one by now.
                remembered.owner = None;
                Err(error)
            }
        }
    }

    async fn owner(&self) -> Result<String, ApiError> {
        let known = self.lock().owner.clone();
        if let Some(owner) = known {
            return Ok(owner);
        }
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        let role = bounded(cluster::REQUEST_TIMEOUT, api.get_metadata(NAME)).await?;
        let owner = role.metadata.uid.unwrap_or_default();
        self.lock().owner = Some(owner.clone());
        Ok(owner)
    }

    /// The namespaces in which there is such a ConfigMap, and whether it has the present roots.
    async fn existing(&self) -> Result<HashMap<String, bool>, ApiError> {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let pem = self.pem.borrow().clone();
        let mut found = HashMap::new();
        let mut params = ListParams::default().fields(&format!("metadata.name={CONFIG_MAP}")).limit(PAGE);
        loop {
            let page = bounded(cluster::REQUEST_TIMEOUT, api.list(&params)).await?;
            for map in page.items {
                let is_present = map.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str) == Some(&*pem);
                found.insert(map.metadata.namespace.unwrap_or_default(), is_present);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").finish_non_exhaustive()
    }
}

/// Keeps the ConfigMaps while this replica leads, until cancelled.
pub async fn keep(roots: Roots, mut leadership: Leadership, mut views: watch::Receiver<Arc<View>>) {
    let mut patience = Patience::new("roots of namespaces kept");
    let mut pem = roots.pem.clone();
    loop {
        leadership.gained().await;
        let wanted = asking(&views.borrow_and_update());
        match look(&roots, &leadership, &wanted).await {
            Ok(()) => {
                patience.succeeded();
                tokio::select! {
                    // Nothing is lost with the losers: each is looked at again in the next turn.
                    Ok(()) = pem.changed() => {}
                    () = another_asks(&mut views, &wanted) => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
            Err(error) => tokio::time::sleep(patience.failed(&error)).await,
        }
    }
}

/// The namespaces that ask for injection.
fn asking(view: &View) -> BTreeSet<String> {
    let (label, value) = INJECT;
    let namespaces = view.snapshot().namespaces.iter().filter(|(_, namespace)| {
        let is_ending = namespace.metadata.deletion_timestamp.is_some();
        !is_ending && namespace.metadata.labels.as_ref().and_then(|labels| labels.get(label)).is_some_and(|found| found == value)
    });
    namespaces.map(|(key, _)| key.name.to_string()).collect()
}

async fn another_asks(views: &mut watch::Receiver<Arc<View>>, known: &BTreeSet<String>) {
    loop {
        if views.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if !asking(&views.borrow_and_update()).is_subset(known) {
            return;
        }
    }
}

async fn look(roots: &Roots, leadership: &Leadership, wanted: &BTreeSet<String>) -> Result<(), ApiError> {
    let existing = roots.existing().await?;
    let pem = roots.pem.borrow().clone();
    let missing = wanted.iter().filter(|namespace| !existing.contains_key(*namespace));
    let old = existing.iter().filter(|(_, is_present)| !**is_present).map(|(namespace, _)| namespace);
    for namespace in missing.chain(old) {
        if !leadership.leads() {
            return Ok(());
        }
        match roots.apply(namespace, &pem).await {
            // The namespace is gone, or going.
            Err(error) if error.is_not_found() => {}
            applied => applied?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "roots/tests.rs"]
mod tests;
