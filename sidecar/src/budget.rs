//! How many retries one backend may get from one worker: always bounded, whatever routes ask for.
//!
//! A retry is allowed when fewer than `percent` of the first tries of the last ten seconds were followed by one, or when fewer than
//! `min_per_second` were made lately: the larger of the two, as GEP-3388 has it. Each worker keeps its own account: first tries are spread
//! over workers as retries are, but the minimum is there once for each.

use heddle_model::retry::RetryBudget;
use std::time::Duration;
use tokio::time::Instant;

/// The ring turns once per second.
const BUCKET: Duration = Duration::from_secs(1);
/// Retries are remembered for at least ten seconds, in whole buckets beside the current one.
const BUCKETS: usize = 11;
/// First tries are remembered for at most ten seconds: one bucket less, so that no first try pays for two retries.
const BUCKETS_FIRST: usize = BUCKETS - 1;

/// The account. Every operation takes constant time.
#[derive(Debug)]
pub struct Budget {
    policy: RetryBudget,
    started: Instant,
    /// The current bucket, counted from `started`.
    current: u64,
    first: [u32; BUCKETS],
    retries: [u32; BUCKETS],
    first_sum: u64,
    retries_sum: u64,
    /// Retries that the minimum still allows, in millionths.
    reserve: u64,
    refilled: Instant,
}

/// The reserve's unit.
const MICROS: u64 = 1_000_000;

impl Budget {
    /// An account with a full reserve: the minimum of one second.
    pub fn new(policy: RetryBudget, now: Instant) -> Self {
        Self {
            policy,
            started: now,
            current: 0,
            first: [0; BUCKETS],
            retries: [0; BUCKETS],
            first_sum: 0,
            retries_sum: 0,
            reserve: u64::from(policy.min_per_second) * MICROS,
            refilled: now,
        }
    }

    /// Another policy from now on; what was counted stays.
    pub fn set(&mut self, policy: RetryBudget) {
        self.policy = policy;
        self.reserve = self.reserve.min(self.reserve_max());
    }

    /// Counts a first try.
    pub fn deposit(&mut self, now: Instant) {
        self.turn(now);
        let bucket = &mut self.first[slot(self.current)];
        if *bucket < u32::MAX {
            *bucket += 1;
            self.first_sum += 1;
        }
    }

    /// Asks for a retry, and counts it if it is allowed.
    pub fn withdraw(&mut self, now: Instant) -> bool {
        self.turn(now);
        self.refill(now);
        let in_proportion = (self.retries_sum + 1) * 100 <= self.first_sum * u64::from(self.policy.percent);
        let in_reserve = self.reserve >= MICROS;
        if !in_proportion && !in_reserve {
            return false;
        }
        // Whichever allowed it, it counts for both: the budget is the larger of the two and not their sum.
        self.reserve = self.reserve.saturating_sub(MICROS);
        self.retries[slot(self.current)] += 1;
        self.retries_sum += 1;
        true
    }

    fn reserve_max(&self) -> u64 {
        u64::from(self.policy.min_per_second) * MICROS
    }

    fn refill(&mut self, now: Instant) {
        let micros = u64::try_from(now.saturating_duration_since(self.refilled).as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(self.policy.min_per_second.into());
        self.reserve = self.reserve.saturating_add(gained).min(self.reserve_max());
        self.refilled += Duration::from_micros(micros);
    }

    /// Forgets the buckets that time has passed.
    fn turn(&mut self, now: Instant) {
        let bucket = now.saturating_duration_since(self.started).as_secs() / BUCKET.as_secs();
        // After a full turn all is forgotten, however long it was.
        let steps = bucket.saturating_sub(self.current).min(BUCKETS as u64 * 2);
        let skipped = bucket.saturating_sub(self.current) - steps;
        self.current += skipped;
        for _ in 0..steps {
            self.current += 1;
            let oldest = slot(self.current);
            self.retries_sum -= u64::from(std::mem::take(&mut self.retries[oldest]));
            // `BUCKETS_FIRST` before the current one, in a ring of `BUCKETS`.
            let oldest_first = slot(self.current + (BUCKETS - BUCKETS_FIRST) as u64);
            self.first_sum -= u64::from(std::mem::take(&mut self.first[oldest_first]));
        }
    }
}

/// A bucket's place in the ring.
fn slot(bucket: u64) -> usize {
    usize::try_from(bucket % BUCKETS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(percent: u32, min_per_second: u32) -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(RetryBudget { percent, min_per_second }, now), now)
    }

