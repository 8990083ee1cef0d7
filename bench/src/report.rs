//! What a run found: a table with ratios for people, JSON for programs.

use serde::Serialize;

use crate::stats::median;
use crate::subject::Subject;

/// A figure that is measured in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figure {
    /// Its name in JSON; the unit is its last part.
    pub(crate) name: &'static str,
    /// Its column.
    pub(crate) title: &'static str,
    /// Digits after the point in the table.
    pub(crate) digits: usize,
}

/// All samples of one figure of one subject in one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    scenario: &'static str,
    subject: Subject,
    figure: &'static str,
    /// In the order of the repetitions.
    samples: Vec<f64>,
    median: f64,
    /// Median over that of the base; none without a base.
    ratio: Option<f64>,
}

/// Something that a reader must know before believing a figure.
#[derive(Debug, Serialize)]
pub(crate) struct Note {
    scenario: &'static str,
    subject: Subject,
    what: String,
}

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// How to repeat it: the command line.
    command: Vec<String>,
    /// Cores, kernel, and versions of what was measured.
    machine: Vec<(String, String)>,
    /// Whose figures are 1.
    base: Option<Subject>,
    rows: Vec<Row>,
    notes: Vec<Note>,
    failed: bool,
    #[serde(skip)]
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    scenario: &'static str,
    title: String,
    columns: &'static [Figure],
}

impl Report {
    /// Makes an empty report. `base` is the subject that all ratios are against.
    pub(crate) fn new(machine: Vec<(String, String)>, base: Option<Subject>) -> Self {
        Self { command: std::env::args().collect(), machine, base, rows: Vec::new(), notes: Vec::new(), failed: false, tables: Vec::new() }
    }

    /// Announces a scenario: its table is printed in this place, under `title`, with `columns` in their order.
    pub(crate) fn table(&mut self, scenario: &'static str, title: String, columns: &'static [Figure]) {
        self.tables.push(Table { scenario, title, columns });
    }

    /// Adds one sample.
    pub(crate) fn sample(&mut self, scenario: &'static str, subject: Subject, figure: Figure, value: f64) {
        let row = self.rows.iter_mut().find(|row| row.scenario == scenario && row.subject == subject && row.figure == figure.name);
        if let Some(row) = row {
            row.samples.push(value);
            return;
        }
        self.rows.push(Row { scenario, subject, figure: figure.name, samples: vec![value], median: value, ratio: None });
    }

    /// Adds a warning, once.
    pub(crate) fn note(&mut self, scenario: &'static str, subject: Subject, what: String) {
        let known = |note: &Note| note.scenario == scenario && note.subject == subject && note.what == what;
        if !self.notes.iter().any(known) {
            self.notes.push(Note { scenario, subject, what });
        }
    }

    /// Adds a warning about something that should have been measured and was not.
    pub(crate) fn fail(&mut self, scenario: &'static str, subject: Subject, error: &anyhow::Error) {
        self.failed = true;
        self.note(scenario, subject, format!("failed: {error:#}"));
    }

    /// Whether anything failed.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Takes medians and ratios over all samples.
    pub(crate) fn finish(&mut self) {
        for row in &mut self.rows {
            row.median = median(&row.samples).unwrap_or(0.0);
        }
        let bases: Vec<_> =
            self.rows.iter().filter(|row| Some(row.subject) == self.base).map(|row| (row.scenario, row.figure, row.median)).collect();
        for row in &mut self.rows {
            let base = bases.iter().find(|(scenario, figure, _)| *scenario == row.scenario && *figure == row.figure);
            row.ratio = base.filter(|(_, _, base)| *base > 0.0).map(|(_, _, base)| row.median / base);
        }
    }

