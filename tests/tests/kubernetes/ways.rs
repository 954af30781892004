//! The ways into a Service besides its ClusterIP: node ports, addresses of a load balancer that is not there, external
//! addresses. Nobody plays a cloud: scenarios write `status.loadBalancer` themselves, and have the hub route.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};
use tests::kubernetes::{Node, Site};

use super::client::{Failure, Front, Proto, http_get};
use super::kit::{LAG, Outcome, PATIENCE, eventually};
use super::objects::{Family, Service, with_spec};

/// How a Service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// At its own addresses.
    ClusterIp,
    /// At the addresses of the node of this index.
    NodePort(usize),
    /// At addresses of a load balancer, which sends everything to the node of this index.
    LoadBalancer(usize),
}

/// A Service, and where one of its ways leads in.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The Service.
    pub service: Service,
    /// Everything it answers at by this way: the ports it was made with, in each family.
    pub fronts: Vec<Front>,
}

impl Way {
    /// Makes the Service such that this way leads to it.
    ///
    /// # Errors
    /// The API server refuses it.
    pub(crate) fn create(self, site: &Site<'_>, object: Value) -> Outcome<Entry> {
        let kind = match self {
            Self::ClusterIp => json!({}),
            Self::NodePort(_) => json!({"type": "NodePort"}),
            Self::LoadBalancer(_) => json!({"type": "LoadBalancer"}),
        };
        let service = Service::create(site, with_spec(object, kind))?;
        let fronts = match self {
            Self::ClusterIp => at(site, &service, &service.ips)?,
            Self::NodePort(node) => node_ports(site, &service, node)?,
            Self::LoadBalancer(node) => {
                let vips = vips();
                lead(site, &vips, node)?;
                ingress(site, &service.name, &vips, None)?;
                at(site, &service, &vips)?
            }
        };
        Ok(Entry { service, fronts })
    }
}

impl Entry {
    /// The addresses of its fronts.
    pub(crate) fn ips(&self) -> BTreeSet<IpAddr> {
        self.fronts.iter().map(|front| front.at.ip()).collect()
    }

    /// The front of a family and protocol; the first of them.
    ///
    /// # Panics
    /// There is none: the scenario made it without.
    pub(crate) fn front(&self, family: Family, proto: Proto) -> Front {
        let mut fronts = self.fronts.iter().copied();
        let found = fronts.find(|front| family.has(front.at.ip()) && front.proto == proto);
        found.unwrap_or_else(|| panic!("no {proto:?} of {} in {:?}", family.name(), self.fronts))
    }

    /// HTTP.
    pub(crate) fn tcp(&self, family: Family) -> Front {
        self.front(family, Proto::Tcp)
    }

    /// Datagrams.
    pub(crate) fn udp(&self, family: Family) -> Front {
        self.front(family, Proto::Udp)
    }
}

/// The address of a node in a family.
///
/// # Errors
/// There is no such node.
pub(crate) fn node_ip(site: &Site<'_>, node: usize, family: Family) -> Outcome<IpAddr> {
    let node = site.cluster().nodes().get(node).ok_or("there is no such node")?;
    Ok(if family == Family::V4 { node.v4.into() } else { node.v6.into() })
}

/// The addresses of a node, IPv4 first.
///
/// # Errors
/// There is no such node.
pub(crate) fn node_ips(site: &Site<'_>, node: usize) -> Outcome<[IpAddr; 2]> {
    Ok([node_ip(site, node, Family::V4)?, node_ip(site, node, Family::V6)?])
}

/// What every port of a Service is now: its protocol, its number, its node port.
fn ports(site: &Site<'_>, service: &Service) -> Outcome<Vec<(Proto, u16, Option<u16>)>> {
    let object = site.get("Service", &service.name)?.ok_or("the Service is gone")?;
    let number = |value: &Value| value.as_u64().and_then(|number| u16::try_from(number).ok());
    let ports = object["spec"]["ports"].as_array().into_iter().flatten().filter_map(|port| {
        let proto = if port["protocol"] == "UDP" { Proto::Udp } else { Proto::Tcp };
        Some((proto, number(&port["port"])?, number(&port["nodePort"]).filter(|number| *number > 0)))
    });
    Ok(ports.collect())
}

/// Every port of a Service at these addresses.
///
/// # Errors
/// The API server does not answer.
pub(crate) fn at(site: &Site<'_>, service: &Service, ips: &[IpAddr]) -> Outcome<Vec<Front>> {
    let ports = ports(site, service)?;
    let fronts = |ip: &IpAddr| {
        let ip = *ip;
        ports.iter().map(move |(proto, port, _)| Front { at: (ip, *port).into(), proto: *proto })
    };
    Ok(ips.iter().flat_map(fronts).collect())
}

/// Every node port of a Service at a node, in the families it has.
///
/// # Errors
/// It has none.
pub(crate) fn node_ports(site: &Site<'_>, service: &Service, node: usize) -> Outcome<Vec<Front>> {
    let mut fronts = Vec::new();
    for family in Family::BOTH {
        if !service.ips.iter().any(|ip| family.has(*ip)) {
            continue;
        }
        let ip = node_ip(site, node, family)?;
        for (proto, _, port) in ports(site, service)? {
            fronts.extend(port.map(|port| Front { at: (ip, port).into(), proto }));
        }
    }
    if fronts.is_empty() { Err(format!("{} has no node port", service.name).into()) } else { Ok(fronts) }
}

