//! `heddle-sidecar redirect`: the pod's rules of redirection, programmed once by an init container (design §9).
//!
//! ```text
//! config.rs     the environment of this command
//! rules.rs      the rules as data, and in words
//! nftables.rs   the rules as netlink messages
//! netlink.rs    one batch to the kernel, and its answer
//! ```
//!
//! One table, `inet heddle`, replaced as a whole in one transaction: a second run leaves the same rules, and no moment is without
//! them. It touches no other table. IPv4 and IPv6 have the same rules. Only NET_ADMIN is needed.

pub mod config;
mod netlink;
mod nftables;
pub mod rules;

pub use config::RedirectConfig;

use rustix::io::Errno;
use std::ffi::OsString;
use std::process::ExitCode;

/// The exit code for a wrong command line or environment (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// What `--help` says.
const HELP: &str = "\
Redirects the TCP connections of this network namespace through the sidecar (nftables, table inet heddle).

Usage: heddle-sidecar redirect [--print | --check]

      --print  say the rules in words and change nothing
      --check  ask the kernel whether it takes the rules, and change nothing
  -h, --help   say this

Environment:
  HEDDLE_SIDECAR_UID             the sidecar's user id, whose connections are left alone (15015)
  HEDDLE_INBOUND_PORT            where the sidecar takes inbound connections (15006)
  HEDDLE_OUTBOUND_PORT           where it takes outbound connections (15001)
  HEDDLE_EXCLUDE_INBOUND_PORTS   ports of the pod that are left alone, by commas; 15020 and 15021 always are
  HEDDLE_EXCLUDE_OUTBOUND_PORTS  ports of destinations that are left alone, by commas
  HEDDLE_EXCLUDE_OUTBOUND_CIDRS  destinations that are left alone, such as 10.0.0.0/8,fd00::/8

Exit status: 0 done, 1 the kernel refused (the reason is printed), 64 wrong use (every mistake is printed).
";

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// There is no way to speak to netfilter.
    #[error("netfilter cannot be reached ({errno}): {}", way_out(*errno, nftables::Step::Table))]
    Unreachable {
        /// What the system says.
        errno: Errno,
    },
    /// The kernel takes one part of the rules not.
    #[error("the kernel refuses {what} ({errno}): {}", way_out(*errno, *step))]
    Refused {
        /// Which part.
        what: String,
        /// Of which kind it is.
        step: nftables::Step,
        /// What the system says.
        errno: Errno,
    },
    /// The kernel's answer makes no sense.
    #[error("netfilter's answer cannot be understood: {0}")]
    Answer(&'static str),
}

/// What to do about a refusal.
fn way_out(errno: Errno, step: nftables::Step) -> &'static str {
    use nftables::Step;
    match (errno, step) {
        (Errno::PERM | Errno::ACCESS, _) => "the container must run as root (user 0) with the capability NET_ADMIN",
        (Errno::NOENT, Step::Chain) => {
            "NAT for nf_tables is missing: load the kernel modules nft_chain_nat, nf_nat and nf_conntrack on the node"
        }
        (Errno::NOENT, Step::Rule) => "an nf_tables expression is missing: load the kernel modules nft_redir and nft_fib_inet on the node",
        (Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NOENT, _) => {
            "nf_tables is missing: load the kernel module nf_tables on the node; the kernel must be Linux 5.2 or later"
        }
        (Errno::AGAIN | Errno::TIMEDOUT, _) => {
            "the kernel has not answered in time: the node is overloaded, the pod's next try may succeed"
        }
        (_, _) => "see the node's kernel log (dmesg)",
    }
}

/// What the command line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Help,
    Print,
    Check,
    Apply,
}

/// Runs the command with the arguments after `redirect`, configured by the process's environment.
pub fn run(args: &[OsString]) -> ExitCode {
    let action = match args {
        [] => Action::Apply,
        [one] if one == "--help" || one == "-h" => Action::Help,
        [one] if one == "--print" => Action::Print,
        [one] if one == "--check" => Action::Check,
        _ => {
            eprint!("heddle-sidecar redirect: these arguments are not known\n\n{HELP}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if action == Action::Help {
        return say(HELP);
    }
    let config = match RedirectConfig::from_environment() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let rules = rules::rules(&config);
    match act(action, &rules) {
        Ok(sentence) => say(&format!("{}{sentence}", rules::in_words(&rules))),
        Err(error) => {
            eprintln!("heddle-sidecar redirect: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action, rules: &[rules::Rule]) -> Result<&'static str, RedirectError> {
    match action {
        Action::Help | Action::Print => Ok(""),
        Action::Check => netlink::transact(&nftables::replace(rules), netlink::Commit::No).map(|()| "The kernel takes these rules.\n"),
        Action::Apply => netlink::transact(&nftables::replace(rules), netlink::Commit::Yes).map(|()| "These rules are in force.\n"),
    }
}

/// Prints; a reader that has gone is its own loss.
fn say(text: &str) -> ExitCode {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_way_out() {
        use nftables::Step;
        let refused = |errno, step| RedirectError::Refused { what: "the chain".to_owned(), step, errno }.to_string();
        assert!(refused(Errno::PERM, Step::Begin).contains("NET_ADMIN"));
        assert!(refused(Errno::NOENT, Step::Chain).contains("nft_chain_nat"));
        assert!(refused(Errno::NOENT, Step::Rule).contains("nft_redir"));
        assert!(RedirectError::Unreachable { errno: Errno::PROTONOSUPPORT }.to_string().contains("nf_tables"));
    }
}
