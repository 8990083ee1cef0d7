//! Read buffers that a connection holds only while it has bytes: an idle connection costs none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// One TLS record's plaintext is at most 16 KiB: a read empties a record.
pub const BUFFER_BYTES: usize = 16 * 1024;
/// Idle buffers that a worker keeps: 1 MiB; more connections than that are rarely busy at one moment.
const FREE_MAX: usize = 64;

/// The idle buffers of one worker.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    free: Rc<RefCell<Vec<Box<[u8]>>>>,
}

impl Buffers {
    fn take(&self) -> Box<[u8]> {
        self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    fn give(&self, storage: Box<[u8]>) {
        let mut free = self.free.borrow_mut();
        if storage.len() == BUFFER_BYTES && free.len() < FREE_MAX {
            free.push(storage);
        }
    }
}

/// Bytes read and not yet consumed.
#[derive(Debug)]
pub struct Buffer {
    storage: Option<Box<[u8]>>,
    start: usize,
    end: usize,
    free: Buffers,
}

impl Buffer {
    /// An empty buffer, which holds no memory.
    pub fn new(free: Buffers) -> Self {
        Self { storage: None, start: 0, end: 0, free }
    }

    /// What is there.
    pub fn data(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |s| &s[self.start..self.end])
    }

    /// How much is there.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether no more can be read before something is consumed or [`Buffer::grow`] is called.
    pub fn is_full(&self) -> bool {
        self.storage.as_ref().is_some_and(|s| self.len() == s.len())
    }

    /// Drops `n` bytes from the front; gives the memory back when nothing is left.
    pub fn consume(&mut self, n: usize) {
        self.start += n.min(self.len());
        if self.is_empty() {
            self.release();
        }
    }

    /// Doubles the room, up to `max` bytes; `false`: it is as large already.
    pub fn grow(&mut self, max: usize) -> bool {
        let len = self.storage.as_ref().map_or(0, |s| s.len());
        let larger = (len * 2).clamp(BUFFER_BYTES, max.max(BUFFER_BYTES));
        if larger <= len {
            return false;
        }
        let mut storage = vec![0; larger].into_boxed_slice();
        let data = self.data();
        let have = data.len();
        storage[..have].copy_from_slice(data);
        self.release();
        self.storage = Some(storage);
        self.end = have;
        true
    }

    /// Reads once; `Ready(0)` is the end of the stream, or that the buffer is full. Holds no memory while it waits empty-handed.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, io: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        let free = &self.free;
        let storage = self.storage.get_or_insert_with(|| free.take());
        if self.start > 0 && self.end == storage.len() {
            storage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let mut buf = ReadBuf::new(&mut storage[self.end..]);
        let polled = Pin::new(io).poll_read(cx, &mut buf);
        let n = buf.filled().len();
        self.end += n;
        if self.is_empty() {
            self.release();
        }
        ready!(polled)?;
        Poll::Ready(Ok(n))
    }

    fn release(&mut self) {
        if let Some(storage) = self.storage.take() {
            self.free.give(storage);
        }
        self.start = 0;
        self.end = 0;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}
