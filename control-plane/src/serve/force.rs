//! In how many sidecars each object is in force: what status says of routes and policies.
//!
//! An object counts in a sidecar when the answer for one of its targets comes from it; it is in force there when the sidecar has
//! acknowledged the current answers of all such targets. Each replica counts its own sidecars, and tells the leader by [`PATH`], over mTLS.

use crate::resolve::MESH_CONFIG_NAME;
use crate::serve::view::{Outbound, View};
use crate::snapshot::{ObjectKey, Snapshot};
use heddle_model::{Target, proto};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Where a replica tells another one its counts, beside the gRPC services.
pub const PATH: &str = "/heddle/in-force";

/// The name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// As manifests write it.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    pub(crate) fn new(kind: &str, key: &ObjectKey) -> Self {
        Self { kind: kind.to_owned(), namespace: key.namespace.to_string(), name: key.name.to_string() }
    }

    fn of(source: &proto::Source) -> Self {
        Self { kind: source.kind.clone(), namespace: source.namespace.clone(), name: source.name.clone() }
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, namespace, name } = self;
        if namespace.is_empty() { write!(f, "{kind}/{name}") } else { write!(f, "{kind}/{namespace}/{name}") }
    }
}

/// In how many sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Count {
    /// So many use the object.
    pub sidecars: usize,
    /// In so many of these its current version is in force.
    pub in_force: usize,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.sidecars += other.sidecars;
        self.in_force += other.in_force;
    }
}

/// The counts of one replica, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Which replica: random, so that one that asks itself notices.
    pub replica: u64,
    /// Objects that no sidecar uses are not in it.
    pub objects: Vec<Counted>,
}

/// The count of one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Which object.
    pub name: ObjectName,
    /// The generation that the replica has seen; `None` where none is counted, as in files.
    pub generation: Option<i64>,
    /// In how many of the replica's sidecars.
    pub count: Count,
}

impl Counts {
    /// Adds what other replicas count. What they say of another generation than this replica has seen is nowhere in force yet.
    #[must_use]
    pub fn with(self, others: &[Self]) -> BTreeMap<ObjectName, Count> {
        let Self { replica, objects } = self;
        let seen: HashMap<_, _> = objects.iter().map(|counted| (counted.name.clone(), counted.generation)).collect();
        let mut sum: BTreeMap<_, _> = objects.into_iter().map(|counted| (counted.name, counted.count)).collect();
        for Counted { name, generation, count } in others.iter().filter(|other| other.replica != replica).flat_map(|other| &other.objects) {
            let is_same = seen.get(name).is_none_or(|seen| seen == generation);
            let in_force = if is_same { count.in_force } else { 0 };
            sum.entry(name.clone()).or_default().add(Count { in_force, ..*count });
        }
        sum
    }
}

/// The generation of an object, as a snapshot has it.
fn generation(snapshot: &Snapshot, name: &ObjectName) -> Option<i64> {
    let ObjectName { kind, namespace, name } = name;
    let key = ObjectKey::new(namespace, name);
    let metadata = match kind.as_str() {
        "HTTPRoute" => &snapshot.http_routes.get(&key)?.metadata,
        "GRPCRoute" => &snapshot.grpc_routes.get(&key)?.metadata,
        "TCPRoute" => &snapshot.tcp_routes.get(&key)?.metadata,
        "TLSRoute" => &snapshot.tls_routes.get(&key)?.metadata,
        "TrafficPolicy" => &snapshot.traffic_policies.get(&key)?.metadata,
        "AuthenticationPolicy" => &snapshot.authentication_policies.get(&key)?.metadata,
        "MeshConfig" => &snapshot.mesh_configs.get(&key)?.metadata,
        _ => return None,
    };
    metadata.generation
}

/// What a connected sidecar has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) namespace: String,
    pub(crate) workload: String,
    /// The version in force of each target.
    pub(crate) targets: Vec<(Target, Option<String>)>,
    /// Whether it was told the mesh's present settings. Sidecars do not acknowledge these; they come on the same ordered stream.
    pub(crate) has_settings: bool,
}

/// Counts. Answers that several sidecars share are looked through once.
pub(crate) fn count(view: &View, sidecars: &[Said]) -> Vec<Counted> {
    let mut sources: HashMap<usize, (Arc<Outbound>, BTreeSet<ObjectName>)> = HashMap::new();
    let mut counts: BTreeMap<ObjectName, Count> = BTreeMap::new();
    for Said { namespace, workload, targets, has_settings } in sidecars {
        let mut used: BTreeMap<ObjectName, bool> = BTreeMap::new();
        let mesh_config = ObjectName { kind: "MeshConfig".to_owned(), namespace: String::new(), name: MESH_CONFIG_NAME.to_owned() };
        used.insert(mesh_config, *has_settings);
        for (target, in_force) in targets {
            let mut uses = |name: &ObjectName, version: &str| {
                *used.entry(name.clone()).or_insert(true) &= in_force.as_deref() == Some(version);
            };
            if let Target::InboundPort(port) = target {
                let answer = view.inbound(namespace, workload, *port);
                if let Some(source) = answer.policy.as_ref().and_then(|policy| policy.mtls_source.as_ref()) {
                    uses(&ObjectName::of(source), &answer.version);
                }
            } else {
                let answer = view.outbound(namespace, workload, target);
                // The answer is kept alive here, so that its address stays its own.
                let (_, names) =
                    sources.entry(Arc::as_ptr(&answer).addr()).or_insert_with(|| (answer.clone(), outbound_sources(view, &answer)));
                names.iter().for_each(|name| uses(name, &answer.version));
            }
        }
        for (name, in_force) in used {
            counts.entry(name).or_default().add(Count { sidecars: 1, in_force: usize::from(in_force) });
        }
    }
    let counted = |(name, count)| Counted { generation: generation(view.snapshot(), &name), name, count };
    counts.into_iter().map(counted).collect()
}

