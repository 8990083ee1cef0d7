//! Applications on bare TCP: a key-value store, a server that speaks first, and a client of both.

pub(crate) mod client;
pub(crate) mod greeter;
mod line;
pub(crate) mod redis;
pub(crate) mod store;

#[cfg(test)]
mod tests;
