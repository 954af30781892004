//! From a destination to what it is: the map of virtual addresses, the node ports, and the prefixes of the Service CIDRs.
//!
//! One hash of the address answers both questions of a first packet, "whose frontend is it" and "is the address
//! alive at all", so a wrong port of a live address costs no second look-up.

use std::net::IpAddr;
use std::sync::Arc;

use super::chunked::{ChunkKey, Chunked, spread};
use super::{FrontendKind, Service, SvcPort};
use crate::ids::ServiceId;
use crate::packet::tuple::Family;

impl ChunkKey for IpAddr {
    fn spread(self) -> u64 {
        match self {
            Self::V4(addr) => spread(4, u64::from(addr.to_bits())),
            Self::V6(addr) => {
                let [a, b, c, d, e, f, g, h] = addr.segments().map(u64::from);
                spread((a << 48) | (b << 32) | (c << 16) | d, (e << 48) | (f << 32) | (g << 16) | h)
            }
        }
    }
}

impl ChunkKey for ServiceId {
    fn spread(self) -> u64 {
        spread(0, u64::from(self.0))
    }
}

/// The service ports of one virtual address, ascending by port and protocol. Never empty inside a map.
#[derive(Clone, Debug, Default)]
pub(super) struct Vip(Arc<[(SvcPort, FrontendKind, Arc<Service>)]>);

impl Vip {
    /// The service port on this port, and what the address is to it.
    pub(super) fn port(&self, port: SvcPort) -> Option<(FrontendKind, &Arc<Service>)> {
        let found = self.0.binary_search_by_key(&port, |(port, ..)| *port).ok()?;
        self.0.get(found).map(|(_, kind, service)| (*kind, service))
    }

    /// It is the ClusterIP of one of them.
    pub(super) fn has_cluster_ip(&self) -> bool {
        self.0.iter().any(|(_, kind, _)| *kind == FrontendKind::ClusterIp)
    }
}

/// Every virtual address with its service ports.
#[derive(Clone, Debug)]
pub(super) struct Vips(Chunked<IpAddr, Vip>);

impl Vips {
    pub(super) fn new() -> Self {
        Self(Chunked::new())
    }

    pub(super) fn get(&self, addr: IpAddr) -> Option<&Vip> {
        self.0.get(addr)
    }

    /// Adds a service port at all its addresses; the address another one holds already, if any, is returned with it.
    pub(super) fn insert(&mut self, service: &Arc<Service>) -> Result<(), (IpAddr, Arc<Service>)> {
        let port = service.port;
        for frontend in &service.frontends {
            let mut ports = self.get(frontend.addr).map_or_else(Vec::new, |vip| vip.0.to_vec());
            match ports.binary_search_by_key(&port, |(port, ..)| *port) {
                Ok(holder) => return Err((frontend.addr, Arc::clone(&ports[holder].2))),
                Err(free) => ports.insert(free, (port, frontend.kind, Arc::clone(service))),
            }
            self.0.insert(frontend.addr, Vip(ports.into()));
        }
        Ok(())
    }

    /// Takes a service port out; an address goes with its last one.
    pub(super) fn remove(&mut self, service: &Service) {
        for frontend in &service.frontends {
            let Some(vip) = self.get(frontend.addr) else { continue };
            let others = vip.0.iter().filter(|(port, ..)| *port != service.port);
            let ports: Arc<[_]> = others.map(Clone::clone).collect();
            if ports.is_empty() {
                self.0.remove(frontend.addr);
            } else {
                self.0.insert(frontend.addr, Vip(ports));
            }
        }
    }

    #[cfg(test)]
    pub(super) fn copied_since(&self, other: &Self) -> usize {
        self.0.copied_since(&other.0)
    }
}

/// A node port of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NodePort {
    family: Family,
    port: SvcPort,
}

impl ChunkKey for NodePort {
    fn spread(self) -> u64 {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        spread(family, u64::from(self.port.port) << 8 | self.port.proto as u64)
    }
}

/// Every node port with its service port.
#[derive(Clone, Debug)]
pub(super) struct NodePorts(Chunked<NodePort, Arc<Service>>);

impl NodePorts {
    pub(super) fn new() -> Self {
        Self(Chunked::new())
    }

    /// The service port with this node port, in the address's family.
    pub(super) fn get(&self, addr: IpAddr, port: SvcPort) -> Option<&Arc<Service>> {
        self.0.get(NodePort { family: Family::of(addr), port })
    }

    /// Adds a service port if it has a node port; the one that holds that already, if any, is returned and stays.
    pub(super) fn insert(&mut self, service: &Arc<Service>) -> Result<(), Arc<Service>> {
        let Some(key) = Self::key(service) else { return Ok(()) };
        if let Some(holder) = self.0.get(key) {
            return Err(Arc::clone(holder));
        }
        self.0.insert(key, Arc::clone(service));
        Ok(())
    }

    pub(super) fn remove(&mut self, service: &Service) {
        if let Some(key) = Self::key(service) {
            self.0.remove(key);
        }
    }

    fn key(service: &Service) -> Option<NodePort> {
        let port = SvcPort { port: service.node_port?, proto: service.port.proto };
        Some(NodePort { family: Family::of(service.cluster_ip), port })
    }
}

