//! The end of a sidecar: its phases, who is told of them, and who is waited for (design §9).
//!
//! [`Drain`] belongs to whoever ends the process; each worker thread gets a [`Watch`]. Connections hold a [`Guard`] while they live.
//!
//! ```text
//! Serving ──► LameDuck ──────► Draining ──────► Leaving ──────► Deadline
//!             accept still,    inbound says     outbound too:   close what
//!             not ready        goodbye:         nothing that    is left
//!             any more         Connection:      came in is
//!                              close, GOAWAY    worked on
//! ```
//!
//! Outbound goes on for as long as there are inbound connections: the application may need others for its last answers.

use crate::metrics::Direction;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How far the end has come. Phases only ever go forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Serving,
    /// Still accepting, but no longer ready: others learn to go elsewhere.
    LameDuck,
    /// Inbound connections end as soon as their exchange does.
    Draining,
    /// Outbound connections too.
    Leaving,
    /// Whatever is left is closed.
    Deadline,
}

impl Phase {
    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Serving,
            1 => Self::LameDuck,
            2 => Self::Draining,
            3 => Self::Leaving,
            _ => Self::Deadline,
        }
    }

    /// From when on connections of this direction end as soon as their exchange does.
    fn end_of(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Draining,
            Direction::Outbound => Self::Leaving,
        }
    }
}

/// How long a sidecar goes on accepting once its end was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LameDuck {
    /// So long, whatever happens: the application may be called by somebody who has not heard of its end.
    For(Duration),
    /// At most so long, and only while there are inbound connections. In a pod the end is announced when the application has ended
    /// (Kubernetes ends sidecars last): a Job is not to wait for callers that it never had, and those who do call are told at once, while
    /// word of the pod's end gets around, to go elsewhere.
    WhileUsed(Duration),
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Nothing was left.
    Idle,
    /// Time was up for so many guards.
    Deadline {
        /// Guards still held.
        left: usize,
    },
}

/// The owner's side. Cloning gives another handle to the same drain.
///
/// A drain whose handles are all dropped tells nobody anything: a lost owner must not read as a signal.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// A worker's side: the phase, and guards counted for this worker. Cloning shares the counter.
///
/// One per worker thread, because [`Drain::watch`] gives each its own counter: taking a guard touches no other thread's cache line.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    live: Arc<Live>,
}

/// Something that a drain waits for, until it is dropped.
pub struct Guard {
    shared: Arc<Shared>,
    live: Arc<Live>,
    of: Of,
}

/// What a guard is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// An open connection.
    Connection(Direction),
    /// A listener: what the kernel has accepted for it is on its way to become a connection, and counts as one from the end on.
    Listener(Direction),
}

/// Guards of one watch.
#[derive(Debug, Default)]
struct Live {
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    inbound_listeners: AtomicUsize,
    outbound_listeners: AtomicUsize,
}

impl Live {
    fn of(&self, of: Of) -> &AtomicUsize {
        match of {
            Of::Connection(Direction::Inbound) => &self.inbound,
            Of::Connection(Direction::Outbound) => &self.outbound,
            Of::Listener(Direction::Inbound) => &self.inbound_listeners,
            Of::Listener(Direction::Outbound) => &self.outbound_listeners,
        }
    }
}

