//! What the control plane says at `/status`, and the sentences about it that people should see.

use heddle_control_plane::status::{Condition, ConditionStatus, ObjectStatus};
use serde_json::Value;

/// The parts of `/status` that are shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Status {
    /// The whole answer, for the report.
    pub(crate) raw: Value,
    /// What is said about objects.
    objects: Vec<ObjectStatus>,
}

/// Conditions that say that something is wrong when they hold; all others say so when they do not.
const WRONG_WHEN_TRUE: [&str; 3] = ["PartiallyInvalid", "Conflicted", "Overridden"];

impl Status {
    /// Takes the answer apart. What this version does not understand is left out of the sentences, not of the report.
    pub(crate) fn new(raw: Value) -> Self {
        let objects = raw.get("objects").and_then(Value::as_array);
        let objects = objects.into_iter().flatten().filter_map(|object| serde_json::from_value(object.clone()).ok()).collect();
        Self { objects, raw }
    }

    /// What the control plane could not read, a line each; it reads what `up` reads, and the objects that `up` wrote.
    fn problems(&self) -> Vec<String> {
        let problems = self.raw.get("problems").and_then(Value::as_array).into_iter().flatten();
        let serious = problems.filter(|problem| problem.get("level").and_then(Value::as_str) != Some("note"));
        serious.filter_map(|problem| problem.get("text").and_then(Value::as_str).map(str::to_owned)).collect()
    }

    /// All that is wrong: what could not be read, and what is wrong with what could.
    pub(crate) fn all(&self) -> Vec<String> {
        let mut all = self.problems();
        all.extend(self.sentences());
        all
    }

    /// A list of `/status` as it is; empty when there is none.
    pub(crate) fn list(&self, name: &str) -> Value {
        self.raw.get(name).filter(|value| value.is_array()).cloned().unwrap_or_else(|| Value::Array(Vec::new()))
    }

    /// What is wrong with objects that were read well, a sentence each.
    fn sentences(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for object in &self.objects {
            let ObjectStatus { kind, namespace, name, parents, ancestors, conditions, notes } = object;
            let id = if namespace.is_empty() { format!("{kind}/{name}") } else { format!("{kind}/{namespace}/{name}") };
            let of_parents = parents.iter().map(|parent| (Some(&parent.parent_ref.name), &parent.conditions));
            let of_ancestors = ancestors.iter().map(|ancestor| (Some(&ancestor.ancestor_ref.name), &ancestor.conditions));
            for (target, conditions) in of_parents.chain(of_ancestors).chain([(None, conditions)]) {
                for condition in conditions.iter().filter(|condition| is_wrong(condition)) {
                    let Condition { condition_type, status: _, reason, message, observed_generation: _ } = condition;
                    let target = target.map(|target| format!(" (for {target})")).unwrap_or_default();
                    let is = if WRONG_WHEN_TRUE.contains(&condition_type.as_str()) { "True" } else { "False" };
                    let message = if message.is_empty() { String::new() } else { format!(": {message}") };
                    sentences.push(format!("{id}{target}: {condition_type} is {is}: {reason}{message}"));
                }
            }
            sentences.extend(notes.iter().map(|note| format!("{id}: {note}")));
        }
        // The same is often said for every parent.
        sentences.dedup();
        sentences
    }
}

fn is_wrong(condition: &Condition) -> bool {
    let wrong_when =
        if WRONG_WHEN_TRUE.contains(&condition.condition_type.as_str()) { ConditionStatus::True } else { ConditionStatus::False };
    condition.status == wrong_when
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_wrong_makes_a_sentence() {
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message});
        let status = Status::new(json!({
            "revision": 7,
            "problems": [{"level": "error", "message": "b", "text": "a.yaml:1:2: b"}, {"level": "note", "message": "d", "text": "c: d"}],
            "objects": [
                {"kind": "HTTPRoute", "namespace": "default", "name": "reviews", "parents": [{
                    "parentRef": {"group": "", "kind": "Service", "name": "reviews"},
                    "controllerName": "heddle.dev/mesh",
                    "conditions": [
                        condition("Accepted", "True", "Accepted", ""),
                        condition("ResolvedRefs", "False", "BackendNotFound", "Service default/reviews-v3 does not exist"),
                        condition("PartiallyInvalid", "True", "UnsupportedValue", ""),
                    ],
                }]},
                {"kind": "MeshConfig", "namespace": "", "name": "default", "conditions": [condition("Accepted", "True", "Accepted", "")]},
                {"kind": "HTTPRoute", "namespace": "default", "name": "lost", "notes": ["parent Service default/x does not exist"]},
                {"something": "newer"},
            ],
        }));
        assert_eq!(
            status.sentences(),
            [
                "HTTPRoute/default/reviews (for reviews): ResolvedRefs is False: BackendNotFound: Service default/reviews-v3 does not exist",
                "HTTPRoute/default/reviews (for reviews): PartiallyInvalid is True: UnsupportedValue",
                "HTTPRoute/default/lost: parent Service default/x does not exist",
            ]
        );
        assert_eq!(status.problems(), ["a.yaml:1:2: b"]);
        assert_eq!(status.list("sidecars"), json!([]));
    }
}
