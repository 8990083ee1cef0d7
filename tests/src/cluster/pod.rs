//! Pods: found, waited for, asked over the network as the host reaches them, and their processes as the host sees them.

use super::workload::ADMIN;
use super::{PATIENCE, World};
use crate::metrics::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One page of a pod. The calls that a pod makes for a test have 8 s.
const PAGE_LIMIT: Duration = Duration::from_secs(12);
/// Where a sidecar says how it is, and its metrics.
pub const HEALTH: u16 = 15021;

/// A pod as last seen.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// The whole object.
    pub object: Value,
}

impl Pod {
    /// Of an object of the API.
    pub fn of(object: Value) -> Self {
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        Self { namespace: field(&metadata["namespace"]), name: field(&metadata["name"]), ip: field(&object["status"]["podIP"]), object }
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }

    fn is_going(&self) -> bool {
        !self.object["metadata"]["deletionTimestamp"].is_null()
    }

    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub fn phase(&self) -> &str {
        self.object["status"]["phase"].as_str().unwrap_or_default()
    }

    /// Whether its condition `Ready` is true.
    pub fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    /// Whether it has a sidecar.
    pub fn is_injected(&self) -> bool {
        let containers = self.object["spec"]["initContainers"].as_array().into_iter().flatten();
        containers.into_iter().any(|c| c["name"] == "heddle-sidecar")
    }

    fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip.parse().unwrap_or_else(|_| panic!("{} has no address yet", self.name)), port)
    }

    /// A page of the application's admin port.
    ///
    /// # Errors
    /// When it does not answer with JSON.
    pub async fn try_ask(&self, page: &str) -> Result<Value, String> {
        let (_, text) = fetch(self.address(ADMIN), page).await?;
        serde_json::from_str(&text).map_err(|e| format!("{page} of {}: {e}: {text}", self.name))
    }

    /// The same.
    ///
    /// # Panics
    /// When it does not answer with JSON.
    pub async fn ask(&self, page: &str) -> Value {
        self.try_ask(page).await.unwrap_or_else(|e| panic!("{page} of {}: {e}", self.name))
    }

    /// What comes of a call that the pod's application makes: its status and body, or the error.
    ///
    /// # Errors
    /// When the call fails, or is answered with 400 and more.
    pub async fn call(&self, url: &str) -> Result<Value, String> {
        let answer = self.try_ask(&format!("/via?{url}")).await?;
        match answer["status"].as_u64() {
            Some(status) if status < 400 => Ok(answer),
            _ => Err(format!("{url} from {}: {answer}", self.name)),
        }
    }

    /// The sidecar's metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<Metrics, String> {
        Ok(Metrics::parse(&fetch(self.address(HEALTH), "/metrics").await?.1))
    }

    /// The host's id of a process in this pod, by the name of its program and the pod's name in its environment.
    pub fn process(&self, program: &str) -> Option<u32> {
        processes(program)
            .into_iter()
            .find(|(_, environment)| {
                let is = |name| environment.get(name).is_some_and(|value| *value == self.name);
                is("HEDDLE_WORKLOAD") || is("HOSTNAME") || is("POD_NAME")
            })
            .map(|(pid, _)| pid)
    }

    /// Kills a process of this pod (SIGKILL).
    ///
    /// # Panics
    /// When there is none.
    pub fn kill(&self, program: &str) {
        let pid = self.process(program).unwrap_or_else(|| panic!("{} has no process {program}", self.name));
        let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        kill_process(pid, Signal::KILL).unwrap_or_else(|e| panic!("{program} of {}: {e}", self.name));
    }

    /// Resident memory of a process of this pod, in bytes: all of it, and without pages of the binary's file.
    ///
    /// # Panics
    /// When there is none.
    pub fn memory(&self, program: &str) -> (u64, u64) {
        let pid = self.process(program).unwrap_or_else(|| panic!("{} has no process {program}", self.name));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process");
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of the status");
            value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB") * 1024
        };
        (field("VmRSS:"), field("RssAnon:"))
    }
}

