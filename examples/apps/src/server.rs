//! Accepts connections, bounded, and ends gracefully: what is in flight is answered first.

use crate::Shutdown;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// More clients than a laptop's example has; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long what is in flight may take after the end was told: below the 30 s that Kubernetes gives a pod, far above any answer here.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// After a failed accept (out of file descriptors): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves each connection by `serve_one`, which is to return soon after its shutdown was told, until the end; whoever is not ready
/// [`GRACE`] later is cut off.
pub(crate) async fn serve<S, F>(listener: TcpListener, mut shutdown: Shutdown, serve_one: S)
where
    S: Fn(TcpStream, Shutdown) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        // What loses the race loses nothing: accepting, joining and waiting are cancel safe.
        tokio::select! {
            () = shutdown.told() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    // Answers are written whole: waiting for more (Nagle) would only delay them. A failure costs nothing but that.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve_one(stream, shutdown.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    // Dropping the set aborts what is left.
    let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}
