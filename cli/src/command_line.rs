//! What can be asked of `heddle`: the subcommands with their options and help, and nothing that they do.

use clap::{Args, Parser, Subcommand, ValueEnum};
use heddle_crds::duration::GatewayDuration;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "heddle", version, about = "A service mesh: secured, routed and observed traffic between unchanged applications")]
#[command(after_help = EXAMPLES)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "Examples:
  heddle up examples/canary                  run the manifests of a directory as local processes
  heddle up DIR --for 20s --report out.json  run for 20 seconds and write the totals
  heddle completions bash > /etc/bash_completion.d/heddle";

/// The subcommands; those that only other parts of heddle start are hidden.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the manifests of a directory on this machine: control plane, sidecars and applications
    Up(Up),
    /// Print the version
    Version(Version),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run a control plane
    #[command(hide = true)]
    ControlPlane(heddle_control_plane::config::Args),
    /// Run a sidecar; its configuration is in the environment
    #[command(hide = true)]
    Sidecar,
    /// Run an application of the examples
    #[command(hide = true, disable_help_flag = true)]
    Example {
        /// The application and its options; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Become a program that ends with its parent
    #[command(hide = true)]
    Launch(crate::launch::Args),
}

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Options of `heddle version`.
#[derive(Debug, Args)]
pub(crate) struct Version {
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

/// Options of `heddle up`.
#[derive(Debug, Args)]
#[command(after_help = UP_HELP)]
pub(crate) struct Up {
    /// Directory with manifests: Services, routes, policies, and a LocalWorkload for each application
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// End after this time, counted from when everything is ready; such as 20s, 5m or 1h30m
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    pub(crate) duration: Option<GatewayDuration>,
    /// Write the totals of the run to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Time between two looks at the metrics
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(crate) interval: GatewayDuration,
    /// Print lines instead of a table, as without a terminal
    #[arg(long)]
    pub(crate) no_table: bool,
    /// Form of the figures; json is one object for each interval
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
    /// Show what the processes print, a prefix before each line
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Keep certificates, logs and the list of processes (running.json) in this directory instead of one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Worker threads of each sidecar
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) workers: u8,
    /// Run this program as the sidecars, with its arguments after blanks; the configuration is in the environment
    #[arg(long, value_name = "COMMAND", value_parser = words)]
    pub(crate) sidecar_command: Option<Words>,
    /// Where the control plane listens for sidecars; a free port of 127.0.0.1 by default
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) control_plane_listen: Option<SocketAddr>,
}

const UP_HELP: &str = "\
Each application is told in its environment where to listen (PORT, PORT_<NAME>) and where its upstreams are (<SERVICE>_ADDR,
<SERVICE>_URL). An edit of the manifests is in force within a second. Ctrl-C ends everything in order; a second one at once.

Exit status: 0 ended as asked; 1 something could not run, or an application was down after a failure at the end of --for;
64 the command line or the manifests cannot be used; 130 ended by a second Ctrl-C.

Examples:
  heddle up examples/canary
  heddle up examples/canary --for 20s --report totals.json --no-table
  heddle up DIR --sidecar-command 'valgrind --tool=callgrind heddle-sidecar run'";

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Words(pub(crate) String, pub(crate) Vec<String>);

/// Splits at blanks. There are no quotes: a program that needs more takes a script.
fn words(text: &str) -> Result<Words, String> {
    let mut words = text.split_whitespace().map(str::to_owned);
    let program = words.next().ok_or("expected a program")?;
    Ok(Words(program, words.collect()))
}

fn time(text: &str) -> Result<GatewayDuration, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// The shortest interval: reading the metrics more often would be most of what sidecars do.
const INTERVAL_MIN_MS: u128 = 100;

fn interval(text: &str) -> Result<GatewayDuration, String> {
    let duration = time(text)?;
    if duration.get().as_millis() < INTERVAL_MIN_MS { Err(format!("must be {INTERVAL_MIN_MS}ms or more")) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn up(args: &[&str]) -> Up {
        let command = CommandLine::try_parse_from(["heddle", "up"].iter().chain(args)).unwrap().command;
        let Command::Up(up) = command else { panic!("{command:?}") };
        up
    }

    #[test]
    fn the_definitions_agree_with_each_other() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn up_takes_its_options() {
        let options =
            up(&["dir", "--for", "1m30s", "--interval", "250ms", "--sidecar-command", "valgrind  --x heddle-sidecar", "-o", "json"]);
        assert_eq!(options.duration.unwrap().get().as_secs(), 90);
        assert_eq!(options.interval.get().as_millis(), 250);
        assert_eq!(options.sidecar_command.unwrap(), Words("valgrind".to_owned(), vec!["--x".to_owned(), "heddle-sidecar".to_owned()]));
        assert_eq!((options.output, options.workers), (Output::Json, 1));
    }

    #[test]
    fn wrong_values_are_named() {
        for (args, named) in [
            (&["dir", "--for", "20"][..], "20"),
            (&["dir", "--interval", "1ms"], "100ms"),
            (&["dir", "--workers", "0"], "workers"),
            (&["dir", "--sidecar-command", " "], "expected a program"),
            (&[], "DIR"),
        ] {
            let error = CommandLine::try_parse_from(["heddle", "up"].iter().chain(args)).unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn an_example_keeps_all_of_its_words() {
        let line = CommandLine::try_parse_from(["heddle", "example", "reviews", "--version", "v2", "--help"]).unwrap();
        assert!(matches!(line.command, Command::Example { args } if args == ["reviews", "--version", "v2", "--help"]));
    }

    #[test]
    fn what_only_heddle_starts_is_not_in_the_help() {
        let help = CommandLine::command().render_help().to_string();
        assert!(help.contains("completions") && help.contains("Examples:"), "{help}");
        for line in help.lines() {
            assert!(!["  sidecar", "  control-plane", "  launch", "  example"].iter().any(|hidden| line.starts_with(hidden)), "{help}");
        }
    }
}
