//! The end, as the kubelet tells it.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM or SIGINT.
///
/// As process 1 of a container, a program without a handler would not hear SIGTERM at all.
pub(crate) async fn told() -> Result<(), String> {
    let handler = |kind| signal(kind).map_err(|error| format!("signals cannot be heard: {error}"));
    let (mut term, mut int) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
