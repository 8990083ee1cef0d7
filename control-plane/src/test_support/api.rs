//! An API server of a few lines, in the place of a client's connection: tests say what it answers, and see what it was asked.

use http_body_util::{BodyExt as _, Full};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: http::Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    code: u16,
    body: Value,
}

impl Answer {
    pub(crate) fn ok(body: Value) -> Self {
        Self { code: 200, body }
    }

    pub(crate) fn created(body: Value) -> Self {
        Self { code: 201, body }
    }

    pub(crate) fn refused(code: u16, reason: &str) -> Self {
        let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
        Self { code, body }
    }
}

/// The server.
#[derive(Clone)]
pub(crate) struct Api {
    client: Client,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Api {
    pub(crate) fn new(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::or_silence(move |request| Some(answer(request)))
    }

    /// One that takes requests and never answers.
    pub(crate) fn silent() -> Self {
        Self::or_silence(|_| None)
    }

    /// `None`: no answer ever comes.
    pub(crate) fn or_silence(answer: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let service = tower::service_fn({
            let requests = requests.clone();
            move |request: http::Request<Body>| {
                let (requests, answer) = (requests.clone(), answer.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let request = Request {
                        method: head.method,
                        path: head.uri.path().to_owned(),
                        query: head.uri.query().unwrap_or_default().to_owned(),
                        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
                    };
                    requests.lock().unwrap().push(request.clone());
                    let Some(Answer { code, body }) = answer(&request) else { return std::future::pending().await };
                    let body = Full::new(bytes::Bytes::from(body.to_string()));
                    Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap())
                }
            }
        });
        Self { client: Client::new(service, "default"), requests }
    }

    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}
