//! Ends a process of the mesh when `heddle up`, which started it, is gone.

use rustix::process::{Signal, getpid, kill_process};
use std::io::Read;
use std::time::Duration;

/// Set to `1`: the end of standard input means that the parent is gone. Unset, standard input is left alone, as for a sidecar that is
/// started by an init system or a kubelet.
pub(crate) const VARIABLE: &str = "HEDDLE_EXIT_ON_STDIN_EOF";

/// How long an ordinary end may take; then the process ends at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches standard input on a thread of its own, if the environment says so.
pub(crate) fn end_with_parent() {
    if std::env::var_os(VARIABLE).is_some_and(|value| value == "1") {
        std::thread::spawn(|| {
            let mut ignored = [0; 64];
            // What arrives means nothing; the end, or a failure, means that nobody holds the other end of the pipe.
            while std::io::stdin().read(&mut ignored).is_ok_and(|length| length > 0) {}
            let _still_there = kill_process(getpid(), Signal::TERM);
            std::thread::sleep(PATIENCE);
            std::process::exit(1);
        });
    }
}
