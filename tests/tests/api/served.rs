//! A story from the API's objects to packets: everything between the two is the real thing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use control::compile::Compiler;
use dataplane::engine::EngineConfig;
use dataplane::packet::tuple::Proto;
use dataplane::service::{Fabric, World};
use dataplane::verdict::DropReason;
use tests::check::assert_valid;
use tests::cluster::{SNAT4, SNAT6, addr, ip};
use tests::gateway::{Gateway, Outcome};
use tests::packets::{chunks, flags, sctp, tcp, udp};

use super::*;

/// What became of a packet to a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Endpoint(SocketAddr),
    Refused,
    Dropped(&'static str),
    /// Not ours.
    Passed,
}

/// A story with a compiler and a gateway behind it.
pub(crate) struct Served {
    pub(crate) story: Story,
    pub(crate) gateway: Gateway,
    compiler: Compiler,
    port: u16,
}

/// Endpoints of a set of packets' flows, as text.
pub(crate) fn at(endpoints: &[&str]) -> BTreeSet<Reached> {
    endpoints.iter().map(|text| Reached::Endpoint(addr(text))).collect()
}

impl Served {
    /// Reads from this server, as node `n1`.
    pub(crate) async fn begin(api: FakeApi) -> Self {
        let fabric = Fabric {
            snat: vec![ip(SNAT4), ip(SNAT6)],
            service_cidrs: vec![(ip("10.96.0.0"), 12), (ip("fd96::"), 112)],
            ..Fabric::default()
        };
        let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
        let mut served = Self {
            story: Story::ready(api).await,
            gateway: Gateway::new(1, 65_536, &config, 5),
            compiler: Compiler::new(fabric),
            port: 1_024,
        };
        served.publish();
        served
    }

    /// Takes events until packets go where they should.
    pub(crate) async fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            self.publish();
            if holds(self) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "never: {what}\n{}", self.story.told());
            let event = tokio::time::timeout(Duration::from_millis(20), self.story.events.recv()).await;
            if let Ok(Some(event)) = event {
                self.story.take(event);
            }
        }
    }

    /// Takes events until new flows from ever new ports of a client reach exactly these.
    pub(crate) async fn until_reached(&mut self, what: &str, vip: &str, wanted: &BTreeSet<Reached>) {
        let (mut last, vip) = (BTreeSet::new(), vip.to_owned());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        self.until(what, |served| {
            last = served.spread(&vip);
            assert!(tokio::time::Instant::now() < deadline, "never: {what}; last {last:?}");
            last == *wanted
        })
        .await;
    }

    fn publish(&mut self) {
        let Self { story, gateway, compiler, .. } = self;
        let region = &gateway.region;
        let world = compiler.compile(&mut story.desired, &mut || region.advance_purge_epoch()).unwrap();
        if let Some(World::Ready(snapshot)) = world.as_deref() {
            gateway.world = World::Ready(snapshot.clone());
        }
    }

    /// Where 32 new TCP flows of one client go.
    pub(crate) fn spread(&mut self, vip: &str) -> BTreeSet<Reached> {
        (0..32).map(|_| self.tcp(vip)).collect()
    }

    /// Where a new TCP flow of a client goes.
    pub(crate) fn tcp(&mut self, vip: &str) -> Reached {
        let port = self.next_port();
        self.open(Proto::Tcp, &client(vip, port), vip)
    }

    /// Where a new UDP flow of a client goes.
    pub(crate) fn udp(&mut self, vip: &str) -> Reached {
        let port = self.next_port();
        self.open(Proto::Udp, &client(vip, port), vip)
    }

    /// Where a first packet between these two goes.
    pub(crate) fn open(&mut self, proto: Proto, from: &str, vip: &str) -> Reached {
        let packet = match proto {
            Proto::Tcp => tcp(addr(from), addr(vip), flags::SYN),
            Proto::Udp => udp(addr(from), addr(vip)).payload(*b"q"),
            Proto::Sctp => sctp(addr(from), addr(vip), &[chunks::INIT]).payload([0; 16]),
        };
        reached(self.gateway.send(0, &packet.wire()))
    }

    /// Where another packet of an open TCP flow goes.
    pub(crate) fn again(&mut self, from: &str, vip: &str) -> Reached {
        reached(self.gateway.send(0, &tcp(addr(from), addr(vip), flags::ACK).wire()))
    }

    fn next_port(&mut self) -> u16 {
        self.port = if self.port == u16::MAX { 1_024 } else { self.port + 1 };
        self.port
    }
}

/// A client of the VIP's family.
pub(crate) fn client(vip: &str, port: u16) -> String {
    if addr(vip).is_ipv4() { format!("10.1.0.7:{port}") } else { format!("[fd01::7]:{port}") }
}

fn reached(outcome: Outcome) -> Reached {
    match outcome {
        Outcome::Translated(wire) => Reached::Endpoint(assert_valid(&wire).dst),
        Outcome::Replied(_) => Reached::Refused,
        Outcome::Dropped(reason) => Reached::Dropped(reason.label()),
        Outcome::Passed(_) => Reached::Passed,
        Outcome::Parked => panic!("one worker waits for nobody"),
    }
}

/// The address is nobody's, but could be a Service's.
pub(crate) fn unallocated() -> BTreeSet<Reached> {
    [Reached::Dropped(DropReason::UnallocatedVip.label())].into()
}

/// The address is a Service's, and nobody serves.
pub(crate) fn refused() -> BTreeSet<Reached> {
    [Reached::Refused].into()
}
