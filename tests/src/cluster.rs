//! A real Kubernetes on this machine, with a mesh that the chart has installed in it, and what its tests do there.
//!
//! ```text
//! cluster.rs    the world of the scenarios: cluster, images, mesh, namespaces
//!   standstill  whether the machine itself stood still
//!   script      the programs of tests/cluster, and others
//!   api         the Kubernetes API: apply, get, wait
//!   workload    objects that tests make: pods of the test application, Services, routes
//!   pod         what a test asks a running pod, and of its processes
//!   load        clients under way, and what came of their requests
//!   wire        what packets between pods carry
//!   mesh        the chart installed, changed, gone; the control plane's pods
//!   report      figures, as a table and as JSON
//!   diagnosis   what a failed scenario leaves to be read
//! ```
//!
//! Everything panics where a scenario would have to fail anyway.

pub mod api;
mod diagnosis;
pub mod load;
pub mod mesh;
pub mod pod;
pub mod report;
pub mod script;
pub mod standstill;
pub mod wire;
pub mod workload;

use api::Api;
use report::Report;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long anything in the cluster may take: pods on two busy cores, several at a time.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at the API or a pod.
const LOOK: Duration = Duration::from_millis(100);

/// What all scenarios share.
#[derive(Debug)]
pub struct World {
    /// The Kubernetes API.
    pub api: Api,
    /// What was measured.
    pub report: Report,
    /// Namespaces made and not yet deleted, for the diagnosis of a failure and the end.
    namespaces: Mutex<Vec<String>>,
    /// Of those, the ones that outlast their scenario.
    kept: Mutex<Vec<String>>,
    /// Whether this run has seen the mesh whole.
    installed: AtomicBool,
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().map(PathBuf::from).unwrap_or_default()
}

impl World {
    /// Brings the cluster up where it is not, builds the images and takes them in.
    ///
    /// # Panics
    /// When that fails, with what the programs said.
    pub async fn new() -> Self {
        let began = Instant::now();
        standstill::watch();
        say("bringing the cluster up");
        script::cluster("up", &[]).await;
        let up = began.elapsed();
        if std::env::var("HEDDLE_CLUSTER_IMAGES").is_ok_and(|images| images == "present") {
            say("the images are taken as they are in the cluster");
        } else {
            say("building the images");
            script::images().await;
        }
        let world = Self {
            api: Api::connect().await,
            report: Report::default(),
            namespaces: Mutex::default(),
            kept: Mutex::default(),
            installed: AtomicBool::default(),
        };
        world.report.figure("cluster", "up", report::seconds(up));
        world.report.figure("cluster", "images built and taken in", report::seconds(began.elapsed() - up));
        world
    }

    /// Makes a namespace of this run; with injection or without.
    ///
    /// # Panics
    /// When the API refuses.
    pub async fn namespace(&self, name: &str, inject: bool) -> String {
        let name = format!("{name}-{}", std::process::id());
        let labels = if inject { json!({"heddle.dev/inject": "enabled"}) } else { json!({}) };
        self.api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})).await;
        self.namespaces.lock().expect("no panic while noting").push(name.clone());
        let account = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        // A pod cannot be made before.
        self.until("the service account default", async || self.api.find(&account).await.ok_or_else(|| "it is not there".to_owned())).await;
        name
    }

    /// Deletes a namespace and everything in it, without waiting for that.
    pub async fn delete_namespace(&self, name: &str) {
        self.api.delete(&format!("/api/v1/namespaces/{name}")).await;
        self.namespaces.lock().expect("no panic while noting").retain(|n| n != name);
    }

    /// Lets a namespace outlast its scenario: who made it deletes it.
    ///
    /// # Panics
    /// Never, unless another thread did while noting.
    pub fn keep(&self, name: &str) {
        self.kept.lock().expect("no panic while noting").push(name.to_owned());
    }

    /// Deletes every namespace that is left and not kept, without waiting for that.
    ///
    /// # Panics
    /// Never, unless another thread did while noting.
    pub async fn clean(&self) {
        let kept = self.kept.lock().expect("no panic while noting").clone();
        for name in self.namespaces().iter().filter(|name| !kept.contains(name)) {
            self.delete_namespace(name).await;
        }
    }

    fn namespaces(&self) -> Vec<String> {
        self.namespaces.lock().expect("no panic while noting").clone()
    }

    /// Looks until `probe` says what was waited for.
    ///
    /// # Panics
    /// After [`PATIENCE`], with the reason that `probe` gave last.
    pub async fn until<T>(&self, what: &str, probe: impl AsyncFnMut() -> Result<T, String>) -> T {
        self.until_within(PATIENCE, what, probe).await
    }

    /// Looks until `probe` says what was waited for, for `patience` at most.
    ///
    /// # Panics
    /// After `patience`, with the reason that `probe` gave last.
    pub async fn until_within<T>(&self, patience: Duration, what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
        let deadline = Instant::now() + patience;
        loop {
            match probe().await {
                Ok(found) => return found,
                Err(reason) if Instant::now() >= deadline => panic!("waited {patience:?} for {what}: {reason}"),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// What is to be read after a failure: events, pods and logs of the mesh's namespace and of those that tests have made.
    pub async fn diagnosis(&self) -> String {
        let mut namespaces = vec![mesh::NAMESPACE.to_owned()];
        namespaces.extend(self.namespaces());
        diagnosis::of(&self.api, &namespaces).await
    }
}

/// Says what is going on, to whoever waits for the tier.
#[expect(clippy::print_stdout, reason = "the tier takes minutes: whoever waits sees where it is")]
pub fn say(what: &str) {
    println!("-- {what}");
}

/// `patch` upon `base`: objects by their fields, everything else replaced (RFC 7396, without its removal by null).
pub(crate) fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_replaces_what_it_names() {
        let mut base = json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut base, &json!({"a": {"c": [3]}, "e": {"f": 1}}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [3]}, "d": 1, "e": {"f": 1}}));
    }
}
