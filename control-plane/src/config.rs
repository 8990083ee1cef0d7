//! Arguments and environment → `Config`, with every mistake named at once; the only file that reads the environment.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The command line. Every value is checked by [`Config::parse`] and none by the parser, so that one run names all mistakes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {
    /// Directory of manifests to serve; may be given several times, and the first that has an object wins
    #[arg(long = "directory", value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Directory for what must survive a restart: the certificate authority in DIR/ca
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// JSON file of the tokens that prove workloads, mode 0600
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Serve the cluster that KUBECONFIG or this pod's ServiceAccount leads to, as the pod POD_NAME in POD_NAMESPACE
    #[arg(long)]
    pub kubernetes: bool,
    /// In a cluster: where /ready, /live and /metrics are served to the kubelet and to Prometheus
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health: Option<String>,
    /// In a cluster: where the API server calls the webhooks
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub webhook: Option<String>,
    /// In a cluster: YAML file that says how pods are injected; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub injection: Option<PathBuf>,
    /// In a cluster: whether routes of the Gateway API are read, `on` or `off`
    #[arg(long, value_name = "ON|OFF")]
    pub gateway_api: Option<String>,
    /// Where sidecars connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where /ready, /live, /metrics and /status are served; a loopback address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin: Option<String>,
    /// What to log, as in `info,heddle_control_plane=debug` (or HEDDLE_LOG)
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// `text` or `json` (or HEDDLE_LOG_FORMAT)
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where sidecars connect.
    pub listen: SocketAddr,
    /// Where the admin endpoints are; a loopback address.
    pub admin: SocketAddr,
    /// Where objects and identities come from.
    pub mode: Mode,
}

/// Where objects and identities come from.
#[derive(Debug, Clone)]
pub enum Mode {
    /// Files of this machine.
    Local(Local),
    /// The API server of a cluster.
    Cluster(Cluster),
}

/// A mesh of local processes.
#[derive(Debug, Clone)]
pub struct Local {
    /// Directories of manifests, in order of precedence; not empty.
    pub directories: Vec<PathBuf>,
    /// What must survive a restart.
    pub state: PathBuf,
    /// The tokens that prove workloads.
    pub tokens: PathBuf,
}

/// A mesh in a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Where health and metrics are; for everybody who reaches the pod.
    pub health: SocketAddr,
    /// Where the API server calls the webhooks.
    pub webhook: SocketAddr,
    /// How pods are injected.
    pub injection: PathBuf,
    /// Whether routes of the Gateway API are read.
    pub gateway_api: bool,
    /// The namespace of this pod.
    pub namespace: String,
    /// The name of this pod: who holds the lease.
    pub pod: String,
}

/// How to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A filter in the form of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// One JSON object a line instead of text.
    pub json: bool,
}

/// All mistakes of a configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The sentences.
    pub mistakes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.mistakes.join("\n"))
    }
}

impl Config {
    /// Checks the arguments, and in a cluster `POD_NAME` and `POD_NAMESPACE` of the environment.
    ///
    /// # Errors
    /// Every mistake, not only the first.
    pub fn parse(args: &Args) -> Result<Self, ConfigError> {
        Self::parse_with(args, |name| std::env::var(name).ok())
    }

    fn parse_with(args: &Args, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut mistakes = Vec::new();
        let mode = if args.kubernetes {
            Cluster::parse(args, environment, &mut mistakes).map(Mode::Cluster)
        } else {
            Local::parse(args, &mut mistakes).map(Mode::Local)
        };
        let listen = address("--listen", args.listen.as_deref(), &mut mistakes);
        let admin = address("--admin", args.admin.as_deref(), &mut mistakes);
        if let Some(admin) = admin.filter(|a| !a.ip().is_loopback()) {
            // Whoever reaches it reads the whole mesh's configuration, without any authentication.
            mistakes.push(format!("--admin: {admin} is not a loopback address: use 127.0.0.1 or [::1]"));
        }
        if let Err(log) = Log::parse(args.log.as_deref(), args.log_format.as_deref()) {
            mistakes.extend(log.mistakes);
        }
        match (listen, admin, mode) {
            (Some(listen), Some(admin), Some(mode)) if mistakes.is_empty() => Ok(Self { listen, admin, mode }),
            _ => Err(ConfigError { mistakes }),
        }
    }
}

impl Local {
    fn parse(args: &Args, mistakes: &mut Vec<String>) -> Option<Self> {
        let Args { directories, state, tokens, health, webhook, injection, gateway_api, .. } = args;
        let given = [
            ("--health", health.is_some()),
            ("--webhook", webhook.is_some()),
            ("--injection", injection.is_some()),
            ("--gateway-api", gateway_api.is_some()),
        ];
        for (flag, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            mistakes.push(format!("{flag} is for a cluster: give --kubernetes too, or leave it out"));
        }
        if directories.is_empty() {
            mistakes.push("--directory is missing: give at least one directory of manifests, or --kubernetes for a cluster".to_owned());
        }
        for directory in directories {
            if let Err(mistake) = readable_directory(directory) {
                mistakes.push(mistake);
            }
        }
        let state = required("--state", "a directory that survives restarts", state.as_ref(), mistakes);
        let tokens = required("--tokens", "the file of workload tokens", tokens.as_ref(), mistakes);
        Some(Self { directories: directories.clone(), state: state?, tokens: tokens? })
    }
}

