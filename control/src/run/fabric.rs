//! What snapshots know besides Services, put together from the configuration, this host, its Node and ServiceCIDRs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::alias;
use dataplane::packet::tuple::Family;
use dataplane::service::{Fabric, LocalMap, Place, PortSet, ReturnPath};

use crate::config::Config;
use crate::config::detect::DetectLocal;
use crate::config::node_ports::NodePortAddresses;
use crate::desired::Desired;
use crate::model::{Node, Problem, ip};
use crate::node::Surroundings;
use crate::run::overlap::Taken;
use crate::run::troubles::ByObject;

/// The parts that do not come from objects.
#[derive(Clone, Debug)]
pub struct Parts {
    configured: Fabric,
    detect: DetectLocal,
    node_ports: NodePortAddresses,
    here: Surroundings,
    /// Packets may arrive by aliases.
    alias: bool,
    /// Addresses of frontends that are gone while flows of theirs are open.
    kept: BTreeSet<IpAddr>,
    /// Where the source of Services is reached.
    servers: Vec<IpAddr>,
}

impl Parts {
    /// Of this configuration, on a host that nothing is known of yet but the ports it reserves.
    #[must_use]
    pub fn new(config: &Config, reserved: Vec<(u16, u16)>) -> Self {
        let no_snat_draws = reserved.into_iter().chain([config.node_port_range]);
        let reserved_ports = Arc::new(PortSet::new(no_snat_draws));
        Self {
            configured: Fabric { reserved_ports, ..config.fabric() },
            detect: config.detect_local.clone(),
            node_ports: config.node_port_addresses.clone(),
            here: Surroundings::default(),
            alias: config.return_path == ReturnPath::ConnMark,
            kept: BTreeSet::new(),
            servers: Vec::new(),
        }
    }

    /// The source of Services is reached at these addresses: none of them is to lead here.
    pub fn spare(&mut self, servers: Vec<IpAddr>) {
        self.servers = servers;
    }

    /// The values of a configuration that may change while a run goes on.
    pub fn configure(&mut self, config: &Config) {
        let before = std::mem::replace(self, Self::new(config, Vec::new()));
        (self.here, self.servers) = (before.here, before.servers);
        self.kept = before.kept;
        // Neither this host's nor the range of node ports is read again.
        self.configured.reserved_ports = before.configured.reserved_ports;
    }

    /// This host is now so.
    pub fn surround(&mut self, here: Surroundings) {
        self.here = here;
    }

    /// Packets may arrive by aliases.
    #[must_use]
    pub fn by_alias(&self) -> bool {
        self.alias
    }

    /// These frontends' addresses are kept for their open flows.
    pub fn keep(&mut self, addresses: BTreeSet<IpAddr>) {
        self.kept = addresses;
    }

