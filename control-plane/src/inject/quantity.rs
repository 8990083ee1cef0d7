//! Amounts of CPU and memory as Kubernetes writes them (`resource.Quantity`): `250m`, `0.5`, `64Mi`, `1e3`.

/// Longest amount that is read: a longer one is a mistake, and its number would be rounded.
const MAX_LENGTH: usize = 24;

/// The suffixes and what they stand for.
const SUFFIXES: [(&str, f64); 15] = [
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("", 1.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1_024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
];

/// The number that an amount stands for: cores, or bytes. Nothing for what is no amount, or is not above zero.
pub fn parse(text: &str) -> Option<f64> {
    if text.len() > MAX_LENGTH || !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let number: f64 = digits.parse().ok()?;
    let factor = match SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        Some((_, factor)) => *factor,
        None => 10_f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-9..=18).contains(power))?),
    };
    Some(number * factor).filter(|amount| *amount > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_reads_them() {
        for (text, amount) in
            [("250m", 0.25), ("0.5", 0.5), ("1", 1.0), ("64Mi", 67_108_864.0), ("1e3", 1000.0), ("2E", 2e18), ("1E3", 1000.0), ("5k", 5e3)]
        {
            assert!(parse(text).is_some_and(|read| (read - amount).abs() <= amount * 1e-12), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "m", "-1", "+1", "1 Mi", "1mi", "1MB", "1.2.3", "0", "0m", "1e99", "e3", "1ee", "inf", "NaN", "١"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
