//! What one pod may set for itself: the annotations `heddle.dev/…`, each with its meaning and its check; all mistakes at once.

use super::config::{Amounts, InjectionConfig, Resources};
use super::{VERSION_ANNOTATION, quantity, text};
use heddle_crds::manifest::nearest;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What all annotations of ours begin with.
const PREFIX: &str = "heddle.dev/";
/// Most ports or networks of one annotation: each is a rule that the kernel asks for every new connection.
const MAX_EXCLUDED: usize = 256;
/// Longest that connections may take to end: an hour, as the sidecar has it.
const DRAIN_SECONDS_MAX: u64 = 3600;
/// A pod's grace period where it says nothing (`core/v1` PodSpec).
const GRACE_SECONDS: u64 = 30;
/// The levels of a log, from silence to all.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The annotations that people write.
const KNOWN: [&str; 12] = [
    "proxy-cpu-request",
    "proxy-cpu-limit",
    "proxy-memory-request",
    "proxy-memory-limit",
    "log-level",
    "exclude-inbound-ports",
    "exclude-outbound-ports",
    "exclude-outbound-cidrs",
    "drain-seconds",
    "trace-sampling",
    "access-log",
    "image",
];

/// What holds for one pod: its annotations over the operator's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The image of both containers.
    pub image: String,
    /// Resources of each of the two containers.
    pub resources: Resources,
    /// What the sidecar logs.
    pub log_level: String,
    /// Ports of the pod that are not redirected, sorted.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Ports of destinations that are not redirected, sorted.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Networks of destinations that are not redirected, in the order in which they are written.
    pub exclude_outbound_cidrs: Vec<String>,
    /// How long connections may take to end; at most the pod's grace period.
    pub drain_seconds: u64,
    /// Percent of requests that are traced, where the pod decides.
    pub trace_sampling: Option<String>,
    /// Whether requests are logged, where the pod decides.
    pub access_log: Option<&'static str>,
}

impl Settings {
    /// Reads a pod's annotations. Adds to `warnings` what has no effect, or less than asked for.
    ///
    /// # Errors
    /// Every mistake: annotation, value, and what is right.
    pub fn of(pod: &Value, config: &InjectionConfig, warnings: &mut Vec<String>) -> Result<Self, Vec<String>> {
        unknown(pod, warnings);
        let mut read = Reading { pod, mistakes: Vec::new() };
        let Resources { requests, limits } = &config.resources;
        let or_default = |written: Option<String>, default: &Option<String>| written.or_else(|| default.clone());
        let amount_of = |name, read: &mut Reading<'_>| read.value(name, |text| amount(text).map(|()| text.to_owned()));
        let resources = Resources {
            requests: Amounts {
                cpu: or_default(amount_of("proxy-cpu-request", &mut read), &requests.cpu),
                memory: or_default(amount_of("proxy-memory-request", &mut read), &requests.memory),
            },
            limits: Amounts {
                cpu: or_default(amount_of("proxy-cpu-limit", &mut read), &limits.cpu),
                memory: or_default(amount_of("proxy-memory-limit", &mut read), &limits.memory),
            },
        };
        read.requests_fit(&resources);
        let log_level = read.value("log-level", |text| log_level(text).map(|()| text.to_owned()));
        let image = read.value("image", |text| image(text).map(|()| text.to_owned()));
        let inbound = read.value("exclude-inbound-ports", ports).unwrap_or_default();
        let outbound = read.value("exclude-outbound-ports", ports).unwrap_or_default();
        let networks = read.value("exclude-outbound-cidrs", networks).unwrap_or_default();
        let drain_seconds = read.value("drain-seconds", seconds);
        let trace_sampling = read.value("trace-sampling", percent);
        let access_log = read.value("access-log", on_or_off);
        if !read.mistakes.is_empty() {
            return Err(read.mistakes);
        }
        let mut exclude_outbound_cidrs = config.exclude_outbound_cidrs.clone();
        exclude_outbound_cidrs.extend(networks.into_iter().filter(|network| !config.exclude_outbound_cidrs.contains(network)));
        Ok(Self {
            image: image.unwrap_or_else(|| config.image.clone()),
            resources,
            log_level: log_level.unwrap_or_else(|| config.log_level.clone()),
            exclude_inbound_ports: inbound.into_iter().chain(config.exclude_inbound_ports.iter().copied()).collect(),
            exclude_outbound_ports: outbound.into_iter().chain(config.exclude_outbound_ports.iter().copied()).collect(),
            exclude_outbound_cidrs,
            drain_seconds: fitting_drain(pod, drain_seconds, config.drain_seconds, warnings),
            trace_sampling,
            access_log,
        })
    }
}

