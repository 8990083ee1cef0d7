//! A whole mesh from a few lines: a real control plane, a real sidecar for each workload, in a directory and on ports of their own.
//!
//! ```no_run
//! # async fn example(app: std::net::SocketAddr) {
//! use heddle_tests::{Mesh, Service, Workload};
//! let mesh = Mesh::builder()
//!     .service(Service::new("reviews", 80).protocol("http"))
//!     .workload(Workload::new("reviews-v1").label("app", "reviews").serves(8080, app))
//!     .client("client", &["reviews:80"])
//!     .start()
//!     .await;
//! let address = mesh.outbound("client", "reviews:80");
//! # }
//! ```

use crate::http1;
use crate::metrics::Metrics;
use crate::objects::{self, Condition};
use crate::ports::free_port;
use crate::process::{Process, heddle};
use crate::scratch::{self, Scratch};
use crate::wait;
use crate::wire::Wire;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::TcpStream;

/// A Service with one port. It selects by the label `app`, which is its name, unless told otherwise.
#[derive(Debug, Clone)]
pub struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) port: u16,
    pub(crate) port_name: String,
    pub(crate) target_port: u16,
    pub(crate) protocol: Option<String>,
    pub(crate) selector: BTreeMap<String, String>,
}

impl Service {
    /// A Service in `default` whose port leads to port 8080 of its Pods. What it speaks is not declared.
    pub fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            port,
            port_name: "main".to_owned(),
            target_port: 8080,
            protocol: None,
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Declares its protocol (`appProtocol`).
    #[must_use]
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }

    /// Leads to another port of its Pods.
    #[must_use]
    pub fn target_port(mut self, port: u16) -> Self {
        self.target_port = port;
        self
    }

    /// Selects by this label too, or by another value of `app`.
    #[must_use]
    pub fn select(mut self, label: &str, value: &str) -> Self {
        self.selector.insert(label.to_owned(), value.to_owned());
        self
    }
}

/// An application and its sidecar: a Pod.
#[derive(Debug, Clone)]
pub struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) service_account: String,
    pub(crate) ports: Vec<(u16, SocketAddr)>,
    pub(crate) meshed: bool,
    upstreams: Vec<String>,
    env: BTreeMap<String, String>,
}

impl Workload {
    /// A workload in `default` that serves and calls nothing. Its service account has its name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            labels: BTreeMap::new(),
            service_account: name.to_owned(),
            ports: Vec::new(),
            meshed: true,
            upstreams: Vec::new(),
            env: BTreeMap::new(),
        }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, label: &str, value: &str) -> Self {
        self.labels.insert(label.to_owned(), value.to_owned());
        self
    }

    /// Another service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// An application on `address`, which policies know by `port`.
    #[must_use]
    pub fn serves(mut self, port: u16, address: SocketAddr) -> Self {
        self.ports.push((port, address));
        self
    }

    /// Calls a Service, `name:port`.
    #[must_use]
    pub fn calls(mut self, authority: &str) -> Self {
        self.upstreams.push(authority.to_owned());
        self
    }

    /// A variable of its sidecar's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Without a sidecar: clients reach the application itself, in plaintext.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.meshed = false;
        self
    }

    fn key(&self) -> String {
        if self.namespace == "default" { self.name.clone() } else { format!("{}.{}", self.name, self.namespace) }
    }
}

/// What a mesh will be.
#[derive(Debug, Default)]
pub struct Builder {
    services: Vec<Service>,
    workloads: Vec<Workload>,
    manifests: Vec<String>,
}

impl Builder {
    /// Adds a Service.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Adds a workload.
    #[must_use]
    pub fn workload(mut self, workload: Workload) -> Self {
        self.workloads.push(workload);
        self
    }

    /// Adds a workload that only calls.
    #[must_use]
    pub fn client(self, name: &str, upstreams: &[&str]) -> Self {
        self.workload(upstreams.iter().fold(Workload::new(name), |workload, upstream| workload.calls(upstream)))
    }

    /// Adds manifests, as a user would write them. They are in the file [`ROUTES`].
    #[must_use]
    pub fn objects(mut self, yaml: &str) -> Self {
        self.manifests.push(yaml.to_owned());
        self
    }

