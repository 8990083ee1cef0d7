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
    /// Where sidecars connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Where /ready, /live, /metrics and /status are served; a loopback address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin: Option<String>,
    /// JSON file of the tokens that prove workloads, mode 0600
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
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
    /// Directories of manifests, in order of precedence; not empty.
    pub directories: Vec<PathBuf>,
    /// What must survive a restart.
    pub state: PathBuf,
    /// Where sidecars connect.
    pub listen: SocketAddr,
    /// Where the admin endpoints are; a loopback address.
    pub admin: SocketAddr,
    /// The tokens that prove workloads.
    pub tokens: PathBuf,
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
    /// Checks the arguments.
    ///
    /// # Errors
    /// Every mistake, not only the first.
    pub fn parse(args: &Args) -> Result<Self, ConfigError> {
        let Args { directories, state, listen, admin, tokens, log, log_format } = args;
        let mut mistakes = Vec::new();
        if directories.is_empty() {
            mistakes.push("--directory is missing: give at least one directory of manifests".to_owned());
        }
        for directory in directories {
            if let Err(mistake) = readable_directory(directory) {
                mistakes.push(mistake);
            }
        }
        let state = required("--state", "a directory that survives restarts", state.as_ref(), &mut mistakes);
        let listen = address("--listen", listen.as_deref(), &mut mistakes);
        let admin = address("--admin", admin.as_deref(), &mut mistakes);
        if let Some(admin) = admin.filter(|a| !a.ip().is_loopback()) {
            // Whoever reaches it reads the whole mesh's configuration, without any authentication.
            mistakes.push(format!("--admin: {admin} is not a loopback address: use 127.0.0.1 or [::1]"));
        }
        let tokens = required("--tokens", "the file of workload tokens", tokens.as_ref(), &mut mistakes);
        if let Err(log) = Log::parse(log.as_deref(), log_format.as_deref()) {
            mistakes.extend(log.mistakes);
        }
        match (state, listen, admin, tokens) {
            (Some(state), Some(listen), Some(admin), Some(tokens)) if mistakes.is_empty() => {
                Ok(Self { directories: directories.clone(), state, listen, admin, tokens })
            }
            _ => Err(ConfigError { mistakes }),
        }
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
    }
}
