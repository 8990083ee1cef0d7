//! Session persistence (GEP-1619, experimental): requests of one session stay with one endpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{duration::GatewayDuration, open_enum::open_enum};

/// Keeps the requests of one session at one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// Name of the cookie or the header; made up when unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub session_name: Option<String>,
    /// When a session ends, whatever happens; required for a permanent cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub absolute_timeout: Option<GatewayDuration>,
    /// What carries the session; `Cookie` by default.
    #[serde(rename = "type", default = "cookie")]
    pub persistence_type: SessionPersistenceType,
    /// About the cookie; only with type `Cookie`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie_config: Option<CookieConfig>,
}

open_enum! {
    /// What carries a session.
    pub enum SessionPersistenceType {
        /// A cookie that the proxy sets.
        Cookie = "Cookie",
        /// A response header that the client sends back.
        Header = "Header",
    }
}

/// About the cookie of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CookieConfig {
    /// `Session` (without an expiry; the default) or `Permanent` (expires after the absolute timeout).
    #[serde(default = "session")]
    pub lifetime_type: CookieLifetimeType,
}

open_enum! {
    /// How long a cookie is kept by the client.
    pub enum CookieLifetimeType {
        /// Until the absolute timeout, by `Max-Age`.
        Permanent = "Permanent",
        /// Until the client ends.
        Session = "Session",
    }
}

const fn cookie() -> SessionPersistenceType {
    SessionPersistenceType::Cookie
}

const fn session() -> CookieLifetimeType {
    CookieLifetimeType::Session
}
