//! One client connection of the load generator, over HTTP/1.1 or gRPC-shaped HTTP/2.

mod grpc;
mod http1;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpSocket, TcpStream};

pub(crate) use grpc::Grpc;
pub(crate) use http1::Http1;

/// What is spoken through the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive.
    Http1,
    /// gRPC unary calls over HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
}

/// What the client says to the server.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `Host` or `:authority`.
    pub(crate) authority: String,
    /// Bytes of the message of a gRPC call; HTTP/1.1 requests are GETs without a body.
    pub(crate) body: usize,
}

/// One stream of requests, one at a time.
#[derive(Debug)]
pub(crate) enum Client {
    /// A connection of its own.
    Http1(Http1),
    /// A stream after the other on a connection that others share.
    Grpc(Grpc),
}

impl Client {
    /// Opens one connection and gives `streams` clients that share it (HTTP/1.1 and TCP have one whatever `streams` says).
    pub(crate) async fn connect(
        protocol: Protocol,
        address: SocketAddr,
        source: Option<Ipv4Addr>,
        call: &Call,
        streams: usize,
    ) -> Result<Vec<Self>> {
        let stream = open(address, source).await?;
        match protocol {
            Protocol::Http1 | Protocol::Tcp => Ok(vec![Self::Http1(Http1::new(stream, call))]),
            Protocol::Grpc => {
                let first = Grpc::handshake(stream, call).await?;
                Ok((0..streams.max(1)).map(|_| Self::Grpc(first.clone())).collect())
            }
        }
    }

    /// Sends one request and reads the whole answer. Not cancel safe: a client whose exchange was dropped is of no more use.
    ///
    /// An error is an answer that is not the origin's: another status, a broken framing, an end of the connection.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        match self {
            Self::Http1(http1) => http1.exchange().await,
            Self::Grpc(grpc) => grpc.exchange().await,
        }
    }

    /// Whether the connection is as good as new: nothing unread and not closed by the other side.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Http1(http1) => http1.is_open(),
            Self::Grpc(_) => true,
        }
    }
}

/// Opens a TCP connection from `source`, or from an address that the kernel chooses.
pub(crate) async fn open(address: SocketAddr, source: Option<Ipv4Addr>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    let stream = socket.connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
