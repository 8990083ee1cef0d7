//! The rules for Services and EndpointSlices that an API server checks, for objects from files.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{
    mistake::{Mistake, Mistakes},
    name,
};

/// The rules of Service (Kubernetes API validation of `core/v1`), as far as a mesh relies on them.
pub(crate) fn service(service: &Service) -> Vec<Mistake> {
    let mut found = Mistakes::default();
    let Some(spec) = &service.spec else {
        return found.into_vec();
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        port_number(format!("{path}.port"), port.port, &mut found);
        match &port.target_port {
            Some(IntOrString::Int(number)) => port_number(format!("{path}.targetPort"), *number, &mut found),
            Some(IntOrString::String(name)) if !name::is_label(name) => {
                found.add(format!("{path}.targetPort"), format!("expected the number or the name of a port, found {name:?}"));
            }
            Some(IntOrString::String(_)) | None => {}
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            found.add(format!("{path}.protocol"), format!("expected one of TCP, UDP, SCTP, found {protocol:?}"));
        }
        if !numbers.insert((port.port, protocol)) {
            found.add(format!("{path}.port"), format!("{} is the number of another port too", port.port));
        }
        match port.name.as_deref() {
            None | Some("") if ports.len() > 1 => found.add(path, "needs a name, because there are several ports".to_owned()),
            None | Some("") => {}
            Some(name) if !name::is_label(name) => {
                found.add(format!("{path}.name"), format!("expected a name of lower-case letters, digits and '-', found {name:?}"));
            }
            Some(name) if !names.insert(name) => {
                found.add(format!("{path}.name"), format!("{name:?} is the name of another port too"));
            }
            Some(_) => {}
        }
    }
    found.into_vec()
}

/// The rules of EndpointSlice (Kubernetes API validation of `discovery/v1`), as far as a mesh relies on them.
pub(crate) fn endpoint_slice(slice: &EndpointSlice) -> Vec<Mistake> {
    let mut found = Mistakes::default();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            port_number(format!("ports[{index}].port"), number, &mut found);
        }
    }
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6" | "FQDN") {
        found.add("addressType", format!("expected one of IPv4, IPv6, FQDN, found {:?}", slice.address_type));
    }
    if matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            for (nth, address) in endpoint.addresses.iter().enumerate() {
                let matches = match address.parse::<std::net::IpAddr>() {
                    Ok(ip) => ip.is_ipv4() == (slice.address_type == "IPv4"),
                    Err(_) => false,
                };
                if !matches {
                    found.add(
                        format!("endpoints[{index}].addresses[{nth}]"),
                        format!("expected an {} address, found {address:?}", slice.address_type),
                    );
                }
            }
        }
    }
    found.into_vec()
}

fn port_number(path: String, number: i32, found: &mut Mistakes) {
    if !(1..=65_535).contains(&number) {
        found.add(path, format!("must be from 1 to 65535, found {number}"));
    }
}
