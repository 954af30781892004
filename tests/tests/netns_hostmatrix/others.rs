//! Other people's rules around ours: before the start and after it, with node ports and without. Services go on, the
//! node keeps its addresses, and rules that are meant to work do.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tests::netns::wait_for;

use crate::services::{self, Policy, Service, Way};
use crate::site::{PATIENCE, Party, Site, Style};
use crate::traffic::{PORT, connect_from, datagram, datagram_from, exchange, stream};

const HERE: Party = Party::Pod(1, 1);
const BESIDE: Party = Party::Pod(1, 2);
const THERE: Party = Party::Pod(2, 2);
const NODE: Party = Party::Node(1);

/// What somebody does to node 1, and how it is undone. `{ip}` stands for `ip` and `ip -6` in turn, `{all}` for
/// everything, `{lan}` and `{pod}` for the nodes' network and the other pod.
struct Act {
    name: &'static str,
    does: &'static [&'static str],
    undoes: &'static [&'static str],
}

const ACTS: [Act; 5] = [
    Act {
        name: "a VPN client's rules without preference",
        does: &[
            "{ip} route add {all} dev vpn0 table 51820",
            "{ip} rule add not fwmark 51820 table 51820",
            "{ip} rule add table main suppress_prefixlength 0",
        ],
        undoes: &[
            "{ip} rule del table main suppress_prefixlength 0",
            "{ip} rule del not fwmark 51820 table 51820",
            "{ip} route flush table 51820",
        ],
    },
    Act {
        name: "the nodes' network looked up in main first",
        does: &["{ip} rule add pref 10 to {lan} lookup main"],
        undoes: &["{ip} rule del pref 10"],
    },
    Act {
        name: "source routing",
        does: &["{ip} route add {all} via {out} table 100", "{ip} rule add pref 20 from {pod} lookup 100"],
        undoes: &["{ip} rule del pref 20", "{ip} route flush table 100"],
    },
    Act {
        name: "a pod only in a table of its own",
        does: &[
            "{ip} rule add pref 150 to {pod} lookup 50",
            "{ip} route add {pod} dev v2 table 50",
            "{ip} route del {pod} dev v2",
        ],
        undoes: &["{ip} route add {pod} dev v2", "{ip} rule del pref 150", "{ip} route flush table 50"],
    },
    Act {
        name: "a raw rule on the interface a pod is not behind",
        does: &["{tables} -t raw -A PREROUTING ! -i v2 -d {pod} -j DROP"],
        undoes: &["{tables} -t raw -D PREROUTING ! -i v2 -d {pod} -j DROP"],
    },
];

impl Act {
    fn run(site: &Site, lines: &[&str]) {
        let node = site.space(NODE);
        for line in lines {
            for v6 in [false, true] {
                let bits = if v6 { 128 } else { 32 };
                let line = line
                    .replace("{ip}", if v6 { "ip -6" } else { "ip" })
                    .replace("{tables}", if v6 { "ip6tables" } else { "iptables" })
                    .replace("{all}", "default")
                    .replace("{lan}", if v6 { "fd00:77::/64" } else { "192.168.77.0/24" })
                    .replace("{out}", &Party::Outside.address(v6).to_string())
                    .replace("{pod}", &format!("{}/{bits}", BESIDE.address(v6)));
                node.run(&line).unwrap();
            }
        }
    }
}

/// Every kind of question to node 1, and none of them unanswered.
fn assert_served(site: &Site, node_ports: bool, when: &str) {
    let beside = Service::of(BESIDE, PORT, Policy::Cluster);
    for v6 in [false, true] {
        let mut asks: Vec<(Party, SocketAddr)> = [HERE, NODE]
            .into_iter()
            .flat_map(|client| [BESIDE, THERE, NODE].map(|server| (client, server.service(v6))))
            .collect();
        if node_ports {
            let at = beside.at(Way::NodePort(1), v6);
            asks.extend([HERE, NODE, Party::Outside].map(|client| (client, at)));
        }
        // The node's own addresses stay its own.
        asks.push((NODE, SocketAddr::new(NODE.address(v6), PORT)));
        asks.push((HERE, SocketAddr::new(NODE.address(v6), PORT)));
        for (client, to) in asks {
            let space = site.space(client);
            let tcp = stream(space, to, LIMIT);
            assert!(tcp.is_ok(), "{when}: {client} > {to} TCP: {tcp:?}");
            let udp = datagram(space, to, 100, LIMIT);
            assert!(udp.is_ok(), "{when}: {client} > {to} UDP: {udp:?}");
        }
    }
}

