//! A sidecar of a few lines that follows a ledger, and drops what it may drop as soon as it may.

use super::*;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use crate::test_support::{objects, trust};
use crate::watch::Report;
use heddle_model::Endpoint;
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::LazyLock;
use tokio::time::Instant;

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: v1}
spec: {ports: [{port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: v2}
spec: {ports: [{port: 80, appProtocol: http}]}
";

/// The content of the mesh that one number stands for.
fn view(bits: u8) -> Arc<View> {
    let mut yaml = SERVICES.to_owned();
    for (name, count) in [("web", 1), ("v1", bits & 3), ("v2", (bits >> 2) & 3)] {
        let network = name.len() + usize::from(name == "v2");
        let endpoints: String = (0..count).map(|i| format!("{{addresses: [10.0.{network}.{i}]}},")).collect();
        yaml += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             ports: [{{port: 8080}}]\nendpoints: [{endpoints}]\n"
        );
    }
    let backends: Vec<_> = [("v1", 16), ("v2", 32)].into_iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| name).collect();
    if !backends.is_empty() {
        let refs: String = backends.iter().map(|name| format!("{{name: {name}, port: 80}},")).collect();
        yaml += &format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{backendRefs: [{refs}]}}]}}\n"
        );
    }
    let mut snapshot = Snapshot::default();
    assert!(objects(&yaml).into_iter().all(|object| snapshot.apply(object)));
    let metrics = Arc::new(Metrics::new().unwrap());
    Arc::new(View::new(snapshot, Instant::now(), TRUST.clone(), Arc::new(Report::default()), None, metrics))
}

static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| "cluster.local".parse().unwrap());
static TRUST: LazyLock<Arc<heddle_identity::TrustBundle>> = LazyLock::new(|| trust(&DOMAIN));
static VIEWS: LazyLock<Vec<Arc<View>>> = LazyLock::new(|| (0..64).map(view).collect());

fn target(name: &str) -> Target {
    Target::Authority(format!("{name}:80"))
}

fn ledger() -> Ledger {
    Ledger::new("default", "client", &DOMAIN)
}

fn drain(ledger: &mut Ledger) -> Vec<Outgoing> {
    std::iter::from_fn(|| ledger.pop()).collect()
}

/// `reset v1 2` · `change v1 +1 -1` · `policy web` · …, without roots and settings.
fn told(ledger: &mut Ledger) -> Vec<String> {
    drain(ledger)
        .into_iter()
        .filter_map(|outgoing| match outgoing {
            Outgoing::Endpoints(EndpointsUpdate { backend, reset: true, upsert, .. }) => {
                Some(format!("reset {} {}", backend.name, upsert.len()))
            }
            Outgoing::Endpoints(EndpointsUpdate { backend, reset: false, upsert, remove }) => {
                Some(format!("change {} +{} -{}", backend.name, upsert.len(), remove.len()))
            }
            Outgoing::Outbound(target, _) | Outgoing::Inbound(target, _) => Some(target.to_string()),
            Outgoing::Heartbeat(_) => Some("heartbeat".to_owned()),
            Outgoing::Trust(_) | Outgoing::Settings(_) => None,
        })
        .collect()
}

#[test]
fn endpoints_come_whole_before_the_policy_and_then_as_changes() {
    let mut ledger = ledger();
    ledger.subscribe(&VIEWS[16 + 2], target("web")).unwrap();
    assert_eq!(told(&mut ledger), ["reset v1 2", "outbound web:80"]);
    ledger.endpoints(&VIEWS[16 + 3]);
    ledger.policies(&VIEWS[16 + 3]);
    assert_eq!(told(&mut ledger), ["change v1 +1 -0"]);
    ledger.endpoints(&VIEWS[16 + 1]);
    assert_eq!(told(&mut ledger), ["change v1 +0 -2"]);
}

