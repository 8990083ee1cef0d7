//! Pods without a cluster: network namespaces on one bridge, with the real redirection, real sidecars and a real control plane, while
//! their applications are sockets of this process and know nothing of it.
//!
//! ```text
//! namespace.rs   one network namespace: made, entered, gone with the test
//! objects.rs     the objects that Kubernetes would have made
//! ```
//!
//! Needs root, and the commands `ip`, `nft` and `setpriv`.

pub mod namespace;
mod objects;

pub use namespace::Namespace;

use crate::http1::{self, Message};
use crate::metrics::Metrics;
use crate::process::Process;
use crate::scratch::{self, Scratch};
use crate::wait;
use crate::wire::Wire;
use crate::{App, Condition};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio::net::{TcpListener, TcpStream};

/// The sidecar's user and group.
pub const SIDECAR_UID: u32 = 15015;
/// Its health server.
pub const HEALTH_PORT: u16 = 15021;
const ADMIN_PORT: u16 = 15020;
const CONTROL_PLANE_PORT: u16 = 15010;

/// Which addresses pods have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    Ipv4,
    /// IPv4 and IPv6; IPv4 comes first.
    Both,
    /// IPv6 alone.
    Ipv6,
}

impl Families {
    /// The addresses of the pod with this number; 1 is the node.
    fn ips(self, number: u8) -> Vec<IpAddr> {
        let v4 = IpAddr::V4(Ipv4Addr::new(10, 244, 0, number));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(number)));
        match self {
            Self::Ipv4 => vec![v4],
            Self::Both => vec![v4, v6],
            Self::Ipv6 => vec![v6],
        }
    }

    /// The cluster IPs of the Service with this number.
    fn cluster_ips(self, number: u8) -> Vec<IpAddr> {
        let v4 = IpAddr::V4(Ipv4Addr::new(10, 96, 0, number));
        let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)));
        match self {
            Self::Ipv4 => vec![v4],
            Self::Both => vec![v4, v6],
            Self::Ipv6 => vec![v6],
        }
    }
}

/// What a pod is.
#[derive(Debug, Clone)]
pub struct Spec {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<u16>,
    pub(crate) meshed: bool,
    redirected: bool,
    env: BTreeMap<String, String>,
}

impl Spec {
    /// A meshed pod whose label `app` is its name, and which declares no port.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            meshed: true,
            redirected: true,
            env: BTreeMap::new(),
        }
    }

    /// Another value of the label `app`: the Service that selects it.
    #[must_use]
    pub fn of(mut self, app: &str) -> Self {
        self.labels.insert("app".to_owned(), app.to_owned());
        self
    }

    /// Declares a port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push(port);
        self
    }

    /// Without a sidecar.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// With a sidecar, and without rules that lead to it.
    #[must_use]
    pub fn without_redirection(mut self) -> Self {
        self.redirected = false;
        self
    }

    /// A variable of the redirection's and the sidecar's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// One pod.
#[derive(Debug)]
pub struct Pod {
    // Dropped first: the process before its namespace.
    sidecar: Option<Process>,
    /// Its network.
    pub namespace: Namespace,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    spec: Spec,
}

