//! Bytes in both directions, with half-close: opaque connections, upgraded ones, CONNECT.

use crate::cause::Cause;
use crate::drain::Watch;
use crate::exchange::Exchange;
use crate::http1::conn::Conn;
use crate::http1::head::RequestHead;
use socket2::SockRef;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// One direction of a copy.
#[derive(Debug, Default)]
struct Flow {
    moved: u64,
    ended: bool,
}

impl Flow {
    /// Copies until the sender has ended and the receiver knows it.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Conn, to: &mut Conn) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !from.input.is_empty() {
                let n = ready!(to.poll_write_through(cx, from.input.data()))?;
                from.input.consume(n);
                self.moved += n as u64;
                continue;
            }
            if from.ended {
                ready!(to.poll_flush(cx))?;
                ready!(Pin::new(&mut to.io).poll_shutdown(cx))?;
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if from.poll_fill(cx)?.is_pending() {
                // What was moved must not wait for what comes.
                ready!(to.poll_flush(cx))?;
                return Poll::Pending;
            }
        }
    }
}

/// How a copy ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Bytes from client to server.
    pub sent: u64,
    /// Bytes from server to client.
    pub received: u64,
    /// Why.
    pub cause: Cause,
}

/// Copies both ways until both sides have ended, one fails, nothing has moved for `idle`, or the drain has waited for it as long as it
/// may. A failure of one side, and an end that neither of them made, is told by a reset, as TCP would have told it.
///
/// `passed` is told how many bytes went each way since it was told last. Cancel safe: dropping it closes both connections.
pub async fn copy(client: &mut Conn, server: &mut Conn, idle: Option<Duration>, drain: &Watch, mut passed: impl FnMut(u64, u64)) -> Copied {
    let deadline = drain.deadline();
    tokio::pin!(deadline);
    let (mut sent, mut received) = (Flow::default(), Flow::default());
    let mut timer: Option<Pin<Box<Sleep>>> = idle.map(|d| Box::pin(tokio::time::sleep(d)));
    let (mut told_sent, mut told_received) = (0, 0);
    let result = poll_fn(|cx| {
        let there = sent.poll(cx, client, server).map_err(|_| ());
        let back = received.poll(cx, server, client).map_err(|_| ());
        let moved = sent.moved != told_sent || received.moved != told_received;
        if moved {
            passed(sent.moved - told_sent, received.moved - told_received);
            (told_sent, told_received) = (sent.moved, received.moved);
        }
        if there == Poll::Ready(Err(())) || back == Poll::Ready(Err(())) {
            return Poll::Ready(Cause::Reset);
        }
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Cause::None);
        }
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Cause::Draining);
        }
        if let (Some(timer), Some(idle)) = (&mut timer, idle) {
            if moved {
                timer.as_mut().reset(Instant::now() + idle);
            }
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Cause::IdleTimeout);
            }
        }
        Poll::Pending
    })
    .await;
    if result != Cause::None {
        reset(client.io.tcp());
        reset(server.io.tcp());
    }
    Copied { sent: sent.moved, received: received.moved, cause: result }
}

/// Turns an HTTP/1 exchange into a copy, after a 101 or a CONNECT's 2xx whose head waits in `client`'s output.
pub async fn tunnel(client: &mut Conn, mut server: Conn, exchange: Exchange, idle: Option<Duration>, head: &RequestHead) {
    let upgraded = if head.is_connect() { 200 } else { 101 };
    let drain = exchange.client.worker.drain.clone();
    let copied = copy(client, &mut server, idle, &drain, |_, _| {}).await;
    exchange.finish(head, upgraded, copied.cause, (copied.sent, copied.received));
}

/// Makes the close of a connection a reset (RFC 9293 §3.5.2), so that the other side cannot take it for an orderly end.
pub fn reset(tcp: &TcpStream) {
    // Where the option is refused, the close is an orderly one, which framing above shows to be early.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}
