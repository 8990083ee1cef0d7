//! Which of a Service's endpoints a client may use: those of its address family, its node, or its zone.
//!
//! What a client may use is part of the backend's key (`web@ipv4`, `web@node=n1`), so that its endpoints are resolved, kept and told to
//! sidecars as those of any other backend. Only where it makes a difference: a Service of one family without a word about topology has one
//! key for everybody.

use std::net::IpAddr;

use heddle_model::ServicePort;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

use super::service;
use crate::snapshot::{ObjectKey, Snapshot};

/// The annotation that asks for hints where `trafficDistribution` is not used.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// What the name of a key has between a Service and what is said about its endpoints; no name of Kubernetes has it.
const MARK: char = '@';

/// What precedes the name of a node in a key.
const NODE: &str = "node=";

/// Who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The node on which it runs; empty: not known, as in local mode.
    pub node: &'a str,
    /// Of which family the address is that it dials.
    pub(crate) family: Option<Family>,
}

impl<'a> Client<'a> {
    /// A client on a node; an empty name means that it is not known.
    pub fn on_node(namespace: &'a str, node: &'a str) -> Self {
        Self { namespace, node, family: None }
    }
}

impl<'a> From<&'a str> for Client<'a> {
    fn from(namespace: &'a str) -> Self {
        Self::on_node(namespace, "")
    }
}

/// The family of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    pub(crate) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// What a key says about the endpoints of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Only those of this family.
    pub(crate) family: Option<Family>,
    /// Those that are meant for clients on this node; empty: for all.
    pub(crate) node: String,
}

impl Reach {
    /// What a client may use of a Service.
    pub(crate) fn of(service: &core::Service, client: Client<'_>) -> Self {
        // In a dual-stack Service every pod is there twice. The family that was dialled is one that the client has.
        let family = families(service).filter(|(_, is_dual)| *is_dual).map(|(primary, _)| client.family.unwrap_or(primary));
        let node = if is_topological(service) { client.node } else { "" };
        Self { family, node: node.to_owned() }
    }

    /// The key of a Service's port with this said.
    pub(crate) fn restrict(&self, mut key: ServicePort) -> ServicePort {
        let Self { family, node } = self;
        if let Some(family) = family {
            key.name.push(MARK);
            key.name.push_str(family.as_str());
        }
        if !node.is_empty() {
            key.name.push(MARK);
            key.name.push_str(NODE);
            key.name.push_str(node);
        }
        key
    }

    /// The Service's name of a key, and what is said about its endpoints. `None`: it is no key of ours.
    pub(crate) fn parse(name: &str) -> Option<(&str, Self)> {
        let mut parts = name.split(MARK);
        let service = parts.next()?;
        let mut reach = Self::default();
        for part in parts {
            match part.strip_prefix(NODE) {
                Some(node) => node.clone_into(&mut reach.node),
                None => reach.family = Some([Family::V4, Family::V6].into_iter().find(|family| family.as_str() == part)?),
            }
        }
        Some((service, reach))
    }

    /// Whether a slice has addresses of the family.
    pub(crate) fn takes_slice(&self, slice: &discovery::EndpointSlice) -> bool {
        self.family.is_none_or(|family| slice.address_type.eq_ignore_ascii_case(family.as_str()))
    }
}

/// Whether a key was made for clients of one node.
pub(crate) fn names_node(key: &ServicePort) -> bool {
    Reach::parse(&key.name).is_some_and(|(_, reach)| !reach.node.is_empty())
}

/// The primary family of a Service, and whether it has both; `None`: nobody says.
fn families(service: &core::Service) -> Option<(Family, bool)> {
    let named = |name: &String| match name.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    let declared = service.spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()).filter_map(named);
    let mut all = declared.chain(service::cluster_ips(service).map(Family::of));
    let primary = all.next()?;
    Some((primary, all.any(|family| family != primary)))
}

/// Whether it matters where a client of a Service runs.
fn is_topological(service: &core::Service) -> bool {
    let asks = service.spec.as_ref().is_some_and(|spec| spec.traffic_distribution.is_some());
    let mode = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TOPOLOGY_MODE));
    asks || is_local(service) || mode.is_some_and(|mode| mode.eq_ignore_ascii_case("auto"))
}

