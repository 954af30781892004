//! Services with every way in: one for each server and external traffic policy, with the one endpoint in each family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::site::{Party, SERVERS};
use crate::traffic::PORT;

/// A port of a host endpoint that is inside the range of node ports: what goes there is no node port's.
pub(crate) const INSIDE: u16 = 31_999;
/// The port of a Service at its virtual addresses.
const FRONT: u16 = 80;

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// The address a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ClusterIp,
    ExternalIp,
    /// An address of `status.loadBalancer`.
    Ingress,
    /// The node port, at this node's address.
    NodePort(u8),
}

/// A Service with one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    number: u8,
    pub(crate) server: Party,
    /// Where the endpoint listens.
    pub(crate) port: u16,
    pub(crate) policy: Policy,
}

impl Service {
    /// The one with this endpoint.
    pub(crate) fn of(server: Party, port: u16, policy: Policy) -> Self {
        let wanted =
            |service: &Self| (service.server, service.port, service.policy) == (server, port, policy);
        all().into_iter().find(wanted).unwrap()
    }

    /// Where clients ask.
    pub(crate) fn at(self, way: Way, v6: bool) -> SocketAddr {
        match way {
            Way::ClusterIp => SocketAddr::new(self.address(["10.96.0", "fd00:96:"], v6), FRONT),
            Way::ExternalIp => SocketAddr::new(self.address(["203.0.113", "fd00:203:"], v6), FRONT),
            Way::Ingress => SocketAddr::new(self.address(["198.51.100", "fd00:198:"], v6), FRONT),
            Way::NodePort(node) => SocketAddr::new(Party::Node(node).address(v6), self.node_port()),
        }
    }

    pub(crate) fn node_port(self) -> u16 {
        30_000 + u16::from(self.number)
    }

    /// Its addresses of the outside.
    pub(crate) fn outer(self) -> Vec<IpAddr> {
        let both = [Way::ExternalIp, Way::Ingress].map(|way| [false, true].map(|v6| self.at(way, v6).ip()));
        both.concat()
    }

    /// Where the endpoint is.
    pub(crate) fn endpoint(self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.server.address(v6), self.port)
    }

    /// Its name, as a part of names.
    pub(crate) fn name(self) -> String {
        format!("w{}", self.number)
    }

    fn address(self, nets: [&str; 2], v6: bool) -> IpAddr {
        let dot = if v6 { ':' } else { '.' };
        format!("{}{dot}{}", nets[usize::from(v6)], self.number).parse().unwrap()
    }
}

/// Every one of them.
pub(crate) fn all() -> Vec<Service> {
    let endpoints = SERVERS.map(|server| (server, PORT)).into_iter().chain([(Party::Node(1), INSIDE)]);
    let both = endpoints
        .flat_map(|(server, port)| [Policy::Cluster, Policy::Local].map(|policy| (server, port, policy)));
    (100..)
        .zip(both)
        .map(|(number, (server, port, policy))| Service { number, server, port, policy })
        .collect()
}

/// Their networks outside the cluster, which the outside routes to a node.
pub(crate) const NETWORKS: [&str; 4] =
    ["203.0.113.0/24", "198.51.100.0/24", "fd00:203::/64", "fd00:198::/64"];

/// What a node's configuration needs to serve them.
pub(crate) fn configuration(node: u8) -> String {
    let [v4, v6] = [false, true].map(|v6| Party::Node(node).address(v6));
    format!(
        "node: {{addresses: [{v4}, '{v6}']}}\nexternalIPs: {{allow: [203.0.113.0/24, 'fd00:203::/64']}}\n"
    )
}

/// They and their endpoints as manifests.
pub(crate) fn manifests() -> String {
    all().into_iter().map(manifest).collect()
}

fn manifest(service: Service) -> String {
    let name = service.name();
    let [cluster, external, ingress] = [Way::ClusterIp, Way::ExternalIp, Way::Ingress]
        .map(|way| [false, true].map(|v6| service.at(way, v6).ip().to_string()));
    let health = match service.policy {
        Policy::Cluster => String::new(),
        Policy::Local => format!("  healthCheckNodePort: {}\n", service.node_port() + 1_000),
    };
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n{health}  \
         type: LoadBalancer\n  externalTrafficPolicy: {:?}\n  clusterIP: {:?}\n  clusterIPs: {cluster:?}\n  \
         externalIPs: {external:?}\n  ipFamilies: [IPv4, IPv6]\n  ports:\n  \
         - {{name: tcp, protocol: TCP, port: {FRONT}, nodePort: {port}}}\n  \
         - {{name: udp, protocol: UDP, port: {FRONT}, nodePort: {port}}}\n\
         status: {{loadBalancer: {{ingress: [{{ip: {:?}}}, {{ip: {:?}}}]}}}}\n",
        service.policy,
        cluster[0],
        ingress[0],
        ingress[1],
        port = service.node_port(),
    );
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        text += &slice(&name, family, service.server.node(), service.endpoint(v6));
    }
    text
}

/// An EndpointSlice of one endpoint, which serves TCP and UDP.
pub(crate) fn slice(service: &str, family: &str, node: u8, endpoint: SocketAddr) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{}\n  \
         namespace: default\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\n\
         ports: [{{name: tcp, port: {port}, protocol: TCP}}, {{name: udp, port: {port}, protocol: UDP}}]\n\
         endpoints:\n- {{addresses: [\"{}\"], nodeName: n{node}, conditions: {{ready: true}}}}\n",
        family.to_lowercase(),
        endpoint.ip(),
        port = endpoint.port(),
    )
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp => f.write_str("ClusterIP"),
            Self::ExternalIp => f.write_str("external IP"),
            Self::Ingress => f.write_str("LB address"),
            Self::NodePort(node) => write!(f, "node port of n{node}"),
        }
    }
}
