//! HTTP/2 with prior knowledge, and gRPC in it, on both legs: frames and flow control by the `h2` crate, everything else here.

pub mod client;
pub mod message;
mod mirror;
pub mod pump;
pub mod server;

/// Bytes of a stream that may be on their way to us. With a reader that does not read, this is what one stream costs on one leg.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for a whole connection. All streams between two sidecars share connections, so it must not be what a few of them can fill
/// whose readers are slow: with this, 128 of them may stand still before others feel it.
pub const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;
/// The same for a client that is no sidecar: its streams are its own affair, and what it may have us keep is less.
pub const CLIENT_CONNECTION_WINDOW: u32 = 8 * STREAM_WINDOW;
/// Streams that a peer may have open at once: more than gRPC clients open by themselves, few enough to bound a hostile one.
pub const STREAMS_MAX: u32 = 1024;
/// h2 answers a head above its limit with a bare 431. Ours is lower and says what was exceeded, up to this factor.
pub const HEADER_SLACK: usize = 4;
