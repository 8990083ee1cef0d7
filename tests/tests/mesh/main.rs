//! Scenarios on real sidecars and a real control plane; one group a file.

mod bodies;
mod connections;
mod detection;
mod grpc;
mod heads;
mod hostile;
mod http2;
mod limits;
mod retries;
mod routing;
mod smuggling;
mod tcp;
mod tunnels;
