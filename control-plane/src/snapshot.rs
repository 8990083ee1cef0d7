//! The ground state: the objects as last seen, by kind, namespace and name. No rule of routing lives here.
//!
//! A clone shares everything and costs a few pointers; a change copies the map of its kind only while a clone is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use heddle_crds::Object;
use heddle_crds::gateway::{GrpcRoute, HttpRoute, ParentReference, TcpRoute, TlsRoute};
use heddle_crds::heddle::{AuthenticationPolicy, MeshConfig, TrafficPolicy};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::resolve::service::{cluster_ips, pod_ips};

/// The label by which an EndpointSlice names its Service (discovery/v1).
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

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
                    $(Object::$kind(object) => {
                        self.$store.get(&key) != Some(&*object) && {
                            Arc::make_mut(&mut self.$store).insert(key, object.into());
                            true
                        }
                    })+
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
    /// How Services are to be used.
    TrafficPolicy(traffic_policies) = "TrafficPolicy",
    /// Whether plaintext is taken.
    AuthenticationPolicy(authentication_policies) = "AuthenticationPolicy",
    /// What holds for the whole mesh.
    MeshConfig(mesh_configs) = "MeshConfig",
    ; // Read by others, or not at all:
    Namespace, ServiceAccount, ReferenceGrant, LocalWorkload,
}

impl Snapshot {
    /// Counts the changes since the snapshot was empty.
    pub fn revision(&self) -> u64 {
        self.revision
    }
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

/// What a kind is looked up by, besides its name.
pub(crate) trait Stored: PartialEq {
    /// What the index is ordered by.
    type Index: Ord + Clone + fmt::Debug;

    /// Under which entries of the index an object is found.
    fn index(key: &ObjectKey, object: &Self) -> BTreeSet<Self::Index>;
}

/// The objects of one kind, and an index over them.
#[derive(Debug)]
pub(crate) struct Store<T: Stored> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    index: BTreeMap<T::Index, BTreeSet<ObjectKey>>,
}

impl<T: Stored> Store<T> {
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&T> {
        self.objects.get(key).map(|object| &**object)
    }

    pub(crate) fn get_key_value(&self, key: &ObjectKey) -> Option<(&ObjectKey, &T)> {
        self.objects.get_key_value(key).map(|(key, object)| (key, &**object))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.index.is_empty()
    }

    /// All objects by namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.objects.iter().map(|(key, object)| (key, &**object))
    }

    /// The objects of a namespace by name.
    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&ObjectKey, &T)> {
        let first = ObjectKey::new(namespace, "");
        let namespace = first.namespace.clone();
        self.objects.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(key, object)| (key, &**object))
    }

    /// The objects under an entry of the index, by namespace and name.
    pub(crate) fn by_index(&self, entry: &T::Index) -> impl Iterator<Item = (&ObjectKey, &T)> {
        self.index.get(entry).into_iter().flatten().filter_map(|key| self.get_key_value(key))
    }

    fn insert(&mut self, key: ObjectKey, object: Arc<T>) {
        self.remove(&key);
        for entry in T::index(&key, &object) {
            self.index.entry(entry).or_default().insert(key.clone());
        }
        self.objects.insert(key, object);
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let Some(object) = self.objects.remove(key) else {
            return false;
        };
        for entry in T::index(key, &object) {
            if let Some(keys) = self.index.get_mut(&entry) {
                keys.remove(key);
                if keys.is_empty() {
                    self.index.remove(&entry);
                }
            }
        }
        true
    }
}

// Not derived: a derive would ask for `T: Clone` and `T: Default`, although only pointers are copied.
impl<T: Stored> Clone for Store<T> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), index: self.index.clone() }
    }
}

impl<T: Stored> Default for Store<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), index: BTreeMap::new() }
    }
}

/// By cluster IP.
impl Stored for Service {
    type Index = IpAddr;

    fn index(_: &ObjectKey, service: &Self) -> BTreeSet<IpAddr> {
        cluster_ips(service).collect()
    }
}

/// By the Service that its label names.
impl Stored for EndpointSlice {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, slice: &Self) -> BTreeSet<ObjectKey> {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        service.map(|name| ObjectKey::new(&key.namespace, name)).into_iter().collect()
    }
}

/// By address.
impl Stored for Pod {
    type Index = IpAddr;

    fn index(_: &ObjectKey, pod: &Self) -> BTreeSet<IpAddr> {
        pod_ips(pod).collect()
    }
}

/// By the Services that are its parents.
impl Stored for HttpRoute {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, route: &Self) -> BTreeSet<ObjectKey> {
        parents(key, &route.spec.parent_refs)
    }
}

/// By the Services that are its parents.
impl Stored for GrpcRoute {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, route: &Self) -> BTreeSet<ObjectKey> {
        parents(key, &route.spec.parent_refs)
    }
}

/// By the Services that are its parents.
impl Stored for TcpRoute {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, route: &Self) -> BTreeSet<ObjectKey> {
        parents(key, &route.spec.parent_refs)
    }
}

/// By the Services that are its parents.
impl Stored for TlsRoute {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, route: &Self) -> BTreeSet<ObjectKey> {
        parents(key, &route.spec.parent_refs)
    }
}

fn parents(route: &ObjectKey, references: &[ParentReference]) -> BTreeSet<ObjectKey> {
    let services = references.iter().filter(|parent| parent.is_service());
    services.map(|parent| ObjectKey::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &parent.name)).collect()
}

/// By the Services that are its targets.
impl Stored for TrafficPolicy {
    type Index = ObjectKey;

    fn index(key: &ObjectKey, policy: &Self) -> BTreeSet<ObjectKey> {
        let services = policy.spec.target_refs.iter().filter(|target| target.is_service());
        services.map(|target| ObjectKey::new(&key.namespace, &target.name)).collect()
    }
}

/// Not indexed: there are few, and they are looked up by namespace.
impl Stored for AuthenticationPolicy {
    type Index = ();

    fn index(_: &ObjectKey, _: &Self) -> BTreeSet<()> {
        BTreeSet::new()
    }
}

/// Not indexed: there is one.
impl Stored for MeshConfig {
    type Index = ();

    fn index(_: &ObjectKey, _: &Self) -> BTreeSet<()> {
        BTreeSet::new()
    }
}