/// Whether clients may use the endpoints on their own node only (`internalTrafficPolicy: Local`).
fn is_local(service: &core::Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.internal_traffic_policy.as_deref()) == Some("Local")
}

/// Decides about the endpoints of a Service for clients on one node, as kube-proxy does for its own (`pkg/proxy/topology.go`).
#[derive(Debug)]
pub(crate) enum Topology<'a> {
    /// All of them.
    All,
    /// Those on this node.
    OnNode(&'a str),
    /// Those with a hint for this node.
    ForNode(&'a str),
    /// Those with a hint for this zone.
    ForZone(&'a str),
}

impl<'a> Topology<'a> {
    /// Hints count only when every usable endpoint has one and at least one is for the client: else somebody would be left out.
    pub(crate) fn of(
        snapshot: &'a Snapshot,
        key: &ObjectKey,
        service: &core::Service,
        node: &'a str,
        usable: impl Fn(&discovery::Endpoint) -> bool,
    ) -> Self {
        if node.is_empty() {
            return Self::All;
        }
        if is_local(service) {
            return Self::OnNode(node);
        }
        let endpoints: Vec<_> =
            snapshot.endpoint_slices.by_index(key).flat_map(|(_, slice)| &slice.endpoints).filter(|endpoint| usable(endpoint)).collect();
        let applies = |topology: &Self| {
            endpoints.iter().all(|endpoint| topology.is_hinted(endpoint)) && endpoints.iter().any(|endpoint| topology.takes(endpoint))
        };
        let for_zone = zone_of(snapshot, node).map(Self::ForZone);
        [Some(Self::ForNode(node)), for_zone].into_iter().flatten().find(applies).unwrap_or(Self::All)
    }

    /// Whether an endpoint says for whom it is, in the terms of this decision.
    fn is_hinted(&self, endpoint: &discovery::Endpoint) -> bool {
        let hints = endpoint.hints.as_ref();
        match self {
            Self::All | Self::OnNode(_) => true,
            Self::ForNode(_) => hints.and_then(|hints| hints.for_nodes.as_ref()).is_some_and(|nodes| !nodes.is_empty()),
            Self::ForZone(_) => hints.and_then(|hints| hints.for_zones.as_ref()).is_some_and(|zones| !zones.is_empty()),
        }
    }

    /// Whether an endpoint is one of those.
    pub(crate) fn takes(&self, endpoint: &discovery::Endpoint) -> bool {
        let hints = endpoint.hints.as_ref();
        match self {
            Self::All => true,
            Self::OnNode(node) => endpoint.node_name.as_deref() == Some(node),
            Self::ForNode(node) => hints.is_some_and(|hints| hints.for_nodes.iter().flatten().any(|hint| hint.name == *node)),
            Self::ForZone(zone) => hints.is_some_and(|hints| hints.for_zones.iter().flatten().any(|hint| hint.name == *zone)),
        }
    }
}

/// The zone of a node: what the slices say of any endpoint there. So no node needs to be watched for it.
fn zone_of<'a>(snapshot: &'a Snapshot, node: &str) -> Option<&'a str> {
    let endpoints = snapshot.endpoint_slices.iter().flat_map(|(_, slice)| &slice.endpoints);
    let mut there = endpoints.filter(|endpoint| endpoint.node_name.as_deref() == Some(node));
    there.find_map(|endpoint| endpoint.zone.as_deref().filter(|zone| !zone.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_was_made_to_say() {
        let key = ServicePort { namespace: "shop".to_owned(), name: "web".to_owned(), port: 80 };
        for family in [None, Some(Family::V4), Some(Family::V6)] {
            for node in ["", "n1", "ipv4", "node-1.example.org"] {
                let reach = Reach { family, node: node.to_owned() };
                let made = reach.restrict(key.clone());
                assert_eq!(Reach::parse(&made.name), Some(("web", reach)), "{made}");
                assert_eq!(made.to_string().parse::<ServicePort>().unwrap(), made);
                assert_eq!(names_node(&made), !node.is_empty());
            }
        }
        assert_eq!(Reach::parse("web@nonsense"), None);
    }
}