    fn withdrawn(budget: &mut Budget, now: Instant, asked: usize) -> usize {
        (0..asked).filter(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_in_proportion_to_first_tries() {
        let (mut budget, now) = budget(20, 0);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(withdrawn(&mut budget, now, 100), 20);
    }

    #[test]
    fn the_minimum_is_allowed_without_first_tries_and_comes_back_with_time() {
        let (mut budget, now) = budget(20, 10);
        assert_eq!(withdrawn(&mut budget, now, 100), 10);
        assert_eq!(withdrawn(&mut budget, now + SECOND / 2, 100), 5);
        assert_eq!(withdrawn(&mut budget, now + SECOND * 100, 100), 10, "it does not add up");
    }

    #[test]
    fn the_budget_is_the_larger_of_both() {
        let (mut budget, now) = budget(20, 10);
        (0..1_000).for_each(|_| budget.deposit(now));
        assert_eq!(withdrawn(&mut budget, now, 1_000), 200);
    }

    #[test]
    fn first_tries_count_for_ten_seconds_at_most_and_nine_at_least() {
        let (mut early, now) = budget(100, 0);
        (0..10).for_each(|_| early.deposit(now));
        assert_eq!(withdrawn(&mut early, now + SECOND * 9, 100), 10);
        let (mut late, now) = budget(100, 0);
        (0..10).for_each(|_| late.deposit(now));
        assert_eq!(withdrawn(&mut late, now + SECOND * 10, 100), 0);
        assert_eq!(withdrawn(&mut late, now + SECOND * 1_000_000, 100), 0);
        late.deposit(now + SECOND * 1_000_000);
        assert_eq!(withdrawn(&mut late, now + SECOND * 1_000_000, 100), 1);
    }

    #[test]
    fn a_new_policy_applies_at_once() {
        let (mut budget, now) = budget(100, 10);
        (0..10).for_each(|_| budget.deposit(now));
        budget.set(RetryBudget { percent: 0, min_per_second: 0 });
        assert_eq!(withdrawn(&mut budget, now + SECOND, 100), 0);
    }

    proptest! {
        /// From the begin to any moment: never more than the share of the first tries, plus the minimum of the time, plus the reserve.
        #[test]
        fn retries_never_exceed_the_budget(
            percent in 0..200u32,
            min_per_second in 0..20u32,
            steps in prop::collection::vec((0..3_000u64, 0..40u32, 0..40usize), 1..100),
        ) {
            let (mut budget, start) = budget(percent, min_per_second);
            let mut now = start;
            let (mut first, mut retries) = (0u64, 0usize);
            let mut log = Vec::new();
            for (millis, deposits, asked) in steps {
                now += Duration::from_millis(millis);
                (0..deposits).for_each(|_| budget.deposit(now));
                first += u64::from(deposits);
                let allowed = withdrawn(&mut budget, now, asked);
                retries += allowed;
                log.push((now, u64::from(deposits), allowed));
                let bound = first as f64 * f64::from(percent) / 100.0 + f64::from(min_per_second) * ((now - start).as_secs_f64() + 1.0);
                prop_assert!(retries as f64 <= bound + 1e-6, "{retries} > {bound}");
            }
            // And in each window of ten seconds, with the first tries that could still pay in it.
            for (end, ..) in &log {
                let sum = |seconds: u64, f: fn(&(Instant, u64, usize)) -> u64| -> u64 {
                    log.iter().filter(|e| e.0 <= *end && *end - e.0 < SECOND * u32::try_from(seconds).unwrap()).map(f).sum()
                };
                let bound = sum(20, |e| e.1) as f64 * f64::from(percent) / 100.0 + f64::from(min_per_second) * 11.0;
                prop_assert!(sum(10, |e| e.2 as u64) as f64 <= bound + 1e-6);
            }
        }

        /// What the reserve or the share allows is not refused.
        #[test]
        fn the_minimum_is_never_refused(min_per_second in 1..20u32, seconds in prop::collection::vec(1..5u32, 1..20)) {
            let (mut budget, mut now) = budget(20, min_per_second);
            for gap in seconds {
                now += SECOND * gap;
                prop_assert_eq!(withdrawn(&mut budget, now, 1_000), min_per_second as usize);
            }
        }
    }
}
