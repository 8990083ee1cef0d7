//! YAML as a tree in which every key and value knows its place, read document by document and within bounds.
//!
//! Each document is parsed on its own, so that a syntax error ends with its document. The values follow YAML 1.2's core
//! schema, with one exception: the words that YAML 1.1 takes for truth values (`yes`, `on`, …) are neither texts nor
//! truth values, because what a cluster makes of them is not what was meant.

use std::collections::{HashMap, hash_map};

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::problem::Position;

/// Deepest nesting of collections. The deepest kinds (Pods) have some 12 levels.
const MAX_DEPTH: usize = 64;
/// Most nodes of one document, keys counted and aliases written out: a List of ten thousand objects.
const MAX_NODES: usize = 500_000;
/// Most bytes of text of one document, aliases written out: twice what a file may have.
const MAX_TEXT: usize = 8 << 20;
/// Most documents of one file.
const MAX_DOCUMENTS: usize = 20_000;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Position,
    pub(super) value: Node,
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes, so that it may be something else than a text.
    plain: bool,
}

/// A tree without places: all of it is at the beginning. JSON has as many levels as its own parser allows (128 in serde_json).
impl From<&serde_json::Value> for Node {
    fn from(json: &serde_json::Value) -> Self {
        let scalar = |text: String, plain| Value::Scalar(Scalar { text, plain });
        let value = match json {
            serde_json::Value::Null => scalar("null".to_owned(), true),
            serde_json::Value::Bool(value) => scalar(value.to_string(), true),
            serde_json::Value::Number(number) => scalar(number.to_string(), true),
            serde_json::Value::String(text) => scalar(text.clone(), false),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => {
                let entry = |(key, value): (&String, _)| Entry { key: key.clone(), key_at: Position::START, value: Self::from(value) };
                Value::Map(fields.iter().map(entry).collect())
            }
        };
        Self { at: Position::START, value }
    }
}

/// What a scalar is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    /// A truth value of YAML 1.1 only.
    OldBool,
    Int(i128),
    Float(f64),
    Text,
}

impl Scalar {
    pub(super) fn kind(&self) -> Kind {
        if !self.plain {
            return Kind::Text;
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
            "true" | "True" | "TRUE" => Kind::Bool(true),
            "false" | "False" | "FALSE" => Kind::Bool(false),
            "y" | "Y" | "yes" | "Yes" | "YES" | "n" | "N" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
                Kind::OldBool
            }
            text => number(text),
        }
    }
}

/// The number that a plain scalar is, or `Text`.
fn number(text: &str) -> Kind {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits(unsigned) {
        return text.strip_prefix('+').unwrap_or(text).parse().map_or(Kind::Text, Kind::Int);
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(rest) = text.strip_prefix(prefix)
            && !rest.starts_with(['+', '-'])
            && let Ok(value) = i128::from_str_radix(rest, radix)
        {
            return Kind::Int(value);
        }
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let form = (digits(whole) || (whole.is_empty() && !fraction.is_empty()))
        && (fraction.is_empty() || digits(fraction))
        && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent));
    if form { text.parse().map_or(Kind::Text, Kind::Float) } else { Kind::Text }
}

impl Node {
    /// The value of a field of a mapping.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }

    /// The text of a scalar that is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if scalar.kind() == Kind::Text => Some(&scalar.text),
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.kind() == Kind::Null)
    }

    /// The place of the field at `path` (as in `spec.rules[0].name`), or of the nearest thing around it that is there.
    pub(super) fn position(&self, path: &str) -> Position {
        let mut node = self;
        let mut at = self.at;
        let mut rest = path;
        while !rest.is_empty() {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = if let Some(inside) = rest.strip_prefix('[') {
                let Some((index, after)) = split_index(inside) else { break };
                rest = after;
                match (&node.value, index) {
                    (Value::List(items), Index::Number(index)) => items.get(index).map(|item| (item.at, item)),
                    (Value::Map(entries), Index::Key(key)) => entry_place(entries, key),
                    (Value::List(_) | Value::Map(_) | Value::Scalar(_), _) => None,
                }
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                rest = after;
                match &node.value {
                    Value::Map(entries) => entry_place(entries, name),
                    Value::List(_) | Value::Scalar(_) => None,
                }
            };
            let Some((place, inner)) = next else { break };
            (at, node) = (place, inner);
        }
        at
    }
}

enum Index<'a> {
    Number(usize),
    Key(&'a str),
}

/// Splits what follows a `[` into the index (a number, or a key in quotes) and the rest of the path.
fn split_index(inside: &str) -> Option<(Index<'_>, &str)> {
    if let Some(key) = inside.strip_prefix('"') {
        let (key, after) = key.split_once("\"]")?;
        return Some((Index::Key(key), after));
    }
    let (number, after) = inside.split_once(']')?;
    Some((Index::Number(number.parse().ok()?), after))
}