    /// Starts all of it and waits until every process says that it is ready.
    ///
    /// # Panics
    /// When one does not, with the end of its log.
    pub async fn start(self) -> Mesh {
        let Self { services, workloads, manifests } = self;
        let scratch = Scratch::new();
        let (manifest_folder, objects) = (scratch.folder("manifests"), scratch.folder("objects"));
        let control_plane = ControlPlane { listen: free_port(), admin: free_port() };
        let mut mesh = Mesh {
            services,
            sidecars: BTreeMap::new(),
            plane: control_plane.process(&scratch, &[&manifest_folder, &objects]),
            control_plane,
            scratch,
            tokens: BTreeMap::new(),
        };
        let text: String = mesh.services.iter().map(|service| format!("---\n{:#}\n", objects::service(service))).collect();
        mesh.edit("services", &text);
        mesh.edit(ROUTES, &manifests.join("\n---\n"));
        // All objects are there before the first look: nobody is told of half a mesh.
        let keys: Vec<_> = workloads.into_iter().map(|workload| mesh.plan(workload)).collect();
        // Sidecars read the root that the control plane makes.
        mesh.restart_control_plane().await;
        keys.iter().for_each(|key| mesh.start_planned(key));
        mesh.ready().await;
        mesh
    }
}

/// The file of the manifests that a builder was given.
pub const ROUTES: &str = "routes";

/// Where a control plane is.
#[derive(Debug, Clone, Copy)]
struct ControlPlane {
    listen: SocketAddr,
    admin: SocketAddr,
}

impl ControlPlane {
    fn process(self, scratch: &Scratch, folders: &[&PathBuf]) -> Process {
        let tokens = scratch.path().join("tokens.json");
        scratch::write(&tokens, br#"{"tokens": {}}"#);
        let mut args = vec!["control-plane".to_owned()];
        let mut option = |name: &str, value: String| args.extend([name.to_owned(), value]);
        folders.iter().for_each(|folder| option("--directory", folder.display().to_string()));
        option("--state", scratch.folder("state").display().to_string());
        option("--listen", self.listen.to_string());
        option("--admin", self.admin.to_string());
        option("--tokens", tokens.display().to_string());
        let env = BTreeMap::from([("HEDDLE_LOG".to_owned(), "info".to_owned())]);
        Process::stopped("control plane", &heddle(), args, env, scratch.folder("logs").join("control-plane.log"))
    }
}

/// A sidecar, and where it listens.
#[derive(Debug)]
pub struct Sidecar {
    workload: Workload,
    /// Its process; `None`: the workload has no sidecar.
    process: Option<Process>,
    admin: SocketAddr,
    inbound: Vec<(u16, SocketAddr)>,
    outbound: BTreeMap<String, SocketAddr>,
}

impl Sidecar {
    /// The process.
    ///
    /// # Panics
    /// When the workload has no sidecar.
    pub fn process(&mut self) -> &mut Process {
        let name = &self.workload.name;
        self.process.as_mut().unwrap_or_else(|| panic!("{name} has no sidecar"))
    }

    /// The address of its admin server.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Memory in use now, in bytes.
    ///
    /// # Panics
    /// When the workload has no sidecar.
    pub fn memory(&self) -> u64 {
        self.process.as_ref().expect("a sidecar").memory()
    }

    /// CPU time spent so far.
    ///
    /// # Panics
    /// When the workload has no sidecar.
    pub fn cpu(&self) -> std::time::Duration {
        self.process.as_ref().expect("a sidecar").cpu()
    }

    /// What it has logged.
    ///
    /// # Panics
    /// When the workload has no sidecar.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("a sidecar").log()
    }

    /// A scrape of its metrics.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&page(self.admin, "/metrics").await.text())
    }
}

/// A running mesh; its processes are gone when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    // Dropped first: processes before their directory.
    sidecars: BTreeMap<String, Sidecar>,
    plane: Process,
    control_plane: ControlPlane,
    services: Vec<Service>,
    tokens: BTreeMap<String, Value>,
    scratch: Scratch,
}

impl Mesh {
    /// An empty mesh to be filled.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A client and one application, `echo:80`, with a sidecar each. `protocol`: what the Service declares; empty: nothing.
    pub async fn pair(app: SocketAddr, protocol: &str) -> Self {
        Self::builder().pair(app, protocol).start().await
    }

    /// Adds a Service, or replaces one; workloads that are added later are endpoints of it when it selects them.
    pub fn add_service(&mut self, service: Service) {
        self.edit(&format!("service-{}.{}", service.namespace, service.name), &objects::service(&service).to_string());
        self.services.push(service);
    }

    /// Adds a workload and starts its sidecar; see [`Mesh::ready`].
    pub fn add(&mut self, workload: Workload) {
        let key = self.plan(workload);
        self.start_planned(&key);
    }

