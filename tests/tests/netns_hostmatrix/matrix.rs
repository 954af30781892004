//! The table: every way, every kind of traffic, both families.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tests::netns::wait_for;

use crate::site::{PATIENCE, Party, Site, Style};
use crate::traffic::{datagram, stream};

/// The source a server must see.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The client's own.
    Kept,
    /// A node's address.
    Node(u8),
    /// The address node 1 has where its pods are: the bridge's, or its only one.
    TowardsPods,
}

#[derive(Clone, Copy, Debug)]
enum Traffic {
    Stream,
    Datagram,
    Fragments,
}

const PODS: [Party; 3] = [Party::Pod(1, 1), Party::Pod(1, 2), Party::Pod(2, 2)];

/// Way, client, server, and what kube-proxy's rules make the server see.
const WAYS: [(&str, Party, Party, Source); 14] = [
    ("pod > pod of its node", PODS[0], PODS[1], Source::Kept),
    ("pod > pod of the other node", PODS[0], PODS[2], Source::Kept),
    ("pod > its own node", PODS[0], Party::Node(1), Source::Kept),
    ("pod > the other node", PODS[0], Party::Node(2), Source::Kept),
    ("pod > itself", PODS[0], PODS[0], Source::TowardsPods),
    ("node > pod of its own", Party::Node(1), PODS[1], Source::TowardsPods),
    ("node > pod of the other node", Party::Node(1), PODS[2], Source::Node(1)),
    ("node > itself", Party::Node(1), Party::Node(1), Source::Node(1)),
    ("node > the other node", Party::Node(1), Party::Node(2), Source::Node(1)),
    ("other node > pod here", Party::Node(2), PODS[1], Source::Node(2)),
    ("outside > pod here", Party::Outside, PODS[1], Source::TowardsPods),
    ("outside > pod of the other node", Party::Outside, PODS[2], Source::Node(1)),
    ("outside > the node", Party::Outside, Party::Node(1), Source::Kept),
    ("outside > the other node", Party::Outside, Party::Node(2), Source::Node(1)),
];

/// Pods routed one by one.
pub(crate) fn routed() {
    measure(&Site::serving(Style::Routed, ""), &WAYS);
}

/// Pods on a bridge.
pub(crate) fn bridged() {
    measure(&Site::serving(Style::Bridge, ""), &WAYS);
}

/// Strict reverse path checks on every device, a firewall that drops what it does not know, rules of others on marks
/// and sources, and a second bridge.
pub(crate) fn strict() {
    let mut site = Site::new(Style::Bridge);
    for node in [1, 2] {
        let space = site.space(Party::Node(node));
        // A second bridge: from now on they have to be told apart.
        space.ip("link add docker0 type bridge").unwrap();
        space.ip("link add other type veth peer name other1").unwrap();
        for change in ["other master docker0", "other up", "other1 up", "docker0 up"] {
            space.ip(&format!("link set {change}")).unwrap();
        }
        for device in ["all", "default", "eth0", "cni0", "v1", "v2"] {
            space.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "1").unwrap();
        }
        for rule in [
            "-P FORWARD DROP",
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            "-t mangle -A PREROUTING -j MARK --set-xmark 0x8000/0x8000",
            "-t mangle -A FORWARD -m mark --mark 0x4000/0x4000 -j DROP",
        ] {
            space.run(&format!("iptables {rule}")).unwrap();
            space.run(&format!("ip6tables {rule}")).unwrap();
        }
        // Pods may talk among themselves, as a CNI plugin sees to; and are masqueraded on their way anywhere else, which
        // would rewrite what they send to Services, too.
        for (tool, pods) in [("iptables", "10.244.0.0/16"), ("ip6tables", "fd00:244::/32")] {
            space.run(&format!("{tool} -A FORWARD -s {pods} -j ACCEPT")).unwrap();
            space.run(&format!("{tool} -A FORWARD -d {pods} -j ACCEPT")).unwrap();
            space.run(&format!("{tool} -t nat -A POSTROUTING -s {pods} ! -d {pods} -j MASQUERADE")).unwrap();
        }
        site.start(node, "forwardAccept: true\n");
    }
    site.wait_until_ready(1);
    site.wait_until_ready(2);
    // The other node is "anywhere else": kube-proxy's server sees the node there, too.
    let ways = WAYS.map(|(way, client, server, source)| match (client, server) {
        (Party::Pod(..), Party::Node(2)) => (way, client, server, Source::Node(1)),
        _ => (way, client, server, source),
    });
    measure(&site, &ways);
}

