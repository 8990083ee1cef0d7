//! Reading variables and noting what is wrong with them, so that all mistakes are told at once.

use super::ConfigErrors;
use std::ffi::OsString;
use std::fmt;
use std::str::FromStr;

/// Takes values and notes what is wrong with them.
pub(crate) struct Reader<L> {
    lookup: L,
    mistakes: Vec<String>,
}

impl<L: Fn(&str) -> Option<OsString>> Reader<L> {
    /// Reads variables through `lookup`.
    pub(crate) fn new(lookup: L) -> Self {
        Self { lookup, mistakes: Vec::new() }
    }

    /// Notes a mistake: a sentence that begins with the variable's name.
    pub(crate) fn note(&mut self, sentence: impl Into<String>) {
        self.mistakes.push(sentence.into());
    }

    /// The value that was read, if all of it could be.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.mistakes.is_empty() { Ok(value) } else { Err(ConfigErrors(self.mistakes)) }
    }

    /// An empty variable counts as absent, as templates leave them.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        match (self.lookup)(name)?.into_string() {
            Ok(text) => Some(text.trim().to_owned()).filter(|t| !t.is_empty()),
            Err(_) => {
                self.mistakes.push(format!("{name} is not UTF-8: write it in plain text."));
                None
            }
        }
    }

    fn parsed<T>(&mut self, name: &str, text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        parse(text).map_err(|reason| self.mistakes.push(format!("{name}=\"{text}\": {reason}."))).ok()
    }

    /// A value without which nothing starts.
    pub(crate) fn required<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let noted = self.mistakes.len();
        let Some(text) = self.text(name) else {
            if self.mistakes.len() == noted {
                self.mistakes.push(format!("{name} is not set: the sidecar cannot start without it."));
            }
            return None;
        };
        self.parsed(name, &text, parse)
    }

    /// A value, or the parsed default.
    pub(crate) fn required_or<T>(&mut self, name: &str, default: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name).unwrap_or_else(|| default.to_owned());
        self.parsed(name, &text, parse)
    }

    /// A value, if the variable is set and right.
    pub(crate) fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        self.parsed(name, &text, parse)
    }

    /// A value, or the default.
    pub(crate) fn or<T>(&mut self, name: &str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.optional(name, parse).unwrap_or(default)
    }

    /// A list by commas; each item that is wrong has its own sentence, and so has a list of more than `max` items.
    pub(crate) fn list_of<T>(&mut self, name: &str, max: usize, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some(text) = self.text(name) else { return Vec::new() };
        let items: Vec<_> = text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
        if items.len() > max {
            self.note(format!("{name} has {} items: at most {max} are possible.", items.len()));
            return Vec::new();
        }
        items.into_iter().filter_map(|item| self.parsed(name, item, &parse)).collect()
    }

    /// Notes a variable that must not be there.
    pub(crate) fn refuse_secret(&mut self, name: &str, file: &str) {
        if (self.lookup)(name).is_some() {
            self.mistakes
                .push(format!("{name} is set: a secret does not belong in an environment, write it to a file and name that in {file}."));
        }
    }
}

/// A number within bounds.
pub(crate) fn parse_within<T: FromStr + PartialOrd + fmt::Display + Copy>(text: &str, min: T, max: T) -> Result<T, String> {
    let number = text.trim().parse().ok().filter(|n| (min..=max).contains(n));
    number.ok_or_else(|| format!("\"{text}\" is not a whole number from {min} to {max}"))
}

/// An error as the end of a sentence.
pub(crate) fn sentence(error: impl fmt::Display) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}
