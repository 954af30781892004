//! A Kubernetes Service as tunway serves it: which of its addresses and ports count, and what is not served.
//!
//! The rules are kube-proxy's. `targetPort`, `appProtocol`, `selector`, `loadBalancerClass`, `publishNotReadyAddresses`,
//! `trafficDistribution` and `ipFamilyPolicy` are read by controllers and never by a proxy.

use std::net::IpAddr;

use dataplane::packet::tuple::Family;
use dataplane::service::{MAX_AFFINITY_SECONDS, Policy};

use self::balance::Balance;
use crate::model::object::{self as api, Metadata};
use crate::model::{ObjectKey, Port, Reading, Report, Service, ip, port_number, protocol};

pub mod balance;
mod external;

/// A Service with this label, whatever its value, belongs to another proxy.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not there, as the API defaults it: three hours.
pub const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// Annotations with this prefix are ours.
pub const ANNOTATION_PREFIX: &str = "tunway.dev/";

/// Is this Service ours to serve, and not another proxy's?
#[must_use]
pub(crate) fn is_ours(metadata: &Metadata) -> bool {
    !metadata.labels.contains_key(PROXY_NAME_LABEL)
}

/// Is this a Service that should have a ClusterIP and has none (yet)? Headless and ExternalName Services should not.
#[must_use]
pub(crate) fn lacks_cluster_ip(service: &api::Service) -> bool {
    let spec = service.spec.as_ref();
    let external_name = spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    !external_name && spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default().is_empty()
}

/// Reads a Service. Without a virtual address (headless, ExternalName, no ClusterIP yet) there is nothing to serve,
/// and that is no problem.
#[must_use]
pub(crate) fn read(service: &api::Service) -> Reading<Service> {
    let key = ObjectKey::from(&service.metadata);
    let mut report = Report::new(format!("Service {key}"));
    if key.name.is_empty() {
        report.invalid("metadata.name", "a Service without a name cannot be served", "give it a name");
        return report.reading(None);
    }
    let Some(spec) = service.spec.as_ref() else { return Reading::nothing() };
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    if headless || spec.type_.as_deref() == Some("ExternalName") {
        return Reading::nothing();
    }

    let cluster_ips = cluster_ips(spec, &mut report);
    let ports = ports(spec, &mut report);
    let internal = policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), &mut report);
    let affinity = affinity(spec, &mut report);
    let external = external::read(service, spec, &mut report);
    let balance = Balance::read(&service.metadata, &mut report);
    let value = (!cluster_ips.is_empty()).then(|| Service {
        key,
        cluster_ips,
        ports,
        internal,
        external: external.policy,
        external_ips: external.ips,
        load_balancer_ips: external.load_balancer_ips,
        source_ranges: external.source_ranges,
        health_check_port: external.health_check_port,
        affinity,
        created: service.metadata.created.unwrap_or(0),
        balance,
    });
    report.reading(value)
}

/// The ClusterIP of each family. Without `ipFamilies` (an API server older than dual stack) only `clusterIP` counts;
/// with them, `clusterIPs[i]` is the address of family `ipFamilies[i]`, and a missing one means no such family.
fn cluster_ips(spec: &api::ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let mut found: Vec<IpAddr> = Vec::new();
    if families.is_empty() {
        let text = spec.cluster_ip.as_deref().unwrap_or_default();
        found.extend(cluster_ip("spec.clusterIP", text, report));
        return found;
    }
    let addresses = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(first), Some(alone)) = (addresses.first(), spec.cluster_ip.as_deref())
        && ip::parse(first) != ip::parse(alone)
    {
        let what = format!("{first} is not {alone}, which spec.clusterIP says; spec.clusterIPs counts");
        report.invalid("spec.clusterIPs[0]", what, "make the two equal");
    }
    for (index, name) in families.iter().enumerate() {
        let Some(family) = family(name) else {
            let field = format!("spec.ipFamilies[{index}]");
            report.invalid(
                field,
                format!("{name:?} is not an IP family; it is left out"),
                "write IPv4 or IPv6",
            );
            continue;
        };
        let Some(text) = addresses.get(index) else { continue };
        let field = format!("spec.clusterIPs[{index}]");
        let Some(addr) = cluster_ip(&field, text, report) else { continue };
        if Family::of(addr) != family {
            let what =
                format!("{addr} is not {family}, which spec.ipFamilies[{index}] says; it is not served");
            report.invalid(field, what, "put spec.ipFamilies and spec.clusterIPs in the same order");
        } else if found.iter().any(|other| Family::of(*other) == family) {
            let what = format!("{addr} is a second {family} address; only the first is served");
            report.invalid(field, what, "give one address of each family");
        } else {
            found.push(addr);
        }
    }
    found
}

