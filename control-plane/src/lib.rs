//! The control plane: watches objects, resolves what sidecars ask, serves it, issues certificates, and reports status.
//!
//! ```text
//! watch, watch/directory   manifests → snapshot, in atomic steps
//! snapshot                 the objects as last seen
//! resolve                  snapshot × target → policy, pure and total
//! status                   snapshot → conditions, pure
//! serve                    discovery streams and certificates over mTLS
//! authenticate, ca         who asks; who signs
//! admin, metrics           for probes, Prometheus and people
//! config, error            how it is told what to do; how it ends
//! ```
//!
//! [`ControlPlane`] wires these rooms. It is the only file that spawns: every task belongs to a `JoinSet` which the end waits for.

pub mod admin;
pub mod authenticate;
pub mod ca;
pub mod config;
pub mod error;
pub mod inject;
pub mod metrics;
pub mod naked;
pub mod resolve;
pub mod serve;
pub mod snapshot;
pub mod status;
#[cfg(test)]
mod test_support;
pub mod watch;

/// The generated server code of `model/proto`.
mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        missing_debug_implementations,
        clippy::all,
        clippy::pedantic,
        unused_qualifications,
        reason = "generated code"
    )]
    include!("gen/heddle.v1.rs");
}

pub use config::{Args, Config, ConfigError};
pub use error::RunError;

use admin::Admin;
use authenticate::TokensFile;
use ca::Ca;
use heddle_identity::unix_now;
use metrics::{Bound, Metrics};
use serve::certify::Certifier;
use serve::session::Common;
use serve::{Server, Sidecars, View};
use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::watch as latest;
use tokio::task::JoinSet;
use watch::{Batch, Publisher};

/// The exit code for bad configuration (`EX_USAGE` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 64;

/// How long the end may take: sessions end themselves at once, and what is left after this is cut.
const END_TIMEOUT: Duration = Duration::from_millis(900);

/// How long to wait when the system has no more files or memory for a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Runs a control plane until `shutdown`.
///
/// # Errors
/// When it cannot start, or a part of it ends by itself.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let control_plane = tokio::select! {
        // What was started so far ends with the future that is dropped.
        () = &mut shutdown => return Ok(()),
        started = ControlPlane::start(config) => started?,
    };
    control_plane.run(shutdown).await
}

