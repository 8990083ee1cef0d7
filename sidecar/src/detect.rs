//! What a connection's first bytes say it is. Biased towards opaque: bytes that are not plainly HTTP pass untouched, so that a
//! protocol that merely looks like it at first loses policy and metrics of requests, and never its connection.

use heddle_identity::client_hello::{self, ClientHello};

/// The first bytes of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line must end within so many bytes to be seen as one: longer ones exist only on ports that are declared HTTP.
pub const DETECT_BYTES_MAX: usize = 8 * 1024;
/// The longest method that a client may begin with; `UPDATEREDIRECTREF` is the longest registered one (RFC 4437).
const METHOD_BYTES_MAX: usize = 20;

/// What first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    /// Too few to say.
    NeedMore,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS between sidecars.
    MeshTls,
    /// TLS of the applications.
    Tls,
    /// Anything else.
    Opaque,
}

/// Tells what `bytes`, the first of a connection, are. More bytes never change an answer other than [`Detected::NeedMore`].
pub fn detect(bytes: &[u8]) -> Detected {
    if bytes.is_empty() {
        return Detected::NeedMore;
    }
    match client_hello::peek(bytes) {
        ClientHello::NeedMore => return Detected::NeedMore,
        hello @ ClientHello::Hello { .. } => return if hello.is_mesh() { Detected::MeshTls } else { Detected::Tls },
        ClientHello::NotTls => {}
    }
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if common == PREFACE.len() { Detected::Http2 } else { Detected::NeedMore };
    }
    http1(bytes)
}

/// Whether bytes on a port that is declared HTTP begin HTTP/2; `None`: too few to say.
pub fn is_http2(bytes: &[u8]) -> Option<bool> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] != PREFACE[..common] {
        return Some(false);
    }
    (common == PREFACE.len()).then_some(true)
}

/// A line `METHOD target HTTP/1.x`.
fn http1(bytes: &[u8]) -> Detected {
    let window = &bytes[..bytes.len().min(METHOD_BYTES_MAX + 1)];
    let Some(space) = window.iter().position(|b| !(b.is_ascii_uppercase() || *b == b'-' || *b == b'_')) else {
        return if bytes.len() > METHOD_BYTES_MAX { Detected::Opaque } else { Detected::NeedMore };
    };
    if space == 0 || bytes[space] != b' ' {
        return Detected::Opaque;
    }
    let end = bytes.iter().take(DETECT_BYTES_MAX).position(|b| *b == b'\n');
    // Looked for in whole lines as in begun ones, so that the answer does not depend on how the bytes arrive.
    if bytes[..end.unwrap_or(bytes.len())].iter().any(|b| *b < 0x20 && *b != b'\r') {
        return Detected::Opaque;
    }
    let Some(end) = end else {
        return if bytes.len() >= DETECT_BYTES_MAX { Detected::Opaque } else { Detected::NeedMore };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    if line.len() > 9 && line[..line.len() - 1].ends_with(b" HTTP/1.") { Detected::Http1 } else { Detected::Opaque }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn first_lines_tell_the_protocol() {
        for (bytes, expected) in [
            (&b""[..], Detected::NeedMore),
            (b"GET / HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HTTP/1.0\n", Detected::Http1),
            (b"M-SEARCH * HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HT", Detected::NeedMore),
            (b"GE", Detected::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
            (b"PRI * HTTP/2.0\r\n", Detected::NeedMore),
            (b"PING\r\n", Detected::Opaque),
            (b"SET a b\r\n", Detected::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
            (b"EHLO me\r\n", Detected::Opaque),
            (b"CONNECT {\"verbose\":false}\r\n", Detected::Opaque),
            (b"AMQP\x00\x00\x09\x01", Detected::Opaque),
            (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Detected::Opaque),
            (b"GET \x01", Detected::Opaque),
            (b"GET /\0 HTTP/1.1\r\n", Detected::Opaque),
        ] {
            assert_eq!(detect(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_line_without_end_is_opaque_at_the_limit() {
        let mut bytes = b"GET /".to_vec();
        bytes.resize(DETECT_BYTES_MAX, b'a');
        assert_eq!(detect(&bytes), Detected::Opaque);
    }

    proptest! {
        #[test]
        fn more_bytes_never_change_an_answer(bytes in proptest::collection::vec(any::<u8>(), 1..100), cut in 1usize..100) {
            let cut = cut.min(bytes.len());
            let first = detect(&bytes[..cut]);
            if first != Detected::NeedMore {
                prop_assert_eq!(detect(&bytes), first);
            }
        }
    }
}
