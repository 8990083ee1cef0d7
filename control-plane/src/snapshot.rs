//! The ground state: the objects as last seen, by kind, namespace and name. No rule of routing lives here.
//!
//! A clone shares everything and costs a few pointers; a change copies the map of its kind only while a clone is alive.

mod index;
mod pod;
mod store;

pub(crate) use index::{PodIndex, ServiceIndex};
pub use pod::{Names, Pod, Port, SIDECAR_CONTAINER, Sidecar};
pub(crate) use store::Store;
use store::Stored;

use std::fmt;
use std::sync::Arc;

use heddle_crds::Object;
use heddle_crds::gateway::{GrpcRoute, HttpRoute, ReferenceGrant, TcpRoute, TlsRoute};
use heddle_crds::heddle::{AuthenticationPolicy, MeshConfig, TrafficPolicy};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Names an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Declares the kinds that the snapshot holds: one line each.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($store:ident) = $name:literal,)+; $($ignored:ident,)+) => {
        /// The objects as last seen.
        #[derive(Debug, Clone, Default)]
        pub struct Snapshot {
            revision: u64,
            $($(#[$doc])* pub(crate) $store: Arc<Store<$kind>>,)+
        }

        impl Snapshot {
            /// Puts an object in, or in the place of its predecessor. Returns whether that changed anything; the revision
            /// counts changes. Kinds that decide nothing here, and objects without a name, are left out.
            pub fn apply(&mut self, object: Object) -> bool {
                let Some(key) = key_of(&object) else {
                    return false;
                };
                let changed = match object {
                    $(Object::$kind(object) => put(&mut self.$store, key, <$kind>::from(*object)),)+
                    $(Object::$ignored(_) => false,)+
                };
                self.revision += u64::from(changed);
                changed
            }

            /// Takes an object out; `kind` is as manifests write it, `namespace` is empty for cluster-scoped kinds. Returns
            /// whether it was there.
            pub fn delete(&mut self, kind: &str, namespace: &str, name: &str) -> bool {
                let key = ObjectKey::new(namespace, name);
                let changed = match kind {
                    $($name => self.$store.get(&key).is_some() && Arc::make_mut(&mut self.$store).remove(&key),)+
                    _ => false,
                };
                self.revision += u64::from(changed);
                changed
            }

            /// How many objects there are of each kind.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, usize)> {
                [$(($name, self.$store.len()),)+].into_iter()
            }
        }
    };
}

kinds! {
    /// Frontends and their ports.
    Service(services) = "Service",
    /// Addresses of a Service's endpoints.
    EndpointSlice(endpoint_slices) = "EndpointSlice",
    /// Workload instances.
    Pod(pods) = "Pod",
    /// Routes of HTTP requests.
    HttpRoute(http_routes) = "HTTPRoute",
    /// Routes of gRPC calls.
    GrpcRoute(grpc_routes) = "GRPCRoute",
    /// Routes of opaque connections.
    TcpRoute(tcp_routes) = "TCPRoute",
    /// Routes of TLS connections.
    TlsRoute(tls_routes) = "TLSRoute",
    /// Who may point into a namespace.
    ReferenceGrant(reference_grants) = "ReferenceGrant",
    /// What namespaces are labelled with.
    Namespace(namespaces) = "Namespace",
    /// How Services are to be used.
    TrafficPolicy(traffic_policies) = "TrafficPolicy",
    /// Whether plaintext is taken.
    AuthenticationPolicy(authentication_policies) = "AuthenticationPolicy",
    /// What holds for the whole mesh.
    MeshConfig(mesh_configs) = "MeshConfig",
    ; // Read by others, or not at all:
    ServiceAccount, LocalWorkload,
}

impl Snapshot {
    /// Counts the changes since the snapshot was empty.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// As [`Self::apply`], for a pod of which only what counts was kept.
    pub fn apply_pod(&mut self, key: ObjectKey, pod: Pod) -> bool {
        let changed = put(&mut self.pods, key, pod);
        self.revision += u64::from(changed);
        changed
    }
}

/// Returns whether that changed anything. The store is copied only then.
fn put<T: Stored>(store: &mut Arc<Store<T>>, key: ObjectKey, object: T) -> bool {
    let changed = store.get(&key) != Some(&object);
    if changed {
        Arc::make_mut(store).insert(key, object);
    }
    changed
}

/// A missing namespace is `default`, as for `kubectl apply`.
fn key_of(object: &Object) -> Option<ObjectKey> {
    let meta = object.meta();
    let name = meta.name.as_deref().filter(|name| !name.is_empty())?;
    let namespace = match object {
        Object::MeshConfig(_) | Object::Namespace(_) => "",
        Object::Service(_)
        | Object::ServiceAccount(_)
        | Object::Pod(_)
        | Object::EndpointSlice(_)
        | Object::HttpRoute(_)
        | Object::GrpcRoute(_)
        | Object::TcpRoute(_)
        | Object::TlsRoute(_)
        | Object::ReferenceGrant(_)
        | Object::TrafficPolicy(_)
        | Object::AuthenticationPolicy(_)
        | Object::LocalWorkload(_) => meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default"),
    };
    Some(ObjectKey::new(namespace, name))
}
