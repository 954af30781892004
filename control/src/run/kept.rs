//! Frontends that are gone while flows of theirs are open. Kernel NAT goes on serving such flows, since each connection
//! carries its own translation; here their packets must still be led to the device, and nobody else's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::SvcPort;

use crate::node::LocalFrontends;

/// What was served, and what of it is kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// As of the last look.
    addresses: BTreeSet<IpAddr>,
    local: LocalFrontends,
    /// Open ones of frontends that are gone.
    flows: BTreeSet<Tuple<IpAddr>>,
}

impl Kept {
    /// Looks what is gone now that `addresses` and `local` are served, and which of it `flows` (the forward tuples of all
    /// open ones) still need; they are asked for only where something is gone. True if that has changed.
    pub fn look(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        local: &LocalFrontends,
        flows: impl FnOnce(&mut dyn FnMut(Tuple<IpAddr>)),
    ) -> bool {
        let served = |addr: IpAddr, port| {
            let own = local.serves(addr, port);
            own || (addresses.contains(&addr) && !is_own(local, addr))
        };
        let gone: BTreeSet<IpAddr> = self.addresses.difference(addresses).copied().collect();
        let local_gone = !self.local.within(local);
        let mut open = BTreeSet::new();
        if !gone.is_empty() || local_gone || !self.flows.is_empty() {
            flows(&mut |flow| {
                let port = SvcPort { port: flow.dport, proto: flow.proto };
                let was = || {
                    gone.contains(&flow.dst)
                        || self.local.serves(flow.dst, port)
                        || self.flows.contains(&flow)
                };
                if was() && !served(flow.dst, port) {
                    open.insert(flow);
                }
            });
        }
        let changed = open != self.flows;
        self.flows = open;
        self.addresses.clone_from(addresses);
        self.local.clone_from(local);
        changed
    }

    /// The flows that are kept, client to frontend.
    #[must_use]
    pub fn flows(&self) -> &BTreeSet<Tuple<IpAddr>> {
        &self.flows
    }

    /// Addresses of their frontends.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.flows.iter().map(|flow| flow.dst).collect()
    }
}

/// The ports of this address are served one by one.
fn is_own(local: &LocalFrontends, addr: IpAddr) -> bool {
    let lowest = SvcPort { port: 0, proto: Proto::Tcp };
    let mut from = local.frontends.range((addr, lowest)..);
    local.node_addresses.contains(&addr) || from.next().is_some_and(|(own, _)| *own == addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(port: u16) -> SvcPort {
        SvcPort { port, proto: Proto::Tcp }
    }

    fn flow(dst: &str, dport: u16) -> Tuple<IpAddr> {
        Tuple { src: ip("10.1.0.2"), dst: ip(dst), sport: 40_000, dport, proto: Proto::Tcp }
    }

    fn vips(all: &[&str]) -> BTreeSet<IpAddr> {
        all.iter().map(|addr| ip(addr)).collect()
    }

    fn node_ports(ports: &[u16]) -> LocalFrontends {
        LocalFrontends {
            node_addresses: [ip("10.1.0.1")].into(),
            node_ports: ports.iter().map(|port| at(*port)).collect(),
            ..LocalFrontends::default()
        }
    }

    #[test]
    fn a_frontend_is_kept_from_its_end_to_that_of_its_last_flow() {
        let mut kept = Kept::default();
        let none = LocalFrontends::default();
        let never = |_: &mut dyn FnMut(Tuple<IpAddr>)| panic!("nothing is gone: no flow is looked at");
        assert!(!kept.look(&vips(&["10.96.0.1", "10.96.0.2"]), &none, never));
        assert!(!kept.look(&vips(&["10.96.0.1", "10.96.0.2", "10.96.0.3"]), &none, never));
        let flows =
            [flow("10.96.0.1", 80), flow("10.96.0.2", 443), flow("10.96.0.2", 443), flow("10.9.9.9", 1)];
        let all = |each: &mut dyn FnMut(Tuple<IpAddr>)| flows.into_iter().for_each(each);
        assert!(kept.look(&vips(&["10.96.0.1"]), &none, all));
        assert_eq!(*kept.flows(), [flow("10.96.0.2", 443)].into());
        assert_eq!(kept.addresses(), vips(&["10.96.0.2"]));
        assert!(!kept.look(&vips(&["10.96.0.1"]), &none, all), "nothing new");
        assert!(kept.look(&vips(&["10.96.0.1"]), &none, |_| {}), "its last flow is over");
        assert!(kept.flows().is_empty());
        assert!(!kept.look(&vips(&["10.96.0.1"]), &none, never));
    }

    #[test]
    fn a_frontend_that_is_back_is_served_and_kept_no_more() {
        let mut kept = Kept::default();
        let none = LocalFrontends::default();
        let all = |each: &mut dyn FnMut(Tuple<IpAddr>)| each(flow("10.96.0.1", 80));
        kept.look(&vips(&["10.96.0.1"]), &none, all);
        assert!(kept.look(&vips(&[]), &none, all));
        assert!(kept.look(&vips(&["10.96.0.1"]), &none, all));
        assert!(kept.flows().is_empty());
    }

    #[test]
    fn node_ports_are_kept_port_by_port() {
        let mut kept = Kept::default();
        let flows = [flow("10.1.0.1", 30_080), flow("10.1.0.1", 30_081), flow("10.1.0.1", 22)];
        let all = |each: &mut dyn FnMut(Tuple<IpAddr>)| flows.into_iter().for_each(each);
        assert!(!kept.look(&vips(&[]), &node_ports(&[30_080, 30_081]), all));
        assert!(kept.look(&vips(&[]), &node_ports(&[30_081]), all));
        assert_eq!(*kept.flows(), [flow("10.1.0.1", 30_080)].into());
        // The last node port goes, and the address takes none any more.
        assert!(kept.look(&vips(&[]), &LocalFrontends::default(), all));
        assert_eq!(kept.flows().len(), 2, "never what was none of a Service's");
    }
}
