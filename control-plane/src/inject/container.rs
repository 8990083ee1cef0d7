//! What injection adds to a pod: two init containers, two volumes, a label and an annotation.
//!
//! The order of the init containers is the point: first the redirection, then the sidecar (native: `restartPolicy: Always`,
//! KEP-753), then the pod's own, so that those have the network too. Kubelet starts the next one when the sidecar's startup probe
//! has succeeded, and ends the sidecar after the application's containers.

use super::annotation::Settings;
use super::config::{Amounts, InjectionConfig, Resources};
use super::merge::overlay;
use super::{
    HEALTH_PORT, INBOUND_PORT, INJECTED_LABEL, OUTBOUND_PORT, REDIRECT_CONTAINER, ROOTS_VOLUME, SIDECAR_CONTAINER, SIDECAR_UID,
    TOKEN_VOLUME, TRUST_ROOTS, TRUST_ROOTS_KEY, VERSION_ANNOTATION, array, containers, is_ours, probe, text,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The audience of the token, which nobody but our control plane accepts.
const TOKEN_AUDIENCE: &str = "heddle";
/// How long a token is valid: kubelet renews it at 80 % of this.
const TOKEN_SECONDS: u64 = 3600;
/// Where the token is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/heddle/token";
/// Where the roots are mounted.
const ROOTS_PATH: &str = "/var/run/secrets/heddle/roots";

/// What a start may take, in seconds, before kubelet starts the sidecar again: a certificate and the own policies take about a
/// second, and a control plane that is rescheduled to another node answers within two minutes.
const START_SECONDS: u64 = 120;

/// As many declared ports as the sidecar takes.
const MAX_PORTS: usize = 128;

/// Variables that injection sets, so that configuration cannot.
pub(super) const SET_HERE: [&str; 21] = [
    "HEDDLE_NAMESPACE",
    "HEDDLE_WORKLOAD",
    "HEDDLE_SERVICE_ACCOUNT",
    "HEDDLE_TRUST_DOMAIN",
    "HEDDLE_CONTROL_PLANE",
    "HEDDLE_TOKEN_FILE",
    "HEDDLE_TRUST_ROOTS_FILE",
    "HEDDLE_INBOUND_INTERCEPT",
    "HEDDLE_OUTBOUND_INTERCEPT",
    "HEDDLE_ADMIN",
    "HEDDLE_HEALTH",
    "HEDDLE_POD_IPS",
    "HEDDLE_DRAIN_SECONDS",
    "HEDDLE_LOG",
    "HEDDLE_LOG_FORMAT",
    "HEDDLE_PROBES",
    "HEDDLE_INBOUND_PORTS",
    "HEDDLE_TRACE_SAMPLING",
    "HEDDLE_ACCESS_LOG",
    "HEDDLE_INBOUND",
    "HEDDLE_OUTBOUND",
];

/// Gives a pod its sidecar.
pub(super) fn add(pod: &Value, config: &InjectionConfig, settings: &Settings, warnings: &mut Vec<String>) -> Value {
    let mut pod = pod.clone();
    let probes = probe::rewrite(&mut pod, settings, warnings);
    let ports = inbound_ports(&pod, settings);
    object(&mut pod, "metadata", |metadata| {
        object(metadata, "labels", |labels| labels[INJECTED_LABEL] = json!("true"));
        object(metadata, "annotations", |annotations| annotations[VERSION_ANNOTATION] = json!(version(&settings.image)));
    });
    object(&mut pod, "spec", |spec| {
        let own = own_init_containers(spec, [redirect(config, settings), sidecar(config, settings, &probes, &ports)]);
        spec["initContainers"] = Value::Array(own);
        let ours = volumes();
        let others = array(spec, "volumes").iter().filter(|volume| !ours.iter().any(|own| own["name"] == volume["name"]));
        spec["volumes"] = ours.iter().chain(others).cloned().collect();
        let has = |spec: &Value, secret: &str| array(spec, "imagePullSecrets").iter().any(|has| text(has, &["name"]) == Some(secret));
        let missing: Vec<_> =
            config.image_pull_secrets.iter().filter(|secret| !has(spec, secret)).map(|name| json!({ "name": name })).collect();
        if !missing.is_empty() {
            spec["imagePullSecrets"] = missing.into_iter().chain(array(spec, "imagePullSecrets").iter().cloned()).collect();
        }
    });
    pod
}

/// The TCP ports that the application's containers declare, as far as they are redirected: the sidecar fetches their policies before
/// it is ready. Of more than [`MAX_PORTS`] the rest is asked for at the first use.
fn inbound_ports(pod: &Value, settings: &Settings) -> BTreeSet<u16> {
    let applications = containers(pod).filter(|(_, container)| !text(container, &["name"]).is_some_and(is_ours));
    let ports = applications.flat_map(|(_, container)| array(container, "ports"));
    ports
        .filter(|port| text(port, &["protocol"]).unwrap_or("TCP") == "TCP")
        .filter_map(|port| port.get("containerPort").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()))
        .filter(|port| *port != 0 && !settings.exclude_inbound_ports.contains(port))
        .take(MAX_PORTS)
        .collect()
}