struct Shared {
    /// Read on every exchange, written three times in a life: a plain load of a cache line that nobody writes.
    phase: AtomicU8,
    changed: watch::Sender<Phase>,
    counters: Mutex<Vec<Arc<Live>>>,
    /// Wakes the one owner that waits for zero.
    released: Notify,
    requested: AtomicBool,
    request: Notify,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain in phase [`Phase::Serving`].
    #[must_use]
    pub fn new() -> Self {
        let shared = Shared {
            phase: AtomicU8::new(Phase::Serving as u8),
            changed: watch::Sender::new(Phase::Serving),
            counters: Mutex::new(Vec::new()),
            released: Notify::new(),
            requested: AtomicBool::new(false),
            request: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A watch with a counter of its own, for one worker thread or room.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let live = Arc::new(Live::default());
        self.shared.counters.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&live));
        Watch { shared: Arc::clone(&self.shared), live }
    }

    /// Asks the owner to begin: a signal, or `POST /drain`. Asking again changes nothing.
    pub fn request(&self) {
        self.shared.requested.store(true, Ordering::Release);
        self.shared.request.notify_waiters();
    }

    /// Waits until somebody called [`Drain::request`].
    ///
    /// Cancel safe.
    pub async fn requested(&self) {
        let mut request = pin!(self.shared.request.notified());
        // Registered before the flag is read, so that a request in between is not missed.
        request.as_mut().enable();
        if !self.shared.requested.load(Ordering::Acquire) {
            request.await;
        }
    }

    /// The current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Guards held at this moment, over all watches.
    #[must_use]
    pub fn live(&self) -> usize {
        self.shared.live()
    }

    /// Goes through all phases: for `lame_duck` accepting as before, then draining until no inbound guard is left, then leaving until
    /// none is left at all, or `deadline` has passed since the draining began. Ends in [`Phase::Deadline`] either way, so that idle rooms without a guard end as well.
    ///
    /// Cancel safe: dropped, it leaves the phase that was reached; called again, it goes on from there.
    pub async fn run(&self, lame_duck: LameDuck, deadline: Duration) -> Drained {
        if self.phase() < Phase::LameDuck {
            self.shared.advance(Phase::LameDuck);
        }
        if self.phase() < Phase::Draining {
            match lame_duck {
                LameDuck::For(time) => tokio::time::sleep(time).await,
                LameDuck::WhileUsed(time) => {
                    // Unused, or time is up: the same follows.
                    let _ = tokio::time::timeout(time, self.until_none(|| self.shared.live_of(Direction::Inbound))).await;
                }
            }
            self.shared.advance(Phase::Draining);
        }
        let gone = async {
            self.until_none(|| self.shared.left_of(Direction::Inbound)).await;
            self.shared.advance(Phase::Leaving);
            self.until_none(|| self.shared.left_of(Direction::Inbound) + self.shared.left_of(Direction::Outbound)).await;
        };
        let outcome = match tokio::time::timeout(deadline, gone).await {
            Ok(()) => Drained::Idle,
            Err(_) => Drained::Deadline { left: self.live() },
        };
        self.shared.advance(Phase::Deadline);
        outcome
    }

    /// One waiter at a time: of two, only one would be woken. Cancel safe.
    async fn until_none(&self, live: impl Fn() -> usize) {
        while live() > 0 {
            // A release between the count and this line has left a permit.
            self.shared.released.notified().await;
        }
    }
}

impl Watch {
    /// The current phase; one load, for every exchange.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Waits until the phase is [`Phase::LameDuck`] or later. Cancel safe.
    pub async fn lame_duck(&self) {
        self.reached(Phase::LameDuck).await;
    }

    /// Waits until inbound connections are to end: [`Phase::Draining`] or later. Cancel safe.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Whether connections of this direction are to end; one load, for every exchange.
    #[must_use]
    pub fn is_ending(&self, direction: Direction) -> bool {
        self.phase() >= Phase::end_of(direction)
    }

    /// Waits until connections of this direction are to end. Cancel safe.
    pub async fn ending(&self, direction: Direction) {
        self.reached(Phase::end_of(direction)).await;
    }

    /// Waits until what is left is to be closed. Cancel safe.
    pub async fn deadline(&self) {
        self.reached(Phase::Deadline).await;
    }

    /// Holds the drain open until it is dropped. Taken once per connection, not per request.
    #[must_use]
    pub fn guard(&self, direction: Direction) -> Guard {
        self.hold(Of::Connection(direction))
    }

