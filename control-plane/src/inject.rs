//! Injection: a pod as it was asked for → the same pod with its sidecar, or a refusal. Pure: the webhook and `heddle inject` call it.
//!
//! ```text
//! config       what an operator sets for all pods
//! annotation   what one pod may set for itself
//! quantity     amounts of CPU and memory
//! probe        kubelet's probes and hooks, by way of the sidecar
//! container    the two containers, the volumes, and the environment
//! merge        our containers over what others made of them; JSON Patch
//! workload     pods within Deployments, Jobs and the like
//! ```
//!
//! It is idempotent: what is injected already comes out as the configuration wants it, and twice is as once. Of the application's
//! own containers only probes and hooks are changed.

pub mod annotation;
pub mod config;
mod container;
pub mod merge;
mod probe;
pub mod quantity;
pub mod workload;

pub use config::{InjectionConfig, InjectionConfigError};
pub use workload::{Outcome, Workload, inject_object};

use annotation::Settings;
use serde_json::Value;

/// The label of pods and namespaces that says whether a sidecar is wanted.
pub const INJECT_LABEL: &str = "heddle.dev/inject";
/// The label of pods that have their sidecar; its value is `true`.
pub const INJECTED_LABEL: &str = "heddle.dev/injected";
/// The annotation of pods that says which version of the sidecar they have: the tag of its image.
pub const VERSION_ANNOTATION: &str = "heddle.dev/sidecar-version";
/// The init container that programs the redirection.
pub const REDIRECT_CONTAINER: &str = "heddle-redirect";
/// The init container that is the sidecar.
pub const SIDECAR_CONTAINER: &str = "heddle-sidecar";
/// The ConfigMap with the roots that a sidecar trusts at first, in every namespace with sidecars.
pub const TRUST_ROOTS: &str = "heddle-trust-roots";
/// The key in it.
pub const TRUST_ROOTS_KEY: &str = "root.pem";
/// The user and the group that sidecars run as: redirection leaves the traffic of this user alone.
pub const SIDECAR_UID: i64 = 15015;
/// Where redirected outbound connections arrive.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where redirected inbound connections arrive.
pub const INBOUND_PORT: u16 = 15006;
/// The sidecar's admin port, on loopback.
pub const ADMIN_PORT: u16 = 15020;
/// The sidecar's port for kubelet and Prometheus.
pub const HEALTH_PORT: u16 = 15021;

/// The volume of the token.
const TOKEN_VOLUME: &str = "heddle-token";
/// The volume of the roots.
const ROOTS_VOLUME: &str = "heddle-trust-roots";
/// The sidecars of other meshes: two redirections in one pod send traffic in circles.
const OTHER_SIDECARS: [(&str, &str); 5] = [
    ("istio-proxy", "Istio"),
    ("linkerd-proxy", "Linkerd"),
    ("consul-dataplane", "Consul"),
    ("kuma-sidecar", "Kuma"),
    ("osm-envoy", "Open Service Mesh"),
];

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It gets its sidecar.
    Injected {
        /// The pod with it.
        pod: Value,
        /// What its author should know, a sentence each.
        warnings: Vec<String>,
    },
    /// It stays as it is.
    Skipped(Skip),
    /// It cannot have a sidecar: every reason, a sentence each.
    Refused(Vec<String>),
}

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skip {
    /// Its label says `disabled`.
    Disabled,
    /// It is a mirror of a static pod: what the API server says of it changes nothing.
    Static,
    /// It runs on Windows, which has no nftables.
    Windows,
}

impl Skip {
    /// The reason in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Disabled => "its label heddle.dev/inject is \"disabled\"",
            Self::Static => "it is a static pod, which its kubelet runs from a file",
            Self::Windows => "it runs on Windows, where traffic cannot be redirected",
        }
    }
}

