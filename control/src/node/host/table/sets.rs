//! The sets of the table: addresses and ports of this host that are served. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Proto;
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
    let mut all = Vec::new();
    for (v6, [node, front, kept]) in
        [(false, ["node4", "front4", "kept4"]), (true, ["node6", "front6", "kept6"])]
    {
        let nodes =
            local.node_addresses.iter().filter(|addr| of(addr, v6)).map(|addr| octets(*addr)).collect();
        all.push(Set { name: node, key: vec![address(v6)], elements: nodes });
        all.push(Set { name: front, key: frontend(v6), elements: at(&local.frontends, v6) });
        all.push(Set { name: kept, key: frontend(v6), elements: at(&local.kept, v6) });
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
    match set {
        "node4" | "node6" => found.node_addresses.extend(addr(element)),
        "nodeports" => found.node_ports.extend(at(element)),
        "front4" | "front6" => found.frontends.extend(frontend(element)),
        "kept4" | "kept6" => found.kept.extend(frontend(element)),
        _ => {}
    }
}
