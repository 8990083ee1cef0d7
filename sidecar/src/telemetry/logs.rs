//! The sidecar's own log lines: to standard error, in the form and with the filter that the configuration names.

use crate::config::{Config, LogFormat};
use std::io;
use tracing_subscriber::EnvFilter;

/// Installs the log of this process. The second call in a process does nothing: whoever was first keeps it.
///
/// `config.log` has been checked when the configuration was read; a filter that does not parse falls back to `info`.
pub fn install(config: &Config) {
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error here says that somebody installed one before.
    let _ = match config.log_format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
