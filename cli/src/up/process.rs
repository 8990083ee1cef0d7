//! Keeps one process running: starts it, reads what it writes, starts it again when it ends, and ends it when asked.

use super::event::Event;
use super::output::{Lines, Log};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// What a process is to the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The control plane of this mesh.
    ControlPlane,
    /// The sidecar of a replica.
    Sidecar,
    /// The application of a replica.
    Application,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control plane",
            Self::Sidecar => "sidecar",
            Self::Application => "application",
        })
    }
}

/// Which process: its role, and its replica's Pod (`namespace/name`; empty for the control plane).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId {
    /// What it is.
    pub(crate) role: Role,
    /// Whose it is.
    pub(crate) pod: String,
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.pod.strip_prefix("default/").unwrap_or(&self.pod);
        match self.role {
            Role::ControlPlane => f.write_str("control plane"),
            Role::Sidecar => write!(f, "sidecar of {name}"),
            Role::Application => f.write_str(name),
        }
    }
}

/// How to start a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    /// Which process this is.
    pub(crate) id: ProcessId,
    /// The program: a path, or a name to be found in `PATH`.
    pub(crate) program: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// What its environment has besides that of `up`.
    pub(crate) env: BTreeMap<String, String>,
    /// Where it runs.
    pub(crate) directory: PathBuf,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// This program, to be started as `heddle launch`, which gives the process a signal when `up` is gone; `None` for processes that see that
    /// by the end of their standard input.
    pub(crate) launcher: Option<PathBuf>,
}

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// To wait with its start.
    Wait,
    /// To run.
    Run,
    /// To end within [`GRACE`]; SIGKILL after that.
    End,
    /// To end at once.
    Kill,
}

/// The way to tell a process; it has ended when the other end is gone.
///
/// Clones tell the same process.
#[derive(Debug, Clone)]
pub(crate) struct Handle(watch::Sender<Wish>);

impl Handle {
    /// A handle, and what [`keep`] takes. The process waits with its start until it is told to run.
    pub(crate) fn new() -> (Self, watch::Receiver<Wish>) {
        let (sender, receiver) = watch::channel(Wish::Wait);
        (Self(sender), receiver)
    }

    /// Tells the process to run, or to end; a wish is never taken back.
    pub(crate) fn wish(&self, wish: Wish) {
        self.0.send_if_modified(|current| {
            let more = wish > *current;
            *current = wish.max(*current);
            more
        });
    }

    /// Waits until the process has ended as wished. Cancel safe.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }
}

/// How long a process may take to end after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// An application that crashed waits as long before it is started again, and twice as long each time, up to [`PAUSE_MAX`]. Shorter than a
/// kubelet's 10 s to 5 min, because somebody sits in front of it.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A process that ran as long begins with the first pause again.
const RAN_WELL: Duration = Duration::from_secs(10);

/// The pause before the next start, given the last one; the mesh's own processes are started again at once the first time.
fn next_pause(role: Role, last: Option<Duration>) -> Duration {
    match (role, last) {
        (Role::Application, None) => PAUSE_FIRST,
        (Role::ControlPlane | Role::Sidecar, None) => Duration::ZERO,
        (_, Some(last)) => (last * 2).clamp(PAUSE_FIRST, PAUSE_MAX),
    }
}

