//! The admin port of a pod of a test: JSON pages, and `/via?URL`, a call that the pod makes for whoever asks.

use crate::client::Target;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// A call for somebody else: longer than anything should take, shorter than who asked waits.
const VIA_LIMIT: Duration = Duration::from_secs(8);

/// What a page shows.
pub(crate) type Page = Arc<dyn Fn() -> Value + Send + Sync>;

/// Serves these pages on all addresses, in tasks that end with the process.
pub(crate) async fn serve(port: u16, pages: BTreeMap<&'static str, Page>) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(|error| format!("port {port}: {error}"))?;
    let pages = Arc::new(pages);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let pages = pages.clone();
            let service = service_fn(move |request| answer(pages.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A test that goes away is no failure of the application.
            tokio::spawn(async { connection.await.unwrap_or_default() });
        }
    });
    Ok(())
}

async fn answer(pages: Arc<BTreeMap<&'static str, Page>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri();
    let value = match pages.get(uri.path()) {
        Some(page) => page(),
        None if uri.path() == "/via" => {
            let pass = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(|v| format!("{name}: {v}"));
            via(uri.query().unwrap_or_default(), pass("end-user").as_slice()).await
        }
        None => json!({"error": format!("there is no page {}", uri.path())}),
    };
    Ok(Response::new(Full::from(value.to_string())))
}

/// Calls `url` on a connection of its own, and says what came of it.
pub(crate) async fn via(url: &str, headers: &[String]) -> Value {
    let called = async {
        let target = Target::parse(url)?.with_headers(headers)?;
        target.exchange_within(VIA_LIMIT, &mut None).await
    };
    match called.await {
        Ok(answer) => json!({"status": answer.status, "app": answer.app, "pod": answer.pod, "body": answer.text()}),
        Err(reason) => json!({"error": reason}),
    }
}
