//! A control plane for tests: real TLS, real gRPC, a real authority; what it says is the test's choice. It runs in a thread of its
//! own with a runtime of its own, so that stopping it is as abrupt as a kill.

use crate::config::Config;
use crate::discover::channel::control_plane_id;
use heddle_identity::{CertificateAuthority, SpiffeId, TlsContext, TrustDomain, VerifiedPeer, unix_now};
use heddle_model::proto::{self, CertifyRequest, CertifyResponse, ControlMessage, SidecarMessage};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]
mod wire {
    include!("../../../control-plane/src/gen/heddle.v1.rs");
}

pub(crate) const TOKEN: &str = "a-token";

/// The environment of a sidecar whose control plane is there, without files.
pub(crate) fn config(control_plane: &str) -> Config {
    let control_plane = control_plane.to_owned();
    let lookup = |name: &str| {
        Some(match name {
            "HEDDLE_NAMESPACE" => "shop".into(),
            "HEDDLE_WORKLOAD" => "front-0".into(),
            "HEDDLE_SERVICE_ACCOUNT" => "front".into(),
            "HEDDLE_CONTROL_PLANE" => control_plane.clone().into(),
            "HEDDLE_TOKEN_FILE" | "HEDDLE_TRUST_ROOTS_FILE" => "/nonexistent/heddle".into(),
            _ => return None,
        })
    };
    Config::from_lookup(lookup, NonZeroUsize::MIN).unwrap()
}

pub(crate) fn trust_domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

/// A sidecar's files, removed at the end.
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("heddle-sidecar-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    pub(crate) fn write_token(&self, token: &str) {
        std::fs::write(self.directory.join("token"), token).unwrap();
    }

    pub(crate) fn write_roots(&self, authority: &CertificateAuthority) {
        let roots = authority.trust_bundle().to_pem(&trust_domain());
        std::fs::write(self.directory.join("roots.pem"), roots).unwrap();
    }

    /// The environment of a sidecar with these files.
    pub(crate) fn config(&self, control_plane: SocketAddr) -> Config {
        let mut config = config(&control_plane.to_string());
        config.token_file = self.directory.join("token");
        config.trust_roots_file = self.directory.join("roots.pem");
        config
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// What a control plane is made with.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) authority: Arc<CertificateAuthority>,
    pub(crate) id: SpiffeId,
    pub(crate) lifetime: Duration,
}

impl Options {
    pub(crate) fn new(lifetime: Duration) -> Self {
        let authority = Arc::new(CertificateAuthority::create(&trust_domain(), unix_now()).unwrap());
        Self { authority, id: control_plane_id(&trust_domain(), &config("127.0.0.1:1").control_plane).unwrap(), lifetime }
    }
}

/// A port that nobody else is given while this lives: a socket that is bound and does not listen, so that connections are refused.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    _bound: socket2::Socket,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let bound = reusable("127.0.0.1:0".parse().unwrap());
        Self { address: bound.local_addr().unwrap().as_socket().unwrap(), _bound: bound }
    }

    /// Listens beside the reservation.
    pub(crate) fn listen(&self) -> TcpListener {
        let socket = reusable(self.address);
        socket.listen(64).unwrap();
        socket.into()
    }
}

/// A running control plane. Dropped, it is killed.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Asked>,
    sessions: mpsc::Receiver<Session>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    port: Option<Port>,
}

/// How often a certificate was asked for, by proof.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) by_token: AtomicUsize,
    pub(crate) by_certificate: AtomicUsize,
}

/// One stream of a sidecar.
pub(crate) struct Session {
    pub(crate) peer: SpiffeId,
    received: mpsc::Receiver<SidecarMessage>,
    sender: mpsc::Sender<Result<ControlMessage, Status>>,
}

impl Session {
    pub(crate) async fn next(&mut self) -> proto::sidecar_message::Message {
        self.received.recv().await.expect("the stream is open").message.unwrap()
    }

    pub(crate) async fn send(&self, message: proto::control_message::Message) {
        self.sender.send(Ok(ControlMessage { message: Some(message) })).await.unwrap();
    }
}

impl ControlPlane {
    pub(crate) fn start(options: &Options) -> Self {
        Self::start_at(Port::reserve(), options)
    }

