//! Fetches one small document from an admin port.

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The metrics of a sidecar with some hundred destinations; more is not read.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No answer within the time.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
    /// Not HTTP, or a connection that broke.
    #[error("no proper answer: {0}")]
    Http(#[from] hyper::Error),
    /// A body that is too large, or broke.
    #[error("no whole answer: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Whether the status was 2xx.
    pub(crate) success: bool,
    /// The body; bytes that are not UTF-8 are replaced.
    pub(crate) body: String,
}

/// Fetches `http://address/path` within `within`.
///
/// Cancel safe: dropped, it closes its connection.
///
/// # Errors
///
/// See [`FetchError`]; a status other than 2xx is none.
pub(crate) async fn fetch(address: SocketAddr, path: &str, within: Duration) -> Result<Fetched, FetchError> {
    timeout(within, fetch_now(address, path)).await.unwrap_or(Err(FetchError::Late(within)))
}

async fn fetch_now(address: SocketAddr, path: &str) -> Result<Fetched, FetchError> {
    let stream = TcpStream::connect(address).await.map_err(FetchError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request =
        http::Request::get(path).header("host", address.to_string()).header("connection", "close").body(Empty::<bytes::Bytes>::new());
    let Ok(request) = request else {
        return Err(FetchError::Body(format!("{path} is no path").into()));
    };
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(FetchError::Body)?.to_bytes();
        Ok(Fetched { success: head.status.is_success(), body: String::from_utf8_lossy(&body).into_owned() })
    };
    // The connection must be driven for the exchange to go on; it ends first when the server closes early, which the exchange then says.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        fetched = &mut exchange => fetched,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn answer(response: &'static str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _request = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
        });
        (address, server)
    }

    #[tokio::test]
    async fn a_document_is_fetched_with_its_status() {
        let (address, server) = answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nready").await;
        let fetched = fetch(address, "/ready", Duration::from_secs(5)).await.unwrap();
        assert!(fetched.success);
        assert_eq!(fetched.body, "ready");
        server.await.unwrap();
        let (address, server) = answer("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\nno certificate").await;
        let fetched = fetch(address, "/ready", Duration::from_secs(5)).await.unwrap();
        assert!(!fetched.success);
        assert_eq!(fetched.body, "no certificate");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(fetch(address, "/", Duration::from_secs(5)).await, Err(FetchError::Connect(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(matches!(fetch(address, "/", Duration::from_secs(5)).await, Err(FetchError::Late(_))));
    }
}