/// Whether a process of the host is there.
pub fn is_alive(pid: u32) -> bool {
    // A zombie has ended: its parent is only slow to notice.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The processes of the host, pods' among them, that run a program of this name, with their environments.
fn processes(program: &str) -> Vec<(u32, BTreeMap<String, String>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let first = command.split(|b| *b == 0).next().unwrap_or_default();
        let first = String::from_utf8_lossy(first);
        if first.rsplit('/').next() != Some(program) {
            continue;
        }
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let pairs = environment.split(|b| *b == 0).filter_map(|pair| {
            let pair = String::from_utf8_lossy(pair).into_owned();
            pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        found.push((pid, pairs.collect()));
    }
    found
}

impl World {
    /// The pods of a namespace with this label that are not being deleted.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Vec<Pod> {
        self.all_pods(namespace, selector).await.into_iter().filter(|pod| !pod.is_going()).collect()
    }

    /// The same, with those that are being deleted.
    pub async fn all_pods(&self, namespace: &str, selector: &str) -> Vec<Pod> {
        let selector = selector.replace('=', "%3D");
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        self.api.list(&path).await.into_iter().map(Pod::of).collect()
    }

    /// A pod that is there.
    pub async fn find_pod(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.api.find(&format!("/api/v1/namespaces/{namespace}/pods/{name}")).await.map(Pod::of)
    }

    /// Waits until a pod is ready.
    ///
    /// # Panics
    /// When it does not become that.
    pub async fn ready_pod(&self, namespace: &str, name: &str) -> Pod {
        self.until(&format!("the pod {namespace}/{name} to be ready"), async || {
            let pod = self.find_pod(namespace, name).await.ok_or_else(|| "it is not there".to_owned())?;
            if pod.is_ready() { Ok(pod) } else { Err(format!("its state: {}", pod.object["status"])) }
        })
        .await
    }

    /// Makes a pod and waits until it is ready.
    ///
    /// # Panics
    /// When it is refused, or does not become ready.
    pub async fn start_pod(&self, object: &Value) -> Pod {
        self.api.create(object).await.unwrap_or_else(|e| panic!("the pod is refused: {e:?}"));
        let field = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
        self.ready_pod(&field("namespace"), &field("name")).await
    }

    /// Waits until a Deployment, StatefulSet or DaemonSet is as it should be: all replicas new, ready, and no others left.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn rolled_out(&self, path: &str) {
        self.until_within(PATIENCE * 3, &format!("{path} to be rolled out"), async || {
            let object = self.api.find(path).await.ok_or_else(|| "it is not there".to_owned())?;
            let (status, number) = (&object["status"], |value: &Value| value.as_u64().unwrap_or_default());
            let daemon_set = object["kind"] == "DaemonSet";
            let wanted = number(if daemon_set { &status["desiredNumberScheduled"] } else { &object["spec"]["replicas"] });
            let names = if daemon_set {
                ["updatedNumberScheduled", "numberReady", "numberReady"]
            } else {
                ["updatedReplicas", "readyReplicas", "replicas"]
            };
            let seen = number(&status["observedGeneration"]) >= number(&object["metadata"]["generation"]);
            let there = names.iter().all(|name| number(&status[name]) == wanted) && (wanted > 0 || !daemon_set);
            if seen && there { Ok(()) } else { Err(format!("its status: {status}")) }
        })
        .await;
    }

    /// Applies a Deployment, StatefulSet or DaemonSet and waits until it is rolled out; gives its pods.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn start(&self, object: &Value) -> Vec<Pod> {
        self.api.apply(object).await;
        self.rolled_out(&super::api::path_of(object)).await;
        let app = object["spec"]["template"]["metadata"]["labels"]["app"].as_str().unwrap_or_default();
        self.pods(object["metadata"]["namespace"].as_str().unwrap_or_default(), &format!("app={app}")).await
    }

    /// Replaces all pods of a workload, as `kubectl rollout restart` does, and waits until the old ones are gone; says how long that took.
    ///
    /// # Panics
    /// When it does not come to that.
    pub async fn restart(&self, path: &str) -> Duration {
        let began = tokio::time::Instant::now();
        let object = self.api.get(path).await;
        let labels = object["spec"]["selector"]["matchLabels"].as_object().cloned().unwrap_or_default();
        let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
        let (selector, namespace) = (pairs.join(","), object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        let old: Vec<_> = self.pods(&namespace, &selector).await.into_iter().map(|pod| pod.name).collect();
        let mark = format!("{}-{}", std::process::id(), fastrand::u32(..));
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": mark});
        self.api.patch(path, &json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})).await;
        self.rolled_out(path).await;
        self.until_within(PATIENCE * 2, "the old pods to be gone", async || {
            let left: Vec<_> =
                self.all_pods(&namespace, &selector).await.into_iter().map(|pod| pod.name).filter(|n| old.contains(n)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are there")) }
        })
        .await;
        began.elapsed()
    }

    /// Waits until a pod is gone.
    ///
    /// # Panics
    /// When it stays.
    pub async fn gone(&self, pod: &Pod) {
        self.until(&format!("{} to be gone", pod.name), async || match self.find_pod(&pod.namespace, &pod.name).await {
            Some(_) => Err("it is there".to_owned()),
            None => Ok(()),
        })
        .await;
    }
}

/// A page over HTTP/1, whatever its status: the status and the body.
///
/// # Errors
/// When there is no complete answer in time.
pub async fn fetch(address: SocketAddr, page: &str) -> Result<(u16, String), String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        // 1.0: the answer's body ends with the connection.
        stream.write_all(format!("GET {page} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PAGE_LIMIT, exchange).await.map_err(|_| format!("{address}{page}: no answer within {PAGE_LIMIT:?}"))?;
    let answer = answer.map_err(|e| format!("{address}{page}: {e}"))?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("{address}{page}: no answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| format!("no status: {head:?}"))?;
    Ok((status, body.to_owned()))
}
