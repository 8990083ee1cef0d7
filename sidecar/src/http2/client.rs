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
use std::task::{Context, Poll, Waker};
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
    send: SendRequest<Bytes>,
}

impl Lease {
    /// The connection, to send one request on.
    pub fn sender(&mut self) -> &mut SendRequest<Bytes> {
        &mut self.send
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
        loop {
            let full = all.len() >= CONNECTIONS_MAX;
            let (index, least) = all.iter().enumerate().min_by_key(|(_, shared)| shared.streams.get())?;
            let limit = STREAMS_PER_CONNECTION.min(least.send.current_max_send_streams());
            if least.streams.get() >= limit && !full {
                return None;
            }
            if let Some(lease) = Lease::new(least) {
                return Some(lease);
            }
            // It takes no more streams, by GOAWAY or an error; those that it has go on to their end.
            all.swap_remove(index);
        }
    }
}

impl Lease {
    /// `None`: the connection takes no more streams.
    fn new(shared: &Rc<Shared>) -> Option<Self> {
        let mut send = shared.send.clone();
        // A fresh handle has nothing pending: the answer is there at once.
        let ready = send.poll_ready(&mut Context::from_waker(Waker::noop()));
        if matches!(ready, Poll::Ready(Err(_))) {
            return None;
        }
        shared.streams.set(shared.streams.get() + 1);
        Some(Self { shared: shared.clone(), send })
    }
}

/// A connection to `peer` with room for a stream, within `timeout`: also the wait for another exchange that is opening one.
///
/// Cancel safe.
pub async fn get(worker: &Rc<Worker>, peer: &Peer, timeout: Duration) -> Result<Lease, ConnectError> {
    let clients = worker.connections.http2.peer(peer);
    if let Some(lease) = clients.lease() {
        return Ok(lease);
    }
    // One bound for all of it: when an endpoint does not answer, those that wait fail with the one that tries, and not one by one.
    let timed_out = ConnectError::Timeout { address: peer.address, timeout };
    tokio::time::timeout(timeout, open_one(worker, peer, &clients, timeout)).await.unwrap_or(Err(timed_out))
}

async fn open_one(worker: &Rc<Worker>, peer: &Peer, clients: &PeerClients, timeout: Duration) -> Result<Lease, ConnectError> {
    let _one_at_a_time = clients.dialling.lock().await;
    if let Some(lease) = clients.lease() {
        return Ok(lease);
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
    let (send, connection) = handshake.await.map_err(|e| http2_error(e.to_string()))?;
    let shared = Rc::new(Shared {
        send,
        streams: Cell::new(0),
        closed: Cell::new(false),
        idle_since: Cell::new(Instant::now()),
        task: RefCell::new(None),
    });
    // Weak: a connection that nobody can use any more ends with its last stream.
    let of_task = Rc::downgrade(&shared);
    let task = tokio::task::spawn_local(async move {
        // Streams learn of its end by themselves.
        let _ = connection.await;
        if let Some(shared) = of_task.upgrade() {
            shared.closed.set(true);
        }
    });
    *shared.task.borrow_mut() = Some(task.abort_handle());
    let lease = Lease::new(&shared).ok_or_else(|| http2_error("it ended at once".to_owned()))?;
    clients.shared.borrow_mut().push(shared);
    Ok(lease)
}
