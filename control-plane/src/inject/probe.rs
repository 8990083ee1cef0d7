//! Probes and hooks: kubelet asks the sidecar, which asks the application as kubelet would have.
//!
//! Kubelet connects from the node, without a certificate: in strict mode a sidecar would refuse it, and a TCP probe would always
//! find the sidecar's own listener. So each probe becomes `httpGet` of `/probe/<container>/<kind>` on the sidecar's port, keeping its
//! times, and the sidecar learns the original in `HEDDLE_PROBES`. Left as they are: `exec`; what names a host, which is not this
//! pod; what asks a port that is not redirected; and hooks other than `httpGet`, since kubelet has no other that works.

use super::annotation::Settings;
use super::{HEALTH_PORT, SIDECAR_CONTAINER, array, is_ours, text};
use serde_json::{Map, Value, json};

/// Where a container's probes and hooks are, and what they are called in a path.
const KINDS: [(&[&str], &str); 5] = [
    (&["livenessProbe"], "liveness"),
    (&["readinessProbe"], "readiness"),
    (&["startupProbe"], "startup"),
    (&["lifecycle", "postStart"], "post-start"),
    (&["lifecycle", "preStop"], "pre-stop"),
];

/// Kubelet's time for a probe where it says nothing (`core/v1` Probe).
const TIMEOUT_SECONDS: u64 = 1;

/// Kubelet gives a hook after the start no time of its own. Ten minutes are more than a kubelet waits for anything else of a start.
const POST_START_SECONDS: u64 = 600;

/// A pod's grace period where it says nothing (`core/v1` PodSpec): the time of a hook before the end.
const GRACE_SECONDS: u64 = 30;

/// Changes the probes and hooks of the application's containers, and gives the originals: what `HEDDLE_PROBES` tells the sidecar.
pub(super) fn rewrite(pod: &mut Value, settings: &Settings, warnings: &mut Vec<String>) -> Map<String, Value> {
    let before = known(pod);
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(GRACE_SECONDS);
    let mut probes = Map::new();
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Some(name) = text(container, &["name"]).map(str::to_owned).filter(|name| !is_ours(name)) else { continue };
            let ports = container.get("ports").cloned().unwrap_or_default();
            for (path, kind) in KINDS {
                let Some(handler) = path.iter().try_fold(&mut *container, |value, field| value.get_mut(*field)) else { continue };
                let of = Of { container: &name, kind, ports: &ports, settings, grace };
                match of.rewrite(handler, &before) {
                    Ok(Some(original)) => {
                        probes.insert(format!("{name}/{kind}"), original);
                    }
                    Ok(None) => {}
                    Err(warning) => warnings.push(format!("container {name:?}: {} {warning}", path.join("."))),
                }
            }
        }
    }
    probes
}

/// What an earlier injection found.
fn known(pod: &Value) -> Map<String, Value> {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    let sidecar = array(spec, "initContainers").iter().find(|container| text(container, &["name"]) == Some(SIDECAR_CONTAINER));
    let variable =
        sidecar.and_then(|sidecar| array(sidecar, "env").iter().find(|variable| text(variable, &["name"]) == Some("HEDDLE_PROBES")));
    let probes =
        variable.and_then(|variable| text(variable, &["value"])).and_then(|value| serde_json::from_str(&value.replace("$$", "$")).ok());
    probes.unwrap_or_default()
}

/// What is asked of the application.
struct Question {
    /// The field of the probe that says so.
    field: &'static str,
    /// The same for the sidecar.
    check: Value,
}

/// One probe or hook.
struct Of<'a> {
    container: &'a str,
    kind: &'static str,
    ports: &'a Value,
    settings: &'a Settings,
    grace: u64,
}

