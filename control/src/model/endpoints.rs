//! EndpointSlices, and the older Endpoints objects as slices of both families.
//!
//! The rules are kube-proxy's: the slice's Service is the one its label names, ports join by name and protocol, an
//! endpoint is its first address. Whether an address may be served at all depends on the whole world and is not
//! judged here.

use std::net::IpAddr;

use dataplane::packet::tuple::Family;

use crate::model::object::{self as api, Metadata};
use crate::model::{Endpoint, ObjectKey, Reading, Report, Slice, SlicePort, ip, port_number, protocol};

/// A slice with this label, whatever its value, is for DNS only.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The label that names a slice's Service.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// How the names of slices made of legacy Endpoints begin. A colon cannot be in an object's name, so no real slice is
/// ever called this.
pub(crate) const LEGACY_PREFIX: &str = "endpoints:";

/// Is this slice meant for proxies?
#[must_use]
pub(crate) fn is_ours(metadata: &Metadata) -> bool {
    !metadata.labels.contains_key(HEADLESS_LABEL)
}

/// Reads an EndpointSlice. A bad port or address is left out and told, the rest of the slice is kept.
#[must_use]
pub(crate) fn read(slice: &api::EndpointSlice) -> Reading<Slice> {
    let key = ObjectKey::from(&slice.metadata);
    let mut report = Report::new(format!("EndpointSlice {key}"));
    if key.name.is_empty() {
        report.invalid("metadata.name", "an EndpointSlice without a name cannot be used", "give it a name");
        return report.reading(None);
    }
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        other => {
            let what = format!("slices of address type {other:?} are not served; this one is ignored");
            report.invalid("addressType", what, "write IPv4 or IPv6");
            return report.reading(None);
        }
    };
    let owner = slice.metadata.labels.get(SERVICE_LABEL);
    let Some(owner) = owner.filter(|name| !name.is_empty()) else {
        let what = "the label that names the slice's Service is missing; the slice is ignored";
        report.invalid(format!("metadata.labels[{SERVICE_LABEL}]"), what, "set it to the Service's name");
        return report.reading(None);
    };
    let service = ObjectKey { namespace: key.namespace.clone(), name: owner.clone() };
    let ports = slice.ports.iter().enumerate();
    let ports = ports.filter_map(|(index, port)| slice_port(index, port, &mut report)).collect();
    let endpoints = slice.endpoints.iter().enumerate();
    let endpoints =
        endpoints.filter_map(|(index, element)| endpoint(index, element, family, &mut report)).collect();
    let labels = slice.metadata.labels.clone();
    report.reading(Some(Slice { key, service, labels, ports, endpoints }))
}

/// Reads a legacy Endpoints object: one slice per subset and family. Addresses that are not ready are neither ready
/// nor serving.
#[must_use]
pub(crate) fn read_legacy(endpoints: &api::Endpoints) -> Reading<Vec<Slice>> {
    let service = ObjectKey::from(&endpoints.metadata);
    let mut report = Report::new(format!("Endpoints {service}"));
    if service.name.is_empty() {
        report.invalid(
            "metadata.name",
            "Endpoints without a name belong to no Service",
            "use the Service's name",
        );
        return report.reading(None);
    }
    let given_labels = endpoints.metadata.labels.clone();
    let mut slices = Vec::new();
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        let field = format!("subsets[{index}]");
        let all: Vec<Endpoint> = legacy_endpoints(&field, subset, &mut report);
        let elements = subset.ports.iter().enumerate();
        let ports: Vec<SlicePort> = elements
            .filter_map(|(i, port)| legacy_port(&format!("{field}.ports[{i}]"), port, &mut report))
            .collect();
        for family in [Family::V4, Family::V6] {
            let endpoints: Vec<Endpoint> =
                all.iter().filter(|e| Family::of(e.addr) == family).cloned().collect();
            if !endpoints.is_empty() {
                let name = format!("{LEGACY_PREFIX}{}:{index}:{family}", service.name);
                let key = ObjectKey { namespace: service.namespace.clone(), name };
                let labels = given_labels.clone();
                let (service, ports) = (service.clone(), ports.clone());
                slices.push(Slice { key, service, labels, ports, endpoints });
            }
        }
    }
    report.reading(Some(slices))
}

