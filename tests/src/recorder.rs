//! A TCP relay between two processes that keeps every byte, to see what a wire carries.

use crate::app::bind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

/// What one connection carried.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    /// From the one who connected.
    pub sent: Vec<u8>,
    /// To the one who connected.
    pub received: Vec<u8>,
}

/// A relay on a port of its own; it and its connections are gone when this is dropped.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    carried: Arc<Mutex<Vec<Carried>>>,
    task: AbortHandle,
}

impl Recorder {
    /// Relays to `target`.
    ///
    /// # Panics
    /// When there is no port left.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = bind().await;
        let address = listener.local_addr().expect("the address of a listener");
        let carried: Arc<Mutex<Vec<Carried>>> = Arc::default();
        let kept = carried.clone();
        let task = tokio::spawn(async move {
            let mut relays = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                relays.spawn(relay(client, target, kept.clone()));
                while relays.try_join_next().is_some() {}
            }
        });
        Self { address, carried, task: task.abort_handle() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What each connection has carried so far.
    ///
    /// # Panics
    /// Never, unless a relay did.
    pub fn carried(&self) -> Vec<Carried> {
        self.carried.lock().expect("no panic while recording").clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(client: TcpStream, target: SocketAddr, carried: Arc<Mutex<Vec<Carried>>>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let number = {
        let mut carried = carried.lock().expect("no panic while recording");
        carried.push(Carried::default());
        carried.len() - 1
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let keep = |chunk: &[u8], of: fn(&mut Carried) -> &mut Vec<u8>| {
        of(&mut carried.lock().expect("no panic while recording")[number]).extend_from_slice(chunk);
    };
    tokio::join!(
        copy(from_client, to_server, |chunk| keep(chunk, |c| &mut c.sent)),
        copy(from_server, to_client, |chunk| keep(chunk, |c| &mut c.received)),
    );
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, keep: impl Fn(&[u8])) {
    let mut chunk = vec![0; 16 * 1024];
    // However one side ends, the other is told by the end of the writing half.
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        keep(&chunk[..n]);
        if to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}
