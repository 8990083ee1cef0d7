//! The objects that Kubernetes would have made for a workload: its Pod, and its part of the EndpointSlices of the Services that select it.

use crate::mesh::{Service, Workload};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Where a workload stands, as its endpoints say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Condition {
    /// It answers.
    #[default]
    Ready,
    /// It does not answer.
    NotReady,
    /// It is about to end: no new connections, and usable as a last resort.
    Terminating,
    /// It is gone: no endpoint, and no Pod.
    Gone,
}

/// A Service as YAML (its JSON form).
pub(crate) fn service(service: &Service) -> Value {
    let mut port = json!({"name": service.port_name, "port": service.port, "targetPort": service.target_port});
    if let Some(protocol) = &service.protocol {
        port["appProtocol"] = json!(protocol);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace},
        "spec": {"selector": service.selector, "ports": [port]},
    })
}

/// All objects of one workload. `listeners`: where the sidecar accepts what is meant for a port of the application, by that port.
pub(crate) fn workload(workload: &Workload, listeners: &[(u16, SocketAddr)], services: &[Service], condition: Condition) -> String {
    if condition == Condition::Gone {
        return String::new();
    }
    let mut objects = vec![pod(workload, condition)];
    let selecting = services.iter().filter(|service| selects(service, workload));
    objects.extend(selecting.filter_map(|service| slice(workload, listeners, service, condition)));
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

fn selects(service: &Service, workload: &Workload) -> bool {
    service.namespace == workload.namespace && service.selector.iter().all(|(label, value)| workload.labels.get(label) == Some(value))
}

fn pod(workload: &Workload, condition: Condition) -> Value {
    let ready = if condition == Condition::Ready { "True" } else { "False" };
    let ports: Vec<_> = workload.ports.iter().map(|(port, _)| json!({"containerPort": port, "protocol": "TCP"})).collect();
    let sidecar = if workload.meshed { json!([{"name": "heddle-sidecar", "restartPolicy": "Always"}]) } else { json!([]) };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": workload.name, "namespace": workload.namespace, "labels": workload.labels},
        "spec": {
            "serviceAccountName": workload.service_account,
            "initContainers": sidecar,
            "containers": [{"name": "app", "ports": ports}],
        },
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

fn slice(workload: &Workload, listeners: &[(u16, SocketAddr)], service: &Service, condition: Condition) -> Option<Value> {
    let (_, listener) = listeners.iter().find(|(port, _)| *port == service.target_port)?;
    let mut port = json!({"name": service.port_name, "port": listener.port(), "protocol": "TCP"});
    if let Some(protocol) = &service.protocol {
        port["appProtocol"] = json!(protocol);
    }
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", service.name, workload.name),
            "namespace": workload.namespace,
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [listener.ip().to_string()],
            "conditions": {
                "ready": condition == Condition::Ready,
                "serving": matches!(condition, Condition::Ready | Condition::Terminating),
                "terminating": condition == Condition::Terminating,
            },
            "targetRef": {"kind": "Pod", "namespace": workload.namespace, "name": workload.name},
        }],
        "ports": [port],
    }))
}
