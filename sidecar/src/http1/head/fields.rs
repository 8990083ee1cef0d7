//! The fields of a head: in one buffer, in the order and case that they came in, with the edits made since.

use super::HeadError;
use crate::http1::body::Framing;
use smallvec::SmallVec;

/// A range of the head's buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    pub(super) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..self.len as usize]
    }
}

/// Fields that the proxy itself must understand; everything else passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    Other,
    Connection,
    ContentLength,
    Host,
    KeepAlive,
    ProxyConnection,
    Te,
    TransferEncoding,
    Upgrade,
}

impl Known {
    pub(super) fn of(name: &[u8]) -> Self {
        let known: (&[u8], Self) = match name.len() {
            2 => (b"te", Self::Te),
            4 => (b"host", Self::Host),
            7 => (b"upgrade", Self::Upgrade),
            10 if name[0] | 0x20 == b'c' => (b"connection", Self::Connection),
            10 => (b"keep-alive", Self::KeepAlive),
            14 => (b"content-length", Self::ContentLength),
            16 => (b"proxy-connection", Self::ProxyConnection),
            17 => (b"transfer-encoding", Self::TransferEncoding),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(known.0) { known.1 } else { Self::Other }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: Span,
    pub(super) value: Span,
    pub(super) known: Known,
    /// Of this hop only: not written to the next one.
    pub(super) hop: bool,
}

/// The fields of one head, in order and case as they came, and the edits made since.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) bytes: Vec<u8>,
    pub(super) list: Vec<Field>,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        span(start, bytes.len())
    }

    /// Takes over a parsed field whose slices lie within `head`, which `self.bytes` begins with.
    pub(super) fn push_parsed(&mut self, head: &[u8], header: &httparse::Header<'_>) {
        let name = within(head, header.name.as_bytes());
        let folded = header.value.iter().any(|b| matches!(b, b'\r' | b'\n'));
        let value = if folded {
            // obs-fold in a response: a proxy replaces it by spaces (RFC 9112 §5.2).
            let unfolded: Vec<u8> = header.value.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect();
            self.push_bytes(&unfolded)
        } else {
            within(head, header.value)
        };
        self.list.push(Field { name, value, known: Known::of(header.name.as_bytes()), hop: false });
    }

    pub(super) fn name(&self, field: Field) -> &[u8] {
        field.name.of(&self.bytes)
    }

    pub(super) fn value(&self, field: Field) -> &[u8] {
        field.value.of(&self.bytes)
    }

