//! The floor of every comparison: copies bytes between two sockets and does nothing else.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bytes that one direction of one connection may hold.
const BUFFER: usize = 64 * 1024;

/// Most connections at once, two descriptors each.
const CONNECTIONS_MAX: usize = 16_384;

/// Copies between every connection to `listen` and one to `connect`, until it is dropped.
pub(crate) async fn run(listen: SocketAddr, connect: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("the relay cannot accept a connection")?;
                connections.spawn(async move { drop(copy(stream, connect).await) });
            }
            Some(_) = connections.join_next() => {}
        }
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
    }
}

async fn copy(mut client: TcpStream, connect: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(connect).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await?;
    Ok(())
}
