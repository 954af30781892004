//! Where an address is, seen from this host: at a pod of this node, at the host itself, or elsewhere.
//!
//! A packet read from the device does not say through which link it came, so its source stands for it: it is
//! taken to come from where its source is routed to. The control thread keeps the map in step with addresses,
//! routes and pod CIDRs; here it is sorted once and only asked.

use std::net::IpAddr;

use crate::packet::tuple::Family;

/// Where an address is. Of two equal prefixes the greater place holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Neither of the others, or not known.
    #[default]
    Elsewhere,
    /// At a pod that the detector of local pods knows.
    LocalPod,
    /// At this host itself.
    Host,
    /// At this host itself, at an address that the detector takes for a local pod's, as a bridge's is.
    HostAmongPods,
}

impl Place {
    /// The detector takes it for a local pod's address.
    #[must_use]
    pub const fn is_pods(self) -> bool {
        matches!(self, Self::LocalPod | Self::HostAmongPods)
    }

    /// It is this host's address.
    #[must_use]
    pub const fn is_hosts(self) -> bool {
        matches!(self, Self::Host | Self::HostAmongPods)
    }
}

/// A prefix that its family does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}/{1}: no such prefix length")]
pub struct BadPrefix(pub IpAddr, pub u8);

/// Longest-prefix map from addresses to places. A look-up is a binary search over disjoint stretches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalMap {
    v4: Stretches,
    v6: Stretches,
    detects_v4: bool,
    detects_v6: bool,
}

/// Where stretches of one place begin, ascending; each ends where the next begins. Before the first is
/// `Elsewhere`, and no two neighbours are alike, so equal maps have equal stretches.
type Stretches = Box<[(u128, Place)]>;

impl LocalMap {
    /// From prefixes and their places; host bits are ignored, and what no prefix has is [`Place::Elsewhere`].
    /// `detectors` names the families in which there is a way to tell local pods, even if it knows of none now.
    ///
    /// # Errors
    /// The first prefix that is longer than its family allows.
    pub fn new(
        prefixes: impl IntoIterator<Item = (IpAddr, u8, Place)>,
        detectors: &[Family],
    ) -> Result<Self, BadPrefix> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (addr, len, place) in prefixes {
            let (list, bits, addr_bits) = match addr {
                IpAddr::V4(v4_addr) => (&mut v4, 32, u128::from(v4_addr.to_bits())),
                IpAddr::V6(v6_addr) => (&mut v6, 128, v6_addr.to_bits()),
            };
            let host_bits = u32::checked_sub(bits, u32::from(len)).ok_or(BadPrefix(addr, len))?;
            let host = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            list.push(Prefix { first: addr_bits & !host, last: addr_bits | host, place });
        }
        let detects = |family| detectors.contains(&family);
        Ok(Self {
            v4: stretches(v4),
            v6: stretches(v6),
            detects_v4: detects(Family::V4),
            detects_v6: detects(Family::V6),
        })
    }

    /// Where this address is.
    #[must_use]
    pub fn place(&self, addr: IpAddr) -> Place {
        let (list, point) = match addr {
            IpAddr::V4(addr) => (&self.v4, u128::from(addr.to_bits())),
            IpAddr::V6(addr) => (&self.v6, addr.to_bits()),
        };
        let after = list.partition_point(|(first, _)| *first <= point);
        after.checked_sub(1).map_or(Place::Elsewhere, |at| list[at].1)
    }

    /// Whether local pods of this family can be told from other sources.
    #[must_use]
    pub const fn detects(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.detects_v4,
            Family::V6 => self.detects_v6,
        }
    }
}

#[derive(Clone, Copy)]
struct Prefix {
    first: u128,
    last: u128,
    place: Place,
}

/// Prefixes either nest or are apart: walking them by their beginnings, the ones around the current point are a
/// stack.
fn stretches(mut prefixes: Vec<Prefix>) -> Stretches {
    prefixes.sort_unstable_by_key(|prefix| (prefix.first, std::cmp::Reverse(prefix.last), prefix.place));
    let mut begun: Vec<(u128, Place)> = Vec::with_capacity(2 * prefixes.len());
    let mut around: Vec<Prefix> = Vec::new();
    let close = |around: &mut Vec<Prefix>, begun: &mut Vec<_>, until: Option<u128>| {
        while let Some(inner) = around.pop_if(|inner| until.is_none_or(|until| inner.last < until)) {
            // The family's last address ends everything.
            let Some(next) = inner.last.checked_add(1) else { continue };
            begin(begun, next, around.last().map_or(Place::Elsewhere, |outer| outer.place));
        }
    };
    for prefix in prefixes {
        close(&mut around, &mut begun, Some(prefix.first));
        begin(&mut begun, prefix.first, prefix.place);
        around.push(prefix);
    }
    close(&mut around, &mut begun, None);
    begun.into()
}

