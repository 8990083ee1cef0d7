//! Values against the chart's JSON schema: the keywords that this schema uses (draft 7), and a sentence for each mistake.

use regex::Regex;
use serde_json::{Map, Value};

/// The mistakes of `values`, a sentence each; empty when there are none.
pub(crate) fn check(schema: &Value, values: &Value) -> Vec<String> {
    let mut mistakes = Vec::new();
    walk(schema, values, "", &mut mistakes);
    mistakes
}

fn walk(schema: &Value, value: &Value, path: &str, mistakes: &mut Vec<String>) {
    let place = if path.is_empty() { "values" } else { path };
    if let Some(types) = schema.get("type")
        && !types.as_array().map_or_else(|| is(value, types), |types| types.iter().any(|kind| is(value, kind)))
    {
        let types = types.as_array().map_or_else(|| vec![types], |types| types.iter().collect());
        let types: Vec<_> = types.into_iter().filter_map(Value::as_str).map(described).collect();
        mistakes.push(format!("{place}: must be {}, found {value}", types.join(" or ")));
        return;
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
        && !allowed.contains(value)
    {
        let allowed: Vec<_> = allowed.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
        mistakes.push(format!("{place}: must be {}, found {value}", allowed.join(" or ")));
    }
    match value {
        Value::Object(fields) => walk_fields(schema, fields, path, mistakes),
        Value::Array(items) => {
            bounds(schema, ("minItems", "maxItems"), items.len(), "items", place, mistakes);
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    walk(schema, item, &format!("{path}[{index}]"), mistakes);
                }
            }
        }
        Value::String(text) => {
            bounds(schema, ("minLength", "maxLength"), text.chars().count(), "characters", place, mistakes);
            pattern(schema, text, place, mistakes);
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if let Some(minimum) = schema.get("minimum").and_then(Value::as_f64).filter(|minimum| number < *minimum) {
                mistakes.push(format!("{place}: must be {minimum} or more, found {value}"));
            }
            if let Some(maximum) = schema.get("maximum").and_then(Value::as_f64).filter(|maximum| number > *maximum) {
                mistakes.push(format!("{place}: must be {maximum} or less, found {value}"));
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn walk_fields(schema: &Value, fields: &Map<String, Value>, path: &str, mistakes: &mut Vec<String>) {
    let known = schema.get("properties").and_then(Value::as_object);
    for (name, value) in fields {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (known.and_then(|known| known.get(name)), schema.get("additionalProperties")) {
            (Some(schema), _) => walk(schema, value, &path, mistakes),
            (None, Some(Value::Bool(false))) => {
                let names: Vec<_> = known.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                mistakes.push(format!("{path}: there is no such value; there are {}", names.join(", ")));
            }
            (None, Some(schema @ Value::Object(_))) => walk(schema, value, &path, mistakes),
            (None, _) => {}
        }
    }
}

fn bounds(schema: &Value, (least, most): (&str, &str), count: usize, what: &str, place: &str, mistakes: &mut Vec<String>) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|bound| usize::try_from(bound).ok());
    if let Some(least) = bound(least).filter(|least| count < *least) {
        mistakes.push(format!("{place}: must have {least} {what} or more, found {count}"));
    }
    if let Some(most) = bound(most).filter(|most| count > *most) {
        mistakes.push(format!("{place}: must have {most} {what} or fewer, found {count}"));
    }
}

fn pattern(schema: &Value, text: &str, place: &str, mistakes: &mut Vec<String>) {
    let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else { return };
    match Regex::new(pattern) {
        Ok(regex) if regex.is_match(text) => {}
        Ok(_) => {
            let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
            mistakes.push(format!("{place}: {text:?} is not of the form {pattern}. {description}").trim_end().to_owned());
        }
        Err(error) => mistakes.push(format!("{place}: the schema's pattern cannot be read: {error}")),
    }
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        // 3.0 is an integer too (draft 6 and later).
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

fn described(kind: &str) -> &str {
    match kind {
        "object" => "names with values",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "true or false",
        "number" => "a number",
        "integer" => "a whole number",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_mistake_is_a_sentence_with_its_place() {
        let schema = json!({ "type": "object", "additionalProperties": false, "properties": {
            "n": { "type": "integer", "minimum": 1, "maximum": 3 },
            "s": { "type": "string", "pattern": "^[a-z]+$", "description": "Small letters." },
            "e": { "enum": ["on", "off"] },
            "l": { "type": "array", "minItems": 1, "items": { "type": "boolean" } },
            "m": { "type": "object", "additionalProperties": { "type": ["string", "number"] } },
        } });
        for (values, mistake) in [
            (json!({ "n": 0 }), "n: must be 1 or more, found 0"),
            (json!({ "n": 4 }), "n: must be 3 or less, found 4"),
            (json!({ "n": "2" }), "n: must be a whole number, found \"2\""),
            (json!({ "s": "A" }), "s: \"A\" is not of the form ^[a-z]+$. Small letters."),
            (json!({ "e": true }), "e: must be on or off, found true"),
            (json!({ "l": [] }), "l: must have 1 items or more, found 0"),
            (json!({ "l": [true, 1] }), "l[1]: must be true or false, found 1"),
            (json!({ "m": { "x": [] } }), "m.x: must be a text or a number, found []"),
            (json!({ "x": 1 }), "x: there is no such value; there are e, l, m, n, s"),
            (json!([]), "values: must be names with values, found []"),
        ] {
            assert_eq!(check(&schema, &values), [mistake], "{values}");
        }
        assert!(check(&schema, &json!({ "n": 3, "s": "a", "e": "on", "l": [true], "m": { "x": 1 } })).is_empty());
    }

    /// A keyword that this file does not know would be checked by Helm alone.
    #[test]
    fn the_charts_schema_uses_no_other_keyword() {
        const KNOWN: [&str; 15] = [
            "$schema",
            "title",
            "description",
            "type",
            "enum",
            "properties",
            "additionalProperties",
            "items",
            "minItems",
            "maxItems",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "pattern",
        ];
        fn keywords(schema: &Value) {
            let Some(fields) = schema.as_object() else { return };
            for (name, value) in fields {
                assert!(KNOWN.contains(&name.as_str()), "{name} in {schema}");
                match name.as_str() {
                    "properties" => value.as_object().unwrap().values().for_each(keywords),
                    "items" | "additionalProperties" => keywords(value),
                    "pattern" => assert!(Regex::new(value.as_str().unwrap()).is_ok(), "{value}"),
                    _ => {}
                }
            }
        }
        keywords(&serde_json::from_str(include_str!("../../../charts/heddle/values.schema.json")).unwrap());
    }

    #[test]
    fn every_value_of_the_chart_is_in_its_schema_and_described() {
        fn described(schema: &Value, path: &str) {
            assert!(schema.get("description").is_some_and(|text| text.as_str().is_some_and(|text| text.ends_with('.'))), "{path}");
            for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                described(schema, &format!("{path}.{name}"));
            }
        }
        described(&serde_json::from_str(include_str!("../../../charts/heddle/values.schema.json")).unwrap(), "");
    }
}
