//! HTTP/1 messages as a test sees them: raw bytes kept, and parsed by code that shares nothing with the sidecar's.

use crate::wire::Wire;

/// Fields that the mesh adds to a request, for traces.
pub const ADDED: [&str; 2] = ["x-request-id", "traceparent"];

/// A request or a response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// Its first line.
    pub start: String,
    /// Its fields, in order and case as they came.
    pub headers: Vec<(String, String)>,
    /// The raw head, blank line included.
    pub head: Vec<u8>,
    /// The raw body, as framed.
    pub raw_body: Vec<u8>,
    /// The body's content.
    pub body: Vec<u8>,
    /// The fields after a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// Parses a head.
    ///
    /// # Panics
    /// When it is none.
    pub fn parse(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Self { start, headers: fields(lines), head: head.to_vec(), ..Self::default() }
    }

    /// The value of the first field of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of all fields of that name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// A response's status.
    ///
    /// # Panics
    /// When it is no response.
    pub fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1).and_then(|code| code.parse().ok());
        code.unwrap_or_else(|| panic!("no status line: {:?}", self.start))
    }

    /// A request's method.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// A request's target.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The whole message as it came.
    pub fn raw(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.raw_body].concat()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.header("content-length").map(|v| v.parse().unwrap_or_else(|_| panic!("a content-length of {v:?}")))
    }

    /// Reads the rest of a body of known framing from `wire`.
    async fn read_body(&mut self, wire: &mut Wire) {
        if self.is_chunked() {
            self.read_chunks(wire).await;
        } else {
            self.raw_body = wire.exactly(self.length().unwrap_or(0)).await;
            self.body.clone_from(&self.raw_body);
        }
    }

    async fn read_chunks(&mut self, wire: &mut Wire) {
        loop {
            let line = wire.until(b"\r\n").await;
            let text = String::from_utf8_lossy(&line).into_owned();
            let digits = text.split([';', '\r']).next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("a chunk size of {text:?}"));
            self.raw_body.extend(line);
            if size == 0 {
                break;
            }
            let chunk = wire.exactly(size + 2).await;
            self.body.extend_from_slice(&chunk[..size]);
            self.raw_body.extend(chunk);
        }
        loop {
            let line = wire.until(b"\r\n").await;
            self.raw_body.extend_from_slice(&line);
            if line == b"\r\n" {
                return;
            }
            self.trailers.extend(fields(String::from_utf8_lossy(&line).split("\r\n")));
        }
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let pairs = lines.filter(|line| !line.is_empty()).map(|line| line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?}")));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Reads a request's head; `None`: the client has ended instead.
pub async fn request_head(wire: &mut Wire) -> Option<Message> {
    wire.until_or_end(b"\r\n\r\n").await.map(|head| Message::parse(&head))
}

/// Reads a request; `None`: the client has ended instead.
pub async fn request(wire: &mut Wire) -> Option<Message> {
    let mut message = request_head(wire).await?;
    message.read_body(wire).await;
    Some(message)
}

/// Reads one response's head, an interim one's too.
///
/// # Panics
/// When the server ends instead.
pub async fn response_head(wire: &mut Wire) -> Message {
    Message::parse(&wire.until(b"\r\n\r\n").await)
}

/// Reads a final response to a request with this method; interim ones are skipped. A body without a length ends with the connection.
///
/// # Panics
/// When the server ends before the response does.
pub async fn response(wire: &mut Wire, method: &str) -> Message {
    let mut message = response_head(wire).await;
    while (100..200).contains(&message.status()) && message.status() != 101 {
        message = response_head(wire).await;
    }
    if method == "HEAD" || matches!(message.status(), 101 | 204 | 304) {
        return message;
    }
    if message.is_chunked() || message.length().is_some() {
        message.read_body(wire).await;
    } else {
        message.raw_body = wire.to_end().await;
        message.body.clone_from(&message.raw_body);
    }
    message
}

/// Sends a request and reads its response.
///
/// # Panics
/// When the server ends before the response does.
pub async fn exchange(wire: &mut Wire, raw: impl AsRef<[u8]>) -> Message {
    let raw = raw.as_ref();
    wire.send(raw).await;
    let method = String::from_utf8_lossy(raw).split(' ').next().unwrap_or_default().to_owned();
    response(wire, &method).await
}

/// `bytes`, which begin with a head, without its fields of these names.
///
/// # Panics
/// When they do not begin with a head.
pub fn without(bytes: &[u8], names: &[&str]) -> Vec<u8> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("the end of a head") + 2;
    let kept = bytes[..end].split_inclusive(|b| *b == b'\n').filter(|line| {
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        !names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
    });
    let mut head: Vec<u8> = kept.flatten().copied().collect();
    head.extend_from_slice(&bytes[end..]);
    head
}

/// A response of this status with a body of known length.
pub fn answer(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 {status} Some Reason\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_taken_out_of_a_head_only() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\nX-B: c\r\nx-b: d\r\n\r\nX-B: body\r\n";
        assert_eq!(without(bytes, &["x-B"]), b"GET / HTTP/1.1\r\nHost: a\r\n\r\nX-B: body\r\n");
    }
}
