//! Whose address endpoints see: the return path, and who is a local pod, as plain lists.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::packet::tuple::Family;
use dataplane::service::{Fabric, LocalMap, Place, ReturnPath};

use super::{SNAT4, SNAT6, ip};

/// The SNAT addresses of connection marks: link-local in IPv4, so that nobody else routes them.
pub const MARK_SNAT4: &str = "169.254.77.1";
/// The IPv6 one.
pub const MARK_SNAT6: &str = "fd00:fffe:77::1";

/// Whose address endpoints see.
#[derive(Clone, Debug, Default)]
pub enum Sources {
    /// Every flow gets a SNAT address.
    #[default]
    Masqueraded,
    /// Connection marks bring replies back.
    Kept {
        /// `masqueradeAll`.
        all: bool,
        /// Local pods' prefixes; a family without any has no detector.
        pods: Vec<(IpAddr, u8)>,
        /// Addresses of this host.
        hosts: Vec<IpAddr>,
    },
}

impl Sources {
    /// SNAT addresses of both families.
    #[must_use]
    pub fn snat(&self) -> [IpAddr; 2] {
        match self {
            Self::Masqueraded => [ip(SNAT4), ip(SNAT6)],
            Self::Kept { .. } => [ip(MARK_SNAT4), ip(MARK_SNAT6)],
        }
    }

    /// What a snapshot has to say of this.
    pub(super) fn fabric(&self, service_cidrs: &[(IpAddr, u8)]) -> Fabric {
        let (snat, service_cidrs) = (self.snat().to_vec(), service_cidrs.to_vec());
        match self {
            Self::Masqueraded => {
                Fabric { return_path: ReturnPath::Masquerade, snat, service_cidrs, ..Fabric::default() }
            }
            Self::Kept { all, pods, hosts } => {
                let detectors: Vec<_> = pods.iter().map(|(addr, _)| Family::of(*addr)).collect();
                let pods = pods.iter().map(|&(addr, len)| (addr, len, Place::LocalPod));
                let hosts =
                    hosts.iter().map(|&addr| (addr, if addr.is_ipv4() { 32 } else { 128 }, Place::Host));
                let local = LocalMap::new(pods.chain(hosts), &detectors).expect("prefixes that exist");
                let (masquerade_all, local) = (*all, Arc::new(local));
                Fabric {
                    return_path: ReturnPath::ConnMark,
                    snat,
                    service_cidrs,
                    masquerade_all,
                    local,
                    ..Fabric::default()
                }
            }
        }
    }

    /// Whether a flow of this client to this endpoint gets a SNAT address: kube-proxy's table, row by row.
    #[must_use]
    pub fn masquerades(&self, client: IpAddr, endpoint: IpAddr) -> bool {
        let Self::Kept { all, pods, hosts } = self else { return true };
        let inside = |(net, len): &(IpAddr, u8)| match (net, client) {
            (IpAddr::V4(net), IpAddr::V4(addr)) => (net.to_bits() ^ addr.to_bits()) >> (32 - len) == 0,
            (IpAddr::V6(net), IpAddr::V6(addr)) => (net.to_bits() ^ addr.to_bits()) >> (128 - len) == 0,
            _ => false,
        };
        let client_is_host = hosts.contains(&client);
        let detected = pods.iter().any(|(net, _)| net.is_ipv4() == client.is_ipv4());
        let from_a_pod = !client_is_host && pods.iter().any(inside);
        let wanted = *all || (detected && !from_a_pod);
        // Local delivery never meets postrouting, where kube-proxy masquerades.
        let delivered_here = hosts.contains(&endpoint) && !client_is_host;
        client == endpoint || (wanted && !delivered_here)
    }
}