/// Keeps a process running from the moment when it is wished to run until it is wished to end; then ends it and everything in its process group.
///
/// Not cancel safe: dropped, it kills the process itself, but not what that had started.
pub(crate) async fn keep(start: Start, mut wish: watch::Receiver<Wish>, events: mpsc::Sender<Event>, verbose: bool) {
    let mut log = Log::open(start.log.clone());
    let mut pause = None;
    let told = wish.wait_for(|wish| *wish != Wish::Wait).await.is_ok();
    while told && *wish.borrow() == Wish::Run {
        let began = Instant::now();
        match spawn(&start) {
            Ok(mut child) => {
                if let Some(pid) = child.id() {
                    send(&events, Event::Started(start.id.clone(), pid)).await;
                }
                let Some(status) = run(&start, &mut child, &mut log, &mut wish, verbose.then_some(&events)).await else { return };
                if began.elapsed() >= RAN_WELL {
                    pause = None;
                }
                let next = next_pause(start.id.role, pause);
                pause = Some(next);
                let how = match log.take_last() {
                    Some(line) => format!("{}: {line}", ended_by(status)),
                    None => ended_by(status),
                };
                send(&events, Event::Ended { id: start.id.clone(), success: status.success(), how, pause: next }).await;
            }
            Err(reason) => {
                pause = Some(next_pause(start.id.role, pause).max(PAUSE_FIRST));
                send(&events, Event::NotStarted(start.id.clone(), reason)).await;
            }
        }
        tokio::select! {
            () = sleep(pause.unwrap_or_default()) => {}
            _ = wish.wait_for(|wish| *wish != Wish::Run) => {}
        }
    }
}

/// Reports; a receiver that is gone needs no reports.
async fn send(events: &mpsc::Sender<Event>, event: Event) {
    let _gone = events.send(event).await;
}

fn spawn(start: &Start) -> Result<Child, String> {
    let program = find(&start.program, &start.env, &start.directory)?;
    let mut command = match &start.launcher {
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.arg("launch").arg(std::process::id().to_string()).arg(&program);
            command
        }
        None => Command::new(&program),
    };
    command.args(&start.args).envs(&start.env).current_dir(&start.directory);
    command.stdin(if start.id.role == Role::Application { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C in the terminal reaches `up` alone, which then ends the others in their order.
    command.process_group(0).kill_on_drop(true);
    command.spawn().map_err(|error| format!("{} could not be started: {error}", program.display()))
}

/// Finds a program as the shell would: a path as it is, a name in `PATH`.
fn find(program: &str, env: &BTreeMap<String, String>, directory: &Path) -> Result<PathBuf, String> {
    let executable = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let path = directory.join(program);
        return if executable(&path) {
            Ok(path)
        } else if path.exists() {
            Err(format!("{} is not an executable file", path.display()))
        } else {
            Err(format!("command not found: {} does not exist", path.display()))
        };
    }
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = env.get("PATH").map_or(inherited, Into::into);
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| executable(path));
    found.ok_or_else(|| format!("command not found: {program} is in no directory of PATH"))
}

/// Waits for the end of a process; `None` when it ended because it was wished to.
async fn run(
    start: &Start,
    child: &mut Child,
    log: &mut Log,
    wish: &mut watch::Receiver<Wish>,
    verbose: Option<&mpsc::Sender<Event>>,
) -> Option<ExitStatus> {
    let pid = child.id();
    // Held until the process has ended: its end tells the process that we are gone, and waiting would close it.
    let _stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = std::pin::pin!(read_both(start, stdout, stderr, log, verbose));
    let mut read_all = false;
    let ended = loop {
        tokio::select! {
            status = child.wait() => break Some(status),
            () = &mut reading, if !read_all => read_all = true,
            _ = wish.wait_for(|wish| *wish != Wish::Run) => break None,
        }
    };
    let status = match ended {
        Some(status) => status.ok(),
        None => {
            end(child, pid, wish, &mut reading, &mut read_all).await;
            None
        }
    };
    // Whatever it had started ends with it, and with that the pipes.
    signal(pid, Signal::KILL);
    if !read_all {
        // Bounded: somebody who left the group may hold the pipe for ever.
        let _bounded = timeout(Duration::from_millis(200), reading).await;
    }
    status
}

/// Ends a process: SIGTERM, and SIGKILL when that took too long or somebody is in a hurry. Its output is read on meanwhile.
async fn end(
    child: &mut Child,
    pid: Option<u32>,
    wish: &mut watch::Receiver<Wish>,
    reading: &mut (impl Future<Output = ()> + Unpin),
    read_all: &mut bool,
) {
    if *wish.borrow() == Wish::End {
        signal(pid, Signal::TERM);
    }
    let deadline = sleep(GRACE);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            _ = child.wait() => return,
            () = &mut *reading, if !*read_all => *read_all = true,
            () = &mut deadline => break,
            _ = wish.wait_for(|wish| *wish == Wish::Kill) => break,
        }
    }
    signal(pid, Signal::KILL);
    let _reaped = child.wait().await;
}