fn slice_port(index: usize, port: &api::EndpointPort, report: &mut Report) -> Option<SlicePort> {
    let field = format!("ports[{index}]");
    let Some(name) = port.name.clone() else {
        let what = "a port without a name (not even an empty one) joins no Service port; it is ignored";
        report.note(format!("{field}.name"), what, "name it as the Service port is named");
        return None;
    };
    if matches!(port.port, None | Some(0)) {
        let what = "a port without a number would mean all ports, which is not served; it is ignored";
        report.note(format!("{field}.port"), what, "write the number the endpoints listen on");
        return None;
    }
    checked_port(&field, name, port.port.unwrap_or_default(), port.protocol.as_deref(), report)
}

fn legacy_port(field: &str, port: &api::EndpointPort, report: &mut Report) -> Option<SlicePort> {
    checked_port(
        field,
        port.name.clone().unwrap_or_default(),
        port.port.unwrap_or_default(),
        port.protocol.as_deref(),
        report,
    )
}

fn checked_port(
    field: &str,
    name: String,
    number: i32,
    protocol_name: Option<&str>,
    report: &mut Report,
) -> Option<SlicePort> {
    let Some(port) = port_number(number) else {
        let what = format!("{number} is not a port number; this port is ignored");
        report.invalid(format!("{field}.port"), what, "use a number from 1 to 65535");
        return None;
    };
    let Some(proto) = protocol(protocol_name) else {
        let what = format!("{:?} is not a protocol; this port is ignored", protocol_name.unwrap_or_default());
        report.invalid(format!("{field}.protocol"), what, "write TCP, UDP or SCTP");
        return None;
    };
    Some(SlicePort { name, proto, port })
}

fn endpoint(index: usize, element: &api::Endpoint, family: Family, report: &mut Report) -> Option<Endpoint> {
    let Some(text) = &element.address else {
        let what = "an endpoint without an address is ignored";
        report.note(format!("endpoints[{index}].addresses"), what, "give it one address");
        return None;
    };
    // Controllers write one address; the others, if any, have no meaning.
    let field = format!("endpoints[{index}].addresses[0]");
    let addr = address(&field, text, report)?;
    if Family::of(addr) != family {
        let what = format!("{addr} is not {family}, which the slice's addressType says; it is left out");
        report.note(field, what, format!("move it to a slice of address type {}", Family::of(addr)));
        return None;
    }
    Some(Endpoint {
        addr,
        ready: element.ready.unwrap_or(true),
        serving: element.serving.unwrap_or(true),
        terminating: element.terminating.unwrap_or(false),
        node: element.node_name.clone().filter(|name| !name.is_empty()),
        node_hints: element.for_nodes.iter().cloned().collect(),
        zone_hints: element.for_zones.iter().cloned().collect(),
        zone: element.zone.clone().filter(|zone| !zone.is_empty()),
        target: element.pod.clone(),
    })
}

fn legacy_endpoints(field: &str, subset: &api::Subset, report: &mut Report) -> Vec<Endpoint> {
    let ready = subset.addresses.iter().enumerate();
    let not_ready = subset.not_ready_addresses.iter().enumerate();
    let ready = ready.map(|(index, address)| (format!("{field}.addresses[{index}].ip"), address, true));
    let not_ready =
        not_ready.map(|(index, address)| (format!("{field}.notReadyAddresses[{index}].ip"), address, false));
    let all = ready.chain(not_ready);
    all.filter_map(|(field, element, ready)| {
        let addr = address(&field, &element.ip, report)?;
        Some(Endpoint {
            addr,
            ready,
            serving: ready,
            terminating: false,
            node: element.node_name.clone().filter(|name| !name.is_empty()),
            node_hints: Default::default(),
            zone_hints: Default::default(),
            zone: None,
            target: element.pod.clone(),
        })
    })
    .collect()
}

fn address(field: &str, text: &str, report: &mut Report) -> Option<IpAddr> {
    let addr = ip::parse(text);
    if addr.is_none() {
        let what = format!("{text:?} is not an IP address; it is left out");
        report.note(field, what, "write an IPv4 or IPv6 address");
    }
    addr
}

#[cfg(test)]
mod tests;
