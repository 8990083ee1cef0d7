//! The chart's templates, as Helm would render them: Go's text/template, with those of Helm's functions that the chart uses.
//!
//! Strict where Helm is not: a function that is not here, and a value that is not there, are errors.

use gotmpl::{MissingKey, Template, TemplateError, Value};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

/// Why a template cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {source}")]
pub(crate) struct RenderError {
    /// The template's path in the chart.
    file: String,
    source: TemplateError,
}

/// Renders each of `files` (path and text) with `data`, after `helpers`, whose definitions all of them can include.
///
/// # Errors
///
/// The first template that cannot be read or executed.
pub(crate) fn render(helpers: &str, files: &[(&str, &str)], data: &Json) -> Result<Vec<(String, String)>, RenderError> {
    let data = value(data);
    let finished = Arc::new(OnceLock::new());
    let base = functions(Template::new("helpers"), &Arc::downgrade(&finished))
        .missing_key(MissingKey::Error)
        .parse(helpers)
        .map_err(|source| RenderError { file: "templates/_helpers.tpl".to_owned(), source })?;
    // What `include` executes; it has its own copy, because a template cannot hold itself.
    let _first = finished.set(base.clone());
    let render = |file: &str, text: &str| base.clone().parse(text)?.execute_to_string(&data).map(|text| (file.to_owned(), text));
    files.iter().map(|(file, text)| render(file, text).map_err(|source| RenderError { file: (*file).to_owned(), source })).collect()
}

/// Helm's functions; their names and arguments are documented at helm.sh/docs/chart_template_guide/function_list.
fn functions(template: Template, finished: &Weak<OnceLock<Template>>) -> Template {
    let finished = finished.clone();
    template
        .func("include", move |args| {
            let [Value::String(name), data] = args else { return Err(arguments("include", "a name and a value", args)) };
            let finished = finished.upgrade().ok_or_else(|| failed("include is called after the end"))?;
            let template = finished.get().ok_or_else(|| failed("include is called before all helpers are read"))?;
            Ok(Value::from(template.execute_template_to_string(name, data)?))
        })
        .func("toYaml", |args| {
            let [value] = args else { return Err(arguments("toYaml", "one value", args)) };
            let text = serde_saphyr::to_string(&json(value)?).map_err(|error| failed(&format!("toYaml: {error}")))?;
            Ok(Value::from(text.trim_end_matches('\n').to_owned()))
        })
        .func("nindent", |args| {
            let [Value::Int(columns), Value::String(text)] = args else { return Err(arguments("nindent", "columns and a text", args)) };
            let columns = usize::try_from(*columns).map_err(|_| arguments("nindent", "columns and a text", args))?;
            let indent = " ".repeat(columns);
            Ok(Value::from(text.split('\n').map(|line| format!("\n{indent}{line}")).collect::<String>()))
        })
        .func("quote", |args| {
            let [value @ (Value::String(_) | Value::Int(_) | Value::Bool(_))] = args else {
                return Err(arguments("quote", "one text, number or truth value", args));
            };
            Ok(Value::from(Json::from(value.to_string()).to_string()))
        })
        .func("default", |args| {
            let [otherwise, value] = args else { return Err(arguments("default", "two values", args)) };
            Ok(if value.is_truthy() { value.clone() } else { otherwise.clone() })
        })
        .func("trimSuffix", |args| {
            let [Value::String(suffix), Value::String(text)] = args else { return Err(arguments("trimSuffix", "two texts", args)) };
            Ok(Value::from(text.strip_suffix(&**suffix).unwrap_or(text)))
        })
        .func("has", |args| {
            let [item, Value::List(list)] = args else { return Err(arguments("has", "a value and a list", args)) };
            Ok(Value::Bool(list.iter().any(|other| other == item)))
        })
        .func("list", |args| Ok(Value::from(args.to_vec())))
        .func("int", |args| {
            let [Value::Int(number)] = args else { return Err(arguments("int", "a whole number", args)) };
            Ok(Value::Int(*number))
        })
}

/// JSON as a value of a template. Whole numbers are signed, as Helm's are.
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(fields) => Value::from(fields.iter().map(|(name, field)| (name.clone(), value(field))).collect::<BTreeMap<_, _>>()),
    }
}

/// A value of a template as JSON.
fn json(value: &Value) -> Result<Json, TemplateError> {
    Ok(match value {
        Value::Nil => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(value) => Json::from(&**value),
        Value::List(items) => Json::Array(items.iter().map(json).collect::<Result<_, _>>()?),
        Value::Map(fields) => {
            let fields = fields.iter().map(|(name, value)| Ok((name.to_string(), json(value)?)));
            Json::Object(fields.collect::<Result<Map<_, _>, TemplateError>>()?)
        }
        Value::Function(_) => return Err(failed("a function is no data")),
    })
}

fn failed(sentence: &str) -> TemplateError {
    TemplateError::Exec(sentence.to_owned())
}

fn arguments(name: &str, expected: &str, found: &[Value]) -> TemplateError {
    let found: Vec<_> = found.iter().map(Value::type_name).collect();
    failed(&format!("{name} takes {expected}, found ({})", found.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(text: &str) -> Result<String, RenderError> {
        let data = json!({ "a": { "b": [1, "x: y"], "none": [] }, "n": 1_000_000_000, "yes": true, "text": "on" });
        let helpers = "{{- define \"inner\" }}<{{ . }}>{{ end }}{{- define \"outer\" }}{{ include \"inner\" .n }}{{ end }}";
        render(helpers, &[("file", text)], &data).map(|mut files| files.remove(0).1)
    }

    #[test]
    fn the_functions_do_as_helms() {
        for (text, expected) in [
            ("{{ include \"outer\" . }}", "<1000000000>"),
            ("k:{{ toYaml .a.b | nindent 2 }}", "k:\n  - 1\n  - \"x: y\""),
            ("k: {{ toYaml .a.none }}", "k: []"),
            ("{{ .text | quote }} {{ quote .yes }} {{ toYaml .text }}", "\"on\" \"true\" \"on\""),
            ("{{ default \"d\" .a.none }} {{ default \"d\" .text }}", "d on"),
            ("{{ trimSuffix \"n\" .text }} {{ has \"on\" (list 1 .text) }} {{ gt (int .n) 1 }}", "o true true"),
            ("a\n{{- if and .yes (not .a.none) }}\nb\n{{- end }}", "a\nb"),
        ] {
            assert_eq!(rendered(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_an_error() {
        for (text, named) in [
            ("{{ lookup \"v1\" }}", "lookup"),
            ("{{ .missing }}", "missing"),
            ("{{ .a.b.c }}", "c"),
            ("{{ include \"absent\" . }}", "absent"),
            ("{{ nindent .text 2 }}", "nindent takes columns and a text"),
        ] {
            let error = rendered(text).unwrap_err().to_string();
            assert!(error.starts_with("file: ") && error.contains(named), "{error}");
        }
    }
}
