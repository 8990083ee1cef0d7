//! One HTTP/1 connection of either side, and the pump that moves a body between two of them.

use super::body::{BodyError, BodyScanner};
use crate::buffer::{BUFFER_BYTES, Buffer, Buffers};
use crate::io::Io;
use heddle_model::retry::REPLAY_BYTES_MAX;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// A connection with what was read from it and what waits to be written to it.
#[derive(Debug)]
pub struct Conn {
    /// The bytes.
    pub io: Io,
    /// Read and not yet consumed.
    pub input: Buffer,
    /// Whether the peer has ended its side.
    pub ended: bool,
    /// Whether this side has ended.
    finished: bool,
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
}

impl Conn {
    /// A fresh connection.
    pub fn new(io: Io, buffers: Buffers) -> Self {
        Self { io, input: Buffer::new(buffers), ended: false, finished: false, output: Vec::new(), written: 0, unflushed: false }
    }

    /// Where to append what is to be written next.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether everything was written.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    /// Reads once. `Ready(0)`: the peer has ended its side, which `ended` remembers.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(self.input.poll_fill(cx, &mut self.io))?;
        if n == 0 && !self.input.is_full() {
            self.ended = true;
        }
        Poll::Ready(Ok(n))
    }

    /// Writes all output, and what TLS holds back.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_output(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
            self.unflushed = true;
        }
        self.written = 0;
        self.output.clear();
        Poll::Ready(Ok(()))
    }

    /// Writes bytes past `output`, which must be empty.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        debug_assert!(self.output.is_empty(), "what was queued goes first");
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        Poll::Ready(Ok(n))
    }

    /// Writes what is queued, then as much of `bytes` as goes.
    pub fn poll_write_through(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_output(cx))?;
        self.poll_write(cx, bytes)
    }

    /// Writes all output and ends this side; the peer may still send.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_flush(cx))?;
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        self.finished = true;
        Poll::Ready(Ok(()))
    }

    /// Gives back memory that an idle connection does not need.
    pub fn rest(&mut self) {
        if self.output.is_empty() {
            self.output = Vec::new();
        }
    }

    /// Whether either side has ended the connection, or the peer has sent what nobody asked for: an idle connection must be silent.
    ///
    /// Registers no waker.
    pub fn is_stale(&mut self) -> bool {
        if self.ended || self.finished || !self.input.is_empty() {
            return true;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.poll_fill(&mut cx).is_ready()
    }
}

/// The first bytes of a body, for another attempt.
#[derive(Debug, Default)]
pub struct Replay {
    bytes: Vec<u8>,
    overflowed: bool,
    sealed: bool,
}

impl Replay {
    /// Forgets everything, for the next exchange.
    pub fn clear(&mut self) {
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_BYTES {
            self.bytes.shrink_to(0);
        }
        self.overflowed = false;
        self.sealed = false;
    }

    /// What was sent; `None`: more than is kept.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.overflowed).then_some(&self.bytes)
    }

    /// No other attempt will come: stop keeping bytes.
    pub fn seal(&mut self) {
        self.sealed = true;
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.sealed || self.overflowed {
            self.overflowed = self.overflowed || !bytes.is_empty();
        } else if self.bytes.len() + bytes.len() > REPLAY_BYTES_MAX {
            self.overflowed = true;
            self.bytes.clear();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

/// Why a body stopped moving.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The sender failed.
    #[error("reading a body: {0}")]
    Read(#[source] io::Error),
    /// The sender ended before its body did.
    #[error("the body was cut short")]
    Truncated,
    /// What it sent is no body.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The receiver failed.
    #[error("writing a body: {0}")]
    Write(#[source] io::Error),
}

/// Moves one body from one connection to another, as it is.
#[derive(Debug)]
pub struct Pump {
    scanner: BodyScanner,
    /// Scanned bytes at the front of the sender's input.
    pending: usize,
    /// Body bytes moved so far, framing included.
    pub moved: u64,
}

impl Pump {
    /// A pump at the start of a body.
    pub fn new(scanner: BodyScanner) -> Self {
        Self { scanner, pending: 0, moved: 0 }
    }

    /// Whether the whole body was taken from the sender; it may still wait in the receiver's output.
    pub fn is_done(&self) -> bool {
        self.scanner.is_done() && self.pending == 0
    }

    /// Drops what has already come of the body; whether that was all of it.
    pub fn discard(&mut self, from: &mut Conn) -> bool {
        from.input.consume(self.pending);
        self.pending = 0;
        if let Ok(n) = self.scanner.scan(from.input.data()) {
            from.input.consume(n);
        }
        self.is_done()
    }

    /// Moves bytes until all are moved and flushed, or either side must be waited for.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Conn,
        to: &mut Conn,
        mut replay: Option<&mut Replay>,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            if self.pending == 0 && !self.scanner.is_done() && !from.input.is_empty() {
                self.pending = self.scanner.scan(from.input.data())?;
            }
            if self.pending > 0 && !to.output.is_empty() && to.output.len() + self.pending <= 2 * BUFFER_BYTES {
                // The head waits: one write for both.
                to.output.extend_from_slice(&from.input.data()[..self.pending]);
                self.took(self.pending, from, replay.as_deref_mut());
                continue;
            }
            ready!(to.poll_output(cx)).map_err(PumpError::Write)?;
            if self.pending > 0 {
                let n = ready!(to.poll_write(cx, &from.input.data()[..self.pending])).map_err(PumpError::Write)?;
                self.took(n, from, replay.as_deref_mut());
                continue;
            }
            if self.scanner.is_done() {
                return to.poll_flush(cx).map_err(PumpError::Write);
            }
            if from.ended {
                if !self.scanner.end() {
                    return Poll::Ready(Err(PumpError::Truncated));
                }
                continue;
            }
            match from.poll_fill(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                Poll::Pending => {
                    // What was moved must not wait for what comes: events, long polls, 100-continue.
                    ready!(to.poll_flush(cx)).map_err(PumpError::Write)?;
                    return Poll::Pending;
                }
            }
        }
    }

    fn took(&mut self, n: usize, from: &mut Conn, replay: Option<&mut Replay>) {
        if let Some(replay) = replay {
            replay.push(&from.input.data()[..n]);
        }
        from.input.consume(n);
        self.pending -= n;
        self.moved += n as u64;
    }
}
