//! The record of an exchange: metrics always, a span when the trace is sampled, a log line when it is wanted. Exactly one each.

use crate::access_log;
use crate::balance::Picked;
use crate::cause::Cause;
use crate::exchange::{Attempt, Client, Exchange, Leg, Side};
use crate::forward::Copied;
use crate::message::{Reply, RequestEdit};
use crate::metrics::{Direction, TcpLabels, TcpMetrics};
use crate::policy::{WorkerBackend, WorkerInbound, WorkerOutbound};
use crate::telemetry::{SpanAttributes, SpanKind, SpanRecord, SpanStatus};
use crate::worker::Worker;
use heddle_model::{Endpoint, SpiffeId};
use std::borrow::Cow;
use std::rc::Rc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// What spans and log lines say of a request.
pub trait Described {
    /// The method.
    fn described_method(&self) -> &str;
    /// The path, without query.
    fn described_path(&self) -> &str;
    /// The authority.
    fn described_authority(&self) -> Option<&str>;
    /// `HTTP/1.1`.
    fn described_protocol(&self) -> &'static str;
    /// The request's id.
    fn described_id(&self) -> Option<&str>;
}

impl<T: RequestEdit> Described for T {
    fn described_method(&self) -> &str {
        self.method()
    }
    fn described_path(&self) -> &str {
        self.path()
    }
    fn described_authority(&self) -> Option<&str> {
        self.authority_text()
    }
    fn described_protocol(&self) -> &'static str {
        self.protocol_name()
    }
    fn described_id(&self) -> Option<&str> {
        self.value("x-request-id").and_then(|v| std::str::from_utf8(v).ok())
    }
}

/// Records the end of an HTTP exchange.
pub fn exchange(exchange: &Exchange, request: Option<&dyn Described>, status: u16, cause: Cause, bytes: (u64, u64)) {
    let now = Instant::now();
    let duration = now.duration_since(exchange.started);
    let worker = &exchange.client.worker;
    let counted = exchange.grpc.map_or(status, http_status_of_grpc);
    match &exchange.metrics {
        Some(metrics) => metrics.finish(counted, cause, duration, bytes.0, bytes.1),
        None => {
            // It ended before an endpoint was chosen.
            let handle = match &exchange.leg {
                Leg::Outbound(policy) => policy.handle(exchange.rule, exchange.backend.map(|b| b.1), None, false),
                Leg::Inbound(policy, ..) => policy.handle(exchange.client.peer.is_some()),
            };
            handle.start();
            handle.finish(counted, cause, duration, bytes.0, bytes.1);
        }
    }
    if exchange.trace.sampled && worker.spans.is_active() {
        worker.spans.try_send(leg_span(exchange, request, status, cause, duration));
    }
    if worker.access_log.wants(cause, now) {
        worker.access_log.try_send(log_record(exchange, request, status, cause, duration, bytes));
    }
}

/// Records an answer to what never became an exchange.
pub fn refused(client: &Client, reply: &Reply) {
    let worker = &client.worker;
    let handle = match &client.side {
        Side::Outbound(target) => match target.current(Instant::now()) {
            crate::policy::InForce::Policy(policy) => Some(policy.handle(None, None, None, false)),
            crate::policy::InForce::Pending | crate::policy::InForce::Unknown => None,
        },
        Side::Inbound(target) => match target.current() {
            crate::policy::InForce::Policy(policy) => Some(policy.handle(client.peer.is_some())),
            crate::policy::InForce::Pending | crate::policy::InForce::Unknown => None,
        },
    };
    let handle = handle.unwrap_or_else(|| {
        worker.metrics.exchange(crate::metrics::ExchangeLabels {
            direction: direction(&client.side),
            service: "unknown",
            route: "none",
            backend: "none",
            version: "none",
            mtls: client.peer.is_some(),
        })
    });
    handle.start();
    handle.finish(reply.status, reply.cause, Duration::ZERO, 0, 0);
    if worker.access_log.wants(reply.cause, Instant::now()) {
        worker.access_log.try_send(access_log::Record {
            ended_unix_nanos: unix_nanos(Duration::ZERO),
            direction: direction(&client.side),
            protocol: "HTTP",
            method: String::new(),
            authority: String::new(),
            path: String::new(),
            status: reply.status,
            cause: reply.cause,
            route: String::new(),
            backend: String::new(),
            endpoint: None,
            attempts: 0,
            duration: Duration::ZERO,
            request_bytes: 0,
            response_bytes: 0,
            peer: client.peer.as_ref().map(|p| p.id().to_string()).unwrap_or_default(),
            trace_id: 0,
            request_id: String::new(),
        });
    }
}

fn direction(side: &Side) -> Direction {
    match side {
        Side::Outbound(_) => Direction::Outbound,
        Side::Inbound(_) => Direction::Inbound,
    }
}

