//! The admin endpoints, for probes, Prometheus and people: `/live`, `/ready`, `/metrics`, `/status`.
//!
//! They are served twice: all of them on a loopback address, and those that tell nothing of the configuration to everybody who reaches the
//! pod, for the kubelet and Prometheus.

use crate::ca::Chain;
use crate::metrics::Metrics;
use crate::naked::{Naked, naked};
use crate::serve::{SidecarStatus, Sidecars, View};
use crate::status::ObjectStatus;
use crate::watch::Problem;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// Most connections: probes, a scraper, and people.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a connection may stay open; a scraper opens a new one.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The content of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusPage {
    /// The revision of the snapshot.
    pub revision: u64,
    /// Everything that cannot be used.
    pub problems: Vec<Problem>,
    /// The statuses of all objects.
    pub objects: Vec<ObjectStatus>,
    /// The sidecars, those that have gone included for a while.
    pub sidecars: Vec<SidecarStatus>,
    /// Pods that should have a sidecar and have none.
    #[serde(default)]
    pub naked: Vec<Naked>,
}

/// What the endpoints tell about.
#[derive(Debug, Clone)]
pub struct Admin {
    namespace: Arc<str>,
    metrics: Arc<Metrics>,
    served: Arc<OnceLock<Served>>,
    leaving: Arc<AtomicBool>,
}

/// Who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Whoever is on this machine, or in this pod: everything.
    Local,
    /// Whoever reaches the pod: health and metrics.
    Everybody,
}

/// What there is to tell once the control plane serves.
#[derive(Debug)]
struct Served {
    views: watch::Receiver<Arc<View>>,
    sidecars: Arc<Sidecars>,
}

impl Admin {
    /// Alive and not ready; `namespace` is the control plane's own.
    pub fn new(namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self { namespace: namespace.into(), metrics, served: Arc::default(), leaving: Arc::default() }
    }

    /// From now on not ready any more: new connections are to go to another replica.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// From now on ready: the first snapshot is there, and sidecars can connect.
    pub fn ready(&self, views: watch::Receiver<Arc<View>>, sidecars: Arc<Sidecars>) {
        // Called once; a second call would change nothing.
        let _ = self.served.set(Served { views, sidecars });
    }

    /// Serves one connection until it ends. When cancelled, the connection is cut.
    pub async fn connection(self, stream: TcpStream, audience: Audience) {
        let service = hyper::service::service_fn(move |request| {
            let answer = self.answer(&request, audience);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        if let Ok(Err(error)) = tokio::time::timeout(LONGEST, connection).await {
            tracing::debug!(error = %Chain(&error), "admin connection ended");
        }
    }

    fn answer<B>(&self, request: &Request<B>, audience: Audience) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match (request.uri().path(), self.served.get()) {
            ("/live", _) => text(StatusCode::OK, "live\n"),
            ("/ready", Some(_)) if self.leaving.load(Ordering::Relaxed) => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            ("/ready", Some(_)) => text(StatusCode::OK, "ready\n"),
            ("/metrics", served) => self.metrics_page(served),
            ("/status", _) if audience == Audience::Everybody => text(StatusCode::NOT_FOUND, "there are /live, /ready and /metrics\n"),
            ("/status", Some(served)) => served.status_page(&self.namespace),
            ("/ready" | "/status", None) => text(StatusCode::SERVICE_UNAVAILABLE, "objects or certificates are not there yet\n"),
            _ if audience == Audience::Everybody => text(StatusCode::NOT_FOUND, "there are /live, /ready and /metrics\n"),
            _ => text(StatusCode::NOT_FOUND, "there are /live, /ready, /metrics and /status\n"),
        }
    }

    fn metrics_page(&self, served: Option<&Served>) -> Response<Full<Bytes>> {
        if let Some(Served { views, sidecars: _ }) = served {
            let age = views.borrow().published().elapsed().as_secs();
            self.metrics.snapshot_age.set(i64::try_from(age).unwrap_or(i64::MAX));
        }
        match self.metrics.text() {
            Ok(page) => typed(StatusCode::OK, "text/plain; version=0.0.4", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}

impl Served {
    fn status_page(&self, namespace: &str) -> Response<Full<Bytes>> {
        let Self { views, sidecars } = self;
        let view = views.borrow().clone();
        let page = StatusPage {
            revision: view.snapshot().revision(),
            problems: view.report().problems.clone(),
            objects: view.statuses().to_vec(),
            sidecars: sidecars.report(),
            naked: naked(view.snapshot(), namespace),
        };
        match serde_json::to_vec(&page) {
            Ok(page) => typed(StatusCode::OK, "application/json", page),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_outside_the_pod_sees_health_and_metrics_only() {
        let admin = Admin::new("heddle-system", Arc::new(Metrics::new().unwrap()));
        let status = |path: &str, audience| admin.answer(&Request::get(path).body(()).unwrap(), audience).status();
        for (path, everybody, local) in [
            ("/live", StatusCode::OK, StatusCode::OK),
            ("/metrics", StatusCode::OK, StatusCode::OK),
            ("/ready", StatusCode::SERVICE_UNAVAILABLE, StatusCode::SERVICE_UNAVAILABLE),
            ("/status", StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE),
            ("/other", StatusCode::NOT_FOUND, StatusCode::NOT_FOUND),
        ] {
            assert_eq!((status(path, Audience::Everybody), status(path, Audience::Local)), (everybody, local), "{path}");
        }
    }
}
