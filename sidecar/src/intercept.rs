//! Connections that the pod's redirection brings: where each meant to go, and the policies of those places, kept while they are in use.
//!
//! ```text
//! check.rs   does the redirection really lead here?
//! ```

pub mod check;

use crate::metrics::Direction;
use crate::policy::{InboundTarget, OutboundTarget};
use crate::worker::{Open, Worker};
use crate::{accept, forward, inbound, original_dst, outbound};
use heddle_model::Target;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Outbound destinations that one worker keeps policies for. Those of two workers, which is the default, and the inbound ports below are
/// fewer than the targets that discovery keeps (4,096).
const OUTBOUND_MAX: usize = 1024;
/// Inbound ports. Somebody who tries every port of the pod must leave room for the destinations of its application.
const INBOUND_MAX: usize = 512;
/// What no connection has used for so long is given up, with the state of its balancers.
const IDLE: Duration = Duration::from_secs(60);

/// Policies by address, in one worker.
#[derive(Debug)]
pub struct Targets {
    outbound: RefCell<Cache<OutboundTarget>>,
    inbound: RefCell<Cache<InboundTarget>>,
}

impl Default for Targets {
    fn default() -> Self {
        Self { outbound: RefCell::new(Cache::new(OUTBOUND_MAX)), inbound: RefCell::new(Cache::new(INBOUND_MAX)) }
    }
}

impl Targets {
    /// Gives up what has not been used for a while.
    pub fn sweep(&self, now: Instant) {
        self.outbound.borrow_mut().sweep(now);
        self.inbound.borrow_mut().sweep(now);
    }
}

#[derive(Debug)]
struct Cache<T> {
    entries: HashMap<SocketAddr, Entry<T>>,
    max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    target: Rc<T>,
    used: Instant,
}

impl<T> Entry<T> {
    /// Whether a connection holds it.
    fn in_use(&self) -> bool {
        Rc::strong_count(&self.target) > 1
    }
}

impl<T> Cache<T> {
    fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), max }
    }

    /// The entry of an address, made by `make` at its first use. `None`: there is no room, and all are in use.
    fn get(&mut self, address: SocketAddr, now: Instant, make: impl FnOnce() -> T) -> Option<Rc<T>> {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.used = now;
            return Some(entry.target.clone());
        }
        if self.entries.len() >= self.max {
            let oldest = self.entries.iter().filter(|(_, entry)| !entry.in_use()).min_by_key(|(_, entry)| entry.used);
            let oldest = *oldest?.0;
            self.entries.remove(&oldest);
        }
        let target = Rc::new(make());
        self.entries.insert(address, Entry { target: target.clone(), used: now });
        Some(target)
    }

    fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            if entry.in_use() {
                entry.used = now;
            }
            now.saturating_duration_since(entry.used) < IDLE
        });
    }
}

/// A connection that goes nowhere from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nowhere {
    /// The sidecar's own check of the redirection.
    Check,
    /// It was made to the listener itself: going on with it would lead here again.
    Loop,
    /// One more than there is room for.
    Full,
}

/// Accepts redirected outbound connections until the drain ends them. Cancel safe as [`accept::run`].
pub async fn outbound(worker: Rc<Worker>, listener: TcpListener) {
    let w = worker.clone();
    accept::run(worker, listener, Direction::Outbound, move |tcp, from, open| {
        let arrived = arrived(&w, &tcp, Direction::Outbound, |to, now| {
            w.targets.outbound.borrow_mut().get(to, now, || outbound_target(&w, &Target::Address(to)))
        });
        let w = w.clone();
        async move {
            match arrived {
                Ok(target) => outbound::serve(w, target, tcp, from, open).await,
                Err(nowhere) => answer(&w, nowhere, tcp, open).await,
            }
        }
    })
    .await;
}

