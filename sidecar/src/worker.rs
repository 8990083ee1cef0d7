//! What one worker thread owns: nothing in it is shared with another thread but read-only handles.

use crate::access_log::AccessLog;
use crate::buffer::Buffers;
use crate::busy_poll::BusyPoll;
use crate::cause::Cause;
use crate::config::Config;
use crate::connect::Connections;
use crate::discover::Discovery;
use crate::drain;
use crate::intercept::Targets;
use crate::intercept::check::Check;
use crate::metrics::{Direction, Metrics};
use crate::policy::Backends;
use crate::telemetry::SpanSink;
use heddle_identity::tls::TlsContext;
use heddle_model::Settings;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// Handles of the control thread that every worker gets a copy of.
#[derive(Debug, Clone)]
pub struct Seams {
    /// The configuration of the process.
    pub config: Arc<Config>,
    /// Policies and endpoints.
    pub discovery: Discovery,
    /// The own certificate and the roots; `None`: not yet.
    pub credentials: watch::Receiver<Option<Arc<TlsContext>>>,
    /// Where finished spans go.
    pub spans: SpanSink,
    /// Where finished exchanges are written.
    pub access_log: AccessLog,
    /// The check of the redirection, where connections are intercepted.
    pub check: Option<Arc<Check>>,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// The configuration of the process.
    pub config: Arc<Config>,
    /// How this sidecar calls itself in answers and logs: `outbound sidecar of default/front-0`, without the direction.
    pub name: String,
    /// Policies and endpoints.
    pub discovery: Discovery,
    /// Where finished spans go.
    pub spans: SpanSink,
    /// Where finished exchanges are written.
    pub access_log: AccessLog,
    /// This worker's metrics.
    pub metrics: Metrics,
    /// Idle read buffers.
    pub buffers: Buffers,
    /// Connections to endpoints and to the application.
    pub connections: Connections,
    /// Policies of intercepted connections, by address.
    pub targets: Targets,
    /// Balancers by backend.
    pub backends: Rc<Backends>,
    /// Whether this thread may sleep.
    pub busy_poll: BusyPoll,
    /// The check of the redirection, where connections are intercepted.
    pub check: Option<Arc<Check>>,
    /// The phase of the process.
    pub drain: drain::Watch,
    /// Randomness for everything that this worker decides.
    pub rng: RefCell<fastrand::Rng>,
    credentials: RefCell<watch::Receiver<Option<Arc<TlsContext>>>>,
    settings: RefCell<watch::Receiver<Arc<Settings>>>,
    current_settings: RefCell<Arc<Settings>>,
    open: Cell<usize>,
    mirrors: Rc<Cell<usize>>,
}

/// Client connections of one worker. At some 10 KiB each, this is the memory that a flood of connections can cost.
const CONNECTIONS_MAX: usize = 50_000;

/// Copies of requests that one worker has under way at once: enough for a full mirror of thousands of requests per second.
const MIRRORS_MAX: usize = 256;

/// A place among the copies under way.
#[derive(Debug)]
pub struct MirrorSlot(Rc<Cell<usize>>);

impl Drop for MirrorSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Worker {
    /// A worker with nothing in flight.
    pub fn new(seams: Seams, drain: drain::Watch) -> Rc<Self> {
        let Seams { config, discovery, credentials, spans, access_log, check } = seams;
        let settings = discovery.settings();
        let current = settings.borrow().clone();
        let metrics = Metrics::new();
        Rc::new(Self {
            name: format!("{}/{}", config.namespace, config.workload),
            buffers: Buffers::default(),
            connections: Connections::new(metrics.clone()),
            targets: Targets::default(),
            backends: Rc::default(),
            busy_poll: BusyPoll::new(config.busy_poll),
            rng: RefCell::new(fastrand::Rng::new()),
            credentials: RefCell::new(credentials),
            settings: RefCell::new(settings),
            current_settings: RefCell::new(current),
            open: Cell::new(0),
            mirrors: Rc::default(),
            config,
            discovery,
            spans,
            access_log,
            metrics,
            check,
            drain,
        })
    }

    /// The newest certificate and roots; `None`: not yet.
    pub fn credentials(&self) -> Option<Arc<TlsContext>> {
        self.credentials.borrow_mut().borrow_and_update().clone()
    }

    /// Waits for a certificate. Cancel safe.
    pub async fn certified(&self) -> Option<Arc<TlsContext>> {
        let mut receiver = self.credentials.borrow().clone();
        let found = receiver.wait_for(Option::is_some).await.ok()?;
        found.clone()
    }

    /// The settings in force: one atomic load where nothing changed.
    pub fn settings(&self) -> Arc<Settings> {
        let mut receiver = self.settings.borrow_mut();
        if receiver.has_changed().unwrap_or(false) {
            *self.current_settings.borrow_mut() = receiver.borrow_and_update().clone();
        }
        self.current_settings.borrow().clone()
    }

    /// Counts an open client connection until the guard drops; `None`: the limit is reached.
    pub fn admit(self: &Rc<Self>, direction: Direction) -> Option<Open> {
        if self.open.get() >= CONNECTIONS_MAX {
            return None;
        }
        self.open.set(self.open.get() + 1);
        Some(Open { worker: self.clone(), _guard: self.drain.guard(direction) })
    }

    /// A place for one more copy of a request; `None`: too many are under way.
    pub fn mirror_slot(&self) -> Option<MirrorSlot> {
        let n = self.mirrors.get();
        (n < MIRRORS_MAX).then(|| {
            self.mirrors.set(n + 1);
            MirrorSlot(self.mirrors.clone())
        })
    }

    /// Why something ends that nobody has ended: its client is gone, or the drain's deadline is here.
    pub fn cut(&self) -> Cause {
        if self.drain.phase() >= drain::Phase::Deadline { Cause::Draining } else { Cause::ClientGone }
    }

    /// Open client connections.
    pub fn open(&self) -> usize {
        self.open.get()
    }
}

/// An open client connection, which a drain waits for.
#[derive(Debug)]
pub struct Open {
    worker: Rc<Worker>,
    _guard: drain::Guard,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker.open.set(self.worker.open.get() - 1);
    }
}
