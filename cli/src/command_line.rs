//! What can be asked of `heddle`: the subcommands with their options and help, and nothing that they do.

use crate::cluster::Target;
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
  heddle check --pre && heddle install       bring the mesh into a cluster, without Helm
  heddle check                               see that it is well
  heddle completions bash > /etc/bash_completion.d/heddle

A copy or a link of this program with the name kubectl-heddle on the PATH makes it `kubectl heddle`.";

/// The subcommands; those that only other parts of heddle start are hidden.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the manifests of a directory on this machine: control plane, sidecars and applications
    Up(Up),
    /// Install the mesh in a cluster: the Helm chart, without Helm
    Install(Install),
    /// Bring an installation to this version and to other values
    Upgrade(Upgrade),
    /// Take the mesh out of a cluster
    Uninstall(Uninstall),
    /// Add sidecars to the workloads of manifests, as the mesh does to new pods
    Inject(crate::inject::Inject),
    /// Check a cluster, and the mesh in it
    Check(Check),
    /// Print the versions of this command, the control plane and the sidecars
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
    /// Only this command's version: ask no cluster
    #[arg(long)]
    pub(crate) client: bool,
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
}

/// Values of the chart.
#[derive(Debug, Default, Args)]
pub(crate) struct Values {
    /// File with values of the chart, as for Helm; may be given several times, the later over the earlier; - is standard input
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A value, as in controlPlane.replicas=3 or sidecar.excludeOutboundPorts={25,5432}; over those of files
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// A value that is text whatever it looks like
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set_string: Vec<String>,
}

/// How objects are applied and waited for.
#[derive(Debug, Args)]
pub(crate) struct Roll {
    /// Take over fields that somebody else has set
    #[arg(long)]
    pub(crate) force_conflicts: bool,
    /// Do not wait until the control plane serves
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for it
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5m")]
    timeout: GatewayDuration,
}

impl Roll {
    /// How long to wait; nothing when it is not waited.
    pub(crate) fn wait(&self) -> Option<GatewayDuration> {
        (!self.no_wait).then_some(self.timeout)
    }
}

/// Options of `heddle install`.
#[derive(Debug, Args)]
#[command(after_help = INSTALL_HELP)]
pub(crate) struct Install {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Namespace of the control plane; it is made when it is absent
    #[arg(short, long, value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub(crate) namespace: String,
    /// Values.
    #[command(flatten)]
    pub(crate) values: Values,
    /// Print the objects as YAML and change nothing; asks no cluster
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How.
    #[command(flatten)]
    pub(crate) roll: Roll,
    /// Form of the output; json is one object with what was done
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

const INSTALL_HELP: &str = "\
The objects are those of the Helm chart in charts/heddle; its values.yaml says what can be set. An installation is kept up to date by the
program that made it: this one, or Helm.

Exit status: 0 installed, and ready unless --no-wait; 1 it could not be; 64 the command line or the values cannot be used.

Examples:
  heddle install
  heddle install --set image.registry=registry.example.com/heddle -f values.yaml
  heddle install --dry-run | kubectl diff -f -";

/// Options of `heddle upgrade`.
#[derive(Debug, Args)]
#[command(after_help = UPGRADE_HELP)]
pub(crate) struct Upgrade {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub(crate) namespace: String,
    /// Values, over those of the installation.
    #[command(flatten)]
    pub(crate) values: Values,
    /// Forget the values that were given before
    #[arg(long)]
    pub(crate) reset_values: bool,
    /// Print the objects as YAML and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How.
    #[command(flatten)]
    pub(crate) roll: Roll,
    /// Form of the output; json is one object with what was done
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

const UPGRADE_HELP: &str = "\
Values that were given before stay, unless --reset-values. The certificate authority and the leader's lease are left alone. Definitions of
Heddle's kinds are upgraded too. Running sidecars work with a control plane of their version or the next; new pods get the new one.

Examples:
  heddle upgrade
  heddle upgrade --set controlPlane.replicas=3";

/// Options of `heddle uninstall`.
#[derive(Debug, Args)]
#[command(after_help = UNINSTALL_HELP)]
pub(crate) struct Uninstall {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub(crate) namespace: String,
    /// Leave the definitions of Heddle's kinds, and with them all objects of these kinds
    #[arg(long)]
    pub(crate) keep_crds: bool,
    /// How long to wait until everything is gone
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "3m")]
    pub(crate) timeout: GatewayDuration,
    /// Form of the output; json is one object with what was removed
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

const UNINSTALL_HELP: &str = "\
Removes what the installation and the control plane have made: admission first, the definitions of Heddle's kinds with all their objects
(unless --keep-crds or crds.keep), and the namespace when it was made by `heddle install`. Pods keep their sidecars until they are started
again.";

/// Options of `heddle check`.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub(crate) struct Check {
    /// Which cluster.
    #[command(flatten)]
    pub(crate) target: Target,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = SYSTEM_NAMESPACE)]
    pub(crate) namespace: String,
    /// Check what an installation needs, before there is one
    #[arg(long)]
    pub(crate) pre: bool,
    /// Form of the output; json is one object with all findings
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Output,
}

const CHECK_HELP: &str = "\
A line a check: ✓ well, ! works but look at it, ✗ does not work, with the way out below. Nothing is changed: injection is tried in a dry run.

Exit status: 0 nothing failed, with or without warnings; 1 something failed.";

/// The namespace of the control plane, unless somebody chooses another.
pub(crate) const SYSTEM_NAMESPACE: &str = "heddle-system";

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
    fn an_installation_takes_values_and_a_cluster() {
        let line = CommandLine::try_parse_from([
            "heddle",
            "install",
            "--context",
            "c",
            "-n",
            "mesh",
            "-f",
            "a.yaml",
            "-f",
            "b.yaml",
            "--set",
            "a={1,2}",
            "--no-wait",
        ]);
        let Command::Install(options) = line.unwrap().command else { panic!() };
        assert_eq!((options.namespace.as_str(), options.target.context.as_deref()), ("mesh", Some("c")));
        assert_eq!((options.values.files.len(), options.values.set.as_slice()), (2, &["a={1,2}".to_owned()][..]));
        assert!(options.roll.wait().is_none());
        let line = CommandLine::try_parse_from(["heddle", "upgrade", "--timeout", "90s"]).unwrap();
        let Command::Upgrade(options) = line.command else { panic!() };
        assert_eq!((options.roll.wait().unwrap().get().as_secs(), options.namespace.as_str()), (90, SYSTEM_NAMESPACE));
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
