//! `heddle launch PARENT PROGRAM ARGS…`: becomes the program, which then ends when `heddle up` is gone, however that ended.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// As shells say it: the program was not found, or could not be run.
const NOT_RUN: u8 = 127;

/// The command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process whose end is the program's end.
    parent: u32,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program; comes back only when that failed.
///
/// On Linux the kernel sends SIGTERM when the parent is gone (prctl(2), `PR_SET_PDEATHSIG`), which lasts over execve(2). It is not inherited
/// by what the program itself starts. Elsewhere the program outlives an `up` that was killed.
pub(crate) fn run(args: Args) -> ExitCode {
    let Args { parent, command } = args;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
            eprintln!("heddle launch: no signal at the end of the parent: {error}");
        }
        // It may have ended before the line above.
        if getppid().is_none_or(|pid| u32::try_from(pid.as_raw_nonzero().get()) != Ok(parent)) {
            return ExitCode::SUCCESS;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _only_linux_tells = parent;
    let mut words = command.into_iter();
    let Some(program) = words.next() else { return ExitCode::from(NOT_RUN) };
    let error = Command::new(&program).args(words).exec();
    eprintln!("{} could not be run: {error}", program.to_string_lossy());
    ExitCode::from(NOT_RUN)
}
