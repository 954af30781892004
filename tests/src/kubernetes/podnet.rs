//! How pods are attached to a node: a routed veth each, or a port of one bridge; addresses from the node's pod CIDRs.
//!
//! Neighbours are written down wherever they are known, and no address waits for duplicate detection: a pod can talk
//! as soon as it is attached.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use super::PodNet;
use crate::netns::{Namespace, enter, ip_lines};

/// The node's end of every routed pod's link; the pod's gateway answers from here.
const NODE_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// Addresses of pods within the node's range: `.2` to `.250`.
const HOSTS: std::ops::RangeInclusive<u8> = 2..=250;

/// The pods' network of one node.
#[derive(Debug)]
pub struct PodNetwork {
    node: String,
    style: PodNet,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    taken: Mutex<Taken>,
    links: AtomicU32,
}

#[derive(Debug)]
struct Taken {
    hosts: BTreeSet<u8>,
    /// The last one given: an address is used again as late as possible.
    last: u8,
}

/// The node's end of a pod's link.
#[derive(Debug)]
pub struct Link {
    name: String,
}

/// A pod's address in both families, its own until given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    host: u8,
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Link {
    /// The node's end.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Addresses {
    /// As the pod's status has them.
    #[must_use]
    pub fn both(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Known to the node without asking.
    fn mac(&self) -> String {
        let [a, b, c, d] = self.v4.octets();
        format!("0a:58:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }
}

impl PodNetwork {
    /// Prepares a node (its namespace's name) for pods of these CIDRs, a /24 and a /64 as `node.spec.podCIDRs` has them.
    ///
    /// # Errors
    /// A CIDR is missing or of another size, or `ip` refuses something.
    pub fn set_up(node: &str, style: PodNet, cidrs: &[&str]) -> io::Result<Self> {
        let base = |wanted: &str| {
            let found = cidrs.iter().find_map(|cidr| cidr.strip_suffix(wanted)?.parse::<IpAddr>().ok());
            found.ok_or_else(|| io::Error::other(format!("pod CIDRs {cidrs:?}: a {wanted} is needed")))
        };
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (base("/24")?, base("/64")?) else {
            return Err(io::Error::other(format!("pod CIDRs {cidrs:?}: families are mixed up")));
        };
        let taken = Mutex::new(Taken { hosts: BTreeSet::new(), last: *HOSTS.start() });
        let network = Self { node: node.to_owned(), style, v4, v6, taken, links: AtomicU32::new(0) };
        if style == PodNet::Bridged {
            let gateway = network.addresses(1);
            ip_lines(
                node,
                &format!(
                    "link add cni0 address {} type bridge forward_delay 0\nlink set cni0 up\n\
                     addr add {}/24 dev cni0\naddr add {}/64 dev cni0 nodad\n",
                    gateway.mac(),
                    gateway.v4,
                    gateway.v6
                ),
            )?;
            // Pods of one bridge answer each other below the IP layer; a proxy on this node has to see that.
            for family in ["iptables", "ip6tables"] {
                sysctl(node, &format!("net/bridge/bridge-nf-call-{family}"), "1")?;
            }
        }
        Ok(network)
    }

    /// Its CIDRs, as a route's destination.
    #[must_use]
    pub fn ranges(&self) -> [String; 2] {
        [format!("{}/24", self.v4), format!("{}/64", self.v6)]
    }

    /// Addresses nobody has; the longest unused come first.
    ///
    /// # Errors
    /// All are taken.
    pub fn take(&self) -> io::Result<Addresses> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let after = (taken.last + 1..=*HOSTS.end()).chain(*HOSTS.start()..=taken.last);
        let host = after.into_iter().find(|host| !taken.hosts.contains(host));
        let host = host.ok_or_else(|| io::Error::other(format!("{}: no pod address is free", self.node)))?;
        taken.hosts.insert(host);
        taken.last = host;
        Ok(self.addresses(host))
    }

    /// Gives them back.
    pub fn give_back(&self, addresses: Addresses) {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).hosts.remove(&addresses.host);
    }

    /// Gives a pod's namespace an `eth0` with these addresses, joined to the node.
    ///
    /// # Errors
    /// `ip` refuses something.
    pub fn attach(&self, pod: &Namespace, own: Addresses) -> io::Result<Link> {
        let link = format!("v{}", self.links.fetch_add(1, Ordering::Relaxed));
        // Link-local addresses that wait for their duplicates would be the first a neighbour is asked from.
        sysctl(pod.name(), "net/ipv6/conf/default/accept_dad", "0")?;
        sysctl(pod.name(), "net/ipv6/conf/default/accept_ra", "0")?;
        let (mac, gateway) = (own.mac(), self.addresses(1));
        let (Addresses { v4, v6, .. }, name) = (own, pod.name());
        match self.style {
            PodNet::Routed => {
                ip_lines(
                    &self.node,
                    &format!(
                        "link add {link} address {NODE_MAC} type veth peer name eth0 address {mac} netns {name}\n\
                         link set {link} up\n\
                         neigh add {v4} lladdr {mac} dev {link} nud permanent\n\
                         neigh add {v6} lladdr {mac} dev {link} nud permanent\n\
                         route add {v4}/32 dev {link} scope link\nroute add {v6}/128 dev {link}\n"
                    ),
                )?;
                ip_lines(
                    name,
                    &format!(
                        "link set eth0 up\naddr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\n\
                         neigh add 169.254.1.1 lladdr {NODE_MAC} dev eth0 nud permanent\n\
                         neigh add fe80::1 lladdr {NODE_MAC} dev eth0 nud permanent\n\
                         route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
                         route add default via fe80::1 dev eth0\n"
                    ),
                )?;
            }
            PodNet::Bridged => {
                ip_lines(
                    &self.node,
                    &format!(
                        "link add {link} type veth peer name eth0 address {mac} netns {name}\n\
                         link set {link} master cni0 up\n\
                         link set {link} type bridge_slave hairpin on\n"
                    ),
                )?;
                ip_lines(
                    name,
                    &format!(
                        "link set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
                         route add default via {} dev eth0\nroute add default via {} dev eth0\n",
                        gateway.v4, gateway.v6
                    ),
                )?;
            }
        }
        Ok(Link { name: link })
    }

    /// Takes a pod from the node; what has its routes has them no more.
    pub fn detach(&self, link: &Link) {
        // Without its namespace it is gone already.
        let _ = ip_lines(&self.node, &format!("link del {}\n", link.name));
    }

    fn addresses(&self, host: u8) -> Addresses {
        let [a, b, c, _] = self.v4.octets();
        let mut segments = self.v6.segments();
        segments[7] = host.into();
        Addresses { host, v4: Ipv4Addr::new(a, b, c, host), v6: segments.into() }
    }
}

fn sysctl(namespace: &str, key: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{key}");
    enter(namespace, || fs::write(&path, value))?
        .map_err(|error| io::Error::other(format!("{namespace}: {path} = {value}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> PodNetwork {
        PodNetwork::set_up("none", PodNet::Routed, &["10.244.3.0/24", "fd00:244:0:3::/64"]).unwrap()
    }

    #[test]
    fn addresses_are_given_once_and_used_again_late() {
        let network = network();
        let first = network.take().unwrap();
        assert_eq!(first.both().map(|ip| ip.to_string()), ["10.244.3.3", "fd00:244:0:3::3"]);
        network.give_back(first);
        let mut given = BTreeSet::new();
        for _ in HOSTS {
            assert!(given.insert(network.take().unwrap().v4));
        }
        assert!(network.take().is_err(), "all are taken");
        network.give_back(first);
        assert_eq!(network.take().unwrap(), first);
    }

    #[test]
    fn cidrs_of_both_families_are_needed() {
        for bad in [&["10.244.3.0/24"][..], &["fd00::/64"], &["10.244.0.0/16", "fd00::/64"], &[]] {
            assert!(PodNetwork::set_up("none", PodNet::Routed, bad).is_err(), "{bad:?}");
        }
    }
}
