//! How an application is told to end: by a signal, or by a test.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The hearing side of the end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// The telling side of the end; dropping it tells nothing.
#[derive(Debug)]
pub struct Stop(watch::Sender<bool>);

impl Shutdown {
    /// A pair of which the first ends whoever waits for the second.
    #[must_use]
    pub fn new() -> (Stop, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stop(sender), Self(receiver))
    }

    /// Waits for the end; for ever if nobody is left to tell it. Cancel safe.
    pub(crate) async fn told(&mut self) {
        if self.0.wait_for(|told| *told).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Stop {
    /// Tells the end.
    pub fn tell(&self) {
        self.0.send_replace(true);
    }

    /// Tells the end at SIGTERM or SIGINT, and then waits for ever; returns only what hinders it from hearing signals. Cancel safe.
    pub(crate) async fn on_signal(&self) -> std::io::Error {
        let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(term), Ok(int)) => (term, int),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        self.tell();
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_signal_tells_the_end() {
        let (stop, mut shutdown) = Shutdown::new();
        let hearing = stop.on_signal();
        tokio::pin!(hearing);
        // The first poll installs the handlers, so the signal cannot end the tests.
        assert!(hearing.as_mut().now_or_never().is_none());
        let sent = std::process::Command::new("sh").args(["-c", &format!("kill -TERM {}", std::process::id())]).status().unwrap();
        assert!(sent.success());
        tokio::select! {
            () = shutdown.told() => {}
            error = hearing => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn a_dropped_stop_tells_nothing() {
        let (stop, mut shutdown) = Shutdown::new();
        drop(stop);
        assert!(shutdown.told().now_or_never().is_none());
    }
}
