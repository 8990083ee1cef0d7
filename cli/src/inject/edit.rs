//! Changes to a YAML text that make its value another one: insertions and replacements of single values, everything else byte by byte.
//!
//! New fields come before the first one of their mapping, and new items before the first of their list: there the place and the
//! indentation are certain, whatever comments follow.

use super::tree::{self, Content, Entry, Mistake, Node, is_ambiguous, line_at};
use serde_json::{Map, Value};
use std::ops::Range;

/// The indentation of what is written.
const STEP: usize = 2;

/// Bytes of the text, and what comes in their place.
struct Edit {
    range: Range<usize>,
    text: String,
}

/// Makes each document's value that of `values`; a document without one stays as it is. The two lists go together.
pub(super) fn edited(text: &str, documents: &[Node], values: &[Option<Value>]) -> Result<String, Mistake> {
    // As the first line ends.
    let newline = if text.split_inclusive('\n').next().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
    let mut editor = Editor { text, newline, edits: Vec::new() };
    for (document, value) in documents.iter().zip(values) {
        let Some(value) = value else { continue };
        match &document.content {
            // A file of JSON stays one.
            Content::Map { flow: true, .. } => {
                editor.unambiguous(document)?;
                editor.edits.push(Edit { range: document.range.clone(), text: format!("{value:#}") });
            }
            Content::Map { .. } | Content::List { .. } | Content::Scalar { .. } => editor.change(document, &document.value(), value)?,
        }
    }
    let mut edits = editor.edits;
    edits.sort_by_key(|edit| edit.range.start);
    let mut result = String::with_capacity(text.len() + edits.iter().map(|edit| edit.text.len()).sum::<usize>());
    let mut at = 0;
    for Edit { range, text: new } in edits {
        result.push_str(text.get(at..range.start).unwrap_or_default());
        result.push_str(&new);
        at = range.end;
    }
    result.push_str(text.get(at..).unwrap_or_default());
    verified(text, result, documents, values)
}

/// Reads the result again: what cannot be changed well is refused and never written wrong.
fn verified(text: &str, result: String, documents: &[Node], values: &[Option<Value>]) -> Result<String, Mistake> {
    let again = tree::documents(&result).unwrap_or_default();
    for (index, (document, value)) in documents.iter().zip(values).enumerate() {
        let expected = value.clone().unwrap_or_else(|| document.value());
        if again.len() != documents.len() || again.get(index).map(Node::value) != Some(expected) {
            let message = "the document has a form that cannot be changed in its place; write it in block style".to_owned();
            return Err(Mistake { line: line_at(text, document.range.start), message });
        }
    }
    Ok(result)
}

struct Editor<'a> {
    text: &'a str,
    newline: &'static str,
    edits: Vec<Edit>,
}

