//! What all routes share: how a value is compared, default gateways, and the status by parent.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ParentReference;
use crate::{format, open_enum::open_enum};

open_enum! {
    /// How the value of a header, a query parameter or a gRPC method is compared.
    pub enum ValueMatchType {
        /// The whole value, byte by byte.
        Exact = "Exact",
        /// A regular expression that has to match the whole value.
        RegularExpression = "RegularExpression",
    }
}

#[expect(clippy::derivable_impls, reason = "the macro's variants cannot carry #[default]")]
impl Default for ValueMatchType {
    fn default() -> Self {
        Self::Exact
    }
}

open_enum! {
    /// Which default Gateways a route attaches to (experimental). A mesh has none: it is read and has no effect.
    pub enum DefaultGateways {
        /// All default Gateways.
        All = "All",
        /// None.
        None = "None",
    }
}

/// The status of a route: one entry for each parent and controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RouteStatus {
    /// One entry for each parent that a controller looked at. Entries of other controllers are never touched.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub parents: Vec<RouteParentStatus>,
}

/// What one controller says about a route and one of its parents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, exactly as the route's spec names it.
    pub parent_ref: ParentReference,
    /// Who wrote this entry, as `domain/path`.
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`.
    #[serde(default)]
    #[schemars(schema_with = "format::conditions")]
    pub conditions: Vec<Condition>,
}
