//! One object of the API server → a change of the snapshot, or what is wrong with it.
//!
//! What nobody here asks about is left behind, above all `status` and `managedFields`: it would take most of the memory, and a change of
//! it would look like news.

use super::super::{Change, Problem, Severity};
use super::kinds::Kind;
use crate::snapshot::{ObjectKey, Pod};
use heddle_crds::manifest::{Flaw, read_json};
use heddle_crds::{Level, Object};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The annotation of a Service that matters (see `resolve::reach`).
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// What was made of an object.
#[derive(Debug)]
pub(super) struct Read {
    /// `None`: it cannot be used, and `problems` says why.
    pub(super) change: Option<Change>,
    /// What is wrong with it, or with a part of it.
    pub(super) problems: Vec<Problem>,
}

/// Whether an object says anything to a mesh. Routes of Gateways alone are another controller's, which may know more fields than we do:
/// we neither hold them nor find fault with them.
pub(super) fn is_ours(kind: &Kind, object: &DynamicObject) -> bool {
    let parents = object.data.get("spec").and_then(|spec| spec.get("parentRefs")).and_then(Value::as_array);
    let is_service = |parent: &Value| parent.get("kind").and_then(Value::as_str) == Some("Service");
    !kind.name.ends_with("Route") || parents.is_some_and(|parents| parents.iter().any(is_service))
}

/// Reads an object of a kind in one of its versions.
pub(super) fn read(kind: &Kind, version: &str, key: &ObjectKey, object: DynamicObject) -> Read {
    let DynamicObject { types: _, metadata, data } = object;
    if !kind.is_built_in() {
        return custom(kind, version, key, &metadata, data);
    }
    let labels = metadata.labels.clone();
    match kind.name {
        "Pod" => match decode::<core::Pod>(data) {
            Ok(pod) => Read { change: Some(Change::Pod(key.clone(), Pod::from(core::Pod { metadata, ..pod }))), problems: Vec::new() },
            Err(message) => refused(kind, key, "", &message),
        },
        "Service" => checked(kind, key, decode(data).map(|service| Object::Service(Box::new(lean_service(&metadata, service))))),
        "EndpointSlice" => checked(
            kind,
            key,
            decode(data).map(|slice| {
                let metadata = ObjectMeta { labels, ..name_of(&metadata) };
                Object::EndpointSlice(Box::new(lean_slice(metadata, slice)))
            }),
        ),
        _ => {
            let metadata = ObjectMeta { labels, ..name_of(&metadata) };
            checked(kind, key, Ok(Object::Namespace(Box::new(core::Namespace { metadata, ..Default::default() }))))
        }
    }
}

/// Of the kinds that an API server checks by itself a mistake is hardly possible; a decoder that disagrees with it is.
fn decode<T: DeserializeOwned>(data: Value) -> Result<T, String> {
    serde_json::from_value(data).map_err(|error| error.to_string())
}

fn checked(kind: &Kind, key: &ObjectKey, object: Result<Object, String>) -> Read {
    let object = match object {
        Ok(object) => object,
        Err(message) => return refused(kind, key, "", &message),
    };
    let mistakes = object.mistakes();
    if mistakes.is_empty() {
        return Read { change: Some(Change::Apply(object)), problems: Vec::new() };
    }
    let problems = mistakes.iter().map(|mistake| problem(Severity::Error, kind, key, &mistake.field_path, &mistake.message)).collect();
    Read { change: None, problems }
}

fn refused(kind: &Kind, key: &ObjectKey, field: &str, message: &str) -> Read {
    Read { change: None, problems: vec![problem(Severity::Error, kind, key, field, message)] }
}

