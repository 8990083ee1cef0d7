//! The process: threads, listeners, signals and the end.
//!
//! N worker threads carry traffic; the control thread (this one) talks to the control plane, serves the admin port and exports. They
//! share read-only handles and nothing else.

use crate::accept;
use crate::access_log::AccessLog;
use crate::admin::Admin;
use crate::config::Config;
use crate::credentials::Credentials;
use crate::discover::Discovery;
use crate::drain::{Drain, Drained, LameDuck};
use crate::health::Health;
use crate::intercept::check::Check;
use crate::metrics::{self, Direction};
use crate::telemetry::{Telemetry, logs};
use crate::worker::{Seams, Worker};
use crate::{inbound, intercept, outbound};
use heddle_model::Target;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};

/// The exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
const EXIT_CONFIG: u8 = 64;
/// How often idle connections are looked through.
const SWEEP: Duration = Duration::from_millis(500);

/// How long connections may take to end once the drain's deadline has passed.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Why the sidecar cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener's address cannot be had.
    #[error("cannot listen on {address} ({what}): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What for: the variable that names it.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A name makes no SPIFFE id.
    #[error("the workload's names make no SPIFFE id: {0}")]
    Identity(#[from] heddle_model::spiffe_id::SpiffeIdError),
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs a sidecar that the environment configures, until it is told to end.
///
/// Exit codes: 0 after an orderly end, 1 when it cannot run, 64 for a wrong configuration (every mistake is printed).
#[must_use]
pub fn run_from_env() -> ExitCode {
    let config = match Config::from_environment() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    logs::install(&config);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One listener of one worker: its socket, and what its connections are for.
#[derive(Debug)]
struct Listener {
    socket: StdListener,
    purpose: Purpose,
}

#[derive(Debug, Clone)]
enum Purpose {
    Outbound(Target),
    Inbound(u16, SocketAddr),
    OutboundIntercept,
    InboundIntercept,
}

/// Opens every listener of every worker before anything runs, so that a port in use is one clear error.
fn listeners(config: &Config) -> Result<Vec<Vec<Listener>>, RunError> {
    let mut wanted = Vec::new();
    for listener in &config.outbound {
        wanted.push((listener.listen, "HEDDLE_OUTBOUND", Purpose::Outbound(Target::Authority(listener.authority.to_string()))));
    }
    for listener in &config.inbound {
        wanted.push((listener.listen, "HEDDLE_INBOUND", Purpose::Inbound(listener.port, listener.application)));
    }
    let both = accept::of_both_families;
    wanted.extend(config.outbound_intercept.map(|a| (both(a), "HEDDLE_OUTBOUND_INTERCEPT", Purpose::OutboundIntercept)));
    wanted.extend(config.inbound_intercept.map(|a| (both(a), "HEDDLE_INBOUND_INTERCEPT", Purpose::InboundIntercept)));
    for (address, what, _) in &wanted {
        if accept::is_taken(*address) {
            return Err(RunError::Listen { address: *address, what, source: io::ErrorKind::AddrInUse.into() });
        }
    }
    (0..config.workers.get())
        .map(|_| {
            wanted
                .iter()
                .map(|(address, what, purpose)| {
                    let socket = accept::listen(*address).map_err(|source| RunError::Listen { address: *address, what, source })?;
                    Ok(Listener { socket, purpose: purpose.clone() })
                })
                .collect()
        })
        .collect()
}

/// The listeners of the control thread.
#[derive(Debug)]
struct Pages {
    admin: StdListener,
    health: Option<StdListener>,
}

impl Pages {
    fn open(config: &Config) -> Result<Self, RunError> {
        // One thread each: an address that is taken is an error by itself, and whoever asks already is not reset by a trial.
        let open = |address, what| accept::listen_alone(address).map_err(|source| RunError::Listen { address, what, source });
        let health = config.pod.health.map(|address| open(accept::of_both_families(address), "HEDDLE_HEALTH"));
        Ok(Self { admin: open(config.admin, "HEDDLE_ADMIN")?, health: health.transpose()? })
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { what: "starting a runtime", source })
}

/// Runs until a signal or `POST /drain`, then drains.
///
/// # Errors
/// When a listener, a thread or the identity cannot be had.
pub fn run(config: Config) -> Result<(), RunError> {
    let config = Arc::new(config);
    let listeners = listeners(&config)?;
    let pages = Pages::open(&config)?;
    let runtime = runtime()?;
    let result = runtime.block_on(control(config, listeners, pages));
    // A reader of standard output that has stopped reading must not hold up the end.
    runtime.shutdown_background();
    result
}

/// The control thread.
async fn control(config: Arc<Config>, listeners: Vec<Vec<Listener>>, pages: Pages) -> Result<(), RunError> {
    let drain = Drain::new();
    let mut rng = fastrand::Rng::new();
    let (credentials, renewal) = Credentials::new(&config, rng.fork())?;
    let (discovery, stream) = Discovery::new(&config, &credentials, rng.fork())?;
    let (spans, telemetry) = Telemetry::new(&config, discovery.settings());
    let (access_log, access_log_writer) = AccessLog::new(discovery.settings(), tokio::time::Instant::now());
    let check = Check::new(&config, &mut rng).map(Arc::new);
    let seams = Seams {
        config: config.clone(),
        discovery: discovery.clone(),
        credentials: credentials.context(),
        spans,
        access_log,
        check: check.clone(),
    };
    let own = prometheus::Registry::new();
    let registered = credentials
        .register(&own)
        .and_then(|()| discovery.register(&own))
        .and_then(|()| telemetry.register(&own))
        .and_then(|()| access_log_writer.register(&own))
        .and_then(|()| check.as_ref().map_or(Ok(()), |check| check.register(&own)));
    if let Err(error) = registered {
        tracing::error!(%error, "some metrics are missing");
    }
    let (workers, mut registries) = start_workers(&seams, listeners, &drain).await?;
    registries.push(own);
    let gather = move || metrics::gather(&registries);
    let shown = Admin::new(&config, gather, credentials.context(), discovery, drain.clone(), check.clone());
    let listener = |socket| TcpListener::from_std(socket).map_err(|source| RunError::System { what: "a listener", source });
    let (admin, health) = (listener(pages.admin)?, pages.health.map(listener).transpose()?);
    let (end, ended) = watch::channel(false);
    let until_end = |mut ended: watch::Receiver<bool>| async move {
        let _ = ended.wait_for(|end| *end).await;
    };
    let mut tasks = JoinSet::new();
    if let Some(health) = health {
        let served = Health::new(shown.clone(), config.pod.probes.clone(), &config.pod.ips);
        tasks.spawn(served.serve(health, until_end(ended.clone())));
    }
    tasks.spawn(shown.serve(admin, until_end(ended.clone())));
    tasks.spawn(telemetry.run(until_end(ended.clone())));
    tasks.spawn(access_log_writer.run(tokio::io::stdout(), until_end(ended)));
    let mut endless = JoinSet::new();
    endless.spawn(renewal.run());
    endless.spawn(stream.run());
    if let Some(check) = check {
        let watch = drain.watch();
        endless.spawn(async move { check.run(watch).await });
    }
    tracing::info!(
        workload = %format!("{}/{}", config.namespace, config.workload),
        workers = config.workers.get(),
        admin = %config.admin,
        "sidecar started"
    );
    wait_for_end(&drain).await?;
    tracing::info!(lame_duck = ?config.lame_duck, deadline = ?config.drain, "draining");
    // In a pod the application has ended before (Kubernetes ends sidecars last); elsewhere nobody says so.
    let lame_duck = if config.inbound_intercept.is_some() { LameDuck::WhileUsed } else { LameDuck::For };
    match drain.run(lame_duck(config.lame_duck), config.drain).await {
        Drained::Idle => tracing::info!("drained"),
        Drained::Deadline { left } => tracing::warn!(left, "the drain's deadline has passed: what is left is cut"),
    }
    for worker in workers {
        // A worker that panicked has said so already.
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
    }
    end.send_replace(true);
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn wait_for_end(drain: &Drain) -> Result<(), RunError> {
    let signal_error = |source| RunError::System { what: "listening for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(signal_error)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signal_error)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = drain.requested() => {}
    }
    Ok(())
}

type Workers = Vec<thread::JoinHandle<()>>;

async fn start_workers(
    seams: &Seams,
    listeners: Vec<Vec<Listener>>,
    drain: &Drain,
) -> Result<(Workers, Vec<prometheus::Registry>), RunError> {
    let mut workers = Vec::new();
    let mut registries = Vec::new();
    for (number, listeners) in listeners.into_iter().enumerate() {
        let (seams, watch) = (seams.clone(), drain.watch());
        let (registry, registered) = oneshot::channel();
        let runtime = runtime()?;
        let worker = thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || LocalSet::new().block_on(&runtime, work(seams, watch, listeners, registry)))
            .map_err(|source| RunError::System { what: "starting a worker thread", source })?;
        registries.extend(registered.await);
        workers.push(worker);
    }
    Ok((workers, registries))
}

/// One worker thread, until the drain has ended and its connections are gone or cut.
async fn work(seams: Seams, watch: crate::drain::Watch, listeners: Vec<Listener>, registry: oneshot::Sender<prometheus::Registry>) {
    let worker = Worker::new(seams, watch);
    // The control thread waits for it, unless it is ending already.
    let _ = registry.send(worker.metrics.registry());
    let mut loops = JoinSet::new();
    for Listener { socket, purpose } in listeners {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                loops.spawn_local(accept_for(worker.clone(), listener, purpose));
            }
            Err(error) => tracing::error!(%error, "a listener could not be used"),
        }
    }
    let sweeping = worker.clone();
    let all = async { while loops.join_next().await.is_some() {} };
    tokio::pin!(all);
    tokio::select! {
        () = &mut all => {}
        // Those that can tell their peers do so; whatever is left after that is cut.
        () = worker.drain.deadline() => drop(tokio::time::timeout(LAST_WORDS, &mut all).await),
        () = sweep(&sweeping) => {}
        () = sweeping.busy_poll.run() => {}
    }
    worker.connections.clear();
}

async fn sweep(worker: &Worker) {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = tokio::time::Instant::now();
        worker.connections.sweep(now);
        worker.targets.sweep(now);
    }
}

async fn accept_for(worker: Rc<Worker>, listener: TcpListener, purpose: Purpose) {
    let w = worker.clone();
    match purpose {
        Purpose::Outbound(target) => {
            let target = Rc::new(intercept::outbound_target(&worker, &target));
            accept::run(worker, listener, Direction::Outbound, move |tcp, from, open| {
                outbound::serve(w.clone(), target.clone(), tcp, from, open)
            })
            .await;
        }
        Purpose::Inbound(port, app) => {
            let target = Rc::new(intercept::inbound_target(&worker, port, app));
            accept::run(worker, listener, Direction::Inbound, move |tcp, from, open| {
                inbound::serve(w.clone(), target.clone(), tcp, from, open)
            })
            .await;
        }
        Purpose::OutboundIntercept => intercept::outbound(worker, listener).await,
        Purpose::InboundIntercept => intercept::inbound(worker, listener).await,
    }
}
