//! Kernel NAT with kube-proxy's rules (nftables mode, `detectLocalMode: ClusterCIDR`), as far as they decide whom a
//! server sees: what tunway is compared with.

use std::fmt::Write as _;

use crate::services::{Policy, Service, Way, all};
use crate::site::{Party, Site, Style};

/// "To be masqueraded", in packets' marks. kube-proxy's own bit is one the hostile host drops.
const MARK: &str = "0x40000";
const TABLE: &str = "reference";
/// The kernel's FORWARD chain lets pass what is masqueraded, as KUBE-FORWARD does.
const FORWARD: &str = "FORWARD -m mark --mark 0x40000/0x40000 -j ACCEPT";

/// Writes the rules on both nodes.
pub(crate) fn install(site: &Site) {
    for node in [1, 2] {
        let space = site.space(Party::Node(node));
        space.nft(&[false, true].map(|v6| table(node, v6)).concat()).unwrap();
        if site.style == Style::Hostile {
            for tool in ["iptables", "ip6tables"] {
                space.run(&format!("{tool} -I {FORWARD}")).unwrap();
            }
        }
    }
}

/// Takes them away, with every connection made by them.
pub(crate) fn remove(site: &Site) {
    for node in [1, 2] {
        let space = site.space(Party::Node(node));
        for family in ["ip", "ip6"] {
            space.run(&format!("nft delete table {family} {TABLE}")).unwrap();
        }
        if site.style == Style::Hostile {
            for tool in ["iptables", "ip6tables"] {
                space.run(&format!("{tool} -D {FORWARD}")).unwrap();
            }
        }
        for family in ["ipv4", "ipv6"] {
            space.run(&format!("conntrack -F -f {family}")).unwrap();
        }
    }
}

/// A node's rules of one family.
fn table(node: u8, v6: bool) -> String {
    let (ip, pods) = if v6 { ("ip6", "fd00:244::/32") } else { ("ip", "10.244.0.0/16") };
    let (mut dispatch, mut chains, mut gaps, mut hairpins) = Default::default();
    for service in all() {
        let name = service.name();
        let to = |way| {
            let at = service.at(way, v6);
            format!("{ip} daddr {} {PORTS} th dport {}", at.ip(), at.port())
        };
        let cluster = to(Way::ClusterIp);
        line(&mut dispatch, format!("{cluster} {ip} saddr != {pods} {SET}"));
        line(&mut dispatch, format!("{cluster} goto {name}"));
        line(&mut chains, format!("chain {name} {{ {PORTS} dnat to {}\n }}", service.endpoint(v6)));
        let here = service.server.node() == node;
        for outer in [Way::ExternalIp, Way::Ingress, Way::NodePort(node)].map(to) {
            line(&mut dispatch, format!("{outer} goto {name}-outer"));
            if service.policy == Policy::Local && !here {
                line(&mut gaps, format!("ct state new {outer} drop"));
            }
        }
        line(&mut chains, outer_chain(service, here, &format!("{ip} saddr {pods}")));
        if here {
            let itself = service.endpoint(v6).ip();
            line(
                &mut hairpins,
                format!("ct status dnat {ip} saddr {itself} {ip} daddr {itself} masquerade fully-random"),
            );
        }
    }
    format!(
        "table {ip} {TABLE} {{\n{chains}\n\
         chain services {{\n{dispatch} }}\n\
         chain gaps {{\n{gaps} }}\n\
         chain pre {{ type nat hook prerouting priority dstnat; jump services\n }}\n\
         chain out {{ type nat hook output priority -100; jump services\n }}\n\
         chain in-gaps {{ type filter hook input priority 0; jump gaps\n }}\n\
         chain on-gaps {{ type filter hook forward priority 0; jump gaps\n }}\n\
         chain post {{ type nat hook postrouting priority srcnat - 1;\n\
         meta mark and {MARK} == {MARK} meta mark set meta mark xor {MARK} masquerade fully-random\n\
         {hairpins} }}\n}}\n"
    )
}

/// Where an address of the outside leads to.
fn outer_chain(service: Service, here: bool, from_pods: &str) -> String {
    let name = service.name();
    let rules = match (service.policy, here) {
        (Policy::Cluster, _) => format!("{SET}\ngoto {name}"),
        (Policy::Local, here) => {
            let local = if here { format!("\ngoto {name}") } else { String::new() };
            format!("{from_pods} goto {name}\nfib saddr type local {SET} goto {name}{local}")
        }
    };
    format!("chain {name}-outer {{\n{rules}\n}}")
}

fn line(text: &mut String, line: String) {
    let _ = writeln!(text, "{line}");
}

/// Every protocol a Service of the site has.
const PORTS: &str = "meta l4proto { tcp, udp }";
/// The mark, set.
const SET: &str = "meta mark set meta mark or 0x40000";