impl Cluster {
    fn parse(args: &Args, environment: impl Fn(&str) -> Option<String>, mistakes: &mut Vec<String>) -> Option<Self> {
        let Args { directories, state, tokens, health, webhook, injection, gateway_api, .. } = args;
        let given = [("--directory", !directories.is_empty()), ("--state", state.is_some()), ("--tokens", tokens.is_some())];
        for (flag, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            mistakes.push(format!("{flag} is for a mesh of local processes: leave it out with --kubernetes"));
        }
        let health = address("--health", health.as_deref(), mistakes);
        let webhook = address("--webhook", webhook.as_deref(), mistakes);
        let injection = required("--injection", "the file that says how pods are injected", injection.as_ref(), mistakes);
        let gateway_api = match gateway_api.as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => {
                mistakes.push(format!("--gateway-api: \"{other}\" is neither on nor off"));
                true
            }
        };
        let mut variable = |name: &str, field: &str| {
            let value = environment(name).filter(|value| !value.is_empty());
            if value.is_none() {
                mistakes.push(format!("the variable {name} is missing: set it from the pod's field {field}"));
            }
            value
        };
        let namespace = variable("POD_NAMESPACE", "metadata.namespace");
        let pod = variable("POD_NAME", "metadata.name");
        Some(Self { health: health?, webhook: webhook?, injection: injection?, gateway_api, namespace: namespace?, pod: pod? })
    }
}

impl Log {
    /// Reads the arguments, or else `HEDDLE_LOG` and `HEDDLE_LOG_FORMAT`; the default is `info` as text.
    ///
    /// # Errors
    /// When the filter does not parse, or the format is neither `text` nor `json`.
    pub fn parse(filter: Option<&str>, format: Option<&str>) -> Result<Self, ConfigError> {
        let or_environment = |value: Option<&str>, name| value.map(str::to_owned).or_else(|| std::env::var(name).ok());
        let mut mistakes = Vec::new();
        let filter = or_environment(filter, "HEDDLE_LOG").unwrap_or_else(|| "info".to_owned());
        if let Err(error) = filter.parse::<tracing_subscriber::EnvFilter>() {
            mistakes.push(format!("--log: \"{filter}\" is not a log filter ({error}): write for example info"));
        }
        let format = or_environment(format, "HEDDLE_LOG_FORMAT").unwrap_or_else(|| "text".to_owned());
        if !matches!(format.as_str(), "text" | "json") {
            mistakes.push(format!("--log-format: \"{format}\" is neither text nor json"));
        }
        if mistakes.is_empty() { Ok(Self { filter, json: format == "json" }) } else { Err(ConfigError { mistakes }) }
    }
}

fn readable_directory(directory: &Path) -> Result<(), String> {
    match std::fs::read_dir(directory) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("--directory: {} cannot be read: {error}", directory.display())),
    }
}

fn required(flag: &str, what: &str, value: Option<&PathBuf>, mistakes: &mut Vec<String>) -> Option<PathBuf> {
    if value.is_none() {
        mistakes.push(format!("{flag} is missing: give {what}"));
    }
    value.cloned()
}

fn address(flag: &str, value: Option<&str>, mistakes: &mut Vec<String>) -> Option<SocketAddr> {
    let Some(value) = value else {
        mistakes.push(format!("{flag} is missing: give an address, such as 127.0.0.1:15010"));
        return None;
    };
    match value.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            mistakes.push(format!("{flag}: \"{value}\" is not an IP address with a port, such as 127.0.0.1:15010"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named_at_once() {
        let args = Args {
            directories: vec!["/nonexistent/manifests".into()],
            listen: Some("localhost:1".into()),
            admin: Some("192.0.2.1:80".into()),
            log_format: Some("xml".into()),
            ..Args::default()
        };
        let error = Config::parse(&args).unwrap_err();
        let text = error.to_string();
        for part in ["/nonexistent/manifests", "--state is missing", "\"localhost:1\"", "not a loopback", "--tokens is missing", "\"xml\""]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(error.mistakes.len(), 6);
    }

    #[test]
    fn good_arguments_make_a_configuration() {
        let args = Args {
            directories: vec![std::env::temp_dir()],
            state: Some("/state".into()),
            listen: Some("127.0.0.1:0".into()),
            admin: Some("[::1]:0".into()),
            tokens: Some("/tokens".into()),
            ..Args::default()
        };
        let config = Config::parse(&args).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:0");
        assert_eq!(config.admin.to_string(), "[::1]:0");
        let Mode::Local(local) = config.mode else { panic!("not local") };
        assert_eq!(local.tokens, Path::new("/tokens"));
    }

    fn in_cluster() -> Args {
        Args {
            kubernetes: true,
            listen: Some("0.0.0.0:15010".into()),
            admin: Some("127.0.0.1:15020".into()),
            health: Some("0.0.0.0:15021".into()),
            webhook: Some("0.0.0.0:15017".into()),
            injection: Some("/injection.yaml".into()),
            ..Args::default()
        }
    }

    #[test]
    fn in_a_cluster_the_pod_names_itself() {
        let config = Config::parse_with(&in_cluster(), |name| Some(name.to_lowercase())).unwrap();
        let Mode::Cluster(cluster) = config.mode else { panic!("not in a cluster") };
        assert_eq!((cluster.namespace.as_str(), cluster.pod.as_str(), cluster.gateway_api), ("pod_namespace", "pod_name", true));
    }

    #[test]
    fn what_is_for_one_mode_is_refused_in_the_other() {
        let args = Args { tokens: Some("/tokens".into()), webhook: None, gateway_api: Some("yes".into()), ..in_cluster() };
        let text = Config::parse_with(&args, |_| None).unwrap_err().to_string();
        for part in
            ["--tokens is for a mesh of local", "--webhook is missing", "neither on nor off", "POD_NAME is missing", "POD_NAMESPACE is"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let text = Config::parse_with(&Args { kubernetes: false, ..in_cluster() }, |_| None).unwrap_err().to_string();
        assert!(text.contains("--health is for a cluster") && text.contains("--injection is for a cluster"), "{text}");
    }
}
