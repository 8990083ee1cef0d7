//! How Gateway API objects name other objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format;

/// The object that a route attaches to: for a mesh a Service (`group: ""`, `kind: Service`), GEP-1294.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group of the parent; the default is the Gateway API's own, so a Service needs `group: ""`.
    #[serde(default = "gateway_group")]
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind of the parent.
    #[serde(default = "gateway_kind")]
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Namespace of the parent; unset is the route's own. Another one makes this a consumer route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::label")]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
    /// Of a Service: the name of one of its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub section_name: Option<String>,
    /// Of a Service: the number of one of its ports; unset means all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

impl ParentReference {
    /// Whether the parent is a Service. The documentation of the Gateway API also writes the core group as `core`.
    #[must_use]
    pub fn is_service(&self) -> bool {
        matches!(self.group.as_str(), "" | "core") && self.kind == "Service"
    }
}

/// An object that requests are sent to, without a share: of a mirror, or of an authorization filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendObjectReference {
    /// API group; the core group by default.
    #[serde(default)]
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind; `Service` by default.
    #[serde(default = "service_kind")]
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
    /// Namespace; unset is the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::label")]
    pub namespace: Option<String>,
    /// Port of the Service; required for a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
}

/// An object that receives a share of the requests of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// API group; the core group by default.
    #[serde(default)]
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind; `Service` by default.
    #[serde(default = "service_kind")]
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
    /// Namespace; unset is the route's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::label")]
    pub namespace: Option<String>,
    /// Port of the Service; required for a Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// Share of the requests: this weight over the sum of the rule's weights. 0 is no share; 1 by default.
    #[serde(default = "one")]
    #[schemars(range(max = 1_000_000))]
    pub weight: u32,
}

impl BackendRef {
    /// The reference without its weight.
    #[must_use]
    pub fn object(&self) -> BackendObjectReference {
        let Self { group, kind, name, namespace, port, weight: _ } = self.clone();
        BackendObjectReference { group, kind, name, namespace, port }
    }
}

/// An object of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalObjectReference {
    /// API group; empty is the core group.
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind.
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
}

fn gateway_group() -> String {
    super::GROUP.to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

pub(super) fn service_kind() -> String {
    "Service".to_owned()
}

pub(super) const fn one() -> u32 {
    1
}
