//! What is attached to what: routes to Services (GEP-1294, GEP-1324), policies to their targets (GEP-713).

use heddle_crds::gateway::{GrpcRoute, HttpRoute, ParentReference, PolicyTargetRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::service::{self, Frontend, ServiceKind};
use crate::snapshot::{ObjectKey, Snapshot};

/// What a parent reference of a route leads to.
#[derive(Debug)]
pub(crate) enum Binding<'a> {
    /// Another kind than Service: not ours to speak about.
    Foreign,
    /// A Service that does not exist.
    Missing(ObjectKey),
    /// A Service without such a port, or without a frontend at all.
    Refused(String),
    /// The ports that the route applies to; never empty.
    Bound(Vec<Frontend<'a>>),
}

/// Follows a parent reference of a route in `namespace`.
pub(crate) fn bind<'a>(snapshot: &'a Snapshot, namespace: &str, parent: &ParentReference) -> Binding<'a> {
    if !parent.is_service() {
        return Binding::Foreign;
    }
    let key = ObjectKey::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
    let Some((key, service)) = snapshot.services.get_key_value(&key) else {
        return Binding::Missing(key);
    };
    match service::kind(service) {
        ServiceKind::Cluster => {}
        ServiceKind::Headless => {
            return Binding::Refused(format!("Service {key} is headless: it has no frontend to attach to, only endpoints"));
        }
        ServiceKind::External => {
            return Binding::Refused(format!("Service {key} is of type ExternalName, which cannot be a parent"));
        }
    }
    let ports: Vec<_> = service::ports(service)
        .filter(|(number, _)| parent.port.is_none_or(|wanted| wanted == *number))
        .filter(|(_, port)| parent.section_name.is_none() || parent.section_name == port.name)
        .map(|(number, port)| Frontend { key, service, port, number })
        .collect();
    if ports.is_empty() {
        let wanted = match (parent.port, &parent.section_name) {
            (Some(port), Some(name)) => format!("TCP port {port} named \"{name}\""),
            (Some(port), None) => format!("TCP port {port}"),
            (None, Some(name)) => format!("TCP port named \"{name}\""),
            (None, None) => "TCP port".to_owned(),
        };
        return Binding::Refused(format!("Service {key} has no {wanted}"));
    }
    Binding::Bound(ports)
}

/// Routes of all kinds in one namespace that are attached to a port.
#[derive(Debug, Default)]
pub(crate) struct Attached<'a> {
    /// By name.
    pub(crate) http: Vec<(&'a ObjectKey, &'a HttpRoute)>,
    /// By name.
    pub(crate) grpc: Vec<(&'a ObjectKey, &'a GrpcRoute)>,
}

/// The routes that apply to a client: those of its own namespace (consumer routes) if there is any, else those of the
/// Service's namespace (producer routes); the two groups never mix (GEP-1426).
pub(crate) fn routes<'a>(snapshot: &'a Snapshot, frontend: &Frontend<'_>, client_namespace: &str) -> Attached<'a> {
    let consumer = routes_of(snapshot, frontend, client_namespace);
    if consumer.is_empty() { routes_of(snapshot, frontend, &frontend.key.namespace) } else { consumer }
}

/// The routes of one namespace that are attached to a port.
pub(crate) fn routes_of<'a>(snapshot: &'a Snapshot, frontend: &Frontend<'_>, namespace: &str) -> Attached<'a> {
    if service::kind(frontend.service) != ServiceKind::Cluster {
        return Attached::default();
    }
    let attaches = |key: &ObjectKey, parents: &[ParentReference]| {
        *key.namespace == *namespace
            && parents.iter().any(|parent| {
                parent.is_service()
                    && *parent.name == *frontend.key.name
                    && parent.namespace.as_deref().unwrap_or(namespace) == &*frontend.key.namespace
                    && parent.port.is_none_or(|port| port == frontend.number)
                    && (parent.section_name.is_none() || parent.section_name == frontend.port.name)
            })
    };
    Attached {
        http: snapshot.http_routes.by_index(frontend.key).filter(|(key, route)| attaches(key, &route.spec.parent_refs)).collect(),
        grpc: snapshot.grpc_routes.by_index(frontend.key).filter(|(key, route)| attaches(key, &route.spec.parent_refs)).collect(),
    }
}

impl Attached<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.http.is_empty() && self.grpc.is_empty()
    }
}

/// A Service, or one of its ports by name, as the target of a policy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) service: &'a ObjectKey,
    pub(crate) section: Option<&'a str>,
}

impl Target<'_> {
    /// Whether a reference of a policy in the Service's namespace means exactly this target.
    pub(crate) fn is(&self, reference: &PolicyTargetRef) -> bool {
        reference.is_service() && *reference.name == *self.service.name && reference.section_name.as_deref() == self.section
    }
}

/// When an object was created, in Unix seconds; `None` where nobody says so, as in files.
pub(crate) fn created(metadata: &ObjectMeta) -> Option<u64> {
    metadata.creation_timestamp.as_ref().and_then(|time| u64::try_from(time.0.as_second()).ok()).filter(|seconds| *seconds != 0)
}

/// The order of conflicting policies: the oldest first, then by namespace and name (GEP-713). An unknown age is the youngest.
pub(crate) fn age(key: &ObjectKey, metadata: &ObjectMeta) -> (u64, ObjectKey) {
    (created(metadata).unwrap_or(u64::MAX), key.clone())
}