    /// Writes the tables.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            line(&mut text, &format!("{name}: {value}"));
        }
        for table in &self.tables {
            line(&mut text, "");
            line(&mut text, &format!("{}: {}", table.scenario, table.title));
            align(&mut text, &self.cells(table));
            for note in self.notes.iter().filter(|note| note.scenario == table.scenario) {
                line(&mut text, &format!("  ! {}: {}", note.subject.name(), note.what));
            }
        }
        text
    }

    /// Lays out one table: a head, and a line for each subject in the order of their first samples.
    fn cells(&self, table: &Table) -> Vec<Vec<String>> {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.scenario == table.scenario).collect();
        let mut subjects: Vec<Subject> = Vec::new();
        for row in &rows {
            if !subjects.contains(&row.subject) {
                subjects.push(row.subject);
            }
        }
        let mut lines = vec![vec![String::new()]];
        lines[0].extend(table.columns.iter().map(|column| column.title.to_owned()));
        for subject in subjects {
            let mut cells = vec![subject.name().to_owned()];
            for column in table.columns {
                let mut rows = rows.iter();
                let row = rows.find(|row| row.subject == subject && row.figure == column.name);
                cells.push(row.map_or_else(|| "–".to_owned(), |row| cell(row, column.digits)));
            }
            lines.push(cells);
        }
        lines
    }
}

fn cell(row: &Row, digits: usize) -> String {
    let value = grouped(row.median, digits);
    match row.ratio {
        Some(ratio) => format!("{value} ({ratio:.2}×)"),
        None => value,
    }
}

/// Writes a number with a space between thousands.
fn grouped(value: f64, digits: usize) -> String {
    let plain = format!("{value:.digits$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut grouped = String::new();
    for (index, character) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(' ');
        }
        grouped.push(character);
    }
    if !fraction.is_empty() {
        grouped.push('.');
        grouped.push_str(fraction);
    }
    grouped
}

fn align(text: &mut String, lines: &[Vec<String>]) {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for cells in lines {
        let mut out = String::from(" ");
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let padding = " ".repeat(width - cell.chars().count());
            // Names to the left, numbers to the right.
            let parts = if index == 0 { [cell.as_str(), &padding] } else { [&padding, cell.as_str()] };
            out.push(' ');
            out.extend(parts);
            out.push(' ');
        }
        line(text, out.trim_end());
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPS: Figure = Figure { name: "requests_per_second", title: "requests/s", digits: 0 };

    fn report() -> Report {
        let mut report = Report::new(Vec::new(), Some(Subject::Envoy));
        report.table("http1", "a title".to_owned(), &[RPS]);
        for value in [1000.0, 3000.0, 2000.0] {
            report.sample("http1", Subject::Envoy, RPS, value);
            report.sample("http1", Subject::Heddle, RPS, 3.0 * value);
        }
        report.sample("other", Subject::Heddle, RPS, 5.0);
        report.finish();
        report
    }

    #[test]
    fn ratios_are_of_medians_against_the_base_of_the_same_scenario() {
        let report = report();
        let ratios: Vec<_> = report.rows.iter().map(|row| (row.scenario, row.subject, row.median, row.ratio)).collect();
        assert_eq!(
            ratios,
            [
                ("http1", Subject::Envoy, 2000.0, Some(1.0)),
                ("http1", Subject::Heddle, 6000.0, Some(3.0)),
                ("other", Subject::Heddle, 5.0, None),
            ]
        );
    }

    #[test]
    fn table_has_a_line_for_each_subject() {
        let mut report = report();
        report.note("http1", Subject::Heddle, "2 errors".to_owned());
        report.note("http1", Subject::Heddle, "2 errors".to_owned());
        let text = report.text();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["", "http1: a title", "requests/s", "envoy   2 000 (1.00×)", "heddle  6 000 (3.00×)", "! heddle: 2 errors",]);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(1_234_567.891, 1), "1 234 567.9");
        assert_eq!(grouped(999.0, 0), "999");
        assert_eq!(grouped(-1000.0, 0), "-1 000");
        assert_eq!(grouped(-100.0, 0), "-100");
    }
}
