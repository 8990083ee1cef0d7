//! Figures that scenarios have measured: a table at the end of the tier, and `target/cluster-report.json`.

use super::repository;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

/// All figures so far.
#[derive(Debug, Default)]
pub struct Report(Mutex<Vec<Figure>>);

#[derive(Debug, Clone)]
struct Figure {
    scenario: String,
    what: String,
    value: String,
}

impl Report {
    /// Notes a figure.
    ///
    /// # Panics
    /// Never, unless another thread did while noting.
    pub fn figure(&self, scenario: &str, what: &str, value: impl Into<String>) {
        let value = value.into();
        super::say(&format!("measured: {what}: {value}"));
        let figure = Figure { scenario: scenario.to_owned(), what: what.to_owned(), value };
        self.0.lock().expect("no panic while noting").push(figure);
    }

    /// The table.
    ///
    /// # Panics
    /// Never, unless another thread did while noting.
    pub fn table(&self) -> String {
        let figures = self.0.lock().expect("no panic while noting");
        let width = |column: fn(&Figure) -> &str| figures.iter().map(|f| column(f).chars().count()).max().unwrap_or_default();
        let (first, second) = (width(|f| &f.scenario), width(|f| &f.what));
        let mut table = String::new();
        for Figure { scenario, what, value } in figures.iter() {
            let _infallible = writeln!(table, "{scenario:first$}  {what:second$}  {value}");
        }
        table
    }

    /// Writes the JSON, and says where it is.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self) -> String {
        let figures = self.0.lock().expect("no panic while noting");
        let rows: Vec<_> = figures.iter().map(|f| json!({"scenario": f.scenario, "what": f.what, "value": f.value})).collect();
        let file = repository().join("target/cluster-report.json");
        let text = serde_json::to_string_pretty(&rows).expect("JSON");
        std::fs::write(&file, text + "\n").unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        "target/cluster-report.json".to_owned()
    }
}

/// A duration in seconds, as people read it.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A duration in milliseconds, as people read it.
pub fn millis(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

/// Bytes in MiB, as people read it.
pub fn mebibytes(bytes: u64) -> String {
    // Memory of processes: far below 2^52.
    let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
    format!("{:.1} MiB", f64::from(kib) / 1024.0)
}

/// p50 and p99 (of few values: the median and the slowest) as people read them.
///
/// # Panics
/// When there are no values.
pub fn percentiles(values: &[Duration]) -> String {
    format!("p50 {}, p99 {} (n = {})", millis(percentile(values, 50)), millis(percentile(values, 99)), values.len())
}

/// The smallest value that at least so many in a hundred do not exceed.
///
/// # Panics
/// When there are no values.
pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values() {
        let values: Vec<_> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(10));
        assert_eq!(percentile(&values, 99), Duration::from_millis(20));
        assert_eq!(percentile(&values[..1], 50), Duration::from_millis(1));
    }

    #[test]
    fn the_table_has_columns() {
        let report = Report::default();
        report.figure("a", "long name", "1 s");
        report.figure("bcd", "x", "2 s");
        assert_eq!(report.table(), "a    long name  1 s\nbcd  x          2 s\n");
    }
}
