//! Copies of requests, whose answers nobody waits for.

use super::conn::Conn;
use crate::connect::{self, Peer};
use crate::policy::WorkerBackend;
use crate::worker::Worker;
use bytes::Bytes;
use heddle_identity::tls::MeshProtocol;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// From connecting to the end of the answer. A mirror that is slower is cut: it must not pile up.
pub(crate) const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);

/// Sends a copy in a task of its own. `bytes` is a whole request that asks to close the connection after it.
///
/// At most as many copies are under way as the worker's configuration allows; others are dropped and counted.
pub(super) fn send(worker: &Rc<Worker>, backend: Rc<WorkerBackend>, bytes: Bytes) {
    let Some(slot) = worker.mirror_slot() else {
        worker.metrics.mirror_skipped();
        return;
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let _slot = slot;
        // Whatever becomes of it concerns nobody but the mirror's own metrics.
        let _ = tokio::time::timeout(MIRROR_TIMEOUT, exchange(&worker, &backend, &bytes)).await;
    });
}

async fn exchange(worker: &Worker, backend: &WorkerBackend, bytes: &[u8]) -> Option<()> {
    let mut picked = backend.pick(Instant::now(), &mut worker.rng.borrow_mut(), &[])?;
    let peer = Peer::of(picked.endpoint(), worker);
    let timeout = backend.config().connect_timeout;
    let Ok(io) = connect::open(worker, &peer, MeshProtocol::Http1, timeout).await else {
        picked.connect_failed(Instant::now());
        return None;
    };
    picked.connected();
    let mut conn = Conn::new(io, worker.buffers.clone());
    conn.output().extend_from_slice(bytes);
    poll_fn(|cx| conn.poll_flush(cx)).await.ok()?;
    // The request asked to close: the end of the connection is the end of the answer.
    poll_fn(|cx| {
        loop {
            let len = conn.input.len();
            conn.input.consume(len);
            match conn.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => picked.responded(Instant::now()),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    Some(())
}
