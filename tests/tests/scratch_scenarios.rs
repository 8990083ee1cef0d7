//! Temporary.
#[path = "mesh/bad_input.rs"]
mod bad_input;
#[path = "mesh/canary.rs"]
mod canary;
#[path = "mesh/chaos.rs"]
mod chaos;
#[path = "mesh/control_plane.rs"]
mod control_plane;
#[path = "mesh/identity.rs"]
mod identity;
#[path = "mesh/tracing.rs"]
mod tracing;
#[path = "mesh/up.rs"]
mod up;
