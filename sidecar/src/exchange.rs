//! One HTTP request and its response, as every HTTP version sees it: policy, route, filters, choice of endpoint, retries, record.
//!
//! The walk of a request is: [`Client::leg`] → [`Exchange::begin`] → [`Exchange::route`] → [`Exchange::attempt`] (again after
//! [`Exchange::retry_failure`] or [`Exchange::retry_response`]) → [`Exchange::edit_response`] → [`Exchange::finish`].

use crate::authorize::{Permit, authorize};
use crate::balance::Picked;
use crate::cause::Cause;
use crate::clock::Expired;
use crate::connect::{ConnectError, Peer};
use crate::filter;
use crate::message::{Reply, RequestEdit, ResponseEdit, edit_response, trace_headers};
use crate::metrics::{Direction, ExchangeMetrics};
use crate::policy::{InForce, InboundTarget, OutboundTarget, WorkerBackend, WorkerInbound, WorkerOutbound};
use crate::record;
use crate::trace::TraceContext;
use crate::worker::Worker;
use heddle_identity::verify::VerifiedPeer;
use heddle_model::filter::{Cors, HeaderEdits};
use heddle_model::retry::RetryPolicy;
use heddle_model::route::SessionPersistence;
use heddle_model::timeout::Timeouts;
use heddle_model::{BackendTarget, Filter, Matched, RouteBackend, Rule};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the first request to a destination waits for the control plane's answer.
pub const POLICY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the application may take to accept: it is on the same host.
const APP_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an idle connection to the application is kept; see [`heddle_model::backend::HTTP1_IDLE_TIMEOUT`].
const APP_IDLE_TIMEOUT: Duration = heddle_model::backend::HTTP1_IDLE_TIMEOUT;

/// What a sidecar may add to a head: trace headers, a request id, a mark, edits of filters.
pub const SIDECAR_HEADER_BYTES: usize = 4096;

/// Who made a connection, and which way it goes.
#[derive(Debug)]
pub struct Client {
    /// The worker that accepted it.
    pub worker: Rc<Worker>,
    /// Which way.
    pub side: Side,
    /// Where from.
    pub address: SocketAddr,
    /// Who, proven by mTLS; `None`: plaintext.
    pub peer: Option<VerifiedPeer>,
}

/// The direction of a connection, seen from the workload.
#[derive(Debug, Clone)]
pub enum Side {
    /// From the application to a destination.
    Outbound(Rc<OutboundTarget>),
    /// To the application.
    Inbound(Rc<InboundTarget>),
}

/// The policy that one exchange keeps from its begin to its end.
#[derive(Debug, Clone)]
pub enum Leg {
    /// Outbound.
    Outbound(Rc<WorkerOutbound>),
    /// Inbound, with the permit to reach the application.
    Inbound(Rc<WorkerInbound>, SocketAddr, Permit),
}

impl Client {
    /// How this sidecar calls itself in an answer of its own.
    pub fn place(&self) -> String {
        let direction = match self.side {
            Side::Outbound(_) => "outbound",
            Side::Inbound(_) => "inbound",
        };
        format!("{direction} sidecar of {}", self.worker.name)
    }

    /// Bytes of one header section that this client may send. Another sidecar has added fields of its own to what its client sent.
    pub fn header_limit(&self) -> usize {
        self.worker.config.header_limit + if self.peer.is_some() { SIDECAR_HEADER_BYTES } else { 0 }
    }

    fn direction(&self) -> Direction {
        match self.side {
            Side::Outbound(_) => Direction::Outbound,
            Side::Inbound(_) => Direction::Inbound,
        }
    }

    /// Whether this sidecar ends, and this connection with it, as soon as its exchange does.
    pub fn is_ending(&self) -> bool {
        self.worker.drain.is_ending(self.direction())
    }

    /// Waits until [`Client::is_ending`]. Cancel safe.
    pub async fn ending(&self) {
        self.worker.drain.ending(self.direction()).await;
    }

    /// Bytes of one header section that a peer may answer with, counted as [`Client::header_limit`].
    pub fn response_limit(&self, peer: &Peer) -> usize {
        self.worker.config.header_limit + if peer.identity.is_some() { SIDECAR_HEADER_BYTES } else { 0 }
    }