/// The time for draining, lowered to the grace period: after that kubelet kills what is left.
fn fitting_drain(pod: &Value, asked: Option<u64>, default: u64, warnings: &mut Vec<String>) -> u64 {
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(GRACE_SECONDS);
    if let Some(seconds) = asked.filter(|seconds| *seconds > grace) {
        warnings.push(format!(
            "annotation {PREFIX}drain-seconds is {seconds}, but kubelet ends the pod after its terminationGracePeriodSeconds, {grace}: {grace} holds"
        ));
    }
    asked.unwrap_or(default).min(grace)
}

/// Warns of annotations that nobody reads.
fn unknown(pod: &Value, warnings: &mut Vec<String>) {
    let annotations = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    for key in annotations.into_iter().flat_map(|annotations| annotations.keys()) {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if KNOWN.contains(&name) || key == VERSION_ANNOTATION {
            continue;
        }
        let hint = match nearest(name, KNOWN) {
            Some(meant) => format!("did you mean {PREFIX}{meant}?"),
            None if name == "inject" => format!("{PREFIX}inject is a label, not an annotation"),
            None => format!("known are {PREFIX}{}", KNOWN.join(", ")),
        };
        warnings.push(format!("annotation {key} is unknown and has no effect: {hint}"));
    }
}

struct Reading<'a> {
    pod: &'a Value,
    mistakes: Vec<String>,
}

impl Reading<'_> {
    fn value<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let key = format!("{PREFIX}{name}");
        match parse(text(self.pod, &["metadata", "annotations", &key])?.trim()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.mistakes.push(format!("annotation {key} {message}"));
                None
            }
        }
    }

    /// The API server would refuse the pod without telling where the two amounts come from.
    fn requests_fit(&mut self, resources: &Resources) {
        let Resources { requests, limits } = resources;
        for (of, request, limit) in [("cpu", &requests.cpu, &limits.cpu), ("memory", &requests.memory, &limits.memory)] {
            let (Some(request), Some(limit)) = (request, limit) else { continue };
            if quantity::parse(request) > quantity::parse(limit) {
                self.mistakes.push(format!(
                    "the sidecar's {of} request {request} is above its limit {limit}: set both annotations {PREFIX}proxy-{of}-request and {PREFIX}proxy-{of}-limit"
                ));
            }
        }
    }
}

/// Checks an amount of CPU or memory.
pub(super) fn amount(text: &str) -> Result<(), String> {
    match quantity::parse(text) {
        Some(_) => Ok(()),
        None => Err(format!("is {}: write an amount above zero such as 100m, 0.5 or 64Mi", Quoted(text))),
    }
}

/// Checks a filter of the log: `LEVEL` or `TARGET=LEVEL`, by commas. Stricter than the sidecar, which would take a mistyped level
/// for a target.
pub(super) fn log_level(filter: &str) -> Result<(), String> {
    let is_target = |target: &str| !target.is_empty() && target.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'));
    let is_directive = |directive: &str| {
        let (target, level) = directive.split_once('=').map_or((None, directive), |(target, level)| (Some(target), level));
        LEVELS.contains(&level) && target.is_none_or(is_target)
    };
    if !filter.is_empty() && filter.split(',').all(is_directive) {
        return Ok(());
    }
    Err(format!("is {}: write {} or TARGET=LEVEL, such as info,heddle_sidecar=debug", Quoted(filter), LEVELS.join(", ")))
}

