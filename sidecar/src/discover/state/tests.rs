//! The bookkeeping, message by message.

use super::*;
use futures_util::{FutureExt, StreamExt};
use heddle_model::backend::Backend as ModelBackend;
use heddle_model::{MtlsMode, Protocol, RouteTable};
use proptest::prelude::*;
use sidecar_message::Message as Said;
use std::pin::Pin;

/// State with a stream, whose messages are read back.
struct Bench {
    state: State,
    said: Pin<Box<dyn futures_util::Stream<Item = proto::SidecarMessage>>>,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let mut bench =
            Self { state: State::new(Overrides::default()), said: Box::pin(futures_util::stream::empty()), now: Instant::now() };
        bench.connect();
        bench
    }

    fn connect(&mut self) {
        let queue = Arc::new(Queue::default());
        self.state.connected(Arc::clone(&queue), "shop", "front-0");
        self.said = Box::pin(queue.messages());
        assert!(matches!(self.said()[..], [Said::Hello(_), ..]), "a stream begins with hello");
    }

    fn said(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while let Some(Some(message)) = self.said.next().now_or_never() {
            said.push(message.message.unwrap());
        }
        said
    }

    fn apply(&mut self, message: control_message::Message) -> Effect {
        self.state.apply(proto::ControlMessage { message: Some(message) }, self.now)
    }

    /// The acknowledgements since the last look: version and whether there was an error.
    fn acks(&mut self) -> Vec<(String, bool)> {
        let ack = |said| if let Said::Ack(ack) = said { Some((ack.version, !ack.error.is_empty())) } else { None };
        self.said().into_iter().filter_map(ack).collect()
    }
}

fn authority(name: &str) -> Target {
    Target::Authority(name.to_owned())
}

fn service(name: &str) -> ServicePort {
    ServicePort { namespace: "shop".to_owned(), name: name.to_owned(), port: 80 }
}

fn policy(backends: &[&str]) -> OutboundPolicy {
    OutboundPolicy {
        service: Some(service("reviews")),
        protocol: Protocol::Http,
        backends: backends.iter().map(|name| ModelBackend::new(service(name))).collect(),
        http: RouteTable::default(),
        tcp: Vec::new(),
        tcp_source: None,
        tcp_idle: None,
    }
}

fn outbound(target: &Target, version: &str, policy: Option<&OutboundPolicy>) -> control_message::Message {
    let (target, version, policy) = (Some(target.into()), version.to_owned(), policy.map(Into::into));
    control_message::Message::Outbound(proto::OutboundUpdate { target, version, policy })
}

fn invalid(target: &Target, version: &str) -> control_message::Message {
    let mut wire = proto::OutboundPolicy::from(&policy(&["v1"]));
    wire.backends[0].port = 100_000;
    let (target, version) = (Some(target.into()), version.to_owned());
    control_message::Message::Outbound(proto::OutboundUpdate { target, version, policy: Some(wire) })
}

fn inbound(port: u16, version: &str, mtls: Option<MtlsMode>) -> control_message::Message {
    let policy = mtls.map(|mtls| InboundPolicy { port, protocol: Protocol::Http, mtls, mtls_source: None, idle: None, service: None });
    control_message::Message::Inbound(proto::InboundUpdate {
        target: Some((&Target::InboundPort(port)).into()),
        version: version.to_owned(),
        policy: policy.as_ref().map(Into::into),
    })
}

fn endpoint(port: u16) -> Endpoint {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    Endpoint { address, identity: None, zone: None, workload: String::new(), version: None, draining: false }
}

fn endpoints(name: &str, reset: bool, upsert: &[u16], remove: &[u16]) -> control_message::Message {
    let update = EndpointsUpdate {
        backend: service(name),
        reset,
        upsert: upsert.iter().map(|port| endpoint(*port)).collect(),
        remove: remove.iter().map(|port| endpoint(*port).address).collect(),
    };
    control_message::Message::Endpoints((&update).into())
}

fn ports(endpoints: &super::super::Endpoints) -> Vec<u16> {
    endpoints.borrow().iter().map(|endpoint| endpoint.address.port()).collect()
}

fn in_force(known: &watch::Receiver<Known<ResolvedOutbound>>) -> Option<Arc<ResolvedOutbound>> {
    match &*known.borrow() {
        Known::Policy(policy) => Some(Arc::clone(policy)),
        Known::Pending | Known::Unknown => None,
    }
}