fn direction_name(side: &Side) -> &'static str {
    match side {
        Side::Outbound(_) => "outbound",
        Side::Inbound(_) => "inbound",
    }
}

/// The HTTP status that says the same as a gRPC status (`google.rpc.Code`), so that a failed call is no success in metrics.
fn http_status_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Nanoseconds since 1970 of a moment so long ago.
fn unix_nanos(ago: Duration) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "spans carry wall time; the only place that makes it")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.saturating_sub(ago).as_nanos()).unwrap_or(u64::MAX)
}

fn status_of(status: u16, cause: Cause, server: bool) -> SpanStatus {
    // Semantic conventions: a server's 4xx is the client's error, not the server's.
    let failed = !matches!(cause, Cause::None | Cause::Filter) || status >= 500 || (!server && status >= 400);
    if failed { SpanStatus::Error(Cow::Borrowed(cause.answer().text)) } else { SpanStatus::Unset }
}

fn attributes(exchange: &Exchange, request: Option<&dyn Described>, status: u16, cause: Cause) -> SpanAttributes {
    let failed = !matches!(cause, Cause::None | Cause::Filter);
    let route = exchange.decided_by();
    SpanAttributes {
        method: request.map(|r| Cow::Owned(r.described_method().to_owned())),
        status_code: Some(status),
        grpc_status: exchange.grpc,
        path: request.map(|r| r.described_path().to_owned()),
        server_address: request.and_then(|r| r.described_authority()).map(str::to_owned),
        direction: Some(direction_name(&exchange.client.side)),
        route: (!route.is_empty()).then_some(route),
        backend: exchange.worker_backend().map(|b| b.key.clone()),
        peer: exchange.client.peer.as_ref().map(|p| p.id().to_string()),
        error_type: failed.then(|| Cow::Borrowed(cause.flag())),
        ..SpanAttributes::default()
    }
}

/// The span of the leg: server on the way in, and on the way out what the attempts hang from.
fn leg_span(exchange: &Exchange, request: Option<&dyn Described>, status: u16, cause: Cause, duration: Duration) -> SpanRecord {
    let inbound = matches!(exchange.client.side, Side::Inbound(_));
    let end = unix_nanos(Duration::ZERO);
    let route = exchange.decided_by();
    let name = if route.is_empty() { request.map_or("unknown", |r| r.described_method()).to_owned() } else { route };
    SpanRecord {
        trace_id: exchange.trace.trace_id,
        span_id: exchange.trace.parent,
        parent_id: exchange.parent,
        kind: if inbound { SpanKind::Server } else { SpanKind::Internal },
        name: name.into(),
        start_unix_nanos: end.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        end_unix_nanos: end,
        attributes: attributes(exchange, request, status, cause),
        status: status_of(exchange.grpc.map_or(status, http_status_of_grpc), cause, inbound),
    }
}

