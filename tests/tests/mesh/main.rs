//! Scenarios on real sidecars and a real control plane; one group a file.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test panics where it fails, and its patterns are made of low bits"
)]

mod attachment;
mod bad_input;
mod bodies;
mod canary;
mod chaos;
mod connections;
mod control_plane;
mod detection;
mod endings;
mod grpc;
mod heads;
mod hostile;
mod http2;
mod identity;
mod idle;
mod limits;
mod random;
mod retries;
mod routing;
mod routing_http2;
mod smuggling;
mod tcp;
mod tracing;
mod tunnels;
mod up;