/// Address ranges of either family: sorted, disjoint, both ends inside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Prefixes {
    /// From addresses and prefix lengths; host bits are ignored.
    ///
    /// # Errors
    /// The first prefix that is longer than its family allows.
    pub fn new(prefixes: &[(IpAddr, u8)]) -> Result<Self, (IpAddr, u8)> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for &(addr, len) in prefixes {
            match addr {
                IpAddr::V4(net) if len <= 32 => {
                    let host = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                    v4.push((net.to_bits() & !host, net.to_bits() | host));
                }
                IpAddr::V6(net) if len <= 128 => {
                    let host = u128::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                    v6.push((net.to_bits() & !host, net.to_bits() | host));
                }
                IpAddr::V4(_) | IpAddr::V6(_) => return Err((addr, len)),
            }
        }
        Ok(Self { v4: disjoint(v4), v6: disjoint(v6) })
    }

    /// The address lies in one of them.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match addr {
            IpAddr::V4(addr) => inside(&self.v4, addr.to_bits()),
            IpAddr::V6(addr) => inside(&self.v6, addr.to_bits()),
        }
    }
}

/// Prefixes either nest or are apart, so of overlapping ones the widest stands for all.
fn disjoint<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable_by_key(|&(first, last)| (first, std::cmp::Reverse(last)));
    let mut apart: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if apart.last().is_none_or(|(_, last)| range.0 > *last) {
            apart.push(range);
        }
    }
    apart.into()
}

fn inside<T: Ord + Copy>(ranges: &[(T, T)], point: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= point);
    after > 0 && ranges[after - 1].1 >= point
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::service;
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_hold_their_ends_and_nothing_beyond() {
        let all = Prefixes::new(&[(ip("10.96.0.7"), 12), (ip("10.100.0.0"), 16), (ip("fd00:10:96::"), 112)])
            .unwrap();
        for inside in ["10.96.0.0", "10.111.255.255", "10.100.3.4", "fd00:10:96::", "fd00:10:96::ffff"] {
            assert!(all.contains(ip(inside)), "{inside}");
        }
        for outside in ["10.95.255.255", "10.112.0.0", "fd00:10:96::1:0", "fd00:10:95::", "0.0.0.0", "::"] {
            assert!(!all.contains(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn prefix_lengths_are_checked_by_family() {
        assert!(Prefixes::new(&[(ip("0.0.0.0"), 0)]).unwrap().contains(ip("255.255.255.255")));
        assert!(Prefixes::new(&[(ip("::"), 0)]).unwrap().contains(ip("ffff::")));
        assert!(Prefixes::new(&[(ip("192.0.2.1"), 32)]).unwrap().contains(ip("192.0.2.1")));
        assert_eq!(Prefixes::new(&[(ip("10.0.0.0"), 33)]), Err((ip("10.0.0.0"), 33)));
        assert_eq!(Prefixes::new(&[(ip("::"), 129)]), Err((ip("::"), 129)));
    }

    #[test]
    fn the_last_port_takes_the_address_with_it() {
        let (http, https) = (Arc::new(service(1, "10.96.0.1", 80)), Arc::new(service(2, "10.96.0.1", 443)));
        let mut vips = Vips::new();
        vips.insert(&http).unwrap();
        vips.insert(&https).unwrap();
        let thief = Arc::new(service(3, "10.96.0.1", 80));
        assert_eq!(vips.insert(&thief).unwrap_err().1.id, ServiceId(1));
        vips.remove(&http);
        let vip = vips.get(ip("10.96.0.1")).unwrap();
        assert!(vip.port(http.port).is_none());
        assert_eq!(vip.port(https.port).unwrap().1.id, ServiceId(2));
        vips.remove(&https);
        assert!(vips.get(ip("10.96.0.1")).is_none());
    }

    /// Addresses as clusters hand them out (a run, or a stride) must not pile up in a few chunks.
    #[test]
    fn consecutive_addresses_spread_evenly() {
        for stride in [1_u32, 2, 256, 4096] {
            let mut chunks = [0_u32; 1024];
            for n in 0..32_768 {
                let addr = IpAddr::V4((0x0a60_0000 + n * stride).into());
                chunks[usize::try_from(addr.spread() & 1023).unwrap()] += 1;
            }
            let most = chunks.iter().max().unwrap();
            assert!(*most < 96, "stride {stride}: {most} of 32 expected");
            let mut chunks = [0_u32; 1024];
            for n in 0..32_768_u128 {
                let addr = IpAddr::V6(((0xfd00_0010_0096_0000_u128 << 64) + n * u128::from(stride)).into());
                chunks[usize::try_from(addr.spread() & 1023).unwrap()] += 1;
            }
            let most = chunks.iter().max().unwrap();
            assert!(*most < 96, "IPv6, stride {stride}: {most} of 32 expected");
        }
    }

    proptest! {
        #[test]
        fn prefixes_agree_with_asking_each(
            nets in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12), seed in any::<u32>()
        ) {
            let list: Vec<_> = nets.iter().map(|&(net, len)| (IpAddr::V4(net.into()), len)).collect();
            let all = Prefixes::new(&list).unwrap();
            let ends = nets.iter().flat_map(|&(net, _)| [net, net.wrapping_add(1), net ^ 0x100, net ^ 0x8000_0000]);
            for addr in ends.chain([seed]) {
                let each = nets.iter().any(|&(net, len)| {
                    let shift = 32 - u32::from(len);
                    u64::from(net) >> shift == u64::from(addr) >> shift
                });
                prop_assert_eq!(all.contains(IpAddr::V4(addr.into())), each);
            }
        }
    }
}
