//! One TCP connection (or anything that reads and writes like one) with a deadline on everything, and a record of what it received.

use crate::wait::soon;
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that a connection has received, shared with the test.
pub type Received = Arc<Mutex<Vec<u8>>>;

/// A connection. Everything that waits panics after [`crate::wait::PATIENCE`].
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    received: Option<Received>,
}

impl Wire {
    /// Wraps a connection.
    pub fn new(stream: TcpStream) -> Self {
        // Without it a test would measure Nagle's algorithm. A connection that was reset at once has no options.
        let _gone = stream.set_nodelay(true);
        Self { stream, buffer: Vec::new(), received: None }
    }

    /// Connects.
    ///
    /// # Panics
    /// When nobody accepts.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = soon("a connection", TcpStream::connect(address)).await;
        Self::new(stream.unwrap_or_else(|e| panic!("connecting to {address}: {e}")))
    }

    /// Keeps a copy of everything that is received.
    #[must_use]
    pub fn recording(mut self, received: Received) -> Self {
        self.received = Some(received);
        self
    }

    /// Writes all of it.
    ///
    /// # Panics
    /// When the other side does not take it.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap_or_else(|e| panic!("sending: {e}"));
    }

    /// Writes all of it, or says why not.
    ///
    /// # Errors
    /// What the system says.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        soon("room to send", self.stream.write_all(bytes.as_ref())).await
    }

    /// Reads once; `Ok(0)`: the other side has ended.
    ///
    /// # Errors
    /// What the system says, a reset for example.
    pub async fn try_fill(&mut self) -> io::Result<usize> {
        let mut chunk = vec![0; 16 * 1024];
        let n = soon("bytes from the other side", self.stream.read(&mut chunk)).await?;
        if let Some(received) = &self.received {
            received.lock().expect("no panic while recording").extend_from_slice(&chunk[..n]);
        }
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(n)
    }

    async fn fill(&mut self, wanted: &str) {
        let n = self.try_fill().await.unwrap_or_else(|e| panic!("waiting for {wanted}: {e}; so far {}", self.seen()));
        assert!(n > 0, "the connection ended before {wanted}; so far {}", self.seen());
    }

    fn seen(&self) -> String {
        let shown = &self.buffer[..self.buffer.len().min(2000)];
        format!("{} bytes: {:?}", self.buffer.len(), String::from_utf8_lossy(shown))
    }

    /// Everything up to and including `end`.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|w| w == end) {
                return self.take(from + at + end.len());
            }
            from = self.buffer.len().saturating_sub(end.len() - 1);
            self.fill(&format!("{:?}", String::from_utf8_lossy(end))).await;
        }
    }

    /// As much as [`Wire::until`], or `None` when the other side ended, or was reset, before a first byte.
    pub async fn until_or_end(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        if self.buffer.is_empty() && !matches!(self.try_fill().await, Ok(n) if n > 0) {
            return None;
        }
        Some(self.until(end).await)
    }

    /// Exactly `len` bytes.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn exactly(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            self.fill(&format!("{len} bytes")).await;
        }
        self.take(len)
    }

    /// Asserts that exactly these bytes come next.
    ///
    /// # Panics
    /// When others do.
    pub async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let expected = bytes.as_ref();
        let found = self.exactly(expected.len()).await;
        assert_eq!(String::from_utf8_lossy(&found), String::from_utf8_lossy(expected));
    }

    /// Everything up to the orderly end of the other side.
    ///
    /// # Panics
    /// When it is reset.
    pub async fn to_end(&mut self) -> Vec<u8> {
        while self.try_fill().await.unwrap_or_else(|e| panic!("waiting for the end: {e}; so far {}", self.seen())) > 0 {}
        self.take(self.buffer.len())
    }

    /// Everything up to the end of the other side, and whether that was an orderly one rather than a reset.
    pub async fn to_any_end(&mut self) -> (Vec<u8>, bool) {
        loop {
            match self.try_fill().await {
                Ok(0) => return (self.take(self.buffer.len()), true),
                Ok(_) => {}
                Err(_) => return (self.take(self.buffer.len()), false),
            }
        }
    }

    /// Bytes received and not taken yet.
    pub fn pending(&self) -> &[u8] {
        &self.buffer
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        let rest = self.buffer.split_off(len);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Ends this side, and can still receive.
    pub async fn finish(&mut self) {
        // A connection that the other side has reset has no side to end.
        let _reset = self.stream.shutdown().await;
    }

    /// Cuts the connection with a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// The connection itself.
    ///
    /// # Panics
    /// When bytes were received that nobody has taken.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.buffer.is_empty(), "bytes were received and not taken: {}", self.seen());
        self.stream
    }
}
