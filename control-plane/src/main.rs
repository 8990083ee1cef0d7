//! The binary `heddle-control-plane`: arguments, then `heddle_control_plane::execute`.

use clap::Parser;
use heddle_control_plane::{Args, EXIT_CONFIG, execute};
use std::process::ExitCode;

// Snapshots are many small objects that live long beside answers that do not: with the system's allocator the memory that a relist frees
// stays with the process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Heddle's control plane.
#[derive(Debug, Parser)]
#[command(name = "heddle-control-plane", version)]
struct Command {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    match Command::try_parse() {
        Ok(Command { args }) => execute(&args),
        Err(error) => {
            // Help and version are no errors; clap prints them to standard output.
            let code = if error.use_stderr() { EXIT_CONFIG } else { 0 };
            match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            }
        }
    }
}
