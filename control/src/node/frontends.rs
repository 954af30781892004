//! What of this host's own addresses belongs to Services: node ports, and frontends whose address the host has itself.
//!
//! Routing brings nothing of it to the device, since the host keeps what is addressed to it. The first packet of a
//! connection is picked out by sets of our nftables table instead.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
}

impl LocalFrontends {
    /// Nothing is served at an address of this host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && (self.node_addresses.is_empty() || self.node_ports.is_empty())
    }
}
