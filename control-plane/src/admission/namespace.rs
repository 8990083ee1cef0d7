//! What injection needs of a namespace: the roots that its sidecars trust at first, and a word where its rules forbid the redirection.

use crate::leader::roots::Roots;
use crate::serve::View;
use crate::snapshot::ObjectKey;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::watch;

/// The label by which a namespace says what pods it admits (Pod Security Admission, KEP-2579).
pub const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";

/// The cluster, as far as injection needs it.
pub trait Namespaces: Clone + Send + Sync + fmt::Debug + 'static {
    /// Sees to it that the ConfigMap `heddle-trust-roots` is in a namespace: without it a pod would wait for its volume for ever.
    ///
    /// Cancel safe: what is cancelled may have been done.
    fn ensure_roots(&self, namespace: &str) -> impl Future<Output = Result<(), String>> + Send;

    /// A label of a namespace, as far as it is known: from a cache that may be old, for warnings only.
    fn label(&self, namespace: &str, label: &str) -> Option<String>;
}

/// The real one: the API server for what must be there, the snapshot for what is good to know.
#[derive(Debug, Clone)]
pub struct ClusterNamespaces {
    roots: Roots,
    views: watch::Receiver<Arc<View>>,
}

impl ClusterNamespaces {
    /// Writes by `roots`, and looks labels up in the newest view.
    pub fn new(roots: Roots, views: watch::Receiver<Arc<View>>) -> Self {
        Self { roots, views }
    }
}

impl Namespaces for ClusterNamespaces {
    async fn ensure_roots(&self, namespace: &str) -> Result<(), String> {
        self.roots.ensure(namespace).await.map_err(|error| error.to_string())
    }

    fn label(&self, namespace: &str, label: &str) -> Option<String> {
        let view = self.views.borrow();
        let namespace = view.snapshot().namespaces.get(&ObjectKey::new("", namespace))?;
        namespace.metadata.labels.as_ref()?.get(label).cloned()
    }
}
