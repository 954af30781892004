//! What this host is, as far as the plan depends on it: links and addresses, and what follows from them (node
//! addresses, the MTU of the routes, which SNAT addresses cannot work). Pure, but for [`HostView::read`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use super::netlink::Netlink;
use super::rt::{Address, Family, Link, Prefix};
use crate::model::ip::contains;

/// Links, addresses and ways out of this host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostView {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Address>,
    /// Per family, the source the kernel picks where only a default route matches; `None` without such a route.
    pub(crate) default_source: [Option<IpAddr>; 2],
    /// Whether the kernel has IPv6 and has not been told to do without.
    pub(crate) ipv6: bool,
}

/// A bridge, and what hangs on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    /// As nft writes it: lower case, colons.
    pub(crate) mac: String,
    pub(crate) ports: Vec<String>,
}

impl HostView {
    /// Reads it. `ours` are the prefixes we attract: no probe may fall into them.
    pub(crate) fn read(netlink: &mut Netlink, device: &str, ours: &[Prefix]) -> io::Result<Self> {
        let links = netlink.links()?;
        let device_index = links.iter().find(|link| link.name == device).map(|link| link.index);
        let mut view = Self { links, addresses: netlink.addresses()?, ..Self::default() };
        view.ipv6 = ipv6_is_on();
        for (at, probes) in PROBES.iter().enumerate() {
            let probe = probes.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            let probe = probe.into_iter().find(|probe| !ours.iter().any(|prefix| contains(*prefix, *probe)));
            if let Some(probe) = probe
                && let Some((link, source)) = netlink.way_to(probe)?
                && Some(link) != device_index
            {
                view.default_source[at] = source;
            }
        }
        Ok(view)
    }

    /// The link of this name.
    pub(crate) fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The families tunway looks after here.
    pub(crate) fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| *family == Family::V4 || self.ipv6).collect()
    }

    /// Whether `address` is an address of this host.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// The address host processes are seen with: the source the kernel picks for its default route; without one, the
    /// first usable global address of the up device with the lowest index, one on loopback only if there is no
    /// other. `None` on a host without a global address: then the routes name no source.
    pub(crate) fn node_address(&self, family: Family, device: &str) -> Option<IpAddr> {
        let picked = self.default_source[if family == Family::V4 { 0 } else { 1 }];
        picked.filter(|source| self.is_local(*source)).or_else(|| {
            let mut usable: Vec<(bool, u32, usize, IpAddr)> = Vec::new();
            for (order, own) in self.addresses.iter().enumerate() {
                let Some(link) = self.links.iter().find(|link| link.index == own.link) else { continue };
                if Family::of(own.address) == family
                    && own.is_usable_source()
                    && link.up
                    && link.name != device
                {
                    usable.push((link.loopback, link.index, order, own.address));
                }
            }
            usable.into_iter().min().map(|(.., address)| address)
        })
    }

    /// The MTU of our routes: the largest one of the up devices, loopback and ours left out. A larger one would make
    /// a host process's first large datagram fail, a smaller one would cut what the device passes on whole.
    pub(crate) fn route_mtu(&self, device: &str) -> u32 {
        let others = self.links.iter().filter(|link| link.up && !link.loopback && link.name != device);
        others.map(|link| link.mtu).max().unwrap_or(DEFAULT_MTU).clamp(IPV6_MIN_MTU, LARGEST_ROUTE_MTU)
    }

    /// The bridges of this host, by name, with the ports they have now.
    pub(crate) fn bridges(&self) -> Vec<Bridge> {
        let bridges = self.links.iter().filter(|link| link.kind == "bridge" && !link.mac.is_empty());
        let mut bridges: Vec<Bridge> = bridges
            .map(|bridge| {
                let ports = self.links.iter().filter(|link| link.master == Some(bridge.index));
                let mut ports: Vec<String> = ports.map(|link| link.name.clone()).collect();
                ports.sort();
                Bridge { name: bridge.name.clone(), mac: bridge.mac.clone(), ports }
            })
            .collect();
        bridges.sort();
        bridges
    }

    /// Why `address` cannot be a SNAT address on this host; `None` when it can. One that is `private` to this host
    /// never reaches a wire, so nobody could ask for it there.
    pub(crate) fn snat_fault(
        &self,
        address: IpAddr,
        service_cidrs: &[Prefix],
        device: &str,
        private: bool,
    ) -> Option<String> {
        let special = match address {
            IpAddr::V4(v4) => {
                v4.is_unspecified()
                    || v4.is_loopback()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.octets()[0] == 0
            }
            IpAddr::V6(v6) => {
                v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()
            }
        };
        if special {
            return Some("is not a unicast address packets can be sent to".to_owned());
        }
        if let Some((cidr, length)) = service_cidrs.iter().find(|cidr| contains(**cidr, address)) {
            return Some(format!(
                "is inside the Service CIDR {cidr}/{length}: it would be taken for a Service"
            ));
        }
        let find = |fits: &dyn Fn(&Address, &str) -> bool| {
            self.addresses.iter().find_map(|own| {
                let link = self.links.iter().find(|link| link.index == own.link);
                let name = link.map_or("?", |link| link.name.as_str());
                fits(own, name).then(|| format!("{name} ({}/{})", own.address, own.prefix))
            })
        };
        if let Some(on) = find(&|own, _| own.address == address) {
            return Some(format!("is an address of {on}: the host would keep the replies"));
        }
        if let Some(on) = find(&|own, _| own.broadcast == Some(address)) {
            return Some(format!("is the broadcast address of {on}"));
        }
        let is_network = |own: &Address| own.prefix < Family::of(own.address).bits();
        if let Some(on) = find(&|own, name| {
            !private && name != device && is_network(own) && contains((own.address, own.prefix), address)
        }) {
            return Some(format!(
                "is on-link behind {on}: neighbours would ask for it by ARP or ND and get no answer"
            ));
        }
        None
    }

    /// Those of `vips` that are addresses of this host: routing cannot bring their packets to the device.
    pub(crate) fn local_among(&self, vips: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        let own: BTreeSet<IpAddr> = self.addresses.iter().map(|own| own.address).collect();
        vips.intersection(&own).copied().collect()
    }
}

