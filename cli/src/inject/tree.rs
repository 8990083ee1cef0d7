//! A YAML stream as trees that know where in the text each value stands, so that a change touches its own bytes and no others.

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, StructureStyle};
use std::collections::HashMap;
use std::ops::Range;

/// Deepest nesting of collections; the deepest kinds have some 12 levels.
const MAX_DEPTH: usize = 64;
/// Most values of one file, aliases written out.
const MAX_NODES: usize = 500_000;

/// A mistake, and the line on which it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub(super) line: usize,
    pub(super) message: String,
}

/// A value in the text.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Its bytes. Of a block collection: from its first key or dash to the end of its last value; of a block scalar: without its head.
    pub(super) range: Range<usize>,
    /// The column at which it begins, in characters from 0.
    pub(super) column: usize,
    pub(super) content: Content,
    /// Whether other places show the same value, or may.
    pub(super) shared: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Scalar {
        value: Value,
        /// Without quotes, and read as different things by YAML 1.1 and 1.2, such as `0644` or `yes`.
        ambiguous: bool,
    },
    Map {
        flow: bool,
        entries: Vec<Entry>,
    },
    List {
        flow: bool,
        items: Vec<Node>,
    },
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_range: Range<usize>,
    pub(super) node: Node,
    /// Whether it stands here only by a merge key (`<<`).
    pub(super) inherited: bool,
}

impl Node {
    /// The value, for decisions; what is not changed is never written from it.
    pub(super) fn value(&self) -> Value {
        match &self.content {
            Content::Scalar { value, ambiguous: _ } => value.clone(),
            Content::Map { flow: _, entries } => {
                Value::Object(entries.iter().map(|entry| (entry.key.clone(), entry.node.value())).collect::<Map<_, _>>())
            }
            Content::List { flow: _, items } => Value::Array(items.iter().map(Self::value).collect()),
        }
    }

    /// The first value in it that YAML's versions disagree about.
    pub(super) fn ambiguous(&self) -> Option<&Self> {
        match &self.content {
            Content::Scalar { value: _, ambiguous } => ambiguous.then_some(self),
            Content::Map { flow: _, entries } => entries.iter().find_map(|entry| entry.node.ambiguous()),
            Content::List { flow: _, items } => items.iter().find_map(Self::ambiguous),
        }
    }
}

/// The number of the line at a byte, from 1.
pub(super) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
}

