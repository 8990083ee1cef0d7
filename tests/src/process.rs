//! One process of a mesh: started with nothing but the environment it is given, looked into, killed, and gone when the test is.

use crate::wait;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Lines of a log that a failed test prints.
const TAIL: usize = 25;
/// Of the caller's environment: what a program may need to start at all, and nothing that changes what it does.
const INHERITED: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "TMPDIR"];

/// The binary under test: `$HEDDLE_BIN`, or the one that cargo has built beside this test.
///
/// # Panics
/// When there is none, with the command that makes it.
pub fn heddle() -> PathBuf {
    if let Some(path) = std::env::var_os("HEDDLE_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "HEDDLE_BIN={} is no file: name the heddle binary", path.display());
        return path;
    }
    let test = std::env::current_exe().expect("this test's own path");
    // target/<profile>/deps/<test>
    let path = test.ancestors().nth(2).unwrap_or_else(|| Path::new(".")).join("heddle");
    assert!(path.is_file(), "{} is not built: run `cargo build -p heddle`, or name a binary in HEDDLE_BIN", path.display());
    path
}

/// A process, and what is needed to start it again.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    log: PathBuf,
    child: Option<Child>,
    // Killed or told to end by the test, or never meant to live.
    end_expected: bool,
}

impl Process {
    /// Starts a process; its output goes to the end of `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, program: &Path, args: Vec<String>, env: BTreeMap<String, String>, log: PathBuf) -> Self {
        let mut process = Self::stopped(name, program, args, env, log);
        process.spawn();
        process
    }

    /// A process that [`Process::restart`] will start.
    pub fn stopped(name: &str, program: &Path, args: Vec<String>, env: BTreeMap<String, String>, log: PathBuf) -> Self {
        Self { name: name.to_owned(), program: program.to_owned(), args, env, log, child: None, end_expected: true }
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear();
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // Its standard input ends with this process, however that ends.
        command.env("HEDDLE_EXIT_ON_STDIN_EOF", "1").env("RUST_BACKTRACE", "1").envs(&self.env).stdin(Stdio::piped());
        command.stdout(log.try_clone().expect("a log file")).stderr(log).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| panic!("{} could not be started: {e}", self.program.display()));
        self.child = Some(child);
        self.end_expected = false;
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("the {} does not run", self.name)).id()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).unwrap_or_else(|e| panic!("{signal:?} to the {}: {e}", self.name));
    }

    /// Kills it at once (SIGKILL), and everything it has started.
    pub fn kill(&mut self) {
        self.end_expected = true;
        if let Some(mut child) = self.child.take() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _gone = kill_process_group(group, Signal::KILL);
            }
            let _reaped = child.wait();
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&mut self) {
        self.end_expected = true;
        self.signal(Signal::TERM);
    }

    /// Stops it in its tracks (SIGSTOP): alive for the kernel, silent for its peers.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it goes on for longer than [`wait::PATIENCE`].
    pub async fn ended(&mut self) -> ExitStatus {
        self.end_expected = true;
        let what = format!("the end of the {}", self.name);
        let status = wait::until(&what, async || self.exit_status().ok_or_else(|| "it runs".to_owned())).await;
        self.child = None;
        status
    }

    /// How it has ended; `None`: it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().expect("the state of a child")
    }

    /// Starts it again, with the same arguments and environment; kills it first when it runs.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Changes a variable of its environment, for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Memory in use now, in bytes (`VmRSS` of proc(5)).
    pub fn memory(&self) -> u64 {
        self.status_kib("VmRSS:") * 1024
    }

    /// The most memory ever in use, in bytes (`VmHWM` of proc(5)).
    pub fn memory_peak(&self) -> u64 {
        self.status_kib("VmHWM:") * 1024
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the status of a child");
        let value = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of the status");
        value.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
    }

    /// CPU time spent so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the status of a child");
        // The command's name is in brackets and may hold anything; what follows has fixed columns, of which these are 14 and 15.
        let after = stat.rsplit_once(')').expect("a name").1;
        let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("a number of ticks")).sum();
        // USER_HZ is 100 on every architecture that Linux runs on today.
        Duration::from_millis(ticks * 10)
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it has written, for a failed test.
    pub fn report(&mut self) -> String {
        let state = match (self.exit_status(), self.child.is_some()) {
            (Some(status), _) if !self.end_expected => format!("ended by itself: {status}"),
            (Some(status), _) => status.to_string(),
            (None, true) => "running".to_owned(),
            (None, false) => "ended by the test".to_owned(),
        };
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  ");
        format!("--- {} ({state}), {}:\n  {tail}\n", self.name, self.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
