//! Policies as one worker uses them: resolved answers joined with the worker's own balancers, budgets and metric handles.

use crate::balance::{Balancer, Picked};
use crate::budget::Budget;
use crate::discover::{Known, ResolvedInbound, ResolvedOutbound};
use crate::metrics::{Direction, ExchangeLabels, ExchangeMetrics, Metrics};
use heddle_model::{Backend, BackendTarget, Endpoint, OutboundPolicy, Protocol, RouteBackend, RouteTable, ServicePort};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What destinations outside the mesh are called.
const OUTSIDE: &str = "outside";
/// They may be on the other side of the world, and without the mesh the application would decide.
const OUTSIDE_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// One backend in one worker. It outlives the policies that refer to it, so that no edit of a route forgets what is in flight.
#[derive(Debug)]
pub struct WorkerBackend {
    /// Which one, as text for metrics and errors.
    pub key: String,
    config: RefCell<Backend>,
    endpoints: RefCell<watch::Receiver<Arc<Vec<Endpoint>>>>,
    balancer: RefCell<Balancer>,
    budget: RefCell<Budget>,
    metrics: Metrics,
    /// Whether its endpoints are counted: destinations outside the mesh are not, each being its own.
    counted: bool,
}

impl WorkerBackend {
    fn new(config: &Backend, endpoints: watch::Receiver<Arc<Vec<Endpoint>>>, metrics: Metrics, now: Instant) -> Self {
        let backend = Self {
            counted: true,
            key: config.service.to_string(),
            balancer: RefCell::new(Balancer::new(config.load_balancing)),
            budget: RefCell::new(Budget::new(config.retry_budget, now)),
            config: RefCell::new(config.clone()),
            endpoints: RefCell::new(endpoints),
            metrics,
        };
        backend.refresh(true);
        backend
    }

    /// The backend that is one address outside the mesh. All have one name, so that metrics do not grow with destinations.
    fn outside(address: SocketAddr, metrics: Metrics, now: Instant) -> Self {
        let mut config = Backend::new(ServicePort { namespace: String::new(), name: OUTSIDE.to_owned(), port: address.port() });
        config.connect_timeout = OUTSIDE_CONNECT_TIMEOUT;
        let endpoint = Endpoint { address, identity: None, zone: None, workload: String::new(), version: None, draining: false };
        let (_, endpoints) = watch::channel(Arc::new(vec![endpoint]));
        let backend = Self {
            counted: false,
            key: OUTSIDE.to_owned(),
            balancer: RefCell::new(Balancer::new(config.load_balancing)),
            budget: RefCell::new(Budget::new(config.retry_budget, now)),
            config: RefCell::new(config),
            endpoints: RefCell::new(endpoints),
            metrics,
        };
        backend.refresh(true);
        backend
    }

    fn configure(&self, config: &Backend, endpoints: &watch::Receiver<Arc<Vec<Endpoint>>>) {
        if *self.config.borrow() != *config {
            self.balancer.borrow_mut().set_policy(config.load_balancing);
            self.budget.borrow_mut().set(config.retry_budget);
            *self.config.borrow_mut() = config.clone();
        }
        if !self.endpoints.borrow().same_channel(endpoints) {
            *self.endpoints.borrow_mut() = endpoints.clone();
            self.refresh(true);
        }
    }

    /// Takes over new endpoints: one atomic load where nothing changed.
    fn refresh(&self, force: bool) {
        let mut receiver = self.endpoints.borrow_mut();
        if force || receiver.has_changed().unwrap_or(false) {
            let endpoints = receiver.borrow_and_update().clone();
            self.balancer.borrow_mut().update(&endpoints);
            if self.counted {
                self.metrics.endpoints(&self.key, endpoints.len());
            }
        }
    }

    /// Chooses an endpoint, preferring those not in `tried`; `None`: there is none.
    pub fn pick(&self, now: Instant, rng: &mut fastrand::Rng, tried: &[SocketAddr]) -> Option<Picked> {
        self.refresh(false);
        self.balancer.borrow_mut().pick(now, rng, tried)
    }

