//! What the sidecar of a pod is told besides: probes to do for the kubelet, the pod's addresses and ports, and overrides by annotation.

use super::address;
use super::read::{Reader, parse_within};
use crate::probe::{Probe, Probes};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

/// A pod has one address per family, and more only with several networks.
const IPS_MAX: usize = 16;
/// Ports that containers declare. What is not declared is asked for at its first use.
const PORTS_MAX: usize = 128;

/// Settings that only a pod has; all are optional.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// The health server, which the kubelet and scrapers ask.
    pub health: Option<SocketAddr>,
    /// The pod's addresses: an endpoint there is this pod's own application.
    pub ips: Vec<IpAddr>,
    /// TCP ports that the pod's containers declare: their policies are fetched before the sidecar is ready.
    pub inbound_ports: Vec<u16>,
    /// Checks of the application.
    pub probes: Probes,
    /// Of 1,000,000 traces that begin here, how many are sampled; in place of the mesh's setting.
    pub trace_sampling_ppm: Option<u32>,
    /// Whether every exchange is logged; in place of the mesh's setting.
    pub access_log: Option<bool>,
}

impl Pod {
    pub(super) fn read<L: Fn(&str) -> Option<OsString>>(read: &mut Reader<L>) -> Self {
        let ip = |text: &str| text.parse().map_err(|_| format!("\"{text}\" is not an IP address"));
        Self {
            health: read.optional("HEDDLE_HEALTH", address),
            ips: read.list_of("HEDDLE_POD_IPS", IPS_MAX, ip),
            inbound_ports: read.list_of("HEDDLE_INBOUND_PORTS", PORTS_MAX, |text| parse_within(text, 1, u16::MAX)),
            probes: read.optional("HEDDLE_PROBES", probes).unwrap_or_default(),
            trace_sampling_ppm: read.optional("HEDDLE_TRACE_SAMPLING", parts_per_million),
            access_log: read.optional("HEDDLE_ACCESS_LOG", on_or_off),
        }
    }
}

fn probes(text: &str) -> Result<Probes, String> {
    let probes: Probes = serde_json::from_str(text).map_err(|error| format!("it is not the JSON that injection writes ({error})"))?;
    let wrong = probes.iter().find_map(|(name, probe)| Probe::mistake(probe).map(|mistake| format!("{name}: {mistake}")));
    wrong.map_or(Ok(probes), Err)
}

fn parts_per_million(text: &str) -> Result<u32, String> {
    let percent: f64 = text.parse().map_err(|_| "write a percentage from 0 to 100, such as 0.1".to_owned())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err("write a percentage from 0 to 100, such as 0.1".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 0 to 1,000,000 by the check above")]
    let parts = (percent * 10_000.0).round() as u32;
    Ok(parts)
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("write on or off".to_owned()),
    }
}