    /// Addresses of this host, where they decide about flows.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> {
        let decides = self.configured.return_path == ReturnPath::ConnMark;
        self.here.hosts.iter().copied().filter(move |_| decides)
    }

    /// Addresses of this host.
    #[must_use]
    pub const fn addresses(&self) -> &BTreeSet<IpAddr> {
        &self.here.hosts
    }

    /// The fabric, with what objects say.
    #[must_use]
    pub fn fabric(&self, desired: &Desired) -> Fabric {
        let mut fabric = self.configured.clone();
        fabric.service_cidrs = self.service_cidrs(desired).into_iter().collect();
        if fabric.return_path == ReturnPath::ConnMark {
            fabric.local = Arc::new(local_map(&self.detect, &self.here, desired.node()));
            fabric.node_addresses = self.node_ports.accepted(desired.node(), &self.here.hosts);
        }
        if self.alias {
            let addresses = self.hosts().chain(self.kept.iter().copied());
            fabric.aliased = addresses.map(|addr| (alias::of(addr), addr)).collect();
            fabric.aliased.sort_unstable();
            fabric.aliased.dedup();
        }
        fabric
    }

    /// Service CIDRs: configured ones and those of ServiceCIDRs, less those that would take packets from somebody who
    /// is there. One whose family has no SNAT address is left to others.
    #[must_use]
    pub fn service_cidrs(&self, desired: &Desired) -> BTreeSet<(IpAddr, u8)> {
        let taken = self.taken();
        self.named_cidrs(desired).into_iter().filter(|cidr| taken.within(*cidr).is_none()).collect()
    }

    fn named_cidrs(&self, desired: &Desired) -> BTreeSet<(IpAddr, u8)> {
        let snat = &self.configured.snat;
        let served = |addr: IpAddr| snat.is_empty() || snat.iter().any(|a| a.is_ipv4() == addr.is_ipv4());
        let of_objects = desired.service_cidrs().into_iter().filter(|(addr, _)| served(*addr));
        of_objects.chain(self.configured.service_cidrs.iter().copied()).collect()
    }

    fn taken(&self) -> Taken {
        let Self { configured, here, servers, .. } = self;
        Taken { networks: here.networks.clone(), snat: configured.snat.clone(), servers: servers.clone() }
    }

    /// Service CIDRs that are left out, by the object that names them.
    #[must_use]
    pub fn left_out(&self, desired: &Desired) -> ByObject {
        let taken = self.taken();
        let mut problems = ByObject::new();
        for (addr, len) in self.named_cidrs(desired) {
            let Some(why) = taken.within((addr, len)) else { continue };
            let (object, field) = match desired.names_of_cidr((addr, len)) {
                Some(name) => (format!("ServiceCIDR {name}"), "spec.cidrs"),
                None => ("Config".to_owned(), "serviceCIDRs"),
            };
            let problem = Problem {
                object: object.clone(),
                field: field.to_owned(),
                what: format!(
                    "{addr}/{len} is not routed as a whole: {why}; only addresses of Services in it are"
                ),
                remedy: "give Services a range that nobody else has, or move whoever is in it".to_owned(),
            };
            problems.entry(object).or_default().push(problem);
        }
        problems
    }

    /// Services at an address that cannot lead here: the source of Services is reached there itself, or this host has
    /// it and nothing brings its packets past the local table.
    #[must_use]
    pub fn spared(&self, desired: &Desired, frontends: &BTreeSet<IpAddr>) -> ByObject {
        let mut problems = ByObject::new();
        for server in self.servers.iter().filter(|server| frontends.contains(server)) {
            let what = format!(
                "the API server is reached at {server}: it is not routed to tunway, which needs it itself"
            );
            let remedy = "name a control-plane node's own address in the kubeconfig";
            tell_owners(*server, &what, remedy, desired, &mut problems);
        }
        if self.configured.return_path == ReturnPath::Masquerade {
            for addr in self.here.hosts.intersection(frontends) {
                let what =
                    format!("{addr} is an address of this host, which keeps its packets: not served here");
                let remedy = "take it off this host, or take returnPath: conntrack";
                tell_owners(*addr, &what, remedy, desired, &mut problems);
            }
        }
        problems
    }

    /// Whether the source of Services is reached at this address.
    #[must_use]
    pub fn is_spared(&self, addr: IpAddr) -> bool {
        self.servers.contains(&addr)
    }

    /// What has to be known before the first new flow, and is not: without the Node's CIDRs every pod would be taken
    /// for a stranger.
    #[must_use]
    pub fn waits_for(&self, node: &Node) -> Option<Problem> {
        let waits = self.configured.return_path == ReturnPath::ConnMark
            && self.detect == DetectLocal::NodeCidr
            && node.pod_cidrs.is_empty();
        waits.then(|| Problem {
            object: format!("Node {}", node.name),
            field: "spec.podCIDRs".to_owned(),
            what: "none yet, and detectLocal.mode nodeCIDR needs them: new flows wait until there are"
                .to_owned(),
            remedy:
                "let the controller manager allocate them (--allocate-node-cidrs), or choose another mode"
                    .to_owned(),
        })
    }
}

/// Tells every Service that is to be reached at this address.
fn tell_owners(addr: IpAddr, what: &str, remedy: &str, desired: &Desired, problems: &mut ByObject) {
    for service in desired.services().values() {
        let fields = [
            (&service.cluster_ips, "spec.clusterIPs"),
            (&service.load_balancer_ips, "status.loadBalancer.ingress"),
            (&service.external_ips, "spec.externalIPs"),
        ];
        let Some((_, field)) = fields.into_iter().find(|(addrs, _)| addrs.contains(&addr)) else { continue };
        let object = format!("Service {}", service.key);
        let (field, what, remedy) = (field.to_owned(), what.to_owned(), remedy.to_owned());
        problems.entry(object.clone()).or_default().push(Problem { object, field, what, remedy });
    }
}