    /// An answer of the table, with the place in it.
    pub fn error(&self, cause: Cause, detail: &str) -> Reply {
        let mut reply = Reply::error(cause, &self.place(), detail);
        if reply.cause.answer().unprocessed && self.peer.is_some() && matches!(self.side, Side::Inbound(_)) {
            reply.headers.push((Reply::UNPROCESSED, "1".to_owned()));
        }
        reply
    }

    /// The policy in force for the next exchange; waits for the first answer of the control plane, but not for ever.
    pub async fn leg(&self) -> Result<Leg, Reply> {
        let deadline = Instant::now() + POLICY_TIMEOUT;
        match &self.side {
            Side::Outbound(target) => match target.known(deadline).await {
                InForce::Policy(policy) => Ok(Leg::Outbound(policy)),
                InForce::Pending => Err(self.error(Cause::PolicyUnknown, "")),
                InForce::Unknown => Err(self.error(Cause::EgressDenied, "")),
            },
            Side::Inbound(target) => match target.known(deadline).await {
                InForce::Policy(policy) => match authorize(policy.policy(), self.peer.as_ref()) {
                    Ok(permit) => Ok(Leg::Inbound(policy, target.app, permit)),
                    Err(denied) => Err(self.error(Cause::PlaintextRefused, &denied.to_string())),
                },
                InForce::Pending => Err(self.error(Cause::PolicyUnknown, "")),
                InForce::Unknown => Err(self.error(Cause::PolicyUnknown, "no policy permits this port")),
            },
        }
    }
}

/// One try at one endpoint.
#[derive(Debug)]
pub struct Attempt {
    /// Where to and who.
    pub peer: Peer,
    /// Bound of connecting.
    pub connect_timeout: Duration,
    /// How long the connection may be kept idle afterwards.
    pub idle_timeout: Duration,
    /// When the try must have ended.
    pub deadline: Option<Instant>,
    /// For how long nothing may move.
    pub idle: Option<Duration>,
    pub(crate) picked: Option<Picked>,
    pub(crate) span: TraceContext,
    pub(crate) begun: Instant,
    /// Whether the application at the endpoint never saw it: what comes is its sidecar's word.
    unseen: bool,
}

impl Attempt {
    /// The response's head is here.
    pub fn responded(&mut self) {
        if let Some(picked) = self.picked.as_mut().filter(|_| !self.unseen) {
            picked.responded(Instant::now());
        }
    }

    /// The try failed after the connection stood.
    pub fn failed(&mut self) {
        if let Some(picked) = &mut self.picked {
            picked.failed(Instant::now());
        }
    }

    /// The client gave up before there was a response.
    pub fn given_up(&mut self) {
        if let Some(picked) = &mut self.picked {
            picked.given_up(Instant::now());
        }
    }

    /// No connection came about.
    pub fn connect_failed(&mut self) {
        if let Some(picked) = &mut self.picked {
            picked.connect_failed(Instant::now());
        }
    }

    /// The connection stands. That of a sidecar says nothing about its application: only a response forgives what failed before.
    pub fn connected(&mut self) {
        if let Some(picked) = self.picked.as_mut().filter(|_| self.peer.identity.is_none()) {
            picked.connected();
        }
    }
}

/// An exchange from its request's head to its end. Dropped without [`Exchange::finish`], it is recorded as given up by the client, or cut
/// by this sidecar's end.
#[derive(Debug)]
pub struct Exchange {
    pub(crate) client: Rc<Client>,
    pub(crate) leg: Leg,
    pub(crate) rule: Option<usize>,
    pub(crate) backend: Option<(usize, usize)>,
    session: Option<u64>,
    origin: Option<String>,
    pub(crate) started: Instant,
    deadline: Option<Instant>,
    pub(crate) trace: TraceContext,
    /// The caller's span; 0: the trace begins here.
    pub(crate) parent: u64,
    pub(crate) tries: u32,
    tried: SmallVec<[SocketAddr; 4]>,
    /// Whether the request may be processed twice.
    repeatable: bool,
    pub(crate) metrics: Option<Rc<ExchangeMetrics>>,
    pub(crate) endpoint: Option<SocketAddr>,
    /// Backends that get a copy of the request.
    pub mirrors: SmallVec<[Rc<WorkerBackend>; 1]>,
    /// The application's gRPC status, where it gave one.
    pub(crate) grpc: Option<u32>,
    pub(crate) finished: bool,
}

