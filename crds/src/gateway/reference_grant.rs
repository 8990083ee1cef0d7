//! ReferenceGrant: who may point into this namespace from another one.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::format;

/// Who may point into this namespace, and at what. Every pair of a `from` and a `to` is allowed.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "ReferenceGrant",
    plural = "referencegrants",
    namespaced,
    derive = "PartialEq",
    schema = "disabled",
    doc = "ReferenceGrant of the Gateway API: who may point into its namespace from another one."
)]
pub struct ReferenceGrantSpec {
    /// Who may point.
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<ReferenceGrantFrom>,
    /// At what.
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects of one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceGrantFrom {
    /// API group; empty is the core group.
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind.
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Namespace.
    #[schemars(schema_with = "format::label")]
    pub namespace: String,
}

/// Objects of one kind in the grant's namespace, or one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReferenceGrantTo {
    /// API group; empty is the core group.
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind.
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name; unset means all of the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::object_name")]
    pub name: Option<String>,
}
