//! The sets of the table: addresses and ports of this host that are served. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::SvcPort;

use crate::nft::{KeyType, Set, octets};
use crate::node::LocalFrontends;

/// Names and members of the sets.
pub(super) fn sets(local: &LocalFrontends) -> Vec<Set> {
    let address = |v6| if v6 { KeyType::Ipv6Addr } else { KeyType::Ipv4Addr };
    let of = |addr: &IpAddr, v6: bool| addr.is_ipv6() == v6;
    let at = |all: &BTreeSet<(IpAddr, SvcPort)>, v6| {
        let members = all.iter().filter(|(addr, _)| of(addr, v6));
        members.map(|(addr, at)| [octets(*addr), port_key(*at)].concat()).collect()
    };
    let frontend = |v6| vec![address(v6), KeyType::InetProto, KeyType::InetService];
    let flow = |v6| [vec![address(v6), KeyType::InetService], frontend(v6)].concat();
    let mut all = Vec::new();
    for (v6, [node, front, kept]) in
        [(false, ["node4", "front4", "kept4"]), (true, ["node6", "front6", "kept6"])]
    {
        let nodes =
            local.node_addresses.iter().filter(|addr| of(addr, v6)).map(|addr| octets(*addr)).collect();
        all.push(Set { name: node, key: vec![address(v6)], elements: nodes });
        all.push(Set { name: front, key: frontend(v6), elements: at(&local.frontends, v6) });
        let flows = local.kept.iter().filter(|flow| of(&flow.dst, v6)).map(flow_key).collect();
        all.push(Set { name: kept, key: flow(v6), elements: flows });
    }
    let ports = local.node_ports.iter().map(|at| port_key(*at)).collect();
    all.push(Set { name: "nodeports", key: vec![KeyType::InetProto, KeyType::InetService], elements: ports });
    all
}

/// Protocol and port in a key: each four bytes.
fn port_key(at: SvcPort) -> Vec<u8> {
    let [high, low] = at.port.to_be_bytes();
    vec![at.proto as u8, 0, 0, 0, high, low, 0, 0]
}

/// Source, its port, destination, protocol, its port in a key.
fn flow_key(flow: &Tuple<IpAddr>) -> Vec<u8> {
    let [high, low] = flow.sport.to_be_bytes();
    let to = port_key(SvcPort { port: flow.dport, proto: flow.proto });
    [octets(flow.src), vec![high, low, 0, 0], octets(flow.dst), to].concat()
}

/// Puts an element of the set of this name where it belongs. What is none of ours is left out.
pub(super) fn read(set: &str, element: &[u8], found: &mut LocalFrontends) {
    let at = |key: &[u8]| {
        let [proto, _, _, _, high, low, _, _] = key else { return None };
        Some(SvcPort { proto: Proto::from_number(*proto)?, port: u16::from_be_bytes([*high, *low]) })
    };
    let addr = |key: &[u8]| -> Option<IpAddr> {
        let v4 = || <[u8; 4]>::try_from(key).ok().map(IpAddr::from);
        v4().or_else(|| <[u8; 16]>::try_from(key).ok().map(IpAddr::from))
    };
    let frontend = |key: &[u8]| {
        let (to, port) = key.split_at_checked(key.len().checked_sub(8)?)?;
        Some((addr(to)?, at(port)?))
    };
    let flow = |key: &[u8]| {
        let (from, rest) = key.split_at_checked(key.len().checked_sub(12)? / 2)?;
        let (sport, to) = rest.split_at_checked(4)?;
        let (dst, port) = frontend(to)?;
        let sport = u16::from_be_bytes([sport[0], sport[1]]);
        Some(Tuple { src: addr(from)?, dst, sport, dport: port.port, proto: port.proto })
    };
    match set {
        "node4" | "node6" => found.node_addresses.extend(addr(element)),
        "nodeports" => found.node_ports.extend(at(element)),
        "front4" | "front6" => found.frontends.extend(frontend(element)),
        "kept4" | "kept6" => found.kept.extend(flow(element)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let port = |port, proto| SvcPort { port, proto };
        let flow = |src: &str, dst: &str| Tuple {
            src: ip(src),
            dst: ip(dst),
            sport: 40_000,
            dport: 80,
            proto: Proto::Udp,
        };
        let local = LocalFrontends {
            node_addresses: [ip("10.1.0.1"), ip("fd00::1")].into(),
            node_ports: [port(30_080, Proto::Tcp), port(30_081, Proto::Sctp)].into(),
            frontends: [
                (ip("203.0.113.9"), port(443, Proto::Tcp)),
                (ip("fd00:203::9"), port(53, Proto::Udp)),
            ]
            .into(),
            kept: [flow("10.1.0.2", "203.0.113.10"), flow("fd00:1::2", "fd00:203::10")].into(),
        };
        let mut found = LocalFrontends::default();
        for set in sets(&local) {
            let len: usize = set.key.iter().map(|part| part.len()).sum();
            for element in &set.elements {
                assert_eq!(element.len(), len, "{}", set.name);
                read(set.name, element, &mut found);
                read(set.name, &element[..element.len() - 1], &mut LocalFrontends::default());
            }
        }
        assert_eq!(found, local);
    }
}
