//! One Service and many clients: an engine with open flows, and the packets that meet them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use dataplane::clock::{Clock, Time};
use dataplane::engine::{Engine, EngineConfig, Tables};
use dataplane::flow::{Region, RegionConfig, Table, Ttls};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::frame::{BATCH, Batch};
use dataplane::packet::tuple::{Family, Proto};
use dataplane::service::{Affinity, Backend, Fabric, ReturnPath, Service, SnapshotBuilder, SvcPort, World};
use dataplane::stats::{Counter, WorkerStats};
use tests::packets::{Offload, Spec, Wire, flags, tcp};

/// Endpoints of the Service.
const ENDPOINTS: u8 = 10;
/// Reply flows share few source ports a client, so that most keep their own.
const PORTS: u32 = 512;

/// A running engine, its world, and packets to give it.
#[derive(Debug)]
pub struct Bench {
    engine: Engine,
    world: World,
    batch: Batch,
    stats: Arc<CachePadded<WorkerStats>>,
    now: Time,
    family: Family,
}

impl Bench {
    /// An engine with room for `flows` flows of the family at half load.
    ///
    /// # Panics
    /// When the region cannot be made: there is no benchmark without it.
    #[must_use]
    #[allow(clippy::expect_used, reason = "a benchmark that cannot be set up ends")]
    pub fn new(family: Family, flows: u32) -> Self {
        let (max_flows_v4, max_flows_v6) = match family {
            Family::V4 => (flows, 4_096),
            Family::V6 => (4_096, flows),
        };
        let now = Clock.now();
        let config = RegionConfig { dir: None, name: "bench".to_owned(), max_flows_v4, max_flows_v6 };
        let region = Region::open(&config, now).expect("a region in memory");
        let tables = Tables::new(
            Table::new(&region, Ttls::default()),
            Table::new(&region, Ttls::default()),
            Affinity::new(1_024),
        );
        let stats = Arc::new(CachePadded::new(WorkerStats::default()));
        // Answers are part of no case: a limiter that never refuses would hide a broken setup.
        let engine = Engine::new(WorkerId(0), tables, EngineConfig::default(), Arc::clone(&stats), 1);
        Self { engine, world: world(family), batch: Batch::default(), stats, now, family }
    }

    /// The first packet of client `n`'s flow.
    #[must_use]
    pub fn syn(&self, n: u32) -> Wire {
        tcp(self.client(n), vip(self.family), flags::SYN).wire()
    }

    /// A later packet of client `n`'s flow: a bare ACK, or with `payload` bytes as a super-packet.
    #[must_use]
    pub fn data(&self, n: u32, payload: usize) -> Wire {
        let spec: Spec = tcp(self.client(n), vip(self.family), flags::ACK);
        if payload == 0 {
            return spec.wire();
        }
        spec.payload(vec![0x5a; payload]).offload(Offload::Gso(1_400)).wire()
    }

    /// Processes these packets as one batch and says how many nanoseconds `Engine::process` took.
    pub fn run<'a>(&mut self, packets: impl IntoIterator<Item = &'a Wire>) -> u64 {
        self.batch.clear();
        for packet in packets.into_iter().take(BATCH) {
            packet.put(&mut self.batch);
        }
        let start = Clock.now();
        self.engine.process(&mut self.batch, &self.world, self.now);
        Clock.now().since(start)
    }

    /// Opens the flows of clients `0..n`.
    ///
    /// # Panics
    /// When one could not be opened: the figures would be of something else.
    pub fn open(&mut self, n: u32) {
        let before = self.stats.read().get(Counter::FlowsOpened);
        for first in (0..n).step_by(BATCH) {
            let syns: Vec<Wire> = (first..n.min(first + 32)).map(|client| self.syn(client)).collect();
            self.run(&syns);
        }
        let opened = self.stats.read().get(Counter::FlowsOpened) - before;
        assert_eq!(opened, u64::from(n), "flows opened, of {n}: {:?}", self.stats.read());
    }

    /// Frames translated so far.
    #[must_use]
    pub fn translated(&self) -> u64 {
        self.stats.read().get(Counter::Translated)
    }

    fn client(&self, n: u32) -> SocketAddr {
        let host = n / PORTS;
        let port = 10_000 + (n % PORTS) as u16 * 97 % 50_000;
        let addr = match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 1).to_bits() + host)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits((0xfd00_u128 << 112) + 0x1_0000 + u128::from(host))),
        };
        SocketAddr::new(addr, port)
    }
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
            Family::V6 => "fd00:96::10".parse().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        },
        80,
    )
}

/// Enough SNAT addresses that ports do not decide the figure.
fn snat(family: Family) -> Vec<IpAddr> {
    match family {
        Family::V4 => vec![Ipv4Addr::new(172, 31, 0, 1).into(), Ipv4Addr::new(172, 31, 0, 2).into()],
        Family::V6 => vec![Ipv6Addr::new(0xfd00, 0x31, 0, 0, 0, 0, 0, 1).into()],
    }
}

#[allow(clippy::expect_used, reason = "a benchmark that cannot be set up ends")]
fn world(family: Family) -> World {
    let backend = |n: u8| Backend {
        id: EndpointId(u32::from(n) + 1),
        addr: match family {
            Family::V4 => Ipv4Addr::new(10, 244, 0, n + 1).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(n) + 1).into(),
        },
        port: 8080,
        local: false,
        ready_or_serving: true,
    };
    let mut builder = SnapshotBuilder::new(Fabric {
        return_path: ReturnPath::Masquerade,
        snat: snat(family),
        service_cidrs: Vec::new(),
        ..Fabric::default()
    });
    let port = SvcPort { port: 80, proto: Proto::Tcp };
    builder.upsert(Service {
        backends: (0..ENDPOINTS).map(backend).collect(),
        cluster: (0..u32::from(ENDPOINTS)).collect(),
        any: true,
        ..Service::bare(ServiceId(1), "default/bench:http", vip(family).ip(), port)
    });
    World::Ready(builder.build().expect("one valid Service"))
}
