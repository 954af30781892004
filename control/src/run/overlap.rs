//! Whether a Service CIDR would take packets away from somebody who is there already. Pure.
//!
//! A range that does is left out as a whole and told: the addresses of Services in it are still routed, one by one, and
//! only its unallocated addresses are left to whoever has them.

use std::net::IpAddr;

use crate::model::ip;
use crate::node::Network;

/// Who is there already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Networks of this host's links and routes.
    pub networks: Vec<Network>,
    /// SNAT addresses.
    pub snat: Vec<IpAddr>,
    /// Where the source of Services is reached: the API server.
    pub servers: Vec<IpAddr>,
}

impl Taken {
    /// What lies in this Service CIDR, in words; none when nothing does.
    #[must_use]
    pub fn within(&self, cidr: (IpAddr, u8)) -> Option<String> {
        let of = |addresses: &[IpAddr]| addresses.iter().copied().find(|addr| ip::contains(cidr, *addr));
        if let Some(server) = of(&self.servers) {
            return Some(format!("the API server's address {server} lies in it"));
        }
        if let Some(snat) = of(&self.snat) {
            return Some(format!("the SNAT address {snat} lies in it"));
        }
        let network = self.networks.iter().find(|network| is_hidden(network, cidr))?;
        let Network { prefix: (addr, len), on_link, link } = network;
        let how = if *on_link { "is on the link" } else { "is routed through" };
        Some(format!("{addr}/{len} {how} {link} of this host and overlaps it"))
    }
}

/// A route to the Service CIDR would hide hosts of this network. One wider than it, by way of a gateway, is a route to
/// everything else, as a default route is; on a link the hosts themselves are there.
fn is_hidden(network: &Network, cidr: (IpAddr, u8)) -> bool {
    let inside = network.prefix.1 >= cidr.1 && ip::contains(cidr, network.prefix.0);
    let around = network.on_link && ip::contains(network.prefix, cidr.0);
    inside || around
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::ip;

    fn network(addr: &str, len: u8, on_link: bool) -> Network {
        Network { prefix: (ip(addr), len), on_link, link: "eth1".into() }
    }

    fn taken(networks: Vec<Network>) -> Taken {
        Taken { networks, ..Taken::default() }
    }

    #[test]
    fn networks_of_links_and_routes_inside_are_found_and_those_around_only_on_a_link() {
        let cidr = (ip("10.96.0.0"), 12);
        for (network, hidden) in [
            (network("10.100.0.0", 24, true), true),
            (network("10.100.0.0", 24, false), true),
            (network("10.96.0.0", 12, false), true),
            (network("10.0.0.0", 8, true), true),
            (network("10.0.0.0", 8, false), false),
            (network("10.100.0.7", 32, true), true),
            (network("10.112.0.0", 24, true), false),
            (network("192.168.0.0", 24, true), false),
            (network("fd00::", 64, true), false),
        ] {
            let said = taken(vec![network.clone()]).within(cidr);
            assert_eq!(said.is_some(), hidden, "{network:?}");
            assert!(said.is_none_or(|said| said.contains("eth1")), "{network:?}");
        }
        let six = taken(vec![network("fd00:10:96::", 120, true)]);
        assert!(six.within((ip("fd00:10:96::"), 112)).is_some());
        assert!(six.within((ip("fd00:10:97::"), 112)).is_none());
    }

    #[test]
    fn the_snat_address_and_the_api_server_are_found() {
        let taken = Taken { snat: vec![ip("10.96.0.9")], servers: vec![ip("10.97.0.1")], ..Taken::default() };
        assert!(taken.within((ip("10.96.0.0"), 16)).unwrap().contains("SNAT address 10.96.0.9"));
        assert!(taken.within((ip("10.97.0.0"), 16)).unwrap().contains("API server's address 10.97.0.1"));
        assert_eq!(taken.within((ip("10.98.0.0"), 16)), None);
    }
}
