//! Small worlds for this module's tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Affinity, Backend, Live, Seat, Service, SvcPort};
use crate::clock::Tick;
use crate::ids::{EndpointId, ServiceId};
use crate::packet::tuple::{Proto, Tuple};

/// A TCP service port without endpoints.
pub(super) fn service(id: u32, cluster_ip: &str, port: u16) -> Service {
    let port = SvcPort { port, proto: Proto::Tcp };
    Service::bare(ServiceId(id), &format!("default/s{id}"), cluster_ip.parse().unwrap(), port)
}

/// A backend that serves, on another node.
pub(super) fn backend(id: u32, addr: &str, port: u16) -> Backend {
    Backend {
        id: EndpointId(id),
        addr: addr.parse::<IpAddr>().unwrap(),
        port,
        local: false,
        ready_or_serving: true,
    }
}

/// A flow of this client to a TCP port of a ClusterIP.
pub(super) fn flow_of(client: IpAddr) -> Tuple<IpAddr> {
    Tuple { src: client, dst: [10, 96, 0, 1].into(), sport: 40_000, dport: 80, proto: Proto::Tcp }
}

/// splitmix64, reproducible by its seed; and a memory of clients with a clock.
pub(super) struct Rng {
    pub(super) state: u64,
    pub(super) affinity: Affinity,
    pub(super) now: Tick,
    /// One draw in 160 is a 3, whatever is asked for.
    pub(super) loaded: bool,
    pub(super) draws: usize,
    pub(super) active: BTreeMap<EndpointId, u32>,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            state: seed,
            affinity: Affinity::new(1 << 16),
            now: Tick::default(),
            loaded: false,
            draws: 0,
            active: BTreeMap::new(),
        }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Live for Rng {
    fn draw(&mut self, below: u32) -> u32 {
        self.draws += 1;
        let loaded = self.loaded;
        let mut uniform = |below| u32::try_from((u128::from(self.next()) * u128::from(below)) >> 64).unwrap();
        if loaded && uniform(160_u32) == 0 { 3 } else { uniform(below) }
    }

    fn active(&self, endpoint: EndpointId) -> u32 {
        self.active.get(&endpoint).copied().unwrap_or_default()
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn recall(&self, service: ServiceId, client: IpAddr) -> Option<Seat> {
        self.affinity.recall(service, client)
    }

    fn settle(
        &mut self,
        service: ServiceId,
        client: IpAddr,
        seen: Option<Seat>,
        new: Seat,
    ) -> Result<(), Seat> {
        self.affinity.settle(service, client, seen, new)
    }
}
