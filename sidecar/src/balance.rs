//! Chooses an endpoint of a backend: load, latency, passive ejection. No I/O; time and randomness are arguments.
//!
//! One [`Balancer`] serves one backend in one worker. What is known of an endpoint (`balance/load.rs`) outlives updates of the set, so
//! that no edit forgets what is in flight. Each choice is a [`Picked`]: while it lives, its exchange counts as in flight.
//!
//! Whatever the policy, the choice falls on the best class that has a member:
//!
//! | class | |
//! |---|---|
//! | not tried before, ready | the usual one |
//! | not tried before, draining | terminating, but still serving |
//! | not tried before, ejected | its last connections failed |
//! | tried before, in the same order | a further try has nowhere else to go |

mod load;
#[cfg(test)]
mod tests;

use fastrand::Rng;
use heddle_model::{Endpoint, LoadBalancing};
use load::{Ejections, Load};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

/// Up to so many endpoints are all compared: below it a scan costs no more than drawing, and never misses the best.
const SCAN_MAX: usize = 8;
/// Draws for two usable endpoints before all are scanned. With half of them unusable, all draws fail in one pick of 10,000.
const DRAWS_MAX: usize = 16;
/// Costs within this factor of the least count as equal: without it the noise of measuring would send a quiet client's whole traffic to
/// one of several equal endpoints.
const TIE: f64 = 1.25;

/// Chooses among the endpoints of one backend in one worker.
#[derive(Debug)]
pub struct Balancer {
    policy: LoadBalancing,
    /// Those that are not draining come first.
    endpoints: Vec<Rc<EndpointState>>,
    /// How many are not draining.
    live: usize,
    ejections: Rc<Ejections>,
    /// The next turn; `None`: none was taken, and the first is drawn, so that workers and sidecars do not go in step.
    turn: Option<usize>,
}

impl Balancer {
    /// A balancer without endpoints.
    pub fn new(policy: LoadBalancing) -> Self {
        Self { policy, endpoints: Vec::new(), live: 0, ejections: Rc::default(), turn: None }
    }

    /// Chooses otherwise from now on; what is known of the endpoints stays.
    pub fn set_policy(&mut self, policy: LoadBalancing) {
        self.policy = policy;
    }

    /// Replaces the set. Endpoints with the same address and identity keep what is in flight and what is known of them; of several with
    /// one address the first counts. Removed ones are not picked any more, and their [`Picked`]s stay valid.
    pub fn update(&mut self, endpoints: &[Endpoint]) {
        let mut known: HashMap<SocketAddr, Option<Rc<EndpointState>>> =
            self.endpoints.drain(..).map(|e| (e.endpoint.address, Some(e))).collect();
        let mut taken = HashSet::with_capacity(endpoints.len());
        for endpoint in endpoints {
            if !taken.insert(endpoint.address) {
                continue;
            }
            let survivor = known.get_mut(&endpoint.address).and_then(|k| k.take_if(|k| k.endpoint.identity == endpoint.identity));
            self.endpoints.push(match survivor {
                Some(same) if same.endpoint == *endpoint => same,
                Some(changed) => Rc::new(EndpointState { endpoint: endpoint.clone(), load: changed.load.clone() }),
                None => Rc::new(EndpointState { endpoint: endpoint.clone(), load: Rc::new(Load::new(self.ejections.clone())) }),
            });
        }
        for removed in known.into_values().flatten() {
            removed.load.remove();
        }
        self.endpoints.sort_by_key(|e| e.endpoint.draining);
        self.live = self.endpoints.iter().filter(|e| !e.endpoint.draining).count();
        self.ejections.set_size(self.endpoints.len());
        for endpoint in &self.endpoints {
            endpoint.load.yield_room();
        }
    }