/// Where addresses are. An address of this host that lies in the pods' CIDRs, as a bridge's does, is both.
fn local_map(detect: &DetectLocal, here: &Surroundings, node: &Node) -> LocalMap {
    let both = vec![Family::V4, Family::V6];
    let (cidrs, detectors): (Vec<_>, Vec<_>) = match detect {
        DetectLocal::ClusterCidr(cidrs) => (cidrs.clone(), families(cidrs)),
        DetectLocal::NodeCidr => {
            let first = |family| node.pod_cidrs.iter().find(move |cidr| Family::of(cidr.0) == family);
            let cidrs: Vec<_> = both.iter().filter_map(|family| first(*family)).copied().collect();
            (cidrs.clone(), families(&cidrs))
        }
        DetectLocal::Bridge(_) | DetectLocal::InterfacePrefix(_) => (Vec::new(), both),
    };
    let pods = cidrs.iter().map(|&(addr, len)| (addr, len, Place::LocalPod));
    let routes = here
        .routes
        .iter()
        .map(|&((addr, len), to_pods)| (addr, len, if to_pods { Place::LocalPod } else { Place::Elsewhere }));
    let hosts = here.hosts.iter().map(|addr| {
        let among = cidrs.iter().any(|cidr| ip::contains(*cidr, *addr));
        let place = if among { Place::HostAmongPods } else { Place::Host };
        (*addr, if addr.is_ipv4() { 32 } else { 128 }, place)
    });
    // Every prefix was checked where it was read.
    LocalMap::new(pods.chain(routes).chain(hosts), &detectors).unwrap_or_default()
}

