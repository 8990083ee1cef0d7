//! What is the same for everything that one sidecar does.

use crate::proto;
use crate::wire::text;

/// Mesh-wide settings, from `MeshConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where spans go (OTLP over gRPC), such as `http://collector:4317`; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
    /// Of 1,000,000 traces that begin here, how many are sampled; at most 1,000,000.
    pub sampling_ppm: u32,
    /// Whether every exchange is logged; errors made by the proxy always are.
    pub access_log: bool,
    /// Whether destinations unknown to the mesh may be reached.
    pub egress_allow: bool,
}

impl From<&Settings> for proto::Settings {
    fn from(settings: &Settings) -> Self {
        let Settings { otlp_endpoint, sampling_ppm, access_log, egress_allow } = settings;
        Self {
            otlp_endpoint: otlp_endpoint.clone().unwrap_or_default(),
            sampling_ppm: *sampling_ppm,
            access_log: *access_log,
            egress_allow: *egress_allow,
        }
    }
}

impl From<proto::Settings> for Settings {
    fn from(settings: proto::Settings) -> Self {
        let proto::Settings { otlp_endpoint, sampling_ppm, access_log, egress_allow } = settings;
        Self { otlp_endpoint: text(otlp_endpoint), sampling_ppm: sampling_ppm.min(1_000_000), access_log, egress_allow }
    }
}
