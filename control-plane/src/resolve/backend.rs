//! BackendRef → backend, or the answer for the share of a reference that cannot be honoured.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use heddle_crds::gateway::{BackendObjectReference, BackendRef};
use heddle_model::{Backend, BackendTarget, Protocol, RouteBackend, ServicePort};

use super::Client;
use super::endpoint;
use super::reach::Reach;
use super::service::{self, Frontend, ServiceKind};
use super::traffic_policy::{self, Traffic};
use crate::snapshot::{ObjectKey, Pod, Snapshot};

/// The status for the share of an invalid reference (Gateway API, HTTPBackendRef). gRPC clients are told UNAVAILABLE.
const INVALID_BACKEND_STATUS: u16 = 500;

/// The largest weight of the Gateway API.
const WEIGHT_MAX: u32 = 1_000_000;

/// Why a reference of a rule is not resolved: reason and message of the condition `ResolvedRefs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unresolved {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The backends of one policy, each once, in the order of first use.
#[derive(Debug)]
pub(crate) struct Backends<'a> {
    snapshot: &'a Snapshot,
    client: Client<'a>,
    /// The policy of the addressed port, which shapes every backend that has none of its own.
    default: Option<&'a Traffic>,
    list: Vec<Backend>,
    index: BTreeMap<ServicePort, usize>,
}

impl<'a> Backends<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, default: Option<&'a Traffic>) -> Self {
        Self { snapshot, client: Client::default(), default, list: Vec::new(), index: BTreeMap::new() }
    }

    /// Of the endpoints of every Service, those that this client would be given without the mesh.
    pub(crate) fn for_client(self, client: Client<'a>) -> Self {
        Self { client, ..self }
    }

    pub(crate) fn into_list(self) -> Vec<Backend> {
        self.list
    }

    /// The backend that is a Service's port.
    pub(crate) fn service(&mut self, frontend: &Frontend<'_>) -> BackendTarget {
        let own = traffic_policy::of_port(self.snapshot, frontend);
        let protocol = traffic_policy::protocol(frontend, own.as_ref());
        self.add(self.reached(frontend), protocol, own.as_ref())
    }

    /// The key of a Service's port, for what the client may use of it.
    fn reached(&self, frontend: &Frontend<'_>) -> ServicePort {
        Reach::of(frontend.service, self.client).restrict(frontend.service_port())
    }

    /// The backend that is one pod.
    pub(crate) fn pod(&mut self, key: &ObjectKey, pod: &Pod, address: SocketAddr, protocol: Protocol) -> BackendTarget {
        self.add(endpoint::pod_key(key, pod, address), protocol, None)
    }

    fn add(&mut self, service: ServicePort, protocol: Protocol, own: Option<&Traffic>) -> BackendTarget {
        if let Some(index) = self.index.get(&service) {
            return BackendTarget::Backend(*index);
        }
        let mut backend = Backend { protocol, ..Backend::new(service.clone()) };
        if let Some(policy) = own.or(self.default) {
            backend.load_balancing = policy.load_balancing.unwrap_or(backend.load_balancing);
            backend.connect_timeout = policy.connect_timeout.unwrap_or(backend.connect_timeout);
            backend.http1_idle_timeout = policy.http1_idle_timeout.unwrap_or(backend.http1_idle_timeout);
            backend.retry_budget = policy.retry_budget.unwrap_or(backend.retry_budget);
            backend.source = Some(policy.source.clone());
        }
        let index = self.list.len();
        self.list.push(backend);
        self.index.insert(service, index);
        BackendTarget::Backend(index)
    }

    /// Follows a reference of an HTTP or gRPC rule in `namespace`. Mesh routes may point into any namespace (GEP-1294).
    pub(crate) fn reference(&mut self, namespace: &str, reference: &BackendObjectReference) -> Result<BackendTarget, Unresolved> {
        let BackendObjectReference { group, kind, name, namespace: other, port } = reference;
        if !matches!(group.as_str(), "" | "core") || kind != "Service" {
            let group = if group.is_empty() { "core" } else { group };
            return Err(unresolved("InvalidKind", format!("backend {kind} ({group}) \"{name}\": only Services can be backends")));
        }
        let key = ObjectKey::new(other.as_deref().unwrap_or(namespace), name);
        let Some(service) = self.snapshot.services.get(&key) else {
            return Err(unresolved("BackendNotFound", format!("Service {key} does not exist")));
        };
        if service::kind(service) == ServiceKind::External {
            return Err(unresolved("InvalidKind", format!("Service {key} is of type ExternalName, which cannot be a backend")));
        }
        let Some(port) = *port else {
            return Err(unresolved("BackendNotFound", format!("the reference to Service {key} needs a port")));
        };
        let Some(frontend) = Frontend::find(self.snapshot, &key, port) else {
            return Err(unresolved("BackendNotFound", format!("Service {key} has no TCP port {port}")));
        };
        let own = traffic_policy::of_port(self.snapshot, &frontend);
        let protocol = traffic_policy::protocol(&frontend, own.as_ref());
        if protocol == Protocol::Tls {
            let message = format!("port {port} of Service {key} speaks the application's own TLS: a rule has no requests for it");
            return Err(unresolved("UnsupportedProtocol", message));
        }
        Ok(self.add(self.reached(&frontend), protocol, own.as_ref()))
    }

    /// As [`Self::reference`], with a weight; a reference that cannot be honoured keeps its share and is told to `problems`.
    pub(crate) fn weighted(&mut self, namespace: &str, reference: &BackendRef, problems: &mut Vec<Unresolved>) -> RouteBackend {
        let target = self.reference(namespace, &reference.object()).unwrap_or_else(|problem| {
            let target = invalid(problem.message.clone());
            problems.push(problem);
            target
        });
        RouteBackend { weight: reference.weight.min(WEIGHT_MAX), target, filters: Vec::new() }
    }
}

/// All of a rule's backends with a share; without any share the answer for everything is an error that says so.
pub(crate) fn or_nothing(backends: Vec<RouteBackend>, refusal: &mut Option<&'static str>) -> Vec<RouteBackend> {
    if backends.iter().any(|b| b.weight > 0) {
        return backends;
    }
    let message = if backends.is_empty() { "the rule has no backendRefs" } else { "the weights of the rule's backendRefs sum to 0" };
    *refusal = Some(message);
    vec![RouteBackend { weight: 1, target: invalid(message.to_owned()), filters: Vec::new() }]
}

/// The answer for a share that cannot be forwarded.
pub(crate) fn invalid(message: String) -> BackendTarget {
    BackendTarget::Invalid { status: INVALID_BACKEND_STATUS, message }
}

pub(crate) fn unresolved(reason: &'static str, message: String) -> Unresolved {
    Unresolved { reason, message }
}
