//! The shop: a front end that calls reviews, which call ratings; and the load that keeps it busy.

mod client;
pub(crate) mod front;
mod http;
pub(crate) mod load;
pub(crate) mod ratings;
pub(crate) mod reviews;
mod trace;

#[cfg(test)]
mod tests;