impl Exchange {
    /// Begins: reads or makes the trace context and the request id.
    pub fn begin(client: Rc<Client>, leg: Leg, request: &mut impl RequestEdit) -> Self {
        let worker = client.worker.clone();
        let mut rng = worker.rng.borrow_mut();
        let incoming = trace_headers(request).read();
        let caller = TraceContext::begin(&incoming, worker.settings().sampling_ppm, &mut rng);
        let trace = caller.child(&mut rng);
        if request.value("x-request-id").is_none() {
            request.set("x-request-id", &request_id(&mut rng));
        }
        if trace.formats.b3_multi {
            // It names the caller's parent, which is not ours.
            request.remove("x-b3-parentspanid");
        }
        if !incoming.keeps_tracestate() {
            // Meaningless without the traceparent that it came with (Trace Context §3.3).
            request.remove("tracestate");
        }
        for (name, value) in trace.headers() {
            request.set(name, value.as_bytes());
        }
        drop(rng);
        let started = Instant::now();
        worker.busy_poll.touch(started);
        Self {
            client,
            leg,
            rule: None,
            backend: None,
            session: None,
            origin: None,
            started,
            deadline: None,
            trace,
            parent: caller.parent,
            tries: 0,
            tried: SmallVec::new(),
            repeatable: false,
            metrics: None,
            endpoint: None,
            mirrors: SmallVec::new(),
            grpc: None,
            finished: false,
        }
    }

    fn outbound(&self) -> Option<&Rc<WorkerOutbound>> {
        match &self.leg {
            Leg::Outbound(policy) => Some(policy),
            Leg::Inbound(..) => None,
        }
    }

    fn matched_rule(&self) -> Option<&Rule> {
        self.outbound()?.policy().http.rules().get(self.rule?)
    }

    fn reference(&self) -> Option<&RouteBackend> {
        self.matched_rule()?.backends.get(self.backend?.0)
    }

    pub(crate) fn worker_backend(&self) -> Option<&Rc<WorkerBackend>> {
        self.outbound()?.backend(self.backend?.1)
    }

    fn retry_policy(&self) -> Option<&RetryPolicy> {
        Some(&self.matched_rule()?.retry)
    }

    /// The object that decided, for answers and logs.
    pub fn decided_by(&self) -> String {
        self.matched_rule().map(|r| r.source.to_string()).unwrap_or_default()
    }

    /// Finds the rule, applies its filters and chooses the backend; or gives the answer that a filter or a refusal makes.
    pub fn route(&mut self, request: &mut impl RequestEdit) -> Result<(), Box<Reply>> {
        let Some(policy) = self.outbound().cloned() else {
            return Ok(());
        };
        let Some(matched) = policy.policy().http.find(request) else {
            let detail = format!(
                "{} {} on {}; rules tried: {}",
                request.method(),
                request.path(),
                policy.service(),
                policy.policy().http.rules().len()
            );
            return Err(Box::new(self.client.error(Cause::NoRoute, &detail)));
        };
        self.rule = Some(matched.index);
        self.repeatable = matched.rule.retry.allows(request.method());
        let Timeouts { request: request_timeout, attempt: _, idle: _, source: _ } = matched.rule.timeouts;
        self.deadline = request_timeout.map(|t| self.started + t);
        self.apply(&matched.rule.filters, &matched, request, &policy)?;
        let reference = self.choose(matched.rule, request, &policy)?;
        self.apply(&reference.filters, &matched, request, &policy)
    }

