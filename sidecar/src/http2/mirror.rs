//! Copies of HTTP/2 requests, whose answers nobody waits for.

use super::client;
use crate::connect::Peer;
use crate::http1::mirror::MIRROR_TIMEOUT;
use crate::policy::WorkerBackend;
use crate::worker::Worker;
use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use std::future::poll_fn;
use std::rc::Rc;
use tokio::time::Instant;

/// A whole request.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    /// The head as it goes out.
    pub(super) request: http::Request<()>,
    /// The body.
    pub(super) data: Vec<Bytes>,
    /// What ends it.
    pub(super) trailers: Option<HeaderMap>,
}

/// Sends a copy in a task of its own.
///
/// At most as many copies are under way as the worker's configuration allows; others are dropped and counted.
pub(super) fn send(worker: &Rc<Worker>, backend: Rc<WorkerBackend>, copy: Copy) {
    let Some(slot) = worker.mirror_slot() else {
        worker.metrics.mirror_skipped();
        return;
    };
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        let _slot = slot;
        // Whatever becomes of it concerns nobody but the mirror's own metrics.
        let _ = tokio::time::timeout(MIRROR_TIMEOUT, deliver(&worker, &backend, copy)).await;
    });
}

async fn deliver(worker: &Rc<Worker>, backend: &WorkerBackend, copy: Copy) -> Option<()> {
    let Copy { request, data, trailers } = copy;
    let mut picked = backend.pick(Instant::now(), &mut worker.rng.borrow_mut(), &[])?;
    let peer = Peer::of(picked.endpoint(), worker);
    let timeout = backend.config().connect_timeout;
    let Ok(mut lease) = client::get(worker, &peer, timeout).await else {
        picked.connect_failed(Instant::now());
        return None;
    };
    picked.connected();
    let bodiless = data.is_empty() && trailers.is_none();
    let (response, mut stream) = lease.sender().send_request(request, bodiless).ok()?;
    if !bodiless {
        write(&mut stream, data, trailers).await.ok()?;
    }
    let mut body = response.await.ok()?.into_body();
    picked.responded(Instant::now());
    while let Some(Ok(chunk)) = body.data().await {
        // A stream that has ended needs no room.
        let _ = body.flow_control().release_capacity(chunk.len());
    }
    Some(())
}

async fn write(stream: &mut SendStream<Bytes>, data: Vec<Bytes>, trailers: Option<HeaderMap>) -> Result<(), h2::Error> {
    for mut chunk in data {
        while !chunk.is_empty() {
            stream.reserve_capacity(chunk.len());
            let room = poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or(Reason::CANCEL)??;
            stream.send_data(chunk.split_to(room.min(chunk.len())), false)?;
        }
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    }
}
