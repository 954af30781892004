//! What is not of the cluster: clients beyond the hub, which routes them to the nodes, and hosts whose addresses a
//! Service may take over.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;

use super::podnet::{Addresses, Link, PodNetwork};
use super::{Node, PodNet};
use crate::netns::{Namespace, Process};

/// Addresses of clients: of no node, no pod and no Service.
const CLIENTS: [&str; 2] = ["198.51.100.0/24", "fd00:51::/64"];
/// Addresses scenarios give to load balancers, and external ones. Beyond the hub there is nobody, and nothing is said
/// about it: what no node takes and no host has is silent.
const FOREIGN: [&str; 2] = ["203.0.113.0/24", "2001:db8:203::/64"];

/// The world beyond the hub.
#[derive(Debug)]
pub(super) struct World {
    network: PodNetwork,
}

impl World {
    /// Prepares the hub.
    pub(super) fn set_up(hub: &Namespace) -> io::Result<Self> {
        for range in FOREIGN {
            hub.ip(&format!("route add blackhole {range}"))?;
        }
        Ok(Self { network: PodNetwork::set_up(hub.name(), PodNet::Routed, &CLIENTS)? })
    }

    /// Another host in it.
    pub(super) fn host<'a>(&'a self, hub: &'a Namespace) -> io::Result<Outside<'a>> {
        let namespace = Namespace::new("out")?;
        let addresses = self.network.take()?;
        let attached = self.network.attach(&namespace, addresses);
        let link = attached.inspect_err(|_| self.network.give_back(addresses))?;
        Ok(Outside { namespace, addresses, link, network: &self.network, hub })
    }
}

/// Has the hub send what is for an address to a node, or to nobody.
pub(super) fn route(hub: &Namespace, ip: IpAddr, node: Option<&Node>) -> io::Result<()> {
    let Some(node) = node else { return hub.ip(&format!("route del {ip}")).map(drop) };
    let via = if ip.is_ipv4() { node.v4.to_string() } else { node.v6.to_string() };
    hub.ip(&format!("route replace {ip} via {via}")).map(drop)
}

/// A host off the cluster, in a namespace of its own. Dropping it takes it away.
#[derive(Debug)]
pub struct Outside<'a> {
    namespace: Namespace,
    addresses: Addresses,
    link: Link,
    network: &'a PodNetwork,
    hub: &'a Namespace,
}

impl Outside<'_> {
    /// Its addresses, IPv4 first.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        self.addresses.both()
    }

    /// Runs `f` on a thread inside its namespace.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        self.namespace.enter(f)
    }

    /// Gives it another address, and has the hub send it there; also where the hub sent it elsewhere meanwhile.
    ///
    /// # Errors
    /// `ip` refuses something.
    pub fn take(&self, ip: IpAddr) -> io::Result<()> {
        let length = if ip.is_ipv4() { 32 } else { 128 };
        self.namespace.ip(&format!("addr replace {ip}/{length} dev lo"))?;
        let via = self.addresses.both()[usize::from(ip.is_ipv6())];
        self.hub.ip(&format!("route replace {ip} via {via} dev {} onlink", self.link.name())).map(drop)
    }

    /// Has it answer as pods do, at port 80 of all its addresses, by this name.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn serve(&self, agnhost: &Path, name: &str) -> io::Result<Process> {
        let mut command = self.namespace.command(&agnhost.to_string_lossy());
        command.args(["netexec", "--http-port=80", "--udp-port=80"]).env("HOSTNAME", name);
        self.namespace.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.network.detach(&self.link);
        self.network.give_back(self.addresses);
    }
}