/// Changes an object within an object; makes it where it is absent, or null.
fn object(parent: &mut Value, field: &str, change: impl FnOnce(&mut Value)) {
    let value = &mut parent[field];
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    change(value);
}

/// Ours first, over what is there of them already; then the pod's own.
fn own_init_containers(spec: &Value, ours: [Value; 2]) -> Vec<Value> {
    let there = array(spec, "initContainers");
    let found = |name: &Value| there.iter().find(|container| container["name"] == *name).cloned();
    let merged = ours.into_iter().map(|container| match found(&container["name"]) {
        Some(mut theirs) => {
            forget_variables(&mut theirs);
            overlay(theirs, container)
        }
        None => container,
    });
    merged.chain(there.iter().filter(|container| !text(container, &["name"]).is_some_and(is_ours)).cloned()).collect()
}

/// Takes our variables from a container, so that what was set once does not stay for ever.
fn forget_variables(container: &mut Value) {
    if let Some(env) = container.get_mut("env").and_then(Value::as_array_mut) {
        env.retain(|variable| !text(variable, &["name"]).is_some_and(|name| name.starts_with("HEDDLE_")));
    }
}

/// The version of an image: its tag, or its digest.
fn version(image: &str) -> &str {
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.split_once('@').map(|(_, digest)| digest).or_else(|| name.split_once(':').map(|(_, tag)| tag)).unwrap_or("latest")
}

