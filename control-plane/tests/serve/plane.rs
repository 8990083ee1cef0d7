//! A control plane in this process, with a directory of its own.

use bytes::Bytes;
use heddle_control_plane::admin::StatusPage;
use heddle_control_plane::config::{Local, Mode};
use heddle_control_plane::{Config, ControlPlane, RunError};
use heddle_identity::{CertificateAuthority, SpiffeId, TlsContext, TrustBundle, csr, unix_now};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::rustls::ClientConfig;

/// What the client's token is.
pub(crate) const TOKEN: &str = "client-token";

/// A Service with one endpoint in the mesh.
pub(crate) const REVIEWS: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: reviews-a, labels: {kubernetes.io/service-name: reviews}}
ports: [{port: 4001}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: reviews-1, namespace: default}}]
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, labels: {app: reviews}}
spec: {serviceAccountName: reviews, initContainers: [{name: heddle-sidecar}], containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.0.0.1}
---
";

/// The same, and a pod of the client.
pub(crate) const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: reviews-a, labels: {kubernetes.io/service-name: reviews}}
ports: [{port: 4001}]
endpoints: [{addresses: [127.0.0.1], targetRef: {kind: Pod, name: reviews-1, namespace: default}}]
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, labels: {app: reviews}}
spec: {serviceAccountName: reviews, initContainers: [{name: heddle-sidecar}], containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, labels: {app: client}}
spec: {serviceAccountName: client, initContainers: [{name: heddle-sidecar}], containers: [{name: app, ports: [{containerPort: 8080}]}]}
status: {podIP: 127.0.0.2}
---
";

/// [`MANIFEST`] with a `MeshConfig` of this spec.
pub(crate) fn manifest(mesh: &str) -> String {
    format!("{MANIFEST}{}", mesh_config(mesh))
}

pub(crate) fn mesh_config(spec: &str) -> String {
    format!("apiVersion: heddle.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {spec}\n")
}

/// A route of reviews whose second backend does not exist.
pub(crate) fn route(backend: &str, weight: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: reviews}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: reviews}}]\n  rules:\n  - backendRefs:\n    \
         - {{name: reviews, port: 80, weight: 10}}\n    - {{name: {backend}, port: 80, weight: {weight}}}\n"
    )
}

/// One more slice of a Service, with endpoints outside the mesh.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> String {
    let endpoints: String = addresses.iter().map(|address| format!("- {{addresses: [{address}]}}\n")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {service}-b, labels: {{kubernetes.io/service-name: {service}}}}}\nports: [{{port: 4001}}]\nendpoints:\n{endpoints}"
    )
}

pub(crate) fn pod(name: &str, account: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{serviceAccountName: {account}, \
         initContainers: [{{name: heddle-sidecar}}], containers: [{{name: app}}]}}\nstatus: {{podIP: {ip}}}\n"
    )
}

/// A workload of namespace default.
pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::workload(&"cluster.local".parse().unwrap(), "default", account).unwrap()
}

pub(crate) fn control_plane() -> SpiffeId {
    "spiffe://cluster.local/ns/heddle-system/sa/heddle-control-plane".parse().unwrap()
}

/// A running control plane.
pub(crate) struct Plane {
    stopped: Stopped,
    address: SocketAddr,
    admin: SocketAddr,
    shutdown: oneshot::Sender<()>,
    running: JoinHandle<Result<(), RunError>>,
}

/// A directory, removed with what is in it.
struct Folder(PathBuf);

impl Folder {
    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is left of one: its directories, and its address.
pub(crate) struct Stopped {
    folder: Folder,
    listen: SocketAddr,
}

impl Plane {
    pub(crate) async fn start(manifest: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("heddle-serve-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(folder.join("manifests")).unwrap();
        std::fs::write(folder.join("manifests/start.yaml"), manifest).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let tokens = options.write(true).create_new(true).mode(0o600).open(folder.join("tokens.json")).unwrap();
        let client = serde_json::json!({"namespace": "default", "serviceAccount": "client", "workload": "client-1"});
        serde_json::to_writer(tokens, &serde_json::json!({"tokens": {TOKEN: client}})).unwrap();
        Stopped { folder, listen: "127.0.0.1:0".parse().unwrap() }.start().await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn config(&self) -> Config {
        self.stopped.config(self.admin)
    }

    /// The roots that a sidecar starts with.
    pub(crate) fn roots(&self) -> TrustBundle {
        let pem = std::fs::read(self.stopped.folder.join("state/ca/root.pem")).unwrap();
        TrustBundle::from_pem(&"cluster.local".parse().unwrap(), &pem).unwrap()
    }

    /// How another replica connects.
    pub(crate) fn replica(&self) -> Arc<ClientConfig> {
        let domain = "cluster.local".parse().unwrap();
        let authority = CertificateAuthority::load(&self.stopped.folder.join("state/ca"), &domain).unwrap();
        let (key, request) = csr(&control_plane()).unwrap();
        let certificate = authority.sign(&request, &control_plane(), super::LONG, unix_now()).unwrap();
        TlsContext::new(&key, certificate, &self.roots()).unwrap().control_plane_client(&control_plane())
    }

    /// Writes a manifest, as an editor does: by a rename.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.manifest(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        std::fs::remove_file(self.manifest(name)).unwrap();
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.stopped.folder.join("manifests").join(name)
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let io = TokioIo::new(TcpStream::connect(self.admin).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = http::Request::get(path).header("host", "admin").body(Empty::<Bytes>::new()).unwrap();
        let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        String::from_utf8(body.to_vec()).unwrap()
    }

    pub(crate) async fn status(&self) -> StatusPage {
        serde_json::from_str(&self.get("/status").await).unwrap()
    }

    /// Reads `/status` until it is as wanted.
    pub(crate) async fn until_status(&self, wanted: impl Fn(&StatusPage) -> bool) -> StatusPage {
        let mut last = None;
        let reading = async {
            loop {
                let page = self.status().await;
                if wanted(&page) {
                    return page;
                }
                last = Some(page);
                tokio::task::yield_now().await;
            }
        };
        match tokio::time::timeout(super::LONG, reading).await {
            Ok(page) => page,
            Err(_) => panic!("status never became as wanted: {last:#?}"),
        }
    }

    pub(crate) async fn stop(self) -> Stopped {
        self.shutdown.send(()).unwrap();
        self.running.await.unwrap().unwrap();
        self.stopped
    }
}

impl Stopped {
    fn config(&self, admin: SocketAddr) -> Config {
        let at = |name: &str| self.folder.join(name);
        let mode = Mode::Local(Local { directories: vec![at("manifests")], state: at("state"), tokens: at("tokens.json") });
        Config { listen: self.listen, admin, mode }
    }

    pub(crate) async fn start(mut self) -> Plane {
        let plane = ControlPlane::start(self.config("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let (address, admin) = (plane.listen_address(), plane.admin_address());
        self.listen = address;
        let (shutdown, stopped) = oneshot::channel();
        let running = tokio::spawn(plane.run(async move { drop(stopped.await) }));
        Plane { stopped: self, address, admin, shutdown, running }
    }
}
