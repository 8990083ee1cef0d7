//! A minimal gRPC client: one prepared unary call over HTTP/2 with prior knowledge.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Uri, Version};
use tokio::net::TcpStream;

use super::Call;
use crate::origin::grpc_message;

/// Flow-control window of one stream and of the connection, in bytes: wide enough never to be what is measured.
const WINDOW: u32 = 1 << 24;

/// A share in one HTTP/2 connection.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    sender: SendRequest<Bytes>,
    uri: Uri,
    message: Bytes,
}

impl Grpc {
    /// Speaks the connection preface; the connection lives until the last share in it is dropped.
    pub(super) async fn handshake(stream: TcpStream, call: &Call) -> Result<Self> {
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await
            .context("cannot begin HTTP/2")?;
        // The task ends with its connection, and that with the last share; what goes wrong is seen by the calls.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, uri: format!("http://{}/bench.Bench/Unary", call.authority).parse()?, message: grpc_message(call.body) })
    }

    pub(super) async fn exchange(&mut self) -> Result<()> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("user-agent", HeaderValue::from_static("heddle-bench"));
        let mut sender = self.sender.clone().ready().await.context("cannot open a stream")?;
        let (response, mut body) = sender.send_request(request, false).context("cannot send a call")?;
        body.send_data(self.message.clone(), true)?;
        let response = response.await.context("a call was reset")?;
        ensure!(response.status() == 200, "the answer is not the origin's: {response:?}");
        let in_headers = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.context("an answer was reset")?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await.context("cannot read trailers")?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")).or(in_headers.as_ref());
        ensure!(status.is_some_and(|status| status == "0"), "the call did not end with grpc-status 0: {trailers:?}");
        ensure!(length >= 5, "the answer has no message");
        Ok(())
    }
}
