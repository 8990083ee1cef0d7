//! "Did you mean": the known word that is nearest to a mistyped one.

/// Longest word compared, in bytes: the cost is quadratic, and no field's name comes near it.
const MAX_WORD: usize = 64;

/// The word of `known` that is near enough to `word` to be meant, if there is one.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `, did you mean "…"?` for the nearest word, or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |meant| format!(", did you mean {meant:?}?"))
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > MAX_WORD || b.len() > MAX_WORD {
        return usize::MAX;
    }
    let (a, b) = (a.to_ascii_lowercase(), b.to_ascii_lowercase());
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits_and_swaps() {
        for (a, b, edits) in [
            ("", "", 0),
            ("weight", "weight", 0),
            ("weigth", "weight", 1),
            ("wieght", "weight", 1),
            ("Weight", "weight", 0),
            ("backendRef", "backendRefs", 1),
            ("a", "xyz", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn suggests_the_near_and_not_the_far() {
        let known = ["name", "namespace", "port", "weight"];
        assert_eq!(nearest("weigth", known), Some("weight"));
        assert_eq!(nearest("nmae", known), Some("name"));
        assert_eq!(nearest("replicas", known), None);
        assert_eq!(nearest(&"x".repeat(1000), known), None);
    }
}