/// A started control plane. When it is dropped, everything is cut at once.
#[derive(Debug)]
pub struct ControlPlane {
    /// Those that end by themselves after `stop`.
    acceptors: JoinSet<()>,
    /// Those that never do.
    rooms: JoinSet<&'static str>,
    stop: latest::Sender<bool>,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl ControlPlane {
    /// Reads all objects once, opens the authority, and begins to serve.
    ///
    /// # Errors
    /// When an address is in use, or the authority's files are unusable. Manifests never keep it from starting.
    pub async fn start(config: Config) -> Result<Self, RunError> {
        let Config { directories, state, listen, admin, tokens } = config;
        let metrics = Arc::new(Metrics::new()?);
        let (mut acceptors, mut rooms) = (JoinSet::new(), JoinSet::new());
        let (stop, stopped) = latest::channel(false);

        let admin_listener = bind(admin, "admin requests", "--admin").await?;
        let admin_address = local(&admin_listener, admin);
        let admin = Admin::new(metrics.clone());
        acceptors.spawn(accept(admin_listener, stopped.clone(), admin::MAX_CONNECTIONS, metrics.clone(), Bound::Admin, {
            let admin = admin.clone();
            move |stream, _| admin.clone().connection(stream)
        }));

        let (sender, mut batches) = mpsc::channel(watch::MAX_BATCHES);
        rooms.spawn(named("watch", watch::directory::watch_directories(directories, sender)));
        let mut publisher = Publisher::new(metrics.clone());
        publisher.apply(batches.recv().await.ok_or_else(|| RunError::Ended("watch".to_owned()))?);

        let trust_domain = publisher.trust_domain();
        // Before the first sidecar can connect: it needs the roots that this writes.
        let ca = Arc::new(Ca::open(&state, &trust_domain, unix_now())?);
        publisher.trust(&trust_domain, ca.trust());
        let view = Arc::new(publisher.view(None).ok_or_else(|| RunError::Ended("publish".to_owned()))?);
        let serving = ca.serving(view.mesh().certificate_lifetime, unix_now())?;
        let (configs, config) = latest::channel(serving.config);
        let (views, view) = latest::channel(view);
        rooms.spawn(named("publish", publish(publisher, batches, views)));
        rooms.spawn(named("renew", ca::keep_serving(ca.clone(), view.clone(), configs, serving.certificate, metrics.clone())));

        let sidecars = Arc::new(Sidecars::new(metrics.clone()));
        let certifier = Certifier::new(ca, Arc::new(TokensFile::new(tokens)), view.clone(), metrics.clone());
        let common = Common { views: view.clone(), stop: stopped.clone(), sidecars: sidecars.clone(), metrics: metrics.clone() };
        let server = Server::new(common, certifier, config);
        let listener = bind(listen, "sidecars", "--listen").await?;
        let listen = local(&listener, listen);
        acceptors.spawn(accept(listener, stopped, serve::MAX_CONNECTIONS, metrics, Bound::Connections, move |stream, client| {
            server.clone().connection(stream, client)
        }));
        admin.ready(view, sidecars);
        tracing::info!(%listen, admin = %admin_address, %trust_domain, "control plane ready");
        Ok(Self { acceptors, rooms, stop, listen, admin: admin_address })
    }

    /// Where sidecars connect.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin endpoints are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Serves until `shutdown`, and then ends within a second: streams are closed with a reason, connections with GOAWAY.
    ///
    /// # Errors
    /// When a part of it ends by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let ended = tokio::select! {
            () = shutdown => None,
            Some(ended) = self.rooms.join_next() => Some(ended),
            Some(ended) = self.acceptors.join_next() => Some(ended.map(|()| "accept")),
        };
        if let Some(ended) = ended {
            return Err(RunError::Ended(ended.map_or_else(|error| error.to_string(), str::to_owned)));
        }
        tracing::info!("control plane stopping");
        self.stop.send_replace(true);
        let ending = async { while self.acceptors.join_next().await.is_some() {} };
        if tokio::time::timeout(END_TIMEOUT, ending).await.is_err() {
            tracing::warn!("connections were cut at the end");
        }
        self.acceptors.shutdown().await;
        self.rooms.shutdown().await;
        Ok(())
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Takes in batches and publishes views, until the sources are gone.
async fn publish(mut publisher: Publisher, mut batches: mpsc::Receiver<Batch>, views: latest::Sender<Arc<View>>) {
    while let Some(batch) = batches.recv().await {
        if !publisher.apply(batch) {
            continue;
        }
        let previous = views.borrow().clone();
        if let Some(view) = publisher.view(Some(&previous)) {
            views.send_replace(Arc::new(view));
        }
    }
}

/// Accepts connections, at most `limit` at a time, and serves each in a task of its own; after `stop`, waits for them to end.
async fn accept<C, F>(listener: TcpListener, mut stop: latest::Receiver<bool>, limit: usize, metrics: Arc<Metrics>, bound: Bound, serve: C)
where
    C: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Nothing is lost with the losers: a connection that was not accepted stays in the listener's queue.
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) if connections.len() < limit => {
                connections.spawn(serve(stream, client));
            }
            // Dropped, and so closed at once: the peer learns it and may try another replica.
            Ok(_) => metrics.refused(bound),
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn bind(address: SocketAddr, purpose: &'static str, flag: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, purpose, flag, source })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// Runs the command: checks the arguments, logs to standard error, serves until SIGTERM or SIGINT.
///
/// Returns 0 after a signal, [`EXIT_CONFIG`] with one line for each mistake in the arguments, and 1 with one line when it cannot run.
pub fn execute(args: &Args) -> ExitCode {
    let config = match Config::parse(args) {
        Ok(config) => config,
        Err(ConfigError { mistakes }) => {
            for mistake in mistakes {
                eprintln!("heddle control-plane: {mistake}");
            }
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if let Ok(log) = config::Log::parse(args.log.as_deref(), args.log_format.as_deref()) {
        log_to_stderr(&log);
    }
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| RunError::Ended(e.to_string())).and_then(
        |runtime| {
            let result = runtime.block_on(run(config, signalled()));
            // A look at a directory may still be under way; nobody waits for it.
            runtime.shutdown_background();
            result
        },
    );
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle control-plane: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be received: only SIGKILL ends this process");
            std::future::pending().await
        }
    }
}

/// Sets up the log of this process; where there is one already, that one stays.
fn log_to_stderr(log: &config::Log) {
    let config::Log { filter, json } = log;
    let builder = tracing_subscriber::fmt().with_env_filter(filter.as_str()).with_writer(std::io::stderr);
    let _ = if *json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
