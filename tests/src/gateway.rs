//! A gateway of one or more engines that share their tables, on a virtual clock.
//!
//! It plays the workers' part: it fills batches, sweeps, and checks after every batch that each frame moved exactly
//! one counter.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use dataplane::clock::Time;
use dataplane::engine::{Engine, EngineConfig, Tables};
use dataplane::flow::{FlowView, Key, Region, RegionConfig, Table, Ttls};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::frame::{BATCH, Batch};
use dataplane::packet::tuple::Tuple;
use dataplane::service::{Affinity, World};
use dataplane::stats::{Counter, Totals, WorkerStats};
use dataplane::verdict::{DropReason, Verdict};

use crate::cluster::Cluster;
use crate::packets::Wire;

/// Clients session affinity remembers.
const AFFINITY: usize = 16_384;

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Translated, into this.
    Translated(Wire),
    /// Not ours: written back.
    Passed(Wire),
    /// Consumed; this is the answer.
    Replied(Wire),
    /// Dropped.
    Dropped(DropReason),
    /// Waiting: for another worker, or for its datagram's first fragment.
    Parked,
}

impl Outcome {
    /// The packet that leaves, if one does.
    #[must_use]
    pub fn wire(&self) -> Option<&Wire> {
        match self {
            Self::Translated(wire) | Self::Passed(wire) | Self::Replied(wire) => Some(wire),
            Self::Dropped(_) | Self::Parked => None,
        }
    }
}

/// A live flow as the table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Client to VIP.
    pub forward: Tuple<IpAddr>,
    /// Endpoint to SNAT address, as it arrives.
    pub reply: Tuple<IpAddr>,
    /// Its state's name.
    pub state: &'static str,
    /// Its service port.
    pub service: ServiceId,
    /// Seconds until it expires.
    pub expires: u32,
    /// Packets forward and back.
    pub packets: [u64; 2],
    /// Where it goes.
    pub endpoint: EndpointId,
    /// Counted at its endpoint.
    pub active: bool,
}

impl Flow {
    fn of<const N: usize>(forward: Tuple<IpAddr>, reply: Tuple<IpAddr>, view: &FlowView<N>) -> Self {
        let (state, service, expires, packets) = (view.state, view.service, view.expires, view.packets);
        Self {
            forward,
            reply,
            state,
            service,
            expires,
            packets,
            endpoint: view.endpoint,
            active: view.active,
        }
    }
}

/// Engines over shared tables, with a virtual clock.
#[derive(Debug)]
pub struct Gateway {
    /// The region behind the tables.
    pub region: Arc<Region>,
    /// The tables.
    pub tables: Tables,
    /// The present.
    pub now: Time,
    /// What the engines see.
    pub world: World,
    engines: Vec<Engine>,
    stats: Vec<Arc<CachePadded<WorkerStats>>>,
    batch: Batch,
}

impl Gateway {
    /// So many engines over tables of `flows` records a family, not ready.
    ///
    /// # Panics
    /// When the region cannot be made.
    #[must_use]
    pub fn new(workers: u8, flows: u32, config: &EngineConfig, seed: u64) -> Self {
        // Near the top of the 20-bit second, so that long tests cross it.
        let now = Time::from_secs((1 << 20) - 600);
        let region =
            RegionConfig { dir: None, name: "test".into(), max_flows_v4: flows, max_flows_v6: flows };
        let region = Region::open(&region, now).expect("a region in memory");
        let tables = Tables::new(
            Table::new(&region, Ttls::default()),
            Table::new(&region, Ttls::default()),
            Affinity::new(AFFINITY),
        );
        let stats: Vec<Arc<CachePadded<WorkerStats>>> = (0..workers).map(|_| Arc::default()).collect();
        let engine = |(id, stats): (u8, &Arc<CachePadded<WorkerStats>>)| {
            Engine::new(
                WorkerId(id),
                tables.clone(),
                config.clone(),
                Arc::clone(stats),
                seed ^ u64::from(id) << 56,
            )
        };
        let engines = (0..).zip(&stats).map(engine).collect();
        Self { region, now, world: World::NotReady, engines, stats, batch: Batch::default(), tables }
    }