    pub(super) fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.list.iter().filter(move |f| self.name(**f).eq_ignore_ascii_case(name)).map(|f| self.value(*f))
    }

    pub(super) fn known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.list.iter().filter(move |f| f.known == known).map(|f| self.value(*f))
    }

    pub(super) fn append(&mut self, name: &[u8], value: &[u8]) {
        let name_span = self.push_bytes(name);
        let value_span = self.push_bytes(value);
        self.list.push(Field { name: name_span, value: value_span, known: Known::of(name), hop: false });
    }

    /// Replaces the first value in place, keeping its name's case, and removes the others.
    pub(super) fn set(&mut self, name: &[u8], value: &[u8]) {
        let Some(first) = self.list.iter().position(|f| self.name(*f).eq_ignore_ascii_case(name)) else {
            return self.append(name, value);
        };
        self.list[first].value = self.push_bytes(value);
        // What this proxy sets is for the next hop, whatever the client named in Connection.
        self.list[first].hop &= self.list[first].known != Known::Other;
        let bytes = &self.bytes;
        let mut index = 0;
        self.list.retain(|f| {
            index += 1;
            index - 1 <= first || !f.name.of(bytes).eq_ignore_ascii_case(name)
        });
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        let bytes = &self.bytes;
        self.list.retain(|f| !f.name.of(bytes).eq_ignore_ascii_case(name));
    }

    /// Marks what is of this hop only (RFC 9110 §7.6.1) and says what `Connection` asked for.
    pub(super) fn mark_hops(&mut self) -> ConnectionOptions {
        let mut options = ConnectionOptions::default();
        let mut nominated: SmallVec<[Span; 4]> = SmallVec::new();
        for field in &self.list {
            if matches!(field.known, Known::Connection | Known::ProxyConnection) {
                for (start, token) in tokens(field.value.of(&self.bytes)) {
                    if token.eq_ignore_ascii_case(b"close") {
                        options.close = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        options.keep_alive = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        options.upgrade = true;
                    } else if field.known == Known::Connection {
                        nominated.push(span(field.value.start as usize + start, token.len()));
                    }
                }
            }
        }
        for index in 0..self.list.len() {
            let field = self.list[index];
            self.list[index].hop = match field.known {
                Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Te | Known::Upgrade => true,
                // Framing and routing are not the peer's to take away by naming them in Connection.
                Known::ContentLength | Known::Host | Known::TransferEncoding => false,
                Known::Other => nominated.iter().any(|n| n.of(&self.bytes).eq_ignore_ascii_case(self.name(field))),
            };
        }
        options
    }

    /// The body's framing by fields alone; `None`: neither length nor coding.
    pub(super) fn framing(&self, version: u8) -> Result<Option<Framing>, HeadError> {
        let mut lengths = self.known(Known::ContentLength);
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(HeadError::Ambiguous("more than one Content-Length"));
        }
        let mut chunked = false;
        let mut coded = false;
        for (_, coding) in self.known(Known::TransferEncoding).flat_map(tokens) {
            if chunked {
                return Err(HeadError::Ambiguous("chunked is not the last transfer coding"));
            }
            coded = true;
            if coding.eq_ignore_ascii_case(b"chunked") {
                chunked = true;
            } else if ![&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"].iter().any(|c| coding.eq_ignore_ascii_case(c)) {
                return Err(HeadError::TransferCoding);
            }
        }
        let has_coding_field = self.known(Known::TransferEncoding).next().is_some();
        if has_coding_field && length.is_some() {
            return Err(HeadError::Ambiguous("both Content-Length and Transfer-Encoding"));
        }
        if has_coding_field && version == 0 {
            return Err(HeadError::Ambiguous("Transfer-Encoding in HTTP/1.0"));
        }
        // RFC 9110 §5.6.1 has them skipped, but not all applications do: one that takes `chunked,` for an unknown coding and the request
        // for one without a body would take its chunks for requests.
        if self.known(Known::TransferEncoding).any(|value| value.split(|b| *b == b',').any(|coding| coding.trim_ascii().is_empty())) {
            return Err(HeadError::Ambiguous("an empty transfer coding"));
        }
        match (chunked, coded, length) {
            (true, _, _) => Ok(Some(Framing::Chunked)),
            (false, true, _) => Ok(Some(Framing::UntilClose)),
            (false, false, Some(length)) => decimal(length).map(|n| Some(Framing::Length(n))),
            (false, false, None) => Ok(None),
        }
    }

    /// Whether `TE` says that trailers are welcome; the one part of it that may be passed on.
    pub(super) fn te_trailers(&self) -> bool {
        self.known(Known::Te).flat_map(tokens).any(|(_, t)| t.eq_ignore_ascii_case(b"trailers"))
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for field in self.list.iter().filter(|f| !f.hop) {
            out.extend_from_slice(field.name.of(&self.bytes));
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value.of(&self.bytes));
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// What `Connection` asks of this hop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// The connection ends after this message.
    pub close: bool,
    /// An HTTP/1.0 peer wants to go on.
    pub keep_alive: bool,
    /// The fields `Upgrade` are meant.
    pub upgrade: bool,
}

pub(super) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn span(start: usize, len: usize) -> Span {
    // A head is bounded by the header limit, which the configuration keeps below 4 GiB.
    Span { start: u32::try_from(start).unwrap_or(u32::MAX), len: u32::try_from(len).unwrap_or(u32::MAX) }
}

/// The place of `part` within `whole`, of which it is a slice.
pub(super) fn within(whole: &[u8], part: &[u8]) -> Span {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    debug_assert!(start + part.len() <= whole.len(), "the part lies within the whole");
    span(start, part.len())
}

/// Comma-separated elements without white space around them, with their places; empty ones are skipped (RFC 9110 §5.6.1).
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    value.split(|b| *b == b',').filter_map(move |part| {
        let start = at;
        at += part.len() + 1;
        let trimmed = part.trim_ascii();
        let lead = part.len() - part.trim_ascii_start().len();
        (!trimmed.is_empty()).then_some((start + lead, trimmed))
    })
}

/// Digits only: no sign, no list, no white space (RFC 9110 §8.6).
pub(super) fn decimal(text: &[u8]) -> Result<u64, HeadError> {
    const INVALID: HeadError = HeadError::Ambiguous("an invalid Content-Length");
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    Ok(text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}
