//! The admin server, on loopback: `/metrics`, `/ready`, `/live`, `/config`, and `POST /drain`.
//!
//! It asks nobody who they are, so it refuses requests whose `Host` is not a loopback name: a web page that resolves its own name to
//! 127.0.0.1 (DNS rebinding) reaches nothing.

mod view;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::discover::{Discovery, Known, ResolvedInbound};
use crate::drain::{Drain, Phase};
use heddle_identity::{TlsContext, unix_now};
use http::header::{ALLOW, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Scrapers, probes and a person or two.
const CONNECTIONS_MAX: usize = 64;
/// Heads of such requests are small.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A client that is slower than this over its head is given up.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// And so is one that keeps a connection longer, asking or not: a scraper connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// A pause after the listener failed (no descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// `metrics` gathers those of all threads; it is called for each scrape.
    #[must_use]
    pub fn new(
        config: &Config,
        metrics: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
        context: watch::Receiver<Option<Arc<TlsContext>>>,
        discovery: Discovery,
        drain: Drain,
    ) -> Self {
        let ports: BTreeSet<u16> = config.inbound.iter().map(|listener| listener.port).collect();
        // Held for the life of the process: these are asked for at once, and never given up.
        let inbound = ports.into_iter().map(|port| (port, discovery.inbound(port))).collect();
        let workload = Workload {
            namespace: config.namespace.clone(),
            name: config.workload.clone(),
            service_account: config.service_account.clone(),
        };
        Self { shared: Arc::new(Shared { metrics: Box::new(metrics), workload, context, inbound, discovery, drain }) }
    }

    /// Why traffic must not come now; empty: it may.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let Shared { context, inbound, drain, .. } = &*self.shared;
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
        reasons
    }

    /// Serves until `ended`; open connections are then closed. Cancel safe in the same way.
    pub async fn serve(self, listener: TcpListener, ended: impl Future<Output = ()>) {
        let mut ended = pin!(ended);
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            // The slot first: what is not accepted waits in the kernel's queue, which is bounded as well.
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
                let (stream, _) = listener.accept().await?;
                Ok::<_, io::Error>((slot, stream))
            };
            tokio::select! {
                () = &mut ended => return,
                accepted = accepted => match accepted {
                    Ok((slot, stream)) => {
                        let admin = self.clone();
                        connections.spawn(async move {
                            admin.connection(stream).await;
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin server cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Finished ones are taken away, so that the set does not grow.
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(self.answer(&request))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // A client that breaks off, or takes for ever, is its own loss.
        let _ = timeout(CONNECTION_TIMEOUT, connection).await;
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
            "/metrics" if get => self.metrics(),
            "/live" if get => text(StatusCode::OK, "live\n"),
            "/ready" if get => match self.not_ready().join("\n") {
                reasons if reasons.is_empty() => text(StatusCode::OK, "ready\n"),
                reasons => text(StatusCode::SERVICE_UNAVAILABLE, reasons + "\n"),
            },
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

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