impl Address {
    fn is_usable_source(&self) -> bool {
        use nix::libc::{
            IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TEMPORARY, IFA_F_TENTATIVE, RT_SCOPE_UNIVERSE,
        };
        // IPv4's IFA_F_SECONDARY has IFA_F_TEMPORARY's bit, and is not a first choice either.
        let unfit = IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TEMPORARY | IFA_F_TENTATIVE;
        self.scope == RT_SCOPE_UNIVERSE && self.flags & unfit == 0
    }
}

/// Whether this kernel, in this thread's namespace, does IPv6.
pub(crate) fn ipv6_is_on() -> bool {
    // Both by thread: /proc/net is the main thread's, /proc/sys/net the reader's own.
    fs::exists("/proc/thread-self/net/if_inet6").unwrap_or(false)
        && fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6")
            .is_ok_and(|value| value.trim() == "0")
}

/// Destinations that only a default route matches (documentation and discard-only prefixes, RFC 5737, 3849, 6666):
/// a question to the kernel, nothing is ever sent there. The first outside our own prefixes is asked for.
const PROBES: [[&str; 3]; 2] =
    [["192.0.2.1", "198.51.100.1", "203.0.113.1"], ["2001:db8::1", "100::1", "2001:db8:ffff::1"]];
/// What a host without any device of its own gets.
const DEFAULT_MTU: u32 = 1500;
/// RFC 8200 §5: no IPv6 link has less.
const IPV6_MIN_MTU: u32 = 1280;
/// `ip_metrics_convert` cuts an `mtu` metric to this without a word; asking for more would never compare equal.
const LARGEST_ROUTE_MTU: u32 = 65_535 - 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_routes_source_is_the_node_address_while_the_host_has_it() {
        let mut view = sample();
        assert_eq!(
            view.node_address(Family::V4, "tunway0"),
            Some(ip("10.0.0.5")),
            "no default route: lowest index"
        );
        view.default_source[0] = Some(ip("192.168.7.2"));
        assert_eq!(view.node_address(Family::V4, "tunway0"), Some(ip("192.168.7.2")));
        view.default_source[0] = Some(ip("192.168.7.9"));
        assert_eq!(
            view.node_address(Family::V4, "tunway0"),
            Some(ip("10.0.0.5")),
            "a dead source is no source"
        );
        assert_eq!(
            view.node_address(Family::V6, "tunway0"),
            Some(ip("fd00::5")),
            "neither link-local nor tentative"
        );
        view.addresses.retain(|own| own.link == 1);
        assert_eq!(
            view.node_address(Family::V4, "tunway0"),
            Some(ip("203.0.113.7")),
            "loopback's as a last resort"
        );
        view.addresses.clear();
        assert_eq!(view.node_address(Family::V4, "tunway0"), None);
    }

    #[test]
    fn the_mtu_is_the_largest_of_the_others() {
        let mut view = sample();
        assert_eq!(view.route_mtu("tunway0"), 9000);
        view.links.retain(|link| link.name != "eth1");
        assert_eq!(view.route_mtu("tunway0"), 1500);
        assert_eq!(view.route_mtu("eth0"), LARGEST_ROUTE_MTU, "the kernel cuts what is larger");
        view.links.clear();
        assert_eq!(view.route_mtu("tunway0"), 1500);
    }

    #[test]
    fn snat_addresses_that_cannot_work_are_named() {
        let view = sample();
        let cidrs = [(ip("10.96.0.0"), 12), (ip("fd00:96::"), 108)];
        let fault = |text: &str| view.snat_fault(ip(text), &cidrs, "tunway0", false).unwrap_or_default();
        for (address, because) in [
            ("10.96.3.4", "Service CIDR 10.96.0.0/12"),
            ("fd00:96::9", "Service CIDR fd00:96::/108"),
            ("10.0.0.5", "is an address of eth0"),
            ("10.0.0.255", "broadcast"),
            ("10.0.0.77", "on-link behind eth0"),
            ("192.168.7.254", "on-link behind eth1"),
            ("fd00::77", "on-link behind eth0"),
            ("127.0.0.9", "unicast"),
            ("224.0.0.9", "unicast"),
            ("255.255.255.255", "unicast"),
            ("0.0.0.0", "unicast"),
            ("fe80::1", "unicast"),
            ("ff02::1", "unicast"),
            ("::1", "unicast"),
        ] {
            assert!(fault(address).contains(because), "{address}: {}", fault(address));
        }
        for fine in ["169.254.77.1", "10.200.0.1", "fd00:fffe:77::1"] {
            assert_eq!(fault(fine), "", "{fine}");
        }
        let private = |text: &str| view.snat_fault(ip(text), &cidrs, "tunway0", true);
        assert_eq!(private("10.0.0.77"), None, "no neighbour ever sees it");
        assert!(private("10.0.0.5").is_some() && private("10.0.0.255").is_some());
    }

    #[test]
    fn bridges_are_found_with_their_ports() {
        let mut view = sample();
        assert_eq!(view.bridges(), []);
        let link = |index, name: &str, kind: &str, master| Link {
            index,
            name: name.into(),
            kind: kind.into(),
            mac: format!("02:00:00:00:00:0{index}"),
            master,
            ..Link::default()
        };
        view.links.extend([link(9, "docker0", "bridge", None), link(8, "cni0", "bridge", None)]);
        view.links.extend([link(7, "vb", "veth", Some(8)), link(6, "va", "veth", Some(8))]);
        let [cni, docker] = view.bridges().try_into().unwrap();
        assert_eq!((cni.name.as_str(), cni.mac.as_str()), ("cni0", "02:00:00:00:00:08"));
        assert_eq!((cni.ports, docker.ports), (vec!["va".into(), "vb".into()], vec![]));
    }

    fn sample() -> HostView {
        let link =
            |index, name: &str, mtu| Link { index, name: name.into(), up: true, mtu, ..Link::default() };
        let mut links = vec![link(1, "lo", 65_536), link(2, "eth0", 1500), link(3, "eth1", 9000)];
        links.extend([link(4, "tunway0", 65_535), Link { up: false, ..link(5, "eth2", 16_000) }]);
        links[0].loopback = true;
        let own = |link, text: &str, prefix, scope, flags| {
            let broadcast = (text == "10.0.0.5").then(|| ip("10.0.0.255"));
            Address { link, address: ip(text), prefix, scope, flags, broadcast }
        };
        let addresses = vec![
            own(1, "127.0.0.1", 8, 254, 0x80),
            own(1, "203.0.113.7", 32, 0, 0x80),
            own(2, "10.0.0.6", 24, 0, 0x81),
            own(2, "10.0.0.5", 24, 0, 0x80),
            own(3, "192.168.7.2", 24, 0, 0x80),
            own(4, "169.254.77.2", 32, 254, 0x80),
            own(5, "172.16.0.1", 24, 0, 0x80),
            own(2, "fe80::5", 64, 253, 0x80),
            own(2, "fd00::4", 64, 0, 0xc0),
            own(2, "fd00::5", 64, 0, 0x80),
        ];
        HostView { links, addresses, default_source: [None; 2], ipv6: true }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