    /// Chooses an endpoint, as the module's table says; `tried` are those that this exchange went to before. `None`: there are none.
    pub fn pick(&mut self, now: Instant, rng: &mut Rng, tried: &[SocketAddr]) -> Option<Picked> {
        if self.ejections.is_due(now) {
            self.readmit(now);
        }
        let chosen = match (self.endpoints.len(), self.policy) {
            (0, _) => return None,
            (1, _) => 0,
            (_, LoadBalancing::LeastRequest) => self.least_request(now, rng, tried)?,
            (_, LoadBalancing::LeastConnection) => self.least_connection(rng, tried)?,
            (_, LoadBalancing::RoundRobin) => self.next_turn(rng, tried),
            (_, LoadBalancing::Random) => match self.draw(rng, tried, None) {
                Some(drawn) => drawn,
                None => self.scan(rng, tried, |_| 0.0)?,
            },
        };
        Some(Picked::new(&self.endpoints[chosen], Some(now)))
    }

    /// Takes the endpoint at `address`, for an exchange of a session that belongs to it. `None`: it is gone, or connecting to it fails.
    ///
    /// Such exchanges count as in flight, but their latency is not measured: it says what a session does, not what the endpoint could.
    pub fn pick_address(&mut self, address: SocketAddr) -> Option<Picked> {
        let found = self.endpoints.iter().find(|e| e.endpoint.address == address)?;
        (!found.load.is_avoided()).then(|| Picked::new(found, None))
    }

    /// All endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Rc<EndpointState>> {
        self.endpoints.iter()
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Ends ejections whose time is up.
    fn readmit(&self, now: Instant) {
        for endpoint in &self.endpoints {
            endpoint.load.readmit(now);
        }
        self.ejections.set_next(self.endpoints.iter().filter_map(|e| e.load.ejected_until()).min());
    }

    /// The class of an endpoint in the module's table: 0 is the best.
    fn class(endpoint: &EndpointState, tried: &[SocketAddr]) -> u8 {
        u8::from(tried.contains(&endpoint.endpoint.address)) << 2
            | u8::from(endpoint.load.is_avoided()) << 1
            | u8::from(endpoint.endpoint.draining)
    }

    fn least_request(&self, now: Instant, rng: &mut Rng, tried: &[SocketAddr]) -> Option<usize> {
        if self.endpoints.len() > SCAN_MAX
            && let Some(one) = self.draw(rng, tried, None)
            && let Some(other) = self.draw(rng, tried, Some(one))
        {
            let [a, b] = [one, other].map(|i| self.endpoints[i].load.cost(now));
            // The order of drawing is random: on a tie the first one is as good a choice as any.
            return Some(if b < a { other } else { one });
        }
        let least = self.scan(rng, tried, |e| e.load.cost(now))?;
        let bound = self.endpoints[least].load.cost(now) * TIE;
        let class = Self::class(&self.endpoints[least], tried);
        self.uniform(rng, |e| Self::class(e, tried) == class && e.load.cost(now) <= bound)
    }

    fn least_connection(&self, rng: &mut Rng, tried: &[SocketAddr]) -> Option<usize> {
        self.scan(rng, tried, |e| f64::from(e.load.in_flight()))
    }

    /// Draws a usable endpoint of the best class other than `except`; `None`: too many are not usable.
    fn draw(&self, rng: &mut Rng, tried: &[SocketAddr], except: Option<usize>) -> Option<usize> {
        if self.live == 0 {
            return None;
        }
        (0..DRAWS_MAX).map(|_| rng.usize(0..self.live)).find(|i| Some(*i) != except && Self::class(&self.endpoints[*i], tried) == 0)
    }

