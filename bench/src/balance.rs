//! One service port under each algorithm, and counters of active flows beside it: what `select` times and `spread` counts.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::clock::Tick;
use dataplane::flow::Loads;
use dataplane::ids::{EndpointId, ServiceId};
use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::{
    Backend, Balancing, Live, NoReasons, Seat, Selector, Service, Set, SvcPort, choose,
};

/// Endpoints of these numbers behind one ClusterIP, with weights; none: all weigh the same.
#[must_use]
pub fn service(selector: Selector, numbers: &[u32], weights: &[u16]) -> Service {
    let vip = Ipv4Addr::new(10, 96, 0, 1);
    let bare = Service::bare(ServiceId(1), "bench/web", vip.into(), SvcPort { port: 80, proto: Proto::Tcp });
    let backends: Box<[Backend]> = numbers
        .iter()
        .map(|n| Backend {
            id: EndpointId(n + 1),
            addr: Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 1).to_bits() + n).into(),
            port: 8080,
            local: false,
            ready_or_serving: true,
        })
        .collect();
    let cluster: Box<[u32]> = (0..).take(backends.len()).collect();
    let balancing = Balancing::new(selector, &bare.name, &backends, weights, [&cluster, &[]]);
    Service { backends, cluster, any: true, balancing, ..bare }
}

/// A flow of its own client and port.
#[must_use]
pub fn flow(n: u32) -> Tuple<IpAddr> {
    let src = Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 1).to_bits().wrapping_add(n));
    let sport = 1_024 + u16::try_from(n % 60_000).unwrap_or_default();
    let dst = Ipv4Addr::new(10, 96, 0, 1).into();
    Tuple { src: src.into(), dst, sport, dport: 80, proto: Proto::Tcp }
}

/// A worker's draws, and everybody's counters.
#[derive(Debug)]
pub struct Worker {
    state: u64,
    /// Active flows by endpoint.
    pub loads: Loads,
}

impl Worker {
    /// One whose draws are the same for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed, loads: Loads::default() }
    }

    /// The endpoint a flow gets.
    ///
    /// # Panics
    /// The service port has no endpoint.
    pub fn choose<'a>(&mut self, service: &'a Service, flow: &Tuple<IpAddr>) -> &'a Backend {
        choose(service, Set::Cluster, self, flow, &mut NoReasons).expect("it has endpoints")
    }

    /// The next number of the sequence (splitmix64).
    fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Live for Worker {
    fn draw(&mut self, below: u32) -> u32 {
        u32::try_from((u128::from(self.bits()) * u128::from(below)) >> 64).unwrap_or_default()
    }

    fn active(&self, endpoint: EndpointId) -> u32 {
        self.loads.active(endpoint)
    }

    fn now(&self) -> Tick {
        Tick::default()
    }

    fn recall(&self, _: ServiceId, _: IpAddr) -> Option<Seat> {
        None
    }

    fn settle(&mut self, _: ServiceId, _: IpAddr, _: Option<Seat>, _: Seat) -> Result<(), Seat> {
        Ok(())
    }
}
