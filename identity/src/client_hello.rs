//! What the first bytes of a connection say about its TLS, read without taking part in it: SNI and ALPN of the ClientHello.
//!
//! The sidecar peeks at what it has received, and decides: ALPN with the prefix `heddle/` is the mesh's own TLS and is terminated;
//! every other TLS is the application's and passes untouched. Nothing here proves anything: a client may write what it likes, and
//! the handshake that follows verifies it.
//!
//! Bias: what is not certainly a ClientHello that this file can read is [`ClientHello::NotTls`], and goes on as some other protocol
//! (in the end as opaque bytes, which breaks nobody). Only bytes that are a valid beginning so far ask for more.

use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::tls::MESH_ALPN_PREFIX;

/// Most bytes that are looked at, record headers included. Hellos with post-quantum key shares have about 1.7 KiB; the largest that
/// are seen carry tickets of some KiB. A hello that is not complete within this is [`ClientHello::NotTls`].
pub const MAX_CLIENT_HELLO: usize = 64 * 1024;

/// Longest host name (RFC 1035 §2.3.4); a longer SNI counts as none.
const MAX_HOST_NAME: usize = 255;

/// Largest plaintext record (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;

const RECORD_HEADER: usize = 5;
const HANDSHAKE_HEADER: usize = 4;
const CONTENT_HANDSHAKE: u8 = 22;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: usize = 0;
const EXTENSION_ALPN: usize = 16;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHello {
    /// A valid beginning of a TLS connection: peek again when more has arrived. Never said about [`MAX_CLIENT_HELLO`] bytes or more.
    NeedMore,
    /// Not TLS, or a hello that is malformed or too large.
    NotTls,
    /// A complete hello.
    Hello {
        /// The host name that the client asks for (RFC 6066 §3), in lower case; nothing when there is none, or it is no host name.
        sni: Option<String>,
        /// The protocols that the client offers (RFC 7301), in its order.
        alpn: Vec<Vec<u8>>,
    },
}

impl ClientHello {
    /// Tells whether this is the mesh's own TLS: a complete hello that offers a protocol of [`crate::tls::MeshProtocol`].
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        match self {
            Self::Hello { sni: _, alpn } => alpn.iter().any(|p| p.starts_with(MESH_ALPN_PREFIX)),
            Self::NeedMore | Self::NotTls => false,
        }
    }
}

/// Reads the beginning of a connection. `bytes` is everything that has been received so far; bytes after the hello are ignored.
///
/// Total, and linear in the length of `bytes`; it allocates the result, and a copy of a hello that comes in several records.
#[must_use]
pub fn peek(bytes: &[u8]) -> ClientHello {
    let window = &bytes[..bytes.len().min(MAX_CLIENT_HELLO)];
    match hello(window) {
        ControlFlow::Continue(message) => parse_hello(&message).map_or(ClientHello::NotTls, |(sni, alpn)| ClientHello::Hello { sni, alpn }),
        ControlFlow::Break(Incomplete::Short) if bytes.len() < MAX_CLIENT_HELLO => ClientHello::NeedMore,
        ControlFlow::Break(Incomplete::Short | Incomplete::NotTls) => ClientHello::NotTls,
    }
}

/// Why there is no complete hello.
enum Incomplete {
    /// Good so far.
    Short,
    /// No hello, whatever follows.
    NotTls,
}

/// Collects the body of the ClientHello from the records (RFC 8446 §5.1). Breaks with the reason when it is not there.
fn hello(mut bytes: &[u8]) -> ControlFlow<Incomplete, Cow<'_, [u8]>> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        // Each byte is judged as soon as it is there, so that other protocols need not wait for more.
        if bytes.first().is_some_and(|kind| *kind != CONTENT_HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
            return ControlFlow::Break(Incomplete::NotTls);
        }
        let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
            return ControlFlow::Break(Incomplete::Short);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_RECORD {
            return ControlFlow::Break(Incomplete::NotTls);
        }
        let (fragment, rest) = rest.split_at(length.min(rest.len()));
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        bytes = rest;

        if message.first().is_some_and(|kind| *kind != HANDSHAKE_CLIENT_HELLO) {
            return ControlFlow::Break(Incomplete::NotTls);
        }
        if let Some(header) = message.first_chunk::<HANDSHAKE_HEADER>() {
            let body = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
            if body > MAX_CLIENT_HELLO {
                return ControlFlow::Break(Incomplete::NotTls);
            }
            let end = HANDSHAKE_HEADER + body;
            if message.len() >= end {
                return ControlFlow::Continue(match message {
                    Cow::Borrowed(m) => Cow::Borrowed(&m[HANDSHAKE_HEADER..end]),
                    Cow::Owned(m) => Cow::Owned(m[HANDSHAKE_HEADER..end].to_vec()),
                });
            }
        }
        if fragment.len() < length {
            return ControlFlow::Break(Incomplete::Short);
        }
    }
}

