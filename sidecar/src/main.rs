//! The lean binary that images ship: the sidecar alone, configured by its environment.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    heddle_sidecar::run_from_env()
}