/// The same at every node.
///
/// # Errors
/// As [`node_ports`].
pub(crate) fn every_node_port(site: &Site<'_>, service: &Service) -> Outcome<Vec<Front>> {
    let nodes = 0..site.cluster().nodes().len();
    let fronts: Vec<Vec<Front>> =
        nodes.map(|node| node_ports(site, service, node)).collect::<Outcome<_>>()?;
    Ok(fronts.concat())
}

/// The number of a Service's `healthCheckNodePort`; 0 without one.
///
/// # Errors
/// It is gone.
pub(crate) fn health_check(site: &Site<'_>, service: &str) -> Outcome<u16> {
    let object = site.get("Service", service)?.ok_or("the Service is gone")?;
    Ok(u16::try_from(object["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0))?)
}

/// Waits until a node says so about a Service's own endpoints there, in both families: it has so many, or none (503).
///
/// # Errors
/// It says something else.
pub(crate) fn healthy(site: &Site<'_>, node: usize, number: u16, endpoints: Option<u64>) -> Outcome {
    for ip in node_ips(site, node)? {
        let at = SocketAddr::new(ip, number);
        eventually(&format!("the health check at {at} says {endpoints:?}"), LAG, || {
            // Who asks is off the node: a balancer.
            let said = site.cluster().hub().enter(|| http_get(at, "/healthz", PATIENCE));
            match (said.map_err(|error| error.to_string())?, endpoints) {
                (Ok(body), Some(count)) => {
                    let told: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
                    let (service, proxy) = (&told["service"], &told["serviceProxyHealthy"]);
                    // To the byte, as load balancers may compare it.
                    let layout = format!(
                        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {proxy}\n}}",
                        service["namespace"], service["name"]
                    );
                    if body == layout { Ok(()) } else { Err(body) }
                }
                (Err(Failure::Other(why)), None) if why.contains(" 503 ") => Ok(()),
                (other, _) => Err(format!("{other:?}")),
            }
        })?;
    }
    Ok(())
}

/// Waits until nobody takes connections for a Service's health check any more.
///
/// # Errors
/// Somebody does.
pub(crate) fn unchecked(site: &Site<'_>, node: usize, number: u16) -> Outcome {
    for ip in node_ips(site, node)? {
        let at = SocketAddr::new(ip, number);
        eventually(&format!("there is no health check at {at}"), LAG, || {
            let said = site.cluster().hub().enter(|| http_get(at, "/healthz", PATIENCE));
            let said = said.map_err(|error| error.to_string())?;
            if said == Err(Failure::Refused) { Ok(()) } else { Err(format!("{said:?}")) }
        })?;
    }
    Ok(())
}

/// An address of each family nobody else has.
pub(crate) fn vips() -> [IpAddr; 2] {
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    [[203, 0, 113, number].into(), [0x2001, 0xdb8, 0x203, 0, 0, 0, 0, number.into()].into()]
}

/// Says that a load balancer has given a Service these addresses; an empty list takes them back.
///
/// # Errors
/// The API server refuses.
pub(crate) fn ingress(site: &Site<'_>, service: &str, ips: &[IpAddr], mode: Option<&str>) -> Outcome {
    let entries: Vec<Value> =
        ips.iter().map(|ip| json!({"ip": ip, "ipMode": mode.unwrap_or("VIP")})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": entries}}});
    site.merge("Service/status", service, status)?;
    Ok(())
}

/// Has everything for these addresses sent to a node.
///
/// # Errors
/// There is no such node.
pub(crate) fn lead<'i>(site: &Site<'_>, ips: impl IntoIterator<Item = &'i IpAddr>, node: usize) -> Outcome {
    Ok(ips.into_iter().try_for_each(|ip| site.cluster().route(*ip, Some(node)))?)
}

/// Addresses a node has besides its own, until this is dropped.
#[derive(Debug)]
pub(crate) struct Lent<'a> {
    node: &'a Node,
    ips: Vec<IpAddr>,
}

impl<'a> Lent<'a> {
    /// Gives them to node 1, on its link: the kernel takes the source of what it masquerades from the first interface
    /// that has an address where the link to a pod has none, and the loopback comes before all others.
    ///
    /// # Errors
    /// `ip` refuses something.
    pub(crate) fn to_node_1(site: &Site<'a>, ips: &[IpAddr]) -> Outcome<Self> {
        let node = site.cluster().nodes().first().ok_or("there is no node")?;
        let lent = Self { node, ips: ips.to_vec() };
        for ip in ips {
            let length = if ip.is_ipv4() { "32" } else { "128 nodad" };
            node.namespace.ip(&format!("addr add {ip}/{length} dev eth0"))?;
        }
        Ok(lent)
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        for ip in &self.ips {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            let _ = self.node.namespace.ip(&format!("addr del {ip}/{length} dev eth0"));
        }
    }
}
