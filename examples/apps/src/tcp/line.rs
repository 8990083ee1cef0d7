//! Lines of text with a bound, as the TCP applications speak them.

use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// The longest line with its end, ten times what the applications send.
pub(crate) const MAX_LINE: u64 = 1024;

/// Reads one line and gives it without its end (LF, or CR LF); `None` at the end of the stream.
///
/// Not cancel safe: a line that has come half is lost.
///
/// # Errors
///
/// A line longer than [`MAX_LINE`] bytes, or not in UTF-8 (`InvalidData`); a stream that ends amid a line (`UnexpectedEof`).
pub(crate) async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        let too_long = u64::try_from(line.len()).is_ok_and(|length| length + 1 >= MAX_LINE);
        return Err(if too_long {
            io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {MAX_LINE} bytes"))
        } else {
            io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended amid a line")
        });
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_whole() {
        let long = vec![b'x'; 2000];
        let mut reader = &b"one\r\ntwo\n\nhalf"[..];
        for wanted in ["one", "two", ""] {
            assert_eq!(read(&mut reader).await.unwrap().as_deref(), Some(wanted));
        }
        assert_eq!(read(&mut reader).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&mut reader).await.unwrap(), None);
        assert_eq!(read(&mut &long[..]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
