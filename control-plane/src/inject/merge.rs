//! Ours over theirs, and the JSON Patch between two values (RFC 6902).
//!
//! After our webhook others may run, and the API server fills in defaults; then it calls ours again. What they added to our
//! containers stays: limits of a LimitRange, the mount of a ServiceAccount. What we set is ours again.

use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation, jsonptr::PointerBuf};
use serde_json::Value;

/// The fields by which items of a container's lists are the same (`patchMergeKey` of `core/v1`).
const KEYS: [&str; 3] = ["name", "mountPath", "containerPort"];

/// Puts `ours` over `theirs`: fields of objects one by one, items of lists by their key, everything else as it is in `ours`.
pub(super) fn overlay(theirs: Value, ours: Value) -> Value {
    match (theirs, ours) {
        (Value::Object(mut merged), Value::Object(ours)) => {
            for (field, value) in ours {
                let merged_value = match merged.remove(&field) {
                    Some(theirs) => overlay(theirs, value),
                    None => value,
                };
                merged.insert(field, merged_value);
            }
            Value::Object(merged)
        }
        (Value::Array(theirs), Value::Array(ours)) if ours.iter().all(|item| key(item).is_some()) => {
            Value::Array(overlay_lists(theirs, ours))
        }
        (_, ours) => ours,
    }
}

fn overlay_lists(mut theirs: Vec<Value>, ours: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::with_capacity(ours.len() + theirs.len());
    for item in ours {
        let same = theirs.iter().position(|other| key(other) == key(&item));
        merged.push(match same {
            // A variable is one value: a value of theirs beside a reference of ours would be refused.
            Some(index) if item.get("value").is_some() || item.get("valueFrom").is_some() => {
                theirs.remove(index);
                item
            }
            Some(index) => overlay(theirs.remove(index), item),
            None => item,
        });
    }
    merged.extend(theirs);
    merged
}

fn key(item: &Value) -> Option<(&'static str, &Value)> {
    KEYS.iter().find_map(|field| Some((*field, item.get(field)?)))
}

/// The patch that makes `new` of `old`: within objects and lists of the same length field by field, lists of another length as
/// a whole.
pub fn diff(old: &Value, new: &Value) -> Patch {
    let mut operations = Vec::new();
    add_diff(old, new, &mut PointerBuf::new(), &mut operations);
    Patch(operations)
}

fn add_diff(old: &Value, new: &Value, path: &mut PointerBuf, operations: &mut Vec<PatchOperation>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for field in before.keys().filter(|field| !after.contains_key(*field)) {
                operations.push(PatchOperation::Remove(RemoveOperation { path: path.with_trailing_token(field) }));
            }
            for (field, value) in after {
                path.push_back(field);
                match before.get(field) {
                    Some(old) => add_diff(old, value, path, operations),
                    None => operations.push(PatchOperation::Add(AddOperation { path: path.clone(), value: value.clone() })),
                }
                path.pop_back();
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (old, new)) in before.iter().zip(after).enumerate() {
                path.push_back(index);
                add_diff(old, new, path, operations);
                path.pop_back();
            }
        }
        (old, new) if old == new => {}
        (_, new) => operations.push(PatchOperation::Replace(ReplaceOperation { path: path.clone(), value: new.clone() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3_u8).prop_map(Value::from),
            "[a~/]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab~/]{1,2}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_new_value_of_the_old(old in value(), new in value()) {
            let mut patched = old.clone();
            json_patch::patch(&mut patched, &diff(&old, &new)).unwrap();
            prop_assert_eq!(patched, new);
        }

        #[test]
        fn twice_over_is_as_once(theirs in value(), ours in value()) {
            let once = overlay(theirs, ours.clone());
            prop_assert_eq!(overlay(once.clone(), ours), once);
        }
    }

    #[test]
    fn what_others_added_stays_and_what_is_ours_is_ours_again() {
        let theirs = json!({
            "name": "a", "image": "old", "terminationMessagePath": "/dev/termination-log",
            "resources": {"limits": {"cpu": "1"}},
            "env": [{"name": "A", "value": "theirs"}, {"name": "B", "value": "b"}],
            "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run"}],
        });
        let ours = json!({
            "name": "a", "image": "new", "resources": {"requests": {"cpu": "10m"}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "volumeMounts": [{"name": "token", "mountPath": "/token"}],
        });
        assert_eq!(
            overlay(theirs, ours),
            json!({
                "name": "a", "image": "new", "terminationMessagePath": "/dev/termination-log",
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "10m"}},
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "B", "value": "b"}],
                "volumeMounts": [{"name": "token", "mountPath": "/token"}, {"name": "kube-api-access", "mountPath": "/var/run"}],
            })
        );
    }
}
