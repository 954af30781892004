//! Random stories for the gateway: steps, the small world they play in, and the run against the model.
//!
//! The world is small on purpose: few clients, ports and endpoints, so that tuples meet again, clash and are reused.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::packet::tuple::Proto;
use dataplane::service::World;
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;

use crate::cluster::{Cluster, Sources, addr};
use crate::gateway::{Gateway, Outcome};
use crate::oracle::{Known, Leave, Oracle};
use crate::packets::{Spec, Wire, flags};

mod make;
mod malformed;
mod pieces;
mod step;
mod strategy;

pub(crate) use make::sources;
use make::{client_addr, error, packet, plain, stranger, uncut};
pub use malformed::{Malformed, malformed};
pub use step::{Change, Converse, Cutting, Segment, Step};
pub use strategy::script;

/// A story and the gateway it happens to.
#[derive(Clone, Debug)]
pub struct Script {
    /// Workers.
    pub workers: u8,
    /// The tables are nearly full from the beginning.
    pub small: bool,
    /// Whose address endpoints see: 0 nobody's, 1 to 3 by a rule that keeps some.
    pub sources: u8,
    /// For the engines' draws.
    pub seed: u64,
    /// What happens.
    pub steps: Vec<Step>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, small, sources, seed, .. } = self;
        writeln!(f, "{workers} workers, small: {small}, sources {sources}, seed {seed}")?;
        self.steps.iter().enumerate().try_for_each(|(index, step)| writeln!(f, "{index:3}: {step:?}"))
    }
}

/// How often each kind of end was seen.
pub type Histogram = BTreeMap<String, u64>;

/// What is served at first: protocol, frontend, endpoints.
pub(crate) const FRONTENDS: [(Proto, &str, &[&str]); 11] = [
    (Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080", "10.244.1.2:8080", "10.244.2.1:8080"]),
    // Shares an endpoint with the one above: one client port to both makes a real clash.
    (Proto::Tcp, "10.96.0.11:8080", &["10.244.1.1:8080"]),
    (Proto::Udp, "10.96.0.10:53", &["10.244.1.1:5353", "10.244.1.2:53"]),
    (Proto::Udp, "10.96.0.11:53", &["10.244.1.2:53"]),
    (Proto::Tcp, "10.96.0.12:443", &[]),
    (Proto::Tcp, "[fd96::10]:80", &["[fd24::1:1]:8080", "[fd24::1:2]:8080"]),
    (Proto::Udp, "[fd96::10]:53", &["[fd24::1:1]:53", "[fd24::1:3]:53"]),
    (Proto::Udp, "[fd96::11]:53", &["[fd24::1:3]:53"]),
    (Proto::Sctp, "10.96.0.10:80", &["10.244.1.1:8080", "10.244.1.2:80", "10.244.2.1:80"]),
    (Proto::Sctp, "10.96.0.11:80", &["10.244.1.2:80"]),
    (Proto::Sctp, "[fd96::10]:80", &["[fd24::1:1]:80", "[fd24::1:2]:8080"]),
];
const PORTS: [u16; 5] = [40_000, 40_001, 500, 1_000, 65_535];

/// Runs a story against the model.
///
/// # Errors
/// The step and the property it broke.
pub fn run(script: &Script, histogram: &mut Histogram) -> Result<(), String> {
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    // One chunk for each worker and one to spare; or one worker and one chunk.
    let (workers, flows) = if script.small { (1, 4_096) } else { (script.workers, 16_384) };
    let mut gateway = Gateway::new(workers, flows, &config, script.seed);
    let mut cluster = Cluster::default();
    cluster.sources = sources(script.sources);
    for (n, (proto, vip, endpoints)) in (0_u32..).zip(FRONTENDS) {
        let id = cluster.serve(proto, vip, endpoints);
        cluster.service(id).affinity = n.is_multiple_of(2).then_some(30 + n);
    }
    let oracle = Oracle::new(Leave { small: script.small });
    let mut play = Play { oracle, ready: false, datagrams: 0, histogram };
    if script.small {
        play.fill(&mut gateway, &mut cluster)?;
    }
    for (index, step) in script.steps.iter().enumerate() {
        let compare = index % 16 == 0 || index + 1 == script.steps.len();
        play.step(step, compare, &mut gateway, &mut cluster)
            .map_err(|what| format!("step {index}, {step:?}: {what}"))?;
    }
    let totals = gateway.totals();
    for (what, n) in [
        ("clash", play.oracle.clashes),
        ("clash of a kept source", play.oracle.kept_clashes),
        ("kept source", play.oracle.kept),
        ("associated", play.oracle.associated),
        ("remembered", play.oracle.sticky()[0]),
        ("forgotten in time", play.oracle.sticky()[1]),
        ("reopened", totals.get(Counter::FlowsReopened)),
        ("expired", totals.get(Counter::FlowsExpired)),
        ("evicted", totals.get(Counter::FlowsEvicted)),
        ("purged", totals.get(Counter::FlowsPurged)),
        ("errors translated", totals.get(Counter::IcmpErrorsTranslated)),
        ("fragments held", totals.get(Counter::FragmentsHeld)),
        ("fragments of SCTP", totals.drops(DropReason::SctpFragment)),
    ] {
        *play.histogram.entry(what.into()).or_default() += n;
    }
    Ok(())
}

struct Play<'a> {
    oracle: Oracle,
    ready: bool,
    /// Packets sent in fragments so far: the identification of the last.
    datagrams: u32,
    histogram: &'a mut Histogram,
}

