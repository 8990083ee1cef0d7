//! Values of the chart: from files, from `--set`, and one over the other, as Helm does it.

use serde_json::{Map, Value};
use std::path::Path;

/// The largest index of a list in `--set`; Helm's own bound.
const INDEX_MAX: usize = 65_536;

/// Lays `over` over `base`: maps are merged, everything else is replaced, and null takes a value away.
pub(crate) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                if value.is_null() {
                    base.remove(name);
                } else {
                    merge(base.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Values from files and then from `--set` and `--set-string`, the later over the earlier; an object, which may be empty.
///
/// # Errors
///
/// A sentence that names the file or the argument.
pub(crate) fn collect(files: &[impl AsRef<Path>], set: &[String], set_string: &[String]) -> Result<Value, String> {
    let mut values = Value::Object(Map::new());
    for file in files {
        let file = file.as_ref();
        let text = read(file).map_err(|error| format!("--values: {}: {error}", file.display()))?;
        let read: Value = serde_saphyr::from_str(&text).map_err(|error| format!("--values: {}: {error}", file.display()))?;
        match read {
            // Null is kept until it meets the chart's own values.
            Value::Object(_) => lay(&mut values, &read),
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(format!("--values: {}: must have names and values, such as `trustDomain: example.org`", file.display()));
            }
        }
    }
    for (flag, arguments, typed) in [("--set", set, true), ("--set-string", set_string, false)] {
        for argument in arguments {
            for assignment in split(argument, ',') {
                assign(&mut values, &assignment, typed)
                    .map_err(|sentence| format!("{flag} {argument}: {sentence}; write for example {flag} controlPlane.replicas=3"))?;
            }
        }
    }
    Ok(values)
}

fn read(file: &Path) -> std::io::Result<String> {
    if file.as_os_str() == "-" { std::io::read_to_string(std::io::stdin().lock()) } else { std::fs::read_to_string(file) }
}

/// As [`merge`], but null stays, so that it can take away what is below.
fn lay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                lay(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// Splits at a character that no backslash precedes and that stands in no braces; backslashes stay.
fn split(text: &str, at: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let (mut escaped, mut depth) = (false, 0_usize);
    for c in text.chars() {
        let here = !escaped && depth == 0 && c == at;
        match c {
            '{' if !escaped => depth += 1,
            '}' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        match parts.last_mut() {
            Some(last) if !here => last.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts
}

/// Without the backslashes that protect a character.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// Sets what `path=value` says.
fn assign(values: &mut Value, assignment: &str, typed: bool) -> Result<(), String> {
    let mut sides = split(assignment, '=').into_iter();
    let (Some(path), Some(first)) = (sides.next(), sides.next()) else { return Err("a value is missing".to_owned()) };
    // Only the first sign of equality divides.
    let value = sides.fold(first, |value, more| format!("{value}={more}"));
    let value = match value.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
        Some("") => Value::Array(Vec::new()),
        Some(inner) => Value::Array(split(inner, ',').iter().map(|item| scalar(item, typed)).collect()),
        None => scalar(&value, typed),
    };
    let mut at = values;
    for step in split(&path, '.') {
        let (name, indices) = step.split_once('[').map_or((step.as_str(), None), |(name, rest)| (name, Some(rest)));
        let name = unescaped(name);
        if name.is_empty() {
            return Err("a name is missing".to_owned());
        }
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        let Value::Object(fields) = at else { return Err("a name is missing".to_owned()) };
        at = fields.entry(name).or_insert(Value::Null);
        for index in indices.into_iter().flat_map(|rest| rest.split('[')) {
            let index = index.strip_suffix(']').and_then(|index| index.parse::<usize>().ok()).filter(|index| *index <= INDEX_MAX);
            let index = index.ok_or("an index is no number from 0 to 65536")?;
            at = item(at, index);
        }
    }
    *at = value;
    Ok(())
}

/// The item of a list, which is made, and made long enough, if need be.
fn item(at: &mut Value, index: usize) -> &mut Value {
    if !at.is_array() {
        *at = Value::Array(Vec::new());
    }
    if let Value::Array(items) = at {
        if items.len() <= index {
            items.resize(index + 1, Value::Null);
        }
        return &mut items[index];
    }
    at
}

/// A value as Helm types it: true, false, null and whole numbers without leading zeros; the rest is text.
fn scalar(text: &str, typed: bool) -> Value {
    match text {
        "true" if typed => Value::Bool(true),
        "false" if typed => Value::Bool(false),
        "null" if typed => Value::Null,
        "0" if typed => Value::from(0),
        _ => match text.parse::<i64>() {
            Ok(number) if typed && !text.starts_with(['0', '+']) => Value::from(number),
            Ok(_) | Err(_) => Value::from(unescaped(text)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(arguments: &[&str]) -> Result<Value, String> {
        collect(&[] as &[&Path], &arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), &[])
    }

    #[test]
    fn set_reads_as_helm_does() {
        for (argument, expected) in [
            ("a.b=1,c=x", json!({ "a": { "b": 1 }, "c": "x" })),
            ("a=true,b=null,c=01,d=0,e=1.5,f=-3", json!({ "a": true, "b": null, "c": "01", "d": 0, "e": "1.5", "f": -3 })),
            ("a={x,2},b={}", json!({ "a": ["x", 2], "b": [] })),
            ("a[1].b=1", json!({ "a": [null, { "b": 1 }] })),
            (r"a\.b=x\,y", json!({ "a.b": "x,y" })),
            ("a=", json!({ "a": "" })),
            ("a=b=c", json!({ "a": "b=c" })),
        ] {
            assert_eq!(set(&[argument]).unwrap(), expected, "{argument}");
        }
        assert_eq!(collect(&[] as &[&Path], &[], &["a=1".to_owned()]).unwrap(), json!({ "a": "1" }));
    }

    #[test]
    fn a_wrong_assignment_is_named() {
        for argument in ["a", "=1", "a[x]=1", "a[70000]=1"] {
            let sentence = set(&[argument]).unwrap_err();
            assert!(sentence.contains(argument) && sentence.contains("for example"), "{sentence}");
        }
    }

    #[test]
    fn maps_merge_and_null_takes_away() {
        let mut base = json!({ "a": { "b": 1, "c": 2 }, "l": [1, 2] });
        merge(&mut base, &json!({ "a": { "b": null, "d": 3 }, "l": [3] }));
        assert_eq!(base, json!({ "a": { "c": 2, "d": 3 }, "l": [3] }));
    }
}
