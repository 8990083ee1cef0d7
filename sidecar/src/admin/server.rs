//! A small HTTP server for pages about the sidecar itself, with bounds on everything: what the admin and the health server share.

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Scrapers, probes and a person or two.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Heads of such requests are small.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A client that is slower than this over its head is given up.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// And so is one that keeps a connection longer, asking or not: a scraper connects again. A pod's hook after its start may take ten minutes.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(900);
/// A pause after the listener failed (no descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Nothing is answered: the connection ends instead.
#[derive(Debug, thiserror::Error)]
#[error("there is no answer to this")]
struct Unanswered;

/// Serves until `ended`; open connections are then closed. Cancel safe in the same way.
///
/// `answer` need not read bodies: hyper closes the connection of a client that sends one. Where it gives none, the connection ends.
pub(crate) async fn serve<A, F>(listener: TcpListener, ended: impl Future<Output = ()>, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Option<Response<Full<Bytes>>>> + Send + 'static,
{
    let mut ended = pin!(ended);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // The slot first: what is not accepted waits in the kernel's queue, which is bounded as well.
        let accepted = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((slot, stream))
        };
        tokio::select! {
            () = &mut ended => return,
            accepted = accepted => match accepted {
                Ok((slot, stream)) => {
                    let answer = answer.clone();
                    connections.spawn(async move {
                        connection(stream, answer).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a server for pages about the sidecar cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            // Finished ones are taken away, so that the set does not grow.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<A, F>(stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Send,
    F: Future<Output = Option<Response<Full<Bytes>>>> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { answer.await.ok_or(Unanswered) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off, or takes for ever, is its own loss.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}