/// Reads all documents of a text; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, Mistake> {
    let mut options = Options::default();
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let parser = Parser::new_from_str_with_options(text, options);
    let mut reader = Reader { text, parser, anchors: HashMap::new(), nodes: 0 };
    let mut roots = Vec::new();
    while let Some(next) = reader.parser.next_event() {
        let (event, span) = next.map_err(|error| syntax(&error))?;
        if matches!(event, Event::DocumentStart(..)) {
            // Names of anchors end with their document.
            reader.anchors.clear();
        }
        if matches!(event, Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd) {
            continue;
        }
        let root = reader.node(event, span)?;
        if !matches!(&root.content, Content::Scalar { value: Value::Null, .. }) {
            roots.push(root);
        }
    }
    Ok(roots)
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Mistake> {
        match self.parser.next_event() {
            Some(next) => next.map_err(|error| syntax(&error)),
            None => Err(Mistake { line: line_at(self.text, self.text.len()), message: "the document ends too early".to_owned() }),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the parser's enumeration is open")]
    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Mistake> {
        self.charge(1, span)?;
        let range = self.range(span)?;
        let column = span.start.col();
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                // The parser gives an empty scalar the place of the next token.
                let empty = span.is_empty();
                let tagged_text = tag.as_deref().is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let plain = style == ScalarStyle::Plain && !tagged_text;
                let (value, ambiguous) = if empty && plain { (Value::Null, false) } else { scalar(&text, plain) };
                let end = range.start + self.text[range.clone()].trim_end().len();
                (Node { range: range.start..end, column, content: Content::Scalar { value, ambiguous }, shared: tag.is_some() }, anchor)
            }
            Event::SequenceStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let (items, end) = self.list()?;
                let (start, end) = if flow { (range.start, end) } else { self.list_range(&items, &range) };
                let column = if flow { column } else { self.column(start) };
                let content = Content::List { flow, items };
                (Node { range: start..end, column, content, shared: tag.is_some() }, anchor)
            }
            Event::MappingStart(style, anchor, tag) => {
                let flow = style == StructureStyle::Flow;
                let (entries, end) = self.map()?;
                let (start, end) = if flow { (range.start, end) } else { block_range(&entries, &range) };
                let content = Content::Map { flow, entries };
                (Node { range: start..end, column, content, shared: tag.is_some() }, anchor)
            }
            Event::Alias(id) => {
                let line = span.start.line();
                let unknown = || Mistake { line, message: "an alias within the value that it stands for".to_owned() };
                let target = self.anchors.get(&id).cloned().ok_or_else(unknown)?;
                self.charge(size(&target), span)?;
                (Node { range, column, content: target.content, shared: true }, 0)
            }
            _ => return Err(Mistake { line: span.start.line(), message: "a value was expected here".to_owned() }),
        };
        if anchor == 0 {
            return Ok(node);
        }
        let node = Node { shared: true, ..node };
        self.anchors.insert(anchor, node.clone());
        Ok(node)
    }

    fn list(&mut self) -> Result<(Vec<Node>, usize), Mistake> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok((items, self.range(span)?.end));
            }
            items.push(self.node(event, span)?);
        }
    }

    fn map(&mut self) -> Result<(Vec<Entry>, usize), Mistake> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                let end = self.range(span)?.end;
                for node in merged {
                    inherit(&node, &mut entries);
                }
                return Ok((entries, end));
            }
            let line = span.start.line();
            let (Event::Scalar(key, ..), key_range) = (&event, self.range(span)?) else {
                return Err(Mistake { line, message: "the key of a mapping has to be a text".to_owned() });
            };
            let key = key.clone().into_owned();
            let (event, span) = self.next()?;
            let mut node = self.node(event, span)?;
            if node.range.is_empty() {
                // Nothing is written: its place is behind the key and its colon.
                let colon = self.text[key_range.end..].find(':').map_or(key_range.end, |at| key_range.end + at + 1);
                node.range = colon..colon;
            }
            if key == "<<" {
                merged.push(node);
            } else if entries.iter().any(|entry| entry.key == key) {
                return Err(Mistake { line, message: format!("the key {key:?} is there already") });
            } else {
                entries.push(Entry { key, key_range, node, inherited: false });
            }
        }
    }

    /// From the first dash, which the parser does not tell for all lists, to the end of the last item.
    fn list_range(&self, items: &[Node], range: &Range<usize>) -> (usize, usize) {
        let first = items.first().map_or(range.start, |item| item.range.start);
        let before = self.text[..first].trim_end();
        let start = if before.ends_with('-') { before.len() - 1 } else { range.start };
        (start, items.last().map_or(range.end, |item| item.range.end.max(start)))
    }

    fn column(&self, at: usize) -> usize {
        let before = &self.text[..at];
        before.rsplit_once('\n').map_or(before, |(_, line)| line).chars().count()
    }

    fn charge(&mut self, nodes: usize, span: Span) -> Result<(), Mistake> {
        self.nodes += nodes;
        let message = || format!("the file has more than {MAX_NODES} values, aliases written out");
        if self.nodes > MAX_NODES { Err(Mistake { line: span.start.line(), message: message() }) } else { Ok(()) }
    }

    fn range(&self, span: Span) -> Result<Range<usize>, Mistake> {
        let range = span.byte_range().filter(|range| range.start <= range.end && self.text.get(range.clone()).is_some());
        range.ok_or_else(|| Mistake { line: span.start.line(), message: "the parser does not say where this is".to_owned() })
    }
}

/// From the first key to the end of the last value.
fn block_range(entries: &[Entry], start: &Range<usize>) -> (usize, usize) {
    let own = || entries.iter().filter(|entry| !entry.inherited);
    let first = own().next().map_or(start.start, |entry| entry.key_range.start);
    let last = own().map(|entry| entry.node.range.end.max(entry.key_range.end)).max().unwrap_or(start.end);
    (first, last)
}

fn syntax(error: &ScanError) -> Mistake {
    Mistake { line: error.marker().line(), message: format!("not valid YAML: {}", error.info()) }
}

/// Adds what a merge key's value has and the mapping has not.
fn inherit(node: &Node, entries: &mut Vec<Entry>) {
    match &node.content {
        Content::Map { flow: _, entries: inherited } => {
            for entry in inherited {
                if !entries.iter().any(|own| own.key == entry.key) {
                    entries.push(Entry { inherited: true, ..entry.clone() });
                }
            }
        }
        Content::List { flow: _, items } => items.iter().for_each(|item| inherit(item, entries)),
        Content::Scalar { .. } => {}
    }
}

fn size(node: &Node) -> usize {
    match &node.content {
        Content::Scalar { .. } => 1,
        Content::Map { flow: _, entries } => 1 + entries.iter().map(|entry| size(&entry.node)).sum::<usize>(),
        Content::List { flow: _, items } => 1 + items.iter().map(size).sum::<usize>(),
    }
}

/// What a scalar is by YAML 1.2's core schema, and whether YAML 1.1, which clusters' tools speak, would disagree.
fn scalar(text: &str, plain: bool) -> (Value, bool) {
    if !plain {
        return (Value::String(text.to_owned()), false);
    }
    let value = match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    };
    (value, is_ambiguous(text))
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let whole = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    let radix = |prefix, radix| text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok()).map(Value::from);
    let fraction = || text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from);
    whole.ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)).or_else(fraction)
}

/// Octal numbers without an `o`, numbers with underscores, and the other words for truth values.
pub(super) fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "Y", "N"];
    if WORDS.contains(&text) || WORDS.contains(&text.to_ascii_lowercase().as_str()) {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let numeric = digits.starts_with(|first: char| first.is_ascii_digit());
    let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let underscored = numeric && digits.contains('_') && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'e'));
    octal || underscored || (numeric && digits.starts_with("0b"))
}