    /// Takes the endpoint that a session belongs to, if it is still there.
    pub fn pick_session(&self, session: u64) -> Option<Picked> {
        self.refresh(false);
        let mut balancer = self.balancer.borrow_mut();
        let address = balancer.endpoints().find(|e| self.session(e.endpoint()) == session)?.endpoint().address;
        balancer.pick_address(address)
    }

    /// What a session cookie calls an endpoint: stable across sidecars and restarts, and telling nothing of addresses.
    pub fn session(&self, endpoint: &Endpoint) -> u64 {
        // FNV-1a, 64 bits.
        let fold = |hash: u64, bytes: &[u8]| bytes.iter().fold(hash, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3));
        let hash = fold(0xcbf2_9ce4_8422_2325, self.key.as_bytes());
        let hash = fold(hash, endpoint.workload.as_bytes());
        fold(hash, endpoint.address.to_string().as_bytes())
    }

    /// The session of the endpoint at `address`, if it is still there.
    pub fn session_of(&self, address: SocketAddr) -> Option<u64> {
        let balancer = self.balancer.borrow();
        let found = balancer.endpoints().find(|e| e.endpoint().address == address)?;
        Some(self.session(found.endpoint()))
    }

    /// How to treat connections to it.
    pub fn config(&self) -> std::cell::Ref<'_, Backend> {
        self.config.borrow()
    }

    /// Counts a first try.
    pub fn first_try(&self, now: Instant) {
        self.budget.borrow_mut().deposit(now);
    }

    /// Asks the budget for one more try.
    pub fn may_retry(&self, now: Instant) -> bool {
        self.budget.borrow_mut().withdraw(now)
    }
}

impl Drop for WorkerBackend {
    fn drop(&mut self) {
        if self.counted {
            self.metrics.endpoints_gone(&self.key);
        }
    }
}

/// All backends of one worker, kept as long as a policy refers to them.
#[derive(Debug, Default)]
pub struct Backends {
    by_service: RefCell<HashMap<ServicePort, Weak<WorkerBackend>>>,
}

impl Backends {
    fn get(&self, config: &Backend, endpoints: &watch::Receiver<Arc<Vec<Endpoint>>>, metrics: &Metrics, now: Instant) -> Rc<WorkerBackend> {
        let mut map = self.by_service.borrow_mut();
        if let Some(backend) = map.get(&config.service).and_then(Weak::upgrade) {
            backend.configure(config, endpoints);
            return backend;
        }
        map.retain(|_, weak| weak.strong_count() > 0);
        let backend = Rc::new(WorkerBackend::new(config, endpoints.clone(), metrics.clone(), now));
        map.insert(config.service.clone(), Rc::downgrade(&backend));
        backend
    }
}

/// Metric handles that one policy remembers. Endpoints with ever new version labels must not make it grow; a forgotten handle is found
/// again, at the price of a lookup.
const HANDLES_MAX: usize = 1024;

/// An outbound policy in force in one worker: one of it serves a whole exchange.
#[derive(Debug)]
pub struct WorkerOutbound {
    resolved: Arc<ResolvedOutbound>,
    backends: Vec<Rc<WorkerBackend>>,
    service: String,
    handles: RefCell<Vec<Handle>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Handle {
    rule: Option<usize>,
    backend: Option<usize>,
    version: Option<String>,
    mtls: bool,
    metrics: Rc<ExchangeMetrics>,
}

impl WorkerOutbound {
    fn new(resolved: Arc<ResolvedOutbound>, all: &Backends, metrics: &Metrics, now: Instant) -> Self {
        let backends = resolved.policy.backends.iter().zip(&resolved.endpoints).map(|(b, e)| all.get(b, e, metrics, now)).collect();
        Self {
            service: resolved.policy.service.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string),
            resolved,
            backends,
            handles: RefCell::default(),
            metrics: metrics.clone(),
        }
    }

