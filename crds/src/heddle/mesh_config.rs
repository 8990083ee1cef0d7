//! MeshConfig: what is valid for the whole mesh.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    duration::GatewayDuration,
    format,
    mistake::{Mistake, Mistakes},
};

/// What is valid for the whole mesh. There is one, and its name is `default`; without it, everything here has its
/// default.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "heddle.dev",
    version = "v1alpha1",
    kind = "MeshConfig",
    plural = "meshconfigs",
    category = "heddle",
    status = "MeshConfigStatus",
    derive = "PartialEq",
    doc = "What is valid for the whole mesh. There is one, named default.",
    validation = Rule::new("self.metadata.name == 'default'").message("there is one MeshConfig, and its name is default"),
    printcolumn(name = "Trust domain", type_ = "string", json_path = ".spec.trustDomain"),
    printcolumn(name = "mTLS", type_ = "string", json_path = ".spec.mtls.mode"),
    printcolumn(name = "Egress", type_ = "string", json_path = ".spec.egress.default"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(name = "In force", type_ = "string", description = "In how many sidecars, of how many", json_path = ".status.inForce"),
    printcolumn(name = "Since", type_ = "date", description = "Since when in all of them", json_path = ".status.inForceSince"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigSpec {
    /// The trust domain of all identities (SPIFFE-ID §2.1). A change needs new certificates everywhere.
    #[serde(default = "cluster_local")]
    #[schemars(schema_with = "format::trust_domain")]
    pub trust_domain: String,
    /// Mutual TLS, where no AuthenticationPolicy says otherwise.
    #[serde(default)]
    pub mtls: Mtls,
    /// How long a workload's certificate is valid; it is renewed at half of it. From 1s to 2160h (90 days).
    #[serde(default = "one_day")]
    pub certificate_lifetime: GatewayDuration,
    /// Traces.
    #[serde(default)]
    pub tracing: Tracing,
    /// The access log.
    #[serde(default)]
    pub access_log: AccessLog,
    /// Destinations that the mesh does not know.
    #[serde(default)]
    pub egress: Egress,
}

impl Default for MeshConfigSpec {
    fn default() -> Self {
        Self {
            trust_domain: cluster_local(),
            mtls: Mtls::default(),
            certificate_lifetime: one_day(),
            tracing: Tracing::default(),
            access_log: AccessLog::default(),
            egress: Egress::default(),
        }
    }
}

/// What the control plane says about the MeshConfig.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshConfigStatus {
    /// `Accepted`, and `heddle.dev/InForce`.
    #[serde(default)]
    #[schemars(schema_with = "format::conditions")]
    pub conditions: Vec<Condition>,
    /// How many of the connected sidecars were told its settings, as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub in_force: Option<String>,
    /// Since when all sidecars that were connected then have its current settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::time")]
    pub in_force_since: Option<Time>,
}

/// Mutual TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Mtls {
    /// `Permissive` (the default), `Audit` or `Strict`.
    #[serde(default)]
    pub mode: MtlsMode,
}

/// What happens to a connection that is not the mesh's own TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// It is accepted.
    #[default]
    Permissive,
    /// It is accepted, counted and logged as one that `Strict` would refuse.
    Audit,
    /// It is refused.
    Strict,
}

/// Traces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// Where spans are sent, by OTLP over gRPC, such as `http://127.0.0.1:4317`. Unset: nowhere; trace headers are
    /// passed on all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format::endpoint")]
    pub otlp_endpoint: Option<String>,
    /// Share of new traces that are sampled, in percent; 1 by default. A trace that comes in keeps its own decision.
    #[serde(default = "one_percent")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub sampling_percent: f64,
}

impl Default for Tracing {
    fn default() -> Self {
        Self { otlp_endpoint: None, sampling_percent: one_percent() }
    }
}

/// The access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessLog {
    /// Whether each exchange is logged; no by default. Errors that a proxy makes are always logged.
    #[serde(default)]
    pub enabled: bool,
}

/// Destinations that the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Egress {
    /// `Allow` (the default) or `Deny`.
    #[serde(default)]
    pub default: EgressDefault,
}

/// What happens to connections to destinations that the mesh does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EgressDefault {
    /// They pass through.
    #[default]
    Allow,
    /// They are refused.
    Deny,
}

fn cluster_local() -> String {
    "cluster.local".to_owned()
}

const fn one_day() -> GatewayDuration {
    match GatewayDuration::from_millis(86_400_000) {
        Some(day) => day,
        None => GatewayDuration::MAX,
    }
}

const fn one_percent() -> f64 {
    1.0
}

/// The longest lifetime of a workload's certificate: the lifetime of the issuing certificate, 90 days.
const MAX_CERTIFICATE_LIFETIME_MS: u128 = 90 * 86_400_000;
/// The shortest one, for tests of renewal.
const MIN_CERTIFICATE_LIFETIME_MS: u128 = 1_000;

/// The rules that the schema cannot say.
pub(crate) fn mesh_config(name: &str, spec: &MeshConfigSpec) -> Vec<Mistake> {
    let mut mistakes = Mistakes::default();
    if name != "default" {
        mistakes.add("metadata.name", format!("there is one MeshConfig, and its name is \"default\", found {name:?}"));
    }
    let lifetime = spec.certificate_lifetime;
    if !(MIN_CERTIFICATE_LIFETIME_MS..=MAX_CERTIFICATE_LIFETIME_MS).contains(&lifetime.get().as_millis()) {
        mistakes.add("spec.certificateLifetime", format!("must be from 1s to 2160h, found {lifetime}"));
    }
    mistakes.into_vec()
}
