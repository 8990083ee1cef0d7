//! The admin server, on loopback: `/metrics`, `/ready`, `/live`, `/config`, and `POST /drain`.
//!
//! It asks nobody who they are, so it refuses requests whose `Host` is not a loopback name: a web page that resolves its own name to
//! 127.0.0.1 (DNS rebinding) reaches nothing.

pub(crate) mod server;
mod view;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::discover::{Discovery, Known, ResolvedInbound};
use crate::drain::{Drain, Phase};
use crate::intercept::check::Check;
use heddle_identity::{TlsContext, unix_now};
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

const PATHS: &str = "\
/metrics      metrics, Prometheus text format
/ready        200 when traffic may come, 503 with the reasons when not
/live         200 while the process is well
/config       what is in force, with the objects it came from (JSON)
/drain        POST: ends the sidecar gracefully
";

/// What the server shows.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Box<dyn Fn() -> Vec<MetricFamily> + Send + Sync>,
    workload: Workload,
    context: watch::Receiver<Option<Arc<TlsContext>>>,
    inbound: Vec<(u16, watch::Receiver<Known<ResolvedInbound>>)>,
    /// The answer for a port that the application cannot have, where connections are intercepted: it says whether the control plane knows
    /// the pod.
    pod: Option<watch::Receiver<Known<ResolvedInbound>>>,
    check: Option<Arc<Check>>,
    discovery: Discovery,
    drain: Drain,
}

/// Whose sidecar it is.
#[derive(Debug, Clone)]
struct Workload {
    namespace: String,
    name: String,
    service_account: String,
}

impl Admin {
    /// `metrics` gathers those of all threads; it is called for each scrape. `check` is there where connections are intercepted.
    #[must_use]
    pub fn new(
        config: &Config,
        metrics: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
        context: watch::Receiver<Option<Arc<TlsContext>>>,
        discovery: Discovery,
        drain: Drain,
        check: Option<Arc<Check>>,
    ) -> Self {
        let ports: BTreeSet<u16> = config.inbound.iter().map(|listener| listener.port).chain(config.pod.inbound_ports.clone()).collect();
        // Held for the life of the process: these are asked for at once, and never given up.
        let inbound = ports.into_iter().map(|port| (port, discovery.inbound(port))).collect();
        let pod = config.inbound_intercept.filter(|intercept| intercept.port() != 0).map(|intercept| discovery.inbound(intercept.port()));
        let workload = Workload {
            namespace: config.namespace.clone(),
            name: config.workload.clone(),
            service_account: config.service_account.clone(),
        };
        Self { shared: Arc::new(Shared { metrics: Box::new(metrics), workload, context, inbound, pod, check, discovery, drain }) }
    }

    /// Why traffic must not come now; empty: it may.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let Shared { context, inbound, pod, check, drain, .. } = &*self.shared;
        let mut reasons = Vec::new();
        match drain.phase() {
            Phase::Serving => {}
            Phase::LameDuck | Phase::Draining | Phase::Leaving | Phase::Deadline => reasons.push("the sidecar is ending".to_owned()),
        }
        match &*context.borrow() {
            None => reasons.push("the certificate has not come yet".to_owned()),
            Some(context) if context.certificate().remaining(unix_now()).is_zero() => {
                reasons.push(format!("the certificate has expired at {} (Unix seconds)", context.certificate().not_after()));
            }
            Some(_) => {}
        }
        for (port, known) in inbound {
            match &*known.borrow() {
                Known::Pending => reasons.push(format!("the policy of inbound port {port} has not come yet")),
                Known::Unknown => reasons.push(format!("the control plane does not know inbound port {port} of this workload")),
                Known::Policy(_) => {}
            }
        }
        match pod.as_ref().map(|known| known.borrow().clone()) {
            Some(Known::Pending) => reasons.push("the control plane has not answered for this pod yet".to_owned()),
            Some(Known::Unknown) => reasons.push("the control plane does not know this pod yet".to_owned()),
            Some(Known::Policy(_)) | None => {}
        }
        reasons.extend(check.as_ref().and_then(|check| check.failure()));
        reasons
    }

    /// Serves until `ended`; open connections are then closed. Cancel safe in the same way.
    pub async fn serve(self, listener: TcpListener, ended: impl Future<Output = ()>) {
        server::serve(listener, ended, move |request| std::future::ready(Some(self.answer(&request)))).await;
    }

    /// A page that anybody may see; `None`: it is none of them.
    pub(crate) fn public(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        match path {
            "/metrics" => Some(self.metrics()),
            "/live" => Some(text(StatusCode::OK, "live\n")),
            "/ready" => Some(match self.not_ready().join("\n") {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n"),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons + "\n"),
            }),
            _ => None,
        }
    }

    /// Bodies are never read: hyper closes the connection of a client that sends one.
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !host_is_loopback(request) {
            return text(StatusCode::FORBIDDEN, "the admin server answers to loopback names only, such as Host: localhost\n");
        }
        if request.body().size_hint().lower() > 0 {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body\n");
        }
        let get = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/" if get => text(StatusCode::OK, PATHS),
            path @ ("/metrics" | "/live" | "/ready") if get => self.public(path).unwrap_or_else(|| text(StatusCode::NOT_FOUND, PATHS)),
            "/config" if get => self.config(),
            "/drain" if request.method() == Method::POST => {
                self.shared.drain.request();
                text(StatusCode::ACCEPTED, "draining\n")
            }
            "/drain" => method_not_allowed("POST"),
            "/" | "/metrics" | "/live" | "/ready" | "/config" => method_not_allowed("GET, HEAD"),
            _ => text(StatusCode::NOT_FOUND, PATHS),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut out = Vec::new();
        match TextEncoder::new().encode(&(self.shared.metrics)(), &mut out) {
            Ok(()) => with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", out),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")),
        }
    }

    fn config(&self) -> Response<Full<Bytes>> {
        let Shared { workload, context, discovery, drain, .. } = &*self.shared;
        let context = context.borrow().clone();
        let view = view::config(workload, context.as_deref(), unix_now(), &discovery.inventory(), drain.phase());
        with_type(StatusCode::OK, "application/json", format!("{view:#}\n"))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("workload", &self.shared.workload).finish_non_exhaustive()
    }
}

/// Whether every host that the request names is this machine. HTTP/1.0 may name none; browsers speak HTTP/1.1 and always do.
fn host_is_loopback(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(is_loopback_authority),
        (None, _) => request.version() == Version::HTTP_10,
        (Some(_), Some(_)) => false,
    };
    named && request.uri().authority().is_none_or(|authority| is_loopback_authority(authority.as_str()))
}

/// `localhost`, an address of 127.0.0.0/8, or `[::1]`, with or without a port.
fn is_loopback_authority(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        Some(_) | None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn method_not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
