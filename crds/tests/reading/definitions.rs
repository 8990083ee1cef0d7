//! `crds/yaml`: fresh, and of the form that an API server takes.

use std::{collections::BTreeSet, fs, path::Path};

use heddle_crds::crd;
use serde_json::Value;

#[test]
fn the_committed_definitions_are_fresh() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let written: BTreeSet<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let wanted: BTreeSet<String> = crd::files().unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(written, wanted, "run `cargo run -p heddle-crds --bin crdgen`");
    for file in crd::files().unwrap() {
        let committed = fs::read_to_string(directory.join(&file.name)).unwrap();
        assert!(committed == file.yaml, "{} is stale: run `cargo run -p heddle-crds --bin crdgen`", file.name);
    }
}

#[test]
fn the_definitions_survive_yaml() {
    for (file, definition) in crd::files().unwrap().iter().zip(crd::definitions()) {
        let read: Value = serde_saphyr::from_str(&file.yaml).unwrap();
        // Numbers of schemas are floats, which YAML may write as integers.
        assert_eq!(numbers_as_floats(read), numbers_as_floats(definition), "{}", file.name);
    }
}

fn numbers_as_floats(value: Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.into_iter().map(numbers_as_floats).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, value)| (key, numbers_as_floats(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

/// The rules for structural schemas (Kubernetes, "Extend the Kubernetes API with CustomResourceDefinitions") that a
/// generator can break: a type everywhere, no references, no `null` type, known formats, descriptions.
#[test]
fn the_schemas_are_structural() {
    for definition in crd::definitions() {
        let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        let name = definition.pointer("/metadata/name").and_then(Value::as_str).unwrap();
        check_schema(schema, name);
    }
}

/// schemars takes an `Option` whose schema is written by hand for required, unless serde says that it has a default: an API server then
/// refuses objects without it, and a definition whose own default lacks it.
#[test]
fn nothing_that_may_be_left_out_is_required() {
    const REQUIRED: [&str; 12] = [
        "ancestorRef",
        "controllerName",
        "kind",
        "lastTransitionTime",
        "message",
        "mtls",
        "name",
        "reason",
        "spec",
        "status",
        "targetRefs",
        "type",
    ];
    fn walk(schema: &Value, path: &str) {
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            assert!(REQUIRED.contains(&name), "{path}.{name} is required: say #[serde(default)], or add it here");
        }
        for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(field, &format!("{path}.{name}"));
        }
        if let Some(items) = schema.get("items") {
            walk(items, &format!("{path}[]"));
        }
    }
    for definition in crd::definitions() {
        walk(definition.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap(), definition["metadata"]["name"].as_str().unwrap());
    }
}

fn check_schema(schema: &Value, path: &str) {
    let schema = schema.as_object().unwrap_or_else(|| panic!("{path}: not a schema: {schema}"));
    for forbidden in ["$ref", "$defs", "definitions", "anyOf", "oneOf", "allOf", "not", "const", "examples"] {
        assert!(!schema.contains_key(forbidden), "{path}: has {forbidden}");
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: no type"));
    assert!(["object", "array", "string", "integer", "number", "boolean"].contains(&kind), "{path}: type {kind}");
    if let Some(format) = schema.get("format").and_then(Value::as_str) {
        assert!(["int32", "int64", "double", "date-time"].contains(&format), "{path}: format {format}");
    }
    match kind {
        "object" => {
            let fields = schema.get("properties").and_then(Value::as_object).unwrap_or_else(|| panic!("{path}: no properties"));
            for (name, field) in fields {
                let field_path = format!("{path}.{name}");
                let described = field.get("description").is_some() || field_path.contains(".conditions.");
                assert!(described || path.contains("conditions"), "{field_path}: no description");
                check_schema(field, &field_path);
            }
            for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                assert!(fields.contains_key(required.as_str().unwrap()), "{path}: requires {required}");
            }
        }
        "array" => {
            assert!(schema.contains_key("maxItems"), "{path}: a list without a bound");
            check_schema(schema.get("items").unwrap(), &format!("{path}[]"));
        }
        "string" | "integer" | "number" | "boolean" => {}
        other => panic!("{path}: {other}"),
    }
}

#[test]
fn every_kind_has_columns_and_a_status() {
    for definition in crd::definitions() {
        let version = definition.pointer("/spec/versions/0").unwrap();
        let columns = version.get("additionalPrinterColumns").and_then(Value::as_array).unwrap();
        let names: Vec<&str> = columns.iter().filter_map(|column| column.get("name")?.as_str()).collect();
        assert!(names.contains(&"Accepted") && names.last() == Some(&"Age"), "{names:?}");
        assert!(version.pointer("/subresources/status").is_some());
        assert!(version.pointer("/schema/openAPIV3Schema/properties/status/properties").is_some());
    }
}

#[test]
fn policies_carry_the_label_of_gep_713() {
    let labelled: Vec<String> = crd::definitions()
        .iter()
        .filter(|definition| {
            definition.pointer("/metadata/labels/gateway.networking.k8s.io~1policy").and_then(Value::as_str) == Some("Direct")
        })
        .map(|definition| definition.pointer("/spec/names/kind").and_then(Value::as_str).unwrap().to_owned())
        .collect();
    assert_eq!(labelled, ["TrafficPolicy", "AuthenticationPolicy"]);
}
