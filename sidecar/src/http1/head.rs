//! Heads of HTTP/1 messages: strict parsing (RFC 9112), framing, edits that keep order and case, and writing them out again.
//!
//! Fields stay as the peer wrote them, in one buffer which a connection uses again for its next message: nothing is allocated for a
//! request whose headers nobody edits.

mod fields;
mod request;
mod response;

pub use fields::ConnectionOptions;
pub use request::RequestHead;
pub use response::ResponseHead;

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
mod tests;
