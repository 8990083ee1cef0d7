//! The head of a response: its status, where its body ends, and whether its connection goes on.

use super::fields::{ConnectionOptions, Fields, Known, Span, tokens, within, write_field};
use super::{FIELDS_INLINE, FIELDS_MAX, HeadError, malformed};
use crate::http1::body::Framing;
use std::mem::MaybeUninit;

/// The head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    fields: Fields,
    status: u16,
    reason: Span,
    version: u8,
    framing: Framing,
    options: ConnectionOptions,
}

impl ResponseHead {
    /// Parses the head at the front of `bytes`; `Ok(None)`: more bytes are needed. Returns its length.
    ///
    /// `to_head`, `to_connect`: what the request was, which framing depends on (RFC 9112 §6.3).
    pub fn parse(&mut self, bytes: &[u8], to_head: bool, to_connect: bool) -> Result<Option<usize>, HeadError> {
        let mut inline = [const { MaybeUninit::uninit() }; FIELDS_INLINE];
        let parsed = match self.parse_into(bytes, &mut inline) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut heap = vec![MaybeUninit::uninit(); FIELDS_MAX];
                self.parse_into(bytes, &mut heap)
            }
            parsed => parsed,
        }
        .map_err(malformed)?;
        let Some(len) = parsed else {
            return Ok(None);
        };
        let bodiless = to_head || matches!(self.status, 100..=199 | 204 | 304) || (to_connect && (200..300).contains(&self.status));
        self.framing = if bodiless { Framing::None } else { self.fields.framing(self.version)?.unwrap_or(Framing::UntilClose) };
        self.options = self.fields.mark_hops();
        Ok(Some(len))
    }

    fn parse_into<'b>(
        &mut self,
        bytes: &'b [u8],
        headers: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<Option<usize>, httparse::Error> {
        let mut response = httparse::Response::new(&mut []);
        let mut config = httparse::ParserConfig::default();
        config.allow_obsolete_multiline_headers_in_responses(true);
        let httparse::Status::Complete(len) = config.parse_response_with_uninit_headers(&mut response, bytes, headers)? else {
            return Ok(None);
        };
        let head = &bytes[..len];
        self.fields.clear();
        self.fields.bytes.extend_from_slice(head);
        self.status = response.code.unwrap_or_default();
        // The tokenizer gives none that has bytes beyond ASCII.
        self.reason = within(head, reason(head));
        self.version = response.version.unwrap_or(1);
        for header in response.headers.iter() {
            self.fields.push_parsed(head, header);
        }
        Ok(Some(len))
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Where the body ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the server's connection can be used again after this response.
    pub fn keeps_alive(&self) -> bool {
        self.framing != Framing::UntilClose && !self.options.close && (self.version == 1 || self.options.keep_alive)
    }

    /// The idle time that the server announces by `Keep-Alive: timeout=` in seconds.
    pub fn keep_alive_timeout(&self) -> Option<u64> {
        let value = self.fields.known(Known::KeepAlive).next()?;
        tokens(value).find_map(|(_, token)| {
            let (name, seconds) = std::str::from_utf8(token).ok()?.split_once('=')?;
            name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().parse().ok())?
        })
    }

    /// The first value of a field.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.values(name.as_bytes()).next()
    }

    /// Replaces a field, or adds it at the end.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.fields.set(name.as_bytes(), value);
    }

    /// Adds a field at the end.
    pub fn append(&mut self, name: &str, value: &[u8]) {
        self.fields.append(name.as_bytes(), value);
    }

    /// Removes all values of a field.
    pub fn remove(&mut self, name: &str) {
        self.fields.remove(name.as_bytes());
    }

    /// Writes the head as it goes to the client.
    ///
    /// `close`: whether this proxy ends the client's connection after it; `client`: the client's version and options.
    pub fn write(&self, out: &mut Vec<u8>, close: bool, client_version: u8) {
        out.reserve(self.fields.bytes.len() + 64);
        out.extend_from_slice(if self.version == 1 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
        let digits = [self.status / 100, self.status / 10 % 10, self.status % 10].map(|d| b"0123456789"[usize::from(d)]);
        out.extend_from_slice(&digits);
        out.push(b' ');
        out.extend_from_slice(self.reason.of(&self.fields.bytes));
        out.extend_from_slice(b"\r\n");
        self.fields.write(out);
        if self.status == 101 || (self.status == 426 && self.options.upgrade) {
            for value in self.fields.known(Known::Upgrade) {
                write_field(out, b"Upgrade", value);
            }
            write_field(out, b"Connection", if close && self.status != 101 { b"Upgrade, close" } else { b"Upgrade" });
        } else if !(100..200).contains(&self.status) {
            if close {
                write_field(out, b"Connection", b"close");
            } else if client_version == 0 || self.version == 0 {
                write_field(out, b"Connection", b"keep-alive");
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Gives the memory of an unusually large head back.
    pub fn shrink(&mut self, capacity: usize) {
        if self.fields.bytes.capacity() > capacity {
            self.fields.clear();
            self.fields.bytes.shrink_to(0);
            self.fields.list.shrink_to(0);
        }
    }
}

/// The reason phrase of a whole head; may be anything but a line's end (RFC 9112 §4).
fn reason(head: &[u8]) -> &[u8] {
    // Empty lines before a status line are skipped, as before a request.
    let line =
        head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).find(|l| !l.is_empty()).unwrap_or_else(|| &head[..0]);
    // Some servers leave out the space before an empty one too. Always a part of the head: its place is what is kept.
    line.splitn(3, |b| *b == b' ').nth(2).unwrap_or_else(|| &line[line.len()..])
}
