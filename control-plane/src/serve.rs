//! The wire to sidecars: mTLS, HTTP/2, and the two gRPC services on it.
//!
//! ```text
//! view       one revision of the snapshot, with what was resolved from it
//! ledger     what one sidecar was told, and what it is to be told next
//! session    one discovery stream: ledger × view, in the transport's pace
//! certify    certificates by token, or by the certificate that is to be renewed
//! sidecars   who is connected, and what is in force there
//! force      in how many sidecars each object is in force
//! ```
//!
//! tonic's services run on hyper's HTTP/2 server directly, without tonic's own server, for two reasons: every task is owned, so that
//! the end is orderly; and a connection is closed when the certificate that opened it expires, so that its peer has to prove
//! itself again.

pub mod certify;
pub mod force;
pub mod ledger;
pub mod session;
pub mod sidecars;
pub mod view;

pub use sidecars::{SidecarStatus, Sidecars};
pub use view::View;

use crate::ca::{Chain, Serving};
use crate::metrics::Bound;
use crate::proto::certificates_server::{self, CertificatesServer};
use crate::proto::discovery_server::{self, Discovery, DiscoveryServer};
use certify::Certifier;
use futures_util::stream::BoxStream;
use heddle_identity::{SpiffeId, VerifiedPeer, unix_now};
use heddle_model::proto as wire;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use session::{Common, Session};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status, Streaming};

/// Most connections: a discovery stream of each of [`sidecars::MAX_STREAMS`], and as many that renew certificates at the same time.
pub const MAX_CONNECTIONS: usize = 2 * sidecars::MAX_STREAMS;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a peer without a certificate stays connected: it may request one, and nothing else.
const UNPROVEN_LIFETIME: Duration = Duration::from_secs(30);

/// How long a connection may take to end in order.
const GRACE: Duration = Duration::from_secs(1);

/// How often a silent connection is asked whether it lives, and how long the answer may take. A peer that vanished is noticed
/// in twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most streams of a connection: one of discovery, one of certificates, and room for a reconnection to overlap.
const MAX_STREAMS_EACH: u32 = 16;

/// Largest message of a sidecar: a certificate request with a token stays below 16 KiB.
const MAX_MESSAGE: usize = 64 * 1024;

/// Largest message to a sidecar: the endpoints of one backend, 100,000 at 160 bytes.
const MAX_SENT_MESSAGE: usize = 16 * 1024 * 1024;

/// Everything that a connection needs.
#[derive(Debug, Clone)]
pub struct Server {
    common: Common,
    servings: watch::Receiver<Arc<Serving>>,
    own_id: SpiffeId,
    discovery: DiscoveryServer<DiscoveryService>,
    certificates: CertificatesServer<Certifier>,
}

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    verified: Option<VerifiedPeer>,
    /// From where it connected.
    client: SocketAddr,
    /// When the connection ends, whatever it does.
    until: Instant,
}

