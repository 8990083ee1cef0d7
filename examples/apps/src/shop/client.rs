//! A simple HTTP client with keep-alive, as an application has it: one upstream, JSON answers, a time limit.

use super::http::{X_VERSION, error};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use std::time::Duration;

/// How long one request may take in all: a user would not wait longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read: a hundred times what the shop's services send.
const MAX_ANSWER: usize = 64 * 1024;

/// How much of a foreign error page is quoted.
const MAX_QUOTE: usize = 200;

/// What went wrong with a request to an upstream; each text names the upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("{upstream} is unreachable: {cause}")]
    Unreachable { upstream: &'static str, cause: String },
    #[error("{upstream} did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    TimedOut { upstream: &'static str },
    #[error("{upstream} answered {status}: {quote}")]
    Status { upstream: &'static str, status: StatusCode, quote: String },
    #[error("{upstream} broke off its answer: {cause}")]
    Broken { upstream: &'static str, cause: String },
    #[error("{upstream} did not answer in JSON: {cause}")]
    NotJson { upstream: &'static str, cause: serde_json::Error },
}

impl UpstreamError {
    /// What the shop tells its own client: 502, or 504 after a timeout (RFC 9110 §15.6.3, §15.6.5).
    pub(crate) fn answer(&self) -> super::http::Answer {
        let status = match self {
            Self::TimedOut { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable { .. } | Self::Status { .. } | Self::Broken { .. } | Self::NotJson { .. } => StatusCode::BAD_GATEWAY,
        };
        error(status, &self.to_string())
    }
}

/// A good answer of an upstream.
#[derive(Debug)]
pub(crate) struct Good {
    /// `x-version` of the answer, or nothing.
    pub(crate) version: String,
    /// The whole body.
    pub(crate) body: Value,
}

/// A client of one upstream; cloning shares the connections.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    name: &'static str,
    url: String,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Upstream {
    /// A client of the service `name` at `url` (`http://host:port`); connects when it is used.
    pub(crate) fn new(name: &'static str, url: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Self { name, url: url.to_owned(), client }
    }

    /// Gets `path` as JSON. Cancel safe: a dropped request is closed.
    pub(crate) async fn get(&self, path: &str, headers: HeaderMap) -> Result<Good, UpstreamError> {
        let within = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(path, headers)).await;
        within.unwrap_or(Err(UpstreamError::TimedOut { upstream: self.name }))
    }

    async fn exchange(&self, path: &str, headers: HeaderMap) -> Result<Good, UpstreamError> {
        let upstream = self.name;
        let mut request = Request::new(Empty::new());
        *request.headers_mut() = headers;
        *request.uri_mut() = format!("{}{path}", self.url)
            .parse()
            .map_err(|cause: http::uri::InvalidUri| UpstreamError::Unreachable { upstream, cause: cause.to_string() })?;
        let response = self.client.request(request).await.map_err(|cause| {
            let root = root_cause(&cause);
            UpstreamError::Unreachable { upstream, cause: root }
        })?;
        let (head, body) = response.into_parts();
        let body = self.whole(body).await?;
        if !head.status.is_success() {
            let quote: String = String::from_utf8_lossy(&body).chars().take(MAX_QUOTE).collect();
            return Err(UpstreamError::Status { upstream, status: head.status, quote: quote.trim().to_owned() });
        }
        let body = serde_json::from_slice(&body).map_err(|cause| UpstreamError::NotJson { upstream, cause })?;
        let version = head.headers.get(X_VERSION).and_then(|version| version.to_str().ok()).unwrap_or_default().to_owned();
        Ok(Good { version, body })
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, UpstreamError> {
        let whole = Limited::new(body, MAX_ANSWER).collect().await;
        Ok(whole.map_err(|cause| UpstreamError::Broken { upstream: self.name, cause: cause.to_string() })?.to_bytes())
    }
}

/// The innermost cause: hyper's own words only say that there was an error.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
