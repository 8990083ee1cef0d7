//! The environment turned into a [`Config`], with all mistakes told at once; nothing else in the sidecar reads the environment.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `HEDDLE_NAMESPACE` | the workload's namespace | required |
//! | `HEDDLE_WORKLOAD` | the workload instance: a pod's name | required |
//! | `HEDDLE_SERVICE_ACCOUNT` | its service account | `default` |
//! | `HEDDLE_TRUST_DOMAIN` | the mesh's trust domain | `cluster.local` |
//! | `HEDDLE_CONTROL_PLANE` | `host:port` of the control plane | required |
//! | `HEDDLE_TOKEN_FILE` | file with the token that proves the workload's identity | required |
//! | `HEDDLE_TRUST_ROOTS_FILE` | PEM file with the roots that the control plane is verified against at first | required |
//! | `HEDDLE_ADMIN` | loopback address of `/metrics`, `/ready` and the rest | `127.0.0.1:15020` |
//! | `HEDDLE_WORKERS` | worker threads | the cores, at most 2 |
//! | `HEDDLE_INBOUND` | `listen=application#port`, by commas; `port` is the one that policies name | none |
//! | `HEDDLE_OUTBOUND` | `listen=host:port`, by commas; `host:port` as the application would call it | none |
//! | `HEDDLE_INBOUND_INTERCEPT` | listener for redirected inbound connections; `0.0.0.0` is all addresses of both families, as `[::]` is | none |
//! | `HEDDLE_OUTBOUND_INTERCEPT` | listener for redirected outbound connections; the same | none |
//! | `HEDDLE_HEALTH` | address of `/ready`, `/live`, `/metrics` and `/probe/` for the kubelet; the same | none |
//! | `HEDDLE_PROBES` | checks of the application behind `/probe/`, as JSON: see [`crate::probe`] | none |
//! | `HEDDLE_POD_IPS` | the pod's addresses, by commas | none |
//! | `HEDDLE_INBOUND_PORTS` | TCP ports that the pod declares, by commas | none |
//! | `HEDDLE_TRACE_SAMPLING` | percentage of traces that are sampled | the mesh's |
//! | `HEDDLE_ACCESS_LOG` | `on` or `off` | the mesh's |
//! | `HEDDLE_HEADER_LIMIT` | bytes of one header or trailer section, on every leg | 98304 |
//! | `HEDDLE_DRAIN_SECONDS` | how long connections may take to end | 30 |
//! | `HEDDLE_LAME_DUCK_SECONDS` | how long to accept still after the end was announced | 2 |
//! | `HEDDLE_BUSY_POLL_MICROSECONDS` | how long a worker looks for work without sleeping after each request, at most 1000: lower latency for more processor time | 0 |
//! | `HEDDLE_LOG` | filter of `tracing`, such as `info,heddle_sidecar=debug` | `info` |
//! | `HEDDLE_LOG_FORMAT` | `text` or `json` | `text` |
//!
//! Secrets come in files only: an environment is shown by too many tools.

pub mod pod;
pub(crate) mod read;

use self::pod::Pod;
use self::read::{Reader, parse_within, sentence};
use heddle_model::spiffe_id::{SpiffeId, TrustDomain};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Headers in bytes, by default: what the largest of the usual servers take (Jetty and Node are at 8 to 64 KiB), and a token or two.
const HEADER_LIMIT_DEFAULT: usize = 96 * 1024;
/// Less than 8 KiB would refuse what every server takes.
const HEADER_LIMIT_MIN: usize = 8 * 1024;
/// More is memory that any client may claim per connection.
const HEADER_LIMIT_MAX: usize = 1024 * 1024;
/// More workers than cores gain nothing, and each has pools of its own.
const WORKERS_MAX: usize = 64;
/// By default: a sidecar is a guest on its node.
const WORKERS_DEFAULT_MAX: usize = 2;
/// An hour: longer is a sidecar that never ends.
const SECONDS_MAX: u64 = 3600;
/// A millisecond: a worker that looks for longer takes a whole core at 1,000 requests a second.
const BUSY_POLL_MAX: u64 = 1000;
/// Listeners of one kind. A pod with more ports or upstreams uses interception.
const LISTENERS_MAX: usize = 256;

