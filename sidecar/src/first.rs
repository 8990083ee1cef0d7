//! Reading a connection's first bytes until they tell what it is, without a stall for protocols in which the server speaks first.

use crate::detect::{DETECT_BYTES_MAX, Detected};
use crate::drain::Watch;
use crate::http1::conn::Conn;
use crate::metrics::Direction;
use bytes::{Bytes, BytesMut};
use std::future::{Future, poll_fn};
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long a client of an undeclared port may stay silent before the server may speak first. Clients that speak first do so in the
/// same flight as their handshake's last packet: a few milliseconds are plenty.
pub const SILENCE: Duration = Duration::from_millis(30);
/// How long the rest of something that began like HTTP or TLS may take before it passes as opaque bytes.
const REST: Duration = Duration::from_secs(10);

/// How long a drain lets a connection be silent on which nothing has come yet: what its client sends now may be on its way.
const FAREWELL: Duration = Duration::from_secs(1);

/// What was learned of a connection's begin.
#[derive(Debug)]
pub struct First {
    /// What it is; [`Detected::NeedMore`]: the client is silent.
    pub detected: Detected,
    /// What was read for it.
    pub bytes: Bytes,
    /// Whether the client has ended its side.
    pub ended: bool,
}

/// Waits until a connection that has said nothing need not be waited for any more, because this sidecar ends. Cancel safe.
pub async fn farewell(drain: &Watch, direction: Direction) {
    drain.ending(direction).await;
    tokio::time::sleep(FAREWELL).await;
}

/// Reads until `decide` knows. A client that sends nothing for `silence` is reported as silent; `None`: it may take until `farewell`,
/// which is an error.
///
/// Not cancel safe: what was read is lost.
pub async fn read(
    tcp: &mut TcpStream,
    mut bytes: BytesMut,
    silence: Option<Duration>,
    decide: impl Fn(&[u8]) -> Detected,
    farewell: impl Future<Output = ()>,
) -> io::Result<First> {
    tokio::pin!(farewell);
    let mut deadline = silence.map(|s| Instant::now() + s);
    let mut began = false;
    loop {
        let detected = decide(&bytes);
        if detected != Detected::NeedMore {
            return Ok(First { detected, bytes: bytes.freeze(), ended: false });
        }
        if !began && !bytes.is_empty() {
            began = true;
            deadline = Some(Instant::now() + REST);
        }
        bytes.reserve(2048);
        let read = match deadline {
            Some(deadline) => match timeout_at(deadline, tcp.read_buf(&mut bytes)).await {
                Ok(read) => read,
                Err(_) if bytes.is_empty() => return Ok(First { detected: Detected::NeedMore, bytes: Bytes::new(), ended: false }),
                Err(_) => return Ok(First { detected: Detected::Opaque, bytes: bytes.freeze(), ended: false }),
            },
            // Without a deadline nothing has come yet.
            None => tokio::select! {
                biased;
                read = tcp.read_buf(&mut bytes) => read,
                () = &mut farewell => return Err(io::ErrorKind::ConnectionAborted.into()),
            },
        };
        if read? == 0 || bytes.len() >= MAX {
            let ended = bytes.len() < MAX;
            return Ok(First { detected: Detected::Opaque, bytes: bytes.freeze(), ended });
        }
    }
}

/// Who spoke first on a connection where nobody was in a hurry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The client, or it ended its side.
    Client,
    /// The server, or it ended its side.
    Server,
}

/// Waits until one side speaks; takes nothing from the client. Cancel safe.
pub async fn speaker(client: &TcpStream, server: &mut Conn) -> Speaker {
    tokio::select! {
        biased;
        _ = client.readable() => Speaker::Client,
        _ = poll_fn(|cx| server.poll_fill(cx)) => Speaker::Server,
    }
}

/// A ClientHello may take more than a request line.
const MAX: usize = DETECT_BYTES_MAX + heddle_identity::client_hello::MAX_CLIENT_HELLO;