#[test]
fn a_changed_route_brings_the_endpoints_of_its_new_backend_first() {
    let mut ledger = ledger();
    ledger.subscribe(&VIEWS[16 + 1], target("web")).unwrap();
    drain(&mut ledger);
    let both = &VIEWS[48 + 1 + 4 * 3];
    ledger.endpoints(both);
    assert_eq!(told(&mut ledger), [""; 0]);
    ledger.policies(both);
    assert_eq!(told(&mut ledger), ["reset v2 3", "outbound web:80"]);
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let mut ledger = ledger();
    ledger.policies(&VIEWS[17]);
    assert_eq!(drain(&mut ledger).len(), 2, "roots and settings");
    ledger.subscribe(&VIEWS[17], target("web")).unwrap();
    drain(&mut ledger);
    ledger.endpoints(&view(17));
    ledger.policies(&view(17));
    assert_eq!(drain(&mut ledger), []);
}

#[test]
fn a_target_asked_for_again_is_answered_as_a_whole() {
    let mut ledger = ledger();
    for _ in 0..2 {
        ledger.subscribe(&VIEWS[17], target("web")).unwrap();
        assert_eq!(told(&mut ledger), ["reset v1 1", "outbound web:80"]);
    }
}

#[test]
fn backends_without_a_policy_are_forgotten() {
    let mut ledger = ledger();
    ledger.subscribe(&VIEWS[17], target("web")).unwrap();
    ledger.subscribe(&VIEWS[17], target("v1")).unwrap();
    drain(&mut ledger);
    ledger.unsubscribe(&target("web"));
    ledger.endpoints(&VIEWS[18]);
    assert_eq!(told(&mut ledger), ["change v1 +1 -0"]);
    ledger.unsubscribe(&target("v1"));
    ledger.endpoints(&VIEWS[19]);
    assert_eq!(told(&mut ledger), [""; 0]);
}

#[test]
fn targets_are_bounded() {
    let mut ledger = ledger();
    for port in 0..MAX_TARGETS {
        ledger.subscribe(&VIEWS[0], Target::InboundPort(u16::try_from(port).unwrap())).unwrap();
    }
    assert_eq!(ledger.subscribe(&VIEWS[0], target("web")), Err(SubscribeError::TooMany));
    assert_eq!(ledger.subscribe(&VIEWS[0], Target::InboundPort(7)), Ok(()));
    ledger.unsubscribe(&Target::InboundPort(7));
    assert_eq!(ledger.subscribe(&VIEWS[0], target("web")), Ok(()));
    assert_eq!(ledger.subscribe(&VIEWS[0], target(&"a".repeat(MAX_AUTHORITY))), Err(SubscribeError::TooLong));
}

/// Follows what it is told, and drops endpoints at the first moment at which it may.
#[derive(Default)]
struct Sidecar {
    policies: BTreeMap<Target, Arc<Outbound>>,
    subscribed: BTreeMap<Target, bool>,
    endpoints: BTreeMap<ServicePort, BTreeMap<SocketAddr, Endpoint>>,
    /// Backends whose policy is still to come.
    fresh: HashSet<ServicePort>,
}