/// Checks an image reference, roughly: kubelet's own check comes after scheduling, where nobody looks.
pub(super) fn image(reference: &str) -> Result<(), String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'/' | b':' | b'@');
    let good = reference.bytes().all(allowed)
        && reference.starts_with(|first: char| first.is_ascii_alphanumeric())
        && reference.ends_with(|last: char| last.is_ascii_alphanumeric())
        && !reference.contains("//");
    if good { Ok(()) } else { Err(format!("is {}: write an image such as registry.example/heddle-sidecar:0.1.0", Quoted(reference))) }
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    let one = |port: &str| port.trim().parse::<u16>().ok().filter(|port| *port != 0);
    let wrong = || format!("is {}: write ports from 1 to 65535 by commas, such as 9100,9200", Quoted(text));
    bounded(text.split(',').map(one).collect::<Option<Vec<_>>>().ok_or_else(wrong)?, "ports")
}

fn networks(text: &str) -> Result<Vec<String>, String> {
    let one = |network: &str| Cidr::parse(network.trim()).map(|cidr| cidr.to_string());
    bounded(text.split(',').map(one).collect::<Result<Vec<_>, _>>()?, "networks")
}

fn bounded<T>(list: Vec<T>, of: &str) -> Result<Vec<T>, String> {
    if list.len() > MAX_EXCLUDED { Err(format!("has {} {of}: at most {MAX_EXCLUDED} are possible", list.len())) } else { Ok(list) }
}

fn seconds(text: &str) -> Result<u64, String> {
    let read = text.parse::<u64>().ok().filter(|seconds| *seconds <= DRAIN_SECONDS_MAX && !text.starts_with('+'));
    read.ok_or_else(|| format!("is {}: write whole seconds from 0 to {DRAIN_SECONDS_MAX}", Quoted(text)))
}

fn percent(text: &str) -> Result<String, String> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match f64::from_str(text) {
        Ok(percent) if decimal && (0.0..=100.0).contains(&percent) => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(format!("is {}: write a percentage from 0 to 100, such as 0.5", Quoted(text))),
    }
}

fn on_or_off(text: &str) -> Result<&'static str, String> {
    match text {
        "on" => Ok("on"),
        "off" => Ok("off"),
        _ => Err(format!("is {}: write on or off", Quoted(text))),
    }
}

/// A network: an address whose bits beyond the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/8` or `fd00::/8`.
    ///
    /// # Errors
    /// A sentence without its subject that shows the value, and what is meant where that can be guessed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("has {}: write networks such as 10.0.0.0/8 or fd00::/8", Quoted(text));
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address.parse::<IpAddr>().map_err(|_| wrong())?, prefix),
            None => {
                let address = text.parse::<IpAddr>().map_err(|_| wrong())?;
                return Err(format!("has {}: write {address}/{}", Quoted(text), bits(address)));
            }
        };
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| *prefix <= bits(address)).ok_or_else(wrong)?;
        let network = masked(address, prefix);
        if network != address {
            return Err(format!("has {}: the network is {network}/{prefix}", Quoted(text)));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into()),
    }
}

