//! Heads of HTTP/1 messages: strict parsing (RFC 9112), framing, edits that keep order and case, and writing them out again.
//!
//! Fields stay as the peer wrote them, in one buffer which a connection uses again for its next message: nothing is allocated for a
//! request whose headers nobody edits.

use super::body::Framing;
use heddle_model::RequestView;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::mem::MaybeUninit;

/// Fields tokenized without an allocation; a head with more pays one.
const FIELDS_INLINE: usize = 64;
/// The most fields of a head: 96 KiB of the shortest fields that real clients send.
const FIELDS_MAX: usize = 4096;

/// Why bytes are not a message that may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1 by RFC 9112.
    #[error("malformed HTTP/1 head: {0}")]
    Malformed(&'static str),
    /// Where the body ends depends on who reads it: request smuggling (RFC 9112 §11.2).
    #[error("ambiguous framing: {0}")]
    Ambiguous(&'static str),
    /// A transfer coding that cannot be passed on.
    #[error("unsupported transfer coding")]
    TransferCoding,
    /// A major version other than 1.
    #[error("unsupported HTTP version")]
    Version,
}

/// A range of the head's buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..][..self.len as usize]
    }
}

/// Fields that the proxy itself must understand; everything else passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
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
    fn of(name: &[u8]) -> Self {
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
struct Field {
    name: Span,
    value: Span,
    known: Known,
    /// Of this hop only: not written to the next one.
    hop: bool,
}

/// The fields of one head, in order and case as they came, and the edits made since.
#[derive(Debug, Default)]
struct Fields {
    bytes: Vec<u8>,
    list: Vec<Field>,
}

impl Fields {
    fn clear(&mut self) {
        self.bytes.clear();
        self.list.clear();
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        span(start, bytes.len())
    }

    /// Takes over a parsed field whose slices lie within `head`, which `self.bytes` begins with.
    fn push_parsed(&mut self, head: &[u8], header: &httparse::Header<'_>) {
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

    fn name(&self, field: Field) -> &[u8] {
        field.name.of(&self.bytes)
    }

    fn value(&self, field: Field) -> &[u8] {
        field.value.of(&self.bytes)
    }

    fn values<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.list.iter().filter(move |f| self.name(**f).eq_ignore_ascii_case(name)).map(|f| self.value(*f))
    }

    fn known(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.list.iter().filter(move |f| f.known == known).map(|f| self.value(*f))
    }

    fn joined(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let mut values = self.values(name);
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(Cow::Borrowed(first));
        };
        let mut all = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            all.push(b',');
            all.extend_from_slice(value);
        }
        Some(Cow::Owned(all))
    }

    fn append(&mut self, name: &[u8], value: &[u8]) {
        let name_span = self.push_bytes(name);
        let value_span = self.push_bytes(value);
        self.list.push(Field { name: name_span, value: value_span, known: Known::of(name), hop: false });
    }

    /// Replaces the first value in place, keeping its name's case, and removes the others.
    fn set(&mut self, name: &[u8], value: &[u8]) {
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

    fn remove(&mut self, name: &[u8]) {
        let bytes = &self.bytes;
        self.list.retain(|f| !f.name.of(bytes).eq_ignore_ascii_case(name));
    }

    /// Marks what is of this hop only (RFC 9110 §7.6.1) and says what `Connection` asked for.
    fn mark_hops(&mut self) -> ConnectionOptions {
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
    fn framing(&self, version: u8) -> Result<Option<Framing>, HeadError> {
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
    fn te_trailers(&self) -> bool {
        self.known(Known::Te).flat_map(tokens).any(|(_, t)| t.eq_ignore_ascii_case(b"trailers"))
    }

    fn write(&self, out: &mut Vec<u8>) {
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

/// The head of a request.
#[derive(Debug, Default)]
pub struct RequestHead {
    fields: Fields,
    method: Span,
    target: Span,
    authority: Option<Span>,
    path: Span,
    query: Option<Span>,
    version: u8,
    framing: Framing,
    options: ConnectionOptions,
}

impl RequestHead {
    /// Parses the head at the front of `bytes`, with all of RFC 9112's tests of framing; `Ok(None)`: more bytes are needed.
    ///
    /// Returns the head's length. The content of `self` before is forgotten; its memory is used again.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        let mut inline = [const { MaybeUninit::uninit() }; FIELDS_INLINE];
        match self.parse_into(bytes, &mut inline) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut heap = vec![MaybeUninit::uninit(); FIELDS_MAX];
                self.parse_into(bytes, &mut heap)
            }
            parsed => parsed,
        }
        .map_err(|error| if error == httparse::Error::Version && !names_version(bytes) { NO_VERSION } else { malformed(error) })?
        .map(|len| self.check().map(|()| len))
        .transpose()
    }

    fn parse_into<'b>(
        &mut self,
        bytes: &'b [u8],
        headers: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<Option<usize>, httparse::Error> {
        let mut request = httparse::Request::new(&mut []);
        let httparse::Status::Complete(len) =
            httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, headers)?
        else {
            return Ok(None);
        };
        let head = &bytes[..len];
        self.fields.clear();
        self.fields.bytes.extend_from_slice(head);
        self.method = within(head, request.method.unwrap_or_default().as_bytes());
        self.target = within(head, request.path.unwrap_or_default().as_bytes());
        self.version = request.version.unwrap_or(1);
        for header in request.headers.iter() {
            self.fields.push_parsed(head, header);
        }
        Ok(Some(len))
    }

    fn check(&mut self) -> Result<(), HeadError> {
        self.split_target()?;
        self.check_host()?;
        self.prefer_target();
        self.framing = match self.fields.framing(self.version)? {
            None => Framing::None,
            // Codings without chunked say nothing of a request's end (RFC 9112 §6.3).
            Some(Framing::UntilClose) => return Err(HeadError::Ambiguous("a request whose last transfer coding is not chunked")),
            Some(framing) => framing,
        };
        self.options = self.fields.mark_hops();
        Ok(())
    }

    /// RFC 9112 §3.2: exactly one in HTTP/1.1, and a valid one.
    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.fields.known(Known::Host);
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(HeadError::Malformed("more than one Host"));
        }
        if host.is_none() && self.version == 1 {
            return Err(HeadError::Malformed("no Host"));
        }
        if host.is_some_and(|h| !may_be_authority(h)) {
            return Err(HeadError::Malformed("an invalid Host"));
        }
        Ok(())
    }

    /// Where a URI as target and `Host` disagree, the target counts and `Host` is made to follow (RFC 9112 §3.2.2): else this proxy and
    /// the application could take one request for two different hosts.
    fn prefer_target(&mut self) {
        let Some(authority) = self.authority.filter(|_| !self.is_connect()) else {
            return;
        };
        let Self { fields, .. } = self;
        if let Some(host) = fields.list.iter_mut().find(|f| f.known == Known::Host)
            && !host.value.of(&fields.bytes).eq_ignore_ascii_case(authority.of(&fields.bytes))
        {
            host.value = authority;
        }
    }

    /// Splits the request target by its four forms (RFC 9112 §3.2).
    fn split_target(&mut self) -> Result<(), HeadError> {
        let target = self.target.of(&self.fields.bytes);
        let base = self.target.start as usize;
        let is_connect = self.method.of(&self.fields.bytes) == b"CONNECT";
        if target.contains(&b'#') {
            return Err(HeadError::Malformed("a fragment in the request target"));
        }
        let (authority, path_at) = if is_connect {
            if !may_be_authority(target) {
                return Err(HeadError::Malformed("an invalid authority in the request target"));
            }
            (Some(self.target), target.len())
        } else if target.first() == Some(&b'/') || target == b"*" {
            (None, 0)
        } else {
            let Some(scheme) = target.windows(3).position(|w| w == b"://").filter(|at| *at > 0) else {
                return Err(HeadError::Malformed("the request target is neither a path nor a URI"));
            };
            let at = scheme + 3;
            let end = target[at..].iter().position(|b| matches!(b, b'/' | b'?')).map_or(target.len(), |n| at + n);
            if end == at || !may_be_authority(&target[at..end]) {
                return Err(HeadError::Malformed("an invalid authority in the request target"));
            }
            (Some(span(base + at, end - at)), end)
        };
        let rest = &target[path_at..];
        let question = rest.iter().position(|b| *b == b'?');
        let path_len = question.unwrap_or(rest.len());
        let (path, query) = (span(base + path_at, path_len), question.map(|q| span(base + path_at + q + 1, rest.len() - q - 1)));
        self.authority = authority;
        self.path = path;
        self.query = query;
        Ok(())
    }

    /// The minor version: 0 or 1.
    pub fn version(&self) -> u8 {
        self.version
    }

    /// Where the body ends.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// What `Connection` asked for.
    pub fn options(&self) -> ConnectionOptions {
        self.options
    }

    /// Whether the client wants to send more on this connection (RFC 9112 §9.3).
    pub fn keeps_alive(&self) -> bool {
        !self.options.close && (self.version == 1 || self.options.keep_alive)
    }

    /// Whether it is a CONNECT, after whose 2xx only bytes follow.
    pub fn is_connect(&self) -> bool {
        self.method() == "CONNECT"
    }

    /// Whether it asks to change the protocol (RFC 9110 §7.8).
    ///
    /// Not to HTTP/2 (`h2c`), which a server may always decline and RFC 9113 §3.1 has given up: all further requests of the connection
    /// would pass as mere bytes, without routes and without authorization.
    pub fn upgrades(&self) -> bool {
        self.options.upgrade && self.version == 1 && self.upgrade_protocols().next().is_some()
    }

    fn upgrade_protocols(&self) -> impl Iterator<Item = &[u8]> {
        self.fields.known(Known::Upgrade).flat_map(tokens).map(|(_, protocol)| protocol).filter(|p| !p.eq_ignore_ascii_case(b"h2c"))
    }

    /// The authority: of the target, or `Host` (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&str> {
        let bytes = match self.authority {
            Some(authority) => authority.of(&self.fields.bytes),
            None => self.fields.known(Known::Host).next()?,
        };
        std::str::from_utf8(bytes).ok()
    }

    /// The first value of a field, as it came.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.fields.values(name.as_bytes()).next()
    }

    /// Calls `f` with each field's name and value, in order.
    pub fn each_field<'a>(&'a self, f: &mut dyn FnMut(&'a [u8], &'a [u8])) {
        for field in &self.fields.list {
            f(self.fields.name(*field), self.fields.value(*field));
        }
    }

    /// All values of a field, in order.
    pub fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields.values(name.as_bytes())
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

    /// Changes the path, keeping query and target form.
    pub fn set_path(&mut self, path: &str) {
        let mut target = Vec::with_capacity(self.target.len as usize + path.len());
        let from = self.target.start as usize;
        target.extend_from_slice(&self.fields.bytes[from..self.path.start as usize]);
        target.extend_from_slice(path.as_bytes());
        if let Some(query) = self.query {
            target.push(b'?');
            target.extend_from_slice(query.of(&self.fields.bytes));
        }
        self.set_target(&target);
    }

    /// Changes the authority in `Host` and in an absolute target.
    pub fn set_authority(&mut self, authority: &str) {
        self.fields.set(b"Host", authority.as_bytes());
        if let Some(old) = self.authority {
            let (from, to) = (self.target.start as usize, (self.target.start + self.target.len) as usize);
            let mut target = self.fields.bytes[from..old.start as usize].to_vec();
            target.extend_from_slice(authority.as_bytes());
            target.extend_from_slice(&self.fields.bytes[(old.start + old.len) as usize..to]);
            self.set_target(&target);
        }
    }

    fn set_target(&mut self, target: &[u8]) {
        self.target = self.fields.push_bytes(target);
        // It was split before, and a rewrite keeps its form.
        let split = self.split_target();
        debug_assert!(split.is_ok(), "a rewritten target keeps its form");
    }

    /// Writes the head as it goes to the next hop. `keep_alive`: whether this proxy wants to use the next connection again.
    pub fn write(&self, out: &mut Vec<u8>, keep_alive: bool) {
        out.reserve(self.fields.bytes.len() + 64);
        out.extend_from_slice(self.method.of(&self.fields.bytes));
        out.push(b' ');
        out.extend_from_slice(self.target.of(&self.fields.bytes));
        out.extend_from_slice(if self.version == 1 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" });
        self.fields.write(out);
        let te = self.fields.te_trailers();
        if te {
            out.extend_from_slice(b"TE: trailers\r\n");
        }
        if self.upgrades() {
            for protocol in self.upgrade_protocols() {
                write_field(out, b"Upgrade", protocol);
            }
            write_field(out, b"Connection", if te { b"Upgrade, TE" } else { b"Upgrade" });
        } else if te {
            write_field(out, b"Connection", if keep_alive { b"TE" } else { b"TE, close" });
        } else if !keep_alive && self.version == 1 {
            write_field(out, b"Connection", b"close");
        } else if keep_alive && self.version == 0 {
            write_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The bytes of the head as received, for accounting.
    pub fn target(&self) -> &str {
        std::str::from_utf8(self.target.of(&self.fields.bytes)).unwrap_or_default()
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

impl RequestView for RequestHead {
    fn method(&self) -> &str {
        std::str::from_utf8(self.method.of(&self.fields.bytes)).unwrap_or_default()
    }

    fn path(&self) -> &str {
        let path = std::str::from_utf8(self.path.of(&self.fields.bytes)).unwrap_or_default();
        if path.is_empty() && !self.is_connect() { "/" } else { path }
    }

    fn query(&self) -> Option<&str> {
        std::str::from_utf8(self.query?.of(&self.fields.bytes)).ok()
    }

    fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if name == "host" {
            return self.authority().map(|a| Cow::Borrowed(a.as_bytes()));
        }
        self.fields.joined(name.as_bytes())
    }
}

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

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn span(start: usize, len: usize) -> Span {
    // A head is bounded by the header limit, which the configuration keeps below 4 GiB.
    Span { start: u32::try_from(start).unwrap_or(u32::MAX), len: u32::try_from(len).unwrap_or(u32::MAX) }
}

/// Whether bytes have nothing that ends or splits an authority for one reader or another (RFC 3986 §3.2, RFC 9110 §4.2.4).
fn may_be_authority(bytes: &[u8]) -> bool {
    !bytes.iter().any(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'?' | b'#' | b'@' | b','))
}

/// The place of `part` within `whole`, of which it is a slice.
fn within(whole: &[u8], part: &[u8]) -> Span {
    let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    debug_assert!(start + part.len() <= whole.len(), "the part lies within the whole");
    span(start, part.len())
}

/// Comma-separated elements without white space around them, with their places; empty ones are skipped (RFC 9110 §5.6.1).
fn tokens(value: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
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
fn decimal(text: &[u8]) -> Result<u64, HeadError> {
    const INVALID: HeadError = HeadError::Ambiguous("an invalid Content-Length");
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    Ok(text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

/// What a request line is that ends with something other than a version.
const NO_VERSION: HeadError = HeadError::Malformed("the request line does not end with a version");

/// Whether the third word of a request line has the form of a version, such as `HTTP/3.0`.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.split(|b| *b == b' ').nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    version.is_some_and(|v| v.len() == 3 && v[0].is_ascii_digit() && v[1] == b'.' && v[2].is_ascii_digit())
}

/// The reason phrase of a whole head; may be anything but a line's end (RFC 9112 §4).
fn reason(head: &[u8]) -> &[u8] {
    // Empty lines before a status line are skipped, as before a request.
    let line =
        head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).find(|l| !l.is_empty()).unwrap_or_else(|| &head[..0]);
    // Some servers leave out the space before an empty one too. Always a part of the head: its place is what is kept.
    line.splitn(3, |b| *b == b' ').nth(2).unwrap_or_else(|| &line[line.len()..])
}

fn malformed(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::Version => HeadError::Version,
        httparse::Error::HeaderName => HeadError::Malformed("an invalid header name"),
        httparse::Error::HeaderValue => HeadError::Malformed("an invalid header value"),
        httparse::Error::NewLine => HeadError::Malformed("an invalid line end"),
        httparse::Error::Status => HeadError::Malformed("an invalid status"),
        httparse::Error::Token => HeadError::Malformed("an invalid request line"),
        httparse::Error::TooManyHeaders => HeadError::Malformed("too many headers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<RequestHead, HeadError> {
        let mut head = RequestHead::default();
        let len = head.parse(text.as_bytes())?.expect("a whole head");
        assert_eq!(len, text.len());
        Ok(head)
    }

    fn written(head: &RequestHead) -> String {
        let mut out = Vec::new();
        head.write(&mut out, true);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_head_passes_in_order_and_case() {
        let text = "POST /a?b=c HTTP/1.1\r\nhOsT: x\r\nSOAPAction: \"Y\"\r\ncontent-LENGTH: 3\r\nX: 1\r\nx: 2\r\n\r\n";
        assert_eq!(written(&request(text).unwrap()), text);
    }

    #[test]
    fn a_status_line_may_end_with_the_status() {
        for line in ["HTTP/1.1 200", "HTTP/1.1 200 "] {
            let mut head = ResponseHead::default();
            let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(head.parse(text.as_bytes(), false, false), Ok(Some(text.len())));
            let mut out = Vec::new();
            head.write(&mut out, false, 1);
            assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n");
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 0x1",
            "Content-Length: 1 1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding:",
            "Transfer-Encoding: chunked,",
            "Transfer-Encoding: , chunked",
            "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding\t: chunked",
            " Transfer-Encoding: chunked",
            "X: a\r\n folded",
            "X: a\rb",
            "X: a\0b",
            "Host: y",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            assert!(RequestHead::default().parse(text.as_bytes()).is_err(), "{fields:?} must be refused");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(RequestHead::default().parse(old.as_bytes()), Err(HeadError::Ambiguous(_))));
        assert!(RequestHead::default().parse(b"GET / HTTP/1.1\r\n\r\n").is_err(), "Host is required");
        assert!(RequestHead::default().parse(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n").is_err());
    }

    #[test]
    fn fields_of_this_hop_stay_here() {
        let head = request(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Mine, host\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\nUpgrade: h2c\r\nY: 2\r\n\r\n",
        )
        .unwrap();
        assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\nY: 2\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
        assert!(!head.keeps_alive());
    }

    #[test]
    fn an_upgrade_is_passed_on() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n";
        let head = request(text).unwrap();
        assert!(head.upgrades());
        assert!(written(&head).ends_with("Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"));
    }

    #[test]
    fn an_upgrade_to_http2_is_not() {
        let text = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n";
        let head = request(text).unwrap();
        assert!(!head.upgrades());
        assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let head = request("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: H2C, other/2\r\nConnection: Upgrade\r\n\r\n").unwrap();
        assert!(written(&head).ends_with("\r\nUpgrade: other/2\r\nConnection: Upgrade\r\n\r\n"));
    }

    #[test]
    fn a_target_with_a_host_counts_for_both() {
        let head = request("GET http://a/b HTTP/1.1\r\nhost: evil\r\nX: 1\r\n\r\n").unwrap();
        assert_eq!(written(&head), "GET http://a/b HTTP/1.1\r\nhost: a\r\nX: 1\r\n\r\n");
    }

    #[test]
    fn what_the_proxy_sets_is_not_taken_away_by_connection() {
        let mut head =
            request("GET / HTTP/1.1\r\nHost: x\r\nConnection: x-user, traceparent\r\nX-User: me\r\ntraceparent: 1\r\n\r\n").unwrap();
        head.set("traceparent", b"2");
        assert_eq!(written(&head), "GET / HTTP/1.1\r\nHost: x\r\ntraceparent: 2\r\n\r\n");
    }

    #[test]
    fn targets_are_split_by_their_form() {
        for (line, authority, path, query) in [
            ("GET /a?b HTTP/1.1", "x", "/a", Some("b")),
            ("GET http://other:81/a HTTP/1.1", "other:81", "/a", None),
            ("GET http://other?q HTTP/1.1", "other", "/", Some("q")),
            ("OPTIONS * HTTP/1.1", "x", "*", None),
            ("CONNECT db:5432 HTTP/1.1", "db:5432", "", None),
        ] {
            let head = request(&format!("{line}\r\nHost: x\r\n\r\n")).unwrap();
            assert_eq!((head.authority(), head.path(), head.query()), (Some(authority), path, query), "{line}");
        }
        assert!(request("GET a/b HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
        assert!(request("GET http://u@h/ HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    }

    #[test]
    fn edits_keep_place_and_case() {
        let mut head = request("GET http://x/old?q HTTP/1.1\r\nHost: x\r\nFoo: 1\r\nBar: 2\r\nfoo: 3\r\n\r\n").unwrap();
        head.set("foo", b"9");
        head.append("Baz", b"4");
        head.remove("bar");
        head.set_path("/new");
        head.set_authority("y");
        assert_eq!(written(&head), "GET http://y/new?q HTTP/1.1\r\nHost: y\r\nFoo: 9\r\nBaz: 4\r\n\r\n");
        assert_eq!((head.path(), head.query(), head.authority()), ("/new", Some("q"), Some("y")));
    }

    #[test]
    fn a_response_knows_its_end() {
        let parse = |text: &str, to_head, to_connect| {
            let mut head = ResponseHead::default();
            head.parse(text.as_bytes(), to_head, to_connect).map(|len| {
                assert!(len.is_some());
                head.framing()
            })
        };
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, false), Ok(Framing::Length(5)));
        assert_eq!(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, false), Ok(Framing::None));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n", false, false), Ok(Framing::None));
        assert_eq!(parse("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, false), Ok(Framing::None));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n", false, false), Ok(Framing::UntilClose));
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n", false, true), Ok(Framing::None));
        assert_eq!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, false), Ok(Framing::Chunked));
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", false, false).is_err());
    }

    #[test]
    fn a_folded_response_field_is_unfolded() {
        let mut head = ResponseHead::default();
        head.parse(b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nKeep-Alive: timeout=7, max=3\r\n\r\n", false, false).unwrap();
        let mut out = Vec::new();
        head.write(&mut out, false, 1);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("\r\n b"), "{text}");
        assert_eq!(head.keep_alive_timeout(), Some(7));
    }
}
