//! The JSON that tools read: the report of a whole run, and the list of what is running now.

use super::mesh::{Kept, Life, Mesh};
use super::probe::Health;
use crate::status::Status;
use crate::traffic::RouteTraffic;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EndedBy {
    /// The time of `--for` was over.
    Time,
    /// Somebody asked: Ctrl-C, SIGTERM or SIGHUP.
    Signal,
    /// It could not go on.
    Failure,
}

/// The report of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report<'a> {
    /// The version of this program.
    heddle: &'static str,
    /// The directory that was run.
    directory: &'a Path,
    /// How long it took, in seconds.
    seconds: f64,
    /// Why it ended.
    ended_by: EndedBy,
    /// What passed, by route and version, from the beginning to the end.
    routes: Vec<RouteTraffic>,
    /// The statuses of all objects, as the control plane gave them last.
    objects: Value,
    /// What was wrong in the manifests at the end, a sentence each.
    problems: &'a [String],
    /// The sidecars, as the control plane saw them last.
    sidecars: Value,
    /// The processes.
    processes: Running,
}

impl<'a> Report<'a> {
    /// Puts a report together.
    pub(crate) fn new(
        directory: &'a Path,
        elapsed: Duration,
        ended_by: EndedBy,
        routes: Vec<RouteTraffic>,
        status: &Status,
        problems: &'a [String],
        mesh: &Mesh,
    ) -> Self {
        Self {
            heddle: env!("CARGO_PKG_VERSION"),
            directory,
            seconds: elapsed.as_secs_f64(),
            ended_by,
            routes,
            objects: status.list("objects"),
            problems,
            sidecars: status.list("sidecars"),
            processes: Running::new(mesh),
        }
    }
}

/// Everything that runs, and where.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    control_plane: ControlPlane,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
struct ControlPlane {
    listen: String,
    admin: String,
    #[serde(flatten)]
    process: Process,
}

#[derive(Debug, Serialize)]
struct Replica {
    namespace: String,
    workload: String,
    pod: String,
    ready: bool,
    /// What keeps it from being ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<String>,
    /// Absent where somebody else runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Process>,
    sidecar: Process,
    admin: String,
    ports: Vec<Port>,
    upstreams: Vec<Upstream>,
}

#[derive(Debug, Serialize)]
struct Process {
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    restarts: u32,
    /// How it ended last, while it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    down: Option<String>,
}

#[derive(Debug, Serialize)]
struct Port {
    name: String,
    port: u16,
    application: String,
    listen: String,
}

#[derive(Debug, Serialize)]
struct Upstream {
    service: String,
    namespace: String,
    port: u16,
    listen: String,
}

impl Running {
    /// Lists what runs.
    pub(crate) fn new(mesh: &Mesh) -> Self {
        let replicas = mesh.replicas.values().map(|running| {
            let replica = &running.replica;
            Replica {
                namespace: replica.namespace.clone(),
                workload: replica.workload.clone(),
                pod: replica.pod.clone(),
                ready: running.is_ready(),
                waiting: running.health.as_ref().and_then(waiting),
                application: running.application.as_ref().map(process),
                sidecar: process(&running.sidecar),
                admin: replica.admin.to_string(),
                ports: replica
                    .ports
                    .iter()
                    .map(|p| Port {
                        name: p.name.clone(),
                        port: p.port,
                        application: p.application.to_string(),
                        listen: p.listen.to_string(),
                    })
                    .collect(),
                upstreams: replica
                    .upstreams
                    .iter()
                    .map(|u| Upstream {
                        service: u.service.clone(),
                        namespace: u.namespace.clone(),
                        port: u.port,
                        listen: u.listen.to_string(),
                    })
                    .collect(),
            }
        });
        Self {
            control_plane: ControlPlane {
                listen: mesh.surroundings.control_plane.to_string(),
                admin: mesh.surroundings.control_plane_admin.to_string(),
                process: process(&mesh.control_plane),
            },
            replicas: replicas.collect(),
        }
    }
}

/// What keeps a replica from being ready, in words.
pub(crate) fn waiting(health: &Health) -> Option<String> {
    match health {
        Health::Ready => None,
        Health::Silent(address) => Some(format!("nobody listens on {address}")),
        Health::SidecarNotReady(words) if words.is_empty() => Some("its sidecar is not ready".to_owned()),
        Health::SidecarNotReady(words) => Some(format!("its sidecar is not ready: {words}")),
    }
}

fn process(kept: &Kept) -> Process {
    let (pid, down) = match &kept.life {
        Life::Coming => (None, None),
        Life::Running(pid) => (Some(*pid), None),
        Life::Down(how) => (None, Some(how.clone())),
    };
    Process { pid, restarts: kept.restarts, down }
}