    /// The policy of an address that the mesh does not know: bytes go there as they are.
    fn outside(address: SocketAddr, metrics: &Metrics, now: Instant) -> Self {
        let backend = Rc::new(WorkerBackend::outside(address, metrics.clone(), now));
        let policy = OutboundPolicy {
            service: None,
            protocol: Protocol::Opaque,
            backends: vec![backend.config().clone()],
            http: RouteTable::default(),
            tcp: vec![RouteBackend { weight: 1, target: BackendTarget::Backend(0), filters: Vec::new() }],
            tcp_source: None,
            tcp_idle: None,
        };
        Self {
            service: OUTSIDE.to_owned(),
            resolved: Arc::new(ResolvedOutbound { policy, version: String::new(), endpoints: Vec::new() }),
            backends: vec![backend],
            handles: RefCell::default(),
            metrics: metrics.clone(),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &OutboundPolicy {
        &self.resolved.policy
    }

    /// The Service port, as text.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// A backend by its index in the policy.
    pub fn backend(&self, index: usize) -> Option<&Rc<WorkerBackend>> {
        self.backends.get(index)
    }

    /// The index of the backend that a weighted choice of `references` falls on; `None`: the weights sum to 0, or there is none.
    pub fn choose<'a>(&self, references: &'a [RouteBackend], rng: &mut fastrand::Rng) -> Option<(usize, &'a BackendTarget)> {
        let chosen = match references {
            [only] if only.weight > 0 => 0,
            several => crate::balance::weighted(several.iter().map(|b| b.weight), rng)?,
        };
        Some((chosen, &references[chosen].target))
    }

    /// The metric handles of a rule and backend version, made at first use.
    pub fn handle(&self, rule: Option<usize>, backend: Option<usize>, version: Option<&str>, mtls: bool) -> Rc<ExchangeMetrics> {
        let mut handles = self.handles.borrow_mut();
        if let Some(h) =
            handles.iter().find(|h| h.rule == rule && h.backend == backend && h.mtls == mtls && h.version.as_deref() == version)
        {
            return h.metrics.clone();
        }
        let route = rule.and_then(|r| self.policy().http.rules().get(r)).map(|r| r.source.to_string());
        let metrics = self.metrics.exchange(ExchangeLabels {
            direction: Direction::Outbound,
            service: &self.service,
            route: route.as_deref().unwrap_or("none"),
            backend: backend.and_then(|b| self.backends.get(b)).map_or("none", |b| &b.key),
            version: version.unwrap_or("none"),
            mtls,
        });
        if handles.len() >= HANDLES_MAX {
            handles.clear();
        }
        handles.push(Handle { rule, backend, version: version.map(str::to_owned), mtls, metrics: metrics.clone() });
        metrics
    }
}

/// The policy of one outbound target in one worker, always the newest.
#[derive(Debug)]
pub struct OutboundTarget {
    receiver: RefCell<watch::Receiver<Known<ResolvedOutbound>>>,
    current: RefCell<InForce<WorkerOutbound>>,
    backends: Rc<Backends>,
    metrics: Metrics,
    learned: Cell<Option<Protocol>>,
    /// Where the connections meant to go, where they are intercepted.
    address: Option<SocketAddr>,
    outside: RefCell<Option<Rc<WorkerOutbound>>>,
}

/// [`Known`], joined with the worker's state.
#[derive(Debug)]
pub enum InForce<T> {
    /// Not answered yet.
    Pending,
    /// Outside the mesh.
    Unknown,
    /// In force.
    Policy(Rc<T>),
}

impl<T> Clone for InForce<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Unknown => Self::Unknown,
            Self::Policy(policy) => Self::Policy(policy.clone()),
        }
    }
}

impl OutboundTarget {
    /// Follows a target. `address`: where its connections meant to go, if that is what the target is.
    pub fn new(
        mut receiver: watch::Receiver<Known<ResolvedOutbound>>,
        address: Option<SocketAddr>,
        backends: Rc<Backends>,
        metrics: Metrics,
    ) -> Self {
        receiver.mark_changed();
        Self {
            receiver: RefCell::new(receiver),
            current: RefCell::new(InForce::Pending),
            backends,
            metrics,
            learned: Cell::new(None),
            address,
            outside: RefCell::new(None),
        }
    }

    /// The way to the address itself, for what the mesh does not know; `None`: it was called by name, and there is no such way.
    pub fn outside(&self, now: Instant) -> Option<Rc<WorkerOutbound>> {
        let address = self.address?;
        let mut outside = self.outside.borrow_mut();
        Some(outside.get_or_insert_with(|| Rc::new(WorkerOutbound::outside(address, &self.metrics, now))).clone())
    }