    /// Gives a workload its ports and writes its objects.
    fn plan(&mut self, workload: Workload) -> String {
        let key = workload.key();
        let inbound: Vec<_> = workload.ports.iter().map(|(port, app)| (*port, if workload.meshed { free_port() } else { *app })).collect();
        let outbound = workload.upstreams.iter().map(|authority| (authority.clone(), free_port())).collect();
        let sidecar = Sidecar { workload, process: None, admin: free_port(), inbound, outbound };
        self.write_objects(&sidecar, Condition::Ready);
        self.sidecars.insert(key.clone(), sidecar);
        key
    }

    /// Starts the sidecar of a workload that is planned, if it is to have one.
    fn start_planned(&mut self, key: &str) {
        let Some(mut sidecar) = self.sidecars.remove(key) else { return };
        if sidecar.workload.meshed {
            sidecar.process = Some(self.start_sidecar(&sidecar, key));
        }
        self.sidecars.insert(key.to_owned(), sidecar);
    }

    fn start_sidecar(&mut self, sidecar: &Sidecar, key: &str) -> Process {
        let Workload { name, namespace, service_account, ports, env, .. } = &sidecar.workload;
        let token: String = std::iter::repeat_with(|| fastrand::char('a'..='z')).take(32).collect();
        let token_file = self.scratch.folder("tokens").join(key);
        scratch::write(&token_file, token.as_bytes());
        self.tokens.insert(token, json!({"namespace": namespace, "serviceAccount": service_account, "workload": name}));
        scratch::write(&self.scratch.path().join("tokens.json"), json!({"tokens": self.tokens}).to_string().as_bytes());
        let inbound: Vec<_> =
            sidecar.inbound.iter().zip(ports).map(|((port, listen), (_, app))| format!("{listen}={app}#{port}")).collect();
        let outbound: Vec<_> = sidecar.outbound.iter().map(|(authority, listen)| format!("{listen}={authority}")).collect();
        let roots = self.scratch.path().join("state").join("ca").join("root.pem");
        let mut all = BTreeMap::from(
            [
                ("HEDDLE_NAMESPACE", namespace.clone()),
                ("HEDDLE_WORKLOAD", name.clone()),
                ("HEDDLE_SERVICE_ACCOUNT", service_account.clone()),
                ("HEDDLE_CONTROL_PLANE", self.control_plane.listen.to_string()),
                ("HEDDLE_TOKEN_FILE", token_file.display().to_string()),
                ("HEDDLE_TRUST_ROOTS_FILE", roots.display().to_string()),
                ("HEDDLE_ADMIN", sidecar.admin.to_string()),
                ("HEDDLE_INBOUND", inbound.join(",")),
                ("HEDDLE_OUTBOUND", outbound.join(",")),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        all.extend(env.clone());
        let log = self.scratch.folder("logs").join(format!("{key}.log"));
        Process::start(&format!("sidecar of {key}"), &heddle(), vec!["sidecar".to_owned()], all, log)
    }

    /// Waits until every process that runs says that it is ready.
    ///
    /// # Panics
    /// When one does not, or has ended.
    pub async fn ready(&mut self) {
        self.control_plane_ready().await;
        let admins: Vec<_> = self.sidecars.iter().filter(|(_, s)| s.process.is_some()).map(|(key, s)| (key.clone(), s.admin)).collect();
        for (key, admin) in admins {
            let sidecars = &mut self.sidecars;
            wait::until(&format!("the sidecar of {key} to be ready"), async || {
                if let Some(status) = sidecars.get_mut(&key).and_then(|s| s.process().exit_status()) {
                    panic!("the sidecar of {key} has ended: {status}");
                }
                is_ready(admin).await
            })
            .await;
        }
    }

    /// Waits until the control plane says that it is ready.
    ///
    /// # Panics
    /// When it does not, or has ended.
    pub async fn control_plane_ready(&mut self) {
        let admin = self.control_plane.admin;
        let plane = &mut self.plane;
        wait::until("the control plane to be ready", async || {
            if let Some(status) = plane.exit_status() {
                panic!("the control plane has ended: {status}");
            }
            is_ready(admin).await
        })
        .await;
    }

    /// The sidecar of a workload: its name, and `.namespace` where that is not `default`.
    ///
    /// # Panics
    /// When there is no such workload.
    pub fn sidecar(&self, workload: &str) -> &Sidecar {
        self.sidecars.get(workload).unwrap_or_else(|| panic!("no workload {workload}"))
    }

    /// The sidecar of a workload, to do something to its process.
    ///
    /// # Panics
    /// When there is no such workload.
    pub fn sidecar_mut(&mut self, workload: &str) -> &mut Sidecar {
        self.sidecars.get_mut(workload).unwrap_or_else(|| panic!("no workload {workload}"))
    }

    /// Where a workload's application calls a Service, `name:port`.
    ///
    /// # Panics
    /// When it does not call it.
    pub fn outbound(&self, workload: &str, authority: &str) -> SocketAddr {
        let found = self.sidecar(workload).outbound.get(authority);
        *found.unwrap_or_else(|| panic!("{workload} does not call {authority}"))
    }

    /// Where a workload's sidecar accepts what is meant for a port of the application.
    ///
    /// # Panics
    /// When there is no such port.
    pub fn inbound(&self, workload: &str, port: u16) -> SocketAddr {
        let found = self.sidecar(workload).inbound.iter().find(|(p, _)| *p == port);
        found.unwrap_or_else(|| panic!("{workload} does not serve port {port}")).1
    }

    /// A connection of the workload `client` to `echo:80`, the application of [`Mesh::pair`].
    pub async fn connect(&self) -> Wire {
        Wire::connect(self.outbound("client", "echo:80")).await
    }

    /// A scrape of a sidecar's metrics.
    pub async fn metrics(&self, workload: &str) -> Metrics {
        self.sidecar(workload).metrics().await
    }

    /// Waits until the samples of a workload's sidecar add up to exactly this: what is counted at the end of an exchange may be counted
    /// just after its client has all of it.
    ///
    /// # Panics
    /// When they do not.
    pub async fn counts(&self, workload: &str, name: &str, labels: &[(&str, &str)], expected: f64) {
        wait::until(&format!("{name} {labels:?} of {workload} to be {expected}"), async || {
            let found = self.metrics(workload).await.sum(name, labels);
            if found == expected { Ok(()) } else { Err(format!("it is {found}")) }
        })
        .await;
    }

    /// The control plane's `/status`.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn status(&self) -> Value {
        let status = page(self.control_plane.admin, "/status").await;
        serde_json::from_slice(&status.body).expect("the status as JSON")
    }

    /// Where sidecars reach the control plane.
    pub fn control_plane_address(&self) -> SocketAddr {
        self.control_plane.listen
    }

    /// The process of the control plane.
    pub fn control_plane(&mut self) -> &mut Process {
        &mut self.plane
    }

    /// Kills the control plane with SIGKILL.
    pub fn kill_control_plane(&mut self) {
        self.plane.kill();
    }

    /// Starts the control plane again and waits until it is ready.
    pub async fn restart_control_plane(&mut self) {
        self.plane.restart();
        self.control_plane_ready().await;
    }

    /// Replaces a file of manifests, as an editor would. It is in force some time after.
    pub fn edit(&self, file: &str, yaml: &str) {
        scratch::write(&self.scratch.path().join("manifests").join(format!("{file}.yaml")), yaml.as_bytes());
    }

    /// Says how a workload stands, as the endpoints of its Services tell it.
    pub fn set_condition(&self, workload: &str, condition: Condition) {
        self.write_objects(self.sidecar(workload), condition);
    }

    fn write_objects(&self, sidecar: &Sidecar, condition: Condition) {
        let text = objects::workload(&sidecar.workload, &sidecar.inbound, &self.services, condition);
        let file = format!("{}.yaml", sidecar.workload.key());
        scratch::write(&self.scratch.path().join("objects").join(file), text.as_bytes());
    }

    /// The directory of the control plane's state: its root certificate is in `ca/root.pem`.
    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }
}