/// Sends a signal to a process and all that it started, as far as they stayed in its group.
fn signal(pid: Option<u32>, signal: Signal) {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    if let Some(pid) = pid {
        // No such group: everybody in it is gone already.
        let _gone = kill_process_group(pid, signal);
    }
}

async fn read_both(
    start: &Start,
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    log: &mut Log,
    verbose: Option<&mpsc::Sender<Event>>,
) {
    let (mut stdout, mut stderr) = (Pipe::new(stdout), Pipe::new(stderr));
    while stdout.open() || stderr.open() {
        let lines = tokio::select! {
            lines = stdout.read(), if stdout.open() => lines,
            lines = stderr.read(), if stderr.open() => lines,
        };
        for line in lines {
            log.line(&line);
            if let Some(events) = verbose {
                // Never waits: a terminal that is slow must not hold up an application that talks much.
                let _full = events.try_send(Event::Line(start.id.clone(), line));
            }
        }
    }
}

/// One end of a pipe that a process writes to.
struct Pipe<R> {
    from: Option<R>,
    lines: Lines,
    buffer: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(from: Option<R>) -> Self {
        Self { from, lines: Lines::default(), buffer: vec![0; 4096].into_boxed_slice() }
    }

    fn open(&self) -> bool {
        self.from.is_some()
    }

    /// The next lines; those that were begun, at the end. Cancel safe: one read, and no state before it.
    async fn read(&mut self) -> Vec<String> {
        let Some(from) = &mut self.from else { return Vec::new() };
        match from.read(&mut self.buffer).await {
            Ok(length) if length > 0 => self.lines.push(self.buffer.get(..length).unwrap_or_default()),
            Ok(_) | Err(_) => {
                self.from = None;
                self.lines.end().into_iter().collect()
            }
        }
    }
}

/// How a process ended, in words.
fn ended_by(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}{}", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

/// The names of the signals that end processes most often; signal(7).
fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = |role| {
            let mut last = None;
            (0..6).map(|_| last.insert(next_pause(role, last)).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(Role::Application), [1, 2, 4, 8, 10, 10]);
        assert_eq!(pauses(Role::Sidecar), [0, 1, 2, 4, 8, 10]);
        assert_eq!(pauses(Role::ControlPlane), [0, 1, 2, 4, 8, 10]);
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let none = BTreeMap::new();
        let root = Path::new("/");
        assert!(find("sh", &none, root).unwrap().ends_with("sh"));
        assert_eq!(find("bin/sh", &none, root).unwrap(), Path::new("/bin/sh"));
        let nowhere = BTreeMap::from([("PATH".to_owned(), "/nonexistent".to_owned())]);
        for (program, env, reason) in [
            ("sh", &nowhere, "command not found: sh is in no directory of PATH"),
            ("./nobody", &none, "command not found: /./nobody does not exist"),
            ("/etc/passwd", &none, "/etc/passwd is not an executable file"),
        ] {
            assert_eq!(find(program, env, root).unwrap_err(), reason);
        }
    }

    #[test]
    fn the_end_of_a_process_has_words() {
        assert_eq!(ended_by(ExitStatus::from_raw(3 << 8)), "exited with status 3");
        assert_eq!(ended_by(ExitStatus::from_raw(11)), "was ended by signal 11 (SIGSEGV)");
        assert_eq!(ended_by(ExitStatus::from_raw(40)), "was ended by signal 40");
    }

    #[test]
    fn processes_have_short_names() {
        let name = |role, pod: &str| ProcessId { role, pod: pod.to_owned() }.to_string();
        assert_eq!(name(Role::Application, "default/front-0"), "front-0");
        assert_eq!(name(Role::Sidecar, "shop/front-0"), "sidecar of shop/front-0");
        assert_eq!(name(Role::ControlPlane, ""), "control plane");
    }
}
