//! One revision of the snapshot as it is served: resolved answers, computed once and shared by all streams.

use crate::metrics::{Bound, Metrics};
use crate::resolve::{self, MeshSettings};
use crate::snapshot::{ObjectKey, Snapshot};
use crate::status::{self, ObjectStatus};
use crate::watch::Report;
use heddle_identity::TrustBundle;
use heddle_model::{Endpoint, ServicePort, Settings, Target, proto};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::time::Instant;

/// Most answers of each sort that are kept: 1,000 services asked for from 60 namespaces. Beyond it they are resolved again for each
/// stream, which is slower and counted.
const MAX_KEPT: usize = 65_536;

/// A snapshot, and what was resolved from it. Never changes: a new revision is a new view.
pub struct View {
    snapshot: Snapshot,
    mesh: MeshSettings,
    settings: Settings,
    trust: Arc<TrustBundle>,
    report: Arc<Report>,
    published: Instant,
    statuses: OnceLock<Vec<ObjectStatus>>,
    outbound: Kept<(String, Target), Outbound>,
    endpoints: Kept<ServicePort, EndpointSet>,
    metrics: Arc<Metrics>,
}

type Kept<K, V> = Mutex<HashMap<K, Arc<V>>>;

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
    /// Makes the view of a snapshot, which is what it is since `published`. `report` says what it could not take in.
    pub fn new(snapshot: Snapshot, published: Instant, trust: Arc<TrustBundle>, report: Arc<Report>, metrics: Arc<Metrics>) -> Self {
        Self {
            mesh: resolve::mesh(&snapshot),
            settings: resolve::settings(&snapshot),
            snapshot,
            trust,
            report,
            published,
            statuses: OnceLock::new(),
            outbound: Mutex::default(),
            endpoints: Mutex::default(),
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
        let pod = self.snapshot.pods.get(&ObjectKey::new(namespace, pod))?;
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        Some(account.filter(|account| !account.is_empty()).unwrap_or("default"))
    }

    /// Resolves an outbound target, as asked from a namespace.
    pub fn outbound(&self, namespace: &str, target: &Target) -> Arc<Outbound> {
        self.kept(&self.outbound, (namespace.to_owned(), target.clone()), || {
            let policy = self.timed(|| resolve::outbound(&self.snapshot, namespace, target));
            let backends = policy.as_ref().map(|p| p.backends.iter().map(|b| b.service.clone()).collect()).unwrap_or_default();
            let policy = policy.as_ref().map(proto::OutboundPolicy::from);
            Outbound { version: version(policy.as_ref()), policy, backends }
        })
    }

    /// Resolves a port of a workload. Not kept: no two workloads ask the same.
    pub fn inbound(&self, namespace: &str, workload: &str, port: u16) -> Arc<Inbound> {
        let policy = self.timed(|| resolve::inbound(&self.snapshot, namespace, workload, port));
        let policy = policy.as_ref().map(proto::InboundPolicy::from);
        Arc::new(Inbound { version: version(policy.as_ref()), policy })
    }

    /// Resolves the endpoints of a backend.
    pub fn endpoints(&self, backend: &ServicePort) -> Arc<EndpointSet> {
        self.kept(&self.endpoints, backend.clone(), || {
            let endpoints = self.timed(|| resolve::endpoints(&self.snapshot, backend));
            endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect()
        })
    }

    fn kept<K: Eq + Hash, V>(&self, kept: &Kept<K, V>, key: K, resolve: impl FnOnce() -> V) -> Arc<V> {
        // The lock is not held while resolving, and every change is one insertion.
        if let Some(answer) = kept.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return answer.clone();
        }
        let answer = Arc::new(resolve());
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
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
mod tests {
    use super::*;

    #[test]
    fn versions_tell_contents_apart() {
        let heartbeat = |revision| version(Some(&proto::Heartbeat { revision }));
        assert_eq!(heartbeat(1), heartbeat(1));
        assert_ne!(heartbeat(1), heartbeat(2));
        assert_eq!(version(None::<&proto::Heartbeat>), "none");
        // The published offset basis of the algorithm: the hash of no bytes.
        assert_eq!(version(Some(&proto::Heartbeat { revision: 0 })), "6c62272e07bb014262b821756295c58d");
    }
}
