//! `heddle up`: the manifests of a directory as local processes, watched, measured and ended in order.
//!
//! The steps, one file each: `manifests` (what is wanted), `plan` (where each replica is, and what it is told), `state` (its files),
//! `objects` (what Kubernetes would have written), `process` (keeps one process running), `probe` (who can be used), `mesh` (brings what
//! runs to what is wanted), `report` (what tools read).

mod event;
mod listing;
mod manifests;
mod mesh;
mod objects;
mod output;
mod plan;
mod ports;
mod probe;
mod process;
mod report;
mod run;
mod signals;
mod state;

use crate::command_line::{Output, Up, Words};
use crate::console::{Console, Mode};
use crate::text::{Line, Style};
use manifests::{Changes, Desired, Files};
use mesh::Mesh;
use plan::Surroundings;
use ports::Ports;
use process::{ProcessId, Role, Start};
use run::Run;
use state::StateDirectory;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::sync::mpsc;

/// Something could not run.
const FAILED: u8 = 1;
/// The command line or the manifests cannot be used (EX_USAGE of sysexits.h).
const UNUSABLE: u8 = 64;
/// Ended by a second Ctrl-C, as shells say it.
const HURRIED: u8 = 130;

/// Events that wait for the loop: far more than a hundred processes report within one turn of it.
const EVENTS_MAX: usize = 1024;

/// How long a sidecar waits for its connections, at the end or when its replica goes: less than [`process::GRACE`], by which it must have
/// ended.
const DRAIN_SECONDS: u64 = 3;

/// Runs until its time is over or it is asked to end.
pub(crate) fn up(options: &Up) -> ExitCode {
    // One thread: what runs here is waiting, and applications that are started through `heddle launch` end with the thread that did.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("heddle up: {error}");
            return ExitCode::from(FAILED);
        }
    };
    runtime.block_on(begin(options))
}

/// Reads, checks and starts everything; then hands over to [`Run`].
async fn begin(options: &Up) -> ExitCode {
    let mode = match options.output {
        Output::Json => Mode::Json,
        Output::Text if options.no_table || !Console::can_redraw() => Mode::Plain,
        Output::Text => Mode::Table,
    };
    // First of all, so that a signal from here on ends what was begun.
    let signals = match signals::Signals::new() {
        Ok(signals) => signals,
        Err(error) => return refuse(FAILED, &[format!("signals cannot be caught: {error}")]),
    };
    let files = Files::look(&options.directory);
    let desired = Desired::read(&options.directory);
    if let Some(reason) = nothing_to_do(&options.directory, &desired) {
        let sentences: Vec<_> = desired.problems.iter().chain(&desired.notes).cloned().chain([reason]).collect();
        return refuse(UNUSABLE, &sentences);
    }
    let obstacles = mesh::obstacles(&desired);
    if !obstacles.is_empty() {
        return refuse(FAILED, &obstacles);
    }
    let (events, received) = mpsc::channel(EVENTS_MAX);
    let mesh = match prepare(options, &desired, events) {
        Ok(mesh) => mesh,
        Err(sentence) => return refuse(FAILED, &[sentence]),
    };
    let console = Console::new(mode, Console::wants_colour());
    Run::new(options, mesh, console, desired, Changes::since(files), received, signals).drive().await
}

/// Says why nothing was started.
fn refuse(status: u8, sentences: &[String]) -> ExitCode {
    let mut console = Console::new(Mode::Plain, false);
    for sentence in sentences {
        console.say(&Line::new(Style::Bad, sentence.clone()));
    }
    ExitCode::from(status)
}

/// Why there is nothing to run.
fn nothing_to_do(directory: &Path, desired: &Desired) -> Option<String> {
    let shown = directory.display();
    if !desired.workloads.is_empty() {
        None
    } else if desired.objects == 0 {
        Some(format!("heddle up: {shown} has no usable manifests (.yaml, .yml or .json): give a directory such as examples/canary"))
    } else {
        Some(format!(
            "heddle up: {shown} has {} objects but no usable LocalWorkload (heddle.dev/v1alpha1), so there is nothing to run: write one for \
             each application, as in examples/canary/workloads.yaml",
            desired.objects
        ))
    }
}

/// Makes the state directory, chooses places, and starts the control plane.
fn prepare(options: &Up, desired: &Desired, events: mpsc::Sender<event::Event>) -> Result<Mesh, String> {
    let own = std::env::current_exe().map_err(|error| format!("the path of this program is not known: {error}"))?;
    let directory = std::env::current_dir().map_err(|error| format!("the working directory is not known: {error}"))?;
    let mut ports = Ports::new(&mut fastrand::Rng::new());
    desired.workloads.values().flat_map(mesh::claimed_ports).for_each(|port| ports.reserve(port));
    let mut place = || ports.free().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(|error| error.to_string());
    let listen = match options.control_plane_listen {
        Some(address) => {
            ports::bindable(address).map_err(|error| format!("--control-plane-listen: nobody can listen on {address}: {error}"))?;
            address
        }
        None => place()?,
    };
    let admin = place()?;
    let state = StateDirectory::open(options.state.as_deref()).map_err(|error| error.to_string())?;
    let own_name = own.display().to_string();
    let (sidecar_command, foreign_sidecar) = match &options.sidecar_command {
        Some(Words(program, args)) => ((program.clone(), args.clone()), true),
        None => ((own_name.clone(), vec!["sidecar".to_owned()]), false),
    };
    let surroundings = Surroundings {
        logs: state.logs(),
        path: path_with(own.parent()),
        own,
        trust_domain: desired.trust_domain.clone(),
        control_plane: plan::called(listen),
        control_plane_admin: admin,
        trust_roots: state.trust_roots(),
        workers: usize::from(options.workers),
        drain_seconds: DRAIN_SECONDS,
        sidecar_command,
        foreign_sidecar,
        directory,
    };
    let start = control_plane(&own_name, options, listen, &surroundings, &state);
    Ok(Mesh::new(surroundings, state, ports, start, events, options.verbose))
}

/// How to start the control plane.
fn control_plane(own: &str, options: &Up, listen: SocketAddr, surroundings: &Surroundings, state: &StateDirectory) -> Start {
    let objects = state.objects();
    let tokens = state.token_file();
    let flags: [(&str, PathBuf); 4] =
        [("--directory", options.directory.clone()), ("--directory", objects), ("--state", state.path().to_owned()), ("--tokens", tokens)];
    let mut args = vec!["control-plane".to_owned()];
    for (flag, path) in flags {
        args.extend([flag.to_owned(), path.display().to_string()]);
    }
    args.extend(["--listen".to_owned(), listen.to_string(), "--admin".to_owned(), surroundings.control_plane_admin.to_string()]);
    Start {
        id: ProcessId { role: Role::ControlPlane, pod: String::new() },
        program: own.to_owned(),
        args,
        env: BTreeMap::from([(crate::orphan::VARIABLE.to_owned(), "1".to_owned())]),
        directory: surroundings.directory.clone(),
        log: surroundings.logs.join("control-plane.log"),
        launcher: None,
    }
}

/// `PATH`, with the directory of this program first: `heddle` in a command is this heddle.
fn path_with(own: Option<&Path>) -> String {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let folders = own.map(Path::to_owned).into_iter().chain(std::env::split_paths(&inherited));
    // A directory with a colon in its name cannot be in PATH: then the inherited one it is.
    std::env::join_paths(folders).unwrap_or(inherited).to_string_lossy().into_owned()
}
