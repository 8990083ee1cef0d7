//! Turns raw times into the figures that are printed: percentiles, medians, and when an open loop sends.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Most latencies that one run keeps (8 bytes each): 64 MiB, or 46 minutes at 3,000 requests per second.
pub(crate) const SAMPLES_MAX: usize = 8 << 20;

/// Latencies of one run, kept exactly.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    nanoseconds: Vec<u64>,
    dropped: u64,
}

/// What is reported of a run's latencies, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many requests the percentiles stand on.
    pub(crate) count: u64,
    /// Half of the requests took no longer than this.
    pub(crate) p50_us: f64,
    /// 99 of 100 requests took no longer than this.
    pub(crate) p99_us: f64,
    /// 999 of 1,000 requests took no longer than this.
    pub(crate) p999_us: f64,
    /// The slowest request.
    pub(crate) max_us: f64,
}

impl Latencies {
    /// Adds one latency; beyond [`SAMPLES_MAX`] it is only counted.
    pub(crate) fn record(&mut self, latency: Duration) {
        if self.nanoseconds.len() < SAMPLES_MAX {
            let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            self.nanoseconds.push(nanoseconds);
        } else {
            self.dropped += 1;
        }
    }

    /// How many latencies did not fit into [`SAMPLES_MAX`].
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Sorts the latencies and reads the percentiles off.
    pub(crate) fn summarize(mut self) -> Summary {
        self.nanoseconds.sort_unstable();
        let at = |per_mille| nearest_rank(&self.nanoseconds, per_mille).map_or(0.0, microseconds);
        Summary { count: self.nanoseconds.len() as u64, p50_us: at(500), p99_us: at(990), p999_us: at(999), max_us: at(1000) }
    }
}

/// Finds the percentile by nearest rank: the smallest sample that at least `per_mille` of 1,000 samples do not exceed.
///
/// `sorted` is in ascending order; `None` when it is empty.
pub(crate) fn nearest_rank(sorted: &[u64], per_mille: usize) -> Option<u64> {
    let rank = (sorted.len() * per_mille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied()
}

/// Finds the median; the mean of the two in the middle when the count is even, `None` when there is no sample.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(middle - 1)?, upper))
}

/// How the requests of an open loop follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrivals {
    /// All gaps are the same: nothing ever waits for another request unless a proxy is slower than the gap.
    Even,
    /// Gaps as between users who know nothing of each other (exponential): short queues form at any rate.
    Random,
}

/// The times, counted from the start, at which an open loop means to send within `length`, whatever became of the requests before.
///
/// A latency is counted from such a time and not from when the request could really be sent: a stall is then felt by every
/// request that was due during it, as a user would feel it (no coordinated omission). Random times are the same in every run.
pub(crate) fn schedule(arrivals: Arrivals, per_second: u64, length: Duration) -> Vec<Duration> {
    let mean = 1.0 / per_second.max(1) as f64;
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut at = 0.0;
    let mut times = Vec::new();
    // Each time is computed from its index or added to the last in 2^-52: neither drifts by a microsecond in an hour.
    while at < length.as_secs_f64() && times.len() < SAMPLES_MAX {
        times.push(Duration::from_secs_f64(at));
        at = match arrivals {
            Arrivals::Even => times.len() as f64 * mean,
            Arrivals::Random => at - mean * (1.0 - rng.f64()).ln(),
        };
    }
    times
}

/// Any number: what matters is that it is the same for every subject.
const SEED: u64 = 3000;

fn microseconds(nanoseconds: u64) -> f64 {
    // A latency is far below 2^52 ns (52 days), so the conversion is exact.
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_nearest_rank() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!(nearest_rank(&sorted, 500), Some(500));
        assert_eq!(nearest_rank(&sorted, 990), Some(990));
        assert_eq!(nearest_rank(&sorted, 999), Some(999));
        assert_eq!(nearest_rank(&sorted, 1000), Some(1000));
    }

    #[test]
    fn percentile_of_few_samples_is_one_of_them() {
        assert_eq!(nearest_rank(&[], 500), None);
        assert_eq!(nearest_rank(&[7], 0), Some(7));
        assert_eq!(nearest_rank(&[7], 999), Some(7));
        assert_eq!(nearest_rank(&[1, 2], 500), Some(1));
        assert_eq!(nearest_rank(&[1, 2], 501), Some(2));
    }

    #[test]
    fn summary_does_not_depend_on_the_order_of_arrival() {
        let mut latencies = Latencies::default();
        for microseconds in [5, 1, 4, 2, 3] {
            latencies.record(Duration::from_micros(microseconds));
        }
        let summary = latencies.summarize();
        assert_eq!(summary.count, 5);
        assert_eq!(summary.p50_us, 3.0);
        assert_eq!(summary.p99_us, 5.0);
        assert_eq!(summary.max_us, 5.0);
    }

    #[test]
    fn median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn even_times_do_not_drift() {
        let times = schedule(Arrivals::Even, 3000, Duration::from_secs(60));
        assert_eq!(times.len(), 180_000);
        assert_eq!(times[0], Duration::ZERO);
        let last = Duration::from_secs(60) - Duration::from_nanos(333_333);
        assert!(times[179_999].abs_diff(last) < Duration::from_nanos(10), "{:?}", times[179_999]);
    }

    #[test]
    fn random_times_have_the_rate_and_are_repeatable() {
        let times = schedule(Arrivals::Random, 3000, Duration::from_secs(10));
        // 30,000 expected, with a standard deviation of 173.
        assert!((29_000..31_000).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted());
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < Duration::from_micros(231)).count();
        // Half of exponential gaps are shorter than ln 2 of the mean (231 us of 333 us).
        assert!((0.48..0.52).contains(&(short as f64 / times.len() as f64)), "{short}");
        assert_eq!(times, schedule(Arrivals::Random, 3000, Duration::from_secs(10)));
    }

    #[test]
    fn stall_is_felt_by_every_request_that_was_due_during_it() {
        // A server that answers at once, except that it stands still for the first second; one connection.
        let mut latencies = Latencies::default();
        let mut free_at = Duration::from_secs(1);
        for due in schedule(Arrivals::Even, 1000, Duration::from_secs(2)) {
            free_at = due.max(free_at);
            latencies.record(free_at - due);
        }
        let summary = latencies.summarize();
        // Counted from the real sending, a single request of 2,000 would have been slow; half of them were.
        assert!(summary.p99_us > 900_000.0, "{summary:?}");
        assert_eq!(summary.max_us, 1_000_000.0);
    }
}