impl Sidecar {
    fn take(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Endpoints(EndpointsUpdate { backend, reset, upsert, remove }) => {
                if reset {
                    self.endpoints.insert(backend.clone(), BTreeMap::new());
                    self.fresh.insert(backend.clone());
                }
                if let Some(known) = self.endpoints.get_mut(&backend) {
                    known.extend(upsert.into_iter().map(|e| (e.address, e)));
                    remove.iter().for_each(|address| drop(known.remove(address)));
                }
            }
            Outgoing::Outbound(target, policy) => {
                if self.subscribed.contains_key(&target) {
                    self.policies.insert(target, policy);
                }
                self.fresh.clear();
                self.drop_unused();
            }
            Outgoing::Inbound(..) | Outgoing::Trust(_) | Outgoing::Settings(_) | Outgoing::Heartbeat(_) => {}
        }
    }

    fn unsubscribe(&mut self, target: &Target) {
        self.subscribed.remove(target);
        self.policies.remove(target);
        self.drop_unused();
    }

    fn drop_unused(&mut self) {
        let used: HashSet<_> = self.policies.values().flat_map(|policy| &policy.backends).chain(&self.fresh).collect();
        self.endpoints.retain(|backend, _| used.contains(backend));
    }

    fn complete(&self) -> bool {
        self.policies.values().flat_map(|policy| &policy.backends).all(|backend| self.endpoints.contains_key(backend))
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// A new view: its endpoints are told at once.
    View(u8),
    /// The gathered policies are told.
    Policies,
    /// The sidecar asks.
    Subscribe(&'static str),
    /// The sidecar drops a target.
    Unsubscribe(&'static str),
    /// The ledger hears of the oldest message under way.
    Hear,
    /// The sidecar hears so many messages.
    Tell(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || prop::sample::select(vec!["web", "v1", "v2", "nobody"]);
    prop_oneof![
        (0_u8..64).prop_map(Step::View),
        Just(Step::Policies),
        name().prop_map(Step::Subscribe),
        name().prop_map(Step::Unsubscribe),
        Just(Step::Hear),
        (0_u8..4).prop_map(Step::Tell),
    ]
}

proptest! {
    #[test]
    fn a_sidecar_always_ends_with_the_view_and_never_holds_a_policy_without_its_endpoints(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let (mut ledger, mut sidecar) = (ledger(), Sidecar::default());
        let mut view = &VIEWS[0];
        let mut under_way: VecDeque<(bool, Target)> = VecDeque::new();
        let hear = |ledger: &mut Ledger, view: &View, message: Option<(bool, Target)>| match message {
            Some((true, target)) => ledger.subscribe(view, target).unwrap(),
            Some((false, target)) => ledger.unsubscribe(&target),
            None => {}
        };
        for step in steps {
            match step {
                Step::View(bits) => {
                    view = &VIEWS[usize::from(bits)];
                    ledger.endpoints(view);
                }
                Step::Policies => ledger.policies(view),
                Step::Subscribe(name) => {
                    // Asked for again while the farewell, or what was told before it, is under way, a target may have an old
                    // answer without all endpoints until the new one arrives.
                    let is_leaving = under_way.iter().any(|(_, target)| *target == self::target(name)) || ledger.queued() > 0;
                    if !is_leaving && sidecar.subscribed.insert(target(name), true).is_none() {
                        under_way.push_back((true, target(name)));
                    }
                }
                Step::Unsubscribe(name) => {
                    if sidecar.subscribed.contains_key(&target(name)) {
                        sidecar.unsubscribe(&target(name));
                        under_way.push_back((false, target(name)));
                    }
                }
                Step::Hear => hear(&mut ledger, view, under_way.pop_front()),
                Step::Tell(count) => {
                    for _ in 0..count {
                        if let Some(outgoing) = ledger.pop() {
                            sidecar.take(outgoing);
                            prop_assert!(sidecar.complete());
                        }
                    }
                }
            }
        }
        while let Some(message) = under_way.pop_front() {
            hear(&mut ledger, view, Some(message));
        }
        ledger.endpoints(view);
        ledger.policies(view);
        while let Some(outgoing) = ledger.pop() {
            sidecar.take(outgoing);
            prop_assert!(sidecar.complete());
        }
        let subscribed: Vec<_> = sidecar.subscribed.keys().collect();
        prop_assert_eq!(subscribed, sidecar.policies.keys().collect::<Vec<_>>());
        for (target, policy) in &sidecar.policies {
            prop_assert_eq!(policy, &view.outbound("default", "client", target));
            for backend in &policy.backends {
                prop_assert_eq!(&sidecar.endpoints[backend], &*view.endpoints(backend));
            }
        }
    }
}
