//! AuthenticationPolicy: whether a workload accepts connections from outside the mesh.

#![expect(clippy::duplicated_attributes, reason = "columns of kube's derive repeat their types")]

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, Mtls};
use crate::{
    gateway::{PolicyTargetRef, policy_targets},
    mistake::{Mistake, Mistakes},
};

/// Whether the workloads behind a Service (or one port of it), or all of a namespace, accept connections without the
/// mesh's TLS. A Service's policy wins over its namespace's, and that over MeshConfig's.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "AuthenticationPolicy",
    plural = "authenticationpolicies",
    shortname = "authn",
    category = "heddle",
    namespaced,
    status = "crate::gateway::PolicyStatus",
    derive = "PartialEq",
    doc = "Whether workloads accept connections from outside the mesh.",
    printcolumn(name = "Target", type_ = "string", description = "First target", json_path = ".spec.targetRefs[0].name"),
    printcolumn(name = "mTLS", type_ = "string", json_path = ".spec.mtls.mode"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status"),
    printcolumn(name = "In force", type_ = "string", description = "In how many sidecars, of how many", json_path = ".status.inForce"),
    printcolumn(name = "Since", type_ = "date", description = "Since when in all of them", json_path = ".status.inForceSince"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationPolicySpec {
    /// What the policy is about: Services of its namespace, single ports of them by `sectionName`, or its Namespace.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<PolicyTargetRef>,
    /// `Enforce` (the default) or `Shadow`: evaluated and counted, without effect.
    #[serde(default)]
    pub mode: Mode,
    /// Mutual TLS.
    pub mtls: Mtls,
}

/// The rules that the schema cannot say.
pub(crate) fn authentication_policy(spec: &AuthenticationPolicySpec) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    policy_targets(&spec.target_refs, &["Service", "Namespace"], &mut mistakes);
    mistakes.into_vec()
}
