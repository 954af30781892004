//! A host that makes it hard.

use crate::site::{Party, Site};

impl Site {
    /// On both nodes: strict reverse path checks on every device, a firewall that drops what it does not know, rules of
    /// others on marks and sources, and a second bridge; and ports that send back what came in by them.
    pub(crate) fn harden(&self) {
        for node in [1, 2] {
            let space = self.space(Party::Node(node));
            // A second bridge: from now on they have to be told apart.
            space.ip("link add docker0 type bridge").unwrap();
            space.ip("link add other type veth peer name other1").unwrap();
            for change in ["other master docker0", "other up", "other1 up", "docker0 up"] {
                space.ip(&format!("link set {change}")).unwrap();
            }
            for port in ["v1", "v2"] {
                space.ip(&format!("link set {port} type bridge_slave hairpin on")).unwrap();
            }
            // As wg-quick(8) sets it: the checks look at marks, too.
            space.sysctl("net.ipv4.conf.all.src_valid_mark", "1").unwrap();
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
            // Pods may talk among themselves, as a CNI plugin sees to; and are masqueraded on their way anywhere else,
            // which would rewrite what they send to Services, too.
            for (tool, pods) in [("iptables", "10.244.0.0/16"), ("ip6tables", "fd00:244::/32")] {
                space.run(&format!("{tool} -A FORWARD -s {pods} -j ACCEPT")).unwrap();
                space.run(&format!("{tool} -A FORWARD -d {pods} -j ACCEPT")).unwrap();
                space
                    .run(&format!("{tool} -t nat -A POSTROUTING -s {pods} ! -d {pods} -j MASQUERADE"))
                    .unwrap();
            }
        }
    }
}