impl Server {
    /// Makes the server; `servings` has the TLS configuration for new connections, and other replicas are known by `own_id`.
    pub fn new(common: Common, certifier: Certifier, servings: watch::Receiver<Arc<Serving>>, own_id: SpiffeId) -> Self {
        let discovery = DiscoveryServer::new(DiscoveryService { common: common.clone() })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_SENT_MESSAGE);
        let certificates = CertificatesServer::new(certifier).max_decoding_message_size(MAX_MESSAGE);
        Self { common, servings, own_id, discovery, certificates }
    }

    /// Serves one connection until it ends, its certificate expires, or the control plane stops.
    ///
    /// When cancelled, the connection is cut.
    pub async fn connection(self, stream: TcpStream, client: SocketAddr) {
        self.common.metrics.connections.inc();
        let open = Open(&self);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.accept(stream, client)).await {
            Ok(Ok((tls, peer))) => {
                if let Err(error) = self.serve(tls, peer).await {
                    // The other end went away in the middle: nothing to act on.
                    tracing::debug!(%client, error = %Chain(&error), "connection ended");
                }
            }
            Ok(Err(error)) => self.refused(client, &Chain(&error).to_string()),
            Err(_) => self.refused(client, "the handshake took too long"),
        }
        drop(open);
    }

    fn refused(&self, client: SocketAddr, reason: &str) {
        self.common.metrics.refused(Bound::Handshake);
        tracing::info!(%client, reason, "connection refused");
    }

    async fn accept(&self, stream: TcpStream, client: SocketAddr) -> io::Result<(TlsStream<TcpStream>, Peer)> {
        // Endpoints and heartbeats are small messages that must not wait for more.
        stream.set_nodelay(true)?;
        let config = self.servings.borrow().config.clone();
        let tls = TlsAcceptor::from(config).accept(stream).await?;
        let now = unix_now();
        let verified = VerifiedPeer::from_optional_client(tls.get_ref().1, now).map_err(io::Error::other)?;
        let lifetime = match &verified {
            // `not_after` is the last second in which it is valid.
            Some(peer) => Duration::from_secs(peer.not_after().saturating_sub(now) + 1),
            None => UNPROVEN_LIFETIME,
        };
        Ok((tls, Peer { verified, client, until: Instant::now() + lifetime }))
    }

    async fn serve(&self, tls: TlsStream<TcpStream>, peer: Peer) -> Result<(), hyper::Error> {
        let until = peer.until;
        let server = self.clone();
        let service = hyper::service::service_fn(move |request| server.clone().answer(request, peer.clone()));
        let mut http = http2::Builder::new(TokioExecutor::new());
        // The executor runs hyper's streams as tasks of their own; they end with the connection.
        http.timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(MAX_STREAMS_EACH);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(tls), service));
        let mut stop = self.common.stop.clone();
        tokio::select! {
            ended = &mut connection => return ended,
            _ = stop.wait_for(|stop| *stop) => {}
            () = tokio::time::sleep_until(until) => {}
        }
        // GOAWAY: the sessions end themselves, and the peer opens its next stream on a new connection.
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
    }

    async fn answer(mut self, mut request: http::Request<Incoming>, peer: Peer) -> Result<http::Response<tonic::body::Body>, Infallible> {
        if request.uri().path() == force::PATH {
            return Ok(self.replica(&peer));
        }
        request.extensions_mut().insert(peer);
        match request.uri().path().split('/').nth(1) {
            Some(discovery_server::SERVICE_NAME) => self.discovery.call(request).await,
            Some(certificates_server::SERVICE_NAME) => self.certificates.call(request).await,
            Some(_) | None => Ok(Status::unimplemented("no such service").into_http()),
        }
    }
}

impl Server {
    /// What another replica may know: in how many sidecars of this one objects are in force.
    fn replica(&self, peer: &Peer) -> http::Response<tonic::body::Body> {
        if peer.verified.as_ref().map(VerifiedPeer::id) != Some(&self.own_id) {
            return Status::permission_denied("only replicas of the control plane are told this").into_http();
        }
        let view = self.common.views.borrow().clone();
        match serde_json::to_vec(&self.common.sidecars.counts(&view)) {
            Ok(body) => http::Response::new(tonic::body::Body::new(http_body_util::Full::new(body.into()))),
            Err(error) => Status::internal(error.to_string()).into_http(),
        }
    }
}

/// Counts an open connection for as long as it lives.
struct Open<'a>(&'a Server);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.common.metrics.connections.dec();
    }
}

/// The discovery service; one [`Session`] for each call.
#[derive(Debug)]
struct DiscoveryService {
    common: Common,
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type DiscoverStream = BoxStream<'static, Result<wire::ControlMessage, Status>>;

    async fn discover(&self, request: Request<Streaming<wire::SidecarMessage>>) -> Result<Response<Self::DiscoverStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().ok_or_else(|| Status::internal("the connection has no peer"))?;
        let Some(verified) = peer.verified else {
            return Err(Status::unauthenticated("discovery needs a client certificate: request one by token first"));
        };
        let session = Session::new(self.common.clone(), verified, peer.until, request.into_inner());
        // The stream ends after its first error.
        let stream = futures_util::stream::unfold(Some(session), |session| async {
            let mut session = session?;
            match session.next().await {
                Ok(message) => Some((Ok(message), Some(session))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}
