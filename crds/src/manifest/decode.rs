//! Serde over the tree: every error and every unknown field has its path and place.

use std::{cell::RefCell, collections::BTreeSet, fmt};

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer};

use super::{
    problem::{Level, Position},
    suggest,
    tree::{Entry, Kind, Node, Scalar, Value},
};

/// Most errors looked for in one object; each costs one more pass over it.
const MAX_ERRORS: usize = 20;
/// Most warnings of one object.
const MAX_WARNINGS: usize = 100;
/// Longest text that is quoted in a message.
const MAX_QUOTED: usize = 60;

/// Something found in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) at: Position,
    pub(super) field_path: String,
    pub(super) message: String,
}

/// Reads `node` as a `T`. Every error in it is found, not only the first: a value that cannot be read is left out and
/// reading starts again. Without a `T` there is at least one error in `findings`.
pub(super) fn decode<T: DeserializeOwned>(node: &Node, findings: &mut Vec<Finding>) -> Option<T> {
    let mut errors = Vec::new();
    let mut notes = Notes::default();
    let mut value = None;
    while errors.len() < MAX_ERRORS {
        notes.found.get_mut().clear();
        let error = match T::deserialize(Decoder { node, path: Path::Root, notes: &notes }) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(error) => error,
        };
        let (path, at) = error.at.unwrap_or_else(|| (String::new(), node.at));
        let field = join(&path, error.missing);
        // A field that is missing because it was left out here is no news.
        if !(error.missing.is_some() && notes.left_out.contains(&field)) {
            errors.push(Finding { level: Level::Error, at, field_path: field, message: error.message });
        }
        if path.is_empty() || !notes.left_out.insert(path) {
            break;
        }
    }
    findings.append(&mut notes.found.take());
    if errors.is_empty() {
        return value;
    }
    findings.append(&mut errors);
    None
}

fn join(path: &str, field: Option<&str>) -> String {
    match field {
        Some(field) if path.is_empty() => field.to_owned(),
        Some(field) => format!("{path}.{field}"),
        None => path.to_owned(),
    }
}

/// What is gathered during one pass.
#[derive(Default)]
struct Notes {
    /// Warnings.
    found: RefCell<Vec<Finding>>,
    /// Paths of values that could not be read in an earlier pass.
    left_out: BTreeSet<String>,
}

impl Notes {
    fn leaves_out(&self, path: Path<'_>) -> bool {
        !self.left_out.is_empty() && self.left_out.contains(&path.to_string())
    }

    fn warn(&self, at: Position, field_path: String, message: String) {
        let mut found = self.found.borrow_mut();
        if found.len() >= MAX_WARNINGS {
            return;
        }
        found.push(Finding { level: Level::Warning, at, field_path, message });
    }
}