/// Records one attempt of a sampled trace.
pub fn attempt(exchange: &Exchange, attempt: &Attempt, request: &dyn Described, status: Option<u16>, cause: Cause) {
    let worker = &exchange.client.worker;
    if !worker.spans.is_active() {
        return;
    }
    let end = unix_nanos(Duration::ZERO);
    let duration = Instant::now().duration_since(attempt.begun);
    let code = status.unwrap_or_default();
    worker.spans.try_send(SpanRecord {
        trace_id: exchange.trace.trace_id,
        span_id: attempt.span.parent,
        parent_id: exchange.trace.parent,
        kind: SpanKind::Client,
        name: exchange.worker_backend().map_or_else(|| "attempt".to_owned(), |b| b.key.clone()).into(),
        start_unix_nanos: end.saturating_sub(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        end_unix_nanos: end,
        attributes: SpanAttributes {
            status_code: status,
            peer_address: Some(attempt.peer.address),
            peer: attempt.peer.identity.as_ref().map(ToString::to_string),
            attempt: Some(exchange.tries),
            ..attributes(exchange, Some(request), code, cause)
        },
        status: status_of(code, cause, false),
    });
}

fn log_record(
    exchange: &Exchange,
    request: Option<&dyn Described>,
    status: u16,
    cause: Cause,
    duration: Duration,
    bytes: (u64, u64),
) -> access_log::Record {
    let text = |value: Option<&str>| value.map(str::to_owned).unwrap_or_default();
    access_log::Record {
        ended_unix_nanos: unix_nanos(Duration::ZERO),
        direction: direction(&exchange.client.side),
        protocol: request.map_or("HTTP", |r| r.described_protocol()),
        method: text(request.map(|r| r.described_method())),
        authority: text(request.and_then(|r| r.described_authority())),
        path: text(request.map(|r| r.described_path())),
        status,
        cause,
        route: exchange.decided_by(),
        backend: text(exchange.worker_backend().map(|b| b.key.as_str())),
        endpoint: exchange.endpoint,
        attempts: exchange.tries,
        duration,
        request_bytes: bytes.0,
        response_bytes: bytes.1,
        peer: exchange.client.peer.as_ref().map(|p| p.id().to_string()).unwrap_or_default(),
        trace_id: exchange.trace.trace_id,
        request_id: text(request.and_then(|r| r.described_id())),
    }
}

/// The record of an opaque connection. Dropped without [`Tcp::finish`], it counts as given up by the client.
#[derive(Debug)]
pub struct Tcp {
    worker: Rc<Worker>,
    direction: Direction,
    service: String,
    source: String,
    peer: Option<String>,
    backend: Option<Rc<WorkerBackend>>,
    endpoint: Option<std::net::SocketAddr>,
    picked: Option<Picked>,
    metrics: Option<Rc<TcpMetrics>>,
    mtls: bool,
    started: Instant,
    finished: bool,
}

impl Tcp {
    /// Of a connection to a destination.
    pub fn outbound(worker: &Rc<Worker>, policy: &WorkerOutbound, started: Instant) -> Self {
        Self {
            worker: worker.clone(),
            direction: Direction::Outbound,
            service: policy.service().to_owned(),
            source: policy.policy().tcp_source.as_ref().map(ToString::to_string).unwrap_or_default(),
            peer: None,
            backend: None,
            endpoint: None,
            picked: None,
            metrics: None,
            mtls: false,
            started,
            finished: false,
        }
    }

    /// Of a connection to the application.
    pub fn inbound(worker: &Rc<Worker>, policy: Option<&WorkerInbound>, peer: Option<&SpiffeId>, started: Instant) -> Self {
        let mut record = Self {
            worker: worker.clone(),
            direction: Direction::Inbound,
            service: policy.map_or("unknown", WorkerInbound::service).to_owned(),
            source: String::new(),
            peer: peer.map(ToString::to_string),
            backend: None,
            endpoint: None,
            picked: None,
            metrics: None,
            mtls: peer.is_some(),
            started,
            finished: false,
        };
        record.count(None);
        record
    }

    /// Names the endpoint that is tried.
    pub fn to(&mut self, backend: &Rc<WorkerBackend>, endpoint: &Endpoint) {
        self.backend = Some(backend.clone());
        self.endpoint = Some(endpoint.address);
        self.mtls = endpoint.identity.is_some();
        self.count(endpoint.version.as_deref());
    }

    /// Keeps the endpoint's load counted until the record ends.
    pub fn hold(&mut self, picked: Picked) {
        self.picked = Some(picked);
    }

    fn count(&mut self, version: Option<&str>) {
        let metrics = self.worker.metrics.tcp(TcpLabels {
            direction: self.direction,
            service: &self.service,
            backend: self.backend.as_ref().map_or("none", |b| &b.key),
            version: version.unwrap_or("none"),
            mtls: self.mtls,
        });
        if let Some(before) = self.metrics.take() {
            before.abandon();
        }
        metrics.start();
        self.metrics = Some(metrics);
    }

    /// Counts bytes as they pass: a connection may last for days.
    pub fn passed(&self, sent: u64, received: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.transferred(sent, received);
        }
    }

    /// It turned out to carry HTTP: its requests have records of their own.
    pub fn cancel(mut self) {
        self.finished = true;
        if let Some(metrics) = self.metrics.take() {
            metrics.abandon();
        }
    }

    /// Records the end.
    pub fn finish(mut self, copied: Copied) {
        self.end(copied);
    }

    fn end(&mut self, Copied { sent, received, cause }: Copied) {
        if self.finished {
            return;
        }
        self.finished = true;
        let duration = Instant::now().duration_since(self.started);
        if self.metrics.is_none() {
            self.count(None);
        }
        if let Some(metrics) = self.metrics.take() {
            metrics.finish(cause, duration);
        }
        if self.worker.access_log.wants(cause, Instant::now()) {
            self.worker.access_log.try_send(access_log::Record {
                ended_unix_nanos: unix_nanos(Duration::ZERO),
                direction: self.direction,
                protocol: "TCP",
                method: String::new(),
                authority: String::new(),
                path: String::new(),
                status: 0,
                cause,
                route: std::mem::take(&mut self.source),
                backend: self.backend.as_ref().map(|b| b.key.clone()).unwrap_or_default(),
                endpoint: self.endpoint,
                attempts: 1,
                duration,
                request_bytes: sent,
                response_bytes: received,
                peer: self.peer.take().unwrap_or_default(),
                trace_id: 0,
                request_id: String::new(),
            });
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.end(Copied { sent: 0, received: 0, cause: self.worker.cut() });
    }
}
