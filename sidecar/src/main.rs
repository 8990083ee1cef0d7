//! The lean binary that images ship: the sidecar, configured by its environment, and the command that redirects a pod to it.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;

const HELP: &str = "\
The sidecar of the Heddle service mesh. It is configured by its environment.

Usage: heddle-sidecar            run the sidecar
       heddle-sidecar redirect   redirect this network namespace to it (see redirect --help)

  -h, --help     say this
  -V, --version  say the version
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        None => heddle_sidecar::run_from_env(),
        Some((command, rest)) if command == "redirect" => heddle_sidecar::redirect::run(rest),
        Some((option, [])) if option == "--help" || option == "-h" => say(HELP),
        Some((option, [])) if option == "--version" || option == "-V" => say(concat!("heddle-sidecar ", env!("CARGO_PKG_VERSION"), "\n")),
        Some((other, _)) => {
            eprint!("heddle-sidecar: \"{}\" is not known\n\n{HELP}", other.display());
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Prints; a reader that has gone is its own loss.
fn say(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}
