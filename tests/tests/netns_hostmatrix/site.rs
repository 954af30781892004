//! Two nodes with two pods each, a client outside, and a link between them; the tunway of each node.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fmt, fs};

use control::socket::client::ask_blocking;
use control::socket::wire::{Counters, Query, Services};
use tempfile::TempDir;
use tests::netns::{Namespace, Process, wait_for};

use crate::services::{self, INSIDE};
use crate::traffic::{PORT, Server};

/// How long a condition may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A host route to each pod's link; the node answers for the rest of the world.
    Routed,
    /// All pods of a node on one bridge, `cni0`.
    Bridge,
    /// Likewise, on a host with strict checks and rules of others: see [`Site::harden`].
    Hostile,
}

impl Style {
    pub(crate) fn is_bridged(self) -> bool {
        self != Self::Routed
    }
}

/// Whoever sends or serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// A pod: its node (1 or 2), and which one of it (1 or 2).
    Pod(u8, u8),
    /// A process of a node (1 or 2), or a pod with its network.
    Node(u8),
    /// A process of a node that uses the address of the node's bridge.
    Bridge(u8),
    /// Neither.
    Outside,
}

/// Who serves, each behind a Service of its own.
pub(crate) const SERVERS: [Party; 6] =
    [Party::Pod(1, 1), Party::Pod(1, 2), Party::Pod(2, 1), Party::Pod(2, 2), Party::Node(1), Party::Node(2)];

impl Party {
    /// Its address.
    pub(crate) fn address(self, v6: bool) -> IpAddr {
        let text = match (self, v6) {
            (Self::Pod(node, pod), false) => format!("10.244.{node}.1{pod}"),
            (Self::Pod(node, pod), true) => format!("fd00:244:{node}::1{pod}"),
            (Self::Node(node), false) => format!("192.168.77.{node}"),
            (Self::Node(node), true) => format!("fd00:77::{node}"),
            (Self::Bridge(node), false) => format!("10.244.{node}.1"),
            (Self::Bridge(node), true) => format!("fd00:244:{node}::1"),
            (Self::Outside, false) => "192.168.77.100".to_owned(),
            (Self::Outside, true) => "fd00:77::100".to_owned(),
        };
        text.parse().unwrap()
    }

    /// The number of its node; 0 for the outside.
    pub(crate) fn node(self) -> u8 {
        match self {
            Self::Pod(node, _) | Self::Node(node) | Self::Bridge(node) => node,
            Self::Outside => 0,
        }
    }

    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::Pod(..))
    }

    /// The ClusterIP of its Service.
    pub(crate) fn service(self, v6: bool) -> SocketAddr {
        let number = 10 + SERVERS.iter().position(|server| *server == self).unwrap();
        let text = if v6 { format!("[fd00:96::{number}]:80") } else { format!("10.96.0.{number}:80") };
        text.parse().unwrap()
    }
}

/// A site. Dropping it ends everything in it and takes everything away.
pub(crate) struct Site {
    pub(crate) style: Style,
    pub(crate) nodes: [Namespace; 2],
    pods: [[Namespace; 2]; 2],
    outside: Namespace,
    pub(crate) link: Namespace,
    pub(crate) dir: TempDir,
    devices: [String; 2],
    binary: PathBuf,
    tunways: [Option<Process>; 2],
    _servers: Vec<Server>,
}

