//! What is wrong in a manifest, and where.

use std::{fmt, path::Path, sync::Arc};

use crate::object::ObjectId;

/// A place in a file. Lines and columns (in characters) count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

impl Position {
    /// The beginning of a file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// What a problem means for its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The object, or the file, is not in force.
    Error,
    /// The object is in force; a part of it is not.
    Warning,
    /// Something was skipped, on purpose.
    Note,
}

/// One thing that is wrong in a manifest.
///
/// As text: `routes.yaml:14:17: HTTPRoute/default/reviews: spec.rules[0].backendRefs[0].weight: expected an integer,
/// found "ninety"`. Warnings and notes say so after the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it means for the object.
    pub level: Level,
    /// The file, as it was named to the reader.
    pub file: Arc<Path>,
    /// The place in the file; none when it is about the file itself.
    pub position: Option<Position>,
    /// The object, as far as it is known.
    pub object: Option<ObjectId>,
    /// The field; empty when it is about the whole object.
    pub field_path: String,
    /// What is wrong, in a lower-case sentence without a full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        f.write_str(match self.level {
            Level::Error => ": ",
            Level::Warning => ": warning: ",
            Level::Note => ": note: ",
        })?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if !self.field_path.is_empty() {
            write!(f, "{}: ", self.field_path)?;
        }
        f.write_str(&self.message)
    }
}
