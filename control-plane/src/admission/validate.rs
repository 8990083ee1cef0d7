//! `/validate`: what is wrong with a route or a policy, by the same reader that the control plane itself reads it with.
//!
//! What is refused here would be refused later too, where only its status says so; this is earlier, and says it to the person who
//! is there. So the webhook's failure policy is `Ignore`: while no control plane answers, a mistake that slips through costs a
//! status condition, whereas `Fail` would stop every edit of every route, those of gateways too, when people need them most.
//!
//! Never in the way: of other controllers (routes without a Service as parent), of deletion, and of edits that leave the spec of a bad
//! object as it is (labels, finalizers).

use super::review::{AdmissionRequest, Answer, Operation};
use crate::snapshot::Snapshot;
use crate::status::{self, Condition, ConditionStatus};
use heddle_crds::manifest::{Flaw, read_json};
use heddle_crds::{Level, Object, gateway, heddle};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Reasons of conditions that are about the object alone (`shared_types.go`, `policy_types.go` of the Gateway API).
const OWN_FAULTS: [&str; 4] = ["UnsupportedValue", "IncompatibleFilters", "InvalidKind", "Invalid"];

/// What a name that the API server has still to generate is checked as: it appends five characters.
const GENERATED: &str = "00000";

/// Answers for one object.
pub fn review(request: AdmissionRequest) -> Answer {
    let Some(object) = checked(&request) else { return Answer::allowed(request.uid) };
    let read = read_json(&object);
    let (mut mistakes, mut warnings) = (Vec::new(), Vec::new());
    for Flaw { level, field_path, message } in read.flaws {
        let sentence = if field_path.is_empty() { message } else { format!("{field_path}: {message}") };
        match level {
            Level::Error => mistakes.push(sentence),
            Level::Warning | Level::Note => warnings.push(sentence),
        }
    }
    match mistakes.as_slice() {
        [] => {
            warnings.extend(read.object.into_iter().flat_map(ineffective));
            Answer::allowed(request.uid).warning(warnings)
        }
        [mistake] => {
            let message = format!("{} is not valid: {mistake}", request.subject());
            Answer::invalid(request.uid, message).warning(warnings)
        }
        several => {
            let message = format!("{} is not valid, in {} places:\n- {}", request.subject(), several.len(), several.join("\n- "));
            Answer::invalid(request.uid, message).warning(warnings)
        }
    }
}

/// The object, when it is ours to judge.
fn checked(request: &AdmissionRequest) -> Option<Value> {
    let AdmissionRequest { uid: _, kind, sub_resource, name: _, namespace, operation, object, old_object, dry_run: _ } = request;
    let ours = kind.group == heddle::GROUP || (kind.group == gateway::GROUP && kind.kind.ends_with("Route"));
    let written = matches!(operation, Operation::Create | Operation::Update);
    if !ours || !written || sub_resource.as_deref().is_some_and(|sub_resource| !sub_resource.is_empty()) {
        return None;
    }
    let mut object = object.clone()?;
    let spec = object.get("spec");
    let same = old_object.as_ref().is_some_and(|old| old.get("spec") == spec);
    let leaving = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if same || leaving || (kind.group == gateway::GROUP && !has_service_parent(spec)) {
        return None;
    }
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut)?;
    metadata.remove("managedFields");
    if let Some(namespace) = namespace.as_deref().filter(|namespace| !namespace.is_empty()) {
        metadata.entry("namespace").or_insert_with(|| json!(namespace));
    }
    if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty)
        && let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
    {
        let name = format!("{prefix}{GENERATED}");
        metadata.insert("name".to_owned(), json!(name));
    }
    Some(object)
}

/// Whether a route is about a Service, so that a mesh serves it (GEP-1426).
fn has_service_parent(spec: Option<&Value>) -> bool {
    let parents = spec.and_then(|spec| spec.get("parentRefs")).and_then(Value::as_array);
    parents.into_iter().flatten().any(|parent| parent.get("kind").and_then(Value::as_str) == Some("Service"))
}

/// What the status of the object would complain of, whatever else is in the cluster: the object is judged in one where each Service
/// that it names exists, as somebody may apply them next.
fn ineffective(object: Object) -> Vec<String> {
    let id = object.id();
    let namespace = id.namespace.clone().unwrap_or_default();
    let mut snapshot = Snapshot::default();
    if let Ok(json) = serde_json::to_value(&object) {
        for service in services_of(&json, &namespace) {
            snapshot.apply(service);
        }
    }
    snapshot.apply(object);
    let mut sentences = Vec::new();
    for status in status::statuses(&snapshot).iter().filter(|status| status.kind == id.kind && status.name == id.name) {
        let of_parents = status.parents.iter().flat_map(|parent| &parent.conditions);
        let of_ancestors = status.ancestors.iter().flat_map(|ancestor| &ancestor.conditions);
        for condition in of_parents.chain(of_ancestors).chain(&status.conditions).filter(|condition| is_its_own_fault(condition)) {
            let sentence = format!("{}: {}", condition.reason, condition.message);
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
    }
    sentences
}

/// Whether a condition is bad news that no other object could change.
fn is_its_own_fault(condition: &Condition) -> bool {
    let bad =
        condition.status == if condition.condition_type == "PartiallyInvalid" { ConditionStatus::True } else { ConditionStatus::False };
    bad && OWN_FAULTS.contains(&condition.reason.as_str())
}

/// Every Service that a reference names, with every port that is asked of it.
fn services_of(object: &Value, namespace: &str) -> Vec<Object> {
    let mut named: BTreeMap<(String, String), BTreeSet<i32>> = BTreeMap::new();
    gather(object.get("spec").unwrap_or(&Value::Null), namespace, &mut named);
    let service = |((namespace, name), ports): ((String, String), BTreeSet<i32>)| {
        let ports = if ports.is_empty() { BTreeSet::from([80]) } else { ports };
        let ports = ports.into_iter().map(|port| ServicePort { name: Some(format!("p{port}")), port, ..ServicePort::default() }).collect();
        Object::Service(Box::new(Service {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
            spec: Some(ServiceSpec { cluster_ip: Some("192.0.2.1".to_owned()), ports: Some(ports), ..ServiceSpec::default() }),
            status: None,
        }))
    };
    named.into_iter().map(service).collect()
}

/// Every object with a name may be a reference; Services of other names (headers have some) are in nobody's way. The depth is bounded
/// by that of the JSON, 128.
fn gather(value: &Value, namespace: &str, named: &mut BTreeMap<(String, String), BTreeSet<i32>>) {
    match value {
        Value::Object(fields) => {
            if let Some(name) = fields.get("name").and_then(Value::as_str) {
                let namespace = fields.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
                let ports = named.entry((namespace.to_owned(), name.to_owned())).or_default();
                ports.extend(fields.get("port").and_then(Value::as_i64).and_then(|port| i32::try_from(port).ok()));
            }
            fields.values().for_each(|value| gather(value, namespace, named));
        }
        Value::Array(items) => items.iter().for_each(|item| gather(item, namespace, named)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