impl Site {
    /// Everything but tunway.
    pub(crate) fn new(style: Style) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Before there is anything to clean up: it refuses a stale one.
        let binary = tests::bin::tunway();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = |label: &str| {
            let space = Namespace::new(label).unwrap();
            space.sysctl("net.ipv6.conf.default.accept_dad", "0").unwrap();
            space
        };
        let device = |node| format!("mx{}n{number}{node}", std::process::id());
        let mut site = Self {
            style,
            nodes: [space("n1"), space("n2")],
            pods: [[space("p11"), space("p12")], [space("p21"), space("p22")]],
            outside: space("out"),
            link: space("lan"),
            dir: tempfile::tempdir().unwrap(),
            devices: [device('a'), device('b')],
            binary,
            tunways: [None, None],
            _servers: Vec::new(),
        };
        site.lay_link();
        for node in [1, 2] {
            site.lay_pods(node);
        }
        let everywhere = SERVERS.map(|party| (party, PORT)).into_iter().chain([(Party::Node(1), INSIDE)]);
        site._servers = everywhere
            .flat_map(|(party, port)| {
                [false, true].map(|v6| (party, SocketAddr::new(party.address(v6), port)))
            })
            .map(|(party, at)| Server::start(site.space(party), at))
            .collect();
        fs::create_dir(site.dir.path().join("manifests")).unwrap();
        fs::write(site.dir.path().join("manifests/services.yaml"), manifest()).unwrap();
        site.wait_until_joined();
        site
    }

    /// With a tunway on both nodes, serving.
    pub(crate) fn serving(style: Style, more: &str) -> Self {
        let mut site = Self::new(style);
        for node in [1, 2] {
            site.start(node, more);
        }
        for node in [1, 2] {
            site.wait_until_ready(node);
        }
        site
    }

    /// Starts a node's tunway with these lines added to its configuration.
    pub(crate) fn start(&mut self, node: u8, more: &str) {
        let dir = self.dir.path();
        let config = format!(
            "apiVersion: tunway.dev/v1alpha1\nkind: Config\ndevice: {}\nworkers: 2\nreturnPath: conntrack\n\
             serviceCIDRs: [10.96.0.0/16, 'fd00:96::/112']\n\
             detectLocal: {{mode: clusterCIDR, clusterCIDRs: [10.244.0.0/16, 'fd00:244::/32']}}\n\
             maxFlows: {{ipv4: 16384, ipv6: 16384}}\nsource: {{manifests: {}}}\nsocket: {}\nnodeName: n{node}\n{more}",
            self.device(node),
            dir.join("manifests").display(),
            self.socket(node).display()
        );
        fs::write(dir.join(format!("n{node}.yaml")), config).unwrap();
        let log = fs::File::options().create(true).append(true).open(dir.join(format!("log{node}"))).unwrap();
        let mut command = self.tunway(node, "run");
        command.stdin(Stdio::null()).stderr(log);
        self.tunways[slot(node)] = Some(self.nodes[slot(node)].spawn(&mut command).unwrap());
    }

    /// `tunway COMMAND` on a node with its configuration, to be run or spawned.
    pub(crate) fn tunway(&self, node: u8, command: &str) -> Command {
        let mut tunway = self.nodes[slot(node)].command(&self.binary.to_string_lossy());
        tunway.args([command, "--config"]).arg(self.dir.path().join(format!("n{node}.yaml")));
        tunway
    }

    /// Ends a node's tunway without a chance to do anything about it.
    pub(crate) fn kill(&mut self, node: u8) {
        // The guard's drop is the kill.
        drop(self.tunways[slot(node)].take().unwrap());
    }

    /// Takes away what the node's tunway left behind.
    pub(crate) fn cleanup(&self, node: u8) {
        let output = self.tunway(node, "cleanup").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Offers these Services, too, which the outside asks by node 1.
    pub(crate) fn offer(&self, manifests: &str) {
        self.offer_again(manifests);
        for network in services::NETWORKS {
            let (family, via) = if network.contains(':') { ("-6 ", true) } else { ("", false) };
            let via = Party::Node(1).address(via);
            self.outside.ip(&format!("{family}route add {network} via {via}")).unwrap();
        }
    }

    /// Takes them away again.
    pub(crate) fn withdraw(&self) {
        fs::remove_file(self.dir.path().join("manifests/more.yaml")).unwrap();
    }

    /// Offers them once more.
    pub(crate) fn offer_again(&self, manifests: &str) {
        fs::write(self.dir.path().join("manifests/more.yaml"), manifests).unwrap();
    }

    pub(crate) fn wait_until_ready(&self, node: u8) {
        let ready = || {
            let answer = ask_blocking(&self.socket(node), &Query::Services).ok();
            let services: Option<Services> = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
            services.is_some_and(|services| services.status.ready)
        };
        let begun = std::time::SystemTime::now();
        while !ready() {
            let late = begun.elapsed().unwrap_or_default() > PATIENCE;
            assert!(!late, "node {node} is not ready; its log:\n{}", self.log(node));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn space(&self, party: Party) -> &Namespace {
        match party {
            Party::Pod(node, pod) => &self.pods[slot(node)][slot(pod)],
            Party::Node(node) | Party::Bridge(node) => &self.nodes[slot(node)],
            Party::Outside => &self.outside,
        }
    }

    pub(crate) fn device(&self, node: u8) -> &str {
        &self.devices[slot(node)]
    }

    pub(crate) fn counters(&self, node: u8) -> Counters {
        let answer = ask_blocking(&self.socket(node), &Query::Counters).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Every frame read has exactly one end.
    pub(crate) fn assert_nothing_uncounted(&self) {
        for node in [1, 2] {
            let Counters { counters, drops } = self.counters(node);
            let ends = counters["translated"] + counters["passed"] + counters["replied"];
            assert_eq!(counters["received"], ends + drops.values().sum::<u64>(), "{counters:?} {drops:?}");
        }
    }

    pub(crate) fn log(&self, node: u8) -> String {
        fs::read_to_string(self.dir.path().join(format!("log{node}"))).unwrap_or_default()
    }

    fn socket(&self, node: u8) -> PathBuf {
        self.dir.path().join(format!("s{node}"))
    }

    /// The wire between the nodes and the outside: a switch in a namespace of its own.
    fn lay_link(&self) {
        self.link.ip("link add br0 type bridge").unwrap();
        self.link.ip("link set br0 up").unwrap();
        for (port, party) in
            [("to-n1", Party::Node(1)), ("to-n2", Party::Node(2)), ("to-out", Party::Outside)]
        {
            let space = self.space(party);
            space.veth("eth0", &self.link, port, 1500).unwrap();
            self.link.ip(&format!("link set {port} master br0")).unwrap();
            space.ip(&format!("addr add {}/24 dev eth0", party.address(false))).unwrap();
            space.ip(&format!("addr add {}/64 dev eth0 nodad", party.address(true))).unwrap();
        }
        for (node, other) in [(1, 2), (2, 1)] {
            let space = self.space(Party::Node(node));
            space.sysctl("net.ipv4.ip_forward", "1").unwrap();
            space.sysctl("net.ipv6.conf.all.forwarding", "1").unwrap();
            space.ip("route add default via 192.168.77.100").unwrap();
            space.ip("-6 route add default via fd00:77::100").unwrap();
            for space in [space, &self.outside] {
                // The outside has its route to the node's own pods by the other turn of this loop.
                space.ip(&format!("route add 10.244.{other}.0/24 via 192.168.77.{other}")).unwrap();
                space.ip(&format!("-6 route add fd00:244:{other}::/64 via fd00:77::{other}")).unwrap();
            }
        }
        self.outside.ip("route add 10.96.0.0/16 via 192.168.77.1").unwrap();
        self.outside.ip("-6 route add fd00:96::/112 via fd00:77::1").unwrap();
    }

    fn lay_pods(&self, node: u8) {
        let host = self.space(Party::Node(node));
        if self.style.is_bridged() {
            host.ip(&format!("link add cni0 address 02:00:00:00:00:0{node} type bridge")).unwrap();
            host.ip("link set cni0 up").unwrap();
            host.ip(&format!("addr add 10.244.{node}.1/24 dev cni0")).unwrap();
            host.ip(&format!("addr add fd00:244:{node}::1/64 dev cni0 nodad")).unwrap();
        }
        for pod in [1, 2] {
            let party = Party::Pod(node, pod);
            let (space, port) = (self.space(party), format!("v{pod}"));
            let (v4, v6) = (party.address(false), party.address(true));
            space.veth("eth0", host, &port, 1500).unwrap();
            match self.style {
                Style::Bridge | Style::Hostile => {
                    host.ip(&format!("link set {port} master cni0")).unwrap();
                    space.ip(&format!("addr add {v4}/24 dev eth0")).unwrap();
                    space.ip(&format!("addr add {v6}/64 dev eth0 nodad")).unwrap();
                    space.ip(&format!("route add default via 10.244.{node}.1")).unwrap();
                    space.ip(&format!("-6 route add default via fd00:244:{node}::1")).unwrap();
                }
                Style::Routed => {
                    // The way out is a neighbour by decree: no proxy ARP, which may be late.
                    host.ip(&format!("link set {port} address {GATEWAY_MAC}")).unwrap();
                    space.ip(&format!("addr add {v4}/32 dev eth0")).unwrap();
                    space.ip(&format!("addr add {v6}/128 dev eth0 nodad")).unwrap();
                    space.ip("route add 169.254.1.1 dev eth0 scope link").unwrap();
                    for (gateway, family) in [("169.254.1.1", ""), ("fe80::1", "-6 ")] {
                        let neighbour =
                            format!("neigh add {gateway} lladdr {GATEWAY_MAC} dev eth0 nud permanent");
                        space.ip(&format!("{family}{neighbour}")).unwrap();
                        space.ip(&format!("{family}route add default via {gateway} dev eth0")).unwrap();
                    }
                    host.ip(&format!("route add {v4}/32 dev {port}")).unwrap();
                    host.ip(&format!("-6 route add {v6}/128 dev {port}")).unwrap();
                }
            }
        }
    }

    /// Until everybody reaches everybody without tunway: what fails later is not the site's fault.
    fn wait_until_joined(&self) {
        let clients = SERVERS.into_iter().chain([Party::Outside]);
        for (from, to) in clients.flat_map(|from| SERVERS.map(|to| (from, to))) {
            for v6 in [false, true] {
                let to = SocketAddr::new(to.address(v6), PORT);
                wait_for(&format!("{from:?} reaches {to}"), PATIENCE, || {
                    crate::traffic::datagram(self.space(from), to, 100, Duration::from_millis(500)).is_ok()
                });
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for node in [1, 2] {
            if std::thread::panicking() && !self.log(node).is_empty() {
                println!("the tunway of node {node} said:\n{}", self.log(node));
            }
            self.tunways[slot(node)] = None;
            if self.dir.path().join(format!("n{node}.yaml")).exists() {
                let _ = self.tunway(node, "cleanup").output();
            }
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(node, pod) => write!(f, "p{node}{pod}"),
            Self::Node(node) => write!(f, "n{node}"),
            Self::Bridge(node) => write!(f, "n{node}'s cni0"),
            Self::Outside => f.write_str("outside"),
        }
    }
}

fn slot(number: u8) -> usize {
    usize::from(number) - 1
}

/// A Service with one endpoint for each server.
fn manifest() -> String {
    let mut text = String::new();
    for (number, server) in SERVERS.iter().enumerate() {
        let (v4, v6) = (server.service(false).ip(), server.service(true).ip());
        text += &format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: default}}\nspec:\n  \
             clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n  \
             - {{name: tcp, protocol: TCP, port: 80}}\n  - {{name: udp, protocol: UDP, port: 80}}\n"
        );
        for (family, v6) in [("IPv4", false), ("IPv6", true)] {
            let endpoint = SocketAddr::new(server.address(v6), PORT);
            text += &services::slice(&format!("s{number}"), family, server.node(), endpoint);
        }
    }
    text
}

/// The address of the nodes' ends of routed pods' links.
const GATEWAY_MAC: &str = "ee:ee:ee:ee:ee:ee";