/// Added while tunway runs, and there before it starts.
pub(crate) fn rules_of_others_do_no_harm() {
    for node_ports in [false, true] {
        let mut site = Site::new(Style::Routed);
        let node = site.space(NODE);
        node.ip("link add vpn0 type veth peer name vpn1").unwrap();
        node.ip("link set vpn0 up").unwrap();
        let more = if node_ports { services::configuration(1) } else { String::new() };
        if node_ports {
            site.offer(&services::manifests());
        }
        for before in [false, true] {
            for act in &ACTS {
                if before {
                    Act::run(&site, act.does);
                }
                site.start(1, &more);
                site.wait_until_ready(1);
                // What is served at the node's own addresses follows readiness.
                if node_ports {
                    let at = Service::of(BESIDE, PORT, Policy::Cluster).at(Way::NodePort(1), false);
                    let outside = site.space(Party::Outside);
                    wait_for("node ports", PATIENCE, || before || datagram(outside, at, 100, SHORT).is_ok());
                }
                if !before {
                    Act::run(&site, act.does);
                }
                let order = if before { "before the start" } else { "after it" };
                assert_served(&site, node_ports, &format!("{} {order}, node ports {node_ports}", act.name));
                site.kill(1);
                Act::run(&site, act.undoes);
            }
        }
    }
}

/// From one port of a pod to an endpoint directly and by a Service whose port is the endpoint's, in both orders: each
/// is answered by whom it asked.
pub(crate) fn one_tuple_directly_and_by_the_service() {
    let mut site = Site::new(Style::Routed);
    site.offer(&same_port_manifest());
    site.start(1, "");
    site.wait_until_ready(1);
    let space = site.space(HERE);
    for v6 in [false, true] {
        let direct = SocketAddr::new(BESIDE.address(v6), PORT);
        let by_service = SocketAddr::new(same_port_address(v6), PORT);
        for (round, order) in [[direct, by_service], [by_service, direct]].into_iter().enumerate() {
            let from = SocketAddr::new(HERE.address(v6), 40_000 + u16::try_from(round).unwrap());
            // A connected socket takes answers of nobody else.
            let open = order.map(|to| connect_from_reused(&site, from, to));
            for (to, connection) in order.into_iter().zip(open) {
                let seen = exchange(connection).unwrap_or_else(|error| panic!("{from} > {to} TCP: {error}"));
                assert_eq!(seen, HERE.address(v6), "{from} > {to}");
            }
            for to in [order, order].concat() {
                let seen = datagram_from(space, from, to, 100, LIMIT);
                assert_eq!(seen.unwrap(), HERE.address(v6), "{from} > {to} UDP");
            }
        }
    }
}

/// A client that a policy's chain denies stays denied for Services, and another one is served, on a host that drops
/// what nobody accepts.
pub(crate) fn a_denied_client_stays_denied() {
    let mut site = Site::new(Style::Routed);
    let node = site.space(NODE);
    for (tools, v6) in [("iptables", false), ("ip6tables", true)] {
        let (denied, pod) = (HERE.address(v6), BESIDE.address(v6));
        for rule in [
            "-N POLICY".to_owned(),
            "-A FORWARD -j POLICY".to_owned(),
            format!("-A POLICY -s {denied} -d {pod} -j REJECT"),
            "-A POLICY -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT".to_owned(),
            "-P FORWARD DROP".to_owned(),
        ] {
            node.run(&format!("{tools} {rule}")).unwrap();
        }
    }
    site.start(1, "forwardAccept: true\n");
    site.wait_until_ready(1);
    for v6 in [false, true] {
        let to = BESIDE.service(v6);
        let refused = stream(site.space(HERE), to, LIMIT).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "the policy's answer comes through");
        assert_eq!(stream(site.space(Party::Outside), to, LIMIT).unwrap(), NODE.address(v6));
    }
}

fn connect_from_reused(site: &Site, from: SocketAddr, to: SocketAddr) -> std::net::TcpStream {
    connect_from(site.space(HERE), from, to, PATIENCE)
        .unwrap_or_else(|error| panic!("{from} > {to}: {error}"))
}

fn same_port_address(v6: bool) -> IpAddr {
    if v6 { "fd00:96::77" } else { "10.96.0.77" }.parse().unwrap()
}

fn same_port_manifest() -> String {
    let [v4, v6] = [false, true].map(same_port_address);
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: same, namespace: default}}\nspec:\n  \
         clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n  ipFamilies: [IPv4, IPv6]\n  ports:\n  \
         - {{name: tcp, protocol: TCP, port: {PORT}}}\n  - {{name: udp, protocol: UDP, port: {PORT}}}\n"
    );
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        text += &services::slice("same", family, 1, SocketAddr::new(BESIDE.address(v6), PORT));
    }
    text
}

/// An answer takes milliseconds; what is lost is lost for good.
const LIMIT: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(300);