    /// Applies filters of a rule or of a backend reference, in order.
    fn apply(
        &mut self,
        filters: &[Filter],
        matched: &Matched<'_>,
        request: &mut impl RequestEdit,
        policy: &WorkerOutbound,
    ) -> Result<(), Box<Reply>> {
        for applied in filters {
            match applied {
                Filter::RequestHeaders(edits) => crate::message::edit_request(request, edits),
                Filter::ResponseHeaders(_) => {}
                Filter::Rewrite(rewrite) => filter::rewrite(rewrite, matched.prefix(), request),
                Filter::Redirect(redirect) => {
                    return Err(Box::new(filter::redirect(redirect, matched.prefix(), request, policy.policy().service.as_ref())));
                }
                Filter::Cors(cors) => {
                    self.origin = request.value("origin").and_then(|o| std::str::from_utf8(o).ok()).map(str::to_owned);
                    if let Some(reply) = filter::preflight(cors, request) {
                        return Err(Box::new(reply));
                    }
                }
                Filter::Mirror(mirror) => {
                    let chosen = self.client.worker.rng.borrow_mut().u32(0..mirror.denominator) < mirror.numerator;
                    if let (true, BackendTarget::Backend(index)) = (chosen, &mirror.backend.target) {
                        self.mirrors.extend(policy.backend(*index).cloned());
                    }
                }
                Filter::Fail { status, message } => {
                    let mut reply = self.client.error(Cause::InvalidFilter, &format!("{}: {message}", matched.rule.source));
                    reply.status = *status;
                    return Err(Box::new(reply));
                }
            }
        }
        Ok(())
    }

