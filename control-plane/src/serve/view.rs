//! One revision of the snapshot as it is served: resolved answers, computed once and shared by all streams.
//!
//! A view takes over from its predecessor the answers whose inputs have not changed. Most changes in a cluster are endpoints and pods
//! coming and going; without this, each of them would have every policy of every sidecar resolved again.

use crate::metrics::{Bound, Metrics};
use crate::resolve::{self, Client, MeshSettings};
use crate::snapshot::{ObjectKey, Snapshot};
use crate::status::{self, ObjectStatus};
use crate::watch::Report;
use heddle_identity::TrustBundle;
use heddle_model::{Endpoint, ServicePort, Settings, Target, proto};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::time::Instant;

/// Most answers of each sort that are kept: 1,000 services asked for from 60 namespaces. Beyond it they are resolved again for each
/// stream, which is slower and counted.
const MAX_KEPT: usize = 65_536;

/// In the place of a node's name in a key: the answer is the same on all of them. No node has such a name.
const ALL_NODES: &str = "*";

/// A snapshot, and what was resolved from it. Never changes: a new revision is a new view.
pub struct View {
    snapshot: Snapshot,
    mesh: MeshSettings,
    settings: Settings,
    trust: Arc<TrustBundle>,
    report: Arc<Report>,
    published: Instant,
    statuses: OnceLock<Vec<ObjectStatus>>,
    kept: Answers,
    metrics: Arc<Metrics>,
}

/// Answers by what they depend on. Shared between views, as far as that has not changed.
#[derive(Debug, Default)]
struct Answers {
    /// For destinations that are Services: on Services, routes and policies. By namespace of the client, its node where that matters,
    /// and target.
    services: Kept<(String, String, Target), Outbound>,
    /// For other destinations: on pods too.
    others: Kept<(String, String, Target), Outbound>,
    /// For a port of a pod: on Services, policies and the pod. By namespace, pod and port.
    inbound: Kept<(String, String, u16), Inbound>,
    /// For a backend: on Services, pods and slices.
    endpoints: Kept<ServicePort, EndpointSet>,
    /// The endpoints of the view before, which may not be true any more. Where they turn out the same, the old set is given again: whoever
    /// was told of it, and that may be a thousand streams, sees without a look inside that there is nothing to tell.
    endpoints_before: Kept<ServicePort, EndpointSet>,
}

type Kept<K, V> = Arc<Mutex<HashMap<K, Arc<V>>>>;

impl Answers {
    /// What is still true of the answers that were given for another snapshot, which must be alive: equal pointers mean equal content
    /// only while both sides are.
    fn still_true(&self, of: &Snapshot, now: &Snapshot) -> Self {
        let same_rules = Arc::ptr_eq(&of.services, &now.services)
            && Arc::ptr_eq(&of.http_routes, &now.http_routes)
            && Arc::ptr_eq(&of.grpc_routes, &now.grpc_routes)
            && Arc::ptr_eq(&of.tcp_routes, &now.tcp_routes)
            && Arc::ptr_eq(&of.tls_routes, &now.tls_routes)
            && Arc::ptr_eq(&of.traffic_policies, &now.traffic_policies)
            && Arc::ptr_eq(&of.authentication_policies, &now.authentication_policies)
            && Arc::ptr_eq(&of.mesh_configs, &now.mesh_configs);
        let same_pods = Arc::ptr_eq(&of.pods, &now.pods);
        let same_slices = Arc::ptr_eq(&of.endpoint_slices, &now.endpoint_slices);
        let endpoints_before = self.endpoints.clone();
        if !same_rules {
            return Self { endpoints_before, ..Self::default() };
        }
        Self {
            endpoints_before,
            services: self.services.clone(),
            others: if same_pods { self.others.clone() } else { Kept::default() },
            inbound: if same_pods { self.inbound.clone() } else { self.of_same_pods(of, now) },
            endpoints: if same_pods && same_slices { self.endpoints.clone() } else { Kept::default() },
        }
    }

