//! What users write: the kinds that Heddle reads, and reading them from YAML with positions.
//!
//! - [`gateway`]: routes and grants of the Gateway API; [`heddle`]: our own kinds; [`core`]: Kubernetes' own kinds.
//! - [`object`]: all of them as one type; [`manifest`]: files in, objects and problems out.
//! - [`crd`]: the definitions that `crds/yaml` holds and a cluster installs.
//!
//! Nothing here knows what a kind does: the control plane resolves, and says in statuses what it cannot honour.

pub mod crd;
pub mod duration;
mod format;
pub mod gateway;
pub mod heddle;
pub mod manifest;
pub mod mistake;
pub mod name;
pub mod object;
mod open_enum;
mod service;

/// Kubernetes' own kinds that a mesh reads, re-exported so that nobody else picks a version of them.
pub mod core {
    pub use k8s_openapi::{
        api::{
            core::v1::{ContainerPort, Namespace, Pod, PodSpec, PodStatus, Service, ServiceAccount, ServicePort, ServiceSpec},
            discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice},
        },
        apimachinery::pkg::{
            apis::meta::v1::{Condition, ObjectMeta, Time},
            util::intstr::IntOrString,
        },
    };
}

pub use manifest::{Level, Located, Manifests, Position, Problem, read_dir, read_str};
pub use object::{Object, ObjectId};
