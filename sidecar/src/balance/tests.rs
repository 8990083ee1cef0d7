//! Simulations and properties of the balancer.

use super::*;
use fastrand::Rng;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(n).unwrap()], 80))
}

fn endpoint(n: usize) -> Endpoint {
    Endpoint { address: address(n), identity: None, zone: None, workload: format!("w-{n}"), version: None, draining: false }
}

fn draining(n: usize) -> Endpoint {
    Endpoint { draining: true, ..endpoint(n) }
}

fn balancer(policy: LoadBalancing, n: usize) -> Balancer {
    let mut balancer = Balancer::new(policy);
    balancer.update(&(0..n).map(endpoint).collect::<Vec<_>>());
    balancer
}

fn number(picked: &Picked) -> usize {
    let SocketAddr::V4(v4) = picked.endpoint().address else { unreachable!() };
    v4.ip().octets()[3].into()
}

/// Exchanges with endpoints of given latencies, in simulated time.
struct Simulation {
    balancer: Balancer,
    rng: Rng,
    now: Instant,
    latencies: Vec<Duration>,
    ends: BinaryHeap<Reverse<(Instant, usize)>>,
    running: HashMap<usize, Picked>,
    counts: Vec<usize>,
    begun: usize,
}

impl Simulation {
    fn new(policy: LoadBalancing, latencies: &[u32]) -> Self {
        Self {
            balancer: balancer(policy, latencies.len()),
            rng: Rng::with_seed(7),
            now: Instant::now(),
            latencies: latencies.iter().map(|l| MS * *l).collect(),
            ends: BinaryHeap::new(),
            running: HashMap::new(),
            counts: vec![0; latencies.len()],
            begun: 0,
        }
    }

    fn begin(&mut self) {
        let picked = self.balancer.pick(self.now, &mut self.rng, &[]).unwrap();
        let n = number(&picked);
        self.counts[n] += 1;
        // Latencies vary by a quarter, up and down.
        let latency = self.latencies[n].mul_f64(0.75 + 0.5 * self.rng.f64());
        self.ends.push(Reverse((self.now + latency, self.begun)));
        self.running.insert(self.begun, picked);
        self.begun += 1;
    }

    /// Ends what ends first, if that is before `until`.
    fn end_one(&mut self, until: Option<Instant>) -> bool {
        let Some(Reverse((at, id))) = self.ends.peek().copied() else { return false };
        if until.is_some_and(|until| at > until) {
            return false;
        }
        self.ends.pop();
        self.now = at;
        self.running.remove(&id).unwrap().responded(at);
        true
    }

    /// `clients` of them, each waiting for its response before it asks again.
    fn closed(&mut self, clients: usize, requests: usize) {
        for _ in 0..clients {
            self.begin();
        }
        for _ in clients..requests {
            self.end_one(None);
            self.begin();
        }
    }

    /// Requests that come at a rate, whatever becomes of them.
    fn open(&mut self, per_second: f64, requests: usize) {
        for _ in 0..requests {
            let next = self.now + Duration::from_secs_f64(-self.rng.f64().max(1e-9).ln() / per_second);
            while self.end_one(Some(next)) {}
            self.now = next;
            self.begin();
        }
    }

    fn shares(&self) -> Vec<f64> {
        let sum: usize = self.counts.iter().sum();
        self.counts.iter().map(|c| *c as f64 / sum as f64).collect()
    }
}

/// A ten times slower one of three: in proportion to its speed it would get 1/21.
fn check_slow_share(shares: &[f64], slow_max: f64) {
    assert!(shares[0] > 0.0, "it is tried: {shares:?}");
    assert!(shares[0] <= slow_max, "{shares:?}");
    assert!((shares[1] - shares[2]).abs() < 0.1, "equal ones get equal shares: {shares:?}");
}

#[test]
fn least_request_gives_a_slow_endpoint_no_more_than_its_proportion_in_a_closed_loop() {
    for clients in [4, 16, 64, 256] {
        let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &[50, 5, 5]);
        simulation.closed(clients, 20_000);
        check_slow_share(&simulation.shares(), 1.25 / 21.0);
    }
}

#[test]
fn least_request_gives_a_slow_endpoint_no_more_than_its_proportion_in_an_open_loop() {
    for per_second in [100.0, 1_000.0, 10_000.0] {
        let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &[50, 5, 5]);
        simulation.open(per_second, 20_000);
        check_slow_share(&simulation.shares(), 1.25 / 21.0);
    }
}

