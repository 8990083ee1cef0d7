//! A real Prometheus with the configuration that the chart documents: every sidecar and every replica of the control plane is a target
//! that answers, and a query shows the traffic.
//!
//! Debian builds Prometheus without its discovery in Kubernetes. So this test discovers in its place: the same targets with the same
//! labels, in a file; what the configuration makes of them (selection, addresses, labels) is Prometheus' own doing.

use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::pod::{Pod, fetch};
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service};
use heddle_tests::cluster::{World, api};
use heddle_tests::free_port;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

const CONFIGURATION: &str = include_str!("../../../charts/heddle/files/prometheus.yaml");

struct Prometheus {
    _process: Child,
    address: std::net::SocketAddr,
    folder: PathBuf,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaner.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

/// The documented configuration with a look each second, and with the targets of each job in a file in place of the API.
async fn configuration(world: &World, folder: &Path) -> Value {
    let mut configuration = api::objects(CONFIGURATION).remove(0);
    configuration["global"] = json!({"scrape_interval": "1s", "scrape_timeout": "1s"});
    for job in configuration["scrape_configs"].as_array_mut().unwrap() {
        let mut targets = Vec::new();
        for discovery in job["kubernetes_sd_configs"].as_array().unwrap() {
            assert_eq!(discovery["role"], "pod", "this test discovers pods only");
            let selector = discovery["selectors"][0]["label"].as_str().unwrap();
            let path = format!("/api/v1/pods?labelSelector={}", selector.replace('=', "%3D").replace(',', "%2C"));
            for object in world.api.list(&path).await {
                targets.extend(targets_of(&Pod::of(object)));
            }
        }
        let file = folder.join(format!("{}.json", job["job_name"].as_str().unwrap()));
        std::fs::write(&file, json!(targets).to_string()).unwrap();
        let job = job.as_object_mut().unwrap();
        job.remove("kubernetes_sd_configs");
        job.insert("file_sd_configs".to_owned(), json!([{"files": [file]}]));
    }
    configuration
}

/// The targets that Prometheus' discovery makes of a pod (its documentation, kubernetes_sd_config, role pod): one for each declared port
/// of each container, init containers among them, and one without a port for a container that declares none.
fn targets_of(pod: &Pod) -> Vec<Value> {
    let spec = &pod.object["spec"];
    let mut targets = Vec::new();
    for (list, init) in [("initContainers", "true"), ("containers", "false")] {
        for container in spec[list].as_array().into_iter().flatten() {
            let mut ports = container["ports"].as_array().cloned().unwrap_or_default();
            if ports.is_empty() {
                ports.push(Value::Null);
            }
            for port in ports {
                let number = port["containerPort"].as_u64().map(|number| number.to_string());
                let address = number.as_ref().map_or_else(|| pod.ip.clone(), |number| format!("{}:{number}", pod.ip));
                let mut labels = json!({
                    "__meta_kubernetes_namespace": pod.namespace,
                    "__meta_kubernetes_pod_name": pod.name,
                    "__meta_kubernetes_pod_ip": pod.ip,
                    "__meta_kubernetes_pod_phase": pod.phase(),
                    "__meta_kubernetes_pod_container_init": init,
                    "__meta_kubernetes_pod_container_name": container["name"],
                });
                if let Some(number) = number {
                    labels["__meta_kubernetes_pod_container_port_number"] = number.into();
                    labels["__meta_kubernetes_pod_container_port_name"] = port["name"].as_str().unwrap_or_default().into();
                }
                targets.push(json!({"targets": [address], "labels": labels}));
            }
        }
    }
    targets
}

impl Prometheus {
    async fn start(world: &World) -> Self {
        let folder = std::env::temp_dir().join(format!("heddle-prometheus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // JSON is YAML.
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, configuration(world, &folder).await.to_string()).unwrap();
        let address = free_port();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display())).arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=error").stdin(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().unwrap_or_else(|e| panic!("prometheus: {e}: install the Debian package prometheus"));
        Self { _process: process, address, folder }
    }

    async fn get(&self, page: &str) -> Result<Value, String> {
        let (_, text) = fetch(self.address, page).await?;
        serde_json::from_str(&text).map_err(|e| format!("{page}: {e}: {text}"))
    }

    /// The names of the pods of a job whose target answers; an error names those that do not.
    async fn up(&self, job: &str) -> Result<Vec<String>, String> {
        let targets = self.get("/api/v1/targets?state=active").await?;
        let targets: Vec<_> = targets["data"]["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .filter(|t| t["labels"]["job"] == job)
            .collect();
        match targets.iter().find(|t| t["health"] != "up") {
            Some(down) => Err(format!("{}: {} {}", down["scrapeUrl"], down["health"], down["lastError"])),
            None => Ok(targets.iter().map(|t| t["labels"]["pod"].as_str().unwrap_or_default().to_owned()).collect()),
        }
    }

    async fn query(&self, query: &str) -> Result<f64, String> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}")).await?;
        let value = answer["data"]["result"][0]["value"][1].as_str();
        value.and_then(|v| v.parse().ok()).ok_or_else(|| format!("{query}: {answer}"))
    }
}

/// Pods with and without sidecar, a Job that has ended, and both replicas.
pub(crate) async fn a_real_prometheus_scrapes_everything(world: &World) {
    let namespace = world.namespace("prometheus", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(2)).await;
    let load = Load::start(world, &namespace, "client", &["http://server/", "--busy", "1", "--idle", "0", "--fresh", "0"]).await;
    let prometheus = Prometheus::start(world).await;
    let (mut sidecars, mut replicas): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    sidecars.extend(world.pods(&namespace, "heddle.dev/injected=true").await.into_iter().map(|pod| pod.name));
    replicas.extend(world.control_plane().await.into_iter().map(|pod| pod.name));
    assert_eq!((sidecars.len(), replicas.len()), (3, 2));
    for (job, wanted) in [("heddle-sidecars", &sidecars), ("heddle-control-plane", &replicas)] {
        world
            .until(&format!("targets of {job}"), async || {
                let up = prometheus.up(job).await?;
                let missing: Vec<_> = wanted.iter().filter(|pod| !up.contains(pod)).collect();
                if missing.is_empty() { Ok(()) } else { Err(format!("no target for {missing:?}; there are {up:?}")) }
            })
            .await;
    }
    let served =
        format!("sum(heddle_http_requests_total{{namespace=\"{namespace}\",direction=\"inbound\",mtls=\"true\",code_class=\"2xx\"}})");
    world
        .until("requests in a query", async || {
            let value = prometheus.query(&served).await?;
            if value > 10.0 { Ok(()) } else { Err(format!("{served} is {value}")) }
        })
        .await;
    let duration = format!(
        "histogram_quantile(0.99, sum by (le) (rate(heddle_http_request_duration_seconds_bucket{{namespace=\"{namespace}\",direction=\"outbound\"}}[30s])))"
    );
    let p99 = world
        .until("a quantile", async || {
            prometheus.query(&duration).await.and_then(|v| if v.is_finite() { Ok(v) } else { Err(format!("{v}")) })
        })
        .await;
    world.report.figure("prometheus", "p99 of a request by Prometheus' own query", format!("{:.1} ms", p99 * 1000.0));
    load.tallies().await.assert_flawless("being scraped");
}
