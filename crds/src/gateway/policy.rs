//! Policy attachment (GEP-713): the target of a policy, and its status by ancestor.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ParentReference;
use crate::format;

/// The object that a policy is about, in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetRef {
    /// API group; empty is the core group.
    #[serde(default)]
    #[schemars(schema_with = "format::group")]
    pub group: String,
    /// Kind.
    #[schemars(schema_with = "format::kind")]
    pub kind: String,
    /// Name.
    #[schemars(schema_with = "format::object_name")]
    pub name: String,
    /// Of a Service: the name of one of its ports; unset means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::section_name")]
    pub section_name: Option<String>,
}

impl PolicyTargetRef {
    /// Whether the target is a Service, or a port of one.
    #[must_use]
    pub fn is_service(&self) -> bool {
        matches!(self.group.as_str(), "" | "core") && self.kind == "Service"
    }
}

/// The status of a policy: one entry for each ancestor and controller, and how far its sidecars are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// One entry for each target that a controller looked at, at most 16.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<PolicyAncestorStatus>,
    /// In how many of the sidecars that use the policy its current version is in force, as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub in_force: Option<String>,
    /// Since when its current version is in force in all sidecars that used it then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::time")]
    pub in_force_since: Option<Time>,
}

/// What one controller says about a policy and one of its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The target, as an ancestor reference.
    pub ancestor_ref: ParentReference,
    /// Who wrote this entry, as `domain/path`.
    pub controller_name: String,
    /// `Accepted`, with the reasons `Accepted`, `Conflicted`, `Invalid` and `TargetNotFound`; and `heddle.dev/InForce`.
    #[serde(default)]
    #[schemars(schema_with = "format::conditions")]
    pub conditions: Vec<Condition>,
}