#[test]
fn least_connection_shares_in_proportion_to_speed() {
    let mut simulation = Simulation::new(LoadBalancing::LeastConnection, &[50, 5, 5]);
    simulation.closed(60, 60_000);
    check_slow_share(&simulation.shares(), 1.2 / 21.0);
    assert!(simulation.shares()[0] > 0.8 / 21.0, "{:?}", simulation.shares());
}

#[test]
fn round_robin_gives_a_slow_endpoint_an_equal_share() {
    let mut simulation = Simulation::new(LoadBalancing::RoundRobin, &[50, 5, 5]);
    simulation.closed(16, 3_000);
    assert_eq!(simulation.counts, [1_000; 3]);
}

#[test]
fn random_gives_equal_shares() {
    let mut simulation = Simulation::new(LoadBalancing::Random, &[50, 5, 5]);
    simulation.closed(16, 30_000);
    assert!(simulation.shares().iter().all(|s| (s - 1.0 / 3.0).abs() < 0.02), "{:?}", simulation.shares());
}

#[test]
fn equal_endpoints_get_equal_shares_from_a_quiet_client() {
    let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &[5, 5, 5]);
    simulation.closed(1, 3_000);
    assert!(simulation.shares().iter().all(|s| (s - 1.0 / 3.0).abs() < 0.15), "{:?}", simulation.shares());
}

#[test]
fn many_endpoints_share_by_speed_too() {
    let mut latencies = [5; 20];
    latencies[0] = 50;
    let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &latencies);
    simulation.closed(64, 50_000);
    let shares = simulation.shares();
    assert!(shares[0] > 0.0 && shares[0] < 1.5 / 191.0, "{shares:?}");
    assert!(shares[1..].iter().all(|s| *s > 0.5 / 19.0 && *s < 1.5 / 19.0), "{shares:?}");
}

#[test]
fn of_two_distinct_draws_the_costliest_endpoint_is_never_chosen() {
    let mut balancer = balancer(LoadBalancing::LeastRequest, 20);
    let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
    let busy: Vec<_> = (0..3).map(|_| balancer.pick_address(address(4)).unwrap()).collect();
    for _ in 0..10_000 {
        assert_ne!(number(&balancer.pick(now, &mut rng, &[]).unwrap()), 4);
    }
    drop(busy);
}

#[test]
fn a_recovered_endpoint_is_tried_again_within_a_minute() {
    let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &[50, 5, 5]);
    simulation.open(50.0, 1_000);
    simulation.latencies[0] = MS * 5;
    simulation.open(50.0, 60 * 50);
    simulation.counts.fill(0);
    simulation.open(50.0, 3_000);
    assert!(simulation.shares()[0] > 0.2, "{:?}", simulation.shares());
}

#[test]
fn an_endpoint_that_fails_quickly_does_not_draw_the_traffic() {
    let mut balancer = balancer(LoadBalancing::LeastRequest, 3);
    let (mut now, mut rng) = (Instant::now(), Rng::with_seed(3));
    let mut failed = 0;
    for _ in 0..1_000 {
        let mut picked = balancer.pick(now, &mut rng, &[]).unwrap();
        if number(&picked) == 0 {
            failed += 1;
            now += MS / 10;
            picked.failed(now);
        } else {
            now += MS * 5;
            picked.responded(now);
        }
    }
    assert!((1..20).contains(&failed), "{failed}");
}

#[test]
fn a_new_endpoint_begins_like_the_others() {
    let mut simulation = Simulation::new(LoadBalancing::LeastRequest, &[20, 20]);
    simulation.closed(8, 1_000);
    simulation.balancer.update(&(0..3).map(endpoint).collect::<Vec<_>>());
    simulation.latencies.push(MS * 20);
    simulation.counts = vec![0; 3];
    // Until its first response nothing is known of it: it must get neither everything nor nothing.
    for _ in 0..8 {
        simulation.end_one(None);
        simulation.begin();
    }
    assert!((2..8).contains(&simulation.counts[2]), "{:?}", simulation.counts);
}

#[test]
fn updates_keep_what_is_in_flight() {
    let mut balancer = balancer(LoadBalancing::LeastConnection, 2);
    let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
    let held = balancer.pick_address(address(0)).unwrap();
    // Another version label and another zone are the same endpoint still.
    balancer.update(&[Endpoint { version: Some("v2".into()), ..endpoint(0) }, endpoint(1)]);
    let states: Vec<_> = balancer.endpoints().cloned().collect();
    assert_eq!(states[0].in_flight(), 1);
    assert_eq!(states[0].endpoint().version.as_deref(), Some("v2"));
    for _ in 0..10 {
        assert_eq!(number(&balancer.pick(now, &mut rng, &[]).unwrap()), 1);
    }
    drop(held);
    assert_eq!(states[0].in_flight(), 0, "the guard of before the update counts for the endpoint of after it");
}

