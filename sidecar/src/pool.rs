//! Idle connections, kept for the next exchange: newest first, never longer than their server is likely to keep them.
//!
//! A server that closes an idle connection just as a request is written on it costs a replay. So a connection is kept for the shortest
//! of what the policy says, what the server announced (`Keep-Alive: timeout=`), and what its earlier closes taught.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections to one endpoint. A burst of so many exchanges at once can be followed by another one without dialling again.
pub const IDLE_PER_KEY_MAX: usize = 1024;
/// Idle connections of one worker. At about 20 KiB each with mTLS, and for three seconds, this is 80 MiB at the very worst.
pub const IDLE_MAX: usize = 4096;
/// No lesson goes below this: what a server closes sooner is not worth keeping, and one restart must not teach that.
const LEARNED_MIN: Duration = Duration::from_millis(100);
/// Without a further close, a lesson is doubled after this time: three seconds are reached again after at most five of them.
const RECOVERY: Duration = Duration::from_secs(30);
/// What is known of an endpoint is forgotten when no connection to it was used for so long.
const KEY_UNUSED: Duration = Duration::from_secs(300);

/// Idle connections `C` by what they lead to, `K`.
pub struct Pool<K, C> {
    by_key: HashMap<K, Slot<C>>,
    idle: usize,
    evicted: u64,
}

/// Those of one key.
struct Slot<C> {
    /// The newest at the back.
    conns: VecDeque<Idle<C>>,
    /// How long the server says it keeps connections, with a margin.
    announced: Option<Duration>,
    learned: Option<Lesson>,
    /// When one came or went; `None`: not yet.
    used: Option<Instant>,
}

struct Idle<C> {
    conn: C,
    since: Instant,
    deadline: Instant,
}

/// How long the server kept a connection, with a margin.
struct Lesson {
    limit: Duration,
    /// When it was learned or doubled, as far as is known.
    at: Option<Instant>,
}

impl<K: Clone + Eq + Hash, C> Pool<K, C> {
    /// An empty pool.
    pub fn new() -> Self {
        Self { by_key: HashMap::new(), idle: 0, evicted: 0 }
    }

    /// Takes the connection that was used last. Those past their time are closed.
    pub fn take(&mut self, key: &K, now: Instant) -> Option<C> {
        let slot = self.by_key.get_mut(key)?;
        slot.used = Some(now);
        let newest = slot.conns.pop_back()?;
        self.idle -= 1;
        if newest.deadline > now {
            return Some(newest.conn);
        }
        // Deadlines follow the order of coming, but for lessons in between: what is left is as old or older.
        self.idle -= slot.conns.len();
        slot.conns.clear();
        None
    }

    /// Keeps a connection for at most `idle`; zero closes it. A full pool closes the oldest one to the same key, or else this one.
    pub fn put(&mut self, key: &K, conn: C, idle: Duration, now: Instant) {
        let Some(slot) = self.by_key.get_mut(key) else {
            let mut slot = Slot::new();
            let kept = slot.keep(conn, idle, now, self.idle);
            self.by_key.insert(key.clone(), slot);
            self.count(kept);
            return;
        };
        let kept = slot.keep(conn, idle, now, self.idle);
        self.count(kept);
    }

    fn count(&mut self, kept: Kept) {
        match kept {
            Kept::Added => self.idle += 1,
            Kept::Replaced | Kept::Full => self.evicted += 1,
            Kept::NotAtAll => {}
        }
    }

    /// Closes connections past their time and those that `is_stale`, which their server has closed: these teach how long it waits.
    /// Forgets keys that were not used for long. Takes time in proportion to the number of idle connections.
    pub fn sweep(&mut self, now: Instant, mut is_stale: impl FnMut(&mut C) -> bool) {
        let mut idle = 0;
        self.by_key.retain(|_, slot| {
            let mut closed: Option<Duration> = None;
            slot.conns.retain_mut(|c| {
                if c.deadline <= now {
                    return false;
                }
                let stale = is_stale(&mut c.conn);
                if stale {
                    let waited = now.saturating_duration_since(c.since);
                    closed = Some(closed.map_or(waited, |shortest| shortest.min(waited)));
                }
                !stale
            });
            if let Some(waited) = closed {
                slot.learn_close(waited);
            }
            idle += slot.conns.len();
            let used = *slot.used.get_or_insert(now);
            !slot.conns.is_empty() || now.saturating_duration_since(used) < KEY_UNUSED
        });
        self.idle = idle;
    }

    /// Learns from `Keep-Alive: timeout=`: a second less than `announced`, or 80 % of it where that is more. Zero: nothing is kept.
    pub fn learn_keep_alive(&mut self, key: &K, announced: Duration) {
        let limit = margin(announced).max(announced.saturating_sub(Duration::from_secs(1)));
        self.slot(key).announced = Some(limit);
    }

