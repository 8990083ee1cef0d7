//! The environment of `heddle-sidecar redirect`, with all mistakes told at once.

use crate::config::ConfigErrors;
use crate::config::read::{Reader, parse_within};
use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The sidecar's user id by default.
pub const SIDECAR_UID: u32 = 15015;
/// The inbound listener's port by default.
pub const INBOUND_PORT: u16 = 15006;
/// The outbound listener's port by default.
pub const OUTBOUND_PORT: u16 = 15001;

/// Exclusions of one kind. Each is a rule that every new connection passes, and all of them are one netlink message of bounded size.
/// As many as injection takes.
const EXCLUSIONS_MAX: usize = 256;

/// What is redirected, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedirectConfig {
    /// The sidecar's user id.
    pub sidecar_uid: u32,
    /// Where the sidecar takes inbound connections.
    pub inbound_port: u16,
    /// Where it takes outbound connections.
    pub outbound_port: u16,
    /// Ports of the pod that are left alone.
    pub exclude_inbound_ports: Vec<u16>,
    /// Ports of destinations that are left alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations that are left alone.
    pub exclude_outbound_cidrs: Vec<Cidr>,
}

impl Default for RedirectConfig {
    fn default() -> Self {
        Self {
            sidecar_uid: SIDECAR_UID,
            inbound_port: INBOUND_PORT,
            outbound_port: OUTBOUND_PORT,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
        }
    }
}

impl RedirectConfig {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// All mistakes.
    pub fn from_environment() -> Result<Self, ConfigErrors> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads variables through `lookup`.
    ///
    /// # Errors
    /// All mistakes.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigErrors> {
        let port = |text: &str| parse_within(text, 1, u16::MAX);
        let default = Self::default();
        let mut read = Reader::new(lookup);
        let config = Self {
            // Root runs init containers and node agents: leaving its connections alone would leave out too much.
            sidecar_uid: read.or("HEDDLE_SIDECAR_UID", default.sidecar_uid, |text| parse_within(text, 1, u32::MAX - 1)),
            inbound_port: read.or("HEDDLE_INBOUND_PORT", default.inbound_port, port),
            outbound_port: read.or("HEDDLE_OUTBOUND_PORT", default.outbound_port, port),
            exclude_inbound_ports: read.list_of("HEDDLE_EXCLUDE_INBOUND_PORTS", EXCLUSIONS_MAX, port),
            exclude_outbound_ports: read.list_of("HEDDLE_EXCLUDE_OUTBOUND_PORTS", EXCLUSIONS_MAX, port),
            exclude_outbound_cidrs: read.list_of("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", EXCLUSIONS_MAX, str::parse),
        };
        if config.inbound_port == config.outbound_port {
            read.note("HEDDLE_OUTBOUND_PORT is HEDDLE_INBOUND_PORT as well: give each direction a port of its own.");
        }
        read.finish(config)
    }
}

/// A network: an address and how many of its bits count. A single address is a network of all its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address; bits beyond the prefix are 0.
    pub network: IpAddr,
    /// Bits that count: at most 32, or 128 for IPv6.
    pub prefix: u8,
}

impl Cidr {
    /// The mask as an address of the same family.
    pub fn mask(&self) -> IpAddr {
        let zeros = |bits: u32| bits.saturating_sub(u32::from(self.prefix));
        match self.network {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX.checked_shl(zeros(32)).unwrap_or(0))),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX.checked_shl(zeros(128)).unwrap_or(0))),
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("\"{text}\" is no network, write address/bits, such as 10.0.0.0/8 or fd00::/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let max = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match bits {
            None => max,
            Some(bits) => bits.parse().ok().filter(|n| *n <= max).ok_or_else(form)?,
        };
        let cidr = Self { network: address, prefix };
        let within = match (address, cidr.mask()) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => IpAddr::V4(address & mask),
            (IpAddr::V6(address), IpAddr::V6(mask)) => IpAddr::V6(address & mask),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Err(form()),
        };
        if within != address {
            return Err(format!("\"{text}\" has bits beyond its prefix, write {within}/{prefix}"));
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<RedirectConfig, ConfigErrors> {
        RedirectConfig::from_lookup(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into()))
    }

    #[test]
    fn nothing_set_is_the_pod_of_the_mesh() {
        assert_eq!(read(&[]).unwrap(), RedirectConfig::default());
    }

    #[test]
    fn lists_are_read() {
        let config = read(&[
            ("HEDDLE_EXCLUDE_INBOUND_PORTS", "9100, 22"),
            ("HEDDLE_EXCLUDE_OUTBOUND_PORTS", "443,"),
            ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "169.254.169.254,10.0.0.0/8,fd00::/8,0.0.0.0/0"),
        ])
        .unwrap();
        assert_eq!((config.exclude_inbound_ports, config.exclude_outbound_ports), (vec![9100, 22], vec![443]));
        let words: Vec<_> = config.exclude_outbound_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["169.254.169.254/32", "10.0.0.0/8", "fd00::/8", "0.0.0.0/0"]);
        let masks: Vec<_> = config.exclude_outbound_cidrs.iter().map(|c| c.mask().to_string()).collect();
        assert_eq!(masks, ["255.255.255.255", "255.0.0.0", "ff00::", "0.0.0.0"]);
    }

    #[test]
    fn every_mistake_has_its_sentence() {
        let errors = read(&[
            ("HEDDLE_SIDECAR_UID", "0"),
            ("HEDDLE_EXCLUDE_INBOUND_PORTS", "http,0"),
            ("HEDDLE_EXCLUDE_OUTBOUND_CIDRS", "10.1.0.0/8,fd00::/129"),
            ("HEDDLE_OUTBOUND_PORT", "15006"),
        ])
        .unwrap_err();
        let places: Vec<_> = errors.sentences().iter().map(|s| s.split(['=', ' ']).next().unwrap()).collect();
        assert_eq!(
            places,
            [
                "HEDDLE_SIDECAR_UID",
                "HEDDLE_EXCLUDE_INBOUND_PORTS",
                "HEDDLE_EXCLUDE_INBOUND_PORTS",
                "HEDDLE_EXCLUDE_OUTBOUND_CIDRS",
                "HEDDLE_EXCLUDE_OUTBOUND_CIDRS",
                "HEDDLE_OUTBOUND_PORT",
            ]
        );
        assert!(errors.to_string().contains("write 10.0.0.0/8"));
    }
}