#[test]
fn a_removed_endpoint_is_not_picked_and_its_guards_stay_valid() {
    let mut balancer = balancer(LoadBalancing::Random, 2);
    let (now, mut rng) = (Instant::now(), Rng::with_seed(1));
    let mut held = balancer.pick_address(address(0)).unwrap();
    balancer.update(&[endpoint(1)]);
    for _ in 0..20 {
        assert_eq!(number(&balancer.pick(now, &mut rng, &[]).unwrap()), 1);
    }
    held.connect_failed(now);
    held.connect_failed(now);
    held.failed(now);
    assert_eq!(held.state().in_flight(), 1);
    balancer.update(&[]);
    assert!(balancer.is_empty());
    assert!(balancer.pick(now, &mut rng, &[]).is_none());
}

#[test]
fn another_identity_at_the_same_address_is_another_endpoint() {
    let mut balancer = balancer(LoadBalancing::LeastRequest, 1);
    let held = balancer.pick_address(address(0)).unwrap();
    let identity = "spiffe://cluster.local/ns/default/sa/other".parse().unwrap();
    balancer.update(&[Endpoint { identity: Some(identity), ..endpoint(0) }, endpoint(0)]);
    let states: Vec<_> = balancer.endpoints().collect();
    assert_eq!(states.len(), 1, "one address, one endpoint");
    assert_eq!(states[0].in_flight(), 0);
    drop(held);
}

fn fail_twice(balancer: &mut Balancer, n: usize, now: Instant) {
    for _ in 0..2 {
        let mut picked = Picked::new(&balancer.endpoints().find(|e| e.endpoint().address == address(n)).unwrap().clone(), None);
        picked.connect_failed(now);
    }
}

fn ejected(balancer: &Balancer) -> usize {
    balancer.endpoints().filter(|e| e.is_ejected()).count()
}

#[test]
fn two_connect_failures_in_a_row_eject_for_a_second_then_for_two() {
    let mut balancer = balancer(LoadBalancing::RoundRobin, 3);
    let (start, mut rng) = (Instant::now(), Rng::with_seed(1));
    fail_twice(&mut balancer, 0, start);
    for _ in 0..30 {
        assert_ne!(number(&balancer.pick(start + MS * 999, &mut rng, &[]).unwrap()), 0);
    }
    assert!(balancer.pick_address(address(0)).is_none());
    // Its time is up: one exchange tries it, the others wait for what comes of it.
    let after = start + MS * 1_000;
    let picks: Vec<_> = (0..30).map(|_| balancer.pick(after, &mut rng, &[]).unwrap()).collect();
    assert_eq!(picks.iter().filter(|p| number(p) == 0).count(), 1);
    let mut probe = picks.into_iter().find(|p| number(p) == 0).unwrap();
    probe.connect_failed(after);
    drop(probe);
    for _ in 0..30 {
        assert_ne!(number(&balancer.pick(after + MS * 1_999, &mut rng, &[]).unwrap()), 0);
    }
    let until = after + MS * 2_000;
    let mut probe = (0..3).map(|_| balancer.pick(until, &mut rng, &[]).unwrap()).find(|p| number(p) == 0).unwrap();
    probe.connected();
    drop(probe);
    let picks: Vec<_> = (0..30).map(|_| balancer.pick(until, &mut rng, &[]).unwrap()).collect();
    assert_eq!(picks.iter().filter(|p| number(p) == 0).count(), 10, "a connection clears what was");
}

