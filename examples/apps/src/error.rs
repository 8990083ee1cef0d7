//! Why an application ended, in one sentence, and the exit code that says it.

use clap::error::{ContextKind, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why an application could not start or go on; each text is one line for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// An environment variable is missing or wrong; the text names it and shows how it should look.
    #[error("{0}")]
    Environment(String),
    /// The port is in use, or not allowed.
    #[error("cannot listen on {address} (from PORT): {source}")]
    Listen {
        /// Where the application was to listen.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system does not tell of SIGTERM and SIGINT.
    #[error("cannot listen for SIGTERM and SIGINT: {0}")]
    Signals(#[source] std::io::Error),
    /// Help could not be printed.
    #[error("cannot print: {0}")]
    Print(#[source] std::io::Error),
    /// Another program could not be started in place of this one.
    #[error("cannot execute {}: {source}", program.display())]
    Execute {
        /// The program's file.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("gRPC server: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// An upstream answered, but not what it must answer.
    #[error("wrong answer: {0}")]
    WrongAnswer(String),
}

impl AppError {
    /// Makes one line of what clap says on several.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let no_name = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            "no application named".to_owned()
        } else if error.kind() == ErrorKind::InvalidSubcommand {
            let name = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string).unwrap_or_default();
            format!("there is no application {name:?}")
        } else {
            let text = error.to_string();
            let what = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let words: Vec<&str> = what.split_whitespace().collect();
            return Self::Usage(format!("{}; heddle example NAME --help tells more", words.join(" ")));
        };
        let applications = <crate::App as clap::Subcommand>::augment_subcommands(clap::Command::new("example"));
        let names: Vec<&str> = applications.get_subcommands().map(clap::Command::get_name).collect();
        Self::Usage(format!("{no_name}: heddle example NAME, where NAME is one of {}; --help tells more", names.join(", ")))
    }

    /// The exit code: 64 when command line or environment are wrong (EX_USAGE of sysexits.h), otherwise 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Environment(_) => 64,
            Self::Listen { .. } | Self::Signals(_) | Self::Print(_) | Self::Execute { .. } | Self::Grpc(_) | Self::WrongAnswer(_) => 1,
        }
    }
}