impl Builder {
    /// A client and one application, `echo:80`; see [`Mesh::pair`].
    #[must_use]
    pub fn pair(self, app: SocketAddr, protocol: &str) -> Self {
        let mut service = Service::new("echo", 80);
        service.protocol = Some(protocol.to_owned()).filter(|p| !p.is_empty());
        self.service(service).workload(Workload::new("echo").label("app", "echo").serves(8080, app)).client("client", &["echo:80"])
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reports = self.sidecars.values_mut().filter_map(|sidecar| sidecar.process.as_mut()).map(Process::report);
            let reports: String = std::iter::once(self.plane.report()).chain(reports).collect();
            eprintln!("{reports}--- all of it is kept in {}", self.scratch.path().display());
        }
    }
}

/// A page of an admin server.
async fn page(admin: SocketAddr, path: &str) -> http1::Message {
    let mut wire = Wire::connect(admin).await;
    let message = http1::exchange(&mut wire, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    assert_eq!(message.status(), 200, "{path}: {}", message.text());
    message
}

async fn is_ready(admin: SocketAddr) -> Result<(), String> {
    let stream = TcpStream::connect(admin).await.map_err(|e| e.to_string())?;
    let mut wire = Wire::new(stream);
    let message = http1::exchange(&mut wire, format!("GET /ready HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await;
    if message.status() == 200 { Ok(()) } else { Err(message.text()) }
}