/// Where a field is: at its value when that is a written scalar, else at its key.
fn entry_place<'a>(entries: &'a [Entry], key: &str) -> Option<(Position, &'a Node)> {
    let entry = entries.iter().find(|entry| entry.key == key)?;
    Some((entry.place(), &entry.value))
}

impl Entry {
    /// Where a problem with the value is shown.
    pub(super) fn place(&self) -> Position {
        match &self.value.value {
            Value::Scalar(scalar) if !(scalar.plain && scalar.text.is_empty()) => self.value.at,
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => self.key_at,
        }
    }
}

/// A mistake of form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) at: Position,
    pub(super) message: String,
}

/// One document of a file.
#[derive(Debug)]
pub(super) struct Document {
    /// The root, or nothing when the document is empty or cannot be read.
    pub(super) root: Option<Node>,
    /// What came before the error that ended it, when that is enough to tell which object it is.
    pub(super) beginning: Option<Node>,
    /// What is wrong with its form: one error that ended it, or duplicate keys.
    pub(super) errors: Vec<SyntaxError>,
}

/// Reads the documents of `text`, each on its own.
pub(super) fn documents(text: &str) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let chunks = split(text);
    let mut documents: Vec<Document> = chunks
        .iter()
        .take(MAX_DOCUMENTS)
        .map(|(first_line, chunk)| read_document(chunk, *first_line))
        .filter(|document| document.root.is_some() || !document.errors.is_empty())
        .collect();
    if let Some((first_line, _)) = chunks.get(MAX_DOCUMENTS) {
        let message = format!("the file has {} documents; from here on they are not read", chunks.len());
        documents.push(Document { root: None, beginning: None, errors: vec![SyntaxError { at: position(1, 0, *first_line), message }] });
    }
    documents
}

/// Splits at the lines that YAML 1.2 §9.1.2 reserves as document markers, also within scalars; with line numbers.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let mut content = false; // whether the current chunk has more than directives, comments and blank lines
    let (mut offset, mut line_number) = (0, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end_matches(['\n', '\r']);
        let marker = |mark: &str| bare.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']));
        if marker("---") {
            if content {
                chunks.push((start_line, &text[start..offset]));
                (start, start_line) = (offset, line_number);
            }
            content = true;
        } else if marker("...") {
            chunks.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + line.len(), line_number + 1);
            content = false;
        } else if !(bare.trim().is_empty() || bare.starts_with('#') || (!content && bare.starts_with('%'))) {
            content = true;
        }
        offset += line.len();
        line_number += 1;
    }
    chunks.push((start_line, &text[start..]));
    chunks
}

fn read_document(chunk: &str, first_line: u32) -> Document {
    let mut builder = Builder::new(chunk, first_line);
    match builder.document() {
        Ok(root) => Document { root, beginning: None, errors: builder.errors },
        Err(error) => {
            let good_lines = usize::try_from(error.at.line.saturating_sub(first_line + 1)).unwrap_or(0);
            Document { root: None, beginning: beginning(chunk, good_lines), errors: vec![error] }
        }
    }
}

/// What the lines before an error say, when all of the metadata is among them: half of it could be that of another object.
fn beginning(chunk: &str, good_lines: usize) -> Option<Node> {
    let end = chunk.split_inclusive('\n').take(good_lines).map(str::len).sum();
    let node = Builder::new(chunk.get(..end)?, 0).document().ok()??;
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().rev().skip(1).any(|entry| entry.key == "metadata").then_some(node)
}

/// Turns events into nodes. Its recursion is bounded by the parser's limits on nesting.
struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    first_line: u32,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text: usize,
    errors: Vec<SyntaxError>,
}

impl<'a> Builder<'a> {
    fn new(chunk: &'a str, first_line: u32) -> Self {
        let mut options = Options::default();
        options.emit_comments = false;
        options.flow_nesting_limit = MAX_DEPTH;
        options.block_nesting_limit = MAX_DEPTH;
        let parser = Parser::new_from_str_with_options(chunk, options);
        Self { parser, first_line, anchors: HashMap::new(), nodes: 0, text: 0, errors: Vec::new() }
    }