/// All that a sidecar is told at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The workload's namespace.
    pub namespace: String,
    /// The workload instance: a pod's name.
    pub workload: String,
    /// Its service account.
    pub service_account: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
    /// The control plane.
    pub control_plane: HostPort,
    /// Where the token is; read anew for each use, because it is replaced while we run.
    pub token_file: PathBuf,
    /// Where the first roots are.
    pub trust_roots_file: PathBuf,
    /// The admin server, on loopback.
    pub admin: SocketAddr,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// Explicit inbound listeners.
    pub inbound: Vec<InboundListener>,
    /// Explicit outbound listeners.
    pub outbound: Vec<OutboundListener>,
    /// Listener for redirected inbound connections.
    pub inbound_intercept: Option<SocketAddr>,
    /// Listener for redirected outbound connections.
    pub outbound_intercept: Option<SocketAddr>,
    /// Bytes of one header or trailer section.
    pub header_limit: usize,
    /// How long connections may take to end.
    pub drain: Duration,
    /// How long to accept still after the end was announced.
    pub lame_duck: Duration,
    /// How long a worker looks for work without sleeping after each request.
    pub busy_poll: Duration,
    /// What only a pod has.
    pub pod: Pod,
    /// Filter of `tracing`.
    pub log: String,
    /// Form of the log.
    pub log_format: LogFormat,
}

/// An inbound listener, and the application behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundListener {
    /// Where other sidecars connect.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub application: SocketAddr,
    /// The application's port as policies name it.
    pub port: u16,
}

/// An outbound listener, and the destination that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundListener {
    /// Where the application connects.
    pub listen: SocketAddr,
    /// The destination, as an application would write it.
    pub authority: HostPort,
}

/// `host:port`; the host is a DNS name, an IPv4 address, or an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Lower-case; IPv6 without its brackets.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything that is wrong with the environment, one sentence a line. The process exits with 64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl ConfigErrors {
    /// One sentence for each mistake, in the order of the table above.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes.
    pub fn from_environment() -> Result<Self, ConfigErrors> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::from_lookup(|name| std::env::var_os(name), cores)
    }

    /// Reads variables through `lookup`. `cores` is what the machine has.
    ///
    /// # Errors
    /// All mistakes.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>, cores: NonZeroUsize) -> Result<Self, ConfigErrors> {
        let mut read = Reader::new(lookup);
        let seconds = |text: &str| parse_within(text, 0, SECONDS_MAX).map(Duration::from_secs);
        let workers =
            |text: &str| parse_within(text, 1, WORKERS_MAX).and_then(|n| NonZeroUsize::new(n).ok_or_else(|| "must not be 0".to_owned()));
        let defaults = NonZeroUsize::MIN.saturating_add(cores.get().min(WORKERS_DEFAULT_MAX) - 1);
        let namespace = read.required("HEDDLE_NAMESPACE", name);
        let workload = read.required("HEDDLE_WORKLOAD", name);
        let service_account = read.or("HEDDLE_SERVICE_ACCOUNT", "default".to_owned(), name);
        let trust_domain = read.required_or("HEDDLE_TRUST_DOMAIN", "cluster.local", |text| text.parse().map_err(sentence));
        let control_plane = read.required("HEDDLE_CONTROL_PLANE", HostPort::parse);
        read.refuse_secret("HEDDLE_TOKEN", "HEDDLE_TOKEN_FILE");
        let token_file = read.required("HEDDLE_TOKEN_FILE", path);
        let trust_roots_file = read.required("HEDDLE_TRUST_ROOTS_FILE", path);
        let admin = read.or("HEDDLE_ADMIN", SocketAddr::from(([127, 0, 0, 1], 15020)), loopback);
        let workers = read.or("HEDDLE_WORKERS", defaults, workers);
        let inbound = read.list_of("HEDDLE_INBOUND", LISTENERS_MAX, InboundListener::parse);
        let outbound = read.list_of("HEDDLE_OUTBOUND", LISTENERS_MAX, OutboundListener::parse);
        let inbound_intercept = read.optional("HEDDLE_INBOUND_INTERCEPT", address);
        let outbound_intercept = read.optional("HEDDLE_OUTBOUND_INTERCEPT", address);
        let header_limit =
            read.or("HEDDLE_HEADER_LIMIT", HEADER_LIMIT_DEFAULT, |text| parse_within(text, HEADER_LIMIT_MIN, HEADER_LIMIT_MAX));
        let drain = read.or("HEDDLE_DRAIN_SECONDS", Duration::from_secs(30), seconds);
        let lame_duck = read.or("HEDDLE_LAME_DUCK_SECONDS", Duration::from_secs(2), seconds);
        let busy_poll = read
            .or("HEDDLE_BUSY_POLL_MICROSECONDS", Duration::ZERO, |text| parse_within(text, 0, BUSY_POLL_MAX).map(Duration::from_micros));
        let pod = Pod::read(&mut read);
        let log = read.or("HEDDLE_LOG", "info".to_owned(), log_filter);
        let log_format = read.or("HEDDLE_LOG_FORMAT", LogFormat::Text, str::parse);

        let listeners = inbound
            .iter()
            .map(|l| ("HEDDLE_INBOUND", l.listen))
            .chain(outbound.iter().map(|l| ("HEDDLE_OUTBOUND", l.listen)))
            .chain(inbound_intercept.map(|a| ("HEDDLE_INBOUND_INTERCEPT", a)))
            .chain(outbound_intercept.map(|a| ("HEDDLE_OUTBOUND_INTERCEPT", a)))
            .chain(pod.health.map(|a| ("HEDDLE_HEALTH", a)))
            .chain([("HEDDLE_ADMIN", admin)]);
        twice(listeners).into_iter().for_each(|mistake| read.note(mistake));
        let mistakes = match read.finish(()) {
            Ok(()) => Vec::new(),
            Err(ConfigErrors(mistakes)) => mistakes,
        };
        match (namespace, workload, trust_domain, control_plane, token_file, trust_roots_file) {
            (Some(namespace), Some(workload), Some(trust_domain), Some(control_plane), Some(token_file), Some(trust_roots_file))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    namespace,
                    workload,
                    service_account,
                    trust_domain,
                    control_plane,
                    token_file,
                    trust_roots_file,
                    admin,
                    workers,
                    inbound,
                    outbound,
                    inbound_intercept,
                    outbound_intercept,
                    header_limit,
                    drain,
                    lame_duck,
                    busy_poll,
                    pod,
                    log,
                    log_format,
                })
            }
            // A value is missing only where a mistake was noted.
            _ => Err(ConfigErrors(mistakes)),
        }
    }
}

