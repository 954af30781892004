//! What of this host's own addresses belongs to Services: node ports, and frontends whose address the host has itself.
//!
//! Routing brings nothing of it to the device, since the host keeps what is addressed to it. The first packet of a
//! connection is picked out by sets of our nftables table instead.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Tuple;
use dataplane::service::SvcPort;

/// What is served at addresses of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalFrontends {
    /// Addresses of this host that take node ports.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Node ports, of either family.
    pub node_ports: BTreeSet<SvcPort>,
    /// Frontends at an address of this host, with their ports.
    pub frontends: BTreeSet<(IpAddr, SvcPort)>,
    /// Open flows of frontends that are gone, client to frontend: they still lead here, and nobody else.
    pub kept: BTreeSet<Tuple<IpAddr>>,
}

impl LocalFrontends {
    /// It is served at this address of this host.
    #[must_use]
    pub fn serves(&self, addr: IpAddr, port: SvcPort) -> bool {
        let node_port = || self.node_addresses.contains(&addr) && self.node_ports.contains(&port);
        self.frontends.contains(&(addr, port)) || node_port()
    }

    /// Everything that is served here is served there, too.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.node_addresses.is_subset(&other.node_addresses)
            && self.node_ports.is_subset(&other.node_ports)
            && self.frontends.is_subset(&other.frontends)
    }

    /// Nothing is served at an address of this host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && (self.node_addresses.is_empty() || self.node_ports.is_empty())
    }
}
