//! From an endpoint to a ready connection: pools, dialling, mTLS and the proof of who answered.

use crate::accept;
use crate::authorize::Permit;
use crate::cause::Cause;
use crate::http1::conn::Conn;
use crate::http2;
use crate::io::Io;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::worker::Worker;
use heddle_identity::tls::{self, MeshProtocol};
use heddle_identity::verify::VerifiedPeer;
use heddle_model::{Endpoint, SpiffeId};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// Where to connect and who must answer; what pools are keyed by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where to.
    pub address: SocketAddr,
    /// Who must answer, by mTLS; `None`: plaintext, by explicit policy.
    pub identity: Option<SpiffeId>,
}

impl Peer {
    /// Who answers at an endpoint. An endpoint of this pod is its own application, which the sidecar reaches without itself in between:
    /// its own connections are not redirected.
    pub fn of(endpoint: &Endpoint, worker: &Worker) -> Self {
        let own = worker.config.pod.ips.contains(&endpoint.address.ip());
        Self { address: endpoint.address, identity: endpoint.identity.clone().filter(|_| !own) }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("connecting to {address}: {source}")]
    Tcp {
        /// Where to.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing came in time.
    #[error("connecting to {address}: not ready within {timeout:?}")]
    Timeout {
        /// Where to.
        address: SocketAddr,
        /// The bound.
        timeout: Duration,
    },
    /// The handshake failed, or somebody else answered.
    #[error("mTLS with {identity} at {address}: {reason}")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// Who was expected.
        identity: SpiffeId,
        /// Why.
        reason: String,
    },
    /// There is no certificate to show.
    #[error("mTLS with {0}: this sidecar has no certificate yet")]
    NoCertificate(SpiffeId),
    /// HTTP/2 did not start.
    #[error("HTTP/2 with {address}: {reason}")]
    Http2 {
        /// Where to.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

impl ConnectError {
    /// The cause for answers and metrics.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Tcp { .. } | Self::Http2 { .. } => Cause::ConnectFailed,
            Self::Timeout { .. } => Cause::ConnectTimeout,
            Self::Tls { .. } => Cause::TlsFailed,
            Self::NoCertificate(_) => Cause::NoCertificate,
        }
    }
}

/// The connections of one worker to endpoints.
#[derive(Debug)]
pub struct Connections {
    http1: RefCell<Pool<Peer, Conn>>,
    /// Shared HTTP/2 connections.
    pub http2: http2::client::Clients,
    metrics: Metrics,
}

impl Connections {
    /// No connections.
    pub fn new(metrics: Metrics) -> Self {
        Self { http1: RefCell::new(Pool::new()), http2: http2::client::Clients::default(), metrics }
    }

    /// Takes an idle HTTP/1 connection that is alive as far as can be seen.
    pub fn reuse(&self, peer: &Peer, now: Instant) -> Option<Conn> {
        let mut pool = self.http1.borrow_mut();
        loop {
            let mut conn = pool.take(peer, now)?;
            if !conn.is_stale() {
                self.metrics.pool_reused();
                return Some(conn);
            }
        }
    }

    /// Keeps a connection for another exchange.
    pub fn keep(&self, peer: &Peer, mut conn: Conn, idle: Duration, announced: Option<u64>, now: Instant) {
        if idle.is_zero() || conn.is_stale() {
            return;
        }
        conn.rest();
        let mut pool = self.http1.borrow_mut();
        if let Some(seconds) = announced {
            pool.learn_keep_alive(peer, Duration::from_secs(seconds.min(3600)));
        }
        pool.put(peer, conn, idle, now);
        self.metrics.pool_idle(pool.idle());
    }

    /// Closes what has been idle for too long or was closed by the other side.
    pub fn sweep(&self, now: Instant) {
        let mut pool = self.http1.borrow_mut();
        pool.sweep(now, Conn::is_stale);
        self.metrics.pool_idle(pool.idle());
        self.metrics.pool_evicted(pool.evicted());
        self.http2.sweep(now);
    }

    /// Closes everything idle.
    pub fn clear(&self) {
        self.http1.borrow_mut().clear();
        self.http2.clear();
    }
}

/// Opens a connection for `protocol`: TCP, and mTLS where the peer has an identity. All of it within `timeout`.
///
/// Cancel safe: a connection that is not ready is closed.
pub async fn open(worker: &Worker, peer: &Peer, protocol: MeshProtocol, timeout: Duration) -> Result<Io, ConnectError> {
    worker.metrics.pool_opened();
    let address = peer.address;
    match tokio::time::timeout(timeout, open_now(worker, peer, protocol)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { address, timeout }),
    }
}

async fn open_now(worker: &Worker, peer: &Peer, protocol: MeshProtocol) -> Result<Io, ConnectError> {
    let address = peer.address;
    let tcp = TcpStream::connect(address).await.map_err(|source| ConnectError::Tcp { address, source })?;
    accept::prepare(&tcp, address);
    let Some(identity) = &peer.identity else {
        return Ok(tcp.into());
    };
    let context = worker.credentials().ok_or_else(|| ConnectError::NoCertificate(identity.clone()))?;
    let tls_error = |reason: String| ConnectError::Tls { address, identity: identity.clone(), reason };
    let config = context.client(identity, protocol);
    let connected = TlsConnector::from(config).connect(tls::session_name(address), tcp).await;
    worker.metrics.tls_handshake("client", connected.is_ok());
    let stream = connected.map_err(|e| tls_error(e.to_string()))?;
    VerifiedPeer::from_server(stream.get_ref().1, identity, heddle_identity::unix_now()).map_err(|e| tls_error(e.to_string()))?;
    Ok(Io::Client(Box::new(stream)))
}

/// Opens a connection to the application, which takes a permit.
pub async fn to_app(worker: &Worker, _: Permit, app: &Peer, timeout: Duration) -> Result<Io, ConnectError> {
    open(worker, app, MeshProtocol::Opaque, timeout).await
}

/// A connection for one HTTP/1 exchange, and whether it was used before.
pub async fn http1(worker: &Worker, peer: &Peer, timeout: Duration, fresh: bool) -> Result<(Conn, bool), ConnectError> {
    if !fresh && let Some(conn) = worker.connections.reuse(peer, Instant::now()) {
        return Ok((conn, true));
    }
    let io = open(worker, peer, MeshProtocol::Http1, timeout).await?;
    Ok((Conn::new(io, worker.buffers.clone()), false))
}
