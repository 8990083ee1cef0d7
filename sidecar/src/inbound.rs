//! THE WALK, inbound: a connection to the application, from accept to the record of its end.
//!
//! ```text
//! accept.rs         1  a connection
//! policy.rs         2a the policy of the port
//! detect.rs         3  TLS of the mesh, TLS of the applications, HTTP, anything else
//! tls.rs            3a mTLS, and who the peer is
//! authorize.rs      6  a permit, or a refusal
//! http1/, http2/    4  requests
//! forward.rs       10  bytes
//! record.rs        11  the record
//! ```

use crate::authorize::authorize;
use crate::cause::Cause;
use crate::connect::{self, Peer};
use crate::detect::{self, Detected};
use crate::exchange::{Client, POLICY_TIMEOUT, Side};
use crate::first::{self, First, Speaker};
use crate::forward::{self, Copied};
use crate::http1::conn::Conn;
use crate::io::{Io, Rewound};
use crate::metrics::Direction;
use crate::outbound::http;
use crate::policy::{InForce, InboundTarget, WorkerInbound};
use crate::record;
use crate::tls;
use crate::worker::{Open, Worker};
use bytes::BytesMut;
use heddle_identity::tls::MeshProtocol;
use heddle_identity::verify::VerifiedPeer;
use heddle_model::{MtlsMode, Protocol};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long a silent client may still turn out to begin mesh TLS before a server that speaks first is connected to it in plaintext.
/// A sidecar sends its ClientHello in the same flight as the handshake's last packet.
const PLAINTEXT_SILENCE: Duration = Duration::from_millis(100);
/// How long the application may take to accept: it is on the same host.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves one connection to the port behind `target`.
pub async fn serve(worker: Rc<Worker>, target: Rc<InboundTarget>, mut tcp: TcpStream, address: SocketAddr, _open: Open) {
    let InForce::Policy(policy) = target.known(Instant::now() + POLICY_TIMEOUT).await else {
        // Fail closed: without a policy nothing is permitted.
        record::Tcp::inbound(&worker, None, None, Instant::now()).finish(Copied { sent: 0, received: 0, cause: Cause::PolicyUnknown });
        return forward::reset(&tcp);
    };
    let protocol = policy.policy().protocol;
    // In strict mode nothing but mesh TLS will do: there is no hurry to take silence for an answer.
    let silence = match (policy.policy().mtls, protocol.is_http()) {
        (MtlsMode::Strict, _) | (_, true) => None,
        (MtlsMode::Permissive | MtlsMode::Audit, false) => Some(PLAINTEXT_SILENCE),
    };
    let decide: fn(&[u8]) -> Detected = match protocol {
        Protocol::Http | Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => mesh_or_http,
        Protocol::Opaque | Protocol::Tls => mesh_or_opaque,
        Protocol::Detect => detect::detect,
    };
    let Ok(First { detected, bytes, ended }) =
        first::read(&mut tcp, BytesMut::new(), silence, decide, first::farewell(&worker.drain, Direction::Inbound)).await
    else {
        return;
    };
    if ended && bytes.is_empty() && silence.is_none() {
        return;
    }
    if detected == Detected::NeedMore && !protocol.is_http() {
        return silent(worker, target, policy, tcp, address).await;
    }
    dispatch(worker, target, policy, detected, Rewound::new(bytes, tcp), address).await;
}

async fn dispatch(
    worker: Rc<Worker>,
    target: Rc<InboundTarget>,
    policy: Rc<WorkerInbound>,
    detected: Detected,
    plain: Rewound,
    address: SocketAddr,
) {
    if detected == Detected::MeshTls {
        return mesh(worker, target, policy, plain, address).await;
    }
    let client = Rc::new(Client { worker, side: Side::Inbound(target), address, peer: None });
    let detected = match (detected, policy.policy().protocol.is_http()) {
        (Detected::Opaque | Detected::NeedMore, true) => Detected::Http1,
        (detected, _) => detected,
    };
    match detected {
        // Each request is authorized, so that a refusal can be said in HTTP.
        Detected::Http1 | Detected::Http2 => http(client, detected, Io::Plain(plain)).await,
        Detected::NeedMore | Detected::MeshTls | Detected::Tls | Detected::Opaque => opaque(&client, &policy, Io::Plain(plain)).await,
    }
}

