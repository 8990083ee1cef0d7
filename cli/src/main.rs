//! The command `heddle`: one binary that is every part of the mesh; which part, its first argument says.

mod chart;
mod check;
mod cluster;
mod command_line;
mod console;
mod exposition;
mod fetch;
mod histogram;
mod inject;
mod install;
mod launch;
mod orphan;
mod status;
mod table;
mod template;
mod text;
mod traffic;
mod uninstall;
mod up;
mod upgrade;
mod version;

use clap::{CommandFactory, FromArgMatches};
use command_line::{Command, CommandLine};
use std::io::{self, Write};
use std::process::ExitCode;

// Measured in ARCHITECTURE.md: the sidecar's allocations are most of what an allocator does here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The command line cannot be used (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    match CommandLine::command().bin_name(name()).try_get_matches().and_then(|matches| CommandLine::from_arg_matches(&matches)) {
        Ok(CommandLine { command }) => run(command),
        Err(error) => {
            let status = if error.use_stderr() { USAGE } else { 0 };
            // Nowhere to print to changes nothing about the status.
            let _unprintable = error.print();
            ExitCode::from(status)
        }
    }
}

/// What people type to start this: as a plug-in of kubectl, the program is called kubectl-heddle.
fn name() -> &'static str {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = std::path::Path::new(&program).file_stem().and_then(std::ffi::OsStr::to_str);
    if program.is_some_and(|program| matches!(program, "kubectl-heddle" | "kubectl_heddle")) { "kubectl heddle" } else { "heddle" }
}

fn run(command: Command) -> ExitCode {
    match command {
        Command::Up(options) => up::up(&options),
        Command::Install(options) => install::install(&options),
        Command::Upgrade(options) => upgrade::upgrade(&options),
        Command::Uninstall(options) => uninstall::uninstall(&options),
        Command::Inject(options) => inject::run(&options),
        Command::Check(options) => check::check(&options),
        Command::Version(options) => version::version(&options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "heddle", &mut script);
            print(&script)
        }
        Command::ControlPlane(args) => {
            orphan::end_with_parent();
            heddle_control_plane::execute(&args)
        }
        Command::Sidecar => {
            orphan::end_with_parent();
            heddle_sidecar::run_from_env()
        }
        Command::Example { args } => example(args),
        Command::Launch(args) => launch::run(args),
    }
}

fn example(args: Vec<String>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("heddle example: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(heddle_example_apps::run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints; a reader that has enough, as `head` does, is no failure.
fn print(bytes: &[u8]) -> ExitCode {
    match io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
