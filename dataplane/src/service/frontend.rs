//! Where a service port can be reached, and by whom.

use std::fmt;
use std::net::IpAddr;

/// What kind of address a client uses. The order is that of precedence, where a Service names one address twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`. The only internal kind: `internalTrafficPolicy` holds.
    ClusterIp,
    /// `status.loadBalancer.ingress[].ip` with `ipMode: VIP`; with ClusterIPs that are one
    /// as well the only kind `loadBalancerSourceRanges` restrict.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// An address of this node that takes node ports.
    NodePort,
}

impl FrontendKind {
    /// As Kubernetes spells it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::NodePort => "NodePort",
        }
    }
}

impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An address a service port holds, on its port. Node ports are not among these: they hold no address of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub addr: IpAddr,
    /// What it is to the Service.
    pub kind: FrontendKind,
}

impl Frontend {
    /// A ClusterIP.
    #[must_use]
    pub const fn cluster_ip(addr: IpAddr) -> Self {
        Self { addr, kind: FrontendKind::ClusterIp }
    }
}

/// Ports no SNAT may draw: the node ports' range, and what this host reserved. A set of 65,536 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Option<Box<[u64; WORDS]>>);

const WORDS: usize = 1 << 10;

impl PortSet {
    /// These ranges, ends included. A range whose end comes before its beginning is empty.
    pub fn new(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut words = Box::new([0; WORDS]);
        for port in ranges.into_iter().flat_map(|(first, last)| first..=last) {
            words[usize::from(port >> 6)] |= 1_u64 << (port & 63);
        }
        let empty = words.iter().all(|word| *word == 0);
        Self((!empty).then_some(words))
    }

    /// The port is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.as_ref().is_some_and(|words| words[usize::from(port >> 6)] >> (port & 63) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_set_has_its_ranges_with_their_ends() {
        let set = PortSet::new([(30_000, 32_767), (80, 80), (65_535, 65_535), (9, 8)]);
        for inside in [30_000, 31_000, 32_767, 80, 65_535] {
            assert!(set.contains(inside), "{inside}");
        }
        for outside in [0, 8, 9, 79, 81, 29_999, 32_768, 65_534] {
            assert!(!set.contains(outside), "{outside}");
        }
        assert!(!PortSet::default().contains(80));
        assert_eq!(PortSet::new([(2, 1)]), PortSet::default());
    }
}
