//! HTTP/2 clients and servers on the `h2` crate, and hostile ones that write bare frames.

use crate::app::App;
use crate::wait::soon;
use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

/// Header lists that these clients and servers take: more than any proxy between them.
const HEADER_LIST_MAX: u32 = 16 * 1024 * 1024;

/// A client's connection; closed when dropped.
#[derive(Debug)]
pub struct Client {
    send: SendRequest<Bytes>,
    ping: Option<PingPong>,
    task: AbortHandle,
}

impl Client {
    /// Connects with prior knowledge.
    ///
    /// # Panics
    /// When nobody accepts, or not HTTP/2.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap_or_else(|e| panic!("connecting to {address}: {e}"));
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let handshake = h2::client::Builder::new()
            .max_header_list_size(HEADER_LIST_MAX)
            .initial_window_size(1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024)
            .handshake::<_, Bytes>(stream);
        let (send, mut connection) = soon("an HTTP/2 handshake", handshake).await.expect("HTTP/2");
        let ping = connection.ping_pong();
        let task = tokio::spawn(async move {
            // Streams tell a test how it ended.
            let _ended = connection.await;
        });
        Self { send, ping, task: task.abort_handle() }
    }

    /// Sends a request's head; its body follows on the stream, unless `end`.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&self, request: Request<()>, end: bool) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = soon("room for a stream", self.send.clone().ready()).await?;
        send.send_request(request, end)
    }

    /// Sends a request with its body and waits for all of the response.
    ///
    /// # Errors
    /// When the stream or the connection fails.
    pub async fn exchange(&self, request: Request<()>, body: &[u8]) -> Result<Exchanged, h2::Error> {
        let (response, mut stream) = self.send(request, body.is_empty()).await?;
        if !body.is_empty() {
            write(&mut stream, body, true).await?;
        }
        Exchanged::of(soon("a response", response).await?).await
    }

    /// A ping, there and back.
    ///
    /// # Panics
    /// When the connection has ended.
    pub async fn ping(&mut self) {
        let ping = self.ping.as_mut().expect("taken once");
        soon("a pong", ping.ping(Ping::opaque())).await.expect("a pong");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Exchanged {
    /// Its head.
    pub head: Response<()>,
    /// Its data.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

impl Exchanged {
    /// Reads the rest of a response.
    ///
    /// # Errors
    /// When the stream is reset.
    pub async fn of(response: Response<RecvStream>) -> Result<Self, h2::Error> {
        let (head, mut stream) = response.into_parts();
        let (body, trailers) = read(&mut stream).await?;
        Ok(Self { head: Response::from_parts(head, ()), body, trailers })
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status().as_u16()
    }

    /// A field of the head, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads data to the end, making room for more at once, and the trailers.
///
/// # Errors
/// When the stream is reset.
pub async fn read(stream: &mut RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = next(stream).await? {
        body.extend_from_slice(&chunk);
    }
    let trailers = soon("trailers", stream.trailers()).await?;
    Ok((body, trailers))
}

/// The next data, with room made for as much; `None`: no more.
///
/// # Errors
/// When the stream is reset.
pub async fn next(stream: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(chunk) = soon("data", stream.data()).await.transpose()? else { return Ok(None) };
    // A stream whose data have ended needs no room.
    let _ended = stream.flow_control().release_capacity(chunk.len());
    Ok(Some(chunk))
}

/// Writes data as room comes.
///
/// # Errors
/// When the stream is reset.
pub async fn write(stream: &mut SendStream<Bytes>, data: &[u8], end: bool) -> Result<(), h2::Error> {
    let mut data = Bytes::copy_from_slice(data);
    if data.is_empty() {
        return stream.send_data(data, end);
    }
    while !data.is_empty() {
        let room = soon("room in the stream's window", room(stream, data.len())).await?;
        let part = data.split_to(room.min(data.len()));
        stream.send_data(part, end && data.is_empty())?;
    }
    Ok(())
}

/// Waits for room to send, `wanted` bytes at most.
///
/// # Errors
/// When the stream is reset or has ended.
pub async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, h2::Error> {
    stream.reserve_capacity(wanted);
    loop {
        if stream.capacity() > 0 {
            return Ok(stream.capacity());
        }
        match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(Ok(0)) => {}
            Some(Ok(room)) => return Ok(room),
            Some(Err(error)) => return Err(error),
            None => return Err(Reason::CANCEL.into()),
        }
    }
}

/// A request with this path and these fields.
///
/// # Panics
/// When they are none of HTTP.
pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().method(method).uri(format!("http://echo:80{path}")).version(http::Version::HTTP_2);
    fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a request")
}

/// A response's head with these fields.
///
/// # Panics
/// When they are none of HTTP.
pub fn response(status: u16, fields: &[(&str, &str)]) -> Response<()> {
    let builder = Response::builder().status(status);
    fields.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).expect("a response")
}

/// Fields as trailers.
///
/// # Panics
/// When they are none of HTTP.
pub fn trailers(fields: &[(&str, &str)]) -> HeaderMap {
    response(200, fields).headers().clone()
}

/// How a server ends its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Never.
    Open,
    /// With GOAWAY after so many streams.
    Streams(usize),
}

/// An HTTP/2 server that calls `handle` for each stream.
pub async fn serve<F, Fut>(handle: F) -> App
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    serve_for(Life::Open, handle).await
}

/// As [`serve`], with connections that end.
pub async fn serve_for<F, Fut>(life: Life, handle: F) -> App
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let handle = Arc::new(handle);
    App::streams(move |stream| {
        let handle = handle.clone();
        async move {
            let handshake = h2::server::Builder::new()
                .max_header_list_size(HEADER_LIST_MAX)
                .max_concurrent_streams(2000)
                .initial_window_size(1024 * 1024)
                .initial_connection_window_size(16 * 1024 * 1024)
                .handshake::<_, Bytes>(stream);
            let Ok(mut connection) = handshake.await else { return };
            let mut streams = JoinSet::new();
            let mut served = 0;
            while let Some(Ok((request, respond))) = connection.accept().await {
                streams.spawn(handle(request, respond));
                served += 1;
                if life == Life::Streams(served) {
                    connection.graceful_shutdown();
                }
            }
            // What is in flight on a connection that has ended is dropped with the tasks.
        }
    })
    .await
}

/// Bare frames (RFC 9113 §4.1), for peers that break the rules.
pub mod frames {
    /// The client's connection preface.
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Frame types.
    pub const HEADERS: u8 = 1;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
    /// Flag of HEADERS: no body.
    pub const END_STREAM: u8 = 1;
    /// Flag of HEADERS and CONTINUATION: the list is complete.
    pub const END_HEADERS: u8 = 4;

    /// One frame.
    ///
    /// # Panics
    /// When the payload is longer than a frame can be.
    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        let mut bytes = vec![len[1], len[2], len[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The header block of `GET http://echo/`, by HPACK's static table and literals (RFC 7541 §6.1, §6.2.2).
    pub fn get() -> Vec<u8> {
        // :method GET, :scheme http, :path /, :authority echo
        [&[0x82, 0x86, 0x84, 0x01, 4][..], b"echo"].concat()
    }
}
