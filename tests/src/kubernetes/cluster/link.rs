//! The link between the hub and the nodes: a bridge in the hub, which has the hub's addresses.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Node, PodNet};
use crate::kubernetes::control_plane::{ADDRESSES, PORT};
use crate::netns::Namespace;

/// Puts the bridge into the hub.
pub(super) fn hub(hub: &Namespace) -> io::Result<()> {
    hub.ip("link add lan type bridge")?;
    hub.ip("link set lan up")?;
    hub.sysctl("net.ipv4.ip_forward", "1")?;
    hub.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    hub.ip(&format!("addr add {}/24 dev lan", ADDRESSES[0]))?;
    hub.ip(&format!("addr add {}/64 dev lan nodad", ADDRESSES[1])).map(drop)
}

/// Makes node `index` on it.
pub(super) fn node(hub: &Namespace, index: usize, pods: PodNet) -> io::Result<Node> {
    let name = format!("n{}", index + 1);
    let host = u8::try_from(index + 2).map_err(io::Error::other)?;
    let v4 = Ipv4Addr::new(192, 168, 77, host);
    let v6 = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, host.into());
    let namespace = Namespace::new(&name)?;
    namespace.veth("eth0", hub, &name, 1500)?;
    hub.ip(&format!("link set {name} master lan"))?;
    namespace.ip(&format!("addr add {v4}/24 dev eth0"))?;
    namespace.ip(&format!("addr add {v6}/64 dev eth0 nodad"))?;
    for (family, via) in ["-4", "-6"].into_iter().zip(ADDRESSES) {
        namespace.ip(&format!("{family} route add default via {via}"))?;
    }
    namespace.sysctl("net.ipv4.ip_forward", "1")?;
    namespace.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    Ok(Node { name, namespace, v4, v6, pods })
}

/// Drops what the node's own processes and the API server send each other.
pub(super) fn cut(node: &Node) -> io::Result<()> {
    let [v4, v6] = ADDRESSES;
    let mut rules = String::new();
    for (hook, side, port) in [("input", "saddr", "sport"), ("output", "daddr", "dport")] {
        rules += &format!(
            "chain {hook} {{ type filter hook {hook} priority raw;\n\
             ip {side} {v4} tcp {port} {PORT} drop\n ip6 {side} {v6} tcp {port} {PORT} drop\n }}\n"
        );
    }
    node.namespace.nft(&format!("table inet cut {{\n{rules}}}\n"))
}

/// Ends that.
pub(super) fn mend(node: &Node) -> io::Result<()> {
    node.namespace.nft("delete table inet cut\n")
}