    fn choose<'r>(&mut self, rule: &'r Rule, request: &impl RequestEdit, policy: &WorkerOutbound) -> Result<&'r RouteBackend, Box<Reply>> {
        if let Some(persistence) = &rule.session_persistence
            && let Some(session) = filter::session(persistence, request, heddle_identity::unix_now())
            && let Some(found) = rule.backends.iter().enumerate().find_map(|(at, reference)| match reference.target {
                BackendTarget::Backend(index) if reference.weight > 0 => policy.backend(index)?.pick_session(session).map(|_| (at, index)),
                BackendTarget::Backend(_) | BackendTarget::Invalid { .. } => None,
            })
        {
            self.session = Some(session);
            self.backend = Some(found);
            return Ok(&rule.backends[found.0]);
        }
        let chosen = policy.choose(&rule.backends, &mut self.client.worker.rng.borrow_mut());
        match chosen {
            Some((at, BackendTarget::Backend(index))) => {
                self.backend = Some((at, *index));
                Ok(&rule.backends[at])
            }
            Some((_, BackendTarget::Invalid { status, message })) => {
                let mut reply = self.client.error(Cause::InvalidBackend, &format!("{}: {message}", rule.source));
                reply.status = *status;
                Err(Box::new(reply))
            }
            None => {
                let detail = format!("{}: no backend has a weight", rule.source);
                Err(Box::new(self.client.error(Cause::InvalidBackend, &detail)))
            }
        }
    }

    /// Chooses where the next try goes, and writes its trace headers into the request.
    pub fn attempt(&mut self, request: &mut impl RequestEdit) -> Result<Attempt, Box<Reply>> {
        let now = Instant::now();
        self.tries += 1;
        let policy = match &self.leg {
            Leg::Inbound(policy, app, Permit { .. }) => {
                let (handle, app, inbound_idle) = (policy.handle(self.client.peer.is_some()), *app, policy.policy().idle);
                self.count(handle);
                return Ok(Attempt {
                    peer: Peer { address: app, identity: None },
                    connect_timeout: APP_CONNECT_TIMEOUT,
                    idle_timeout: APP_IDLE_TIMEOUT,
                    deadline: None,
                    idle: inbound_idle,
                    picked: None,
                    span: self.trace,
                    begun: now,
                    unseen: false,
                });
            }
            Leg::Outbound(policy) => policy.clone(),
        };
        let Some((_, index)) = self.backend else {
            return Err(Box::new(self.client.error(Cause::InvalidBackend, &self.decided_by())));
        };
        let Some(backend) = policy.backend(index).cloned() else {
            return Err(Box::new(self.client.error(Cause::InvalidBackend, &self.decided_by())));
        };
        let worker = self.client.worker.clone();
        let session = self.session.filter(|_| self.tries == 1).and_then(|s| backend.pick_session(s));
        let picked = session.or_else(|| backend.pick(now, &mut worker.rng.borrow_mut(), &self.tried));
        let Some(picked) = picked else {
            self.count(policy.handle(self.rule, Some(index), None, false));
            let detail = format!("{} ({})", backend.key, self.decided_by());
            return Err(Box::new(self.client.error(Cause::NoEndpoints, &detail)));
        };
        let endpoint = picked.endpoint();
        let peer = Peer::of(endpoint, &worker);
        self.count(policy.handle(self.rule, Some(index), endpoint.version.as_deref(), peer.identity.is_some()));
        if self.tries == 1 {
            backend.first_try(now);
        }
        self.tried.push(peer.address);
        self.endpoint = Some(peer.address);
        let span = self.trace.child(&mut worker.rng.borrow_mut());
        for (name, value) in span.headers() {
            request.set(name, value.as_bytes());
        }
        let limit = self.matched_rule().and_then(|r| r.timeouts.attempt).map(|t| now + t);
        let deadline = match (limit, self.deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        let config = backend.config();
        Ok(Attempt {
            peer,
            connect_timeout: deadline.map_or(config.connect_timeout, |d| config.connect_timeout.min(d.saturating_duration_since(now))),
            idle_timeout: config.http1_idle_timeout,
            deadline,
            idle: self.matched_rule().and_then(|r| r.timeouts.idle),
            picked: Some(picked),
            span,
            begun: now,
            unseen: false,
        })
    }

    /// Takes back the last attempt, which the endpoint never saw: it does not count as a try.
    pub fn forget_attempt(&mut self) {
        self.tries -= 1;
        self.tried.pop();
    }

    /// Counts the exchange as in flight under these labels; a retry may move it.
    fn count(&mut self, handle: Rc<ExchangeMetrics>) {
        if self.metrics.as_ref().is_some_and(|m| Rc::ptr_eq(m, &handle)) {
            return;
        }
        if let Some(before) = self.metrics.take() {
            before.abandon();
        }
        handle.start();
        self.metrics = Some(handle);
    }

    /// Notes that no connection came about, and says why: by the endpoint's fault, or because the exchange has no more time for it.
    pub fn connect_failed(&self, attempt: &mut Attempt, error: &ConnectError) -> Cause {
        if attempt.deadline.is_some_and(|d| d <= Instant::now()) {
            attempt.given_up();
            return self.timed_out(Expired::Deadline);
        }
        attempt.connect_failed();
        error.cause()
    }

    /// Whether a request may be processed twice: its method is idempotent (RFC 9110 §9.2.2), or the policy says so.
    pub fn is_repeatable(&self, request: &impl RequestEdit) -> bool {
        self.repeatable || RetryPolicy::default().allows(request.method())
    }

    /// Which timeout it is that ran out: the idle one, the whole request's, or the attempt's.
    pub fn timed_out(&self, expired: Expired) -> Cause {
        if expired == Expired::Idle {
            return Cause::IdleTimeout;
        }
        if self.deadline.is_some_and(|d| d <= Instant::now()) { Cause::RequestTimeout } else { Cause::AttemptTimeout }
    }

    /// Whether to try again after a failed attempt, and how long to wait before.
    ///
    /// `unprocessed`: the endpoint provably did not work on it; `replayable`: the whole request can be sent again.
    pub fn retry_failure(&mut self, cause: Cause, unprocessed: bool, replayable: bool) -> Option<Duration> {
        if matches!(self.leg, Leg::Inbound(..)) {
            // The application ended a kept connection before it began on the request: once more, on another one.
            return (cause == Cause::Reset && unprocessed && replayable && self.tries == 1).then_some(Duration::ZERO);
        }
        let retry = self.retry_policy()?;
        let by_policy = retry.source.is_some() && self.repeatable;
        let allowed = !matches!(cause, Cause::RequestTimeout | Cause::ClientGone) && (unprocessed || by_policy);
        (allowed && replayable).then(|| self.again(unprocessed))?
    }

    /// Whether to try again after such a response, and how long to wait before.
    pub fn retry_response(&mut self, status: u16, grpc: Option<u32>, replayable: bool) -> Option<Duration> {
        let retry = self.retry_policy()?;
        let failed = retry.statuses.binary_search(&status).is_ok() || grpc.is_some_and(|g| retry.grpc_codes.binary_search(&g).is_ok());
        (failed && replayable && (self.repeatable || grpc.is_some())).then(|| self.again(false))?
    }

    fn again(&mut self, unprocessed: bool) -> Option<Duration> {
        let retry = self.retry_policy()?;
        if self.tries > retry.attempts {
            return None;
        }
        let worker = &self.client.worker;
        // An endpoint that was not reached says nothing about another one: no reason to wait for the first further try.
        let delay =
            if unprocessed && self.tries == 1 { Duration::ZERO } else { retry.backoff.delay(self.tries, worker.rng.borrow_mut().f64()) };
        let now = Instant::now();
        if self.deadline.is_some_and(|d| now + delay >= d) {
            return None;
        }
        if !self.worker_backend()?.may_retry(now) {
            worker.metrics.budget_exhausted();
            return None;
        }
        worker.metrics.retry(if unprocessed { "unprocessed" } else { "policy" });
        Some(delay)
    }

    /// Whether to try again because the other sidecar says that its application never saw the request, and how long to wait before.
    pub fn retry_unprocessed(&mut self, attempt: &mut Attempt, response: &impl ResponseEdit, replayable: bool) -> Option<Duration> {
        if attempt.peer.identity.is_none() || response.value(Reply::UNPROCESSED).is_none() {
            return None;
        }
        attempt.unseen = true;
        attempt.connect_failed();
        self.retry_failure(Cause::ConnectFailed, true, replayable)
    }

    /// Applies the rule's and the backend's filters to the response.
    pub fn edit_response(&mut self, response: &mut impl ResponseEdit) {
        response.remove(Reply::UNPROCESSED);
        let filters = self.matched_rule().map_or(&[][..], |r| &r.filters);
        let of_backend = self.reference().map_or(&[][..], |r| &r.filters);
        for applied in filters.iter().chain(of_backend) {
            match applied {
                Filter::ResponseHeaders(edits) => {
                    let edits: &HeaderEdits = edits;
                    edit_response(response, edits);
                }
                Filter::Cors(cors) => {
                    let cors: &Cors = cors;
                    filter::cors(cors, self.origin.as_deref(), response);
                }
                Filter::RequestHeaders(_) | Filter::Redirect(_) | Filter::Rewrite(_) | Filter::Mirror(_) | Filter::Fail { .. } => {}
            }
        }
        if let Some(persistence) = self.matched_rule().and_then(|r| r.session_persistence.as_ref()) {
            self.offer_session(persistence, response);
        }
    }

    fn offer_session(&self, persistence: &SessionPersistence, response: &mut impl ResponseEdit) {
        let Some((backend, address)) = self.worker_backend().zip(self.endpoint) else {
            return;
        };
        let session = backend.session_of(address);
        if session.is_some() && session != self.session {
            filter::offer_session(persistence, session.unwrap_or_default(), heddle_identity::unix_now(), response);
        }
    }

    /// Records the end of an attempt.
    pub fn attempt_ended(&self, attempt: &Attempt, request: &impl RequestEdit, status: Option<u16>, cause: Cause) {
        self.client.worker.metrics.attempt(cause.flag());
        if self.trace.sampled && attempt.picked.is_some() {
            record::attempt(self, attempt, request, status, cause);
        }
    }

    /// Records the end. `bytes` are those of the bodies, request and response.
    pub fn finish(mut self, request: &impl RequestEdit, status: u16, cause: Cause, bytes: (u64, u64)) {
        self.finished = true;
        record::exchange(&self, Some(request as &dyn record::Described), status, cause, bytes);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.finished {
            let cause = self.client.worker.cut();
            record::exchange(self, None, cause.answer().status, cause, (0, 0));
        }
    }
}

/// A random UUID (RFC 9562, version 4), as text.
fn request_id(rng: &mut fastrand::Rng) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = rng.u128(..) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = HEX[(random >> shift & 0xf) as usize];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_a_random_uuid() {
        let text = String::from_utf8(request_id(&mut fastrand::Rng::with_seed(1)).to_vec()).unwrap();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4");
        assert!("89ab".contains(&text[19..20]), "{text}");
    }
}
