//! Looks into running sidecars and the control plane: what is in force, and since when.

use crate::http1::{self, Message};
use crate::mesh::Mesh;
use crate::wait;
use crate::wire::Wire;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// A page of an admin server, whatever its status.
pub async fn page(admin: SocketAddr, path: &str) -> Message {
    let mut wire = Wire::connect(admin).await;
    http1::exchange(&mut wire, format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")).await
}

/// A sidecar's `/config`.
///
/// # Panics
/// When it does not answer with JSON.
pub async fn config(mesh: &Mesh, workload: &str) -> Value {
    let page = page(mesh.sidecar(workload).admin(), "/config").await;
    serde_json::from_slice(&page.body).unwrap_or_else(|e| panic!("/config of {workload}: {e}: {}", page.text()))
}

/// What a sidecar knows of an outbound destination: an entry of `/config`.
///
/// # Panics
/// When it knows nothing of it.
pub fn outbound<'a>(config: &'a Value, authority: &str) -> &'a Value {
    of_target(config, "outbound", authority)
}

/// What a sidecar knows of an inbound port: an entry of `/config`.
///
/// # Panics
/// When it knows nothing of it.
pub fn inbound(config: &Value, port: u16) -> &Value {
    of_target(config, "inbound", &port.to_string())
}

fn of_target<'a>(config: &'a Value, direction: &str, target: &str) -> &'a Value {
    let found = config[direction].as_array().into_iter().flatten().find(|t| t["target"] == target);
    found.unwrap_or_else(|| panic!("no {direction} {target} in {config:#}"))
}

/// Waits until a sidecar's `/config` is as wanted, and says how long that took.
///
/// # Panics
/// When it does not become so, with the last one.
pub async fn in_force(mesh: &Mesh, workload: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Duration {
    let began = Instant::now();
    wait::until(&format!("{what} in force at {workload}"), async || {
        let config = config(mesh, workload).await;
        if wanted(&config) { Ok(()) } else { Err(format!("{config:#}")) }
    })
    .await;
    began.elapsed()
}

/// Waits until the control plane's `/status` is as wanted, and gives it.
///
/// # Panics
/// When it does not become so, with the last one.
pub async fn status(mesh: &Mesh, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait::until(&format!("{what} in the status"), async || {
        let status = mesh.status().await;
        if wanted(&status) { Ok(status) } else { Err(format!("{status:#}")) }
    })
    .await
}

/// Lets this process, and those that it starts, have as many open files as the system permits.
///
/// # Panics
/// When the system permits fewer than `needed`.
pub fn open_files(needed: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < needed) {
        let permitted = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        assert!(permitted.is_ok() && maximum.is_none_or(|m| m >= needed), "{needed} open files are needed: raise `ulimit -Hn`");
    }
}