#[tokio::test]
async fn a_policy_comes_into_force_with_all_endpoints_and_is_then_acknowledged() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    assert!(matches!(&bench.said()[..], [Said::Subscribe(_)]));
    bench.apply(endpoints("v1", true, &[2, 1], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1", "v2"]))));
    assert!(in_force(&known).is_none() && bench.acks().is_empty());
    assert_eq!(bench.state.inventory(bench.now).targets[&target].waiting.as_deref(), Some("a"));
    bench.apply(endpoints("v2", true, &[], &[]));
    let resolved = in_force(&known).unwrap();
    assert_eq!((resolved.version.as_str(), ports(&resolved.endpoints[0])), ("a", vec![1, 2]));
    assert!(ports(&resolved.endpoints[1]).is_empty(), "known, and none");
    assert_eq!(bench.acks(), [("a".to_owned(), false)]);
}

#[tokio::test]
async fn the_old_policy_stays_until_the_new_ones_endpoints_are_here() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    bench.apply(endpoints("v1", true, &[1], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    bench.apply(outbound(&target, "b", Some(&policy(&["v2"]))));
    assert_eq!(in_force(&known).unwrap().version, "a");
    bench.apply(outbound(&target, "c", Some(&policy(&["v1", "v2"]))));
    bench.apply(endpoints("v2", true, &[2], &[]));
    assert_eq!(in_force(&known).unwrap().version, "c");
    let versions: Vec<_> = bench.acks().into_iter().map(|(version, _)| version).collect();
    assert_eq!(versions, ["a", "c"], "b was never in force");
}

#[tokio::test]
async fn an_update_that_cannot_be_read_changes_nothing_and_is_told() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    bench.apply(endpoints("v1", true, &[1], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    bench.apply(invalid(&target, "b"));
    assert_eq!(in_force(&known).unwrap().version, "a");
    assert_eq!(bench.acks(), [("a".to_owned(), false), ("b".to_owned(), true)]);
    let told = |bench: &Bench| bench.state.inventory(bench.now).targets[&target].error.clone();
    assert!(told(&bench).unwrap().starts_with("version b: "));
    bench.apply(outbound(&target, "c", Some(&policy(&["v1"]))));
    assert_eq!((in_force(&known).unwrap().version.as_str(), told(&bench)), ("c", None));
    assert_eq!((bench.state.counts.applied, bench.state.counts.invalid), (2, 1));
}

#[tokio::test]
async fn a_first_update_that_cannot_be_read_opens_nothing() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    bench.apply(invalid(&target, "a"));
    assert!(matches!(*known.borrow(), Known::Pending));
}

#[tokio::test]
async fn an_unset_policy_means_unknown() {
    let mut bench = Bench::new();
    let target = authority("example.org:443");
    let (known, port) = (bench.state.outbound(&target), bench.state.inbound(8080));
    bench.apply(outbound(&target, "a", None));
    bench.apply(inbound(8080, "a", None));
    assert!(matches!(*known.borrow(), Known::Unknown) && matches!(*port.borrow(), Known::Unknown));
    assert_eq!(bench.acks().len(), 2);
    assert_eq!(bench.state.tally(), [0, 2, 0]);
}

#[tokio::test]
async fn inbound_policies_are_announced_when_they_change() {
    let mut bench = Bench::new();
    let mut known = bench.state.inbound(8080);
    bench.apply(inbound(8080, "a", Some(MtlsMode::Strict)));
    assert!(known.has_changed().unwrap());
    known.mark_unchanged();
    bench.apply(inbound(8080, "a", Some(MtlsMode::Strict)));
    assert!(!known.has_changed().unwrap(), "the same again");
    bench.apply(inbound(8080, "b", Some(MtlsMode::Permissive)));
    assert!(matches!(&*known.borrow(), Known::Policy(p) if p.policy.mtls == MtlsMode::Permissive && p.version == "b"));
    assert_eq!(bench.acks().len(), 3);
}

#[tokio::test]
async fn a_new_stream_says_everything_anew_and_disturbs_nothing() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let mut known = bench.state.outbound(&target);
    let _port = bench.state.inbound(8080);
    bench.apply(endpoints("v1", true, &[1, 2], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    let mut addresses = in_force(&known).unwrap().endpoints[0].clone();
    bench.state.disconnected();
    assert!(in_force(&known).is_some() && !bench.state.is_connected());
    let queue = Arc::new(Queue::default());
    bench.state.connected(Arc::clone(&queue), "shop", "front-0");
    bench.said = Box::pin(queue.messages());
    assert!(matches!(&bench.said()[..], [Said::Hello(_), Said::Subscribe(_), Said::Subscribe(_)]));
    known.mark_unchanged();
    addresses.mark_unchanged();
    bench.apply(endpoints("v1", true, &[1, 2], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    assert!(!known.has_changed().unwrap() && !addresses.has_changed().unwrap(), "nothing is new");
    assert_eq!(bench.acks(), [("a".to_owned(), false)], "but it is acknowledged");
    bench.apply(outbound(&target, "b", Some(&policy(&["v1"]))));
    assert!(known.has_changed().unwrap());
}

#[tokio::test]
async fn the_first_word_on_a_stream_about_a_backend_is_the_whole_truth() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    bench.apply(endpoints("v1", true, &[1, 2], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    bench.state.disconnected();
    bench.connect();
    let addresses = in_force(&known).unwrap().endpoints[0].clone();
    assert_eq!(ports(&addresses), [1, 2], "kept while away");
    bench.apply(endpoints("v1", false, &[3], &[]));
    assert_eq!(ports(&addresses), [3]);
    bench.apply(endpoints("v1", false, &[4], &[3]));
    assert_eq!(ports(&addresses), [4]);
}

#[tokio::test]
async fn an_increment_after_a_whole_set_changes_nothing_else() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    let known = bench.state.outbound(&target);
    bench.apply(endpoints("v1", true, &[1, 2, 3], &[]));
    bench.apply(outbound(&target, "a", Some(&policy(&["v1"]))));
    let addresses = in_force(&known).unwrap().endpoints[0].clone();
    bench.apply(endpoints("v1", false, &[], &[1]));
    assert_eq!(ports(&addresses), [2, 3]);
}

#[tokio::test]
async fn idle_targets_are_given_up_after_a_minute_but_never_while_away() {
    let mut bench = Bench::new();
    let (used, idle) = (bench.state.outbound(&authority("used:80")), bench.state.outbound(&authority("idle:80")));
    drop(idle);
    bench.said();
    let began = bench.now;
    bench.state.evict(began);
    bench.state.evict(began + IDLE - Duration::from_secs(1));
    assert!(bench.said().is_empty());
    bench.state.disconnected();
    bench.state.evict(began + IDLE * 2);
    assert_eq!(bench.state.tally(), [2, 0, 0]);
    bench.connect();
    bench.state.evict(began + IDLE * 2);
    assert!(matches!(&bench.said()[..], [Said::Unsubscribe(_)]));
    assert_eq!(bench.state.tally(), [1, 0, 0]);
    drop(used);
}

#[tokio::test]
async fn use_in_between_keeps_a_target() {
    let mut bench = Bench::new();
    let target = authority("reviews:80");
    drop(bench.state.outbound(&target));
    let began = bench.now;
    bench.state.evict(began);
    let again = bench.state.outbound(&target);
    bench.state.evict(began + IDLE);
    drop(again);
    bench.state.evict(began + IDLE + Duration::from_secs(1));
    assert_eq!(bench.state.tally(), [1, 0, 0]);
}

#[tokio::test]
async fn targets_are_bounded_and_unused_ones_make_room() {
    let mut bench = Bench::new();
    let mut held: Vec<_> = (0..TARGETS_MAX).map(|n| bench.state.outbound(&authority(&format!("s{n}:80")))).collect();
    let beyond = bench.state.outbound(&authority("beyond:80"));
    assert!(matches!(*beyond.borrow(), Known::Pending) && beyond.has_changed().is_ok());
    assert_eq!((bench.state.counts.refused, bench.state.tally()[0]), (1, TARGETS_MAX));
    held.pop();
    bench.said();
    let _now = bench.state.outbound(&authority("beyond:80"));
    assert!(matches!(&bench.said()[..], [Said::Unsubscribe(_), Said::Subscribe(_)]));
    assert_eq!((bench.state.counts.refused, bench.state.tally()[0]), (1, TARGETS_MAX));
}

#[tokio::test]
async fn updates_for_targets_given_up_are_passed_over() {
    let mut bench = Bench::new();
    bench.apply(outbound(&authority("gone:80"), "a", None));
    assert_eq!((bench.acks(), bench.state.tally()), (vec![], [0, 0, 0]));
}

#[tokio::test]
async fn settings_and_heartbeats_are_taken() {
    let mut bench = Bench::new();
    let mut settings = bench.state.settings();
    assert_eq!(**settings.borrow(), Settings::default());
    let wire = proto::Settings { otlp_endpoint: "http://collector:4317".to_owned(), sampling_ppm: 7, ..Default::default() };
    bench.apply(control_message::Message::Settings(wire.clone()));
    assert_eq!(settings.borrow_and_update().sampling_ppm, 7);
    bench.apply(control_message::Message::Settings(wire));
    assert!(!settings.has_changed().unwrap());
    bench.apply(control_message::Message::Heartbeat(proto::Heartbeat { revision: 42 }));
    assert_eq!(bench.state.counts.revision, 42);
    assert!(bench.state.is_connected());
    assert_eq!(bench.apply(control_message::Message::Trust(proto::TrustBundle::default())), Effect::None);
    assert_eq!(bench.state.counts.invalid, 1);
}

proptest! {
    /// Increments in any order agree with a set.
    #[test]
    fn increments_add_up(steps in proptest::collection::vec((any::<bool>(), proptest::collection::btree_set(1u16..20, 0..6), proptest::collection::btree_set(1u16..20, 0..6)), 1..20)) {
        let mut current = Vec::new();
        let mut model = std::collections::BTreeSet::new();
        for (reset, upsert, remove) in steps {
            if reset {
                model.clear();
            }
            model.retain(|port| !remove.contains(port));
            model.extend(upsert.iter().copied());
            let remove: Vec<_> = remove.iter().map(|port| endpoint(*port).address).collect();
            current = increment(&current, reset, upsert.iter().rev().map(|port| endpoint(*port)).collect(), &remove);
            let ports: Vec<_> = current.iter().map(|e| e.address.port()).collect();
            prop_assert_eq!(ports, model.iter().copied().collect::<Vec<_>>());
        }
    }
}