fn redirect(config: &InjectionConfig, settings: &Settings) -> Value {
    let mut env = Env::default();
    env.set("HEDDLE_SIDECAR_UID", &SIDECAR_UID.to_string());
    env.set("HEDDLE_INBOUND_PORT", &INBOUND_PORT.to_string());
    env.set("HEDDLE_OUTBOUND_PORT", &OUTBOUND_PORT.to_string());
    let lists = [
        ("HEDDLE_EXCLUDE_INBOUND_PORTS", joined(&settings.exclude_inbound_ports)),
        ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", joined(&settings.exclude_outbound_ports)),
        ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", joined(&settings.exclude_outbound_cidrs)),
    ];
    for (name, value) in lists.iter().filter(|(_, value)| !value.is_empty()) {
        env.set(name, value);
    }
    json!({
        "name": REDIRECT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "args": ["redirect"],
        "env": env.0,
        "resources": resources(&settings.resources),
        // Root, because a capability of another user would be lost at exec; and of root's capabilities one.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

fn sidecar(config: &InjectionConfig, settings: &Settings, probes: &Map<String, Value>, ports: &BTreeSet<u16>) -> Value {
    json!({
        "name": SIDECAR_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": config.image_pull_policy.as_str(),
        "restartPolicy": "Always",
        "env": sidecar_env(config, settings, probes, ports).0,
        "ports": [{"name": "heddle-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        "startupProbe": health("/ready", 1, START_SECONDS),
        // A minute without an answer is a sidecar that hangs. No readiness probe: it would gate the pod's, and a sidecar that
        // has started goes on with what it knows.
        "livenessProbe": health("/live", 10, 6),
        "resources": resources(&settings.resources),
        "securityContext": {
            "runAsUser": SIDECAR_UID,
            "runAsGroup": SIDECAR_UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_PATH, "readOnly": true},
            {"name": ROOTS_VOLUME, "mountPath": ROOTS_PATH, "readOnly": true},
        ],
    })
}

fn sidecar_env(config: &InjectionConfig, settings: &Settings, probes: &Map<String, Value>, ports: &BTreeSet<u16>) -> Env {
    // The sidecar takes this for all addresses of both families, as far as the node has them.
    let any = "0.0.0.0";
    let mut env = Env::default();
    env.field("HEDDLE_NAMESPACE", "metadata.namespace");
    env.field("HEDDLE_WORKLOAD", "metadata.name");
    env.field("HEDDLE_SERVICE_ACCOUNT", "spec.serviceAccountName");
    env.field("HEDDLE_POD_IPS", "status.podIPs");
    env.set("HEDDLE_TRUST_DOMAIN", &config.trust_domain);
    env.set("HEDDLE_CONTROL_PLANE", &config.control_plane);
    env.set("HEDDLE_TOKEN_FILE", &format!("{TOKEN_PATH}/token"));
    env.set("HEDDLE_TRUST_ROOTS_FILE", &format!("{ROOTS_PATH}/{TRUST_ROOTS_KEY}"));
    env.set("HEDDLE_INBOUND_INTERCEPT", &format!("{any}:{INBOUND_PORT}"));
    env.set("HEDDLE_OUTBOUND_INTERCEPT", &format!("{any}:{OUTBOUND_PORT}"));
    env.set("HEDDLE_ADMIN", &format!("127.0.0.1:{}", super::ADMIN_PORT));
    env.set("HEDDLE_HEALTH", &format!("{any}:{HEALTH_PORT}"));
    env.set("HEDDLE_DRAIN_SECONDS", &settings.drain_seconds.to_string());
    env.set("HEDDLE_LOG", &settings.log_level);
    env.set("HEDDLE_LOG_FORMAT", config.log_format.as_str());
    if !ports.is_empty() {
        env.set("HEDDLE_INBOUND_PORTS", &joined(ports));
    }
    if let Some(percent) = &settings.trace_sampling {
        env.set("HEDDLE_TRACE_SAMPLING", percent);
    }
    if let Some(access_log) = settings.access_log {
        env.set("HEDDLE_ACCESS_LOG", access_log);
    }
    if !probes.is_empty() {
        // Kubelet expands $(NAME) in values; $$ stands for one $.
        env.set("HEDDLE_PROBES", &Value::Object(probes.clone()).to_string().replace('$', "$$"));
    }
    for (name, value) in &config.env {
        env.set(name, value);
    }
    env
}

fn volumes() -> [Value; 2] {
    let token = json!({"serviceAccountToken": {"path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS}});
    [
        // 420 is 0644: kubelet narrows it to the pod's fsGroup, which the sidecar has too.
        json!({"name": TOKEN_VOLUME, "projected": {"defaultMode": 420, "sources": [token]}}),
        json!({"name": ROOTS_VOLUME, "configMap": {"name": TRUST_ROOTS, "defaultMode": 420}}),
    ]
}

fn health(path: &str, period_seconds: u64, failures: u64) -> Value {
    json!({
        "httpGet": {"path": path, "port": HEALTH_PORT, "scheme": "HTTP"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": if period_seconds > 5 { 5 } else { period_seconds },
        "failureThreshold": failures,
    })
}

fn resources(resources: &Resources) -> Value {
    let Resources { requests, limits } = resources;
    let mut all = Map::new();
    for (field, Amounts { cpu, memory }) in [("requests", requests), ("limits", limits)] {
        let amounts: Map<_, _> = [("cpu", cpu), ("memory", memory)]
            .into_iter()
            .filter_map(|(of, amount)| Some((of.to_owned(), json!(amount.as_ref()?))))
            .collect();
        if !amounts.is_empty() {
            all.insert(field.to_owned(), Value::Object(amounts));
        }
    }
    Value::Object(all)
}

fn joined<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}

/// Variables of a container.
#[derive(Default)]
struct Env(Vec<Value>);

impl Env {
    fn set(&mut self, name: &str, value: &str) {
        self.0.push(json!({"name": name, "value": value}));
    }

    fn field(&mut self, name: &str, path: &str) {
        self.0.push(json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_tag_or_the_digest() {
        for (image, expected) in [
            ("heddle-sidecar:0.1.0", "0.1.0"),
            ("registry:5000/heddle-sidecar", "latest"),
            ("registry:5000/a/heddle-sidecar:2", "2"),
            ("heddle-sidecar@sha256:abc", "sha256:abc"),
            ("heddle-sidecar:1@sha256:abc", "sha256:abc"),
        ] {
            assert_eq!(version(image), expected, "{image}");
        }
    }
}
