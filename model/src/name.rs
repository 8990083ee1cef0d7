//! What metrics, logs, errors and status call a thing.

use crate::proto;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The object, and the rule in it, that caused a decision: `HTTPRoute/default/reviews#canary`.
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceRef {
    inner: Arc<Inner>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Inner {
    kind: String,
    namespace: String,
    name: String,
    rule: String,
}

impl ResourceRef {
    /// Names a whole object. An empty namespace is for cluster-scoped kinds.
    pub fn new(kind: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { inner: Arc::new(Inner { kind: kind.into(), namespace: namespace.into(), name: name.into(), rule: String::new() }) }
    }

    /// Names one rule of the same object, by its name or by its index from 0.
    #[must_use]
    pub fn rule(&self, rule: impl Into<String>) -> Self {
        Self {
            inner: Arc::new(Inner {
                kind: self.inner.kind.clone(),
                namespace: self.inner.namespace.clone(),
                name: self.inner.name.clone(),
                rule: rule.into(),
            }),
        }
    }

    /// The object's kind, such as `HTTPRoute`.
    pub fn kind(&self) -> &str {
        &self.inner.kind
    }

    /// The object's namespace; empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The rule's name or index; empty where the whole object is meant.
    pub fn rule_name(&self) -> &str {
        &self.inner.rule
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, namespace, name, rule } = &*self.inner;
        write!(f, "{kind}/")?;
        if !namespace.is_empty() {
            write!(f, "{namespace}/")?;
        }
        f.write_str(name)?;
        if !rule.is_empty() {
            write!(f, "#{rule}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<proto::Source> for ResourceRef {
    fn from(source: proto::Source) -> Self {
        let proto::Source { kind, namespace, name, rule } = source;
        Self { inner: Arc::new(Inner { kind, namespace, name, rule }) }
    }
}

impl From<&ResourceRef> for proto::Source {
    fn from(source: &ResourceRef) -> Self {
        let Inner { kind, namespace, name, rule } = &*source.inner;
        Self { kind: kind.clone(), namespace: namespace.clone(), name: name.clone(), rule: rule.clone() }
    }
}

/// A port of a Service: `default/reviews:80`. What backends are keyed by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The Service's port (not the container's).
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name, port } = self;
        write!(f, "{namespace}/{name}:{port}")
    }
}

/// A text that is not `namespace/name:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a Service port: write namespace/name:port")]
pub struct InvalidServicePort(String);

impl FromStr for ServicePort {
    type Err = InvalidServicePort;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidServicePort(text.to_owned());
        let (namespace, rest) = text.split_once('/').ok_or_else(invalid)?;
        let (name, port) = rest.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().map_err(|_| invalid())?;
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            return Err(invalid());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_names_object_and_rule() {
        let route = ResourceRef::new("HTTPRoute", "default", "reviews");
        assert_eq!(route.to_string(), "HTTPRoute/default/reviews");
        assert_eq!(route.rule("canary").to_string(), "HTTPRoute/default/reviews#canary");
        assert_eq!(ResourceRef::new("MeshConfig", "", "heddle").to_string(), "MeshConfig/heddle");
    }

    #[test]
    fn a_service_port_reads_what_it_prints() {
        let port: ServicePort = "default/reviews:80".parse().unwrap();
        assert_eq!(port.to_string(), "default/reviews:80");
        for wrong in ["", "reviews:80", "default/reviews", "default/:80", "a/b/c:80", "a/b:70000"] {
            assert!(wrong.parse::<ServicePort>().is_err(), "{wrong}");
        }
    }
}
