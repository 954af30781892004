//! What a Service says of traffic from outside: external and load-balancer addresses, who may use them, by which policy,
//! and where its health is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::packet::tuple::Family;
use dataplane::service::Policy;

use super::policy;
use crate::model::object as api;
use crate::model::{Report, ip, port_number};

/// See the fields of [`Service`](crate::model::Service).
pub(super) struct External {
    pub(super) policy: Policy,
    pub(super) ips: Vec<IpAddr>,
    pub(super) load_balancer_ips: Vec<IpAddr>,
    pub(super) source_ranges: Vec<(IpAddr, u8)>,
    pub(super) health_check_port: Option<u16>,
}

pub(super) fn read(service: &api::Service, spec: &api::ServiceSpec, report: &mut Report) -> External {
    let asked = policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), report);
    let kind = spec.type_.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("ClusterIP");
    let has_external_ips = spec.external_ips.as_ref().is_some_and(|list| !list.is_empty());
    let means_something = matches!(kind, "LoadBalancer" | "NodePort") || has_external_ips;
    let policy = if means_something { asked } else { Policy::Cluster };
    External {
        policy,
        ips: external_ips(spec, report),
        load_balancer_ips: load_balancer_ips(service, report),
        source_ranges: source_ranges(spec, report),
        health_check_port: (kind == "LoadBalancer" && policy == Policy::Local)
            .then(|| health_check_port(spec, report))
            .flatten(),
    }
}

fn external_ips(spec: &api::ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for (index, text) in spec.external_ips.iter().flatten().enumerate() {
        let text = text.trim();
        match ip::parse(text) {
            Some(addr) if !ips.contains(&addr) => ips.push(addr),
            Some(_) => {}
            None if text.is_empty() => {}
            None => report.invalid(
                format!("spec.externalIPs[{index}]"),
                format!("{text:?} is not an IP address; it is left out"),
                "write an IPv4 or IPv6 address",
            ),
        }
    }
    ips
}

/// Every ingress address that is reached by itself. Those behind a proxy of their own are left to it, and the ports an
/// ingress names mean nothing: every port of the Service is open on every address.
fn load_balancer_ips(service: &api::Service, report: &mut Report) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    for (index, ingress) in service.ingress.iter().enumerate() {
        let text = ingress.ip.as_deref().unwrap_or_default();
        let field = |name: &str| format!("status.loadBalancer.ingress[{index}].{name}");
        match (ingress.ip_mode.as_deref(), ip::parse(text)) {
            (None | Some("VIP"), Some(addr)) if !ips.contains(&addr) => ips.push(addr),
            (None | Some("VIP"), None) if !text.is_empty() => {
                let what = format!("{text:?} is not an IP address; it is left out");
                report.invalid(field("ip"), what, "write an IPv4 or IPv6 address");
            }
            (None | Some("VIP" | "Proxy"), _) => {}
            (Some(other), _) => {
                let what = format!("{other:?} is no mode of an address; it is left out");
                report.invalid(field("ipMode"), what, "write VIP or Proxy");
            }
        }
    }
    ips
}

/// The ranges that restrict something. One that has every address opens its family to everybody, and so does a list
/// without any of the family. Where one cannot be read it could have been the family's only one: nobody is let in then.
fn source_ranges(spec: &api::ServiceSpec, report: &mut Report) -> Vec<(IpAddr, u8)> {
    let mut ranges = Vec::new();
    let mut unreadable = false;
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        match ip::parse_prefix(text.trim()) {
            Some(range) => ranges.push(range),
            None => {
                unreadable = true;
                report.invalid(
                    format!("spec.loadBalancerSourceRanges[{index}]"),
                    format!(
                        "{text:?} is no CIDR; it is left out, and a family without another one is closed to everybody"
                    ),
                    "write an address and a prefix length, as 203.0.113.0/24",
                );
            }
        }
    }
    let families = [(Family::V4, NOBODY_V4), (Family::V6, NOBODY_V6)];
    for (family, nobody) in families.into_iter().filter(|_| unreadable) {
        if !ranges.iter().any(|(addr, _)| Family::of(*addr) == family) {
            ranges.push(nobody);
        }
    }
    let is_open = |family: Family| ranges.iter().any(|(addr, len)| *len == 0 && Family::of(*addr) == family);
    let open = [Family::V4, Family::V6].map(|family| (family, is_open(family)));
    ranges.retain(|(addr, _)| !open.contains(&(Family::of(*addr), true)));
    ranges
}

/// No packet has these sources.
const NOBODY_V4: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32);
/// See [`NOBODY_V4`].
const NOBODY_V6: (IpAddr, u8) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 128);

fn health_check_port(spec: &api::ServiceSpec, report: &mut Report) -> Option<u16> {
    let field = "spec.healthCheckNodePort";
    let Some(given) = spec.health_check_node_port.filter(|given| *given != 0) else {
        let what = "there is none; load balancers cannot ask whether this node has endpoints";
        report.note(field, what, "let the API server choose one");
        return None;
    };
    let port = port_number(given);
    if port.is_none() {
        let what = format!(
            "{given} is not a port number; load balancers cannot ask whether this node has endpoints"
        );
        report.invalid(field, what, "let the API server choose one: leave it out");
    }
    port
}

#[cfg(test)]
mod tests;
