//! The status of an object as it is, and what is to be said about it → the status to write, or nothing: pure.
//!
//! Only our entries are touched: those of other controllers, and conditions of other types within ours, stay as they are
//! (`apis/v1/shared_types.go` of the Gateway API). A transition's time stays while the condition's status does.

use super::{AncestorStatus, CONTROLLER_NAME, Condition, ConditionStatus, ObjectStatus, ParentStatus};
use crate::serve::force::Count;
use heddle_crds::gateway::ParentReference;
use serde_json::{Map, Value, json};

/// The condition that says in how many sidecars the object is in force. It is our own, hence the domain before it.
pub const IN_FORCE: &str = "heddle.dev/InForce";

/// Most entries of `parents` (`apis/v1/shared_types.go`), and of `ancestors` (`policy_types.go`).
const MAX_PARENTS: usize = 32;
const MAX_ANCESTORS: usize = 16;

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// For a merge patch of `status`: lists are whole, and `null` removes.
    pub status: Value,
    /// What was refused and was not before: reason and message of `Accepted`.
    pub refused: Vec<(String, String)>,
}

/// Compares a status with what is to be said; `now` is a time of RFC 3339. `None`: nothing is to be written, because it says so already, or
/// because it speaks of a later generation.
#[must_use]
pub fn next(existing: &Value, wanted: &ObjectStatus, count: Option<Count>, now: &str) -> Option<Next> {
    if generation_of(existing) > generation(wanted) {
        return None;
    }
    let writer = Writer { count: count.unwrap_or_default(), now };
    let (status, is_policy) = match wanted.kind.as_str() {
        "MeshConfig" => {
            let conditions = writer.conditions(list(existing, "conditions"), &wanted.conditions);
            (Map::from_iter([("conditions".to_owned(), Value::Array(conditions))]), true)
        }
        "TrafficPolicy" | "AuthenticationPolicy" => {
            let entries =
                wanted.ancestors.iter().map(|AncestorStatus { ancestor_ref, controller_name: _, conditions }| (ancestor_ref, conditions));
            let entries = writer.entries(list(existing, "ancestors"), "ancestorRef", entries, MAX_ANCESTORS);
            (Map::from_iter([("ancestors".to_owned(), Value::Array(entries))]), true)
        }
        _ => {
            let entries = wanted.parents.iter().map(|ParentStatus { parent_ref, controller_name: _, conditions }| (parent_ref, conditions));
            let entries = writer.entries(list(existing, "parents"), "parentRef", entries, MAX_PARENTS);
            (Map::from_iter([("parents".to_owned(), Value::Array(entries))]), false)
        }
    };
    let mut status = status;
    if is_policy {
        writer.summary(existing, wanted, &mut status);
    }
    let same = status.iter().all(|(key, value)| existing.get(key).unwrap_or(&Value::Null) == value || is_nothing(existing.get(key), value));
    if same {
        return None;
    }
    let status = Value::Object(status);
    Some(Next { refused: refused(existing, &status), status })
}

/// An absent list and an empty one say the same.
fn is_nothing(existing: Option<&Value>, value: &Value) -> bool {
    existing.is_none() && value.as_array().is_some_and(Vec::is_empty)
}

struct Writer<'a> {
    count: Count,
    now: &'a str,
}