#[test]
fn ejections_grow_to_thirty_seconds_at_most() {
    let mut balancer = balancer(LoadBalancing::RoundRobin, 2);
    let (mut now, mut rng) = (Instant::now(), Rng::with_seed(1));
    let mut spans = Vec::new();
    fail_twice(&mut balancer, 0, now);
    for _ in 0..8 {
        let begun = now;
        while balancer.endpoints[0].is_ejected() {
            now += MS * 100;
            balancer.pick(now, &mut rng, &[]);
        }
        spans.push((now - begun).as_secs());
        balancer.endpoints[0].load.connect_failed(now);
    }
    assert_eq!(spans, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn at_most_half_of_the_endpoints_are_ejected() {
    for (size, bound) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (10, 5)] {
        let mut balancer = balancer(LoadBalancing::LeastRequest, size);
        let now = Instant::now();
        (0..size).for_each(|n| fail_twice(&mut balancer, n, now));
        assert_eq!(ejected(&balancer), bound, "of {size}");
    }
    let mut shrinking = balancer(LoadBalancing::LeastRequest, 4);
    fail_twice(&mut shrinking, 0, Instant::now());
    fail_twice(&mut shrinking, 1, Instant::now());
    shrinking.update(&[endpoint(0), endpoint(1)]);
    assert_eq!(ejected(&shrinking), 1);
}

#[test]
fn latencies_of_sessions_are_not_measured() {
    let mut balancer = balancer(LoadBalancing::LeastRequest, 1);
    let mut picked = balancer.pick_address(address(0)).unwrap();
    let before = picked.state().load.latency(Instant::now());
    picked.responded(Instant::now() + Duration::from_secs(5));
    assert_eq!(picked.state().load.latency(Instant::now()).to_bits(), before.to_bits());
    assert!(balancer.pick_address(address(1)).is_none());
}

#[test]
fn weights_are_kept_and_zero_is_never_chosen() {
    let mut rng = Rng::with_seed(5);
    let mut counts = [0; 3];
    for _ in 0..10_000 {
        counts[weighted([90, 0, 10].into_iter(), &mut rng).unwrap()] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!((850..1_150).contains(&counts[2]), "{counts:?}");
    assert_eq!(weighted([0, 0].into_iter(), &mut rng), None);
    assert_eq!(weighted(std::iter::empty(), &mut rng), None);
    assert!(weighted([u32::MAX; 4].into_iter(), &mut rng).is_some());
}

fn policy() -> impl Strategy<Value = LoadBalancing> {
    prop_oneof![
        Just(LoadBalancing::LeastRequest),
        Just(LoadBalancing::LeastConnection),
        Just(LoadBalancing::RoundRobin),
        Just(LoadBalancing::Random),
    ]
}

proptest! {
    /// Whatever has happened, the choice is of the best class that has a member.
    #[test]
    fn the_choice_is_always_of_the_best_class(
        policy in policy(),
        states in prop::collection::vec((any::<bool>(), 0..4u32, any::<bool>()), 1..24),
        seed in any::<u64>(),
    ) {
        let mut balancer = Balancer::new(policy);
        let set: Vec<_> = states.iter().enumerate().map(|(n, (drains, ..))| if *drains { draining(n) } else { endpoint(n) }).collect();
        balancer.update(&set);
        let now = Instant::now();
        for (n, (_, failures, _)) in states.iter().enumerate() {
            let state = balancer.endpoints().find(|e| e.endpoint().address == address(n)).unwrap().clone();
            (0..*failures).for_each(|_| state.load.connect_failed(now));
        }
        let tried: Vec<_> = states.iter().enumerate().filter(|(_, s)| s.2).map(|(n, _)| address(n)).collect();
        let best = balancer.endpoints().map(|e| Balancer::class(e, &tried)).min().unwrap();
        let mut rng = Rng::with_seed(seed);
        for _ in 0..20 {
            // Held to the end of the turn only: a guard in flight is part of what makes a class.
            let picked = balancer.pick(now, &mut rng, &tried).unwrap();
            let state = picked.state().clone();
            drop(picked);
            prop_assert_eq!(Balancer::class(&state, &tried), best);
        }
    }

    /// Whatever order things happen in, what is in flight is what is held.
    #[test]
    fn what_is_in_flight_is_what_is_held(policy in policy(), steps in prop::collection::vec(0..10u8, 1..200), seed in any::<u64>()) {
        let mut balancer = balancer(policy, 4);
        let (mut now, mut rng) = (Instant::now(), Rng::with_seed(seed));
        let mut held: Vec<Picked> = Vec::new();
        for step in steps {
            now += MS * u32::from(step);
            let at = rng.usize(0..held.len().max(1));
            match (step, held.get_mut(at)) {
                (0..=3, _) | (_, None) => held.extend(balancer.pick(now, &mut rng, &[])),
                (4, Some(picked)) => picked.responded(now),
                (5, Some(picked)) => picked.failed(now),
                (6, Some(picked)) => picked.connect_failed(now),
                (7, Some(picked)) => picked.connected(),
                (8, Some(_)) => balancer.update(&[endpoint(usize::from(step) % 4), endpoint(at % 4), draining(3)]),
                (_, Some(_)) => drop(held.swap_remove(at)),
            }
            for state in balancer.endpoints() {
                let count = held.iter().filter(|p| Rc::ptr_eq(&p.state().load, &state.load)).count();
                prop_assert_eq!(state.in_flight() as usize, count);
            }
            prop_assert!(balancer.is_empty() || ejected(&balancer) * 2 <= balancer.endpoints().count());
        }
    }
}