fn cluster_ip(field: &str, text: &str, report: &mut Report) -> Option<IpAddr> {
    let remedy = "use a free address of the Service CIDR";
    let Some(addr) = ip::parse(text) else {
        report.invalid(field, format!("{text:?} is not an IP address; it is not served"), remedy);
        return None;
    };
    if let Some(kind) = ip::never_routed(addr) {
        report.invalid(
            field,
            format!("{addr} is {kind}, which cannot be a virtual address; it is not served"),
            remedy,
        );
        return None;
    }
    Some(addr)
}

fn ports(spec: &api::ServiceSpec, report: &mut Report) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    let elements = spec.ports.as_deref().unwrap_or_default();
    if elements.is_empty() {
        report.invalid("spec.ports", "a Service without ports serves nothing", "add the ports clients use");
    }
    for (index, element) in elements.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(number) = port_number(element.port) else {
            let what = format!("{} is not a port number; this port is not served", element.port);
            report.invalid(format!("{field}.port"), what, "use a number from 1 to 65535");
            continue;
        };
        let Some(proto) = protocol(element.protocol.as_deref()) else {
            let what = format!(
                "{:?} is not a protocol; this port is not served",
                element.protocol.as_deref().unwrap_or_default()
            );
            report.invalid(format!("{field}.protocol"), what, "write TCP, UDP or SCTP");
            continue;
        };
        let node_port = match element.node_port {
            None | Some(0) => None,
            Some(number) => port_number(number).or_else(|| {
                let what = format!("{number} is not a port number; this port has no node port");
                report.invalid(format!("{field}.nodePort"), what, "use a number from 1 to 65535");
                None
            }),
        };
        let port = Port { name: element.name.clone().unwrap_or_default(), proto, port: number, node_port };
        insert(&mut ports, port, &field, report);
    }
    ports
}

/// An API server refuses both kinds of twins. One with an equal name and protocol replaces the earlier one, as in
/// kube-proxy; one with an equal number and protocol could never be reached and is left out.
fn insert(ports: &mut Vec<Port>, port: Port, field: &str, report: &mut Report) {
    if let Some(earlier) =
        ports.iter_mut().find(|earlier| earlier.name == port.name && earlier.proto == port.proto)
    {
        let what = format!("a second {} port named {:?}; it replaces the first", port.proto, port.name);
        report.invalid(format!("{field}.name"), what, "give every port a name of its own");
        *earlier = port;
    } else if ports.iter().any(|earlier| earlier.port == port.port && earlier.proto == port.proto) {
        let what = format!("{}/{} is there twice; only the first is served", port.port, port.proto);
        report.invalid(format!("{field}.port"), what, "give every port a number of its own");
    } else {
        ports.push(port);
    }
}

/// For how many seconds a client keeps its endpoint, if the Service asks for that.
fn affinity(spec: &api::ServiceSpec, report: &mut Report) -> Option<u32> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            let what = format!("{other:?} is no kind of affinity; every connection picks an endpoint anew");
            report.invalid("spec.sessionAffinity", what, "write None or ClientIP");
            return None;
        }
    }
    let Some(given) = spec.timeout_seconds else {
        return Some(DEFAULT_AFFINITY_SECONDS);
    };
    let seconds = u32::try_from(given).unwrap_or(0).clamp(1, MAX_AFFINITY_SECONDS);
    if i64::from(seconds) != i64::from(given) {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let what = format!("{given} is out of limits; {seconds} is used");
        report.invalid(field, what, format!("write 1 to {MAX_AFFINITY_SECONDS}"));
    }
    Some(seconds)
}

/// A traffic policy; nil means `Cluster`.
fn policy(field: &str, text: Option<&str>, report: &mut Report) -> Policy {
    match text {
        None | Some("" | "Cluster") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            let what = format!("{other:?} is not a traffic policy; Cluster is used");
            report.invalid(field, what, "write Cluster or Local");
            Policy::Cluster
        }
    }
}

fn family(name: &str) -> Option<Family> {
    match name {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