    fn document(&mut self) -> Result<Option<Node>, SyntaxError> {
        let mut root = None;
        while let Some(next) = self.parser.next_event() {
            let (event, span) = next.map_err(|error| self.syntax(&error))?;
            if matches!(event, Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd) {
                continue;
            }
            let node = self.node(event, span)?;
            if root.replace(node).is_some() {
                // The parser refuses this itself; kept so that nothing can be lost silently.
                return Err(self.error(span, "a second document without a --- line before it"));
            }
        }
        Ok(root.filter(|node| !node.is_null()))
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(next) => next.map_err(|error| self.syntax(&error)),
            None => Err(SyntaxError {
                at: Position { line: self.first_line + 1, column: 1 },
                message: "the document ends too early".to_owned(),
            }),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enumeration is open")]
    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, SyntaxError> {
        let at = self.place(span);
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.charge(span, 1, text.len())?;
                let plain = style == ScalarStyle::Plain && !tag.as_deref().is_some_and(is_string_tag);
                // The parser writes "~" where nothing is written.
                let text = if plain && span.is_empty() { String::new() } else { text.into_owned() };
                (Value::Scalar(Scalar { text, plain }), anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.charge(span, 1, 0)?;
                (Value::List(self.list()?), anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                self.charge(span, 1, 0)?;
                (Value::Map(self.map()?), anchor)
            }
            Event::Alias(id) => {
                let target =
                    self.anchors.get(&id).cloned().ok_or_else(|| self.error(span, "an alias within the value that it stands for"))?;
                let (nodes, text) = size(&target);
                self.charge(span, nodes, text)?;
                (target.value, 0)
            }
            _ => return Err(self.error(span, "a value was expected here")),
        };
        let node = Node { at, value };
        if anchor > 0 {
            let (nodes, text) = size(&node);
            self.charge(span, nodes, text)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Vec<Node>, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut index: HashMap<String, Position> = HashMap::new();
        let mut merged: Vec<Node> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let Node { at: key_at, value: Value::Scalar(Scalar { text: key, plain }) } = self.node(event, span)? else {
                return Err(self.error(span, "the key of a mapping has to be a text"));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            if plain && key == "<<" {
                merged.push(value);
            } else if let Some(first) = index.get(&key) {
                let message = format!("the key {key:?} is there already, in line {}", first.line);
                self.errors.push(SyntaxError { at: key_at, message });
            } else {
                index.insert(key.clone(), key_at);
                entries.push(Entry { key, key_at, value });
            }
        }
        for value in merged {
            merge(value, &mut index, &mut entries)?;
        }
        Ok(entries)
    }

    /// Counts against the limits of a document.
    fn charge(&mut self, span: Span, nodes: usize, text: usize) -> Result<(), SyntaxError> {
        self.nodes += nodes;
        self.text += text;
        if self.nodes > MAX_NODES {
            return Err(self.error(span, &format!("the document has more than {MAX_NODES} values, aliases written out")));
        }
        if self.text > MAX_TEXT {
            return Err(self.error(span, &format!("the document has more than {MAX_TEXT} bytes, aliases written out")));
        }
        Ok(())
    }

    fn place(&self, span: Span) -> Position {
        position(span.start.line(), span.start.col(), self.first_line)
    }

    fn error(&self, span: Span, message: &str) -> SyntaxError {
        SyntaxError { at: self.place(span), message: message.to_owned() }
    }

    fn syntax(&self, error: &ScanError) -> SyntaxError {
        let marker = error.marker();
        SyntaxError { at: position(marker.line(), marker.col(), self.first_line), message: format!("not valid YAML: {}", error.info()) }
    }
}

/// A place in the file, from one in a document that starts `first_line` lines below the file's first line.
fn position(line: usize, column: usize, first_line: u32) -> Position {
    let bounded = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position { line: bounded(line.max(1)).saturating_add(first_line), column: bounded(column).saturating_add(1) }
}

fn is_string_tag(tag: &Tag) -> bool {
    tag.is_yaml_core_schema_tag("str")
}

/// Adds the entries of a merge key's value that are not there yet; of several values the earlier wins.
fn merge(value: Node, index: &mut HashMap<String, Position>, entries: &mut Vec<Entry>) -> Result<(), SyntaxError> {
    match value.value {
        Value::Map(inherited) => {
            for entry in inherited {
                if let hash_map::Entry::Vacant(slot) = index.entry(entry.key.clone()) {
                    slot.insert(entry.key_at);
                    entries.push(entry);
                }
            }
            Ok(())
        }
        Value::List(values) if values.iter().all(|value| matches!(value.value, Value::Map(_))) => {
            values.into_iter().try_for_each(|value| merge(value, index, entries))
        }
        Value::List(_) | Value::Scalar(_) => {
            Err(SyntaxError { at: value.at, message: "the value of << has to be a mapping, or a list of mappings".to_owned() })
        }
    }
}

/// Nodes and bytes of text of a value.
fn size(node: &Node) -> (usize, usize) {
    let sum = |(nodes, text): (usize, usize), (more_nodes, more_text): (usize, usize)| (nodes + more_nodes, text + more_text);
    match &node.value {
        Value::Scalar(scalar) => (1, scalar.text.len()),
        Value::List(items) => items.iter().map(size).fold((1, 0), sum),
        Value::Map(entries) => entries.iter().map(|entry| sum(size(&entry.value), (0, entry.key.len()))).fold((1, 0), sum),
    }
}
