//! Counts the user-space instructions of one request, in both proxies, under valgrind's callgrind.
//!
//! Method of difference: two phases of N1 and N2 requests on the same connections, the counters dumped and zeroed before and
//! after each; (I2 − I1) / (N2 − N1) is free of whatever a phase costs by itself (timers, a reconnection, the dump).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::client::Protocol;
use crate::load::Work;
use crate::process::{Argv, Reporter, argv, find_program, wait};
use crate::report::{Figure, Report};
use crate::subject::{Bed, Pair, Subject};

/// How long callgrind may take to write its counters.
const DUMP_WITHIN: Duration = Duration::from_secs(60);

/// How long a proxy is left to finish what follows an answer, before it is counted.
const SETTLE: Duration = Duration::from_millis(200);

const BOTH: Figure = figure("instructions_per_request", "both");
const CLIENT: Figure = figure("instructions_per_request_client_side", "client's proxy");
const SERVER: Figure = figure("instructions_per_request_server_side", "server's proxy");

const fn figure(name: &'static str, title: &'static str) -> Figure {
    Figure { name, title, digits: 0 }
}

/// What to count.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// In the order of the table.
    pub(crate) subjects: Vec<Subject>,
    /// HTTP/1.1, gRPC, or both.
    pub(crate) protocols: Vec<Protocol>,
    /// Requests before the first count.
    pub(crate) warm: u64,
    /// Requests of the short phase.
    pub(crate) short: u64,
    /// Requests of the long phase.
    pub(crate) long: u64,
    /// Connections.
    pub(crate) connections: usize,
    /// Streams on each gRPC connection; HTTP/1.1 has one.
    pub(crate) streams: usize,
    /// Samples of each figure.
    pub(crate) repetitions: usize,
    /// The cores of client and server.
    pub(crate) load_cpus: Option<String>,
}

/// Counts everything; what cannot be counted becomes a note. `progress` is told what is being done.
pub(crate) fn run(bed: &Bed, settings: &Settings, report: &mut Report, progress: &dyn Fn(&str)) -> Result<()> {
    ensure!(settings.long > settings.short, "the long phase must be longer than the short one");
    find_program("valgrind").context("valgrind is not here: install the package valgrind")?;
    for protocol in &settings.protocols {
        let connections = settings.connections;
        let title = match protocol {
            Protocol::Grpc => format!("instructions per gRPC unary call; {connections} connections x {} streams", settings.streams),
            Protocol::Http1 | Protocol::Tcp => format!("instructions per HTTP/1.1 request; {connections} connections"),
        };
        report.table(name(*protocol)?, title, &[BOTH, CLIENT, SERVER]);
    }
    for repetition in 1..=settings.repetitions {
        for protocol in &settings.protocols {
            let scenario = name(*protocol)?;
            for subject in &settings.subjects {
                if let Some(why) = bed.tools.missing(*subject, *protocol) {
                    report.note(scenario, *subject, why);
                    continue;
                }
                progress(&format!("{repetition}/{} {scenario} {}", settings.repetitions, subject.name()));
                match count(bed, settings, *subject, *protocol) {
                    Ok([client, server]) => {
                        report.sample(scenario, *subject, BOTH, client + server);
                        report.sample(scenario, *subject, CLIENT, client);
                        report.sample(scenario, *subject, SERVER, server);
                    }
                    Err(error) => {
                        progress(&format!("{}: {error:#}", subject.name()));
                        report.fail(scenario, *subject, &error);
                    }
                }
            }
        }
    }
    report.finish();
    Ok(())
}

fn name(protocol: Protocol) -> Result<&'static str> {
    match protocol {
        Protocol::Http1 => Ok("http1"),
        Protocol::Grpc => Ok("grpc"),
        Protocol::Tcp => bail!("there are no requests in TCP whose instructions could be counted"),
    }
}

/// Counts one pair: instructions per request of the client's proxy and of the server's.
fn count(bed: &Bed, settings: &Settings, subject: Subject, protocol: Protocol) -> Result<[f64; 2]> {
    let folder = bed.folder.join(format!("callgrind-{}-{}", subject.name(), name(protocol)?));
    fs::create_dir_all(&folder)?;
    let pair = Pair::start(bed, subject, protocol, Some(&instrument(&folder)))?;
    ensure!(pair.pids.len() == 2, "{} has no two proxies", subject.name());
    let counts = vec![settings.warm, settings.short, settings.long];
    let mut spec = pair.spec(bed, protocol, Work::Phases { counts });
    spec.connections = settings.connections;
    spec.streams = settings.streams;
    let mut load = Reporter::load(&spec, settings.load_cpus.as_deref(), &bed.folder.join("load.log"))?;
    let mut dumps = Vec::new();
    for number in 1..=3 {
        load.go()?;
        load.outcome()?;
        thread::sleep(SETTLE);
        let mut both = [0; 2];
        for (total, pid) in both.iter_mut().zip(&pair.pids) {
            *total = dump(&folder, *pid, number)?;
        }
        dumps.push(both);
    }
    let [_, short, long] = dumps[..] else {
        bail!("{} dumps instead of three", dumps.len());
    };
    let more = (settings.long - settings.short) as f64;
    Ok([0, 1].map(|side| (long[side] as f64 - short[side] as f64) / more))
}

/// What is put before a proxy's command.
fn instrument(folder: &Path) -> Argv {
    let mut instrument = argv(["valgrind", "--tool=callgrind", "--quiet"]);
    // An embedded allocator or a stack of its own is no business of a counter.
    instrument.extend(argv(["--max-stackframe=16777216", "--error-limit=no"]));
    instrument.extend(argv([format!("--callgrind-out-file={}/callgrind.%p", folder.display())]));
    instrument
}

/// Makes callgrind write its counters for the `number`th time and start again at 0.
fn dump(folder: &Path, pid: u32, number: u32) -> Result<u64> {
    // vgdb comes with valgrind: it wakes the process even when it waits in the kernel.
    let answer = Command::new("vgdb")
        .args([&format!("--pid={pid}"), "dump"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start vgdb, which comes with valgrind")?;
    ensure!(answer.status.success(), "vgdb cannot reach process {pid}: {}", String::from_utf8_lossy(&answer.stderr).trim());
    let path: PathBuf = folder.join(format!("callgrind.{pid}.{number}"));
    wait(DUMP_WITHIN, || {
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        parse_total(&text).with_context(|| format!("{} has no total yet", path.display()))
    })
}

/// Reads the sum of a callgrind profile: its last line, `totals: N`.
fn parse_total(profile: &[u8]) -> Option<u64> {
    let end = &profile[profile.len().saturating_sub(200)..];
    let text = String::from_utf8_lossy(end);
    let line = text.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_total_of_a_profile() {
        let profile = b"# callgrind format\nversion: 1\nevents: Ir\nsummary: 30\n\nfn=(1) main\n3 30\n\ntotals: 30\n";
        assert_eq!(parse_total(profile), Some(30));
        assert_eq!(parse_total(&profile[..profile.len() - 12]), None);
        assert_eq!(parse_total(b""), None);
    }
}