/// A value in quotes, cut when it is long.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        match self.0.char_indices().nth(LONGEST) {
            Some((end, _)) => write!(f, "{:?}…", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(annotations: &Value) -> (Result<Settings, Vec<String>>, Vec<String>) {
        let config = InjectionConfig::with_image("heddle-sidecar:1").unwrap();
        let mut warnings = Vec::new();
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {"containers": [], "terminationGracePeriodSeconds": 20}});
        (Settings::of(&pod, &config, &mut warnings), warnings)
    }

    #[test]
    fn a_pod_without_annotations_has_the_operators_settings() {
        let (settings, warnings) = settings(&json!({}));
        let settings = settings.unwrap();
        assert_eq!((settings.image.as_str(), settings.log_level.as_str(), settings.drain_seconds), ("heddle-sidecar:1", "info", 20));
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn all_annotations_are_taken() {
        let (settings, warnings) = settings(&json!({
            "heddle.dev/proxy-cpu-request": "100m", "heddle.dev/proxy-cpu-limit": "1", "heddle.dev/proxy-memory-request": "32Mi",
            "heddle.dev/proxy-memory-limit": "64Mi", "heddle.dev/log-level": "warn,heddle_sidecar=trace",
            "heddle.dev/exclude-inbound-ports": "9200, 9100", "heddle.dev/exclude-outbound-ports": "25",
            "heddle.dev/exclude-outbound-cidrs": "10.0.0.0/8,fd00::/8", "heddle.dev/drain-seconds": "5",
            "heddle.dev/trace-sampling": "0.5", "heddle.dev/access-log": "off", "heddle.dev/image": "other:2",
            "other.dev/image": "not ours", "heddle.dev/sidecar-version": "1",
        }));
        let settings = settings.unwrap();
        assert_eq!(settings.exclude_inbound_ports, BTreeSet::from([9100, 9200]));
        assert_eq!(settings.exclude_outbound_cidrs, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(
            (settings.trace_sampling.as_deref(), settings.access_log, settings.image.as_str()),
            (Some("0.5"), Some("off"), "other:2")
        );
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn every_mistake_is_named_with_annotation_value_and_way_out() {
        let wrong = [
            ("proxy-cpu-request", "much", "100m"),
            ("proxy-cpu-limit", "0", "100m"),
            ("proxy-memory-request", "64MB", "64Mi"),
            ("proxy-memory-limit", "-1", "64Mi"),
            ("log-level", "inof", "info"),
            ("exclude-inbound-ports", "80-90", "9100,9200"),
            ("exclude-outbound-ports", "0", "1 to 65535"),
            ("exclude-outbound-cidrs", "10.1.0.0/8", "10.0.0.0/8"),
            ("drain-seconds", "5s", "whole seconds"),
            ("trace-sampling", "101", "0 to 100"),
            ("access-log", "yes", "on or off"),
            ("image", "two words", "registry.example"),
        ];
        let annotations: serde_json::Map<_, _> = wrong.iter().map(|(name, value, _)| (format!("{PREFIX}{name}"), json!(value))).collect();
        let (settings, _) = settings(&Value::Object(annotations));
        let mistakes = settings.unwrap_err();
        assert_eq!(mistakes.len(), wrong.len(), "{mistakes:#?}");
        for (name, value, way_out) in wrong {
            let sentence = mistakes.iter().find(|sentence| sentence.contains(&format!("{PREFIX}{name} "))).unwrap();
            assert!(sentence.contains(&format!("{value:?}")) && sentence.contains(way_out), "{sentence}");
        }
    }

    #[test]
    fn a_request_above_the_limit_is_a_mistake_wherever_the_two_come_from() {
        let (settings, _) = settings(&json!({"heddle.dev/proxy-memory-limit": "8Mi"}));
        let mistakes = settings.unwrap_err();
        assert!(mistakes[0].contains("16Mi is above its limit 8Mi"), "{mistakes:?}");
    }

    #[test]
    fn unknown_annotations_are_a_warning_with_a_suggestion() {
        let (result, warnings) =
            settings(&json!({"heddle.dev/log-levle": "info", "heddle.dev/inject": "enabled", "heddle.dev/colour": "red"}));
        assert!(result.is_ok());
        assert_eq!(warnings.len(), 3);
        assert!(warnings[0].contains("heddle.dev/colour") && warnings[0].contains("proxy-cpu-request"), "{warnings:?}");
        assert!(warnings[1].contains("is a label"), "{warnings:?}");
        assert!(warnings[2].contains("did you mean heddle.dev/log-level?"), "{warnings:?}");
    }

    #[test]
    fn a_drain_beyond_the_grace_period_is_lowered_and_said() {
        let (result, warnings) = settings(&json!({"heddle.dev/drain-seconds": "60"}));
        assert_eq!(result.unwrap().drain_seconds, 20);
        assert!(warnings[0].contains("60") && warnings[0].contains("20 holds"), "{warnings:?}");
    }

    #[test]
    fn networks_are_exact() {
        assert_eq!(Cidr::parse("0.0.0.0/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(Cidr::parse("::/0").unwrap().to_string(), "::/0");
        assert!(Cidr::parse("10.0.0.1").unwrap_err().contains("10.0.0.1/32"));
        assert!(Cidr::parse("fd00::1/64").unwrap_err().contains("fd00::/64"));
        for wrong in ["", "10.0.0.0/33", "10.0.0.0/", "a/8", "10.0.0.0/8/8", "::/129"] {
            assert!(Cidr::parse(wrong).is_err(), "{wrong}");
        }
    }
}
