//! The objects that Kubernetes would have made for a pod with addresses of its own.

use super::{Service, Spec};
use crate::Condition;
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) fn service(name: &str, port: u16, target_port: u16, protocol: Option<&str>, ips: &[IpAddr]) -> Value {
    let mut entry = json!({"name": "main", "port": port, "targetPort": target_port});
    if let Some(protocol) = protocol {
        entry["appProtocol"] = json!(protocol);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [entry], "clusterIP": ips[0], "clusterIPs": ips},
    })
}

pub(super) fn pod(spec: &Spec, ips: &[IpAddr]) -> Value {
    let ports: Vec<_> = spec.ports.iter().map(|port| json!({"containerPort": port})).collect();
    let sidecar = if spec.meshed { json!([{"name": "heddle-sidecar", "restartPolicy": "Always"}]) } else { json!([]) };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": spec.name, "namespace": "default", "labels": spec.labels},
        "spec": {"serviceAccountName": spec.name, "initContainers": sidecar, "containers": [{"name": "app", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ips[0], "podIPs": ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>()},
    })
}

pub(super) fn slice(spec: &Spec, ip: IpAddr, service: &Service, condition: Condition) -> Value {
    let Service { name: service, target_port, protocol } = service;
    let mut entry = json!({"name": "main", "port": target_port, "protocol": "TCP"});
    if let Some(protocol) = protocol {
        entry["appProtocol"] = json!(protocol);
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-{}-{}", spec.name, family.to_lowercase()),
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "endpoints": [{
            "addresses": [ip],
            "conditions": {
                "ready": condition == Condition::Ready,
                "serving": matches!(condition, Condition::Ready | Condition::Terminating),
                "terminating": condition == Condition::Terminating,
            },
            "targetRef": {"kind": "Pod", "namespace": "default", "name": spec.name},
        }],
        "ports": [entry],
    })
}
