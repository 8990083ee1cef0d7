//! Samples of a `/metrics` page in Prometheus' text format.

use std::collections::BTreeMap;

/// What one scrape gave.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Metrics {
    /// Reads a page.
    ///
    /// # Panics
    /// When a line is none of the format.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self { samples: lines.map(|line| Sample::parse(line).unwrap_or_else(|| panic!("no sample: {line}"))).collect() }
    }

    /// All samples of a name whose labels have these values.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        let fits = |sample: &Sample| labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value));
        self.samples.iter().filter(move |sample| sample.name == name && fits(sample))
    }

    /// The sum of these samples; 0 when there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).fold(0.0, |sum, sample| sum + sample.value)
    }

    /// Every name on the page.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(|sample| sample.name.as_str())
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let (series, value) = line.rsplit_once(' ')?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = series.split_once('{') else {
            return Some(Self { name: series.to_owned(), labels: BTreeMap::new(), value });
        };
        let mut rest = labels.strip_suffix('}')?;
        let mut labels = BTreeMap::new();
        while !rest.is_empty() {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.trim_start_matches(',').to_owned(), value);
            rest = after;
        }
        Some(Self { name: name.to_owned(), labels, value })
    }
}

/// A label's value up to its closing quote, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (escaped, c) {
            (true, 'n') => value.push('\n'),
            (true, c) => value.push(c),
            (false, '"') => return Some((value, &text[at + 1..])),
            (false, '\\') => {}
            (false, c) => value.push(c),
        }
        escaped = !escaped && c == '\\';
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_by_their_labels() {
        let page = "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"a,\\\"}b\"} 2\na{x=\"2\",y=\"c\"} 3e0\nb 1\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.sum("a", &[]), 5.0);
        assert_eq!(metrics.sum("a", &[("y", "a,\"}b")]), 2.0);
        assert_eq!(metrics.sum("a", &[("x", "2"), ("y", "d")]), 0.0);
        assert_eq!(metrics.sum("b", &[]), 1.0);
        assert_eq!(metrics.names().count(), 3);
    }
}