    /// Of the best class that has a member, the endpoint of the least cost; at random among those.
    fn scan(&self, rng: &mut Rng, tried: &[SocketAddr], cost: impl Fn(&EndpointState) -> f64) -> Option<usize> {
        let mut best: Option<(u8, f64)> = None;
        let mut chosen = None;
        let mut equal = 0;
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let this = (Self::class(endpoint, tried), cost(endpoint));
            match best {
                Some(b) if this > b => continue,
                Some(b) if this == b => equal += 1,
                Some(_) | None => (best, equal) = (Some(this), 1),
            }
            // Each of n equal ones ends up chosen with 1/n.
            if equal == 1 || rng.usize(0..equal) == 0 {
                chosen = Some(index);
            }
        }
        chosen
    }

    /// One of those that `fits`, at random.
    fn uniform(&self, rng: &mut Rng, fits: impl Fn(&EndpointState) -> bool) -> Option<usize> {
        let mut chosen = None;
        let mut seen = 0;
        for (index, _) in self.endpoints.iter().enumerate().filter(|(_, e)| fits(e)) {
            seen += 1;
            if seen == 1 || rng.usize(0..seen) == 0 {
                chosen = Some(index);
            }
        }
        chosen
    }

    /// The next one in turn of the best class that has a member.
    fn next_turn(&mut self, rng: &mut Rng, tried: &[SocketAddr]) -> usize {
        let len = self.endpoints.len();
        let start = self.turn.unwrap_or_else(|| rng.usize(0..len)) % len;
        let mut best = (u8::MAX, start);
        for index in (start..len).chain(0..start) {
            let class = Self::class(&self.endpoints[index], tried);
            if class < best.0 {
                best = (class, index);
            }
            if class == 0 {
                break;
            }
        }
        self.turn = Some(best.1 + 1);
        best.1
    }
}

/// One endpoint, and what this worker knows of it.
#[derive(Debug)]
pub struct EndpointState {
    endpoint: Endpoint,
    load: Rc<Load>,
}

impl EndpointState {
    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Exchanges in flight.
    pub fn in_flight(&self) -> u32 {
        self.load.in_flight()
    }

    /// Whether connecting to it failed lately, so that it is chosen only when nothing else is left.
    pub fn is_ejected(&self) -> bool {
        self.load.ejected_until().is_some()
    }
}

/// A chosen endpoint. Until it drops, the exchange counts as in flight there.
#[derive(Debug)]
pub struct Picked {
    state: Rc<EndpointState>,
    /// `None`: not measured, or measured already.
    begun: Option<Instant>,
}

impl Picked {
    fn new(state: &Rc<EndpointState>, begun: Option<Instant>) -> Self {
        state.load.begin();
        Self { state: state.clone(), begun }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.state.endpoint
    }

    /// The endpoint, and what is known of it.
    pub fn state(&self) -> &Rc<EndpointState> {
        &self.state
    }

    /// The head of the response is here: the time since the choice is the endpoint's latency. Only the first call counts.
    pub fn responded(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take() {
            self.state.load.observe(now - begun, now);
        }
        self.state.load.connected();
    }

    /// A reset or a timeout: the endpoint counts as slower than it was, so that one that fails quickly does not draw the traffic.
    pub fn failed(&mut self, now: Instant) {
        let elapsed = self.begun.take().map(|begun| now - begun).unwrap_or_default();
        self.state.load.penalise(elapsed, now);
    }

    /// The client gave up waiting. That says something of the endpoint only when it was slower than expected.
    pub fn given_up(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take()
            && (now - begun).as_secs_f64() > self.state.load.latency(now)
        {
            self.state.load.observe(now - begun, now);
        }
    }

    /// No connection came about. Two in a row eject the endpoint for a while.
    pub fn connect_failed(&mut self, now: Instant) {
        self.begun = None;
        self.state.load.connect_failed(now);
    }

    /// A connection stands: what failed before is forgiven.
    pub fn connected(&mut self) {
        self.state.load.connected();
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.state.load.end();
    }
}

/// A choice in proportion to weights, as an index; `None`: they sum to 0.
pub fn weighted(weights: impl Iterator<Item = u32> + Clone, rng: &mut Rng) -> Option<usize> {
    let sum: u64 = weights.clone().map(u64::from).sum();
    if sum == 0 {
        return None;
    }
    let mut point = rng.u64(0..sum);
    for (index, weight) in weights.enumerate() {
        match point.checked_sub(weight.into()) {
            Some(rest) => point = rest,
            None => return Some(index),
        }
    }
    None
}