    /// Holds the drain's last phases back until a listener has passed on what the kernel accepted for it. It counts as no connection.
    #[must_use]
    pub fn listening(&self, direction: Direction) -> Guard {
        self.hold(Of::Listener(direction))
    }

    fn hold(&self, of: Of) -> Guard {
        self.live.of(of).fetch_add(1, Ordering::Relaxed);
        Guard { shared: Arc::clone(&self.shared), live: Arc::clone(&self.live), of }
    }

    async fn reached(&self, phase: Phase) {
        let mut changes = self.shared.changed.subscribe();
        // The sender lives in what `self` holds, so this cannot end by a closed channel.
        let _ = changes.wait_for(|current| *current >= phase).await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.live.of(self.of).fetch_sub(1, Ordering::Release) == 1 {
            self.shared.released.notify_one();
        }
    }
}

impl Shared {
    fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.load(Ordering::Acquire))
    }

    fn live(&self) -> usize {
        self.live_of(Direction::Inbound) + self.live_of(Direction::Outbound)
    }

    /// Connections.
    fn live_of(&self, direction: Direction) -> usize {
        self.count(Of::Connection(direction))
    }

    /// Connections, and listeners that may still bring some. The listeners first: one that is gone has passed its connections on.
    fn left_of(&self, direction: Direction) -> usize {
        self.count(Of::Listener(direction)) + self.count(Of::Connection(direction))
    }

    fn count(&self, of: Of) -> usize {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.iter().map(|live| live.of(of).load(Ordering::Acquire)).sum()
    }

    /// Never goes back.
    fn advance(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.changed.send_if_modified(|current| {
            let later = *current < phase;
            *current = phase.max(*current);
            later
        });
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("phase", &self.phase()).field("live", &self.live()).finish()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("phase", &self.phase()).field("live", &self.live).finish()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Inbound, Outbound};
    use tokio::time::Instant;

    const LAME_DUCK: Duration = Duration::from_secs(2);
    const DEADLINE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn goes_through_the_phases_in_time() {
        let drain = Drain::new();
        let watch = drain.watch();
        let guard = watch.guard(Inbound);
        let began = Instant::now();
        let owner = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(LameDuck::For(LAME_DUCK), DEADLINE).await }
        });
        watch.lame_duck().await;
        assert_eq!((watch.phase(), began.elapsed()), (Phase::LameDuck, Duration::ZERO));
        watch.draining().await;
        assert_eq!((watch.phase(), began.elapsed()), (Phase::Draining, LAME_DUCK));
        watch.deadline().await;
        assert_eq!((watch.phase(), began.elapsed()), (Phase::Deadline, LAME_DUCK + DEADLINE));
        assert_eq!(owner.await.unwrap(), Drained::Deadline { left: 1 });
        drop(guard);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_as_soon_as_the_last_guard_of_any_worker_is_gone() {
        let drain = Drain::new();
        let (one, two) = (drain.watch(), drain.watch());
        let guards = [one.guard(Inbound), one.clone().guard(Outbound), two.guard(Inbound)];
        assert_eq!(drain.live(), 3);
        let began = Instant::now();
        let owner = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(LameDuck::For(LAME_DUCK), DEADLINE).await }
        });
        two.draining().await;
        for guard in guards {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!owner.is_finished());
            drop(guard);
        }
        assert_eq!(owner.await.unwrap(), Drained::Idle);
        assert_eq!(began.elapsed(), LAME_DUCK + Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_goes_on_while_something_that_came_in_is_worked_on() {
        let drain = Drain::new();
        let watch = drain.watch();
        let (inbound, outbound) = (watch.guard(Inbound), watch.guard(Outbound));
        let owner = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(LameDuck::For(LAME_DUCK), DEADLINE).await }
        });
        watch.ending(Inbound).await;
        assert!(tokio::time::timeout(DEADLINE / 2, watch.ending(Outbound)).await.is_err());
        assert_eq!((watch.is_ending(Inbound), watch.is_ending(Outbound)), (true, false));
        drop(inbound);
        watch.ending(Outbound).await;
        assert_eq!(watch.phase(), Phase::Leaving);
        drop(outbound);
        assert_eq!(owner.await.unwrap(), Drained::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn lame_duck_lasts_even_without_a_connection() {
        let drain = Drain::new();
        let began = Instant::now();
        assert_eq!(drain.run(LameDuck::For(LAME_DUCK), DEADLINE).await, Drained::Idle);
        assert_eq!(began.elapsed(), LAME_DUCK);
        assert_eq!(drain.phase(), Phase::Deadline);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_listener_brings_at_the_last_moment_is_waited_for() {
        let drain = Drain::new();
        let watch = drain.watch();
        let listening = watch.listening(Inbound);
        let owner = tokio::spawn(async move { drain.run(LameDuck::WhileUsed(LAME_DUCK), DEADLINE).await });
        watch.draining().await;
        assert!(tokio::time::timeout(LAME_DUCK, watch.ending(Outbound)).await.is_err(), "its queue is not looked through yet");
        let last = watch.guard(Inbound);
        drop(listening);
        assert!(tokio::time::timeout(LAME_DUCK, watch.ending(Outbound)).await.is_err(), "it has brought one");
        drop(last);
        watch.ending(Outbound).await;
        assert_eq!(owner.await.unwrap(), Drained::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_nobody_is_connected_to_ends_at_once() {
        let drain = Drain::new();
        let began = Instant::now();
        assert_eq!(drain.run(LameDuck::WhileUsed(LAME_DUCK), DEADLINE).await, Drained::Idle);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_accepts_while_it_has_clients() {
        for (held, lame_duck) in [(LAME_DUCK / 4, LAME_DUCK / 4), (LAME_DUCK * 4, LAME_DUCK)] {
            let drain = Drain::new();
            let watch = drain.watch();
            let guard = watch.guard(Inbound);
            let began = Instant::now();
            tokio::spawn(async move {
                tokio::time::sleep(held).await;
                drop(guard);
            });
            let owner = tokio::spawn(async move { drain.run(LameDuck::WhileUsed(LAME_DUCK), DEADLINE).await });
            watch.draining().await;
            assert_eq!(began.elapsed(), lame_duck);
            assert_eq!(owner.await.unwrap(), Drained::Idle);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_run_goes_on_where_it_was() {
        let drain = Drain::new();
        let watch = drain.watch();
        let _guard = watch.guard(Inbound);
        assert!(tokio::time::timeout(LAME_DUCK * 2, drain.run(LameDuck::For(LAME_DUCK), DEADLINE)).await.is_err());
        assert_eq!(watch.phase(), Phase::Draining);
        let began = Instant::now();
        assert_eq!(drain.run(LameDuck::For(LAME_DUCK), DEADLINE).await, Drained::Deadline { left: 1 });
        assert_eq!(began.elapsed(), DEADLINE, "no second lame duck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_owner_is_no_signal() {
        let drain = Drain::new();
        let watch = drain.watch();
        drop(drain);
        assert!(tokio::time::timeout(DEADLINE, watch.lame_duck()).await.is_err());
        assert_eq!(watch.phase(), Phase::Serving);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_seen_before_and_while_waiting() {
        let drain = Drain::new();
        assert!(tokio::time::timeout(DEADLINE, drain.requested()).await.is_err());
        let waiter = tokio::spawn({
            let drain = drain.clone();
            async move { drain.requested().await }
        });
        tokio::task::yield_now().await;
        drain.request();
        waiter.await.unwrap();
        drain.requested().await;
        assert_eq!(drain.phase(), Phase::Serving, "a request alone ends nothing");
    }

    #[test]
    fn phases_survive_their_number() {
        for phase in [Phase::Serving, Phase::LameDuck, Phase::Draining, Phase::Leaving, Phase::Deadline] {
            assert_eq!(Phase::from_u8(phase as u8), phase);
        }
    }
}
