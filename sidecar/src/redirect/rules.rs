//! The rules of redirection as data, in the order in which a new connection meets them, and in words.

use super::config::{Cidr, RedirectConfig};
use std::fmt;

/// The sidecar's admin server, which is on loopback: from outside nobody may come there by way of the sidecar either.
const ADMIN_PORT: u16 = 15020;
/// The sidecar's health server, which the kubelet and scrapers ask.
const HEALTH_PORT: u16 = 15021;

/// Loopback port that the sidecar, and nobody else, finds redirected to its outbound listener: see [`crate::intercept::check`].
pub const CHECK_OUTBOUND_PORT: u16 = 15003;
/// The same for the inbound listener.
pub const CHECK_INBOUND_PORT: u16 = 15004;

/// A chain of the table: which connections it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// Connections that arrive (hook prerouting).
    Inbound,
    /// Connections that begin here (hook output).
    Outbound,
}

/// What a connection must be for a rule to decide about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Anything but TCP.
    NotTcp,
    /// To an address that is not of this network namespace: forwarded.
    Forwarded,
    /// It arrives by the loopback interface.
    FromLoopback,
    /// It leaves by the loopback interface: to this pod itself, whatever address it uses.
    ToLoopback,
    /// From a process of this user.
    User(u32),
    /// To this TCP port.
    Port(u16),
    /// To this network.
    Network(Cidr),
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes where it meant to.
    LeftAlone,
    /// It goes to this port of the sidecar.
    Redirected(u16),
}

/// One rule: the first whose conditions all hold decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The chain that it is in.
    pub chain: Chain,
    /// Its conditions; none: every connection.
    pub conditions: Vec<Match>,
    /// What it says.
    pub verdict: Verdict,
    /// Why, in a few words; shown by `nft list ruleset` too.
    pub why: &'static str,
}

/// The rules for a pod.
pub fn rules(config: &RedirectConfig) -> Vec<Rule> {
    let RedirectConfig { sidecar_uid, inbound_port, outbound_port, exclude_inbound_ports, exclude_outbound_ports, exclude_outbound_cidrs } =
        config;
    let rule = |chain, conditions: &[Match], verdict, why| Rule { chain, conditions: conditions.to_vec(), verdict, why };
    let inbound = |conditions: &[Match], why| rule(Chain::Inbound, conditions, Verdict::LeftAlone, why);
    let outbound = |conditions: &[Match], why| rule(Chain::Outbound, conditions, Verdict::LeftAlone, why);
    let sidecar = Match::User(*sidecar_uid);
    let check = |port, to| {
        let conditions = [sidecar, Match::ToLoopback, Match::Port(port)];
        rule(Chain::Outbound, &conditions, Verdict::Redirected(to), "the sidecar's check of these rules")
    };

    let mut rules = vec![
        inbound(&[Match::NotTcp], "only TCP is redirected"),
        inbound(&[Match::FromLoopback], "from this pod itself"),
        inbound(&[Match::Forwarded], "not for this pod: it routes"),
        inbound(&[Match::Port(ADMIN_PORT)], "the sidecar's admin server"),
        inbound(&[Match::Port(HEALTH_PORT)], "the sidecar's health server"),
    ];
    rules.extend(exclude_inbound_ports.iter().map(|port| inbound(&[Match::Port(*port)], "HEDDLE_EXCLUDE_INBOUND_PORTS")));
    rules.push(rule(Chain::Inbound, &[], Verdict::Redirected(*inbound_port), "to the sidecar"));

    rules.extend([
        outbound(&[Match::NotTcp], "only TCP is redirected"),
        check(CHECK_OUTBOUND_PORT, *outbound_port),
        check(CHECK_INBOUND_PORT, *inbound_port),
        outbound(&[sidecar], "from the sidecar"),
        outbound(&[Match::ToLoopback], "to this pod itself"),
    ]);
    rules.extend(exclude_outbound_ports.iter().map(|port| outbound(&[Match::Port(*port)], "HEDDLE_EXCLUDE_OUTBOUND_PORTS")));
    rules.extend(exclude_outbound_cidrs.iter().map(|cidr| outbound(&[Match::Network(*cidr)], "HEDDLE_EXCLUDE_OUTBOUND_CIDRS")));
    rules.push(rule(Chain::Outbound, &[], Verdict::Redirected(*outbound_port), "to the sidecar"));
    rules
}

/// The rules, a line each.
pub fn in_words(rules: &[Rule]) -> String {
    rules.iter().map(|rule| format!("{rule}\n")).collect()
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTcp => f.write_str("anything but TCP"),
            Self::Forwarded => f.write_str("to an address that is not the pod's"),
            Self::FromLoopback => f.write_str("from loopback"),
            Self::ToLoopback => f.write_str("to loopback or an own address"),
            Self::User(uid) => write!(f, "by user {uid}"),
            Self::Port(port) => write!(f, "to port {port}"),
            Self::Network(cidr) => write!(f, "to {cidr}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, conditions, verdict, why } = self;
        let conditions: Vec<_> = conditions.iter().map(ToString::to_string).collect();
        let what = if conditions.is_empty() { "everything else".to_owned() } else { conditions.join(", ") };
        match verdict {
            Verdict::LeftAlone => write!(f, "{chain}: {what}: left alone ({why})"),
            Verdict::Redirected(port) => write!(f, "{chain}: {what}: redirected to port {port} ({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_said_in_words_and_in_order() {
        let config = RedirectConfig {
            exclude_inbound_ports: vec![9100],
            exclude_outbound_ports: vec![443],
            exclude_outbound_cidrs: vec!["10.0.0.0/8".parse().unwrap()],
            ..RedirectConfig::default()
        };
        assert_eq!(
            in_words(&rules(&config)),
            "\
inbound: anything but TCP: left alone (only TCP is redirected)
inbound: from loopback: left alone (from this pod itself)
inbound: to an address that is not the pod's: left alone (not for this pod: it routes)
inbound: to port 15020: left alone (the sidecar's admin server)
inbound: to port 15021: left alone (the sidecar's health server)
inbound: to port 9100: left alone (HEDDLE_EXCLUDE_INBOUND_PORTS)
inbound: everything else: redirected to port 15006 (to the sidecar)
outbound: anything but TCP: left alone (only TCP is redirected)
outbound: by user 15015, to loopback or an own address, to port 15003: redirected to port 15001 (the sidecar's check of these rules)
outbound: by user 15015, to loopback or an own address, to port 15004: redirected to port 15006 (the sidecar's check of these rules)
outbound: by user 15015: left alone (from the sidecar)
outbound: to loopback or an own address: left alone (to this pod itself)
outbound: to port 443: left alone (HEDDLE_EXCLUDE_OUTBOUND_PORTS)
outbound: to 10.0.0.0/8: left alone (HEDDLE_EXCLUDE_OUTBOUND_CIDRS)
outbound: everything else: redirected to port 15001 (to the sidecar)
"
        );
    }
}
