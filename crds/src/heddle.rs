//! Heddle's own kinds, group `heddle.dev/v1alpha1`: what the Gateway API has no word for.
//!
//! One kind a file. A new kind (Subset, FaultInjection, RateLimit, AuthorizationPolicy, ExternalService) is a file here,
//! a line in `crate::object` and a line in `crate::crd`; the Istio kinds get a folder of their own beside this one.
//! Enumerations of these kinds are closed: their schema refuses other values before anybody reads the object.

mod authentication_policy;
mod local_workload;
mod mesh_config;
mod traffic_policy;

pub use authentication_policy::{AuthenticationPolicy, AuthenticationPolicySpec};
pub use local_workload::{EnvVar, ListenAddress, LocalSidecar, LocalWorkload, LocalWorkloadSpec, Upstream, WorkloadPort};
pub use mesh_config::{AccessLog, Egress, EgressDefault, MeshConfig, MeshConfigSpec, MeshConfigStatus, Mtls, MtlsMode, Tracing};
pub use traffic_policy::{
    Backoff, ConnectionPool, DeclaredProtocol, GrpcCode, LoadBalancer, LoadBalancerPolicy, Mode, Retry, RetryBudget, Timeouts,
    TrafficPolicy, TrafficPolicySpec,
};
pub(crate) use {
    authentication_policy::authentication_policy, local_workload::local_workload, mesh_config::mesh_config, traffic_policy::traffic_policy,
};

/// The API group of Heddle's own kinds.
pub const GROUP: &str = "heddle.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