    /// How many engines there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.engines.len()
    }

    /// Makes the cluster as it stands the world of every engine.
    pub fn publish(&mut self, cluster: &mut Cluster) {
        let snapshot = cluster.snapshot(|| self.region.advance_purge_epoch());
        for backend in snapshot.services().flat_map(|service| &service.backends) {
            self.region.loads().reserve(backend.id);
        }
        self.world = World::Ready(snapshot);
    }

    /// Sends one packet through worker `worker`.
    ///
    /// # Panics
    /// When frames and counters do not agree.
    pub fn send(&mut self, worker: usize, wire: &Wire) -> Outcome {
        self.send_all(worker, std::slice::from_ref(wire)).remove(0)
    }

    /// Sends one frame of any bytes, virtio-net header included, through worker `worker`.
    ///
    /// # Panics
    /// When frames and counters do not agree.
    pub fn send_raw(&mut self, worker: usize, raw: &[u8]) -> Outcome {
        self.batch.clear();
        let frame = self.batch.spare().expect("an empty batch has room");
        frame.buffer_mut()[..raw.len()].copy_from_slice(raw);
        frame.set_len(raw.len());
        self.batch.push();
        self.process(worker).remove(0)
    }

    /// Sends up to a batch of packets through one worker at once. What had waited and leaves now comes behind them.
    ///
    /// # Panics
    /// When frames and counters do not agree, or there are more than a batch.
    pub fn send_all(&mut self, worker: usize, wires: &[Wire]) -> Vec<Outcome> {
        assert!(wires.len() <= BATCH, "more than a batch");
        self.batch.clear();
        for wire in wires {
            wire.put(&mut self.batch);
        }
        self.process(worker)
    }

    /// One worker's turn with an empty batch: what had waited and leaves now.
    ///
    /// # Panics
    /// When frames and counters do not agree.
    pub fn turn(&mut self, worker: usize) -> Vec<Outcome> {
        self.send_all(worker, &[])
    }

    /// Frames that wait: for another worker, for room in a batch, for a first fragment.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.engines.iter().map(Engine::parked).sum::<usize>() + self.tables.fragments.held()
    }

    /// Every frame read has an end, or waits.
    ///
    /// # Panics
    /// When not.
    pub fn assert_nothing_uncounted(&self) {
        let totals = self.totals();
        let ends =
            [Counter::Translated, Counter::Passed, Counter::Replied].map(|counter| totals.get(counter));
        let sum = ends.iter().sum::<u64>() + totals.dropped() + self.waiting() as u64;
        assert_eq!(totals.get(Counter::Received), sum, "{totals:?}");
    }

    /// One worker's turn with a batch of the caller's, and nothing else: no copies, no checks.
    pub fn step(&mut self, worker: usize, batch: &mut Batch) {
        self.engines[worker].process(batch, &self.world, self.now);
    }

    fn process(&mut self, worker: usize) -> Vec<Outcome> {
        let worker = worker % self.engines.len();
        let before = self.stats[worker].read();
        let frames = self.batch.frames().len();
        let bytes = self.batch.frames().iter().map(|frame| frame.packet().len()).sum();
        self.engines[worker].process(&mut self.batch, &self.world, self.now);
        let mut replies = self.batch.replies().iter();
        let outcomes: Vec<Outcome> = self
            .batch
            .frames()
            .iter()
            .map(|frame| {
                let wire = || Wire { vnet: frame.vnet().unwrap_or_default(), bytes: frame.packet().to_vec() };
                match frame.verdict {
                    None => Outcome::Parked,
                    Some(Verdict::Translated) => Outcome::Translated(wire()),
                    Some(Verdict::Passed) => Outcome::Passed(wire()),
                    Some(Verdict::Dropped(reason)) => Outcome::Dropped(reason),
                    Some(Verdict::Replied) => {
                        let reply = replies.next().expect("a reply frame for every answered frame");
                        Outcome::Replied(Wire {
                            vnet: reply.vnet().expect("a reply frame has a header"),
                            bytes: reply.packet().to_vec(),
                        })
                    }
                }
            })
            .collect();
        assert!(replies.next().is_none(), "more replies than answered frames");
        check_counters(&before, (frames, bytes), &outcomes, &self.stats[worker].read());
        self.assert_nothing_uncounted();
        outcomes
    }

    /// Lets time pass, sweeping as idle workers do. At least the last ten seconds are swept in small steps, which
    /// is more than one cycle of the clock hand.
    pub fn advance(&mut self, by: Duration) {
        self.sweep_until(self.now.plus_nanos(u64::try_from(by.as_nanos()).expect("less than 500 years")));
    }

    /// As [`Gateway::advance`], to a moment.
    pub fn sweep_until(&mut self, until: Time) {
        let step: u64 = 50_000_000;
        let swept = 200 * step;
        if until.since(self.now) > swept {
            self.now = Time::from_nanos(until.nanos() - swept);
        }
        while self.now < until {
            self.now = self.now.plus_nanos(step.min(until.since(self.now)));
            for engine in &mut self.engines {
                engine.sweep(&self.world, self.now);
            }
        }
        self.keep_house();
    }

    /// What the control thread does now and then.
    pub fn keep_house(&self) {
        if let World::Ready(snapshot) = &self.world {
            self.tables.affinity.tidy(snapshot, self.now.tick());
        }
    }

    /// Counters of all workers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for stats in &self.stats {
            sum.merge(&stats.read());
        }
        sum
    }

    /// Every live flow of both families.
    #[must_use]
    pub fn flows(&self) -> Vec<Flow> {
        let mut all = Vec::new();
        self.tables.v4.for_each(self.now.tick(), |view| {
            let tuple = |key: Key<2>| Tuple::<std::net::Ipv4Addr>::from(key).any();
            let (forward, reply) = (tuple(view.forward), tuple(view.reply));
            all.push(Flow::of(forward, reply, &view));
        });
        self.tables.v6.for_each(self.now.tick(), |view| {
            let tuple = |key: Key<5>| Tuple::<std::net::Ipv6Addr>::from(key).any();
            let (forward, reply) = (tuple(view.forward), tuple(view.reply));
            all.push(Flow::of(forward, reply, &view));
        });
        all
    }
}

/// Packets in = translated + passed + replied + dropped, to the unit, and each by the counter of its verdict. Dropped
/// may be more than these: fragments that had waited.
fn check_counters(before: &Totals, (frames, bytes): (usize, usize), outcomes: &[Outcome], after: &Totals) {
    let moved = |counter| after.get(counter) - before.get(counter);
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|one| wanted(one)).count() as u64;
    assert_eq!(moved(Counter::Received), frames as u64);
    assert_eq!(moved(Counter::ReceivedBytes), bytes as u64);
    assert_eq!(moved(Counter::Translated), count(|one| matches!(one, Outcome::Translated(_))));
    assert_eq!(moved(Counter::Passed), count(|one| matches!(one, Outcome::Passed(_))));
    assert_eq!(moved(Counter::Replied), count(|one| matches!(one, Outcome::Replied(_))));
    for reason in DropReason::ALL {
        let dropped = outcomes.iter().filter(|one| **one == Outcome::Dropped(*reason)).count() as u64;
        let moved = after.drops(*reason) - before.drops(*reason);
        assert!(
            moved == dropped || moved > dropped && after.get(Counter::Fragments) > 0,
            "{}",
            reason.label()
        );
    }
}
