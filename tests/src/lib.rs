//! The harness of every test that needs two rooms: a real control plane and real sidecars as processes, applications whose every byte
//! a test decides, and conditions to wait for.
//!
//! ```text
//! mesh.rs      a whole mesh from a few lines: services, workloads, clients, manifests
//! process.rs   one process of it: started, killed, looked into, gone with the test
//! objects.rs   the objects that Kubernetes would have made for a workload
//! app.rs       applications: byte by byte, or HTTP/1 with canned answers
//! wire.rs      one TCP connection with a deadline on everything
//! http1.rs     HTTP/1 messages as a test sees them: raw, and parsed by code of its own
//! http2.rs     HTTP/2 clients and servers on the `h2` crate, and hostile ones on bare frames
//! metrics.rs   samples of a `/metrics` page
//! load.rs      clients that keep an address busy, and count what comes of it
//! look.rs      what is in force, as the admin pages say it
//! recorder.rs  a relay that keeps what a wire carries
//! otlp.rs      a collector that keeps the spans it gets
//! pki.rs       certificates that the mesh must not accept
//! wait.rs      conditions with a deadline
//! netns.rs     pods without a cluster: network namespaces with the real redirection
//! cluster.rs   a real Kubernetes with a real mesh in it, and what its tests do there
//! ```
//!
//! The harness panics where a test would have to fail anyway, and says where to look.

pub mod app;
pub mod cluster;
pub mod http1;
pub mod http2;
pub mod load;
pub mod look;
pub mod mesh;
pub mod metrics;
pub mod netns;
mod objects;
pub mod otlp;
pub mod pki;
mod ports;
pub mod process;
pub mod recorder;
mod scratch;
pub mod wait;
pub mod wire;

pub use app::App;
pub use mesh::{Builder, Mesh, Service, Workload};
pub use objects::Condition;
pub use ports::free_port;
pub use wire::Wire;
