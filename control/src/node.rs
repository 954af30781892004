//! This host: what it must be before tunway starts, the rules and routes that bring packets in, their repair, and
//! taking everything away again.
//!
//! Virtual addresses, and SNAT addresses, are routed to the device in the local table, with routing protocol 77 and a
//! blackhole behind each route. With the return path `masquerade` every flow leaves with a SNAT address, and these routes
//! are all there is. With `conntrack` flows keep their sources: one nftables table, `inet tunway_alias`, knows by the
//! kernel's connection tracking which flows we emitted, and gives their replies alias destinations, which are routed to
//! the device like the others; the SNAT address is private to this host, and the kernel's masquerade turns it into the
//! node's own.
//!
//! All of it stays when the process ends, however it ends: the next one takes it over, and only [`cleanup()`] removes it.
//! What an earlier version made ([`former`]) a start replaces.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

pub use self::cleanup::cleanup;
pub use self::firewall::FirewallError;
pub use self::frontends::LocalFrontends;
pub use self::host::Host;
pub use self::local::{Lookout, Surroundings};
pub use self::losses::queue_drops;
pub use self::networks::Network;
pub use self::ports::reserved_ports;
pub use self::preflight::preflight;

use self::firewall::Firewall;
use self::netlink::Netlink;
use self::rt::Family;
use self::view::HostView;

mod cleanup;
mod device;
mod firewall;
mod former;
mod frontends;
mod host;
mod local;
mod losses;
pub(crate) mod netlink;
mod networks;
mod plan;
mod ports;
mod preflight;
pub(crate) mod rt;
mod settings;
mod view;
mod watch;

/// What the host plan needs to know.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The TUN device.
    pub device: String,
    /// How packets that the host's own routing would take elsewhere come to the device.
    pub steering: Steering,
    /// Packets that may wait in each of the device's queues.
    pub queue_length: u32,
    /// SNAT addresses, at most one a family. Where sources are kept they are private to this host.
    pub snat: Vec<IpAddr>,
    /// Service CIDRs.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Remove what is left of kube-proxy, and accept the device where a firewall drops forwarded packets.
    pub take_over: bool,
    /// Accept the device where a firewall drops forwarded packets, also without taking over.
    pub forward_accept: bool,
    /// Flows of both tables together.
    pub max_flows: u64,
    /// The node ports' range, both ends inside: the kernel's masquerading draws no port from it.
    pub node_port_range: (u16, u16),
}

/// How replies, and what is for addresses of this host itself, come to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Replies are for SNAT addresses, which are routed there. Nothing else comes.
    Snat,
    /// By alias destinations, which are routed there ([`dataplane::packet::alias`]).
    Alias,
}

/// One thing preflight found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// It stops a start.
    pub fatal: bool,
    /// The setting, file, rule or interface: `net.ipv4.ip_forward`.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// The exact command or setting that puts it right.
    pub remedy: String,
}

/// Why the host plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The device is not there (any more).
    #[error(
        "there is no device {device}: the dataplane makes it when it opens it; deleting it ends the dataplane"
    )]
    NoDevice {
        /// Its name.
        device: String,
    },
    /// A SNAT address that cannot work on this host.
    #[error("SNAT address {address} {why} ({})", SNAT_REMEDY)]
    Snat {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        why: String,
    },
    /// An instance runs on the device.
    #[error("{device} is in use by {}", holder.map_or_else(
        || "a process of another PID namespace: stop the container or the host's service it runs in first".to_owned(),
        |pid| format!("process {pid} (stop it first: kill {pid})"),
    ))]
    Busy {
        /// The device.
        device: String,
        /// The process, if it is one of this PID namespace.
        holder: Option<u32>,
    },
    /// The kernel refused a step.
    #[error("cannot {doing}: {source}")]
    Refused {
        /// The step.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// A firewall tool failed.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// Anything else, in a sentence.
    #[error("{0}")]
    Other(String),
}

impl HostConfig {
    /// Endpoints see their clients' addresses wherever kube-proxy would show them.
    fn keeps_sources(&self) -> bool {
        self.steering != Steering::Snat
    }

    /// The device's packets are to get past a firewall that drops forwarded ones.
    fn opens_forward(&self) -> bool {
        self.take_over || self.forward_accept
    }

    /// The families this configuration serves; IPv4 when it names none.
    fn families(&self) -> Vec<Family> {
        // Where sources are kept there are SNAT addresses of both families whatever the cluster has: where its Service
        // CIDRs do not say, it may have both.
        let snat = self.snat.iter().filter(|_| !self.keeps_sources() || self.service_cidrs.is_empty());
        let addresses = || snat.clone().chain(self.service_cidrs.iter().map(|(address, _)| address));
        let uses = |family| addresses().any(|address| Family::of(*address) == family);
        Family::ALL
            .into_iter()
            .filter(|family| uses(*family) || (*family == Family::V4 && !uses(Family::V6)))
            .collect()
    }

    fn firewall(&self) -> Firewall {
        Firewall::find(&self.device, self.families())
    }
}

/// What is wrong with the SNAT addresses on this host.
fn snat_faults(config: &HostConfig, view: &HostView) -> Vec<NodeError> {
    let mut faults = Vec::new();
    let mut families = BTreeSet::new();
    for address in config.snat.iter().copied() {
        let second = !families.insert(Family::of(address));
        let why = if second {
            Some("is the second one of its family: tunway uses one of each".to_owned())
        } else {
            view.snat_fault(address, &config.service_cidrs, &config.device, config.keeps_sources())
        };
        faults.extend(why.map(|why| NodeError::Snat { address, why }));
    }
    faults
}

/// Removes what is in the way.
fn take_over(firewall: &Firewall, netlink: &mut Netlink) -> Result<(), NodeError> {
    let mut done = firewall.remove_leftovers(&firewall.leftovers()?)?;
    if let Some(link) = netlink.link_by_name(IPVS_DEVICE).map_err(host::refused("look for kube-ipvs0"))? {
        cleanup::remove_link(netlink, link.index).map_err(host::refused("remove kube-ipvs0"))?;
        done.push(format!("device {IPVS_DEVICE}"));
    }
    for done in done {
        tracing::warn!(removed = done, "taken over from kube-proxy");
    }
    Ok(())
}

/// Lets the device's packets through, and gives the firewall to be looked after from now on.
fn open_forward(config: &HostConfig, netlink: &mut Netlink) -> Result<Firewall, NodeError> {
    let firewall = config.firewall();
    if config.take_over {
        take_over(&firewall, netlink)?;
    }
    for done in firewall.accept_device()? {
        tracing::warn!(done, "told the firewall to let the device's packets through");
    }
    Ok(firewall)
}

/// The device kube-proxy's IPVS mode puts every virtual address on: the host then keeps their packets.
const IPVS_DEVICE: &str = "kube-ipvs0";
/// How to choose a SNAT address.
const SNAT_REMEDY: &str = "choose `snatAddress` outside every local network and the Service CIDRs, assigned nowhere, \
                           and route it to this host on whatever replies to it";
