//! HTTP/1.0 and HTTP/1.1 on both legs: heads are parsed strictly, bodies pass as they are.

pub mod body;
pub mod conn;
pub mod head;
pub(crate) mod mirror;
pub mod server;
