//! `heddle-bench`: drives pairs of proxies side by side and prints what a request costs in each.

mod certs;
mod client;
mod head;
mod instructions;
mod load;
mod origin;
mod process;
mod procfs;
mod relay;
mod report;
mod run;
mod stats;
mod subject;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};

use certs::Certs;
use client::Protocol;
use origin::Origin;
use process::Reporter;
use report::Report;
use run::Scenario;
use stats::Arrivals;
use subject::{Bed, Subject, Tools};

/// Measures pairs of proxies with mTLS between them, side by side on this machine's loopback.
#[derive(Debug, Parser)]
#[command(name = "heddle-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Throughput, CPU time, latency and memory of every subject that is here.
    Run(RunArguments),
    /// User-space instructions per request, under valgrind (slow, but repeatable on a busy machine).
    Instructions(InstructionArguments),
    /// The server behind the pairs.
    #[command(hide = true)]
    Origin {
        /// Bytes of answers.
        body: usize,
    },
    /// One hop of the relay.
    #[command(hide = true)]
    Relay {
        /// Where to listen.
        listen: SocketAddr,
        /// Where to connect to.
        connect: SocketAddr,
    },
    /// One piece of load.
    #[command(hide = true)]
    Load {
        /// What to do, in JSON.
        spec: String,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// What to measure; subjects that are not here are named and left out.
    #[arg(long, value_delimiter = ',', default_value = "direct,relay,heddle,envoy,nginx,haproxy")]
    subjects: Vec<Subject>,
    /// Repetitions, interleaved over the subjects; the table has medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Body of an HTTP/1.1 answer, and of both messages of a gRPC call, in bytes.
    #[arg(long, default_value_t = 100)]
    body: usize,
    /// Whose figures are 1 in the ratios; envoy if it is here, else relay.
    #[arg(long)]
    base: Option<Subject>,
    /// The core that all proxies share, or a list as `taskset --cpu-list` takes it.
    #[arg(long, default_value = "0")]
    proxy_cpus: String,
    /// The core that client and server share, or a list.
    #[arg(long, default_value = "1")]
    load_cpus: String,
    /// The heddle binary; without it, cargo builds one with the profile `ship`.
    #[arg(long)]
    heddle: Option<PathBuf>,
    /// The Envoy binary, or the folder given to `pip install --target`.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// The nginx binary.
    #[arg(long)]
    nginx: Option<PathBuf>,
    /// The HAProxy binary.
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Writes all samples to this file, in JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Keeps configurations, logs and profiles in this folder instead of a temporary one.
    #[arg(long)]
    keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct RunArguments {
    #[command(flatten)]
    common: Common,
    /// What to do to each subject.
    #[arg(long, value_delimiter = ',', default_value = "http1,grpc,tcp,connect,idle")]
    scenarios: Vec<Scenario>,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Length of what comes before each measurement, in seconds.
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// Requests per second of the open loop.
    #[arg(long, default_value_t = 3000)]
    rate: u64,
    /// How the requests of the open loop follow each other.
    #[arg(long, default_value = "random")]
    arrivals: Arrivals,
    /// HTTP/1.1 connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// gRPC connections.
    #[arg(long, default_value_t = 8)]
    grpc_connections: usize,
    /// Streams on each gRPC connection, at saturation.
    #[arg(long, default_value_t = 32)]
    grpc_streams: usize,
    /// Bulk connections.
    #[arg(long, default_value_t = 4)]
    bulk_connections: usize,
    /// MiB that each bulk connection sends, and then receives.
    #[arg(long, default_value_t = 256)]
    bulk_mib: u64,
    /// Clients that open a new connection for each request.
    #[arg(long, default_value_t = 16)]
    connect_clients: usize,
    /// Idle keep-alive connections.
    #[arg(long, default_value_t = 10_000)]
    idle_connections: usize,
}

#[derive(Debug, Args)]
struct InstructionArguments {
    #[command(flatten)]
    common: Common,
    /// What to count.
    #[arg(long, value_delimiter = ',', default_value = "http1,grpc")]
    protocols: Vec<Protocol>,
    /// Requests before the first count.
    #[arg(long, default_value_t = 300)]
    warm_requests: u64,
    /// Requests of the short phase.
    #[arg(long, default_value_t = 100)]
    short: u64,
    /// Requests of the long phase.
    #[arg(long, default_value_t = 1100)]
    long: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Streams on each gRPC connection, each with one request at a time.
    #[arg(long, default_value_t = 4)]
    streams: usize,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Verb::Run(arguments) => measure(&arguments),
        Verb::Instructions(arguments) => count(&arguments),
        Verb::Origin { body } => block_on(async {
            let origin = Origin::bind(body).await?;
            print(&serde_json::to_string(&origin.addresses()?)?)?;
            origin.serve().await
        }),
        Verb::Relay { listen, connect } => block_on(relay::run(listen, connect)),
        Verb::Load { spec } => {
            serde_json::from_str(&spec).context("the specification is not understood").and_then(|spec| block_on(load::run(spec)))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("heddle-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &RunArguments) -> Result<()> {
    let common = &arguments.common;
    let seconds = |seconds: f64, name: &str| Duration::try_from_secs_f64(seconds).with_context(|| format!("--{name} is no length of time"));
    let settings = run::Settings {
        subjects: common.subjects.clone(),
        scenarios: arguments.scenarios.clone(),
        repetitions: common.repetitions,
        measure: seconds(arguments.seconds, "seconds")?,
        warm: seconds(arguments.warm, "warm")?,
        rate: arguments.rate,
        arrivals: arguments.arrivals,
        connections: arguments.connections,
        grpc_connections: arguments.grpc_connections,
        grpc_streams: arguments.grpc_streams,
        bulk_connections: arguments.bulk_connections,
        bulk_mib: arguments.bulk_mib,
        connect_clients: arguments.connect_clients,
        idle_connections: arguments.idle_connections,
        body: common.body,
        descriptors: process::raise_descriptors()?,
        load_cpus: load_cpus(common).map(str::to_owned),
    };
    with_bed(common, |bed, report| {
        run::run(bed, &settings, report, &progress);
        Ok(())
    })
}

fn count(arguments: &InstructionArguments) -> Result<()> {
    let common = &arguments.common;
    let proxies = common.subjects.iter().filter(|subject| **subject != Subject::Direct);
    let settings = instructions::Settings {
        subjects: proxies.copied().collect(),
        protocols: arguments.protocols.clone(),
        warm: arguments.warm_requests,
        short: arguments.short,
        long: arguments.long,
        connections: arguments.connections,
        streams: arguments.streams,
        repetitions: common.repetitions,
        load_cpus: load_cpus(common).map(str::to_owned),
    };
    with_bed(common, |bed, report| instructions::run(bed, &settings, report, &progress))
}

/// Starts the origin, lets `work` fill a report, prints it, and takes everything down again.
fn with_bed(common: &Common, work: impl FnOnce(&Bed, &mut Report) -> Result<()>) -> Result<()> {
    let tools = tools(common)?;
    let temporary = std::env::temp_dir().join(format!("heddle-bench-{}", std::process::id()));
    let folder = common.keep.clone().unwrap_or_else(|| temporary.clone());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let certs = Certs::write(&folder)?;
    let log = folder.join("origin.log");
    let mut origin = Reporter::start(&["origin", &common.body.to_string()], load_cpus(common), &log)?;
    let addresses = serde_json::from_str(&origin.line()?).context("the origin does not say where it listens")?;
    let envoy_here = common.subjects.contains(&Subject::Envoy) && tools.missing(Subject::Envoy, Protocol::Http1).is_none();
    let base = common.base.unwrap_or(if envoy_here { Subject::Envoy } else { Subject::Relay });
    let mut report = Report::new(machine(&tools), Some(base));
    let bed =
        Bed { folder, certs, origin: addresses, tools, proxy_cpus: two_cores().then(|| common.proxy_cpus.clone()), body: common.body };
    work(&bed, &mut report)?;
    print(&report.text())?;
    if let Some(path) = &common.json {
        fs::write(path, serde_json::to_string_pretty(&report)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    drop(origin);
    ensure!(!report.failed(), "not everything could be measured; configurations and logs are in {}", bed.folder.display());
    if common.keep.is_none() {
        fs::remove_dir_all(&temporary).with_context(|| format!("cannot remove {}", temporary.display()))?;
    }
    Ok(())
}

/// Finds the programs; builds Heddle when it is wanted, not given, and cargo started us.
fn tools(common: &Common) -> Result<Tools> {
    let mut heddle = common.heddle.clone();
    if heddle.is_none() && common.subjects.contains(&Subject::Heddle) {
        heddle = match std::env::var_os("CARGO") {
            Some(cargo) => Some(build(&cargo)?),
            None => process::find_program("heddle"),
        };
    }
    Ok(Tools::find(heddle, common.envoy.clone(), common.nginx.clone(), common.haproxy.clone()))
}

/// Builds what is shipped, so that no run measures yesterday's binary.
fn build(cargo: &OsString) -> Result<PathBuf> {
    progress("building heddle with the profile ship (give --heddle PATH to measure another binary)");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--profile", "ship", "-p", "heddle", "-p", "heddle-sidecar"])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "heddle cannot be built; give --heddle PATH, or leave it out of --subjects");
    // This program is target/PROFILE/heddle-bench.
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program is not in a target folder")?;
    Ok(target.join("ship/heddle"))
}

fn machine(tools: &Tools) -> Vec<(String, String)> {
    let cores = available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let mut machine = vec![
        ("cores".to_owned(), format!("{cores} x {}", model.map_or("?", |(_, model)| model))),
        ("kernel".to_owned(), kernel.trim().to_owned()),
    ];
    let programs = [("envoy", &tools.envoy, "--version"), ("nginx", &tools.nginx, "-v"), ("haproxy", &tools.haproxy, "-v")];
    for (name, path, option) in programs {
        let Some(output) = path.as_ref().and_then(|path| Command::new(path).arg(option).output().ok()) else {
            continue;
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("?");
        machine.push((name.to_owned(), first.trim().to_owned()));
    }
    machine
}

fn two_cores() -> bool {
    available_parallelism().is_ok_and(|cores| cores.get() >= 2)
}

fn load_cpus(common: &Common) -> Option<&str> {
    two_cores().then_some(&common.load_cpus)
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}

fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush().context("nobody reads the output")
}

fn progress(text: &str) {
    // Nothing is lost when nobody looks.
    drop(writeln!(std::io::stderr(), "{text}"));
}