impl Pod {
    /// Its first address, with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ips[0], port)
    }

    /// Its sidecar's process.
    ///
    /// # Panics
    /// When it has none.
    pub fn sidecar(&mut self) -> &mut Process {
        self.sidecar.as_mut().expect("a sidecar")
    }

    /// A listener of its application.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        let listener = self.namespace.within(|| std::net::TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|e| panic!("listening on {address} in {}: {e}", self.spec.name));
        listener.set_nonblocking(true).expect("a non-blocking listener");
        TcpListener::from_std(listener).expect("a listener")
    }

    /// An HTTP application on all addresses, which says its name, and gives the request's head back as the body.
    pub fn serve(&self, port: u16) -> App {
        self.serve_on(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// The same, on one address.
    pub fn serve_on(&self, address: SocketAddr) -> App {
        let name = self.spec.name.clone();
        App::listen(self.listen(address), move |mut wire, _| {
            let name = name.clone();
            async move {
                while let Some(request) = http1::request(&mut wire).await {
                    let answer = http1::answer(200, &format!("X-App: {name}\r\n"), &request.head);
                    if wire.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        })
    }

    /// A connection of its application.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_connect(&self, to: SocketAddr) -> std::io::Result<Wire> {
        let stream = self.namespace.within(|| std::net::TcpStream::connect_timeout(&to, wait::PATIENCE))?;
        stream.set_nonblocking(true)?;
        Ok(Wire::new(TcpStream::from_std(stream)?))
    }

    /// A connection of its application.
    ///
    /// # Panics
    /// When nobody accepts.
    pub fn connect(&self, to: SocketAddr) -> Wire {
        self.try_connect(to).unwrap_or_else(|e| panic!("{} connecting to {to}: {e}", self.spec.name))
    }

    /// One request of its application, on a connection of its own.
    pub async fn get(&self, to: SocketAddr) -> Message {
        get(&mut self.connect(to), "/").await
    }

    /// What its sidecar's rules are (`nft list table inet heddle`).
    pub fn rules(&self) -> String {
        self.namespace.run("nft", &["list", "table", "inet", "heddle"])
    }

    /// A scrape of its sidecar's metrics.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        let page = page(&self.namespace, self.at(HEALTH_PORT), "/metrics").await.expect("the metrics");
        Metrics::parse(&page.text())
    }
}

/// One request on a connection.
pub async fn get(wire: &mut Wire, path: &str) -> Message {
    http1::exchange(wire, format!("GET {path} HTTP/1.1\r\nHost: echo\r\n\r\n")).await
}

/// A Service that selects by the label `app`, which is its name.
#[derive(Debug)]
struct Service {
    name: String,
    target_port: u16,
    protocol: Option<String>,
}

/// A node with pods and a control plane; all of it is gone when it is dropped.
#[derive(Debug)]
pub struct Node {
    // Dropped first: processes before namespaces, and those before the directory.
    plane: Process,
    pods: BTreeMap<String, Pod>,
    /// The network of the node, where kubelet and control plane are.
    pub namespace: Namespace,
    families: Families,
    services: Vec<Service>,
    tokens: BTreeMap<String, serde_json::Value>,
    next: u8,
    scratch: Scratch,
}

impl Node {
    /// A node without pods, whose control plane is ready. `manifests` are as a user would write them.
    ///
    /// # Panics
    /// When this is not root, a command is missing, or the control plane does not start.
    pub async fn start(families: Families, manifests: &str) -> Self {
        let namespace = Namespace::new("node");
        namespace.ip(&["link", "add", "br0", "type", "bridge"]);
        for ip in families.ips(1) {
            namespace.add_address("br0", ip);
        }
        namespace.ip(&["link", "set", "br0", "up"]);
        let scratch = Scratch::new();
        // The sidecars' user may pass, and read what is theirs.
        open(scratch.path(), 0o711);
        open(&scratch.folder("pods"), 0o711);
        let (manifest_folder, objects) = (scratch.folder("manifests"), scratch.folder("objects"));
        scratch::write(&manifest_folder.join("manifests.yaml"), manifests.as_bytes());
        scratch::write(&scratch.path().join("tokens.json"), br#"{"tokens": {}}"#);
        let listen = SocketAddr::new(families.ips(1)[0], CONTROL_PLANE_PORT).to_string();
        let path = |name: &str| scratch.path().join(name).display().to_string();
        let (state, tokens) = (scratch.folder("state").display().to_string(), path("tokens.json"));
        let folders = [objects.display().to_string(), manifest_folder.display().to_string()];
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
        let at = [listen, admin.to_string()];
        let [objects_folder, manifest_folder] = &folders;
        let args = [
            ["--directory", manifest_folder],
            ["--directory", objects_folder],
            ["--state", &state],
            ["--tokens", &tokens],
            ["--listen", &at[0]],
            ["--admin", &at[1]],
        ]
        .concat();
        let log = scratch.folder("logs").join("control-plane.log");
        let plane = process("control plane", &namespace, 0, "heddle-control-plane", &args, BTreeMap::new(), log);
        let mut node =
            Self { plane, pods: BTreeMap::new(), namespace, families, services: Vec::new(), tokens: BTreeMap::new(), next: 2, scratch };
        node.plane.restart();
        wait::until("the control plane to be ready", async || {
            assert_eq!(node.plane.exit_status(), None, "the control plane has ended");
            ready(&node.namespace, admin).await
        })
        .await;
        let roots = node.scratch.folder("pods").join("root.pem");
        std::fs::copy(node.scratch.path().join("state/ca/root.pem"), &roots).expect("the root certificate");
        open(&roots, 0o644);
        node
    }

    /// Adds a Service that selects pods by the label `app`, which is its name, and gives its first cluster IP with its port.
    pub fn service(&mut self, name: &str, port: u16, target_port: u16, protocol: Option<&str>) -> SocketAddr {
        let number = u8::try_from(self.services.len() + 1).expect("a few Services");
        let ips = self.families.cluster_ips(number);
        self.write(&format!("service-{name}"), &objects::service(name, port, target_port, protocol, &ips).to_string());
        self.services.push(Service { name: name.to_owned(), target_port, protocol: protocol.map(str::to_owned) });
        SocketAddr::new(ips[0], port)
    }

    /// Adds a pod, and starts its sidecar; Services come before.
    pub fn add(&mut self, spec: Spec) -> &Pod {
        let number = self.next;
        self.next += 1;
        let namespace = Namespace::new(&spec.name);
        let ips = self.families.ips(number);
        namespace.attach(&self.namespace, number, &ips, &self.families.ips(1));
        self.set_condition_of(&spec, &ips, Condition::Ready);
        let mut pod = Pod { sidecar: None, namespace, ips, spec };
        if pod.spec.meshed {
            if pod.spec.redirected {
                self.redirect(&pod);
            }
            pod.sidecar = Some(self.sidecar(&pod));
        }
        let name = pod.spec.name.clone();
        self.pods.entry(name).or_insert(pod)
    }

    /// Adds a pod and waits until its sidecar is ready.
    pub async fn pod(&mut self, spec: Spec) -> &Pod {
        let (name, meshed) = (spec.name.clone(), spec.meshed);
        self.add(spec);
        if meshed {
            self.ready(&name).await;
        }
        &self.pods[&name]
    }

    /// A pod that was added.
    ///
    /// # Panics
    /// When it was not.
    pub fn get(&self, name: &str) -> &Pod {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// A pod that was added, to do something to its process.
    ///
    /// # Panics
    /// When it was not.
    pub fn get_mut(&mut self, name: &str) -> &mut Pod {
        self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The control plane's process.
    pub fn control_plane(&mut self) -> &mut Process {
        &mut self.plane
    }

    /// Runs the redirection of a pod again, as its init container does.
    ///
    /// # Panics
    /// When it fails.
    pub fn redirect(&self, pod: &Pod) {
        let program = binary("heddle-sidecar");
        let output = self.redirection(pod, &program).output().expect("a process");
        assert!(output.status.success(), "redirect in {}: {}", pod.spec.name, String::from_utf8_lossy(&output.stderr));
    }

    fn redirection(&self, pod: &Pod, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", pod.namespace.name()]).arg(program).arg("redirect").envs(&pod.spec.env);
        command
    }

    fn sidecar(&mut self, pod: &Pod) -> Process {
        let name = &pod.spec.name;
        let token: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(32).collect();
        let token_file = self.scratch.folder("pods").join(name);
        scratch::write(&token_file, token.as_bytes());
        open(&token_file, 0o644);
        self.tokens.insert(token, json!({"namespace": "default", "serviceAccount": name, "workload": name}));
        scratch::write(&self.scratch.path().join("tokens.json"), json!({"tokens": self.tokens}).to_string().as_bytes());
        let list = |items: Vec<String>| items.join(",");
        let mut env: BTreeMap<String, String> = [
            ("HEDDLE_NAMESPACE", "default".to_owned()),
            ("HEDDLE_WORKLOAD", name.clone()),
            ("HEDDLE_SERVICE_ACCOUNT", name.clone()),
            ("HEDDLE_CONTROL_PLANE", SocketAddr::new(self.families.ips(1)[0], CONTROL_PLANE_PORT).to_string()),
            ("HEDDLE_TOKEN_FILE", token_file.display().to_string()),
            ("HEDDLE_TRUST_ROOTS_FILE", self.scratch.folder("pods").join("root.pem").display().to_string()),
            ("HEDDLE_INBOUND_INTERCEPT", "0.0.0.0:15006".to_owned()),
            ("HEDDLE_OUTBOUND_INTERCEPT", "0.0.0.0:15001".to_owned()),
            ("HEDDLE_HEALTH", format!("0.0.0.0:{HEALTH_PORT}")),
            ("HEDDLE_POD_IPS", list(pod.ips.iter().map(ToString::to_string).collect())),
            ("HEDDLE_INBOUND_PORTS", list(pod.spec.ports.iter().map(ToString::to_string).collect())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(pod.spec.env.clone());
        let log = self.scratch.folder("logs").join(format!("{name}.log"));
        let mut process = process(&format!("sidecar of {name}"), &pod.namespace, SIDECAR_UID, "heddle-sidecar", &[], env, log);
        process.restart();
        process
    }

    /// Waits until a pod's sidecar says that it is ready, as the kubelet asks it: from the node.
    ///
    /// # Panics
    /// When it does not, or has ended.
    pub async fn ready(&mut self, name: &str) {
        let pod = self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"));
        let health = pod.at(HEALTH_PORT);
        let namespace = &self.namespace;
        wait::until(&format!("the sidecar of {name} to be ready"), async || {
            if let Some(status) = pod.sidecar().exit_status() {
                panic!("the sidecar of {name} has ended: {status}");
            }
            ready(namespace, health).await
        })
        .await;
    }

    /// A page of a pod's health server, as the kubelet asks it.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn health(&self, pod: &str, path: &str) -> Message {
        wait::until(&format!("{path} of {pod}"), async || page(&self.namespace, self.get(pod).at(HEALTH_PORT), path).await).await
    }

    /// Says how a pod stands, as the endpoints of its Services tell it.
    pub fn set_condition(&self, name: &str, condition: Condition) {
        let pod = self.get(name);
        self.set_condition_of(&pod.spec, &pod.ips, condition);
    }

    fn set_condition_of(&self, spec: &Spec, ips: &[IpAddr], condition: Condition) {
        let mut objects = vec![objects::pod(spec, ips)];
        for service in self.services.iter().filter(|service| spec.labels.get("app") == Some(&service.name)) {
            objects.extend(ips.iter().map(|ip| objects::slice(spec, *ip, service, condition)));
        }
        let text: String = objects.iter().map(|object| format!("---\n{object:#}\n")).collect();
        self.write(&format!("pod-{}", spec.name), if condition == Condition::Gone { "" } else { &text });
    }

    fn write(&self, file: &str, text: &str) {
        scratch::write(&self.scratch.path().join("objects").join(format!("{file}.yaml")), text.as_bytes());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let sidecars = self.pods.values_mut().filter_map(|pod| pod.sidecar.as_mut()).map(Process::report);
            let reports: String = std::iter::once(self.plane.report()).chain(sidecars).collect();
            eprintln!("{reports}--- all of it is kept in {}", self.scratch.path().display());
        }
    }
}

/// A binary that images ship: in the folder `$HEDDLE_BINARIES`, or the one that cargo has built beside this test.
///
/// # Panics
/// When there is none, with the command that makes it.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("HEDDLE_BINARIES").map(PathBuf::from).unwrap_or_else(|| {
        let test = std::env::current_exe().expect("this test's own path");
        test.ancestors().nth(2).unwrap_or_else(|| Path::new(".")).to_owned()
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build -p {name}`", path.display());
    path
}

/// A process in a namespace, not started yet. It ends with this one, however that ends.
fn process(
    name: &str,
    namespace: &Namespace,
    uid: u32,
    program: &str,
    args: &[&str],
    env: BTreeMap<String, String>,
    log: PathBuf,
) -> Process {
    let program = binary(program).display().to_string();
    let uid = uid.to_string();
    let mut all: Vec<&str> = vec!["netns", "exec", namespace.name(), "setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"];
    all.extend(["--inh-caps=-all", "--bounding-set=-all", "--pdeathsig", "KILL", "--", &program]);
    all.extend(args);
    Process::stopped(name, Path::new("ip"), all.into_iter().map(str::to_owned).collect(), env, log)
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

async fn page(from: &Namespace, at: SocketAddr, path: &str) -> Result<Message, String> {
    let stream = from.within(|| std::net::TcpStream::connect_timeout(&at, wait::PATIENCE)).map_err(|e| e.to_string())?;
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut wire = Wire::new(TcpStream::from_std(stream).map_err(|e| e.to_string())?);
    Ok(http1::exchange(&mut wire, format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await)
}

async fn ready(from: &Namespace, at: SocketAddr) -> Result<(), String> {
    let page = page(from, at, "/ready").await?;
    if page.status() == 200 { Ok(()) } else { Err(page.text()) }
}
