//! What a process writes: kept in a file of bounded size, with the last lines at hand for the moment it crashes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

/// A longer line is cut: nobody reads on, and a process that never ends its line must not fill the memory.
const LINE_MAX: usize = 8 * 1024;
/// How many lines are at hand.
const LAST_LINES: usize = 20;
/// A log file that has become as large is moved to `NAME.1`, so that a process costs at most twice this on disk.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The line that is being read was cut already.
    cut: bool,
}

impl Lines {
    /// Takes the next bytes, and gives the lines that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                Some(_) | None => (piece, false),
            };
            let room = LINE_MAX - self.partial.len();
            self.partial.extend_from_slice(text.get(..room).unwrap_or(text));
            self.cut |= text.len() > room;
            if ended {
                lines.extend(self.end());
            }
        }
        lines
    }

    /// The line that has begun, if any.
    pub(crate) fn end(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.partial);
        let cut = std::mem::take(&mut self.cut);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\r');
        match (text.is_empty(), cut) {
            (true, _) => None,
            (false, true) => Some(format!("{text}…")),
            (false, false) => Some(text.to_owned()),
        }
    }
}

/// The log file of one process, and its last lines.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    last: VecDeque<String>,
}

impl Log {
    /// Opens the file for appending. Where that fails, lines are at hand but in no file.
    pub(crate) fn open(path: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&path).ok();
        let written = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |metadata| metadata.len());
        Self { path, file, written, last: VecDeque::new() }
    }

    /// Adds a line.
    pub(crate) fn line(&mut self, line: &str) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.to_owned());
        // A full disk must not end the mesh: the file is given up, the last lines stay at hand.
        if self.append(line).is_err() {
            self.file = None;
        }
    }

    /// The last line that says something, for a message about the end of the process; forgets all lines.
    pub(crate) fn take_last(&mut self) -> Option<String> {
        let last = self.last.iter().rev().find(|line| !line.trim().is_empty()).cloned();
        self.last.clear();
        last
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.written >= FILE_MAX {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            std::fs::rename(&self.path, older)?;
            *file = File::options().create(true).append(true).open(&self.path)?;
            self.written = 0;
        }
        writeln!(file, "{line}")?;
        self.written += line.len() as u64 + 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_lines_wherever_they_were_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\r\ntw"), ["one"]);
        assert_eq!(lines.push(b"o\n\nthree"), ["two"]);
        assert_eq!(lines.end(), Some("three".to_owned()));
        assert_eq!(lines.end(), None);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut lines = Lines::default();
        for _ in 0..10 {
            assert!(lines.push(&[b'x'; 4096]).is_empty());
        }
        assert!(lines.partial.len() <= LINE_MAX);
        let got = lines.push(b"y\nnext\n");
        assert_eq!(got.len(), 2);
        assert!(got[0].ends_with("x…"));
        assert_eq!(got[1], "next");
    }

    #[test]
    fn the_last_line_that_says_something_is_at_hand() {
        let mut log = Log::open(PathBuf::from("/dev/null"));
        for number in 0..50 {
            log.line(&format!("line {number}"));
        }
        log.line("  ");
        assert_eq!(log.last.len(), LAST_LINES);
        assert_eq!(log.take_last(), Some("line 49".to_owned()));
        assert_eq!(log.take_last(), None);
    }
}
