//! Reads the Prometheus text format (version 0.0.4) that sidecars give at `/metrics`; knows nothing of what the series mean.

use std::borrow::Cow;

/// One line of an exposition: a series and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample<'a> {
    /// The metric's name, with the `_bucket`, `_sum` or `_count` of a histogram.
    pub(crate) name: &'a str,
    labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value; counters are never negative.
    pub(crate) value: f64,
}

impl Sample<'_> {
    /// The value of a label; an absent label is the empty one, as in Prometheus.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| *label == name).map_or("", |(_, value)| value)
    }
}

/// Reads the samples whose name begins with `prefix`, in their order.
///
/// Comments, blank lines and lines that are not samples are left out: a newer sidecar may say more than this reader knows.
pub(crate) fn samples<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = Sample<'a>> {
    text.lines().filter(move |line| line.starts_with(prefix)).filter_map(sample)
}

fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// A label's name and its value without escapes.
type Label<'a> = (&'a str, Cow<'a, str>);

/// Reads what follows the opening brace, up to and with the closing one.
fn labels(mut rest: &str) -> Option<(Vec<Label<'_>>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start();
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = quoted(after.trim_start().strip_prefix('"')?)?;
        labels.push((name.trim(), value));
        rest = after.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// Reads what follows an opening quote, up to and with the closing one.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text.as_bytes().get(end) == Some(&b'"') {
        return Some((Cow::Borrowed(text.get(..end)?), text.get(end + 1..)?));
    }
    let mut value = text.get(..end)?.to_owned();
    let mut characters = text.get(end..)?.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Cow::Owned(value), text.get(end + at + 1..)?)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Sample<'_> {
        samples(line, "").next().unwrap()
    }

    #[test]
    fn labels_are_read_with_their_escapes() {
        let sample = one(r#"heddle_x_total{route="HTTPRoute/a/b#0",odd="a\"b\\c\nd, e}",empty=""} 12"#);
        assert_eq!(sample.name, "heddle_x_total");
        assert_eq!(sample.label("route"), "HTTPRoute/a/b#0");
        assert_eq!(sample.label("odd"), "a\"b\\c\nd, e}");
        assert_eq!(sample.label("empty"), "");
        assert_eq!(sample.label("absent"), "");
        assert!((sample.value - 12.0).abs() < f64::EPSILON);
    }

    #[test]
    fn values_may_be_infinite_and_carry_a_timestamp() {
        assert!(one("up{le=\"+Inf\"} +Inf").value.is_infinite());
        assert!((one("up 1.5e3 1700000000000").value - 1500.0).abs() < f64::EPSILON);
        assert!((one("up{} 3").value - 3.0).abs() < f64::EPSILON);
        assert_eq!(one("up{a=\"b\",} 3").label("a"), "b");
    }

    #[test]
    fn what_is_no_sample_is_left_out() {
        let text = "# HELP a b\n# TYPE a counter\n\na{x=\"y\" 1\na{x=\"y\\\" 1\na\na nothing\na 1\nb 2\n";
        let names: Vec<_> = samples(text, "").map(|s| s.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(samples(text, "b").count(), 1);
    }
}