/// Gives a pod (or the template of one) its sidecar, unless it asks not to have one. Whether its namespace asks is the caller's to
/// know: who calls wants a sidecar.
pub fn inject(pod: &Value, config: &InjectionConfig) -> Decision {
    if !pod.pointer("/spec/containers").is_some_and(Value::is_array) {
        return Decision::Refused(vec!["spec.containers is missing or is no list: this is not a pod".to_owned()]);
    }
    match text(pod, &["metadata", "labels", INJECT_LABEL]) {
        Some("disabled") => return Decision::Skipped(Skip::Disabled),
        Some("enabled") | None => {}
        Some(other) => {
            let message = format!("label {INJECT_LABEL} is {other:?}: write \"enabled\" or \"disabled\"");
            return Decision::Refused(vec![message]);
        }
    }
    if let Some(skip) = skip(pod) {
        return Decision::Skipped(skip);
    }
    let mut refusals = conflicts(pod);
    let mut warnings = Vec::new();
    match Settings::of(pod, config, &mut warnings) {
        Ok(settings) if refusals.is_empty() => {
            let pod = container::add(pod, config, &settings, &mut warnings);
            Decision::Injected { pod, warnings }
        }
        Ok(_) => Decision::Refused(refusals),
        Err(mistakes) => {
            refusals.extend(mistakes);
            Decision::Refused(refusals)
        }
    }
}

fn skip(pod: &Value) -> Option<Skip> {
    if text(pod, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        return Some(Skip::Static);
    }
    let os = text(pod, &["spec", "os", "name"]).or_else(|| text(pod, &["spec", "nodeSelector", "kubernetes.io/os"]));
    (os == Some("windows")).then_some(Skip::Windows)
}

/// Why a pod cannot have a sidecar, whatever is configured.
fn conflicts(pod: &Value) -> Vec<String> {
    let mut refusals = Vec::new();
    if pod.pointer("/spec/hostNetwork").and_then(Value::as_bool) == Some(true) {
        refusals.push(format!(
            "spec.hostNetwork is true: its traffic is the node's own and cannot be redirected; set the label {INJECT_LABEL}: disabled on this pod"
        ));
    }
    let pod_uid = pod.pointer("/spec/securityContext/runAsUser").and_then(Value::as_i64);
    for (path, container) in containers(pod) {
        let name = text(container, &["name"]).unwrap_or_default();
        if is_ours(name) {
            if !path.starts_with("spec.initContainers") {
                refusals.push(format!("{path} is named {name:?}, which is the name of an init container that injection adds: rename it"));
            }
            continue;
        }
        if let Some((_, mesh)) = OTHER_SIDECARS.iter().find(|(other, _)| *other == name) {
            refusals.push(format!(
                "{path} is {name:?}, the sidecar of {mesh}: two meshes in one pod send its traffic in circles; turn off one injection for it"
            ));
        }
        let uid = container.pointer("/securityContext/runAsUser").and_then(Value::as_i64).or(pod_uid);
        if uid == Some(SIDECAR_UID) {
            refusals.push(format!(
                "{path} ({name}) runs as user {SIDECAR_UID}, which is the sidecar's: its traffic would pass by the mesh; choose another runAsUser"
            ));
        }
        for (index, port) in array(container, "ports").iter().enumerate() {
            let number = port.get("containerPort").and_then(Value::as_u64);
            let reserved = [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT, HEALTH_PORT];
            if let Some(number) = number.filter(|number| reserved.iter().any(|ours| u64::from(*ours) == *number)) {
                refusals.push(format!(
                    "{path}.ports[{index}] ({name}) is port {number}: {OUTBOUND_PORT}, {INBOUND_PORT}, {ADMIN_PORT} and {HEALTH_PORT} are the sidecar's; choose another port"
                ));
            }
        }
    }
    if !is_injected(pod) {
        for name in array(pod.get("spec").unwrap_or(&Value::Null), "volumes").iter().filter_map(|volume| text(volume, &["name"])) {
            if name == TOKEN_VOLUME || name == ROOTS_VOLUME {
                refusals.push(format!("a volume is named {name:?}, which is the name of one that injection adds: rename it"));
            }
        }
    }
    refusals
}

/// Whether a pod has the sidecar's container.
pub fn is_injected(pod: &Value) -> bool {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    array(spec, "initContainers").iter().any(|container| text(container, &["name"]) == Some(SIDECAR_CONTAINER))
}

fn is_ours(container: &str) -> bool {
    container == SIDECAR_CONTAINER || container == REDIRECT_CONTAINER
}

/// All containers with their paths, ours among them.
fn containers(pod: &Value) -> impl Iterator<Item = (String, &Value)> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    ["initContainers", "containers"].into_iter().flat_map(move |field| {
        array(spec, field).iter().enumerate().map(move |(index, container)| (format!("spec.{field}[{index}]"), container))
    })
}

/// The items of a list; none when it is absent.
fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The text at a path of fields.
fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, field| value.get(field))?.as_str()
}

#[cfg(test)]
mod tests;
