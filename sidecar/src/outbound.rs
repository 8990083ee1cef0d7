//! THE WALK, outbound: a connection of the application, from accept to the record of its end.
//!
//! ```text
//! accept.rs         1  a connection
//! original_dst.rs   2  where it meant to go, or an explicit listener's fixed target
//! policy.rs         2a the policy of that target
//! detect.rs         3  what it speaks
//! http1/, http2/    4  requests
//! exchange.rs       5  route, filters, balance, attempts
//! connect.rs        9  a connection to the endpoint: pool, mTLS
//! forward.rs       10  bytes
//! record.rs        11  the record
//! ```

use crate::cause::Cause;
use crate::connect::{self, Peer};
use crate::detect::{self, Detected};
use crate::exchange::{Client, POLICY_TIMEOUT, Side};
use crate::first::{self, First, Speaker};
use crate::forward::{self, Copied};
use crate::http1::conn::Conn;
use crate::io::{Io, Rewound};
use crate::metrics::Direction;
use crate::policy::{InForce, OutboundTarget, WorkerOutbound};
use crate::record;
use crate::worker::{Open, Worker};
use crate::{http1, http2};
use bytes::{Bytes, BytesMut};
use heddle_identity::tls::MeshProtocol;
use heddle_model::{BackendTarget, Protocol};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long a new destination waits for a control plane that is away just now, if it may go on without.
const AWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// Endpoints that an opaque connection tries before it gives up; nothing of it was sent to any of them.
const TCP_TRIES_MAX: usize = 3;

/// Serves one connection of the application to `target`.
pub async fn serve(worker: Rc<Worker>, target: Rc<OutboundTarget>, mut tcp: TcpStream, address: SocketAddr, _open: Open) {
    let policy = match policy(&worker, &target).await {
        Ok(policy) => policy,
        Err(cause) => {
            let client = Client { worker, side: Side::Outbound(target), address, peer: None };
            return refuse(&client, tcp, cause).await;
        }
    };
    let declared = policy.policy().protocol;
    let declared = target.learned().filter(|_| declared == Protocol::Detect).unwrap_or(declared);
    let (decide, silence): (fn(&[u8]) -> Detected, _) = match declared {
        Protocol::Opaque | Protocol::Tls => return opaque(&worker, &policy, tcp, Bytes::new()).await,
        Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => (declared_http, None),
        Protocol::Detect => (detect::detect, Some(first::SILENCE)),
    };
    let Ok(First { detected, bytes, ended }) =
        first::read(&mut tcp, BytesMut::new(), silence, decide, first::farewell(&worker.drain, Direction::Outbound)).await
    else {
        return;
    };
    if ended && bytes.is_empty() && silence.is_none() {
        return;
    }
    let detected = match (detected, declared.is_http()) {
        // A declared HTTP port never degrades to bytes: what is no HTTP gets a clear 400.
        (Detected::Opaque | Detected::Tls | Detected::MeshTls | Detected::NeedMore, true) => Detected::Http1,
        (detected, _) => detected,
    };
    match detected {
        Detected::Http1 | Detected::Http2 => {
            let client = Rc::new(Client { worker, side: Side::Outbound(target), address, peer: None });
            http(client, detected, Io::Plain(Rewound::new(bytes, tcp))).await;
        }
        Detected::NeedMore => silent(worker, &policy, target, tcp, address).await,
        Detected::MeshTls | Detected::Tls | Detected::Opaque => opaque(&worker, &policy, tcp, bytes).await,
    }
}

/// The policy of a target. What the mesh does not know goes where it meant to go, if the mesh's settings permit that; so does what was
/// never resolved while the control plane is away (design §6).
async fn policy(worker: &Worker, target: &OutboundTarget) -> Result<Rc<WorkerOutbound>, Cause> {
    let outside = || target.outside(Instant::now()).filter(|_| worker.settings().egress_allow);
    let patience = if worker.discovery.is_connected() || outside().is_none() { POLICY_TIMEOUT } else { AWAY_TIMEOUT };
    match target.known(Instant::now() + patience).await {
        InForce::Policy(policy) => Ok(policy),
        InForce::Pending => outside().ok_or(Cause::PolicyUnknown),
        InForce::Unknown => outside().ok_or(Cause::EgressDenied),
    }
}

