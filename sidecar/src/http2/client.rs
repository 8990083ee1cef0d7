//! Shared HTTP/2 connections to endpoints: as few as carry the streams, opened one at a time.

use super::{CONNECTION_WINDOW, HEADER_SLACK, STREAM_WINDOW};
use crate::connect::{ConnectError, Peer, open};
use crate::exchange::SIDECAR_HEADER_BYTES;
use crate::worker::Worker;
use bytes::Bytes;
use h2::client::SendRequest;
use heddle_identity::tls::MeshProtocol;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// Connections to one peer. More are opened only when all streams that the peer allows are in use.
const CONNECTIONS_MAX: usize = 8;
/// A connection without streams is closed after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Streams per connection before a second one is opened: one connection's flow control and head-of-line are shared by all of them.
const STREAMS_PER_CONNECTION: usize = 512;

/// The HTTP/2 connections of one worker.
#[derive(Debug, Default)]
pub struct Clients {
    by_peer: RefCell<HashMap<Peer, Rc<PeerClients>>>,
}

#[derive(Debug)]
struct PeerClients {
    shared: RefCell<Vec<Rc<Shared>>>,
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    send: SendRequest<Bytes>,
    streams: Cell<usize>,
    closed: Cell<bool>,
    idle_since: Cell<Instant>,
    task: RefCell<Option<tokio::task::AbortHandle>>,
}

/// A connection that can take one more stream; counts the stream until it drops.
#[derive(Debug)]
pub struct Lease {
    shared: Rc<Shared>,
}

impl Lease {
    /// The connection, to send one request on.
    pub fn sender(&self) -> SendRequest<Bytes> {
        self.shared.send.clone()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get() - 1);
        self.shared.idle_since.set(Instant::now());
    }
}

impl Clients {
    fn peer(&self, peer: &Peer) -> Rc<PeerClients> {
        if let Some(found) = self.by_peer.borrow().get(peer) {
            return found.clone();
        }
        let fresh = Rc::new(PeerClients { shared: RefCell::default(), dialling: tokio::sync::Mutex::default() });
        self.by_peer.borrow_mut().insert(peer.clone(), fresh.clone());
        fresh
    }

    /// Closes connections that have been idle for too long, and forgets closed ones.
    pub fn sweep(&self, now: Instant) {
        self.by_peer.borrow_mut().retain(|_, peer| {
            peer.shared.borrow_mut().retain(|shared| {
                let expired = shared.streams.get() == 0 && now.duration_since(shared.idle_since.get()) >= IDLE;
                if expired && let Some(task) = shared.task.borrow().as_ref() {
                    task.abort();
                }
                !expired && !shared.closed.get()
            });
            !peer.shared.borrow().is_empty() || Rc::strong_count(peer) > 1
        });
    }

    /// Forgets all; connections end with their last streams.
    pub fn clear(&self) {
        self.by_peer.borrow_mut().clear();
    }
}

impl PeerClients {
    fn lease(&self) -> Option<Lease> {
        let mut all = self.shared.borrow_mut();
        all.retain(|shared| !shared.closed.get());
        let full = all.len() >= CONNECTIONS_MAX;
        let least = all.iter().min_by_key(|shared| shared.streams.get())?;
        let limit = STREAMS_PER_CONNECTION.min(least.send.current_max_send_streams());
        if least.streams.get() >= limit && !full {
            return None;
        }
        least.streams.set(least.streams.get() + 1);
        Some(Lease { shared: least.clone() })
    }
}

/// A connection to `peer` with room for a stream, and whether it existed before.
///
/// Cancel safe.
pub async fn get(worker: &Rc<Worker>, peer: &Peer, timeout: Duration) -> Result<(Lease, bool), ConnectError> {
    let clients = worker.connections.http2.peer(peer);
    if let Some(lease) = clients.lease() {
        return Ok((lease, true));
    }
    let _one_at_a_time = clients.dialling.lock().await;
    if let Some(lease) = clients.lease() {
        return Ok((lease, true));
    }
    let io = open(worker, peer, MeshProtocol::H2, timeout).await?;
    let limit = worker.config.header_limit + SIDECAR_HEADER_BYTES;
    let handshake = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limit * HEADER_SLACK).unwrap_or(u32::MAX))
        .enable_push(false)
        .handshake::<_, Bytes>(io);
    let http2_error = |reason: String| ConnectError::Http2 { address: peer.address, reason };
    let (send, connection) = match tokio::time::timeout(timeout, handshake).await {
        Ok(result) => result.map_err(|e| http2_error(e.to_string()))?,
        Err(_) => return Err(ConnectError::Timeout { address: peer.address, timeout }),
    };
    let shared = Rc::new(Shared {
        send,
        streams: Cell::new(1),
        closed: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
        task: RefCell::new(None),
    });
    let of_task = shared.clone();
    let task = tokio::task::spawn_local(async move {
        // Streams learn of its end by themselves.
        let _ = connection.await;
        of_task.closed.set(true);
    });
    *shared.task.borrow_mut() = Some(task.abort_handle());
    clients.shared.borrow_mut().push(shared.clone());
    Ok((Lease { shared }, false))
}
