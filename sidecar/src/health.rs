//! The health server, on all addresses of the pod: `/ready`, `/live`, `/metrics`, and `/probe/<container>/<kind>`.
//!
//! The kubelet and scrapers come from outside, so it tells nothing that is not theirs to know: no configuration, and nothing to change.

use crate::admin::{Admin, server, text};
use crate::probe::{Asked, Probes};
use http::header::USER_AGENT;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Incoming};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

const PATHS: &str = "\
/ready                      200 when traffic may come, 503 with the reasons when not
/live                       200 while the process is well
/metrics                    metrics, Prometheus text format
/probe/<container>/<kind>   the application's own check, as its pod has it
";

/// How long an answer to the first questions may wait: less than the second that the kubelet gives it.
const START_PATIENCE: Duration = Duration::from_millis(700);
/// Between two looks meanwhile.
const START_POLL: Duration = Duration::from_millis(10);

/// What the server shows.
#[derive(Debug, Clone)]
pub struct Health {
    admin: Admin,
    probes: Arc<Probes>,
    ips: Arc<[IpAddr]>,
    was_ready: Arc<AtomicBool>,
}

impl Health {
    /// Shows part of what `admin` does, and does `probes` against the pod at `ips`.
    #[must_use]
    pub fn new(admin: Admin, probes: Probes, ips: &[IpAddr]) -> Self {
        Self { admin, probes: Arc::new(probes), ips: ips.into(), was_ready: Arc::default() }
    }

    /// Serves until `ended`; open connections are then closed. Cancel safe in the same way.
    pub async fn serve(self, listener: TcpListener, ended: impl Future<Output = ()>) {
        server::serve(listener, ended, move |request| {
            let health = self.clone();
            async move { health.answer(&request).await }
        })
        .await;
    }

    /// `None`: only the end of the connection says it.
    async fn answer(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        if request.body().size_hint().lower() > 0 {
            return Some(text(StatusCode::PAYLOAD_TOO_LARGE, "no request here has a body\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n"));
        }
        let path = request.uri().path();
        if path == "/ready" {
            self.until_ready().await;
        }
        if let Some(name) = path.strip_prefix("/probe/") {
            return self.probe(name, request).await;
        }
        Some(self.admin.public(path).unwrap_or_else(|| text(StatusCode::NOT_FOUND, PATHS)))
    }

    /// Waits a little for a sidecar that is only starting: the kubelet asks once a second, and the pod would wait for its next question.
    async fn until_ready(&self) {
        let deadline = Instant::now() + START_PATIENCE;
        while !self.admin.not_ready().is_empty() && !self.was_ready.load(Ordering::Relaxed) && Instant::now() < deadline {
            sleep(START_POLL).await;
        }
        if self.admin.not_ready().is_empty() {
            self.was_ready.store(true, Ordering::Relaxed);
        }
    }

    async fn probe(&self, name: &str, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        let Some(probe) = self.probes.get(name) else {
            let reason = format!("the sidecar was not told of a probe {name}: was the pod changed after injection?\n");
            return Some(text(StatusCode::NOT_FOUND, reason));
        };
        let kind = name.rsplit('/').next().unwrap_or_default();
        let asked = Asked { kind, agent: request.headers().get(USER_AGENT), ips: &self.ips };
        match probe.check(asked).await {
            Ok(()) => Some(text(StatusCode::OK, "well\n")),
            // The kubelet takes any answer for a hook that was heard: one that was not must look as it does without us, and starts the
            // container again.
            Err(reason) if asked.is_hook() => {
                tracing::warn!(hook = name, %reason, "the application did not hear its hook");
                None
            }
            Err(reason) => Some(text(StatusCode::SERVICE_UNAVAILABLE, format!("{name}: {reason}\n"))),
        }
    }
}
