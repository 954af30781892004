//! A cluster of Services for the benches of this crate: every one with a ClusterIP, a port and a slice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use control::compile::Compiler;
use control::desired::Desired;
use control::model::{Endpoint, ObjectKey, Port, Service, Slice, SlicePort};
use control::source::{Event, Kind};
use dataplane::packet::tuple::Proto;
use dataplane::service::{Fabric, Policy, World};

/// Endpoints of every Service.
const ENDPOINTS: u32 = 10;

/// Objects, a compiler, and the counter of purge epochs.
pub(crate) struct Cluster {
    pub(crate) desired: Desired,
    pub(crate) compiler: Compiler,
    epoch: u16,
}

impl Cluster {
    /// A cluster of this many Services, listed and not yet compiled.
    pub(crate) fn new(services: u32) -> Self {
        let mut desired = Desired::new("node-a");
        desired.apply(Event::Restart(Kind::Service));
        desired.apply(Event::Restart(Kind::Slice));
        for n in 0..services {
            desired.apply(Event::Service(Box::new(service(n))));
            desired.apply(Event::Slice(Box::new(slice(n, ENDPOINTS))));
        }
        desired.apply(Event::Done(Kind::Service));
        desired.apply(Event::Done(Kind::Slice));
        let fabric = Fabric {
            snat: vec![Ipv4Addr::new(192, 0, 2, 1).into()],
            service_cidrs: vec![(Ipv4Addr::new(10, 96, 0, 0).into(), 12)],
            ..Fabric::default()
        };
        Self { desired, compiler: Compiler::new(fabric), epoch: 0 }
    }

    /// Compiles; something must have changed.
    pub(crate) fn compile(&mut self) -> std::sync::Arc<World> {
        let epoch = &mut self.epoch;
        let mut advance = || {
            *epoch = *epoch % 16_383 + 1;
            *epoch
        };
        let world = self.compiler.compile(&mut self.desired, &mut advance);
        world.expect("a valid world").expect("a change")
    }
}

/// What a watch says in turn `turn` among this many Services, one after the other: in the first round each loses
/// an endpoint, in the second it has it back, and so on.
pub(crate) fn change(turn: u32, services: u32) -> Event {
    Event::Slice(Box::new(slice(turn % services, ENDPOINTS - (turn / services + 1) % 2)))
}

fn key(n: u32, suffix: &str) -> ObjectKey {
    ObjectKey { namespace: format!("team-{}", n % 50), name: format!("service-{n}{suffix}") }
}

fn service(n: u32) -> Service {
    let port = Port { name: "http".into(), proto: Proto::Tcp, port: 80, node_port: None };
    Service {
        key: key(n, ""),
        cluster_ips: vec![at(Ipv4Addr::new(10, 96, 0, 1), n)],
        ports: vec![port],
        internal: Policy::Cluster,
        external: Policy::Cluster,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        health_check_port: None,
        affinity: None,
        created: 1_700_000_000 + i64::from(n),
        balance: Default::default(),
    }
}

fn slice(n: u32, endpoints: u32) -> Slice {
    let endpoint = |m| Endpoint {
        zone: None,
        addr: at(Ipv4Addr::new(10, 128, 0, 1), n * ENDPOINTS + m),
        ready: true,
        serving: true,
        terminating: false,
        node: Some(format!("node-{}", (n + m) % 100)),
        node_hints: BTreeSet::new(),
        zone_hints: BTreeSet::new(),
        target: Some(format!("service-{n}-{m}")),
    };
    Slice {
        labels: BTreeMap::new(),
        key: key(n, "-x1"),
        service: key(n, ""),
        ports: vec![SlicePort { name: "http".into(), proto: Proto::Tcp, port: 8080 }],
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}

fn at(base: Ipv4Addr, n: u32) -> IpAddr {
    Ipv4Addr::from_bits(base.to_bits() + n).into()
}
