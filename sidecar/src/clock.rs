//! The two clocks of an attempt: when it must have ended, and for how long nothing may move.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Which clock has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expired {
    /// The attempt, or the whole request.
    Deadline,
    /// Not a byte moved in either direction.
    Idle,
}

/// Both clocks. Without limits it costs nothing.
#[derive(Debug)]
pub struct Clock {
    deadline: Option<Pin<Box<Sleep>>>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    moved: u64,
}

impl Clock {
    /// Starts both.
    pub fn new(deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self {
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
            idle: idle.map(|limit| (limit, Box::pin(sleep_until(Instant::now() + limit)))),
            moved: 0,
        }
    }

    /// Says which has run out, or wakes the task when one does. `moved` counts all bytes so far: any change begins the idle time anew.
    pub fn poll(&mut self, cx: &mut Context<'_>, moved: u64) -> Option<Expired> {
        if self.deadline.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            return Some(Expired::Deadline);
        }
        let (limit, timer) = self.idle.as_mut()?;
        if moved != self.moved {
            self.moved = moved;
            timer.as_mut().reset(Instant::now() + *limit);
        }
        timer.as_mut().poll(cx).is_ready().then_some(Expired::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    async fn expired(clock: &mut Clock, moved: u64) -> Expired {
        poll_fn(|cx| clock.poll(cx, moved).map_or(Poll::Pending, Poll::Ready)).await
    }

    #[tokio::test(start_paused = true)]
    async fn movement_begins_the_idle_time_anew_and_not_the_deadline() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = Clock::new(Some(start + 5 * second), Some(2 * second));
        tokio::time::advance(second).await;
        let idle = tokio::time::timeout(second, poll_fn(|cx| clock.poll(cx, 1).map_or(Poll::Pending, Poll::Ready)));
        assert!(idle.await.is_err(), "a byte moved after the first second");
        assert_eq!(expired(&mut clock, 1).await, Expired::Idle);
        assert_eq!(Instant::now() - start, 3 * second);
        assert_eq!(expired(&mut Clock::new(Some(start + 4 * second), Some(60 * second)), 0).await, Expired::Deadline);
    }
}