type Names = (Option<String>, Vec<Vec<u8>>);

/// Parses the body of a ClientHello (RFC 8446 §4.1.2). Nothing when it is malformed.
fn parse_hello(body: &[u8]) -> Option<Names> {
    let mut body = Reader(body);
    body.take(2 + 32)?; // legacy_version, random
    if body.prefixed::<1>()?.0.len() > 32 {
        return None; // legacy_session_id<0..32>
    }
    let suites = body.prefixed::<2>()?.0;
    if suites.len() < 2 || suites.len() % 2 != 0 {
        return None;
    }
    if body.prefixed::<1>()?.0.is_empty() {
        return None; // legacy_compression_methods<1..255>
    }
    if body.0.is_empty() {
        return Some((None, Vec::new())); // no extensions: TLS 1.2 and older allow it (RFC 5246 §7.4.1.2)
    }
    let mut extensions = body.prefixed::<2>()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut sni, mut alpn) = (None, None);
    while !extensions.0.is_empty() {
        let kind = extensions.number::<2>()?;
        let content = extensions.prefixed::<2>()?;
        // RFC 8446 §4.2: an extension comes once. Two would let two readers disagree.
        let repeated = match kind {
            EXTENSION_SERVER_NAME => sni.replace(server_name(content)?).is_some(),
            EXTENSION_ALPN => alpn.replace(protocols(content)?).is_some(),
            _ => false,
        };
        if repeated {
            return None;
        }
    }
    Some((sni.flatten(), alpn.unwrap_or_default()))
}

/// Parses the extension server_name (RFC 6066 §3): nothing when malformed, `Some(None)` when it holds no host name.
fn server_name(mut extension: Reader<'_>) -> Option<Option<String>> {
    let mut list = extension.prefixed::<2>()?;
    if !extension.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut host = None;
    while !list.0.is_empty() {
        let kind = list.number::<1>()?;
        let name = list.prefixed::<2>()?.0;
        // 0 is host_name, the only type there is; it comes once.
        if kind == 0 && host.replace(name).is_some() {
            return None;
        }
    }
    Some(host.and_then(host_name))
}

/// Letters, digits, dots, dashes and underscores, in lower case; nothing for anything else.
fn host_name(name: &[u8]) -> Option<String> {
    let fits =
        (1..=MAX_HOST_NAME).contains(&name.len()) && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    let text = std::str::from_utf8(name).ok()?;
    fits.then(|| text.to_ascii_lowercase())
}

/// Parses the extension application_layer_protocol_negotiation (RFC 7301 §3.1): names of 1 to 255 bytes, at least one.
fn protocols(mut extension: Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut list = extension.prefixed::<2>()?;
    if !extension.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let name = list.prefixed::<1>()?.0;
        if name.is_empty() {
            return None;
        }
        protocols.push(name.to_vec());
    }
    Some(protocols)
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a big-endian number of `N` bytes, at most 2.
    fn number<const N: usize>(&mut self) -> Option<usize> {
        let bytes = self.take(N)?;
        Some(bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)))
    }

    /// Reads a vector with a length of `N` bytes before it.
    fn prefixed<const N: usize>(&mut self) -> Option<Self> {
        let length = self.number::<N>()?;
        self.take(length).map(Reader)
    }
}

#[cfg(test)]
#[path = "client_hello/tests.rs"]
mod tests;
