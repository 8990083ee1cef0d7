//! The control plane: watches objects, resolves what sidecars ask, serves it, issues certificates, and reports status.
//!
//! ```text
//! watch                    manifests, or the objects of a cluster → snapshot, in atomic steps
//! snapshot                 the objects as last seen
//! resolve                  snapshot × target → policy, pure and total
//! status                   snapshot → conditions, pure
//! serve                    discovery streams and certificates over mTLS
//! authenticate, ca         who asks; who signs
//! inject, admission        pods with a sidecar; the webhooks of a cluster
//! leader, events           what one replica writes into a cluster; what people are told there
//! cluster, in_cluster      the API server as all of these see it; their wiring
//! admin, metrics           for probes, Prometheus and people
//! config, error            how it is told what to do; how it ends
//! ```
//!
//! [`ControlPlane`] wires these rooms. This file and `in_cluster` are the only ones that spawn: every task belongs to a `JoinSet` which the
//! end waits for.

pub mod admin;
pub mod admission;
pub mod authenticate;
pub mod ca;
pub mod cluster;
pub mod config;
pub mod error;
pub mod events;
mod in_cluster;
pub mod inject;
pub mod leader;
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

use admin::{Admin, Audience};
use authenticate::{Authenticate, TokensFile};
use ca::{Ca, Issuing, Serving};
use config::{Local, Mode};
use events::Recorder;
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
    tasks: Tasks,
    stopping: Stopping,
    admin: Admin,
    listen_address: SocketAddr,
    admin_address: SocketAddr,
    /// How long it goes on to answer after it was asked to end.
    lame_duck: Duration,
}

/// All tasks, by how they end.
#[derive(Debug, Default)]
struct Tasks {
    /// Those that end by themselves after `stop`.
    acceptors: JoinSet<()>,
    /// Those that end by themselves after `closing`.
    campaigns: JoinSet<()>,
    /// Those that never do.
    rooms: JoinSet<&'static str>,
}

/// The two steps of an end.
#[derive(Debug)]
struct Stopping {
    /// Leadership is given up and nobody is to come any more, and who comes all the same is answered.
    closing: latest::Sender<bool>,
    /// Everything ends.
    stop: latest::Sender<bool>,
}

/// A control plane of which parts run already.
struct Starting {
    metrics: Arc<Metrics>,
    admin: Admin,
    tasks: Tasks,
    stopping: Stopping,
}

/// What serving stands on.
struct Ground {
    publisher: Publisher,
    batches: mpsc::Receiver<Batch>,
    ca: Arc<Ca>,
    authenticate: Arc<dyn Authenticate>,
    events: Recorder,
}

/// What serves.
struct Serves {
    listen: SocketAddr,
    views: latest::Receiver<Arc<View>>,
    sidecars: Arc<Sidecars>,
    servings: latest::Receiver<Arc<Serving>>,
}

impl ControlPlane {
    /// Reads all objects once, opens the authority, and begins to serve.
    ///
    /// In a cluster this waits for whatever is not there yet: the API server, the leader's authority.
    ///
    /// # Errors
    /// When an address is in use, or files that it needs are unusable. Objects never keep it from starting.
    pub async fn start(config: Config) -> Result<Self, RunError> {
        let Config { listen, admin: admin_address, mode } = config;
        let namespace = match &mode {
            Mode::Local(_) => ca::NAMESPACE,
            Mode::Cluster(cluster) => &cluster.namespace,
        };
        let mut starting = Starting::new(namespace)?;
        let listener = bind(admin_address, "admin requests", "--admin").await?;
        let admin_address = local(&listener, admin_address);
        starting.admin(listener, Audience::Local);
        let (serves, lame_duck) = match mode {
            Mode::Local(local) => (starting.local(listen, local).await?, Duration::ZERO),
            Mode::Cluster(cluster) => (Box::pin(in_cluster::start(&mut starting, listen, cluster)).await?, in_cluster::LAME_DUCK),
        };
        let Serves { listen: listen_address, views, sidecars, servings: _ } = serves;
        let trust_domain = views.borrow().mesh().trust_domain.clone();
        let Starting { metrics: _, admin, tasks, stopping } = starting;
        admin.ready(views, sidecars);
        tracing::info!(listen = %listen_address, admin = %admin_address, %trust_domain, "control plane ready");
        Ok(Self { tasks, stopping, admin, listen_address, admin_address, lame_duck })
    }

    /// Where sidecars connect.
    pub fn listen_address(&self) -> SocketAddr {
        self.listen_address
    }

    /// Where the admin endpoints are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until `shutdown`, and then ends: streams are closed with a reason, connections with GOAWAY. Within a second; in a cluster
    /// [`in_cluster::LAME_DUCK`] later, as the Service's endpoints lag behind.
    ///
    /// # Errors
    /// When a part of it ends by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let Tasks { acceptors, campaigns, rooms } = &mut self.tasks;
        let ended = tokio::select! {
            () = shutdown => None,
            Some(ended) = rooms.join_next() => Some(ended),
            Some(ended) = acceptors.join_next() => Some(ended.map(|()| "accept")),
            Some(ended) = campaigns.join_next() => Some(ended.map(|()| "election")),
        };
        if let Some(ended) = ended {
            return Err(RunError::Ended(ended.map_or_else(|error| error.to_string(), str::to_owned)));
        }
        tracing::info!("control plane stopping");
        self.admin.leave();
        self.stopping.closing.send_replace(true);
        tokio::time::sleep(self.lame_duck).await;
        self.stopping.stop.send_replace(true);
        let ending = async {
            while acceptors.join_next().await.is_some() {}
            while campaigns.join_next().await.is_some() {}
        };
        if tokio::time::timeout(END_TIMEOUT, ending).await.is_err() {
            tracing::warn!("connections were cut at the end");
        }
        acceptors.shutdown().await;
        campaigns.shutdown().await;
        rooms.shutdown().await;
        Ok(())
    }
}

