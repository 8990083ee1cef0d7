//! What is measured: pairs of proxies with mTLS between them, each with the configuration that suits it best.

mod envoy;
mod haproxy;
mod heddle;
mod nginx;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::certs::{Certs, Side};
use crate::client::Protocol;
use crate::load::{self, Spec, Work};
use crate::origin::Addresses;
use crate::process::{Argv, Process, argv, find_program, free_ports, wait};

/// How long a pair may take until it carries its first request.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The same when it runs some fifty times slower under an instrument.
const READY_WITHIN_INSTRUMENTED: Duration = Duration::from_secs(300);

/// A thing to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    /// No proxy at all: what client and server cost.
    Direct,
    /// Two of our TCP copiers, without TLS: the floor for anything with two hops.
    Relay,
    /// Two sidecars under `heddle up`.
    Heddle,
    /// Two Envoys.
    Envoy,
    /// Two nginxes.
    Nginx,
    /// Two HAProxies.
    Haproxy,
}

impl Subject {
    /// The name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Heddle => "heddle",
            Self::Envoy => "envoy",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Where the programs of the subjects are; `None` when they are not here.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    /// The `heddle` binary.
    pub(crate) heddle: Option<PathBuf>,
    /// The `envoy` binary, not the Python script of the same name.
    pub(crate) envoy: Option<PathBuf>,
    /// The `nginx` binary.
    pub(crate) nginx: Option<PathBuf>,
    /// The `haproxy` binary.
    pub(crate) haproxy: Option<PathBuf>,
}

impl Tools {
    /// Takes what is given, or else looks on this machine. A folder given for Envoy is where `pip install --target` put its package.
    pub(crate) fn find(heddle: Option<PathBuf>, envoy: Option<PathBuf>, nginx: Option<PathBuf>, haproxy: Option<PathBuf>) -> Self {
        let envoy = envoy.map(|path| {
            let packaged = path.join("envoy/_bin/envoy");
            if packaged.is_file() { packaged } else { path }
        });
        Self {
            heddle,
            envoy: envoy.or_else(|| find_program("envoy")),
            nginx: nginx.or_else(|| find_program("nginx")),
            haproxy: haproxy.or_else(|| find_program("haproxy")),
        }
    }

    /// Says why a subject cannot be measured here, if so.
    pub(crate) fn missing(&self, subject: Subject, protocol: Protocol) -> Option<String> {
        let (path, way) = match subject {
            Subject::Direct | Subject::Relay => return None,
            Subject::Heddle => (&self.heddle, "build it and give its path with --heddle"),
            Subject::Envoy => (&self.envoy, "give its path with --envoy (bench/README.md says where to get it)"),
            Subject::Nginx => (&self.nginx, "install the package nginx, or give its path with --nginx"),
            Subject::Haproxy => (&self.haproxy, "install the package haproxy, or give its path with --haproxy"),
        };
        if path.as_ref().is_none_or(|path| !path.is_file()) {
            return Some(format!("{} is not here: {way}", subject.name()));
        }
        if subject == Subject::Nginx && protocol == Protocol::Tcp && !Path::new(nginx::STREAM_MODULE).is_file() {
            return Some("nginx cannot proxy TCP: install the package libnginx-mod-stream".to_owned());
        }
        None
    }
}

/// What all pairs of a run stand on.
#[derive(Debug)]
pub(crate) struct Bed {
    /// Configuration and logs of everything that runs.
    pub(crate) folder: PathBuf,
    /// Keys and certificates.
    pub(crate) certs: Certs,
    /// The server behind every pair.
    pub(crate) origin: Addresses,
    /// The programs.
    pub(crate) tools: Tools,
    /// The cores of the proxies.
    pub(crate) proxy_cpus: Option<String>,
    /// Bytes of a gRPC call's message.
    pub(crate) body: usize,
}

/// One proxy's place: what its configuration is made from.
#[derive(Debug, Clone, Copy)]
struct Hop<'a> {
    side: Side,
    protocol: Protocol,
    listen: SocketAddr,
    connect: SocketAddr,
    certs: &'a Certs,
    folder: &'a Path,
}