    /// The newest policy: one atomic load where nothing changed.
    pub fn current(&self, now: Instant) -> InForce<WorkerOutbound> {
        let mut receiver = self.receiver.borrow_mut();
        if receiver.has_changed().unwrap_or(false) {
            let newest = match &*receiver.borrow_and_update() {
                Known::Pending => InForce::Pending,
                Known::Unknown => InForce::Unknown,
                Known::Policy(resolved) => {
                    InForce::Policy(Rc::new(WorkerOutbound::new(resolved.clone(), &self.backends, &self.metrics, now)))
                }
            };
            *self.current.borrow_mut() = newest;
        }
        self.current.borrow().clone()
    }

    /// What earlier connections have shown the target to speak, where nobody has declared it.
    pub fn learned(&self) -> Option<Protocol> {
        self.learned.get()
    }

    /// Remembers that the server spoke first: the target is opaque, and the next connection need not wait.
    pub fn learn_server_first(&self) {
        self.learned.set(Some(Protocol::Opaque));
    }

    /// Waits until something is known; at most until `deadline`. Cancel safe.
    pub async fn known(&self, deadline: Instant) -> InForce<WorkerOutbound> {
        loop {
            match self.current(Instant::now()) {
                InForce::Pending => {}
                known @ (InForce::Unknown | InForce::Policy(_)) => return known,
            }
            let mut receiver = self.receiver.borrow().clone();
            if tokio::time::timeout_at(deadline, receiver.changed()).await.is_err() {
                return InForce::Pending;
            }
        }
    }
}

/// The policy of one inbound port in one worker, always the newest.
#[derive(Debug)]
pub struct InboundTarget {
    /// Where the application listens.
    pub app: SocketAddr,
    receiver: RefCell<watch::Receiver<Known<ResolvedInbound>>>,
    current: RefCell<InForce<WorkerInbound>>,
    metrics: Metrics,
}

/// An inbound policy in force in one worker.
#[derive(Debug)]
pub struct WorkerInbound {
    resolved: Arc<ResolvedInbound>,
    service: String,
    /// Handles for plaintext and for mTLS.
    handles: [Rc<ExchangeMetrics>; 2],
}

impl WorkerInbound {
    /// The policy.
    pub fn policy(&self) -> &heddle_model::InboundPolicy {
        &self.resolved.policy
    }

    /// The Service that selects the port, as text.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The metric handles.
    pub fn handle(&self, mtls: bool) -> Rc<ExchangeMetrics> {
        self.handles[usize::from(mtls)].clone()
    }
}

impl InboundTarget {
    /// Follows a port whose application listens at `app`.
    pub fn new(app: SocketAddr, mut receiver: watch::Receiver<Known<ResolvedInbound>>, metrics: Metrics) -> Self {
        receiver.mark_changed();
        Self { app, receiver: RefCell::new(receiver), current: RefCell::new(InForce::Pending), metrics }
    }

    /// The newest policy: one atomic load where nothing changed.
    pub fn current(&self) -> InForce<WorkerInbound> {
        let mut receiver = self.receiver.borrow_mut();
        if receiver.has_changed().unwrap_or(false) {
            let newest = match &*receiver.borrow_and_update() {
                Known::Pending => InForce::Pending,
                Known::Unknown => InForce::Unknown,
                Known::Policy(resolved) => {
                    let service = resolved.policy.service.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
                    let handles = [false, true].map(|mtls| {
                        self.metrics.exchange(ExchangeLabels {
                            direction: Direction::Inbound,
                            service: &service,
                            route: "none",
                            backend: "none",
                            version: "none",
                            mtls,
                        })
                    });
                    InForce::Policy(Rc::new(WorkerInbound { resolved: resolved.clone(), service, handles }))
                }
            };
            *self.current.borrow_mut() = newest;
        }
        self.current.borrow().clone()
    }

    /// Waits until something is known; at most until `deadline`. Cancel safe.
    pub async fn known(&self, deadline: Instant) -> InForce<WorkerInbound> {
        loop {
            match self.current() {
                InForce::Pending => {}
                known @ (InForce::Unknown | InForce::Policy(_)) => return known,
            }
            let mut receiver = self.receiver.borrow().clone();
            if tokio::time::timeout_at(deadline, receiver.changed()).await.is_err() {
                return InForce::Pending;
            }
        }
    }
}