/// The kinds of the Gateway API and our own go through the reader of manifests, so that a mistake is called the same everywhere.
fn custom(kind: &Kind, version: &str, key: &ObjectKey, metadata: &ObjectMeta, mut data: Value) -> Read {
    let object = json!({
        "apiVersion": format!("{}/{version}", kind.group),
        "kind": kind.name,
        "metadata": name_of(metadata),
        "spec": data.get_mut("spec").map(Value::take).unwrap_or_default(),
    });
    let read = read_json(&object);
    let level = |level| match level {
        Level::Error => Severity::Error,
        Level::Warning => Severity::Warning,
        Level::Note => Severity::Note,
    };
    let flaw = |Flaw { level: found, field_path, message }: &Flaw| problem(level(*found), kind, key, field_path, message);
    Read { change: read.object.map(Change::Apply), problems: read.flaws.iter().map(flaw).collect() }
}

/// What is kept of the metadata of every kind.
fn name_of(metadata: &ObjectMeta) -> ObjectMeta {
    let ObjectMeta { name, namespace, uid, generation, creation_timestamp, .. } = metadata.clone();
    ObjectMeta { name, namespace, uid, generation, creation_timestamp, ..ObjectMeta::default() }
}

fn lean_service(metadata: &ObjectMeta, service: core::Service) -> core::Service {
    let core::Service { metadata: _, spec, status } = service;
    let topology = metadata.annotations.as_ref().and_then(|all| all.get(TOPOLOGY_MODE)).cloned();
    let annotations = topology.map(|mode| BTreeMap::from([(TOPOLOGY_MODE.to_owned(), mode)]));
    let ingress = status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
    let address = |ingress: core::LoadBalancerIngress| core::LoadBalancerIngress {
        ip: ingress.ip,
        ip_mode: ingress.ip_mode,
        ..core::LoadBalancerIngress::default()
    };
    core::Service {
        metadata: ObjectMeta { annotations, ..name_of(metadata) },
        spec: spec.map(|spec| core::ServiceSpec {
            cluster_ip: spec.cluster_ip,
            cluster_ips: spec.cluster_ips,
            external_ips: spec.external_ips,
            internal_traffic_policy: spec.internal_traffic_policy,
            ip_families: spec.ip_families,
            ports: spec.ports,
            publish_not_ready_addresses: spec.publish_not_ready_addresses,
            selector: spec.selector,
            traffic_distribution: spec.traffic_distribution,
            type_: spec.type_,
            ..core::ServiceSpec::default()
        }),
        status: ingress.filter(|ingress| !ingress.is_empty()).map(|ingress| core::ServiceStatus {
            load_balancer: Some(core::LoadBalancerStatus { ingress: Some(ingress.into_iter().map(address).collect()) }),
            ..core::ServiceStatus::default()
        }),
    }
}

fn lean_slice(metadata: ObjectMeta, slice: discovery::EndpointSlice) -> discovery::EndpointSlice {
    let discovery::EndpointSlice { metadata: _, address_type, endpoints, ports } = slice;
    let endpoint = |endpoint: discovery::Endpoint| {
        let target = endpoint.target_ref.map(|target| core::ObjectReference {
            kind: target.kind,
            name: target.name,
            namespace: target.namespace,
            uid: target.uid,
            ..core::ObjectReference::default()
        });
        discovery::Endpoint {
            addresses: endpoint.addresses,
            conditions: endpoint.conditions,
            hints: endpoint.hints,
            node_name: endpoint.node_name,
            target_ref: target,
            zone: endpoint.zone,
            ..discovery::Endpoint::default()
        }
    };
    discovery::EndpointSlice { metadata, address_type, endpoints: endpoints.into_iter().map(endpoint).collect(), ports }
}

/// A problem with an object of a cluster.
pub(super) fn problem(level: Severity, kind: &Kind, key: &ObjectKey, field: &str, message: &str) -> Problem {
    let object = format!("{}/{key}", kind.name);
    let prefix = match level {
        Severity::Error => "",
        Severity::Warning => "warning: ",
        Severity::Note => "note: ",
    };
    let place = if field.is_empty() { String::new() } else { format!("{field}: ") };
    Problem {
        level,
        file: None,
        line: None,
        column: None,
        text: format!("{prefix}{object}: {place}{message}"),
        object: Some(object),
        field: (!field.is_empty()).then(|| field.to_owned()),
        message: message.to_owned(),
    }
}