    pub(crate) fn start_at(port: Port, options: &Options) -> Self {
        let (listener, address) = (port.listen(), port.address);
        let (sessions_sender, sessions) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel();
        let asked = Arc::new(Asked::default());
        let rooms = Rooms { options: options.clone(), asked: asked.clone(), sessions: sessions_sender };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, rooms) => {}
                    _ = stopped => {}
                }
            });
            // The runtime ends here, and every connection with it.
        });
        Self { address, asked, sessions, stop: Some(stop), thread: Some(thread), port: Some(port) }
    }

    /// The next stream that a sidecar opens.
    pub(crate) async fn session(&mut self) -> Session {
        self.sessions.recv().await.expect("the control plane runs")
    }

    /// Ends it; another can be started at the same port.
    pub(crate) fn kill(mut self) -> Port {
        self.end();
        self.port.take().unwrap()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

fn reusable(at: SocketAddr) -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&at.into()).unwrap();
    socket
}

async fn serve(listener: TcpListener, rooms: Rooms) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let Options { authority, id, .. } = &rooms.options;
    let (key, csr) = heddle_identity::csr(id).unwrap();
    let certificate = authority.sign(&csr, id, Duration::from_secs(3600), unix_now()).unwrap();
    let context = TlsContext::new(&key, certificate, authority.trust_bundle()).unwrap();
    let acceptor = TlsAcceptor::from(context.control_plane_server());
    let incoming = futures_util::stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let peer = VerifiedPeer::from_optional_client(tls.get_ref().1, unix_now()).ok().flatten();
            let io = Io { tls, peer: peer.map(|peer| peer.id().clone()) };
            return Some((Ok::<_, io::Error>(io), (listener, acceptor)));
        }
    });
    tonic::transport::Server::builder()
        .add_service(wire::certificates_server::CertificatesServer::new(rooms.clone()))
        .add_service(wire::discovery_server::DiscoveryServer::new(rooms))
        .serve_with_incoming(incoming)
        .await
        .unwrap();
}

#[derive(Clone)]
struct Rooms {
    options: Options,
    asked: Arc<Asked>,
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl wire::certificates_server::Certificates for Rooms {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let peer = request.extensions().get::<Option<SpiffeId>>().cloned().flatten();
        let CertifyRequest { csr_der, token } = request.into_inner();
        let id = SpiffeId::workload(&trust_domain(), "shop", "front").unwrap();
        let count = match (token.as_str(), peer) {
            (TOKEN, _) => &self.asked.by_token,
            ("", Some(peer)) if peer == id => &self.asked.by_certificate,
            _ => return Err(Status::unauthenticated("neither a token nor a certificate")),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let Options { authority, lifetime, .. } = &self.options;
        let certificate = authority.sign(&csr_der, &id, *lifetime, unix_now()).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(CertifyResponse {
            chain_der: certificate.chain().iter().map(|der| der.to_vec()).collect(),
            trust: Some(trust_message(authority)),
        }))
    }
}

/// The roots of an authority, as a message.
pub(crate) fn trust_message(authority: &CertificateAuthority) -> proto::TrustBundle {
    let bundle = authority.trust_bundle();
    proto::TrustBundle {
        trust_domain: trust_domain().to_string(),
        roots_pem: bundle.to_pem(&trust_domain()),
        revision: bundle.revision().to_owned(),
    }
}

#[tonic::async_trait]
impl wire::discovery_server::Discovery for Rooms {
    type DiscoverStream = tokio_stream::wrappers::ReceiverStream<Result<ControlMessage, Status>>;

    async fn discover(&self, request: Request<Streaming<SidecarMessage>>) -> Result<Response<Self::DiscoverStream>, Status> {
        let peer = request.extensions().get::<Option<SpiffeId>>().cloned().flatten();
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let mut messages = request.into_inner();
        let (received_sender, received) = mpsc::channel(1024);
        let (sender, answers) = mpsc::channel(1024);
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                if received_sender.send(message).await.is_err() {
                    break;
                }
            }
        });
        let _ = self.sessions.send(Session { peer, received, sender }).await;
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(answers)))
    }
}

/// A TLS connection that knows its peer.
struct Io {
    tls: TlsStream<TcpStream>,
    peer: Option<SpiffeId>,
}

impl Connected for Io {
    type ConnectInfo = Option<SpiffeId>;

    fn connect_info(&self) -> Option<SpiffeId> {
        self.peer.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// What `tracing` says is shown by failing tests.
pub(crate) fn log() {
    static ONCE: Mutex<bool> = Mutex::new(false);
    let mut done = ONCE.lock().unwrap();
    if !std::mem::replace(&mut *done, true) {
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    }
}
