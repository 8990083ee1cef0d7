//! The webhooks that the API server calls: `/inject` gives new pods their sidecar, `/validate` says what is wrong with routes and
//! policies before anybody relies on them.
//!
//! ```text
//! review      the API server's question and our answer (admission.k8s.io/v1)
//! injector    /inject: crate::inject, and what its pod needs of the namespace
//! validate    /validate: the parser of the resolver
//! namespace   the trust roots of a namespace, and what its labels forbid
//! metrics     how many were asked, and how it went
//! ```
//!
//! Every replica serves both; neither needs a leader, nor a cache to decide by. The API server shows no certificate of its own to
//! webhooks, so that any pod may ask: answers hold nothing secret, and every bound counts per process.

pub mod injector;
pub mod metrics;
pub mod namespace;
pub mod review;
pub mod validate;

pub use injector::Injector;
pub use metrics::Metrics;
pub use namespace::{ClusterNamespaces, Namespaces};

use crate::ca::Chain;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{Path, Verdict};
use review::{AdmissionRequest, Answer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// Most connections: an API server opens one for each pod that is created at the same time, and there are three of them.
pub const MAX_CONNECTIONS: usize = 512;

/// Most questions that are read and answered at the same time; the others wait. With [`MAX_BODY`] this bounds the memory.
const MAX_IN_FLIGHT: usize = 64;

/// Largest question: an API server takes objects of 3 MiB, and stores those of 1.5 MiB, of which an update has two.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may be idle, or take for a request's head: longer than the 90 s after which the API server's own client
/// (net/http of Go) closes it, because a request that meets our closing is a pod that is not created.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long one question may take from its head to its answer: below the 10 s that the API server waits, so that a sentence
/// arrives instead of "context deadline exceeded".
const ANSWER_TIMEOUT: Duration = Duration::from_secs(9);

/// At the end: how long a connection stays open for questions that are under way to us. Their answers say that it closes.
const LAME_DUCK: Duration = Duration::from_secs(4);

/// After that: how long an answer may take still.
const GRACE: Duration = Duration::from_millis(500);

/// Both webhooks. Cheap to clone: once for each connection.
#[derive(Debug, Clone)]
pub struct Server<N> {
    configs: watch::Receiver<Arc<ServerConfig>>,
    closing: watch::Receiver<bool>,
    injector: Injector<N>,
    metrics: Metrics,
    in_flight: Arc<Semaphore>,
}

impl<N: Namespaces> Server<N> {
    /// Makes the server. `configs` has the TLS configuration of new connections (ALPN `http/1.1` or none); from the moment that
    /// `closing` is true, connections end with their next answer.
    pub fn new(
        injector: Injector<N>,
        configs: watch::Receiver<Arc<ServerConfig>>,
        closing: watch::Receiver<bool>,
        metrics: Metrics,
    ) -> Self {
        Self { configs, closing, injector, metrics, in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }

    /// Serves one connection until it ends. When cancelled, the connection is cut.
    pub async fn connection(self, stream: TcpStream, client: SocketAddr) {
        let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.accept(stream)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                tracing::info!(%client, error = %Chain(&error), "connection to the webhooks refused");
                return;
            }
            Err(_) => {
                tracing::info!(%client, "connection to the webhooks refused: the handshake took too long");
                return;
            }
        };
        if let Err(error) = self.serve(tls).await {
            // The other end went away in the middle: nothing to act on.
            tracing::debug!(%client, error = %Chain(&error), "connection to the webhooks ended");
        }
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let config = self.configs.borrow().clone();
        TlsAcceptor::from(config).accept(stream).await
    }

    async fn serve(self, tls: TlsStream<TcpStream>) -> Result<(), hyper::Error> {
        let mut closing = self.closing.clone();
        let service = hyper::service::service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(tls), service));
        // In this order, and never both: each has ended before the next begins, so that no answer is lost.
        tokio::select! {
            ended = &mut connection => return ended,
            _ = closing.wait_for(|closing| *closing) => {}
        }
        if let Ok(ended) = tokio::time::timeout(LAME_DUCK, &mut connection).await {
            return ended;
        }
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = match request.uri().path() {
            "/inject" => Path::Inject,
            "/validate" => Path::Validate,
            _ => return text(StatusCode::NOT_FOUND, "there are /inject and /validate\n".to_owned()),
        };
        let began = tokio::time::Instant::now();
        let (mut response, verdict) = match tokio::time::timeout(ANSWER_TIMEOUT, self.reviewed(path, request)).await {
            Ok(Ok(answer)) => {
                let verdict = answer.verdict();
                (json(&answer), verdict)
            }
            Ok(Err((status, sentence))) => (text(status, format!("{sentence}\n")), Verdict::Malformed),
            Err(_) => (text(StatusCode::SERVICE_UNAVAILABLE, format!("no answer within {ANSWER_TIMEOUT:?}\n")), Verdict::Late),
        };
        self.metrics.answered(path, verdict, began.elapsed());
        if *self.closing.borrow() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn reviewed(&self, path: Path, request: Request<Incoming>) -> Result<Answer, (StatusCode, String)> {
        if request.method() != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is sent by POST".to_owned()));
        }
        // Never closed.
        let _permit = self.in_flight.acquire().await;
        let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                (StatusCode::PAYLOAD_TOO_LARGE, format!("an AdmissionReview of more than {MAX_BODY} bytes is not read"))
            } else {
                (StatusCode::BAD_REQUEST, format!("the request ended too early: {error}"))
            }
        })?;
        let request = AdmissionRequest::parse(&body.to_bytes()).map_err(|sentence| (StatusCode::BAD_REQUEST, sentence))?;
        Ok(match path {
            Path::Inject => self.injector.review(request).await,
            Path::Validate => validate::review(request),
        })
    }
}

fn json(answer: &Answer) -> Response<Full<Bytes>> {
    typed(StatusCode::OK, "application/json", answer.to_json().to_string())
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests;