    fn of_same_pods(&self, of: &Snapshot, now: &Snapshot) -> Kept<(String, String, u16), Inbound> {
        let is_same = |(namespace, pod, _): &(String, String, u16)| {
            let key = ObjectKey::new(namespace, pod);
            match (of.pods.get(&key), now.pods.get(&key)) {
                (Some(of), Some(now)) => std::ptr::eq(of, now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
        };
        let kept = locked(&self.inbound);
        let same: HashMap<_, _> = kept.iter().filter(|(key, _)| is_same(key)).map(|(key, answer)| (key.clone(), answer.clone())).collect();
        Arc::new(Mutex::new(same))
    }
}

/// The endpoints of a backend, by address.
pub type EndpointSet = BTreeMap<SocketAddr, Endpoint>;

/// The answer for an outbound target.
#[derive(Debug, PartialEq)]
pub struct Outbound {
    /// A hash of the answer.
    pub version: String,
    /// `None`: the mesh does not know the target.
    pub policy: Option<proto::OutboundPolicy>,
    /// The backends that the policy refers to.
    pub backends: Vec<ServicePort>,
}

/// The answer for an inbound port.
#[derive(Debug, PartialEq)]
pub struct Inbound {
    /// A hash of the answer.
    pub version: String,
    /// `None`: nothing is permitted.
    pub policy: Option<proto::InboundPolicy>,
}

impl View {
    /// Makes the view of a snapshot, which is what it is since `published`. `report` says what it could not take in; `previous` is the
    /// view of an earlier state of the same snapshot.
    pub fn new(
        snapshot: Snapshot,
        published: Instant,
        trust: Arc<TrustBundle>,
        report: Arc<Report>,
        previous: Option<&Self>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            mesh: resolve::mesh(&snapshot),
            settings: resolve::settings(&snapshot),
            kept: previous.map(|view| view.kept.still_true(&view.snapshot, &snapshot)).unwrap_or_default(),
            snapshot,
            trust,
            report,
            published,
            statuses: OnceLock::new(),
            metrics,
        }
    }

    /// The objects.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What holds for the whole mesh.
    pub fn mesh(&self) -> &MeshSettings {
        &self.mesh
    }

    /// What is the same for every sidecar.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who is trusted.
    pub fn trust(&self) -> &Arc<TrustBundle> {
        &self.trust
    }

    /// What the snapshot could not take in.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// When the snapshot last changed.
    pub fn published(&self) -> Instant {
        self.published
    }

    /// The statuses of all objects, computed on first use.
    pub fn statuses(&self) -> &[ObjectStatus] {
        self.statuses.get_or_init(|| status::statuses(&self.snapshot))
    }

    /// The service account of a pod; `None`: the pod is not known.
    pub fn service_account(&self, namespace: &str, pod: &str) -> Option<&str> {
        Some(&self.snapshot.pods.get(&ObjectKey::new(namespace, pod))?.service_account)
    }

    /// Resolves an outbound target, as asked by a workload.
    pub fn outbound(&self, namespace: &str, workload: &str, target: &Target) -> Arc<Outbound> {
        let node = self.snapshot.pods.get(&ObjectKey::new(namespace, workload)).map_or("", |pod| &pod.node);
        let Answers { services, others, .. } = &self.kept;
        // Nearly every answer is for all nodes. What was answered to a client whose node is not known says nothing about others.
        let everywhere = if node.is_empty() { node } else { ALL_NODES };
        let mut key = (namespace.to_owned(), String::new(), target.clone());
        for node in [everywhere, node] {
            node.clone_into(&mut key.1);
            if let Some(answer) = [services, others].into_iter().find_map(|kept| locked(kept).get(&key).cloned()) {
                return answer;
            }
        }
        let policy = self.timed(|| resolve::outbound(&self.snapshot, Client::on_node(namespace, node), target));
        if !policy.as_ref().is_some_and(resolve::depends_on_node) {
            everywhere.clone_into(&mut key.1);
        }
        let is_service = policy.as_ref().is_some_and(|policy| policy.service.is_some());
        let kept = if is_service && resolve::depends_on_rules_only(&self.snapshot, target) { services } else { others };
        let backends = policy.as_ref().map(|p| p.backends.iter().map(|b| b.service.clone()).collect()).unwrap_or_default();
        let policy = policy.as_ref().map(proto::OutboundPolicy::from);
        self.keep(kept, key, Arc::new(Outbound { version: version(policy.as_ref()), policy, backends }))
    }

    /// Resolves a port of a workload.
    pub fn inbound(&self, namespace: &str, workload: &str, port: u16) -> Arc<Inbound> {
        let key = (namespace.to_owned(), workload.to_owned(), port);
        if let Some(answer) = locked(&self.kept.inbound).get(&key) {
            return answer.clone();
        }
        let policy = self.timed(|| resolve::inbound(&self.snapshot, namespace, workload, port));
        let policy = policy.as_ref().map(proto::InboundPolicy::from);
        self.keep(&self.kept.inbound, key, Arc::new(Inbound { version: version(policy.as_ref()), policy }))
    }

    /// Resolves the endpoints of a backend.
    pub fn endpoints(&self, backend: &ServicePort) -> Arc<EndpointSet> {
        if let Some(answer) = locked(&self.kept.endpoints).get(backend) {
            return answer.clone();
        }
        let endpoints = self.timed(|| resolve::endpoints(&self.snapshot, backend));
        let endpoints: EndpointSet = endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let before = locked(&self.kept.endpoints_before).get(backend).filter(|before| ***before == endpoints).cloned();
        self.keep(&self.kept.endpoints, backend.clone(), before.unwrap_or_else(|| Arc::new(endpoints)))
    }

    fn keep<K: Eq + Hash, V>(&self, kept: &Kept<K, V>, key: K, answer: Arc<V>) -> Arc<V> {
        let mut kept = locked(kept);
        if kept.len() < MAX_KEPT {
            kept.insert(key, answer.clone());
        } else {
            self.metrics.refused(Bound::Kept);
        }
        answer
    }

    fn timed<T>(&self, resolve: impl FnOnce() -> T) -> T {
        let timer = self.metrics.resolve.start_timer();
        let answer = resolve();
        timer.observe_duration();
        answer
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("revision", &self.snapshot.revision()).finish_non_exhaustive()
    }
}

/// No lock is held while resolving, and every change is one insertion, whole even after a panic elsewhere.
fn locked<K, V>(kept: &Kept<K, V>) -> MutexGuard<'_, HashMap<K, Arc<V>>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A hash of a message's bytes: FNV-1a with 128 bits, which is the same in every process and release, so that replicas and a restarted
/// control plane give the same answer the same name. It is no defence against a forged collision, and needs to be none: whoever
/// can write the objects behind an answer decides about the answer.
fn version<M: prost::Message>(message: Option<&M>) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let Some(message) = message else {
        return "none".to_owned();
    };
    let hash = message.encode_to_vec().iter().fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests;
