//! The environment as a map, and the sentences that wrong ones give.

use super::*;
use std::collections::HashMap;

const CORES: NonZeroUsize = NonZeroUsize::MAX;

fn required() -> HashMap<&'static str, &'static str> {
    HashMap::from([
        ("HEDDLE_NAMESPACE", "shop"),
        ("HEDDLE_WORKLOAD", "reviews-v1-0"),
        ("HEDDLE_CONTROL_PLANE", "Control.heddle-system:15010"),
        ("HEDDLE_TOKEN_FILE", "/var/run/heddle/token"),
        ("HEDDLE_TRUST_ROOTS_FILE", "/var/run/heddle/root.pem"),
    ])
}

fn read(variables: &HashMap<&'static str, &'static str>) -> Result<Config, ConfigErrors> {
    Config::from_lookup(|name| variables.get(name).map(Into::into), CORES)
}

/// The one sentence that a variable's value causes.
#[track_caller]
fn mistake(name: &'static str, value: &'static str) -> String {
    let mut variables = required();
    variables.insert(name, value);
    let errors = read(&variables).unwrap_err();
    assert_eq!(errors.sentences().len(), 1, "{errors}");
    let sentence = errors.sentences()[0].clone();
    assert!(sentence.starts_with(name) && sentence.ends_with('.') && !sentence.contains('\n'), "{sentence}");
    sentence
}

#[test]
fn what_is_required_is_enough() {
    let config = read(&required()).unwrap();
    assert_eq!(config.control_plane.to_string(), "control.heddle-system:15010");
    assert_eq!((config.service_account.as_str(), config.trust_domain.as_str()), ("default", "cluster.local"));
    assert_eq!((config.workers.get(), config.header_limit), (2, 98_304));
    assert_eq!((config.drain, config.lame_duck), (Duration::from_secs(30), Duration::from_secs(2)));
    assert!(config.inbound.is_empty() && config.outbound.is_empty());
    let one = Config::from_lookup(|name| required().get(name).map(Into::into), NonZeroUsize::MIN).unwrap();
    assert_eq!(one.workers.get(), 1);
}

#[test]
fn listeners_are_lists() {
    let mut variables = required();
    variables.insert("HEDDLE_INBOUND", "127.0.0.1:4001=127.0.0.1:8080#80, [::1]:4001=[::1]:8081#81,");
    variables.insert("HEDDLE_OUTBOUND", "127.0.0.1:9001=reviews.default:80,127.0.0.1:0=[2001:db8::1]:443");
    variables.insert("HEDDLE_OUTBOUND_INTERCEPT", "0.0.0.0:15001");
    let config = read(&variables).unwrap();
    assert_eq!(config.inbound.len(), 2);
    assert_eq!((config.inbound[0].application.port(), config.inbound[0].port), (8080, 80));
    let authorities: Vec<_> = config.outbound.iter().map(|l| l.authority.to_string()).collect();
    assert_eq!(authorities, ["reviews.default:80", "[2001:db8::1]:443"]);
    assert_eq!(config.outbound_intercept, Some("0.0.0.0:15001".parse().unwrap()));
}

#[test]
fn all_mistakes_are_told_at_once() {
    let variables = HashMap::from([
        ("HEDDLE_NAMESPACE", "a/b"),
        ("HEDDLE_CONTROL_PLANE", "nowhere"),
        ("HEDDLE_TOKEN_FILE", ""),
        ("HEDDLE_TRUST_DOMAIN", "Upper"),
        ("HEDDLE_INBOUND", "127.0.0.1:4001,127.0.0.1:4002=127.0.0.1:8080#0"),
        ("HEDDLE_DRAIN_SECONDS", "soon"),
    ]);
    let errors = read(&variables).unwrap_err();
    let places: Vec<_> = errors.sentences().iter().map(|s| s.split(['=', ' ', ':']).next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "HEDDLE_NAMESPACE",
            "HEDDLE_WORKLOAD",
            "HEDDLE_TRUST_DOMAIN",
            "HEDDLE_CONTROL_PLANE",
            "HEDDLE_TOKEN_FILE",
            "HEDDLE_TRUST_ROOTS_FILE",
            "HEDDLE_INBOUND",
            "HEDDLE_INBOUND",
            "HEDDLE_DRAIN_SECONDS",
        ]
    );
    assert_eq!(errors.to_string().lines().count(), errors.sentences().len());
}

