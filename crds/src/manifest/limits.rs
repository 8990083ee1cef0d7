//! The limits that a kind's schema states (ranges, lengths, patterns), checked on the tree.
//!
//! A cluster's API server does the same with the same schema, so a file means what it would mean there. Types and
//! required fields are the decoder's business.

use std::collections::HashMap;

use regex::Regex;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value as Json;

use super::{
    decode::{Finding, shorten},
    problem::{Level, Position},
    tree::{Kind, Node, Value},
};

/// The limits of one value and of what is inside it.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// What the value is called in a message about its form.
    title: Option<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    pattern: Option<Regex>,
    items: Option<Box<Self>>,
    fields: HashMap<String, Self>,
}

impl Limits {
    /// The limits that the schema of `T` states.
    pub(super) fn of<T: JsonSchema>() -> Self {
        let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator();
        let mut limits = Self::default();
        limits.add(generator.into_root_schema_for::<T>().as_value(), &mut HashMap::new());
        limits
    }

    /// Takes over what `schema` states. Patterns repeat, so each is compiled once.
    fn add(&mut self, schema: &Json, patterns: &mut HashMap<String, Regex>) {
        let number = |key: &str| schema.get(key).and_then(Json::as_f64);
        let count = |key: &str| schema.get(key).and_then(Json::as_u64).and_then(|count| usize::try_from(count).ok());
        if let Some(title) = schema.get("title").and_then(Json::as_str) {
            self.title = Some(title.to_owned());
        }
        self.minimum = number("minimum").or(self.minimum);
        self.maximum = number("maximum").or(self.maximum);
        self.min_length = count("minLength").or(self.min_length);
        self.max_length = count("maxLength").or(self.max_length);
        self.min_items = count("minItems").or(self.min_items);
        self.max_items = count("maxItems").or(self.max_items);
        if let Some(pattern) = schema.get("pattern").and_then(Json::as_str) {
            if !patterns.contains_key(pattern)
                && let Ok(regex) = Regex::new(pattern)
            {
                patterns.insert(pattern.to_owned(), regex);
            }
            self.pattern = patterns.get(pattern).cloned();
        }
        if let Some(items) = schema.get("items") {
            self.items.get_or_insert_default().add(items, patterns);
        }
        for (name, field) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            self.fields.entry(name.clone()).or_default().add(field, patterns);
        }
        // An optional value is "this or null"; there are no other alternatives among our kinds' structs.
        for key in ["anyOf", "allOf"] {
            for part in schema.get(key).and_then(Json::as_array).into_iter().flatten() {
                self.add(part, patterns);
            }
        }
    }

    /// Adds a finding for each limit that `node` breaks. `at` is where its problems are shown.
    pub(super) fn check(&self, node: &Node, at: Position, path: &str, findings: &mut Vec<Finding>) {
        let mut found = |message: String| {
            findings.push(Finding { level: Level::Error, at, field_path: path.to_owned(), message });
        };
        match &node.value {
            Value::Scalar(scalar) => match scalar.kind() {
                Kind::Int(_) | Kind::Float(_) => self.check_number(&scalar.text).into_iter().for_each(found),
                Kind::Text => self.check_text(&scalar.text).into_iter().for_each(found),
                Kind::Null | Kind::Bool(_) | Kind::OldBool => {}
            },
            Value::List(items) => {
                self.check_count(items.len()).into_iter().for_each(&mut found);
                let Some(limits) = &self.items else { return };
                for (index, item) in items.iter().enumerate().take(self.max_items.unwrap_or(usize::MAX)) {
                    limits.check(item, item.at, &format!("{path}[{index}]"), findings);
                }
            }
            Value::Map(entries) => {
                for entry in entries {
                    if let Some(limits) = self.fields.get(&entry.key) {
                        limits.check(&entry.value, entry.place(), &format!("{path}.{}", entry.key), findings);
                    }
                }
            }
        }
    }

    fn check_number(&self, text: &str) -> Option<String> {
        let number: f64 = text.parse().ok()?;
        let (minimum, maximum) = (self.minimum.unwrap_or(f64::MIN), self.maximum.unwrap_or(f64::MAX));
        if number < minimum {
            return Some(format!("must be at least {minimum}, found {text}"));
        }
        (number > maximum).then(|| format!("must be at most {maximum}, found {text}"))
    }

    fn check_text(&self, text: &str) -> Option<String> {
        let length = text.chars().count();
        if self.min_length.is_some_and(|min| length < min) {
            return Some("must not be empty".to_owned());
        }
        if let Some(max) = self.max_length
            && length > max
        {
            return Some(format!("must have at most {max} characters, found {length}"));
        }
        let pattern = self.pattern.as_ref().filter(|pattern| !pattern.is_match(text))?;
        Some(match &self.title {
            Some(title) => format!("expected {title}, found {:?}", shorten(text)),
            None => format!("expected a text of the form {pattern}, found {:?}", shorten(text)),
        })
    }

    fn check_count(&self, count: usize) -> Option<String> {
        if let Some(min) = self.min_items
            && count < min
        {
            return Some(if min == 1 { "must not be empty".to_owned() } else { format!("needs at least {min} items, found {count}") });
        }
        let max = self.max_items.filter(|max| count > *max)?;
        Some(format!("must have at most {max} items, found {count}"))
    }
}