impl Play<'_> {
    /// Plays a step, and compares the whole table with the model when `compare` asks for it, or time passed.
    fn step(
        &mut self,
        step: &Step,
        compare: bool,
        gateway: &mut Gateway,
        cluster: &mut Cluster,
    ) -> Result<(), String> {
        let mut swept = None;
        match step {
            Step::Client { worker, client, port, service, segment } => {
                let (proto, vip, _) = FRONTENDS[usize::from(*service) % FRONTENDS.len()];
                let vip = addr(vip);
                let port = PORTS[usize::from(*port) % PORTS.len()];
                let kept = matches!(cluster.sources, Sources::Kept { .. });
                let client = client_addr(vip.is_ipv6(), *client, port, kept);
                self.send(gateway, cluster, *worker, &packet(proto, client, vip, *segment))?;
            }
            Step::Known { worker, flow, reply, segment } => {
                if let Some((proto, src, dst)) = self.ends(*flow, *reply) {
                    self.send(gateway, cluster, *worker, &packet(proto, src, dst, *segment))?;
                }
            }
            Step::Pieces { worker, client, port, service, known, segment, cutting } => {
                let (proto, vip, _) = FRONTENDS[usize::from(*service) % FRONTENDS.len()];
                let (vip, port) = (addr(vip), PORTS[usize::from(*port) % PORTS.len()]);
                let kept = matches!(cluster.sources, Sources::Kept { .. });
                let client = client_addr(vip.is_ipv6(), *client, port, kept);
                let known = known.and_then(|(flow, reply)| self.ends(flow, reply));
                let (proto, src, dst) = known.unwrap_or((proto, client, vip));
                let packet = uncut(proto, src, dst, *segment);
                self.send_in_pieces(gateway, cluster, *worker, &packet, *cutting)?;
            }
            Step::Converse { worker, flow, how } => {
                let ends = (self.ends(*flow, false), self.ends(*flow, true));
                let proto = ends.0.map_or(Proto::Tcp, |(proto, ..)| proto);
                for (n, (reply, flags)) in (0..).zip(how.packets(proto)) {
                    if let (Some(client), Some(server)) = ends {
                        let (proto, src, dst) = if *reply { server } else { client };
                        let segment = Segment { flags: *flags, payload: 0, offload: worker + n };
                        self.send(gateway, cluster, worker + n, &packet(proto, src, dst, segment))?;
                    }
                }
            }
            Step::Error { worker, flow, reply, kind, forged, quoted } => {
                if let Some((proto, src, dst)) = self.ends(*flow, *reply) {
                    let about = self.as_received(*flow, *reply, proto, src, dst);
                    let wire = error(about, *kind, *forged, usize::from(*quoted));
                    self.send(gateway, cluster, *worker, &wire)?;
                }
            }
            Step::Stranger { worker, which } => self.send(gateway, cluster, *worker, &stranger(*which))?,
            Step::Malformed { worker, which } => {
                let all = malformed();
                let one = &all[usize::from(*which) % all.len()];
                let outcome = gateway.send_raw(usize::from(*worker), &one.raw);
                // An error that cannot be read is ours to count only if its destination is.
                let or_else = match (one.reason == DropReason::BadIcmpError, self.ready) {
                    (true, true) => matches!(outcome, Outcome::Passed(_)),
                    (true, false) => outcome == Outcome::Dropped(DropReason::NotReady),
                    (false, _) => false,
                };
                let allowed = outcome == Outcome::Dropped(one.reason) || or_else;
                if !allowed {
                    return Err(format!("{}: {outcome:?}", one.name));
                }
                self.count("malformed");
            }
            Step::Change { service, endpoint, change } => {
                self.change(*service, *endpoint, *change, cluster);
                if self.ready {
                    self.publish(gateway, cluster);
                }
            }
            Step::Ready(ready) => {
                self.ready = *ready;
                if *ready {
                    self.publish(gateway, cluster);
                } else {
                    gateway.world = World::NotReady;
                }
            }
            Step::Advance(seconds) => {
                let until = gateway.now.plus_nanos(u64::from(*seconds) * 1_000_000_000);
                gateway.advance(Duration::from_secs(u64::from(*seconds)));
                // Whatever had run out before the last ten seconds began must be gone.
                swept = (*seconds >= 10)
                    .then(|| dataplane::clock::Time::from_nanos(until.nanos() - 10_000_000_000));
            }
        }
        if compare || matches!(step, Step::Advance(_)) {
            self.oracle.compare(gateway, self.ready.then_some(cluster), swept)?;
        }
        Ok(())
    }

    fn publish(&mut self, gateway: &mut Gateway, cluster: &mut Cluster) {
        gateway.publish(cluster);
        self.oracle.published(cluster);
    }

    /// Leaves room for two IPv4 flows; the others are half open.
    fn fill(&mut self, gateway: &mut Gateway, cluster: &mut Cluster) -> Result<(), String> {
        self.publish(gateway, cluster);
        self.ready = true;
        for n in 0..4_094 {
            let client = addr(&format!("10.50.{}.{}:{}", n / 256, n % 256, 2_000 + n));
            let segment = Segment { flags: flags::SYN, payload: 0, offload: 7 };
            self.send(gateway, cluster, 0, &packet(Proto::Tcp, client, addr("10.96.0.10:80"), segment))?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        gateway: &mut Gateway,
        cluster: &Cluster,
        worker: u8,
        wire: &Wire,
    ) -> Result<(), String> {
        let evicted = gateway.totals().get(Counter::FlowsEvicted);
        let outcome = gateway.send(usize::from(worker), wire);
        if gateway.totals().get(Counter::FlowsEvicted) != evicted {
            self.oracle.lose(gateway)?;
        }
        self.count(match &outcome {
            Outcome::Translated(_) => "translated",
            Outcome::Passed(_) => "passed",
            Outcome::Replied(_) => "replied",
            Outcome::Dropped(reason) => reason.label(),
            Outcome::Parked => "parked",
        });
        self.oracle
            .judge(self.ready.then_some(cluster), wire, &outcome, gateway.now)
            .map_err(|what| format!("{what}; sent {:02x?}", wire.bytes.get(..60).unwrap_or(&wire.bytes)))
    }

    fn count(&mut self, what: &str) {
        *self.histogram.entry(what.into()).or_default() += 1;
    }

    fn flow(&self, index: u16) -> Option<&Known> {
        let count = self.oracle.flows().len();
        self.oracle.flows().nth(usize::from(index).checked_rem(count)?)
    }

    /// Protocol, sender and receiver of a packet of a flow, as it arrives at the gateway.
    fn ends(&self, flow: u16, reply: bool) -> Option<(Proto, SocketAddr, SocketAddr)> {
        let flow = self.flow(flow)?;
        let tuple = if reply { flow.reply } else { flow.forward };
        let (src, dst) = (SocketAddr::new(tuple.src, tuple.sport), SocketAddr::new(tuple.dst, tuple.dport));
        Some((tuple.proto, src, dst))
    }

    /// A packet one end sent, as the other end, or a router before it, receives it.
    fn as_received(&self, flow: u16, reply: bool, proto: Proto, src: SocketAddr, dst: SocketAddr) -> Spec {
        let other = self.ends(flow, !reply).map_or((src, dst), |(_, from, to)| (to, from));
        plain(proto, other.0, other.1, Segment { flags: flags::ACK, payload: 100, offload: 0 })
    }

    fn change(&self, service: u8, endpoint: u8, change: Change, cluster: &mut Cluster) {
        let (proto, vip, endpoints) = FRONTENDS[usize::from(service) % FRONTENDS.len()];
        match change {
            Change::Serve => {
                cluster.serve(proto, vip, endpoints);
            }
            Change::Remove => {
                let id = cluster.frontend(addr(vip), proto).map(|svc| svc.id.0);
                id.map(|id| cluster.services.remove(&id));
            }
            Change::TakeOver => {
                let one = usize::from(endpoint).checked_rem(endpoints.len());
                cluster.serve_anew(proto, vip, one.map_or(&[], |one| &endpoints[one..=one]));
            }
            Change::Affinity(seconds) => {
                let id = cluster.frontend(addr(vip), proto).map(|svc| svc.id);
                id.into_iter().for_each(|id| cluster.service(id).affinity = seconds);
            }
            Change::Withdraw | Change::Restore | Change::Terminate => {
                let Some(id) = cluster.frontend(addr(vip), proto).map(|svc| svc.id) else { return };
                let Some(at) =
                    usize::from(endpoint).checked_rem(endpoints.len()).map(|at| addr(endpoints[at]))
                else {
                    return;
                };
                let svc = cluster.service(id);
                svc.endpoints.retain(|one| one.at != at);
                let (usable, serving) = match change {
                    Change::Restore => (true, true),
                    Change::Terminate => (false, true),
                    Change::Withdraw
                    | Change::Remove
                    | Change::Serve
                    | Change::TakeOver
                    | Change::Affinity(_) => return,
                };
                svc.endpoints.push(crate::cluster::Ep { at, usable, serving });
            }
        }
    }
}