    /// Learns from a close by the server after `idle_for`: 80 % of it from now on, at least 100 ms; longer again as time passes.
    pub fn learn_close(&mut self, key: &K, idle_for: Duration) {
        self.slot(key).learn_close(idle_for);
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// Connections closed because the pool was full, since its begin.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Closes all; what was learned stays.
    pub fn clear(&mut self) {
        self.by_key.values_mut().for_each(|slot| slot.conns.clear());
        self.idle = 0;
    }

    fn slot(&mut self, key: &K) -> &mut Slot<C> {
        // Not `entry`, which would copy the key each time.
        if !self.by_key.contains_key(key) {
            self.by_key.insert(key.clone(), Slot::new());
        }
        self.by_key.get_mut(key).expect("just inserted")
    }
}

impl<K: Clone + Eq + Hash, C> Default for Pool<K, C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, C> fmt::Debug for Pool<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by_key, idle, evicted } = self;
        f.debug_struct("Pool").field("keys", &by_key.len()).field("idle", idle).field("evicted", evicted).finish()
    }
}

/// What became of a connection.
enum Kept {
    Added,
    Replaced,
    Full,
    NotAtAll,
}

impl<C> Slot<C> {
    fn new() -> Self {
        Self { conns: VecDeque::new(), announced: None, learned: None, used: None }
    }

    fn keep(&mut self, conn: C, idle: Duration, now: Instant, in_pool: usize) -> Kept {
        self.used = Some(now);
        let idle = self.limit(idle, now);
        if idle.is_zero() {
            return Kept::NotAtAll;
        }
        let full = in_pool >= IDLE_MAX || self.conns.len() >= IDLE_PER_KEY_MAX;
        if full && self.conns.pop_front().is_none() {
            return Kept::Full;
        }
        self.conns.push_back(Idle { conn, since: now, deadline: now + idle });
        if full { Kept::Replaced } else { Kept::Added }
    }

    /// The shortest of all that is known.
    fn limit(&mut self, policy: Duration, now: Instant) -> Duration {
        let limit = policy.min(self.announced.unwrap_or(policy));
        let Some(lesson) = &mut self.learned else { return limit };
        let at = *lesson.at.get_or_insert(now);
        if now.saturating_duration_since(at) >= RECOVERY {
            lesson.limit *= 2;
            lesson.at = Some(now);
        }
        let learned = lesson.limit;
        if learned >= limit {
            self.learned = None;
        }
        limit.min(learned)
    }

    fn learn_close(&mut self, idle_for: Duration) {
        let limit = margin(idle_for).max(LEARNED_MIN);
        let limit = self.learned.as_ref().map_or(limit, |l| l.limit.min(limit));
        self.learned = Some(Lesson { limit, at: None });
    }
}