impl InboundListener {
    fn parse(text: &str) -> Result<Self, String> {
        let form = || "write listen=application#port, such as 127.0.0.1:4001=127.0.0.1:8080#8080".to_owned();
        let (listen, rest) = text.split_once('=').ok_or_else(form)?;
        let (application, port) = rest.split_once('#').ok_or_else(form)?;
        let application = address(application)?;
        if application.port() == 0 {
            return Err("the application's port must not be 0".to_owned());
        }
        Ok(Self { listen: address(listen)?, application, port: parse_within(port, 1, u16::MAX)? })
    }
}

impl OutboundListener {
    fn parse(text: &str) -> Result<Self, String> {
        let form = || "write listen=host:port, such as 127.0.0.1:9001=reviews.default:80".to_owned();
        let (listen, authority) = text.split_once('=').ok_or_else(form)?;
        Ok(Self { listen: address(listen)?, authority: HostPort::parse(authority)? })
    }
}

impl HostPort {
    fn parse(text: &str) -> Result<Self, String> {
        let form = || format!("\"{text}\" is not host:port");
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let port = parse_within(port, 1, u16::MAX)?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(format!("\"{host}\" is not an IPv6 address in brackets")),
            None => host,
        };
        let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > 253 || (bracketed.is_none() && !host.chars().all(name)) {
            return Err(format!("\"{host}\" is not a host name"));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("write text or json".to_owned()),
        }
    }
}

/// A name that is one segment of a SPIFFE id's path, as all names of Kubernetes are.
fn name(text: &str) -> Result<String, String> {
    let any: TrustDomain = "td".parse().map_err(sentence)?;
    SpiffeId::workload(&any, text, text).map(|_| text.to_owned()).map_err(sentence)
}

fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is not an address, write ip:port, such as 127.0.0.1:8080"))
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = address(text)?;
    if !address.ip().is_loopback() {
        return Err("the admin server asks nobody who they are, so it listens on loopback only, such as 127.0.0.1:15020".to_owned());
    }
    Ok(address)
}

fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(sentence)
}

/// One sentence for each address that was given before. Port 0 is any free port, so never the same.
fn twice<'a>(listeners: impl Iterator<Item = (&'a str, SocketAddr)>) -> Vec<String> {
    let mut seen = HashSet::new();
    listeners
        .filter(|(_, address)| address.port() != 0 && !seen.insert(*address))
        .map(|(name, address)| format!("{name}: {address} is already listened on, give each listener its own address."))
        .collect()
}

#[cfg(test)]
mod tests;