/// The way from the root to a value.
#[derive(Clone, Copy)]
enum Path<'p> {
    Root,
    Field(&'p Self, &'p str),
    Item(&'p Self, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(parent, name) if name.contains(['.', '[', '/']) || name.is_empty() => {
                write!(f, "{parent}[{name:?}]")
            }
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Why a value cannot be read. The place is filled in by the innermost decoder that the error passes.
#[derive(Debug)]
struct DecodeError {
    message: String,
    at: Option<(String, Position)>,
    /// The name of the field that is not there.
    missing: Option<&'static str>,
}

impl DecodeError {
    fn new(message: String) -> Self {
        Self { message, at: None, missing: None }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {found}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = suggest::hint(variant, expected.iter().copied());
        Self::new(format!("expected one of {}, found {variant:?}{hint}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { message: "is required, but missing".to_owned(), at: None, missing: Some(field) }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'p, 'de> {
    node: &'de Node,
    path: Path<'p>,
    notes: &'p Notes,
}

impl<'de> Decoder<'_, 'de> {
    /// Gives an error this decoder's place, unless it has one.
    fn locate(&self, mut error: DecodeError) -> DecodeError {
        if error.at.is_none() {
            error.at = Some((self.path.to_string(), self.node.at));
        }
        error
    }

    fn expected(&self, what: &str) -> DecodeError {
        self.locate(DecodeError::new(format!("expected {what}, found {}", describe(self.node))))
    }

    fn scalar(&self, what: &str) -> Result<&'de Scalar, DecodeError> {
        match &self.node.value {
            Value::Scalar(scalar) => Ok(scalar),
            Value::List(_) | Value::Map(_) => Err(self.expected(what)),
        }
    }

    /// A text; what YAML takes for something else has to be in quotes, as a cluster wants it.
    fn text(&self) -> Result<&'de str, DecodeError> {
        let scalar = self.scalar("a string")?;
        match scalar.kind() {
            Kind::Text => Ok(&scalar.text),
            Kind::Null => Err(self.expected("a string")),
            Kind::Bool(_) | Kind::OldBool | Kind::Int(_) | Kind::Float(_) => {
                let mut error = self.expected("a string");
                error.message.push_str(": put it in quotes");
                Err(error)
            }
        }
    }

    fn integer(&self, min: i128, max: i128) -> Result<i128, DecodeError> {
        match self.scalar("an integer")?.kind() {
            Kind::Int(value) if (min..=max).contains(&value) => Ok(value),
            Kind::Int(_) if max > i128::from(u32::MAX) => Err(self.expected(&format!("an integer of at least {min}"))),
            Kind::Int(_) => Err(self.expected(&format!("an integer from {min} to {max}"))),
            Kind::Null | Kind::Bool(_) | Kind::OldBool | Kind::Float(_) | Kind::Text => Err(self.expected("an integer")),
        }
    }
}

/// What a value is, for a message.
fn describe(node: &Node) -> String {
    let scalar = match &node.value {
        Value::Scalar(scalar) => scalar,
        Value::List(_) => return "a list".to_owned(),
        Value::Map(_) => return "a mapping".to_owned(),
    };
    match scalar.kind() {
        Kind::Null => "nothing".to_owned(),
        Kind::Bool(_) | Kind::OldBool | Kind::Int(_) | Kind::Float(_) => shorten(&scalar.text),
        Kind::Text => format!("{:?}", shorten(&scalar.text)),
    }
}

/// `text`, or its beginning when it is long.
pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_QUOTED {
        return text.to_owned();
    }
    text.chars().take(MAX_QUOTED).chain(['…']).collect()
}

/// One method for each integer type: serde has twelve.
macro_rules! integers {
    ($($method:ident, $visit:ident, $type:ty;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            let value = self.integer(i128::from(<$type>::MIN), i128::from(<$type>::MAX))?;
            let value = <$type>::try_from(value).map_err(|_| self.expected("an integer"))?;
            visitor.$visit(value).map_err(|error| self.locate(error))
        })+
    };
}