#[test]
fn a_mistake_names_the_way_out() {
    assert!(mistake("HEDDLE_ADMIN", "0.0.0.0:15020").contains("loopback"));
    assert!(mistake("HEDDLE_TOKEN", "secret").contains("HEDDLE_TOKEN_FILE"));
    assert!(!mistake("HEDDLE_TOKEN", "s3cr3t").contains("s3cr3t"), "a secret is not repeated");
    assert!(mistake("HEDDLE_INBOUND", "4001").contains("listen=application#port"));
    assert!(mistake("HEDDLE_OUTBOUND", "127.0.0.1:9001").contains("listen=host:port"));
    assert!(mistake("HEDDLE_OUTBOUND", "127.0.0.1:9001=a b:80").contains("host name"));
    assert!(mistake("HEDDLE_HEADER_LIMIT", "10").contains("from 8192 to 1048576"));
    assert!(mistake("HEDDLE_WORKERS", "0").contains("from 1 to 64"));
    assert!(mistake("HEDDLE_LOG_FORMAT", "xml").contains("text or json"));
    assert!(mistake("HEDDLE_LOG", "heddle=shout").contains("HEDDLE_LOG"));
    assert!(mistake("HEDDLE_SERVICE_ACCOUNT", "a b").contains("' '"));
}

#[test]
fn a_pod_is_told_more() {
    let mut variables = required();
    variables.extend([
        ("HEDDLE_HEALTH", "0.0.0.0:15021"),
        ("HEDDLE_POD_IPS", "10.1.2.3,fd00::3"),
        ("HEDDLE_INBOUND_PORTS", "8080,9090"),
        ("HEDDLE_TRACE_SAMPLING", "0.5"),
        ("HEDDLE_ACCESS_LOG", "on"),
        ("HEDDLE_PROBES", r#"{"app/liveness": {"http": {"port": 8080, "path": "/x"}}, "app/startup": {"tcp": {"port": 1}}}"#),
    ]);
    let Pod { health, ips, inbound_ports, probes, trace_sampling_ppm, access_log } = read(&variables).unwrap().pod;
    assert_eq!((health.unwrap().port(), ips.len(), inbound_ports), (15021, 2, vec![8080, 9090]));
    assert_eq!((trace_sampling_ppm, access_log, probes.len()), (Some(5_000), Some(true), 2));
}

#[test]
fn mistakes_of_injection_are_told() {
    assert!(mistake("HEDDLE_HEALTH", "15021").contains("ip:port"));
    assert!(mistake("HEDDLE_POD_IPS", "10.0.0.300").contains("IP address"));
    assert!(mistake("HEDDLE_INBOUND_PORTS", "http").contains("from 1 to 65535"));
    assert!(mistake("HEDDLE_TRACE_SAMPLING", "101").contains("from 0 to 100"));
    assert!(mistake("HEDDLE_ACCESS_LOG", "yes").contains("on or off"));
    assert!(mistake("HEDDLE_PROBES", "[]").contains("injection"));
    assert!(mistake("HEDDLE_PROBES", r#"{"app/liveness": {"timeoutSeconds": 1}}"#).contains("app/liveness"));
    assert!(mistake("HEDDLE_PROBES", r#"{"app/liveness": {"http": {"port": 1, "headers": [["a b", ""]]}}}"#).contains("\"a b\""));
}

#[test]
fn two_listeners_on_one_address_are_told() {
    assert!(mistake("HEDDLE_OUTBOUND", "127.0.0.1:9001=a:80,127.0.0.1:9001=b:80").contains("127.0.0.1:9001"));
    let mut variables = required();
    variables.insert("HEDDLE_ADMIN", "127.0.0.1:9001");
    variables.insert("HEDDLE_OUTBOUND", "127.0.0.1:9001=a:80");
    assert!(read(&variables).unwrap_err().to_string().starts_with("HEDDLE_ADMIN"));
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_a_mistake_of_their_own() {
    use std::os::unix::ffi::OsStringExt;
    let bad = || OsString::from_vec(vec![0xff]);
    let lookup = |name: &str| if name == "HEDDLE_NAMESPACE" { Some(bad()) } else { required().get(name).map(Into::into) };
    let errors = Config::from_lookup(lookup, CORES).unwrap_err();
    assert_eq!(errors.sentences(), ["HEDDLE_NAMESPACE is not UTF-8: write it in plain text."]);
}
