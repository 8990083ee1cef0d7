//! What a command says while it works: a line a step for people, or one JSON object at the end for programs.

use crate::command_line::Output;
use crate::console::Console;
use crate::text::{Line, Style};
use serde::Serialize;
use std::io::{self, Write};

/// The writer of a command's lines.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    colour: bool,
}

impl Progress {
    /// For a form of output.
    pub(crate) fn new(output: Output) -> Self {
        Self { output, colour: Console::wants_colour() }
    }

    /// Something is done.
    pub(crate) fn done(&self, text: &str) {
        self.line(Style::Good, "✓", text);
    }

    /// Something is being waited for, or is worth knowing.
    pub(crate) fn note(&self, text: &str) {
        self.line(Style::Dim, "·", text);
    }

    /// Something may need somebody.
    pub(crate) fn warn(&self, text: &str) {
        self.line(Style::Bold, "!", text);
    }

    /// Something went wrong; always to standard error.
    pub(crate) fn fail(&self, text: &str) {
        let _closed = writeln!(io::stderr().lock(), "{}", self.shown(Style::Bad, "✗", text));
    }

    /// The result, for programs.
    pub(crate) fn result(&self, result: &impl Serialize) {
        if self.output == Output::Json
            && let Ok(json) = serde_json::to_string(result)
        {
            let _closed = writeln!(io::stdout().lock(), "{json}");
        }
    }

    /// Lines for people go to standard output, unless that is for a program.
    fn line(&self, style: Style, mark: &str, text: &str) {
        let line = self.shown(style, mark, text);
        let _closed = match self.output {
            Output::Text => writeln!(io::stdout().lock(), "{line}"),
            Output::Json => writeln!(io::stderr().lock(), "{line}"),
        };
    }

    fn shown(&self, style: Style, mark: &str, text: &str) -> String {
        // A text of several lines keeps them.
        let mut lines = text.lines();
        let mut first = Line::new(style, mark);
        first.push(Style::Plain, format!(" {}", lines.next().unwrap_or_default()));
        let mut out = first.render(usize::MAX, self.colour);
        for line in lines {
            out.push_str("\n  ");
            out.push_str(&Line::new(Style::Plain, line).render(usize::MAX, self.colour));
        }
        out
    }
}
