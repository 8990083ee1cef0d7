//! Where `up` prints: a table redrawn in place on a terminal, plain lines, or JSON lines; with messages above in their order.

use crate::table::{self, View};
use crate::text::Line;
use std::io::{self, IsTerminal, Write};

/// How the figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A table that is redrawn in place.
    Table,
    /// Lines, one for each route and version.
    Plain,
    /// One JSON object a line.
    Json,
}

/// The only writer to standard output and standard error while `up` runs.
///
/// Messages go to standard output in the table's mode, so that they stand above the table, and otherwise to standard error, so that
/// standard output has figures only. A terminal that is gone ends nothing: what cannot be written is dropped.
#[derive(Debug)]
pub(crate) struct Console {
    mode: Mode,
    colour: bool,
    /// The widths of the lines of the table as it stands, top first.
    drawn: Vec<usize>,
    last: Option<View>,
}

impl Console {
    /// Takes over the terminal, when `mode` is a table.
    pub(crate) fn new(mode: Mode, colour: bool) -> Self {
        let console = Self { mode, colour, drawn: Vec::new(), last: None };
        if mode == Mode::Table {
            // Hidden, or the cursor jumps about while lines are written.
            console.write("\x1b[?25l");
        }
        console
    }

    /// Whether the figures can be a table that is redrawn.
    pub(crate) fn can_redraw() -> bool {
        io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }

    /// Whether colours are wanted: a terminal, and nothing in `NO_COLOR` (no-color.org).
    pub(crate) fn wants_colour() -> bool {
        Self::can_redraw() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }

    /// Prints a message for people.
    pub(crate) fn say(&mut self, line: &Line) {
        if self.mode == Mode::Table {
            let text = format!("{}{}\r\n", self.erase(), line.render(usize::MAX, self.colour));
            self.drawn.clear();
            let table = self.last.take().map(|view| self.draw(view)).unwrap_or_default();
            self.write(&format!("{text}{table}"));
        } else {
            let _closed = writeln!(io::stderr().lock(), "{}", line.render(usize::MAX, false));
        }
    }

    /// Shows the figures.
    pub(crate) fn show(&mut self, view: View) {
        match self.mode {
            Mode::Table => {
                let text = format!("{}{}", self.erase(), self.draw(view));
                self.write(&text);
            }
            Mode::Plain => self.write(&table::plain(&view).iter().map(|line| format!("{line}\n")).collect::<String>()),
            Mode::Json => match serde_json::to_string(&view) {
                Ok(json) => self.write(&format!("{json}\n")),
                Err(error) => self.say(&Line::new(crate::text::Style::Bad, format!("the figures cannot be written as JSON: {error}"))),
            },
        }
    }

    /// Draws the table again, as after a change of the window's size.
    pub(crate) fn redraw(&mut self) {
        if let Some(view) = self.last.take() {
            self.show(view);
        }
    }

    fn erase(&self) -> String {
        erase(&self.drawn, size().0)
    }

    /// The table's text; remembers its shape.
    fn draw(&mut self, view: View) -> String {
        let (columns, rows) = size();
        // One column stays free, or the terminal would wrap after a full line.
        let width = columns.saturating_sub(1);
        let mut lines = table::lines(&view, width);
        let room = rows.saturating_sub(2).max(1);
        if lines.len() > room {
            let hidden = lines.len() - (room - 1);
            lines.truncate(room - 1);
            lines.push(Line::new(crate::text::Style::Dim, format!("… {hidden} more lines: make the window higher")));
        }
        self.drawn = lines.iter().map(|line| line.width().min(width)).collect();
        self.last = Some(view);
        lines.iter().map(|line| format!("{}\r\n", line.render(width, self.colour))).collect()
    }

    fn write(&self, text: &str) {
        let mut out = io::stdout().lock();
        // One write between the marks of a synchronized update: the terminal never shows half a table.
        let written = match self.mode {
            Mode::Table => write!(out, "\x1b[?2026h{text}\x1b[?2026l"),
            Mode::Plain | Mode::Json => out.write_all(text.as_bytes()),
        };
        let _closed = written.and_then(|()| out.flush());
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.mode == Mode::Table {
            self.write("\x1b[?25h");
        }
    }
}

/// The sequence that takes lines of these widths away: the cursor goes to the first and clears down from there (ECMA-48 CUU, ED).
///
/// A window that was made narrower has wrapped the lines, so each may take several rows now.
fn erase(drawn: &[usize], columns: usize) -> String {
    let rows: usize = drawn.iter().map(|width| width.div_ceil(columns.max(1)).max(1)).sum();
    if rows == 0 { String::new() } else { format!("\x1b[{rows}A\r\x1b[J") }
}

/// Columns and rows of the terminal; 80 × 24 where it does not say.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        Ok(_) | Err(_) => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_narrower_window_has_wrapped_are_erased_whole() {
        assert_eq!(erase(&[], 80), "");
        assert_eq!(erase(&[79, 0, 20], 80), "\x1b[3A\r\x1b[J");
        assert_eq!(erase(&[79, 0, 20], 40), "\x1b[4A\r\x1b[J");
        assert_eq!(erase(&[79, 0, 20], 0), "\x1b[100A\r\x1b[J");
    }
}
