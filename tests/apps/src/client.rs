//! One client connection, and one exchange on it: HTTP/1.1, HTTP/2 with prior knowledge, gRPC (unary), or bytes that come back.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Answers here are some hundred bytes, and the largest some KiB.
const BODY_MAX: usize = 1024 * 1024;
/// The method that the server's gRPC echoes.
pub(crate) const GRPC_ECHO: &str = "/heddle.test.v1.Echo/Echo";

/// How to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// Where to, and how.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What the server calls itself, in the field `x-app`.
    pub(crate) app: String,
    pub(crate) pod: String,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

impl Target {
    /// Reads `http://…`, `h2c://…`, `grpc://…` or `tcp://…`.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("{url:?} has no scheme: http, h2c, grpc or tcp"))?;
        let kind = match scheme {
            "http" => Kind::Http1,
            "h2c" => Kind::Http2,
            "grpc" => Kind::Grpc,
            "tcp" => Kind::Tcp,
            other => return Err(format!("{url:?}: there is no scheme {other}; http, h2c, grpc and tcp are known")),
        };
        let uri: Uri = format!("http://{rest}").parse().map_err(|error| format!("{url:?}: {error}"))?;
        Ok(Self { kind, uri, headers: HeaderMap::new() })
    }

    /// With further fields, each as `name: value`.
    pub(crate) fn with_headers(mut self, headers: &[String]) -> Result<Self, String> {
        for header in headers {
            let (name, value) = header.split_once(':').ok_or_else(|| format!("{header:?} is no field: name: value"))?;
            let name: http::HeaderName = name.trim().parse().map_err(|error| format!("{header:?}: {error}"))?;
            let value = value.trim().parse().map_err(|error| format!("{header:?}: {error}"))?;
            self.headers.append(name, value);
        }
        Ok(self)
    }

    /// Connects, with everything that needs.
    pub(crate) async fn connect(&self) -> Result<Connection, String> {
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = self.uri.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| format!("connecting to {host}:{port}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        match self.kind {
            Kind::Tcp => Ok(Connection::Tcp(stream)),
            Kind::Http1 => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| sentence(&error))?;
                // How the connection ends, the sender says too.
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Ok(Connection::Http1(sender))
            }
            Kind::Http2 | Kind::Grpc => {
                let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
                let (sender, connection) = handshake.await.map_err(|error| sentence(&error))?;
                tokio::spawn(async { connection.await.unwrap_or_default() });
                Ok(Connection::Http2(sender))
            }
        }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let origin = self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut request = Request::builder();
        let body = match self.kind {
            Kind::Http1 | Kind::Tcp => {
                let host = self.uri.authority().map_or("", http::uri::Authority::as_str);
                request = request.method(Method::GET).uri(origin).header(http::header::HOST, host);
                Bytes::new()
            }
            Kind::Http2 => {
                request = request.method(Method::GET).version(Version::HTTP_2).uri(self.uri.clone());
                Bytes::new()
            }
            Kind::Grpc => {
                let path = if origin == "/" { GRPC_ECHO } else { origin };
                let uri = Uri::builder().scheme("http").authority(self.uri.authority().map_or("", |a| a.as_str())).path_and_query(path);
                let uri = uri.build().map_err(|error| error.to_string())?;
                request = request.method(Method::POST).version(Version::HTTP_2).uri(uri);
                request = request.header("content-type", "application/grpc").header("te", "trailers");
                message(b"hello")
            }
        };
        let mut request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    /// One exchange on a connection of this target.
    pub(crate) async fn exchange(&self, connection: &mut Connection) -> Result<Answer, String> {
        let response = match connection {
            Connection::Http1(sender) => sender.send_request(self.request()?).await,
            Connection::Http2(sender) => sender.send_request(self.request()?).await,
            Connection::Tcp(stream) => return echo(stream).await,
        };
        let response = response.map_err(|error| sentence(&error))?;
        let (parts, body) = response.into_parts();
        let field = |name| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let body = http_body_util::Limited::new(body, BODY_MAX).collect().await.map_err(|error| format!("body: {error}"))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let answer = Answer { status: parts.status.as_u16(), app: field("x-app"), pod: field("x-pod"), body: body.to_bytes() };
        if self.kind == Kind::Grpc {
            // An answer of trailers only has the status in its head.
            let of = |map: &HeaderMap, name| map.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let status = of(&trailers, "grpc-status").or_else(|| of(&parts.headers, "grpc-status"));
            let reason = of(&trailers, "grpc-message").or_else(|| of(&parts.headers, "grpc-message")).unwrap_or_default();
            match status.as_deref() {
                Some("0") => {}
                Some(code) => return Err(format!("grpc-status {code}: {reason}")),
                None => return Err(format!("HTTP {} without grpc-status: {}", answer.status, answer.text())),
            }
        }
        Ok(answer)
    }

    /// One exchange, connecting first where there is no connection that can take it. Whatever fails leaves none behind.
    pub(crate) async fn exchange_within(&self, limit: Duration, connection: &mut Option<Connection>) -> Result<Answer, String> {
        let mut held = connection.take();
        if let Some(open) = &mut held
            && !open.usable().await
        {
            held = None;
        }
        let attempt = async {
            let mut open = match held {
                Some(open) => open,
                None => self.connect().await?,
            };
            let answer = self.exchange(&mut open).await?;
            Ok((open, answer))
        };
        match timeout(limit, attempt).await {
            Ok(Ok((open, answer))) => {
                *connection = Some(open);
                Ok(answer)
            }
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("no answer within {limit:?}")),
        }
    }
}

impl Connection {
    /// Whether the other side has left it open, as every pool looks before it takes a connection.
    async fn usable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
            Self::Tcp(_) => true,
        }
    }
}

/// Sends a line and wants it back.
async fn echo(stream: &mut TcpStream) -> Result<Answer, String> {
    let line = b"hello over tcp\n";
    stream.write_all(line).await.map_err(|error| error.to_string())?;
    let mut back = vec![0; line.len()];
    stream.read_exact(&mut back).await.map_err(|error| error.to_string())?;
    if back != line {
        return Err(format!("other bytes came back: {}", String::from_utf8_lossy(&back)));
    }
    Ok(Answer { status: 200, app: String::new(), pod: String::new(), body: Bytes::from(back) })
}

/// A gRPC message: not compressed, its length, itself (PROTOCOL-HTTP2 of gRPC, "Length-Prefixed-Message").
pub(crate) fn message(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(payload.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    framed.put_slice(payload);
    framed.freeze()
}

/// An error and what caused it.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_say_how_to_speak() {
        let kind = |url| Target::parse(url).map(|target| target.kind);
        assert_eq!(kind("http://a/b"), Ok(Kind::Http1));
        assert_eq!(kind("h2c://a:1/b"), Ok(Kind::Http2));
        assert_eq!(kind("grpc://a:1"), Ok(Kind::Grpc));
        assert_eq!(kind("tcp://a:1"), Ok(Kind::Tcp));
        assert!(kind("ftp://a").unwrap_err().contains("no scheme ftp"));
        assert!(kind("a:1").unwrap_err().contains("no scheme"));
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        assert_eq!(&message(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
    }
}
