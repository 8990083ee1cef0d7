//! One connection's bytes, whatever carries them: plain TCP, or TLS of either end.

use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to a client or to a server.
#[derive(Debug)]
pub enum Io {
    /// Plain TCP.
    Plain(Rewound),
    /// mTLS, this side being the server.
    Server(Box<tokio_rustls::server::TlsStream<Rewound>>),
    /// mTLS, this side being the client.
    Client(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// A TCP connection whose first bytes were read before, to find out what they are, and are read again.
#[derive(Debug)]
pub struct Rewound {
    first: Bytes,
    tcp: TcpStream,
}

impl Rewound {
    /// Puts `first` before what `tcp` will give.
    pub fn new(first: Bytes, tcp: TcpStream) -> Self {
        Self { first, tcp }
    }

    /// The connection below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl From<TcpStream> for Io {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(Rewound::new(Bytes::new(), tcp))
    }
}

impl Io {
    /// The TCP connection below.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(plain) => plain.tcp(),
            Self::Server(tls) => tls.get_ref().0.tcp(),
            Self::Client(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let n = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl AsyncRead for Io {
    // A TLS peer that ends without close_notify is an error (`UnexpectedEof`) and no end: else whoever can cut TCP could make a cut
    // body, or a cut stream of bytes, look whole (RFC 8446 §6.1, RFC 9112 §9.8).
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Server(io) => Pin::new(&mut **io).poll_read(cx, buf),
            Self::Client(io) => Pin::new(&mut **io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Server(io) => Pin::new(&mut **io).poll_write(cx, buf),
            Self::Client(io) => Pin::new(&mut **io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Server(io) => Pin::new(&mut **io).poll_flush(cx),
            Self::Client(io) => Pin::new(&mut **io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Server(io) => Pin::new(&mut **io).poll_shutdown(cx),
            Self::Client(io) => Pin::new(&mut **io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Server(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
            Self::Client(io) => Pin::new(&mut **io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