fn families(cidrs: &[(IpAddr, u8)]) -> Vec<Family> {
    cidrs.iter().map(|(addr, _)| Family::of(*addr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Machine;
    use crate::config::file::ConfigFile;
    use crate::fixtures::{HERE, ip};
    use crate::model::ServiceCidr;
    use crate::node::Network;
    use crate::source::Event;

    fn node(cidrs: &[(&str, u8)]) -> Node {
        let pod_cidrs = cidrs.iter().map(|(addr, len)| (ip(addr), *len)).collect();
        Node { name: HERE.into(), pod_cidrs, ..Node::default() }
    }

    fn parts(detect: DetectLocal, return_path: ReturnPath) -> Parts {
        let configured = Fabric {
            return_path,
            snat: vec![ip("169.254.77.1")],
            service_cidrs: vec![(ip("10.96.0.0"), 16)],
            ..Fabric::default()
        };
        let hosts = ["192.168.0.7", "10.244.1.1", "fd00::7"].map(ip).into();
        let routes = vec![
            ((ip("10.244.1.0"), 24), true),
            ((ip("10.244.1.64"), 26), false),
            ((ip("0.0.0.0"), 0), false),
            ((ip("fd00:244:1::"), 64), true),
        ];
        Parts {
            alias: false,
            kept: BTreeSet::new(),
            configured,
            detect,
            node_ports: NodePortAddresses::Primary,
            here: Surroundings { hosts, routes, networks: Vec::new() },
            servers: Vec::new(),
        }
    }

    fn places(detect: DetectLocal, node: &Node) -> (Vec<Place>, [bool; 2]) {
        let map = local_map(&detect, &parts(detect.clone(), ReturnPath::ConnMark).here, node);
        let asked = ["10.244.1.9", "10.244.1.65", "10.244.2.9", "10.244.1.1", "192.168.0.7", "fd00:244:1::9"];
        (asked.map(|addr| map.place(ip(addr))).to_vec(), [map.detects(Family::V4), map.detects(Family::V6)])
    }

    #[test]
    fn every_mode_knows_its_pods_and_which_host_addresses_are_among_theirs() {
        use Place::{Elsewhere, Host, HostAmongPods, LocalPod};
        // Where links do not decide there are no routes to know of.
        let no_routes = |detect: DetectLocal, node: &Node| {
            let mut here = parts(detect.clone(), ReturnPath::ConnMark).here;
            here.routes.clear();
            let map = local_map(&detect, &here, node);
            let asked = ["10.244.1.9", "10.244.2.9", "10.244.1.1", "192.168.0.7", "fd00:244:1::9"];
            let detects = [map.detects(Family::V4), map.detects(Family::V6)];
            (asked.map(|addr| map.place(ip(addr))).to_vec(), detects)
        };
        let cluster = DetectLocal::ClusterCidr(vec![(ip("10.244.0.0"), 16)]);
        assert_eq!(
            no_routes(cluster, &node(&[])),
            (vec![LocalPod, LocalPod, HostAmongPods, Host, Elsewhere], [true, false])
        );
        let two = node(&[("10.244.1.0", 24), ("fd00:244:1::", 64), ("10.244.2.0", 24)]);
        assert_eq!(
            no_routes(DetectLocal::NodeCidr, &two),
            (vec![LocalPod, Elsewhere, HostAmongPods, Host, LocalPod], [true, true])
        );
        assert_eq!(no_routes(DetectLocal::NodeCidr, &node(&[])).1, [false, false]);
        assert_eq!(no_routes(DetectLocal::default(), &two).1, [false, false]);
        // The more specific route elsewhere wins.
        assert_eq!(
            places(DetectLocal::Bridge("cni0".into()), &two),
            (vec![LocalPod, Elsewhere, Elsewhere, Host, Host, LocalPod], [true, true])
        );
    }

    #[test]
    fn service_cidrs_are_those_of_the_configuration_and_of_objects_that_can_be_served() {
        let mut desired = Desired::new(HERE);
        let parts = parts(DetectLocal::default(), ReturnPath::ConnMark);
        let of = |desired: &Desired| {
            let cidrs = parts.fabric(desired).service_cidrs;
            cidrs.iter().map(|(addr, len)| format!("{addr}/{len}")).collect::<Vec<_>>()
        };
        assert_eq!(of(&desired), ["10.96.0.0/16"]);
        let cidrs = vec![(ip("10.97.0.0"), 16), (ip("10.96.0.0"), 16), (ip("fd00:97::"), 112)];
        desired.apply(Event::ServiceCidr(ServiceCidr { name: "more".into(), cidrs }));
        assert_eq!(of(&desired), ["10.96.0.0/16", "10.97.0.0/16"], "IPv6 has no SNAT address here");
        desired.apply(Event::ServiceCidrGone("more".into()));
        assert_eq!(of(&desired), ["10.96.0.0/16"], "what is configured stays");
    }

    #[test]
    fn a_service_cidr_that_overlaps_somebody_is_left_out_and_told_where_it_was_named() {
        let mut desired = Desired::new(HERE);
        let mut parts = parts(DetectLocal::default(), ReturnPath::ConnMark);
        let cidrs = vec![(ip("10.97.0.0"), 16), (ip("10.98.0.0"), 16)];
        desired.apply(Event::ServiceCidr(ServiceCidr { name: "more".into(), cidrs }));
        assert_eq!((parts.service_cidrs(&desired).len(), parts.left_out(&desired).len()), (3, 0));
        let network = |addr| Network { prefix: (ip(addr), 24), on_link: true, link: "eth1".into() };
        parts.here.networks = vec![network("10.96.7.0"), network("10.98.3.0")];
        parts.spare(vec![ip("10.97.0.1")]);
        assert_eq!(parts.service_cidrs(&desired), BTreeSet::new());
        let told: Vec<_> = parts.left_out(&desired).into_values().flatten().collect();
        let fields: Vec<_> = told.iter().map(Problem::place).collect();
        assert_eq!(
            fields,
            ["Config: serviceCIDRs", "ServiceCIDR more: spec.cidrs", "ServiceCIDR more: spec.cidrs"]
        );
        assert!(told[0].what.contains("10.96.7.0/24 is on the link eth1"), "{told:?}");
        assert!(told[1].what.contains("10.97.0.1") && told[2].what.contains("10.98.3.0/24"), "{told:?}");
    }

    #[test]
    fn no_snat_draws_a_node_port_or_what_this_host_reserves() {
        let machine = Machine { node_name: Some(HERE.into()), host_name: String::new(), cores: 1 };
        let file = ConfigFile { node_port_range: Some("20000-20999".into()), ..ConfigFile::default() };
        let config = Config::resolve(file, &machine).unwrap();
        let parts = Parts::new(&config, vec![(8_080, 8_080), (9_000, 9_100)]);
        let reserved = parts.fabric(&Desired::new(HERE)).reserved_ports;
        for kept in [8_080, 9_000, 9_100, 20_000, 20_999] {
            assert!(reserved.contains(kept), "{kept}");
        }
        for free in [8_081, 8_999, 9_101, 19_999, 21_000] {
            assert!(!reserved.contains(free), "{free}");
        }
    }

    #[test]
    fn only_the_nodes_cidrs_are_waited_for() {
        let waits = |detect, path, node: &Node| parts(detect, path).waits_for(node).is_some();
        let (known, unknown) = (node(&[("10.244.1.0", 24)]), node(&[]));
        assert!(waits(DetectLocal::NodeCidr, ReturnPath::ConnMark, &unknown));
        assert!(!waits(DetectLocal::NodeCidr, ReturnPath::ConnMark, &known));
        assert!(!waits(DetectLocal::NodeCidr, ReturnPath::Masquerade, &unknown));
        assert!(!waits(DetectLocal::default(), ReturnPath::ConnMark, &unknown));
    }

    #[test]
    fn without_connection_marks_this_host_is_not_looked_at() {
        let mut desired = Desired::new(HERE);
        desired.apply(Event::Node(Box::new(node(&[("10.244.1.0", 24)]))));
        let fabric = parts(DetectLocal::NodeCidr, ReturnPath::Masquerade).fabric(&desired);
        assert_eq!(*fabric.local, LocalMap::default());
        let fabric = parts(DetectLocal::NodeCidr, ReturnPath::ConnMark).fabric(&desired);
        assert_eq!(fabric.local.place(ip("10.244.1.9")), Place::LocalPod);
    }
}