/// From `first` on, it is `place`.
fn begin(begun: &mut Vec<(u128, Place)>, first: u128, place: Place) {
    begun.pop_if(|(same, _)| *same == first);
    if begun.last().map_or(Place::Elsewhere, |(_, before)| *before) != place {
        begun.push((first, place));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_says_where_an_address_is() {
        let map = LocalMap::new(
            [
                (ip("10.244.0.0"), 16, Place::LocalPod),
                (ip("10.244.3.0"), 24, Place::Elsewhere),
                (ip("10.244.1.1"), 32, Place::Host),
                (ip("255.255.255.255"), 32, Place::Host),
                (ip("fd00:244::"), 48, Place::LocalPod),
                (ip("::"), 0, Place::Host),
            ],
            &[Family::V4],
        )
        .unwrap();
        for (addr, place) in [
            ("10.243.255.255", Place::Elsewhere),
            ("10.244.0.0", Place::LocalPod),
            ("10.244.1.0", Place::LocalPod),
            ("10.244.1.1", Place::Host),
            ("10.244.1.2", Place::LocalPod),
            ("10.244.3.255", Place::Elsewhere),
            ("10.244.4.0", Place::LocalPod),
            ("10.244.255.255", Place::LocalPod),
            ("10.245.0.0", Place::Elsewhere),
            ("255.255.255.255", Place::Host),
            ("fd00:244::9", Place::LocalPod),
            ("fd00:245::9", Place::Host),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Place::Host),
        ] {
            assert_eq!(map.place(ip(addr)), place, "{addr}");
        }
        assert!(map.detects(Family::V4) && !map.detects(Family::V6));
        assert_eq!(LocalMap::default().place(ip("10.0.0.1")), Place::Elsewhere);
        assert_eq!(LocalMap::default().place(ip("::1")), Place::Elsewhere);
    }

    #[test]
    fn a_prefix_too_long_is_named() {
        let wrong = |addr, len| LocalMap::new([(ip(addr), len, Place::Host)], &[]).unwrap_err();
        assert_eq!(wrong("10.0.0.0", 33).to_string(), "10.0.0.0/33: no such prefix length");
        assert_eq!(wrong("fd00::", 129), BadPrefix(ip("fd00::"), 129));
    }

    /// Short prefixes of few addresses, so that they nest, touch and repeat.
    fn any_prefix() -> impl Strategy<Value = (u32, u8, Place)> {
        let place = prop_oneof![Just(Place::Elsewhere), Just(Place::LocalPod), Just(Place::Host)];
        let addr = prop_oneof![3 => (0_u32..64).prop_map(|low| 0x0a00_0000 | low), 1 => any::<u32>()];
        (addr, prop_oneof![0_u8..4, 20_u8..=32], place)
    }

    proptest! {
        /// The naive model: of all prefixes around an address the longest, of the longest the greatest place.
        #[test]
        fn the_map_agrees_with_asking_every_prefix(
            list in prop::collection::vec(any_prefix(), 0..24), more in any::<u32>(),
        ) {
            let around = |net: u32, len: u8, addr: u32| u64::from(net ^ addr) >> (32 - u32::from(len)) == 0;
            let v4 = list.iter().map(|&(net, len, place)| (IpAddr::V4(net.into()), len, place));
            // The same 96 bits further down.
            let six = |low: u32| IpAddr::V6((0xfd_u128 << 120 | u128::from(low)).into());
            let v6 = list.iter().map(|&(net, len, place)| (six(net), 96 + len, place));
            let map = LocalMap::new(v4.chain(v6), &[]).unwrap();
            let edges = list.iter().flat_map(|&(net, len, _)| {
                let host = u32::MAX.checked_shr(u32::from(len)).unwrap_or(0);
                let (first, last) = (net & !host, net | host);
                [net, first, last, first.wrapping_sub(1), last.wrapping_add(1)]
            });
            for addr in edges.chain([more, 0, u32::MAX]) {
                let longest = list.iter().filter(|(net, len, _)| around(*net, *len, addr));
                let naive = longest.max_by_key(|(_, len, place)| (*len, *place)).map(|(_, _, place)| *place);
                let naive = naive.unwrap_or_default();
                prop_assert_eq!(map.place(IpAddr::V4(addr.into())), naive, "{:#x}", addr);
                prop_assert_eq!(map.place(six(addr)), naive, "IPv6 {:#x}", addr);
            }
        }

        /// Maps that say the same compare equal, so that nothing is published for nothing.
        #[test]
        fn the_order_and_what_is_redundant_do_not_matter(
            list in prop::collection::vec(any_prefix(), 0..16),
        ) {
            let prefixes = || list.iter().map(|&(net, len, place)| (IpAddr::V4(net.into()), len, place));
            let map = LocalMap::new(prefixes(), &[]).unwrap();
            // Every prefix's own address once more, with the place it has anyhow.
            let again: Vec<_> = prefixes().map(|(net, _, _)| (net, 32, map.place(net))).collect();
            let other = LocalMap::new(prefixes().chain(again).collect::<Vec<_>>().into_iter().rev(), &[]);
            prop_assert_eq!(&other.unwrap(), &map);
            prop_assert!(map.v4.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1), "{:?}", map.v4);
        }
    }
}
