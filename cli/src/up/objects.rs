//! The objects that Kubernetes would have made for a replica: its Pod, and its part of the EndpointSlices of the Services that select it.

use super::plan::Replica;
use heddle_crds::core::{IntOrString, Service, ServicePort};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where a replica stands, as its endpoints say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It does not answer: not to be used.
    NotReady,
    /// It answers.
    Ready,
    /// It is about to end: no new connections, and usable as a last resort.
    Terminating,
}

/// The file of one replica: all of its objects, so that one rename changes them together.
pub(crate) fn file_name(replica: &Replica) -> String {
    format!("{}.{}.yaml", replica.namespace, replica.pod)
}

/// The text of that file: YAML documents, each in the JSON form of YAML.
pub(crate) fn manifest(replica: &Replica, services: &[Service], condition: Condition) -> String {
    let mut objects = vec![pod(replica, condition)];
    objects.extend(services.iter().flat_map(|service| slices(replica, service, condition)));
    objects.iter().map(|object| format!("---\n{object:#}\n")).collect()
}

fn pod(replica: &Replica, condition: Condition) -> Value {
    let ready = if condition == Condition::Ready { "True" } else { "False" };
    let ports: Vec<_> =
        replica.ports.iter().map(|port| json!({"name": port.name, "containerPort": port.port, "protocol": "TCP"})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": replica.pod, "namespace": replica.namespace, "labels": replica.labels},
        "spec": {
            "serviceAccountName": replica.service_account,
            "initContainers": [{"name": "heddle-sidecar", "restartPolicy": "Always"}],
            "containers": [{"name": replica.workload, "ports": ports}],
        },
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

/// The EndpointSlices of one Service that have this replica: one for each address that its sidecar listens on, because the ports of a slice
/// are those of all its addresses.
fn slices(replica: &Replica, service: &Service, condition: Condition) -> Vec<Value> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    if !selects(replica, service) {
        return Vec::new();
    }
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut by_address: Vec<(IpAddr, Vec<Value>)> = Vec::new();
    for port in ports {
        let Some(listener) = listener(replica, port) else { continue };
        let entry = json!({
            "name": port.name.clone().unwrap_or_default(),
            "port": listener.port(),
            "protocol": "TCP",
            "appProtocol": port.app_protocol,
        });
        let address = reachable(listener.ip());
        match by_address.iter_mut().find(|(ip, _)| *ip == address) {
            Some((_, ports)) => ports.push(entry),
            None => by_address.push((address, vec![entry])),
        }
    }
    let slice = |(index, (address, ports)): (usize, (IpAddr, Vec<Value>))| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}-{index}", replica.pod),
                "namespace": replica.namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [address.to_string()],
                "conditions": {
                    "ready": condition == Condition::Ready,
                    "serving": condition != Condition::NotReady,
                    "terminating": condition == Condition::Terminating,
                },
                "targetRef": {"kind": "Pod", "namespace": replica.namespace, "name": replica.pod},
            }],
            "ports": ports,
        })
    };
    by_address.into_iter().enumerate().map(slice).collect()
}

/// Whether a Service selects a replica: same namespace, and every label of a selector that is not empty.
pub(crate) fn selects(replica: &Replica, service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    service.metadata.namespace.as_deref().unwrap_or("default") == replica.namespace
        && selector
            .is_some_and(|selector| !selector.is_empty() && selector.iter().all(|(label, value)| replica.labels.get(label) == Some(value)))
}

/// Where a replica's sidecar accepts what is meant for a port of a Service.
fn listener(replica: &Replica, port: &ServicePort) -> Option<SocketAddr> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let found = match &port.target_port {
        Some(IntOrString::String(name)) => replica.ports.iter().find(|p| p.name == *name),
        Some(IntOrString::Int(number)) => replica.ports.iter().find(|p| i32::from(p.port) == *number),
        None => replica.ports.iter().find(|p| i32::from(p.port) == port.port),
    };
    found.map(|port| port.listen)
}

/// The address by which others reach a listener: one that listens everywhere is reached on loopback.
pub(crate) fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::tests::replica;

    fn service(selector: Value, ports: Value) -> Service {
        let service = json!({"metadata": {"name": "reviews", "namespace": "default"}, "spec": {"selector": selector, "ports": ports}});
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn a_pod_says_who_it_is_and_that_it_is_meshed() {
        let pod = pod(&replica(), Condition::Ready);
        assert_eq!(pod["metadata"]["name"], "reviews-v1-0");
        assert_eq!(pod["metadata"]["labels"]["app"], "reviews");
        assert_eq!(pod["spec"]["serviceAccountName"], "reviews");
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "heddle-sidecar");
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["containerPort"], 8080);
        assert_eq!(pod["status"]["podIP"], "127.0.0.1");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn a_slice_points_at_the_sidecar_of_the_port() {
        let replica = replica();
        let by_number = json!([{"port": 80, "targetPort": 8080, "name": "http"}, {"port": 81, "targetPort": "admin"}, {"port": 7}]);
        let slices = slices(&replica, &service(json!({"app": "reviews"}), by_number), Condition::Ready);
        assert_eq!(slices.len(), 1);
        let slice = &slices[0];
        assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "reviews");
        assert_eq!(slice["ports"].as_array().unwrap().len(), 2);
        assert_eq!((&slice["ports"][0]["name"], &slice["ports"][0]["port"]), (&json!("http"), &json!(20001)));
        assert_eq!((&slice["ports"][1]["name"], &slice["ports"][1]["port"]), (&json!(""), &json!(20003)));
        assert_eq!(slice["endpoints"][0]["targetRef"]["name"], "reviews-v1-0");
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    }

    #[test]
    fn only_a_selector_that_matches_selects() {
        let ports = json!([{"port": 8080}]);
        for (selector, expected) in [
            (json!({"app": "reviews"}), 1),
            (json!({"app": "reviews", "version": "v1"}), 1),
            (json!({"app": "reviews", "version": "v2"}), 0),
            (json!({}), 0),
            (json!(null), 0),
        ] {
            let found = slices(&replica(), &service(selector.clone(), ports.clone()), Condition::Ready);
            assert_eq!(found.len(), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_ending_is_a_last_resort() {
        let ports = json!([{"port": 8080}]);
        let slices = slices(&replica(), &service(json!({"app": "reviews"}), ports), Condition::Terminating);
        let expected = json!({"ready": false, "serving": true, "terminating": true});
        assert_eq!(slices[0]["endpoints"][0]["conditions"], expected);
    }
}
