//! The HTTP/1.1 server that the shop's services share, and its answers.

use crate::{Shutdown, server};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Which version of a service answered.
pub(crate) const X_VERSION: HeaderName = HeaderName::from_static("x-version");

/// A whole answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// What a service says to a GET of a path.
pub(crate) trait Service: Send + Sync + 'static {
    /// The version that is added to each answer as `x-version`.
    fn version(&self) -> &str;

    /// Answers a GET or HEAD of `path`.
    fn get(&self, path: &str, headers: &HeaderMap) -> impl Future<Output = Answer> + Send;
}

/// Serves `service` until the end is told and what is in flight has been answered.
pub(crate) async fn serve(listener: TcpListener, service: impl Service, shutdown: Shutdown) {
    let service = Arc::new(service);
    server::serve(listener, shutdown, |stream, shutdown| connection(stream, Arc::clone(&service), shutdown)).await;
}

async fn connection<S: Service>(stream: TcpStream, service: Arc<S>, mut shutdown: Shutdown) {
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(answer(&*service, request).await) }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    // The client's end of the connection tells the client whatever went wrong: a result has no other reader.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.told() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

async fn answer(service: &impl Service, request: Request<Incoming>) -> Answer {
    let mut answer = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => json(StatusCode::OK, &json!({ "healthy": true })),
        (&Method::GET | &Method::HEAD, path) => service.get(path, request.headers()).await,
        (method, _) => {
            let mut refused = error(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not served here, only GET"));
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
    };
    if let Ok(version) = HeaderValue::from_str(service.version()) {
        answer.headers_mut().insert(X_VERSION, version);
    }
    answer
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Answer {
    whole(status, "application/json", body.to_string())
}

/// An answer in JSON that says what went wrong.
pub(crate) fn error(status: StatusCode, what: &str) -> Answer {
    json(status, &json!({ "error": what }))
}

/// 404 for a path that no service knows.
pub(crate) fn not_found(path: &str) -> Answer {
    error(StatusCode::NOT_FOUND, &format!("there is nothing at {path}"))
}

/// An answer with a body of `content_type`.
pub(crate) fn whole(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The number behind `prefix` in `path`, when that is all there is.
pub(crate) fn number(path: &str, prefix: &str) -> Option<u32> {
    path.strip_prefix(prefix)?.parse().ok()
}
