//! The mesh in the cluster: installed by the real helm from the chart, changed, gone; and the control plane's pods.

use super::pod::Pod;
use super::report::seconds;
use super::{PATIENCE, World, say, script};
use crate::metrics::Metrics;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Where the control plane lives.
pub const NAMESPACE: &str = "heddle-system";
/// The chart's release.
pub const RELEASE: &str = "heddle";
/// The control plane's Deployment.
pub const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/heddle-system/deployments/heddle-control-plane";
/// Its Lease.
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/heddle-system/leases/heddle-control-plane";
/// Selects its pods.
const SELECTOR: &str = "app.kubernetes.io/component=control-plane";
/// The chart's values in tests: images that are in the cluster already.
const VALUES: [&str; 4] = ["--set", "image.tag=test", "--set", "image.pullPolicy=Never"];

impl World {
    /// Installs the chart where there is no release, then the Gateway API; says what it took.
    ///
    /// # Panics
    /// When that fails.
    pub async fn install(&self) {
        if self.installed.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.api.find(DEPLOYMENT).await.is_some() {
            say("the chart is installed already");
            self.rolled_out(DEPLOYMENT).await;
            self.gateway_api().await;
            return;
        }
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        self.api.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})).await;
        let began = Instant::now();
        self.helm("install", &[]).await.unwrap_or_else(|reason| panic!("helm install: {reason}"));
        self.report.figure("install", "helm install, until two replicas are ready", seconds(began.elapsed()));
        self.rolled_out(DEPLOYMENT).await;
        // After the mesh, as in many clusters: it is to notice.
        self.gateway_api().await;
    }

    /// `helm install` or `upgrade` of the chart with the tests' values and these arguments, waiting until it is ready.
    ///
    /// # Errors
    /// What helm said.
    pub async fn helm(&self, command: &str, args: &[&str]) -> Result<String, String> {
        let mut all = vec![command, RELEASE, "charts/heddle", "--namespace", NAMESPACE, "--wait", "--timeout", "180s"];
        all.extend(VALUES);
        all.extend(args);
        script::try_cluster("helm", &all).await
    }

    async fn gateway_api(&self) {
        let began = Instant::now();
        script::cluster("gateway-api", &["standard", "apply"]).await;
        say(&format!("Gateway API applied after {}", seconds(began.elapsed())));
    }

    /// The control plane's pods that are not being deleted.
    pub async fn control_plane(&self) -> Vec<Pod> {
        self.pods(NAMESPACE, SELECTOR).await
    }

    /// The pod that holds the Lease.
    ///
    /// # Panics
    /// When nobody does for long.
    pub async fn leader(&self) -> Pod {
        self.until("a leader", async || {
            let lease = self.api.get(LEASE).await;
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
            let pods = self.control_plane().await;
            // The identity is the pod's name, perhaps with more behind it.
            pods.into_iter().find(|pod| holder.starts_with(&pod.name)).ok_or_else(|| format!("the Lease says {holder:?}"))
        })
        .await
    }

    /// The raw holder of the Lease.
    pub async fn lease_holder(&self) -> String {
        self.api.get(LEASE).await["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// Scales the control plane.
    pub async fn scale_control_plane(&self, replicas: u32) {
        self.api.patch(DEPLOYMENT, &json!({"spec": {"replicas": replicas}})).await;
        self.rolled_out(DEPLOYMENT).await;
        self.until("the control plane's pods to be as many", async || {
            let pods = self.all_pods(NAMESPACE, SELECTOR).await;
            if pods.len() == usize::try_from(replicas).unwrap_or_default() { Ok(()) } else { Err(format!("{} are there", pods.len())) }
        })
        .await;
    }

    /// The mesh's one configuration, changed or made; it is in force once the control plane accepts it.
    ///
    /// # Panics
    /// When it is not accepted.
    pub async fn mesh_config(&self, spec: &Value) {
        let object = json!({"apiVersion": "heddle.dev/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "default"}, "spec": spec});
        self.api.apply(&object).await;
        self.accepted("/apis/heddle.dev/v1alpha1/meshconfigs/default").await;
    }

    /// Waits until a policy, route or MeshConfig is accepted in its present generation; gives it.
    ///
    /// # Panics
    /// When it is not.
    pub async fn accepted(&self, path: &str) -> Value {
        self.until(&format!("{path} to be accepted"), async || {
            let object = self.api.find(path).await.ok_or_else(|| "it is not there".to_owned())?;
            let generation = &object["metadata"]["generation"];
            let is = |c: &&Value| c["type"] == "Accepted" && c["status"] == "True" && c["observedGeneration"] == *generation;
            if conditions(&object).iter().any(|c| is(&c)) { Ok(object) } else { Err(format!("its status: {}", object["status"])) }
        })
        .await
    }

    /// The metrics of a control plane's pod.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn control_plane_metrics(&self, pod: &Pod) -> Result<Metrics, String> {
        pod.metrics().await
    }

    /// When the Lease was renewed last.
    pub async fn lease_renewed(&self) -> String {
        self.api.get(LEASE).await["spec"]["renewTime"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until another pod than `before` holds the Lease, and says how long that took.
    ///
    /// # Panics
    /// When nobody takes it.
    pub async fn another_leader(&self, before: &str) -> Duration {
        let began = Instant::now();
        self.until_within(PATIENCE, "another leader", async || match self.lease_holder().await {
            holder if holder.is_empty() || holder == before => Err(format!("the Lease says {holder:?}")),
            _ => Ok(()),
        })
        .await;
        began.elapsed()
    }
}

/// All conditions of an object's status: its own, those for each parent (routes) and each ancestor (policies).
pub fn conditions(object: &Value) -> Vec<Value> {
    let status = &object["status"];
    let mut lists = vec![&status["conditions"]];
    for name in ["parents", "ancestors"] {
        lists.extend(status[name].as_array().into_iter().flatten().map(|entry| &entry["conditions"]));
    }
    lists.into_iter().filter_map(Value::as_array).flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_found_wherever_they_are() {
        let route = json!({"status": {"parents": [{"conditions": [{"type": "Accepted"}]}, {"conditions": [{"type": "ResolvedRefs"}]}]}});
        assert_eq!(conditions(&route), [json!({"type": "Accepted"}), json!({"type": "ResolvedRefs"})]);
        assert_eq!(conditions(&json!({"status": {"conditions": [{"type": "Ready"}]}})), [json!({"type": "Ready"})]);
        assert!(conditions(&json!({})).is_empty());
    }
}