impl Writer<'_> {
    /// Foreign entries as they are, and then ours.
    fn entries<'w>(
        &self,
        existing: &[Value],
        reference: &str,
        wanted: impl Iterator<Item = (&'w ParentReference, &'w Vec<Condition>)>,
        most: usize,
    ) -> Vec<Value> {
        let (ours, mut entries): (Vec<&Value>, Vec<Value>) = {
            let (ours, foreign): (Vec<_>, Vec<_>) = existing.iter().partition(|entry| is_ours(entry));
            (ours, foreign.into_iter().cloned().collect())
        };
        for (wanted, conditions) in wanted {
            if entries.len() >= most {
                break;
            }
            let before = ours.iter().find(|entry| {
                let found = entry.get(reference).cloned().and_then(|found| serde_json::from_value::<ParentReference>(found).ok());
                found.as_ref() == Some(wanted)
            });
            // As it was written before where that means the same, so that defaults which the API server fills in are no difference.
            let named = before.and_then(|entry| entry.get(reference)).cloned().unwrap_or_else(|| json!(wanted));
            let conditions = self.conditions(before.map_or(&[], |entry| list(entry, "conditions")), conditions);
            entries.push(json!({reference: named, "controllerName": CONTROLLER_NAME, "conditions": conditions}));
        }
        entries
    }

    fn conditions(&self, existing: &[Value], wanted: &[Condition]) -> Vec<Value> {
        let ours = ["Accepted", "ResolvedRefs", "PartiallyInvalid", IN_FORCE];
        let is_ours = |condition: &Value| ours.iter().any(|name| condition["type"] == **name);
        let mut all: Vec<_> = existing.iter().filter(|condition| !is_ours(condition)).cloned().collect();
        let accepted = wanted.iter().find(|condition| condition.condition_type == "Accepted" && condition.status == ConditionStatus::True);
        for Condition { condition_type, status, reason, message, observed_generation } in wanted {
            let status = match status {
                ConditionStatus::True => "True",
                ConditionStatus::False => "False",
            };
            all.push(self.condition(existing, condition_type, (status, reason, message), *observed_generation));
        }
        if let Some(accepted) = accepted {
            let Count { sidecars, in_force } = self.count;
            let (status, reason, message) = match (sidecars, in_force) {
                (0, _) => ("Unknown", "NotInUse", "no sidecar uses it".to_owned()),
                (n, k) if k >= n => ("True", "InForce", format!("in force in {k} of {n} sidecars")),
                (n, k) => ("False", "Pending", format!("in force in {k} of {n} sidecars")),
            };
            all.push(self.condition(existing, IN_FORCE, (status, reason, &message), accepted.observed_generation));
        }
        all
    }

    fn condition(&self, existing: &[Value], name: &str, (status, reason, message): (&str, &str, &str), generation: Option<i64>) -> Value {
        let before = existing.iter().find(|condition| condition["type"] == *name && condition["status"] == *status);
        let since = before.and_then(|condition| condition["lastTransitionTime"].as_str()).unwrap_or(self.now);
        let mut condition = json!({"type": name, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
        if let (Some(generation), Some(condition)) = (generation, condition.as_object_mut()) {
            condition.insert("observedGeneration".to_owned(), generation.into());
        }
        condition
    }

    /// `inForce`, as `k/n`, and `inForceSince`: since all sidecars have this generation. A sidecar more or less does not begin it anew.
    fn summary(&self, existing: &Value, wanted: &ObjectStatus, status: &mut Map<String, Value>) {
        let Count { sidecars, in_force } = self.count;
        let is_accepted = wanted.conditions.iter().chain(wanted.ancestors.iter().flat_map(|ancestor| &ancestor.conditions));
        let is_accepted = is_accepted.clone().any(|c| c.condition_type == "Accepted" && c.status == ConditionStatus::True);
        let (text, since) = if is_accepted {
            let before = existing.get("inForceSince").filter(|since| since.is_string() && generation_of(existing) == generation(wanted));
            let since = match before {
                Some(since) => since.clone(),
                None if sidecars > 0 && in_force >= sidecars => json!(self.now),
                None => Value::Null,
            };
            (json!(format!("{in_force}/{sidecars}")), since)
        } else {
            (Value::Null, Value::Null)
        };
        status.insert("inForce".to_owned(), text);
        status.insert("inForceSince".to_owned(), since);
    }
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Our entries of a status, whatever its kind calls them; its conditions themselves where it has no entries.
fn our_conditions(status: &Value) -> impl Iterator<Item = &Value> {
    let entries = list(status, "parents").iter().chain(list(status, "ancestors")).filter(|entry| is_ours(entry));
    entries.flat_map(|entry| list(entry, "conditions")).chain(list(status, "conditions"))
}

/// The latest generation that our conditions speak of.
fn generation_of(status: &Value) -> Option<i64> {
    our_conditions(status).filter_map(|condition| condition["observedGeneration"].as_i64()).max()
}

/// The generation that is spoken of; nothing to say is later than anything.
fn generation(wanted: &ObjectStatus) -> Option<i64> {
    let parents = wanted.parents.iter().flat_map(|parent| &parent.conditions);
    let ancestors = wanted.ancestors.iter().flat_map(|ancestor| &ancestor.conditions);
    let mut conditions = parents.chain(ancestors).chain(&wanted.conditions).peekable();
    if conditions.peek().is_none() {
        return Some(i64::MAX);
    }
    conditions.filter_map(|condition| condition.observed_generation).max()
}

fn refused(existing: &Value, status: &Value) -> Vec<(String, String)> {
    let refused = |status: &Value| {
        let conditions = our_conditions(status).filter(|condition| condition["type"] == "Accepted" && condition["status"] == "False");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions.map(|condition| (text(&condition["reason"]), text(&condition["message"]))).collect::<Vec<_>>()
    };
    let before = refused(existing);
    let mut new = refused(status);
    new.retain(|refusal| !before.contains(refusal));
    new.dedup();
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";
    const BEFORE: &str = "2025-01-01T00:00:00Z";

    fn condition(name: &str, status: ConditionStatus, generation: i64) -> Condition {
        Condition {
            condition_type: name.to_owned(),
            status,
            reason: if status == ConditionStatus::True { name } else { "Conflicted" }.to_owned(),
            message: String::new(),
            observed_generation: Some(generation),
        }
    }

    fn parent(name: &str) -> ParentReference {
        ParentReference {
            group: String::new(),
            kind: "Service".to_owned(),
            namespace: None,
            name: name.to_owned(),
            section_name: None,
            port: None,
        }
    }

    fn said(kind: &str) -> ObjectStatus {
        ObjectStatus {
            kind: kind.to_owned(),
            namespace: "shop".to_owned(),
            name: "canary".to_owned(),
            parents: Vec::new(),
            ancestors: Vec::new(),
            conditions: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn route(status: ConditionStatus, generation: i64) -> ObjectStatus {
        let conditions = vec![condition("Accepted", status, generation)];
        let entry = ParentStatus { parent_ref: parent("web"), controller_name: CONTROLLER_NAME.to_owned(), conditions };
        ObjectStatus { parents: vec![entry], ..said("HTTPRoute") }
    }

    fn policy(generation: i64) -> ObjectStatus {
        let conditions = vec![condition("Accepted", ConditionStatus::True, generation)];
        let entry = AncestorStatus { ancestor_ref: parent("web"), controller_name: CONTROLLER_NAME.to_owned(), conditions };
        ObjectStatus { ancestors: vec![entry], ..said("TrafficPolicy") }
    }

    fn count(in_force: usize, sidecars: usize) -> Option<Count> {
        Some(Count { sidecars, in_force })
    }

    /// What an API server has after a merge patch.
    fn merged(existing: &Value, next: &Next) -> Value {
        let mut merged = existing.clone();
        let fields = merged.as_object_mut().unwrap();
        for (key, value) in next.status.as_object().unwrap() {
            if value.is_null() { drop(fields.remove(key)) } else { drop(fields.insert(key.clone(), value.clone())) }
        }
        merged
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        for wanted in [route(ConditionStatus::True, 2), route(ConditionStatus::False, 2), policy(2)] {
            let written = merged(&json!({}), &next(&json!({}), &wanted, count(2, 3), NOW).unwrap());
            assert_eq!(next(&written, &wanted, count(2, 3), "2027-01-01T00:00:00Z"), None, "{written}");
            assert!(next(&written, &wanted, count(3, 3), NOW).is_some() || wanted == route(ConditionStatus::False, 2));
        }
        assert_eq!(next(&json!({}), &said("HTTPRoute"), None, NOW), None);
    }

    #[test]
    fn entries_of_other_controllers_and_their_conditions_stay() {
        let foreign = json!({"parentRef": {"name": "gateway"}, "controllerName": "other.example/gateway", "conditions": [{"type": "Accepted", "status": "True"}]});
        let ours = json!({
            "parentRef": {"group": "", "kind": "Service", "name": "web"}, "controllerName": CONTROLLER_NAME,
            "conditions": [
                {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": BEFORE, "observedGeneration": 1},
                {"type": "example.com/Reviewed", "status": "True"},
            ],
        });
        let gone =
            json!({"parentRef": {"group": "", "kind": "Service", "name": "gone"}, "controllerName": CONTROLLER_NAME, "conditions": []});
        let existing = json!({"parents": [foreign, gone, ours]});
        let written = next(&existing, &route(ConditionStatus::True, 2), count(3, 3), NOW).unwrap();
        let parents = written.status["parents"].as_array().unwrap();
        assert_eq!(parents.len(), 2);
        assert_eq!(parents[0], foreign);
        let conditions = parents[1]["conditions"].as_array().unwrap();
        assert_eq!(conditions[0]["type"], "example.com/Reviewed");
        assert_eq!(conditions[1]["lastTransitionTime"], BEFORE, "the status did not change");
        assert_eq!(conditions[1]["observedGeneration"], 2);
        assert_eq!((&conditions[2]["type"], &conditions[2]["message"]), (&json!(IN_FORCE), &json!("in force in 3 of 3 sidecars")));
        assert_eq!(conditions[2]["lastTransitionTime"], NOW);
        // A route that is not ours to speak about any more.
        let left = next(&existing, &said("HTTPRoute"), None, NOW).unwrap();
        assert_eq!(left.status, json!({"parents": [foreign]}));
    }

    #[test]
    fn a_status_of_a_later_generation_is_left_alone() {
        let written = merged(&json!({}), &next(&json!({}), &route(ConditionStatus::True, 5), None, NOW).unwrap());
        assert_eq!(next(&written, &route(ConditionStatus::False, 4), None, NOW), None);
    }

    #[test]
    fn a_refusal_is_told_once_and_is_nowhere_in_force() {
        let refusal = next(&json!({}), &route(ConditionStatus::False, 1), count(1, 1), NOW).unwrap();
        assert_eq!(refusal.refused, [("Conflicted".to_owned(), String::new())]);
        assert!(!refusal.status.to_string().contains(IN_FORCE));
        let written = merged(&json!({}), &refusal);
        let again = next(&written, &route(ConditionStatus::False, 2), None, NOW).unwrap();
        assert_eq!(again.refused, []);
    }

    #[test]
    fn in_force_since_is_of_a_generation_and_outlasts_new_sidecars() {
        let step = |existing: &Value, generation, count, now| {
            next(existing, &policy(generation), count, now).map_or_else(|| existing.clone(), |next| merged(existing, &next))
        };
        let pending = step(&json!({}), 1, count(1, 3), BEFORE);
        assert_eq!((&pending["inForce"], pending.get("inForceSince")), (&json!("1/3"), None));
        let all = step(&pending, 1, count(3, 3), NOW);
        assert_eq!((&all["inForce"], &all["inForceSince"]), (&json!("3/3"), &json!(NOW)));
        let more = step(&all, 1, count(3, 4), "2027-01-01T00:00:00Z");
        assert_eq!((&more["inForce"], &more["inForceSince"]), (&json!("3/4"), &json!(NOW)));
        let edited = step(&more, 2, count(0, 4), "2027-01-01T00:00:00Z");
        assert_eq!((&edited["inForce"], edited.get("inForceSince")), (&json!("0/4"), None));
    }

    #[test]
    fn the_mesh_config_has_conditions_of_its_own() {
        let wanted = ObjectStatus { conditions: vec![condition("Accepted", ConditionStatus::True, 1)], ..said("MeshConfig") };
        let written = next(&json!({}), &wanted, count(0, 0), NOW).unwrap().status;
        assert_eq!(written["inForce"], "0/0");
        assert_eq!(written["conditions"][1]["status"], "Unknown");
    }
}
