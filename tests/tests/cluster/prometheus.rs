//! A real Prometheus with the configuration that the chart documents: every sidecar and every replica of the control plane is a target
//! that answers, and a query shows the traffic.

use heddle_tests::cluster::load::Load;
use heddle_tests::cluster::pod::fetch;
use heddle_tests::cluster::workload::{ALL_PORTS, Workload, service};
use heddle_tests::cluster::{World, api, script};
use heddle_tests::free_port;
use serde_json::{Value, json};
use std::path::PathBuf;
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

/// The documented configuration, with what a Prometheus outside the cluster needs, and a look each second.
fn configuration() -> Value {
    let mut configuration = api::objects(CONFIGURATION).remove(0);
    configuration["global"] = json!({"scrape_interval": "1s", "scrape_timeout": "1s"});
    for job in configuration["scrape_configs"].as_array_mut().unwrap() {
        for discovery in job["kubernetes_sd_configs"].as_array_mut().unwrap() {
            discovery["kubeconfig_file"] = script::state().join("kubeconfig").display().to_string().into();
        }
    }
    configuration
}

impl Prometheus {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("heddle-prometheus-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        // JSON is YAML.
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, configuration().to_string()).unwrap();
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
pub async fn a_real_prometheus_scrapes_everything(world: &World) {
    let namespace = world.namespace("prometheus", true).await;
    world.api.apply(&service(&namespace, "server", "server", &ALL_PORTS)).await;
    world.start(&Workload::server(&namespace, "server").deployment(2)).await;
    let load = Load::start(world, &namespace, "client", &["http://server/", "--busy", "1", "--idle", "0", "--fresh", "0"]).await;
    let prometheus = Prometheus::start();
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