/// The client of an undeclared port says nothing: connects to the server too, and lets whoever speaks first decide.
async fn silent(worker: Rc<Worker>, policy: &WorkerOutbound, target: Rc<OutboundTarget>, mut tcp: TcpStream, address: SocketAddr) {
    let mut record = record::Tcp::outbound(&worker, policy, Instant::now());
    let mut server = match open(&worker, policy, &mut record).await {
        Ok(io) => Conn::new(io, worker.buffers.clone()),
        Err(cause) => {
            forward::reset(&tcp);
            return record.finish(Copied { sent: 0, received: 0, cause });
        }
    };
    if first::speaker(&tcp, &mut server).await == Speaker::Server {
        // An end is nobody's greeting, and an HTTP server may say 408 to a client that keeps silent: neither makes the port opaque.
        if !server.input.is_empty() && !server.input.data().starts_with(b"HTTP/") {
            target.learn_server_first();
        }
        return copy(&worker, policy.policy().tcp_idle, Io::from(tcp), server, record).await;
    }
    let Ok(First { detected, bytes, ended: _ }) =
        first::read(&mut tcp, BytesMut::new(), None, detect::detect, first::farewell(&worker.drain, Direction::Outbound)).await
    else {
        return;
    };
    let io = Io::Plain(Rewound::new(bytes, tcp));
    if matches!(detected, Detected::Http1 | Detected::Http2) {
        // A client that connects before it has something to say. Its requests choose endpoints of their own.
        record.cancel();
        drop(server);
        let client = Rc::new(Client { worker, side: Side::Outbound(target), address, peer: None });
        return http(client, detected, io).await;
    }
    copy(&worker, policy.policy().tcp_idle, io, server, record).await;
}

/// What bytes on a port that is declared HTTP are.
pub fn declared_http(bytes: &[u8]) -> Detected {
    match (bytes.is_empty(), detect::is_http2(bytes)) {
        (true, _) | (false, None) => Detected::NeedMore,
        (false, Some(true)) => Detected::Http2,
        (false, Some(false)) => Detected::Http1,
    }
}

/// Serves HTTP of the version that was found.
pub async fn http(client: Rc<Client>, detected: Detected, io: Io) {
    if detected == Detected::Http2 {
        http2::server::serve(client, io).await;
    } else {
        http1::server::serve(client, io).await;
    }
}

/// Tells the client in its own language, if it speaks HTTP/1 and speaks at once; otherwise by a reset.
async fn refuse(client: &Client, mut tcp: TcpStream, cause: Cause) {
    let reply = client.error(cause, "");
    record::refused(client, &reply);
    let first = first::read(&mut tcp, BytesMut::new(), Some(first::SILENCE), detect::detect, std::future::pending()).await;
    if let Ok(First { detected: Detected::Http1, .. }) = first {
        let text = format!(
            "HTTP/1.1 {} Refused\r\n{}: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            reply.status,
            crate::message::Reply::MARK,
            cause.flag(),
            reply.body.len(),
            reply.body
        );
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, text.as_bytes()).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut tcp).await;
        return;
    }
    forward::reset(&tcp);
}

/// Copies bytes to an endpoint.
async fn opaque(worker: &Rc<Worker>, policy: &WorkerOutbound, tcp: TcpStream, bytes: Bytes) {
    let mut record = record::Tcp::outbound(worker, policy, Instant::now());
    match open(worker, policy, &mut record).await {
        Ok(server) => {
            let server = Conn::new(server, worker.buffers.clone());
            copy(worker, policy.policy().tcp_idle, Io::Plain(Rewound::new(bytes, tcp)), server, record).await;
        }
        Err(cause) => {
            forward::reset(&tcp);
            record.finish(Copied { sent: 0, received: 0, cause });
        }
    }
}

async fn copy(worker: &Worker, idle: Option<Duration>, client: Io, mut server: Conn, record: record::Tcp) {
    let mut client = Conn::new(client, worker.buffers.clone());
    let copied = forward::copy(&mut client, &mut server, idle, &worker.drain, |sent, received| record.passed(sent, received)).await;
    record.finish(copied);
}

/// A connection to one of the endpoints that the policy's weights choose.
async fn open(worker: &Rc<Worker>, policy: &WorkerOutbound, record: &mut record::Tcp) -> Result<Io, Cause> {
    let chosen = policy.choose(&policy.policy().tcp, &mut worker.rng.borrow_mut()).map(|(_, target)| target.clone());
    let index = match chosen {
        Some(BackendTarget::Backend(index)) => index,
        Some(BackendTarget::Invalid { .. }) => return Err(Cause::InvalidBackend),
        None => return Err(Cause::NoRoute),
    };
    let backend = policy.backend(index).ok_or(Cause::InvalidBackend)?.clone();
    let mut tried = Vec::with_capacity(TCP_TRIES_MAX);
    let mut cause = Cause::NoEndpoints;
    while tried.len() < TCP_TRIES_MAX {
        let picked = backend.pick(Instant::now(), &mut worker.rng.borrow_mut(), &tried);
        let Some(mut picked) = picked else {
            break;
        };
        let peer = Peer::of(picked.endpoint(), worker);
        if tried.contains(&peer.address) {
            break;
        }
        let timeout = backend.config().connect_timeout;
        record.to(&backend, picked.endpoint());
        match connect::open(worker, &peer, MeshProtocol::Opaque, timeout).await {
            Ok(io) => {
                picked.connected();
                record.hold(picked);
                return Ok(io);
            }
            Err(error) => {
                picked.connect_failed(Instant::now());
                cause = error.cause();
                tracing::debug!(%error, "an endpoint was not reached");
                tried.push(peer.address);
            }
        }
    }
    Err(cause)
}
