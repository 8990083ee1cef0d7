//! The server behind the proxies: HTTP/1.1, gRPC-shaped HTTP/2 and a TCP endpoint, each as cheap as it can be.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::head::{HEAD_BYTES_MAX, Head};

/// Most connections that are served at once: the idle scenario of a relay brings 10,000.
const CONNECTIONS_MAX: usize = 16_384;

/// Bytes that one read or write of the TCP endpoint moves.
const CHUNK: usize = 64 * 1024;

/// Streams that one gRPC connection may have open.
const STREAMS_MAX: u32 = 1000;

/// Where an origin listens; printed as its first line.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Addresses {
    /// HTTP/1.1 with keep-alive and pipelining.
    pub(crate) http1: SocketAddr,
    /// HTTP/2 with prior knowledge.
    pub(crate) grpc: SocketAddr,
    /// Reads as many bytes as the client says, then writes as many: see [`transfer`].
    pub(crate) tcp: SocketAddr,
}

/// An origin that listens but does not serve yet.
#[derive(Debug)]
pub(crate) struct Origin {
    http1: TcpListener,
    grpc: TcpListener,
    tcp: TcpListener,
    body: usize,
}

impl Origin {
    /// Listens on three free ports of 127.0.0.1; bodies of answers have `body` bytes.
    pub(crate) async fn bind(body: usize) -> Result<Self> {
        let listen = || TcpListener::bind(("127.0.0.1", 0));
        Ok(Self { http1: listen().await?, grpc: listen().await?, tcp: listen().await?, body })
    }

    /// Says where it listens.
    pub(crate) fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses { http1: self.http1.local_addr()?, grpc: self.grpc.local_addr()?, tcp: self.tcp.local_addr()? })
    }

    /// Serves until it is dropped. Cancel safe: dropping it closes every connection.
    pub(crate) async fn serve(self) -> Result<()> {
        let Self { http1, grpc, tcp, body } = self;
        let answer = http1_answer(body);
        let message = grpc_message(body);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = http1.accept() => {
                    let stream = prepare(accepted)?;
                    let answer = answer.clone();
                    connections.spawn(async move { drop(serve_http1(stream, &answer).await) });
                }
                accepted = grpc.accept() => {
                    let stream = prepare(accepted)?;
                    let message = message.clone();
                    connections.spawn(async move { drop(serve_grpc(stream, message).await) });
                }
                accepted = tcp.accept() => {
                    let stream = prepare(accepted)?;
                    connections.spawn(async move { drop(transfer(stream).await) });
                }
                Some(_) = connections.join_next() => {}
            }
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
        }
    }
}

/// Makes the body of a gRPC call or answer: one uncompressed message of `body` bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) fn grpc_message(body: usize) -> Bytes {
    let length = u32::try_from(body).unwrap_or(u32::MAX);
    let mut message = vec![0];
    message.extend(length.to_be_bytes());
    message.resize(5 + body, b'x');
    message.into()
}

fn http1_answer(body: usize) -> Bytes {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + body, b'x');
    answer.into()
}

fn prepare(accepted: io::Result<(TcpStream, SocketAddr)>) -> Result<TcpStream> {
    let (stream, _) = accepted.context("the origin cannot accept a connection")?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Answers every request on one connection; all that have come with one read are answered with one write.
async fn serve_http1(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; 2 * HEAD_BYTES_MAX];
    let mut filled = 0;
    let mut body_left = 0;
    let mut answers = Vec::new();
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut read = 0;
        let mut close = false;
        answers.clear();
        loop {
            let skipped = body_left.min(filled - read);
            body_left -= skipped;
            read += skipped;
            let Some(head) = Head::parse(&buffer[read..filled])? else {
                break;
            };
            read += head.length;
            body_left = head.content_length.unwrap_or(0);
            close |= head.close;
            answers.extend_from_slice(answer);
        }
        buffer.copy_within(read..filled, 0);
        filled -= read;
        stream.write_all(&answers).await?;
        if close {
            return stream.shutdown().await;
        }
    }
}

/// Answers every call on one connection with one message and `grpc-status: 0`, when the call's body is complete.
async fn serve_grpc(stream: TcpStream, message: Bytes) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(STREAMS_MAX)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .handshake::<_, Bytes>(stream)
        .await?;
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            call = connection.accept() => {
                let Some(call) = call else { return Ok(()) };
                let (request, respond) = call?;
                let message = message.clone();
                calls.spawn(async move { drop(answer_call(request.into_body(), respond, message).await) });
            }
            Some(_) = calls.join_next() => {}
        }
    }
}

async fn answer_call(mut body: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>, message: Bytes) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Serves one bulk transfer: two big-endian 64-bit numbers, that many bytes to be read, that many to be written, end.
async fn transfer(mut stream: TcpStream) -> io::Result<()> {
    let mut upload = stream.read_u64().await?;
    let mut download = stream.read_u64().await?;
    let mut chunk = vec![0; CHUNK];
    while upload > 0 {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        upload = upload.saturating_sub(count as u64);
    }
    while download > 0 {
        let count = usize::try_from(download).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..count]).await?;
        download -= count as u64;
    }
    stream.shutdown().await
}