impl Of<'_> {
    /// Changes the handler and gives the original; nothing when it stays as it is.
    fn rewrite(&self, handler: &mut Value, before: &Map<String, Value>) -> Result<Option<Value>, String> {
        let path = format!("/probe/{}/{}", self.container, self.kind);
        if text(handler, &["httpGet", "path"]) == Some(&path) && handler["httpGet"]["port"] == HEALTH_PORT {
            let key = format!("{}/{}", self.container, self.kind);
            let lost = || "asks the sidecar already, but nothing says what the sidecar should ask: write the application's own".to_owned();
            return before.get(&key).cloned().ok_or_else(lost).map(|original| Some(self.timed(original, handler)));
        }
        let Some(Question { field, check }) = self.question(handler)? else { return Ok(None) };
        let original = self.timed(check, handler);
        if let Some(handler) = handler.as_object_mut() {
            handler.remove(field);
            handler.insert("httpGet".to_owned(), json!({"path": path, "port": HEALTH_PORT, "scheme": "HTTP"}));
        }
        Ok(Some(original))
    }

    /// How the application is asked; nothing when kubelet goes on to ask it itself.
    fn question(&self, handler: &Value) -> Result<Option<Question>, String> {
        let is_hook = matches!(self.kind, "post-start" | "pre-stop");
        if let Some(http) = handler.get("httpGet").filter(|check| is_this_pod(check)) {
            let headers: Vec<_> = array(http, "httpHeaders").iter().map(|header| json!([header["name"], header["value"]])).collect();
            return Ok(self.port(http)?.map(|port| {
                let path = text(http, &["path"]).filter(|path| !path.is_empty()).unwrap_or("/");
                let scheme = text(http, &["scheme"]).filter(|scheme| !scheme.is_empty()).unwrap_or("HTTP");
                let check = json!({"http": {"port": port, "path": path, "scheme": scheme, "headers": headers}});
                Question { field: "httpGet", check }
            }));
        }
        if let Some(tcp) = handler.get("tcpSocket").filter(|check| !is_hook && is_this_pod(check)) {
            return Ok(self.port(tcp)?.map(|port| Question { field: "tcpSocket", check: json!({"tcp": {"port": port}}) }));
        }
        if let Some(grpc) = handler.get("grpc").filter(|_| !is_hook) {
            let service = text(grpc, &["service"]).unwrap_or_default();
            return Ok(self.port(grpc)?.map(|port| Question { field: "grpc", check: json!({"grpc": {"port": port, "service": service}}) }));
        }
        Ok(None)
    }

    /// The port's number; nothing when its traffic is not redirected.
    fn port(&self, check: &Value) -> Result<Option<u16>, String> {
        let number = match check.get("port") {
            Some(Value::String(name)) => {
                let named = self.ports.as_array().into_iter().flatten().find(|port| text(port, &["name"]) == Some(name));
                let missing = || format!("asks port {name:?}, which the container does not name: it fails, as it would without a sidecar");
                named.and_then(|port| port.get("containerPort")).ok_or_else(missing)?
            }
            Some(number) => number,
            None => &Value::Null,
        };
        let number = number.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
        let number = number.ok_or_else(|| "has no port from 1 to 65535: it fails, as it would without a sidecar".to_owned())?;
        Ok(Some(number).filter(|number| !self.settings.exclude_inbound_ports.contains(number)))
    }

    fn timed(&self, mut original: Value, handler: &Value) -> Value {
        let seconds = match self.kind {
            "post-start" => POST_START_SECONDS,
            "pre-stop" => self.grace.max(TIMEOUT_SECONDS),
            _ => handler.get("timeoutSeconds").and_then(Value::as_u64).filter(|seconds| *seconds > 0).unwrap_or(TIMEOUT_SECONDS),
        };
        original["timeoutSeconds"] = json!(seconds);
        original
    }
}

/// Whether a check goes to the pod itself: kubelet's default where no host is named.
fn is_this_pod(check: &Value) -> bool {
    text(check, &["host"]).is_none_or(str::is_empty)
}