impl Starting {
    fn new(namespace: &str) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::new()?);
        let stopping = Stopping { closing: latest::Sender::new(false), stop: latest::Sender::new(false) };
        Ok(Self { admin: Admin::new(namespace, metrics.clone()), metrics, tasks: Tasks::default(), stopping })
    }

    /// Serves the admin endpoints.
    fn admin(&mut self, listener: TcpListener, audience: Audience) {
        let admin = self.admin.clone();
        self.accept(listener, admin::MAX_CONNECTIONS, Bound::Admin, move |stream, _| admin.clone().connection(stream, audience));
    }

    /// Accepts connections until the end, and serves each.
    fn accept<C, F>(&mut self, listener: TcpListener, limit: usize, bound: Bound, serve: C)
    where
        C: Fn(TcpStream, SocketAddr) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.acceptors.spawn(accept(listener, self.stopping.stop.subscribe(), limit, self.metrics.clone(), bound, serve));
    }

    /// Runs a part that never ends by itself.
    fn room(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.rooms.spawn(named(name, task));
    }

    /// Takes in the first batch of a source.
    async fn first(&self, batches: &mut mpsc::Receiver<Batch>) -> Result<Publisher, RunError> {
        let mut publisher = Publisher::new(self.metrics.clone());
        publisher.apply(batches.recv().await.ok_or_else(|| RunError::Ended("watch".to_owned()))?);
        Ok(publisher)
    }

    /// Serves the manifests of directories.
    async fn local(&mut self, listen: SocketAddr, config: Local) -> Result<Serves, RunError> {
        let Local { directories, state, tokens } = config;
        let (sender, mut batches) = mpsc::channel(watch::MAX_BATCHES);
        self.room("watch", watch::directory::watch_directories(directories, sender));
        let publisher = self.first(&mut batches).await?;
        // Before the first sidecar can connect: it needs the roots that this writes.
        let ca = Arc::new(Ca::open(&state, &publisher.trust_domain(), unix_now())?);
        let authenticate = Arc::new(TokensFile::new(tokens));
        let events = Recorder::nobody(self.metrics.clone());
        self.serve(listen, Ground { publisher, batches, ca, authenticate, events }).await
    }

    /// Serves sidecars.
    async fn serve(&mut self, listen: SocketAddr, ground: Ground) -> Result<Serves, RunError> {
        let Ground { mut publisher, batches, ca, authenticate, events } = ground;
        let metrics = self.metrics.clone();
        let issuing = ca.changes();
        publisher.trust(ca.trust_domain(), &ca.trust());
        let view = Arc::new(publisher.view(None).ok_or_else(|| RunError::Ended("publish".to_owned()))?);
        let serving = ca.serving(view.mesh().certificate_lifetime, unix_now())?;
        let (servings, serving) = latest::channel(Arc::new(serving));
        let (views, view) = latest::channel(view);
        self.room("publish", publish(publisher, batches, issuing, views));
        self.room("renew", ca::keep_serving(ca.clone(), view.clone(), servings, metrics.clone()));

        let sidecars = Arc::new(Sidecars::new(metrics.clone()));
        let own_id = ca.own_id().clone();
        let certifier = Certifier::new(ca, authenticate, view.clone(), events, metrics.clone());
        let common = Common { views: view.clone(), stop: self.stopping.stop.subscribe(), sidecars: sidecars.clone(), metrics };
        let server = Server::new(common, certifier, serving.clone(), own_id);
        let listener = bind(listen, "sidecars", "--listen").await?;
        let listen = local(&listener, listen);
        self.accept(listener, serve::MAX_CONNECTIONS, Bound::Connections, move |stream, client| server.clone().connection(stream, client));
        Ok(Serves { listen, views: view, sidecars, servings: serving })
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

/// Takes in batches and changes of the roots, and publishes views, until the sources are gone.
async fn publish(
    mut publisher: Publisher,
    mut batches: mpsc::Receiver<Batch>,
    mut issuing: latest::Receiver<Arc<Issuing>>,
    views: latest::Sender<Arc<View>>,
) {
    let trust_domain = views.borrow().mesh().trust_domain.clone();
    loop {
        let is_news = tokio::select! {
            // Nothing is lost with the loser: a batch stays in its channel, and the roots are the latest ones whenever they are read.
            batch = batches.recv() => match batch {
                Some(batch) => publisher.apply(batch),
                None => return,
            },
            Ok(()) = issuing.changed() => {
                publisher.trust(&trust_domain, issuing.borrow_and_update().trust());
                true
            }
        };
        if !is_news {
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
    // The client of the API server logs each failed attempt, which those who ask say once, and quotes answers that it cannot read, among
    // which may be a Secret. A directive for it in the filter wins.
    let filter = format!("kube_client=off,{filter}");
    let builder = tracing_subscriber::fmt().with_env_filter(filter.as_str()).with_writer(std::io::stderr);
    let _ = if *json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