impl<'de> de::Deserializer<'de> for Decoder<'_, 'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = match &self.node.value {
            Value::Scalar(scalar) => scalar,
            Value::List(_) => return self.deserialize_seq(visitor),
            Value::Map(_) => return self.deserialize_map(visitor),
        };
        let result = match scalar.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Int(value) => match (i64::try_from(value), u64::try_from(value)) {
                (Ok(value), _) => visitor.visit_i64(value),
                (Err(_), Ok(value)) => visitor.visit_u64(value),
                (Err(_), Err(_)) => return Err(self.expected("a number of 64 bits")),
            },
            Kind::Float(value) => visitor.visit_f64(value),
            Kind::OldBool | Kind::Text => visitor.visit_borrowed_str(&scalar.text),
        };
        result.map_err(|error| self.locate(error))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.scalar("true or false")?.kind() {
            Kind::Bool(value) => visitor.visit_bool(value).map_err(|error| self.locate(error)),
            Kind::Null | Kind::OldBool | Kind::Int(_) | Kind::Float(_) | Kind::Text => Err(self.expected("true or false")),
        }
    }

    integers! {
        deserialize_i8, visit_i8, i8;
        deserialize_i16, visit_i16, i16;
        deserialize_i32, visit_i32, i32;
        deserialize_i64, visit_i64, i64;
        deserialize_u8, visit_u8, u8;
        deserialize_u16, visit_u16, u16;
        deserialize_u32, visit_u32, u32;
        deserialize_u64, visit_u64, u64;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let scalar = self.scalar("a number")?;
        match scalar.kind() {
            Kind::Int(_) | Kind::Float(_) => match scalar.text.parse::<f64>() {
                Ok(value) if value.is_finite() => visitor.visit_f64(value).map_err(|error| self.locate(error)),
                Ok(_) | Err(_) => Err(self.expected("a number")),
            },
            Kind::Null | Kind::Bool(_) | Kind::OldBool | Kind::Text => Err(self.expected("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.text()?).map_err(|error| self.locate(error))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }.map_err(|error| self.locate(error))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_unit() } else { Err(self.expected("nothing")) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self).map_err(|error| self.locate(error))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::List(items) = &self.node.value else { return Err(self.expected("a list")) };
        visitor.visit_seq(Items { list: self, items: items.iter().enumerate() }).map_err(|error| self.locate(error))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let Value::Map(entries) = &self.node.value else { return Err(self.expected("a mapping")) };
        let fields = Fields { mapping: self, entries: entries.iter(), known: None, value: None };
        visitor.visit_map(fields).map_err(|error| self.locate(error))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let Value::Map(entries) = &self.node.value else { return Err(self.expected("a mapping")) };
        let fields = Fields { mapping: self, entries: entries.iter(), known: Some(known), value: None };
        visitor.visit_map(fields).map_err(|error| self.locate(error))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let text = self.text()?;
        let deserializer: StrDeserializer<'_, DecodeError> = text.into_deserializer();
        let value = visitor.visit_enum(deserializer).map_err(|error| self.locate(error))?;
        if !known.contains(&text) {
            // An open enumeration: the object is in force, and its status will say more.
            let hint = suggest::hint(text, known.iter().copied());
            let message = format!("unknown value {:?}{hint} (known: {})", shorten(text), known.join(", "));
            self.notes.warn(self.node.at, self.path.to_string(), message);
        }
        Ok(value)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }
}

/// The items of a list.
struct Items<'p, 'de> {
    list: Decoder<'p, 'de>,
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Decoder { node: _, path, notes } = &self.list;
        let next = self.items.find(|(index, _)| !notes.leaves_out(Path::Item(path, *index)));
        let Some((index, node)) = next else { return Ok(None) };
        seed.deserialize(Decoder { node, path: Path::Item(path, index), notes }).map(Some)
    }
}

/// The entries of a mapping. A field without a value counts as absent, as on an API server.
struct Fields<'p, 'de> {
    mapping: Decoder<'p, 'de>,
    entries: std::slice::Iter<'de, Entry>,
    /// The fields that a struct has; none for a mapping with free keys.
    known: Option<&'static [&'static str]>,
    value: Option<&'de Entry>,
}

impl Fields<'_, '_> {
    /// Whether the struct has the field; warns when not.
    fn has(&self, entry: &Entry) -> bool {
        let Some(known) = self.known else { return true };
        if known.contains(&entry.key.as_str()) {
            return true;
        }
        let Decoder { node: _, path, notes } = &self.mapping;
        if matches!(path, Path::Root) && matches!(entry.key.as_str(), "apiVersion" | "kind") {
            return false; // has been looked at before
        }
        let hint = suggest::hint(&entry.key, known.iter().copied());
        let field = Path::Field(path, &entry.key);
        notes.warn(entry.key_at, field.to_string(), format!("unknown field{hint}; it has no effect"));
        false
    }
}

impl<'de> de::MapAccess<'de> for Fields<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Decoder { node: _, path, notes } = self.mapping;
        loop {
            let Some(entry) = self.entries.next() else { return Ok(None) };
            if !self.has(entry) || entry.value.is_null() || notes.leaves_out(Path::Field(&path, &entry.key)) {
                continue;
            }
            self.value = Some(entry);
            let key: StrDeserializer<'_, DecodeError> = entry.key.as_str().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Decoder { node: _, path, notes } = self.mapping;
        let Some(entry) = self.value.take() else {
            return Err(DecodeError::new("a value was asked for before its key".to_owned()));
        };
        seed.deserialize(Decoder { node: &entry.value, path: Path::Field(&path, &entry.key), notes })
    }
}