/// 80 %: the server's clock and the way there and back are not known.
fn margin(duration: Duration) -> Duration {
    duration * 4 / 5
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);
    const IDLE: Duration = Duration::from_secs(3);

    fn pool() -> (Pool<u8, u32>, Instant) {
        (Pool::new(), Instant::now())
    }

    /// How long a connection put now is kept, to 10 ms.
    fn kept_for(pool: &mut Pool<u8, u32>, now: Instant) -> Duration {
        let mut after = Duration::ZERO;
        loop {
            pool.clear();
            pool.put(&0, 1, IDLE, now);
            if pool.take(&0, now + after).is_none() {
                return after;
            }
            after += MS * 10;
        }
    }

    #[test]
    fn the_newest_is_taken_first_and_not_past_its_time() {
        let (mut pool, now) = pool();
        pool.put(&0, 1, IDLE, now);
        pool.put(&0, 2, IDLE, now + SECOND);
        pool.put(&1, 3, IDLE, now);
        assert_eq!(pool.take(&0, now + SECOND * 2), Some(2));
        assert_eq!(pool.take(&0, now + SECOND * 3), None);
        assert_eq!(pool.idle(), 1, "the one of another key");
        assert_eq!(pool.take(&9, now), None);
    }

    #[test]
    fn an_idle_time_of_zero_keeps_nothing() {
        let (mut pool, now) = pool();
        pool.put(&0, 1, Duration::ZERO, now);
        assert_eq!(pool.idle(), 0);
        pool.learn_keep_alive(&0, Duration::ZERO);
        pool.put(&0, 1, IDLE, now);
        assert_eq!((pool.idle(), pool.evicted()), (0, 0));
    }

    #[test]
    fn what_the_server_announces_shortens_the_time_and_never_lengthens_it() {
        for (announced, expected) in [(1_000, 800), (2_000, 1_600), (3_500, 2_800), (60_000, 3_000)] {
            let (mut pool, now) = pool();
            pool.learn_keep_alive(&0, MS * announced);
            assert_eq!(kept_for(&mut pool, now), MS * expected, "{announced}");
        }
    }

    #[test]
    fn a_close_by_the_server_teaches_and_is_forgotten_slowly() {
        let (mut pool, now) = pool();
        pool.put(&0, 1, IDLE, now);
        pool.sweep(now + SECOND, |_| true);
        assert_eq!(pool.idle(), 0);
        assert_eq!(kept_for(&mut pool, now), MS * 800);
        // A shorter one counts, a longer one does not.
        pool.learn_close(&0, SECOND / 2);
        pool.learn_close(&0, SECOND * 2);
        assert_eq!(kept_for(&mut pool, now), MS * 400);
        assert_eq!(kept_for(&mut pool, now + RECOVERY - MS), MS * 400);
        assert_eq!(kept_for(&mut pool, now + RECOVERY), MS * 800);
        assert_eq!(kept_for(&mut pool, now + RECOVERY * 2), MS * 1_600);
        assert_eq!(kept_for(&mut pool, now + RECOVERY * 3), IDLE);
        pool.learn_close(&0, MS);
        assert_eq!(kept_for(&mut pool, now), LEARNED_MIN, "never less");
    }

    #[test]
    fn a_sweep_closes_what_is_past_its_time_without_learning_from_it() {
        let (mut pool, now) = pool();
        pool.put(&0, 1, SECOND, now);
        pool.put(&0, 2, IDLE, now);
        pool.sweep(now + SECOND, |c| {
            assert_eq!(*c, 2, "one past its time is not asked");
            false
        });
        assert_eq!(pool.idle(), 1);
        assert_eq!(kept_for(&mut pool, now), IDLE);
    }

    #[test]
    fn keys_without_use_are_forgotten() {
        let (mut pool, now) = pool();
        pool.put(&0, 1, IDLE, now);
        pool.learn_close(&0, SECOND);
        pool.sweep(now + KEY_UNUSED - MS, |_| false);
        assert_eq!(pool.by_key.len(), 1);
        pool.sweep(now + KEY_UNUSED, |_| false);
        assert_eq!((pool.by_key.len(), pool.idle()), (0, 0));
    }

    #[test]
    fn a_full_key_gives_up_its_oldest() {
        let (mut pool, now) = pool();
        for n in 0..=u32::try_from(IDLE_PER_KEY_MAX).unwrap() {
            pool.put(&0, n, IDLE, now);
        }
        assert_eq!((pool.idle(), pool.evicted()), (IDLE_PER_KEY_MAX, 1));
        assert!(pool.by_key[&0].conns.iter().all(|c| c.conn != 0));
    }

    #[test]
    fn a_full_pool_takes_no_more_for_a_new_key() {
        let (mut pool, now) = pool();
        for n in 0..u32::try_from(IDLE_MAX).unwrap() {
            pool.put(&u8::try_from(n % 16).unwrap(), n, IDLE, now);
        }
        pool.put(&99, 1, IDLE, now);
        assert_eq!((pool.idle(), pool.evicted()), (IDLE_MAX, 1));
        assert_eq!(pool.take(&99, now), None);
        pool.put(&3, 1, IDLE, now);
        assert_eq!((pool.idle(), pool.evicted()), (IDLE_MAX, 2), "in place of an older one");
    }

    proptest! {
        #[test]
        fn the_count_is_right_whatever_happens(steps in prop::collection::vec((0..6u8, 0..3u8, 0..2_000u32), 1..200)) {
            let (mut pool, mut now) = pool();
            for (what, key, millis) in steps {
                match what {
                    0..=2 => pool.put(&key, millis, MS * millis, now),
                    3 => { pool.take(&key, now); }
                    4 => pool.sweep(now, |c| *c % 3 == 0),
                    _ => now += MS * millis / 4,
                }
                let sum: usize = pool.by_key.values().map(|s| s.conns.len()).sum();
                prop_assert_eq!(pool.idle(), sum);
                prop_assert!(sum <= IDLE_MAX);
            }
        }

        /// What is taken was put for that key, is the newest, and has not been idle for longer than allowed.
        #[test]
        fn what_is_taken_is_fresh(puts in prop::collection::vec((0..2_000u32, 0..3_000u32), 1..50), after in 0..4_000u32) {
            let (mut pool, start) = pool();
            let mut now = start;
            for (gap, idle) in &puts {
                now += MS * *gap;
                pool.put(&0, *idle, MS * *idle, now);
            }
            let taken_at = now + MS * after;
            if let Some(idle) = pool.take(&0, taken_at) {
                prop_assert!(MS * idle > MS * after);
            }
        }
    }
}
