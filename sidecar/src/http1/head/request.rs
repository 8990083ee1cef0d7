//! The head of a request: its line, its target in four forms, and what it asks of this hop.

use super::fields::{ConnectionOptions, Fields, Known, Span, span, tokens, within, write_field};
use super::{FIELDS_INLINE, FIELDS_MAX, HeadError, malformed};
use crate::http1::body::Framing;
use crate::message::joined;
use heddle_model::RequestView;
use std::borrow::Cow;
use std::mem::MaybeUninit;

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
        joined(self.fields.values(name.as_bytes()))
    }
}

/// Whether bytes have nothing that ends or splits an authority for one reader or another (RFC 3986 §3.2, RFC 9110 §4.2.4).
fn may_be_authority(bytes: &[u8]) -> bool {
    !bytes.iter().any(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'?' | b'#' | b'@' | b','))
}

/// What a request line is that ends with something other than a version.
const NO_VERSION: HeadError = HeadError::Malformed("the request line does not end with a version");

/// Whether the third word of a request line has the form of a version, such as `HTTP/3.0`.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
    let version = line.split(|b| *b == b' ').nth(2).and_then(|word| word.strip_prefix(b"HTTP/"));
    version.is_some_and(|v| v.len() == 3 && v[0].is_ascii_digit() && v[1] == b'.' && v[2].is_ascii_digit())
}
