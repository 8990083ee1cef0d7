//! Where an HTTP/1 body ends: a scanner that lets bytes pass as they are and refuses what RFC 9112 §7.1 does not allow.
//!
//! Chunk extensions and trailers pass unchanged, because nothing is decoded and encoded again.

/// How a body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked.
    Chunked,
    /// Everything until the connection ends; responses only.
    UntilClose,
}

/// All chunk extensions of a message together: nobody sends more, and each is work without an end in sight.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Why bytes are not a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Chunked coding is broken.
    #[error("malformed chunked coding: {0}")]
    Chunk(&'static str),
    /// The trailers exceed the limit for headers.
    #[error("the trailers exceed the limit of {0} bytes (HEDDLE_HEADER_LIMIT)")]
    TrailersTooLarge(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Length(u64),
    UntilClose,
    /// In a chunk's size: digits so far, and value.
    Size(u8, u64),
    Extension(u64),
    /// The LF after a chunk's size.
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    TrailerStart,
    /// In a trailer's name.
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Follows a body through the bytes of a connection.
#[derive(Debug, Clone)]
pub struct BodyScanner {
    state: State,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_bytes_max: usize,
}

impl BodyScanner {
    /// A scanner at the start of a body; trailers may have `trailer_bytes_max` bytes.
    pub fn new(framing: Framing, trailer_bytes_max: usize) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size(0, 0),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extension_bytes: 0, trailer_bytes: 0, trailer_bytes_max }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Says that the connection ended; `false`: the body is cut short.
    pub fn end(&mut self) -> bool {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                true
            }
            State::Length(_)
            | State::Size(..)
            | State::Extension(_)
            | State::SizeLf(_)
            | State::Data(_)
            | State::DataCr
            | State::DataLf
            | State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => false,
        }
    }

    /// Returns how many bytes at the front of `bytes` belong to the body, and moves past them.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Done => break,
                State::UntilClose => return Ok(bytes.len()),
                State::Length(left) => {
                    let (taken, left) = take(rest, left);
                    at += taken;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                }
                State::Data(left) => {
                    let (taken, left) = take(rest, left);
                    at += taken;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                }
                State::Size(..)
                | State::Extension(_)
                | State::SizeLf(_)
                | State::DataCr
                | State::DataLf
                | State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::EndLf => {
                    self.byte(rest[0])?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One byte of the coding itself.
    fn byte(&mut self, byte: u8) -> Result<(), BodyError> {
        self.state = match (self.state, byte) {
            (State::Size(digits, value), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // 15 digits: 2^60 bytes, and no overflow.
                if digits == 15 {
                    return Err(BodyError::Chunk("a chunk size of more than 15 digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size(digits + 1, value << 4 | u64::from(digit))
            }
            (State::Size(0, _), _) => return Err(BodyError::Chunk("a chunk without size")),
            (State::Size(_, value) | State::Extension(value), b'\r') => State::SizeLf(value),
            (State::Size(_, value), b';' | b' ' | b'\t') => State::Extension(value),
            (State::Size(..), _) => return Err(BodyError::Chunk("an invalid chunk size")),
            (State::Extension(value), b'\t' | 0x20..=0x7e | 0x80..) => {
                self.extension_bytes += 1;
                if self.extension_bytes > EXTENSION_BYTES_MAX {
                    return Err(BodyError::Chunk("chunk extensions of more than 16 KiB"));
                }
                State::Extension(value)
            }
            (State::Extension(_), _) => return Err(BodyError::Chunk("a control character in a chunk extension")),
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            (State::DataCr | State::DataLf, _) => return Err(BodyError::Chunk("a chunk longer than its size")),
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerName, b':') => State::TrailerValue,
            (State::TrailerStart | State::TrailerName, _) if is_token(byte) => self.trailer(State::TrailerName)?,
            (State::TrailerStart | State::TrailerName, _) => return Err(BodyError::Chunk("an invalid trailer name")),
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, b'\t' | 0x20..=0x7e | 0x80..) => self.trailer(State::TrailerValue)?,
            (State::TrailerValue, _) => return Err(BodyError::Chunk("a control character in a trailer")),
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            (State::SizeLf(_) | State::TrailerLf | State::EndLf, _) => return Err(BodyError::Chunk("a carriage return without line feed")),
            (State::Done | State::UntilClose | State::Length(_) | State::Data(_), _) => self.state,
        };
        Ok(())
    }

    fn trailer(&mut self, next: State) -> Result<State, BodyError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > self.trailer_bytes_max {
            return Err(BodyError::TrailersTooLarge(self.trailer_bytes_max));
        }
        Ok(next)
    }
}

/// How much of `left` lies in `bytes`, and what is left then.
fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - taken as u64)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunked(bytes: &[u8]) -> Result<(usize, bool), BodyError> {
        let mut scanner = BodyScanner::new(Framing::Chunked, 1024);
        let n = scanner.scan(bytes)?;
        Ok((n, scanner.is_done()))
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailers() {
        let body = b"5;ext=\"a b\"\r\nhello\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n";
        let mut with_next = body.to_vec();
        with_next.extend_from_slice(b"GET / HTTP/1.1");
        assert_eq!(chunked(&with_next), Ok((body.len(), true)));
        assert_eq!(chunked(&body[..10]), Ok((10, false)));
    }

    #[test]
    fn broken_chunks_are_refused() {
        for wrong in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5;a\nb\r\n",
            "5\r\r\nhello",
            "1000000000000000\r\n",
            "0\r\n X: folded\r\n\r\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n: no name\r\n\r\n",
            "0\r\nX: a\nb\r\n\r\n",
            "0\r\n\rX",
        ] {
            assert!(chunked(wrong.as_bytes()).is_err(), "{wrong:?} must be refused");
        }
        let large = format!("0\r\nX: {}\r\n\r\n", "a".repeat(2000));
        assert_eq!(chunked(large.as_bytes()), Err(BodyError::TrailersTooLarge(1024)));
    }

    #[test]
    fn a_cut_body_is_noticed() {
        let mut scanner = BodyScanner::new(Framing::Length(5), 0);
        assert_eq!(scanner.scan(b"abc"), Ok(3));
        assert!(!scanner.end());
        let mut scanner = BodyScanner::new(Framing::UntilClose, 0);
        assert_eq!(scanner.scan(b"abc"), Ok(3));
        assert!(scanner.end());
    }

    proptest! {
        #[test]
        fn the_cuts_between_reads_make_no_difference(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..5), cuts in proptest::collection::vec(1usize..20, 1..50)) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nA: b\r\n\r\n");
            let end = body.len();
            body.extend_from_slice(b"rest");
            let mut scanner = BodyScanner::new(Framing::Chunked, 100);
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                if scanner.is_done() { break; }
                let to = (at + cut).min(body.len());
                at += scanner.scan(&body[at..to]).unwrap();
            }
            prop_assert_eq!(at, end);
        }

        #[test]
        fn any_bytes_are_answered_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut scanner = BodyScanner::new(Framing::Chunked, 100);
            if let Ok(n) = scanner.scan(&bytes) {
                prop_assert!(n <= bytes.len());
            }
        }
    }
}