/// Accepts redirected inbound connections until the drain ends them. Cancel safe as [`accept::run`].
pub async fn inbound(worker: Rc<Worker>, listener: TcpListener) {
    let w = worker.clone();
    accept::run(worker, listener, Direction::Inbound, move |tcp, from, open| {
        let arrived = arrived(&w, &tcp, Direction::Inbound, |to, now| {
            // The application is dialled at the address that was meant: what listens on loopback only stays unreachable from outside.
            w.targets.inbound.borrow_mut().get(to, now, || inbound_target(&w, to.port(), to))
        });
        let w = w.clone();
        async move {
            match arrived {
                Ok(target) => inbound::serve(w, target, tcp, from, open).await,
                Err(nowhere) => answer(&w, nowhere, tcp, open).await,
            }
        }
    })
    .await;
}

fn arrived<T>(
    worker: &Worker,
    tcp: &TcpStream,
    direction: Direction,
    target: impl FnOnce(SocketAddr, Instant) -> Option<Rc<T>>,
) -> Result<Rc<T>, Nowhere> {
    // Without an entry in the kernel's table of connections it was not redirected.
    let Some(to) = original_dst::original_dst(tcp).ok().flatten() else {
        return Err(Nowhere::Loop);
    };
    if check::is_check(to, direction) {
        return Err(Nowhere::Check);
    }
    let own = [worker.config.inbound_intercept, worker.config.outbound_intercept];
    if direction == Direction::Inbound && own.iter().flatten().any(|listener| listener.port() == to.port()) {
        return Err(Nowhere::Loop);
    }
    target(to, Instant::now()).ok_or(Nowhere::Full)
}

/// Answers what goes nowhere. `_open`: it counts as a connection until it is closed.
async fn answer(worker: &Worker, nowhere: Nowhere, mut tcp: TcpStream, _open: Open) {
    match (nowhere, &worker.check) {
        (Nowhere::Check, Some(check)) => {
            // A checker that has gone away has given up.
            let _ = tcp.write_all(check.word()).await;
            let _ = tcp.shutdown().await;
            return;
        }
        (Nowhere::Loop | Nowhere::Check, _) => worker.metrics.limit_hit("loop"),
        (Nowhere::Full, _) => worker.metrics.limit_hit("targets"),
    }
    forward::reset(&tcp);
}

/// The policy of an outbound target, as this worker uses it.
pub fn outbound_target(worker: &Rc<Worker>, target: &Target) -> OutboundTarget {
    let receiver = worker.discovery.outbound(target);
    let address = match target {
        Target::Address(address) => Some(*address),
        Target::Authority(_) | Target::InboundPort(_) => None,
    };
    OutboundTarget::new(receiver, address, worker.backends.clone(), worker.metrics.clone())
}

/// The policy of an inbound port, as this worker uses it. The application listens at `app`.
pub fn inbound_target(worker: &Rc<Worker>, port: u16, app: SocketAddr) -> InboundTarget {
    InboundTarget::new(app, worker.discovery.inbound(port), worker.metrics.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_used_is_kept_and_what_is_idle_goes() {
        let mut cache = Cache::new(2);
        let now = Instant::now();
        let one = cache.get(address(1), now, || 1).unwrap();
        assert_eq!(*cache.get(address(2), now, || 2).unwrap(), 2);
        assert!(Rc::ptr_eq(&one, &cache.get(address(1), now, || 9).unwrap()), "the same for every connection");
        let later = now + IDLE;
        cache.sweep(later);
        assert_eq!(cache.entries.len(), 1, "one is held by a connection");
        drop(one);
        cache.sweep(later + IDLE / 2);
        assert_eq!(cache.entries.len(), 1, "its idle time begins with its last use");
        cache.sweep(later + IDLE);
        assert!(cache.entries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_gives_up_the_idle_one_that_was_used_last_longest_ago() {
        let mut cache = Cache::new(2);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        cache.get(address(1), now, || 1).unwrap();
        cache.get(address(2), now + second, || 2).unwrap();
        cache.get(address(1), now + 2 * second, || 9).unwrap();
        let three = cache.get(address(3), now + 3 * second, || 3).unwrap();
        assert!(cache.entries.contains_key(&address(1)) && !cache.entries.contains_key(&address(2)));
        let one = cache.get(address(1), now + 4 * second, || 9).unwrap();
        assert!(cache.get(address(4), now + 5 * second, || 4).is_none(), "all are in use");
        drop((one, three));
    }
}
