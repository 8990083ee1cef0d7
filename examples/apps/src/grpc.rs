//! The gRPC echo: a server, and a client that makes and checks all four kinds of call.

pub(crate) mod client;
pub(crate) mod server;

/// The generated messages and stubs of `proto/heddle/example/v1/echo.proto`.
#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
pub(crate) mod proto {
    include!("grpc/gen/heddle.example.v1.rs");
}

#[cfg(test)]
mod tests;
