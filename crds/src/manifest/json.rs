//! One object as an API server hands it over: the same checks as for a file, without places.

use serde_json::Value as Json;

use super::{
    MAX_PROBLEMS,
    decode::Finding,
    identify,
    kinds::{self, Verdict},
    problem::Level,
    read_object,
    tree::Node,
    type_of,
};
use crate::object::{Object, ObjectId};

/// What [`read_json`] made of an object.
#[derive(Debug, Default)]
pub struct JsonObject {
    /// The object; none when a flaw is an error, or when a mesh has no use for its kind.
    pub object: Option<Object>,
    /// Its name, as far as it is known.
    pub id: Option<ObjectId>,
    /// Everything that is wrong with it.
    pub flaws: Vec<Flaw>,
}

/// One thing that is wrong in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// What it means for the object.
    pub level: Level,
    /// The field, from the object's root; empty when it is about the whole object.
    pub field_path: String,
    /// What is wrong, in a lower-case sentence without a full stop.
    pub message: String,
}

/// Reads one object (`apiVersion`, `kind`, `metadata` and so on): types, unknown fields, limits and the rules between fields, all mistakes
/// at once. Its status is left out, as that of a file is.
#[must_use]
pub fn read_json(json: &Json) -> JsonObject {
    let node = Node::from(json);
    let flaw = |level, field: &str, message| Flaw { level, field_path: field.to_owned(), message };
    let id = identify(&node);
    let refused = |id, flaw| JsonObject { object: None, id, flaws: vec![flaw] };
    let (api_version, kind) = match type_of(&node) {
        Ok(found) => found,
        Err((level, field, message)) => return refused(id, flaw(level, field, message)),
    };
    let info = match kinds::find(api_version, kind) {
        Verdict::Read(info) => info,
        Verdict::Ignore => return JsonObject { object: None, id, flaws: Vec::new() },
        Verdict::Note(message) => return refused(id, flaw(Level::Note, "", message)),
        Verdict::Refuse(message) => return refused(id, flaw(Level::Error, "apiVersion", message)),
    };
    let mut findings = Vec::new();
    let object = read_object(info, &node, &mut findings);
    let flaws = findings.into_iter().take(MAX_PROBLEMS);
    let flaws = flaws.map(|Finding { level, at: _, field_path, message }| Flaw { level, field_path, message }).collect();
    JsonObject { id: object.as_ref().map(Object::id).or(id), object, flaws }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn route(spec: &Json) -> JsonObject {
        read_json(&json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "reviews", "namespace": "shop", "generation": 3, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec, "status": {"parents": []},
        }))
    }

    fn lines(read: &JsonObject) -> Vec<String> {
        read.flaws.iter().map(|Flaw { level, field_path, message }| format!("{level:?} {field_path}: {message}")).collect()
    }

    #[test]
    fn an_object_of_a_cluster_is_read_as_one_of_a_file_is() {
        let read = route(&json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
            "rules": [{"backendRefs": [{"name": "reviews", "port": 80, "weight": 9}], "timeouts": {"request": "1s"}}],
        }));
        assert_eq!(lines(&read), [""; 0]);
        let Some(Object::HttpRoute(route)) = read.object else { panic!("no route") };
        assert_eq!((route.metadata.generation, route.spec.rules[0].backend_refs[0].weight, route.status), (Some(3), 9, None));
    }

    #[test]
    fn all_mistakes_are_found_at_once_with_their_fields() {
        let read = route(&json!({
            "parentRefs": [{"group": "", "kind": "Service", "name": "reviews"}],
            "rules": [
                {"backendRefs": [{"name": "reviews", "port": 80, "weight": "ninety"}]},
                {"backendRefs": [{"name": "reviews", "port": 0}], "timeouts": {"request": "soon"}, "future": true},
            ],
        }));
        assert!(read.object.is_none());
        assert_eq!(read.id.as_ref().map(ToString::to_string).as_deref(), Some("HTTPRoute/shop/reviews"));
        let lines = lines(&read).join("\n");
        for part in [
            "Error spec.rules[0].backendRefs[0].weight: expected an integer",
            "Error spec.rules[1].timeouts.request:",
            "Error spec.rules[1].backendRefs[0].port:",
        ] {
            assert!(lines.contains(part), "{part} is not in\n{lines}");
        }
    }

    #[test]
    fn what_is_none_of_ours_is_left_alone() {
        let read = read_json(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}));
        assert!(read.object.is_none() && read.flaws.is_empty());
        assert_eq!(lines(&read_json(&json!([]))).len(), 1);
        assert_eq!(lines(&read_json(&json!({"kind": "Pod", "metadata": {"name": "a"}}))), ["Error apiVersion: is required, but missing"]);
    }
}