impl Editor<'_> {
    fn change(&mut self, node: &Node, old: &Value, new: &Value) -> Result<(), Mistake> {
        if old == new {
            return Ok(());
        }
        if node.shared {
            let message = "this value has a tag, an anchor, or is an alias, and injection changes it here: write it out".to_owned();
            return Err(Mistake { line: line_at(self.text, node.range.start), message });
        }
        match (&node.content, old, new) {
            (Content::Map { flow: false, entries }, Value::Object(before), Value::Object(after))
                if before.keys().all(|key| after.contains_key(key)) && self.is_first_on_its_line(entries) =>
            {
                self.change_map(node, entries, after)
            }
            (Content::List { flow: false, items }, Value::Array(before), Value::Array(after))
                if after.ends_with(before) && self.byte(node.range.start) == Some(b'-') && items.len() == before.len() =>
            {
                let added = &after[..after.len() - before.len()];
                self.insert(node, &block(&Value::Array(added.to_vec())));
                Ok(())
            }
            (Content::List { flow: false, items }, Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
                items.iter().zip(before.iter().zip(after)).try_for_each(|(item, (old, new))| self.change(item, old, new))
            }
            (_, _, _) => self.replace(node, new),
        }
    }

    fn change_map(&mut self, node: &Node, entries: &[Entry], after: &Map<String, Value>) -> Result<(), Mistake> {
        let mut added = Map::new();
        for (key, new) in after {
            match entries.iter().find(|entry| entry.key == *key) {
                Some(entry) if entry.inherited && entry.node.value() == *new => {}
                Some(entry) if !entry.inherited => self.change(&entry.node, &entry.node.value(), new)?,
                // Beside what is inherited, the mapping's own comes first.
                Some(_) | None => {
                    added.insert(key.clone(), new.clone());
                }
            }
        }
        if !added.is_empty() {
            self.insert(node, &block(&Value::Object(added)));
        }
        Ok(())
    }

    /// Puts lines before a block collection, at its indentation.
    fn insert(&mut self, node: &Node, lines: &[String]) {
        let indent = self.indent(node);
        let text = format!("{}{indent}", lines.join(&indent));
        self.edits.push(Edit { range: node.range.start..node.range.start, text });
    }

    fn replace(&mut self, node: &Node, new: &Value) -> Result<(), Mistake> {
        self.unambiguous(node)?;
        let is_block = matches!(node.content, Content::Map { flow: false, .. } | Content::List { flow: false, .. });
        let has_lines = match new {
            Value::Object(fields) => !fields.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        };
        let text = if is_block && has_lines {
            block(new).join(&self.indent(node))
        } else {
            // JSON is YAML in flow style. Behind a key without a value there is no blank yet.
            let blank = if node.range.is_empty() { " " } else { "" };
            format!("{blank}{new}")
        };
        self.edits.push(Edit { range: node.range.clone(), text });
        Ok(())
    }

    /// The end of a line, and the indentation of the next one.
    fn indent(&self, node: &Node) -> String {
        format!("{}{}", self.newline, " ".repeat(node.column))
    }

    /// Refuses to write anew what tools read in two ways.
    fn unambiguous(&self, node: &Node) -> Result<(), Mistake> {
        match node.ambiguous() {
            None => Ok(()),
            Some(value) => {
                let written = self.text.get(value.range.clone()).unwrap_or_default();
                let message = format!(
                    "{written} means different things to different tools: write a decimal number, true or false, or put it in quotes"
                );
                Err(Mistake { line: line_at(self.text, value.range.start), message })
            }
        }
    }

    /// Whether nothing but blanks and dashes comes before the first key: then lines can be put before it.
    fn is_first_on_its_line(&self, entries: &[Entry]) -> bool {
        let Some(first) = entries.iter().find(|entry| !entry.inherited) else { return false };
        let before = self.text.get(..first.key_range.start).unwrap_or_default();
        let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
        line.trim_start_matches('\u{feff}').bytes().all(|byte| matches!(byte, b' ' | b'-')) && !line.starts_with("---")
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }
}

/// A collection that is not empty as lines of block style.
fn block(value: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = scalar(key);
                match nested(value) {
                    Some(nested) => {
                        lines.push(format!("{key}:"));
                        lines.extend(nested.into_iter().map(|line| format!("{:STEP$}{line}", "")));
                    }
                    None => lines.push(format!("{key}: {}", inline(value))),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut nested = nested(item).unwrap_or_else(|| vec![inline(item)]).into_iter();
                lines.extend(nested.next().map(|line| format!("- {line}")));
                lines.extend(nested.map(|line| format!("{:STEP$}{line}", "")));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => lines.push(inline(value)),
    }
    lines
}

fn nested(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Object(fields) if !fields.is_empty() => Some(block(value)),
        Value::Array(items) if !items.is_empty() => Some(block(value)),
        Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A text: plain where nobody can take it for anything else, in single quotes where that is readable, else as JSON.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 3] = ["true", "false", "null"];
    let is_word = WORDS.contains(&text.to_ascii_lowercase().as_str()) || is_ambiguous(text);
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-'));
    if plain && !is_word {
        return text.to_owned();
    }
    if text.contains('"') && !text.chars().any(char::is_control) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    Value::String(text.to_owned()).to_string()
}