/// A plaintext client says nothing: connects to the application too, and lets whoever speaks first decide.
async fn silent(worker: Rc<Worker>, target: Rc<InboundTarget>, policy: Rc<WorkerInbound>, mut tcp: TcpStream, address: SocketAddr) {
    let record = record::Tcp::inbound(&worker, Some(&policy), None, Instant::now());
    let refused = |cause| {
        forward::reset(&tcp);
        Copied { sent: 0, received: 0, cause }
    };
    let Ok(permit) = authorize(policy.policy(), None) else {
        return record.finish(refused(Cause::PlaintextRefused));
    };
    let app = Peer { address: target.app, identity: None };
    let mut server = match connect::to_app(&worker, permit, &app, APP_CONNECT_TIMEOUT).await {
        Ok(io) => Conn::new(io, worker.buffers.clone()),
        Err(error) => return record.finish(refused(error.cause())),
    };
    if first::speaker(&tcp, &mut server).await == Speaker::Server {
        return copy(&worker, &policy, Io::from(tcp), server, record).await;
    }
    record.cancel();
    drop(server);
    let decide = if policy.policy().protocol == Protocol::Detect { detect::detect } else { mesh_or_opaque };
    if let Ok(First { detected, bytes, ended: _ }) =
        first::read(&mut tcp, BytesMut::new(), None, decide, first::farewell(&worker.drain, Direction::Inbound)).await
    {
        dispatch(worker, target, policy, detected, Rewound::new(bytes, tcp), address).await;
    }
}

async fn copy(worker: &Worker, policy: &WorkerInbound, client: Io, mut server: Conn, record: record::Tcp) {
    let mut client = Conn::new(client, worker.buffers.clone());
    let passed = |sent, received| record.passed(sent, received);
    let copied = forward::copy(&mut client, &mut server, policy.policy().idle, &worker.drain, passed).await;
    record.finish(copied);
}

/// On a port that is declared HTTP: TLS of the mesh, or HTTP.
fn mesh_or_http(bytes: &[u8]) -> Detected {
    match detect::detect(bytes) {
        found @ (Detected::MeshTls | Detected::Http2 | Detected::Tls) => found,
        // TLS begins with a handshake record; whatever else comes is a request, or nonsense to be told so.
        Detected::NeedMore if bytes.first().is_none_or(|b| *b == 0x16) => Detected::NeedMore,
        Detected::NeedMore | Detected::Http1 | Detected::Opaque => crate::outbound::declared_http(bytes),
    }
}

/// On a port that is declared opaque: TLS of the mesh, or any bytes.
fn mesh_or_opaque(bytes: &[u8]) -> Detected {
    match detect::detect(bytes) {
        found @ (Detected::MeshTls | Detected::Tls) => found,
        Detected::NeedMore if bytes.first().is_none_or(|b| *b == 0x16) => Detected::NeedMore,
        Detected::NeedMore | Detected::Http1 | Detected::Http2 | Detected::Opaque => Detected::Opaque,
    }
}

/// Ends mesh TLS; the ALPN that was agreed says what is inside.
async fn mesh(worker: Rc<Worker>, target: Rc<InboundTarget>, policy: Rc<WorkerInbound>, plain: Rewound, address: SocketAddr) {
    let accepted = tls::accept(&worker, plain).await;
    worker.metrics.tls_handshake("server", accepted.is_ok());
    let (io, peer, protocol) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::info!(client = %address, %error, "mTLS was refused");
            return;
        }
    };
    let client = Rc::new(Client { worker, side: Side::Inbound(target), address, peer: Some(peer) });
    match protocol {
        MeshProtocol::Http1 => http(client, Detected::Http1, io).await,
        MeshProtocol::H2 => http(client, Detected::Http2, io).await,
        MeshProtocol::Opaque => opaque(&client, &policy, io).await,
    }
}

/// Copies bytes to the application.
async fn opaque(client: &Rc<Client>, accepted_by: &Rc<WorkerInbound>, io: Io) {
    let worker = &client.worker;
    let Side::Inbound(target) = &client.side else {
        return;
    };
    // Its first bytes may have come long after the connection: the policy of now decides.
    let newest = target.current();
    let (policy, known) = match &newest {
        InForce::Policy(newest) => (newest, true),
        InForce::Pending | InForce::Unknown => (accepted_by, false),
    };
    let peer = client.peer.as_ref().map(VerifiedPeer::id);
    let record = record::Tcp::inbound(worker, Some(policy), peer, Instant::now());
    let refuse = |cause, io: &Io| {
        forward::reset(io.tcp());
        Copied { sent: 0, received: 0, cause }
    };
    if !known {
        return record.finish(refuse(Cause::PolicyUnknown, &io));
    }
    let permit = match authorize(policy.policy(), client.peer.as_ref()) {
        Ok(permit) => permit,
        Err(denied) => {
            tracing::info!(client = %client.address, %denied, "a connection was refused");
            return record.finish(refuse(Cause::PlaintextRefused, &io));
        }
    };
    let app = Peer { address: target.app, identity: None };
    let server = match connect::to_app(worker, permit, &app, APP_CONNECT_TIMEOUT).await {
        Ok(server) => server,
        Err(error) => {
            tracing::info!(%error, "the application was not reached");
            return record.finish(refuse(error.cause(), &io));
        }
    };
    let server = Conn::new(server, worker.buffers.clone());
    copy(worker, policy, io, server, record).await;
}
