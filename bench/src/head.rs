//! Finds the end and the framing of an HTTP/1 head: as little as the origin and the load generator need to be cheap.

use std::io;

/// Longest head that is read, in bytes: those of a benchmark have a few hundred.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What framing needs to know of one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Length of the head with its empty line, in bytes.
    pub(crate) length: usize,
    /// `Content-Length`, if there is one.
    pub(crate) content_length: Option<usize>,
    /// Whether the sender closes the connection after this message.
    pub(crate) close: bool,
}

impl Head {
    /// Parses the head at the start of `bytes`; `None` while its end has not come.
    ///
    /// Refuses `Transfer-Encoding`, an unreadable length, and a head longer than [`HEAD_BYTES_MAX`].
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = find_end(bytes) else {
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(invalid("the head is longer than 16 KiB"));
            }
            return Ok(None);
        };
        let mut head = Self { length: end, content_length: None, close: false };
        for line in bytes[..end].split(|byte| *byte == b'\n').skip(1) {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let value = line[colon + 1..].trim_ascii();
            match colon {
                14 if line[..colon].eq_ignore_ascii_case(b"content-length") => {
                    let length = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
                    head.content_length = Some(length.ok_or_else(|| invalid("the content length is not a number"))?);
                }
                10 if line[..colon].eq_ignore_ascii_case(b"connection") => {
                    head.close = value.eq_ignore_ascii_case(b"close");
                }
                17 if line[..colon].eq_ignore_ascii_case(b"transfer-encoding") => {
                    return Err(invalid("the message has a transfer encoding: the benchmark expects a content length"));
                }
                _ => {}
            }
        }
        Ok(Some(head))
    }
}

/// Reads the status code of a response head.
pub(crate) fn status(head: &[u8]) -> Option<u16> {
    str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == b'\n') {
        let after = from + at + 1;
        if bytes[after..].starts_with(b"\r\n") {
            return Some(after + 2);
        }
        from = after;
    }
    None
}

fn invalid(sentence: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_framing_whatever_the_case_of_the_names() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-LENGTH:  42 \r\nserver: x\r\nConnection: close\r\n\r\nbody";
        let head = Head::parse(bytes).unwrap().unwrap();
        assert_eq!(head, Head { length: bytes.len() - 4, content_length: Some(42), close: true });
        assert_eq!(status(bytes), Some(200));
    }

    #[test]
    fn waits_for_the_whole_head() {
        let bytes = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for cut in 0..bytes.len() {
            assert_eq!(Head::parse(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(Head::parse(bytes).unwrap().unwrap().length, bytes.len());
    }

    #[test]
    fn refuses_what_it_cannot_frame() {
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n").is_err());
        assert!(Head::parse(&[b'a'; HEAD_BYTES_MAX + 1]).is_err());
    }
}