/// The same table on a node whose bridge hides its packets from connection tracking: what needs the bridge rule fails,
/// and nothing else does; and tunway says why.
pub(crate) fn blind() {
    let site = Site::serving(Style::Bridge, "");
    for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        site.nodes[0].sysctl(&format!("net.bridge.{setting}"), "0").unwrap();
    }
    for v6 in [false, true] {
        let on_its_bridge = cell(&site, PODS[0], PODS[1], Traffic::Datagram, v6);
        assert_eq!(on_its_bridge.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let elsewhere = cell(&site, PODS[0], PODS[2], Traffic::Datagram, v6).unwrap();
        assert_eq!(elsewhere, PODS[0].address(v6));
    }
    let told = "net.bridge.bridge-nf-call-iptables";
    wait_for("tunway says it", PATIENCE, || site.log(1).contains(told));
    for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        site.nodes[0].sysctl(&format!("net.bridge.{setting}"), "1").unwrap();
    }
    assert_eq!(cell(&site, PODS[0], PODS[1], Traffic::Stream, false).unwrap(), PODS[0].address(false));
}

fn measure(site: &Site, ways: &[(&str, Party, Party, Source)]) {
    let (mut good, mut all, mut wrong) = (0, 0, Vec::new());
    println!("{:?}\n{:<32} {:<23} {:<23}", site.style, "", "IPv4: TCP  UDP  frag", "IPv6: TCP  UDP  frag");
    for &(way, client, server, source) in ways {
        let mut line = format!("{way:<32}");
        for v6 in [false, true] {
            line += "      ";
            for traffic in [Traffic::Stream, Traffic::Datagram, Traffic::Fragments] {
                let wanted = wanted(site, client, source, v6);
                let outcome = cell(site, client, server, traffic, v6);
                let fault = match outcome {
                    Ok(seen) if seen == wanted => None,
                    Ok(seen) => Some(format!("the server saw {seen}, not {wanted}")),
                    Err(error) => Some(error.to_string()),
                };
                all += 1;
                good += u32::from(fault.is_none());
                line += if fault.is_none() { "ok   " } else { "FAIL " };
                let family = if v6 { "IPv6" } else { "IPv4" };
                wrong.extend(fault.map(|fault| format!("{way}, {family} {traffic:?}: {fault}")));
            }
        }
        println!("{line}");
    }
    println!("measured: {good} of {all} cells");
    assert!(wrong.is_empty(), "{} cells fail:\n{}", wrong.len(), wrong.join("\n"));
    for node in [1, 2] {
        // Multicast of the kernel's own is the only thing that gets lost.
        let drops = site.counters(node).drops;
        let drops: Vec<_> =
            drops.iter().filter(|(why, count)| **count > 0 && *why != "not_unicast").collect();
        assert!(drops.is_empty(), "node {node} dropped {drops:?}");
    }
    site.assert_nothing_uncounted();
}

fn wanted(site: &Site, client: Party, source: Source, v6: bool) -> IpAddr {
    match source {
        Source::Kept => client.address(v6),
        Source::Node(node) => Party::Node(node).address(v6),
        Source::TowardsPods => match (site.style, v6) {
            (Style::Routed, _) => Party::Node(1).address(v6),
            (Style::Bridge, false) => [10, 244, 1, 1].into(),
            (Style::Bridge, true) => [0xfd00, 0x244, 1, 0, 0, 0, 0, 1].into(),
        },
    }
}

fn cell(site: &Site, client: Party, server: Party, traffic: Traffic, v6: bool) -> io::Result<IpAddr> {
    let (space, to) = (site.space(client), server.service(v6));
    match traffic {
        Traffic::Stream => stream(space, to, LIMIT),
        Traffic::Datagram => datagram(space, to, 100, LIMIT),
        Traffic::Fragments => datagram(space, to, 5_000, LIMIT),
    }
}

/// A cell takes some ten milliseconds; this is one that gets nothing.
const LIMIT: Duration = Duration::from_secs(2);
