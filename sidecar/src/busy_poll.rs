//! Looking for work without sleeping, for a short time after each request: latency bought with processor time, by those who ask for it.
//!
//! A worker that sleeps is woken by the kernel, and with two hops a request and its answer pay for four such wake-ups: at 3,000 requests a
//! second they are most of what a pair of sidecars adds. `bench/README.md` has what a limit of 300 us gains, and what it costs: about
//! as much processor time per request as Envoy takes. Hence off by default.

use std::cell::Cell;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long one worker goes on looking after its last request.
#[derive(Debug)]
pub struct BusyPoll {
    limit: Duration,
    last: Cell<Option<Instant>>,
    asleep: Notify,
}

impl BusyPoll {
    /// Looks for `limit` after each request; zero: never.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self { limit, last: Cell::new(None), asleep: Notify::new() }
    }

    /// Says that a request has begun.
    pub fn touch(&self, now: Instant) {
        if !self.limit.is_zero() && self.last.replace(Some(now)).is_none() {
            self.asleep.notify_one();
        }
    }

    /// Keeps this thread's runtime from sleeping while the last request is younger than the limit. Never ends; cancel safe.
    pub async fn run(&self) {
        loop {
            if self.last.get().is_some_and(|last| last.elapsed() < self.limit) {
                // For the other programs of this core first, and then for the sockets of this worker.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            } else {
                self.last.set(None);
                self.asleep.notified().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// Takes one turn, and says whether it will look again at once instead of waiting for a request.
    fn looks(poll: &BusyPoll) -> bool {
        let mut run = pin!(poll.run());
        assert_eq!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        poll.last.get().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_as_long_as_the_limit_says_and_sleeps_until_the_next_request() {
        let poll = BusyPoll::new(Duration::from_micros(200));
        assert!(!looks(&poll));
        for _ in 0..2 {
            poll.touch(Instant::now());
            assert!(looks(&poll));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(!looks(&poll));
        }
    }

    #[tokio::test]
    async fn a_request_wakes_the_one_that_sleeps() {
        let poll = BusyPoll::new(Duration::from_secs(60));
        let mut run = pin!(poll.run());
        assert!(tokio::time::timeout(Duration::ZERO, &mut run).await.is_err());
        poll.touch(Instant::now());
        assert_eq!(run.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending);
        assert!(poll.last.get().is_some());
    }

    #[tokio::test]
    async fn without_a_limit_it_never_looks() {
        let poll = BusyPoll::new(Duration::ZERO);
        poll.touch(Instant::now());
        assert!(!looks(&poll));
    }
}
