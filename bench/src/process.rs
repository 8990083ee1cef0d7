//! Child processes: started on chosen cores, with a log, and ended with whoever started them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::{Event, Outcome, Spec};

/// How long a process may take to end when it is asked to; under an instrument it takes seconds.
const END_WITHIN: Duration = Duration::from_secs(10);

/// How often a condition is looked at while it is awaited.
const POLL: Duration = Duration::from_millis(20);

/// A program with its arguments.
pub(crate) type Argv = Vec<OsString>;

/// Makes an [`Argv`] of anything that has text in it.
pub(crate) fn argv<I>(parts: I) -> Argv
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    parts.into_iter().map(Into::into).collect()
}

/// A running child. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `argv` pinned to `cpus`; what it writes goes to `log`, except standard output when `piped`.
    ///
    /// `taskset` and `setpriv` (util-linux) replace themselves by the program, so the child's pid is the program's.
    pub(crate) fn start(argv: &Argv, cpus: Option<&str>, log: &Path, piped: bool) -> Result<Self> {
        let mut whole = self::argv(["setpriv", "--pdeathsig", "TERM"]);
        if let Some(cpus) = cpus {
            whole.extend(self::argv(["taskset", "--cpu-list", cpus]));
        }
        whole.extend(argv.iter().cloned());
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (program, arguments) = whole.split_first().context("there is no program to start")?;
        let mut command = Command::new(program);
        command.args(arguments).stderr(file.try_clone()?);
        if piped {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(file);
        }
        let child = command.spawn().with_context(|| format!("cannot start {program:?} (package util-linux) for {argv:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The process id, which is the program's.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of the log if the process has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the process has ended with {status}: {}", self.log_end());
        }
        Ok(())
    }

    /// The last lines of what the process wrote, and where the rest is.
    pub(crate) fn log_end(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join(" | ");
        format!("{last} (log: {})", self.log.display())
    }

    /// Asks the process to end, and ends it if it does not.
    pub(crate) fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // The shell's own `kill`, because std can only send SIGKILL and a mesh has children to end.
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.pid())]).status();
        let mut waited = Duration::ZERO;
        while asked.is_ok() && waited < END_WITHIN {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
            waited += POLL;
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A child that reports by lines on its standard output.
#[derive(Debug)]
pub(crate) struct Reporter {
    lines: BufReader<ChildStdout>,
    stdin: Option<ChildStdin>,
    process: Process,
}

impl Reporter {
    /// Starts this same program with other arguments.
    pub(crate) fn start(arguments: &[&str], cpus: Option<&str>, log: &Path) -> Result<Self> {
        let mut argv = argv([std::env::current_exe()?]);
        argv.extend(arguments.iter().map(OsString::from));
        let mut process = Process::start(&argv, cpus, log, true)?;
        let stdout = process.child.stdout.take().context("the child has no output")?;
        Ok(Self { lines: BufReader::new(stdout), stdin: process.child.stdin.take(), process })
    }

    /// Starts the load generator.
    pub(crate) fn load(spec: &Spec, cpus: Option<&str>, log: &Path) -> Result<Self> {
        Self::start(&["load", &serde_json::to_string(spec)?], cpus, log)
    }

    /// Reads the next line.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            bail!("it ended early: {}", self.process.log_end());
        }
        Ok(line)
    }

    /// Waits for the begin of the measured time.
    pub(crate) fn begin(&mut self) -> Result<()> {
        match self.event()? {
            Event::Begin => Ok(()),
            Event::End(outcome) => bail!("the load ended before it began: {outcome:?}"),
        }
    }

    /// Waits for the end of the measured time.
    pub(crate) fn outcome(&mut self) -> Result<Outcome> {
        match self.event()? {
            Event::Begin => bail!("the load began twice"),
            Event::End(outcome) => Ok(outcome),
        }
    }

    /// Lets the child go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the child has no input")?;
        stdin.write_all(b"go\n").context("the child does not read")
    }

    fn event(&mut self) -> Result<Event> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("not an event: {line}"))
    }
}

/// Finds `N` ports of 127.0.0.1 that are free now, all different.
pub(crate) fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no free port on 127.0.0.1")?;
        *address = listener.local_addr()?;
        held.push(listener);
    }
    Ok(addresses)
}

/// Waits until `condition` gives a value; its last error when it does not within `limit`.
pub(crate) fn wait<T>(limit: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let mut waited = Duration::ZERO;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if waited >= limit => {
                return Err(error.context(format!("waited {} s in vain", limit.as_secs())));
            }
            Err(_) => {}
        }
        thread::sleep(POLL);
        waited += POLL;
    }
}

/// Raises this process's limit of descriptors as far as it may go; its children inherit it. Gives the limit.
pub(crate) fn raise_descriptors() -> Result<u64> {
    let (soft, hard) = descriptors()?;
    if soft < hard {
        let own = std::process::id();
        // prlimit (util-linux) does from outside what std has no safe function for.
        let raised = Command::new("prlimit").args([format!("--pid={own}"), format!("--nofile={hard}:{hard}")]).status();
        raised.context("cannot start prlimit (package util-linux)")?;
    }
    Ok(descriptors()?.0)
}

/// Reads the soft and the hard limit of descriptors.
fn descriptors() -> Result<(u64, u64)> {
    let limits = fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    parse_descriptors(&limits).context("/proc/self/limits has no open files")
}

fn parse_descriptors(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut fields = line.split_ascii_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Finds a program in the folders of `PATH` and those of system administration.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let [a, b, c] = free_ports::<3>().unwrap();
        assert!(a != b && b != c && a != c);
    }

    #[test]
    fn reads_limits_of_descriptors() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             96264                96264                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(parse_descriptors(limits), Some((1024, 524_288)));
        assert_eq!(parse_descriptors("Max processes 1 1 processes\n"), None);
        let (soft, hard) = descriptors().unwrap();
        assert!(soft <= hard);
    }

    #[test]
    fn child_ends_with_its_guard() {
        let log = std::env::temp_dir().join(format!("heddle-bench-test-{}.log", std::process::id()));
        let process = Process::start(&argv(["sleep", "600"]), None, &log, false).unwrap();
        let pid = process.pid();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        fs::remove_file(log).unwrap();
    }

    #[test]
    fn early_end_is_told_with_the_log() {
        let log = std::env::temp_dir().join(format!("heddle-bench-test-early-{}.log", std::process::id()));
        let argv = argv(["sh", "-c", "echo no such thing >&2; exit 3"]);
        let mut process = Process::start(&argv, None, &log, false).unwrap();
        let error = wait(Duration::from_secs(10), || match process.check() {
            Ok(()) => bail!("still running"),
            Err(error) => Ok(error),
        });
        let error = format!("{:#}", error.unwrap());
        assert!(error.contains("exit status: 3") && error.contains("no such thing"), "{error}");
        fs::remove_file(log).unwrap();
    }
}
