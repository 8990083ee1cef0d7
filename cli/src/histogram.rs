//! Durations counted in buckets, and the quantiles that can be told from them.

use std::collections::BTreeMap;

/// How many durations fell at or below each upper bound: a Prometheus histogram, whose buckets are cumulative.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    /// Cumulative counts by upper bound in seconds. Bounds are positive or infinite, and of those the order of the bits is the
    /// order of the numbers, which makes them a key.
    buckets: BTreeMap<u64, f64>,
}

impl Histogram {
    /// Adds a cumulative count at an upper bound, as read from the label `le`.
    ///
    /// A bound that is not a positive number is left out.
    pub(crate) fn add(&mut self, upper_bound_seconds: f64, count: f64) {
        if upper_bound_seconds > 0.0 {
            *self.buckets.entry(upper_bound_seconds.to_bits()).or_default() += count;
        }
    }

    /// Adds all that another one counted.
    ///
    /// Both must have the same bounds for an exact sum, which holds for one series of one version of the sidecar.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (bound, count) in &other.buckets {
            *self.buckets.entry(*bound).or_default() += count;
        }
    }

    /// What was counted since `earlier`; everything, where a count went back because the process began anew.
    #[must_use]
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let began_anew = self.buckets.iter().any(|(bound, count)| earlier.buckets.get(bound).is_some_and(|before| before > count));
        if began_anew {
            return self.clone();
        }
        let rest = |(bound, count): (&u64, &f64)| (*bound, count - earlier.buckets.get(bound).copied().unwrap_or(0.0));
        Self { buckets: self.buckets.iter().map(rest).collect() }
    }

    /// The duration in seconds below which the share `quantile` (0 to 1) of all lie; `None` when nothing was counted.
    ///
    /// Interpolates within a bucket as Prometheus' `histogram_quantile` does; above the last finite bound the answer is that bound.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<f64> {
        let total = *self.buckets.values().last()?;
        if total <= 0.0 {
            return None;
        }
        let rank = quantile.clamp(0.0, 1.0) * total;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, &count) in &self.buckets {
            let upper = f64::from_bits(*bound);
            if count >= rank {
                if upper.is_infinite() {
                    return Some(lower);
                }
                let inside = count - below;
                return Some(if inside <= 0.0 { upper } else { lower + (upper - lower) * (rank - below) / inside });
            }
            (lower, below) = (upper, count);
        }
        Some(lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &[(f64, f64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for (bound, count) in buckets {
            histogram.add(*bound, *count);
        }
        histogram
    }

    fn close(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let h = histogram(&[(0.01, 50.0), (0.02, 100.0), (f64::INFINITY, 100.0)]);
        close(h.quantile(0.5), 0.01);
        close(h.quantile(0.75), 0.015);
        close(h.quantile(0.99), 0.0198);
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(histogram(&[(0.1, 0.0), (f64::INFINITY, 0.0)]).quantile(0.5), None);
    }

    #[test]
    fn beyond_the_last_bound_the_bound_is_the_answer() {
        close(histogram(&[(1.0, 1.0), (f64::INFINITY, 10.0)]).quantile(0.99), 1.0);
    }

    #[test]
    fn sums_and_differences_keep_the_counts() {
        let first = histogram(&[(1.0, 2.0), (f64::INFINITY, 4.0)]);
        let second = histogram(&[(1.0, 5.0), (f64::INFINITY, 9.0)]);
        assert_eq!(second.since(&first), histogram(&[(1.0, 3.0), (f64::INFINITY, 5.0)]));
        let mut sum = first.clone();
        sum.merge(&second.since(&first));
        assert_eq!(sum, second);
    }

    #[test]
    fn a_count_that_went_back_is_a_new_beginning() {
        let before = histogram(&[(1.0, 5.0), (f64::INFINITY, 9.0)]);
        let after = histogram(&[(1.0, 1.0), (f64::INFINITY, 2.0)]);
        assert_eq!(after.since(&before), after);
    }
}
