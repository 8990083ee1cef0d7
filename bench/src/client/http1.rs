//! A minimal HTTP/1.1 client: one prepared request, answers with a content length.

use std::io;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Call;
use crate::head::{self, Head};

/// Bytes read at once at the first read of a connection; grows to what a head needs, bodies pass through.
const BUFFER: usize = 2 * 1024;

/// One keep-alive connection.
#[derive(Debug)]
pub(crate) struct Http1 {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http1 {
    /// Prepares the request.
    pub(crate) fn new(stream: TcpStream, call: &Call) -> Self {
        let authority = &call.authority;
        let request = format!("GET /bench HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: heddle-bench\r\nAccept: */*\r\n\r\n");
        Self { stream, request: request.into_bytes(), buffer: vec![0; BUFFER] }
    }

    pub(super) async fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await.context("cannot send a request")?;
        let mut filled = 0;
        let head = loop {
            if filled == self.buffer.len() {
                self.buffer.resize(2 * filled, 0);
            }
            let count = self.stream.read(&mut self.buffer[filled..]).await.context("cannot read an answer")?;
            ensure!(count > 0, "the connection was closed after {filled} bytes of an answer");
            filled += count;
            if let Some(head) = Head::parse(&self.buffer[..filled])? {
                break head;
            }
        };
        let status = head::status(&self.buffer).context("the answer has no status")?;
        if status != 200 {
            let answer = String::from_utf8_lossy(&self.buffer[..filled.min(600)]).into_owned();
            bail!("the answer is not the origin's: {answer}");
        }
        let body = head.content_length.context("the answer has no content length")?;
        let mut left = (head.length + body).checked_sub(filled).context("more bytes came than the answer has")?;
        while left > 0 {
            let room = self.buffer.len().min(left);
            let count = self.stream.read(&mut self.buffer[..room]).await?;
            ensure!(count > 0, "the connection was closed {left} bytes before the end of an answer");
            left -= count;
        }
        ensure!(!head.close, "the other side closes the connection after an answer");
        Ok(())
    }

    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}