impl Hop<'_> {
    /// Writes a configuration file that no other pair uses.
    fn write(&self, extension: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(format!("{}.{extension}", self.listen.port()));
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A running pair. Dropping it ends both proxies.
#[derive(Debug)]
pub(crate) struct Pair {
    /// Where the client sends to.
    pub(crate) address: SocketAddr,
    /// The proxies: the client's first. Empty for `direct`.
    pub(crate) pids: Vec<u32>,
    /// What a request must have as its `Host`.
    pub(crate) authority: String,
    processes: Vec<Process>,
}

impl Pair {
    /// Starts a pair and waits until a request passes through it. `instrument` is put before each proxy's own command.
    pub(crate) fn start(bed: &Bed, subject: Subject, protocol: Protocol, instrument: Option<&Argv>) -> Result<Self> {
        let origin = match protocol {
            Protocol::Http1 => bed.origin.http1,
            Protocol::Grpc => bed.origin.grpc,
            Protocol::Tcp => bed.origin.tcp,
        };
        let limit = if instrument.is_some() { READY_WITHIN_INSTRUMENTED } else { READY_WITHIN };
        let mut pair = match subject {
            Subject::Direct => Self { address: origin, pids: Vec::new(), authority: "bench".to_owned(), processes: Vec::new() },
            Subject::Heddle => heddle::start(bed, protocol, origin, instrument, limit)?,
            Subject::Relay | Subject::Envoy | Subject::Nginx | Subject::Haproxy => {
                Self::start_two(bed, subject, protocol, origin, instrument)?
            }
        };
        let spec = pair.spec(bed, protocol, Work::Idle);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        wait(limit, || {
            // A process that has ended will not come back: that is the answer, and not a reason to wait on.
            if let Some(ended) = pair.processes.iter_mut().find_map(|process| process.check().err()) {
                return Ok(Err(ended));
            }
            runtime.block_on(async { tokio::time::timeout(limit, load::probe(&spec, 1)).await? }).map(Ok)
        })
        .flatten()
        .with_context(|| {
            let logs: Vec<String> = pair.processes.iter().map(Process::log_end).collect();
            format!("{} carries no request: {}", subject.name(), logs.join("; "))
        })?;
        Ok(pair)
    }

    /// Makes the specification of some work on this pair, with one connection and one stream.
    pub(crate) fn spec(&self, bed: &Bed, protocol: Protocol, work: Work) -> Spec {
        Spec { protocol, address: self.address, authority: self.authority.clone(), body: bed.body, connections: 1, streams: 1, work }
    }

    fn start_two(bed: &Bed, subject: Subject, protocol: Protocol, origin: SocketAddr, instrument: Option<&Argv>) -> Result<Self> {
        let [a, b] = free_ports()?;
        let mut processes = Vec::new();
        for (side, listen, connect) in [(Side::Client, a, b), (Side::Server, b, origin)] {
            let hop = Hop { side, protocol, listen, connect, certs: &bed.certs, folder: &bed.folder };
            let own = command(&bed.tools, subject, hop)?;
            let whole: Argv = instrument.into_iter().flatten().cloned().chain(own).collect();
            let log = bed.folder.join(format!("{}-{}.log", subject.name(), listen.port()));
            processes.push(Process::start(&whole, bed.proxy_cpus.as_deref(), &log, false)?);
        }
        Ok(Self { address: a, pids: processes.iter().map(Process::pid).collect(), authority: "bench".to_owned(), processes })
    }
}

/// Writes one proxy's configuration and gives the command that runs it.
fn command(tools: &Tools, subject: Subject, hop: Hop<'_>) -> Result<Argv> {
    let program = |tool: &Option<PathBuf>| tool.clone().context("the program is not here");
    match subject {
        Subject::Envoy => envoy::command(program(&tools.envoy)?, hop),
        Subject::Nginx => nginx::command(program(&tools.nginx)?, hop),
        Subject::Haproxy => haproxy::command(program(&tools.haproxy)?, hop),
        Subject::Relay | Subject::Direct | Subject::Heddle => {
            let mut own = argv([std::env::current_exe()?]);
            own.extend(argv(["relay".to_owned(), hop.listen.to_string(), hop.connect.to_string()]));
            Ok(own)
        }
    }
}