/// The routes that an answer was made from, and the policies of the Services in it.
fn outbound_sources(view: &View, answer: &Outbound) -> BTreeSet<ObjectName> {
    let Some(policy) = &answer.policy else {
        return BTreeSet::new();
    };
    let routes = policy.http.iter().flat_map(|table| &table.routes).filter_map(|route| route.source.as_ref());
    let routes = routes.chain(&policy.tcp_source).filter(|source| source.kind.ends_with("Route")).map(ObjectName::of);
    let frontend = (!policy.service_name.is_empty()).then(|| ObjectKey::new(&policy.service_namespace, &policy.service_name));
    let services = answer.backends.iter().map(|backend| ObjectKey::new(&backend.namespace, &backend.name)).chain(frontend);
    let policies = services.flat_map(|service| {
        view.snapshot().traffic_policies.by_index(&service).map(|(key, _)| ObjectName::new("TrafficPolicy", key)).collect::<Vec<_>>()
    });
    routes.chain(policies).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::test_support::{objects, trust};
    use crate::watch::{Batch, Change, Publisher};

    const YAML: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{port: 80, appProtocol: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {serviceAccountName: web, initContainers: [{name: heddle-sidecar}], containers: [{name: app, ports: [{containerPort: 80}]}]}
status: {podIP: 10.1.0.1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: limits}
spec: {targetRefs: [{group: '', kind: Service, name: web}], timeouts: {request: 1s}}
---
apiVersion: heddle.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {name: strict}
spec: {targetRefs: [{group: '', kind: Namespace, name: default}], mtls: {mode: Strict}}
";

    fn view() -> View {
        let mut publisher = Publisher::new(Arc::new(Metrics::new().unwrap()));
        publisher.apply(Batch { changes: objects(YAML).into_iter().map(Change::Apply).collect(), problems: Vec::new() });
        let domain = publisher.trust_domain();
        publisher.trust(&domain, &trust(&domain));
        publisher.view(None).unwrap()
    }

    fn said(workload: &str, target: Target, in_force: Option<String>) -> Said {
        Said { namespace: "default".to_owned(), workload: workload.to_owned(), targets: vec![(target, in_force)], has_settings: true }
    }

    #[track_caller]
    fn check(view: &View, sidecars: &[Said], expected: &[(&str, usize, usize)]) {
        let counted = count(view, sidecars);
        let counted: Vec<_> = counted.iter().map(|c| (c.name.to_string(), c.count.in_force, c.count.sidecars)).collect();
        let expected: Vec<_> = expected.iter().map(|(name, k, n)| ((*name).to_owned(), *k, *n)).collect();
        assert_eq!(counted, expected);
    }

    #[test]
    fn an_object_is_in_force_where_the_current_answer_from_it_is_acknowledged() {
        let view = view();
        let web = || Target::Authority("web:80".into());
        let current = view.outbound("default", "a", &web()).version.clone();
        let sidecars = [
            said("a", web(), Some(current)),
            said("b", web(), Some("older".to_owned())),
            said("c", web(), None),
            said("d", Target::Authority("elsewhere:80".into()), None),
        ];
        check(
            &view,
            &sidecars,
            &[("HTTPRoute/default/canary", 1, 3), ("MeshConfig/default", 4, 4), ("TrafficPolicy/default/limits", 1, 3)],
        );
    }

    #[test]
    fn what_decides_about_plaintext_counts_where_its_ports_are() {
        let view = view();
        let current = view.inbound("default", "web-1", 80).version.clone();
        let sidecars = [said("web-1", Target::InboundPort(80), Some(current))];
        check(&view, &sidecars, &[("AuthenticationPolicy/default/strict", 1, 1), ("MeshConfig/default", 1, 1)]);
    }

    #[test]
    fn counts_of_replicas_are_summed_where_they_have_seen_the_same() {
        let name = ObjectName { kind: "HTTPRoute".to_owned(), namespace: "a".to_owned(), name: "b".to_owned() };
        let of = |replica, generation, sidecars, in_force| {
            let counted = Counted { name: name.clone(), generation: Some(generation), count: Count { sidecars, in_force } };
            Counts { replica, objects: vec![counted] }
        };
        let sum = |own: Counts, others: &[Counts]| own.with(others)[&name];
        assert_eq!(sum(of(1, 5, 2, 2), &[of(2, 5, 3, 1), Counts::default()]), Count { sidecars: 5, in_force: 3 });
        assert_eq!(sum(of(1, 5, 2, 2), &[of(2, 4, 3, 3)]), Count { sidecars: 5, in_force: 2 }, "the other has not seen the edit");
        assert_eq!(sum(of(1, 5, 2, 2), &[of(1, 5, 2, 2)]), Count { sidecars: 2, in_force: 2 }, "it has asked itself");
        assert_eq!(sum(Counts::default(), &[of(2, 4, 3, 3)]), Count { sidecars: 3, in_force: 3 });
        let json = serde_json::to_string(&of(1, 5, 2, 2)).unwrap();
        assert_eq!(serde_json::from_str::<Counts>(&json).unwrap(), of(1, 5, 2, 2));
    }
}
