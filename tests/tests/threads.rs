//! Real threads on one table: what one thread on a virtual clock cannot show.
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam::utils::CachePadded;
use dataplane::clock::{Clock, Time};
use dataplane::engine::{Engine, EngineConfig, Tables};
use dataplane::flow::{Dir, Hit, Key, Met, NewFlow, Opened, Region, RegionConfig, Table, Ttls};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::frame::{BATCH, Batch};
use dataplane::packet::layout::L4Flags;
use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::{Affinity, World};
use dataplane::stats::{Counter, Totals, WorkerStats};
use dataplane::verdict::Verdict;
use tests::check::{L4, assert_valid};
use tests::cluster::{Cluster, addr};
use tests::packets::{Wire, flags, tcp, udp};

const TIME: Duration = Duration::from_secs(8);
/// Packets of a round: as many as may wait for the other worker. Two that march in step race for every one.
const TOGETHER: usize = BATCH / 2;

fn tables(flows: u32) -> (Arc<Region>, Tables) {
    let config = RegionConfig { dir: None, name: "threads".into(), max_flows_v4: flows, max_flows_v6: 4_096 };
    let region = Region::open(&config, Clock.now()).expect("a region in memory");
    let v4 = Table::new(&region, Ttls::default());
    let v6 = Table::new(&region, Ttls::default());
    let tables = Tables::new(v4, v6, Affinity::new(1 << 18));
    (region, tables)
}

fn over(start: Time) -> bool {
    u128::from(Clock.now().since(start)) > TIME.as_nanos()
}

/// Where all threads start a round together, as closely as two cores allow.
struct Start {
    arrived: AtomicUsize,
    /// The round that is not run any more.
    last: AtomicUsize,
}

impl Start {
    /// Waits until all `threads` are in this round; false when the time is over.
    fn meet(&self, threads: usize, round: usize) -> bool {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0_u32;
        while self.arrived.load(Ordering::Acquire) < threads * (round + 1) {
            spins += 1;
            assert!(spins < 100_000_000, "the other thread is gone");
            if spins.is_multiple_of(256) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        round < self.last.load(Ordering::Acquire)
    }
}

/// The packets of a round, each with a client port of its own, so that no port ever has to change.
fn first_packets(round: usize) -> Vec<Wire> {
    let vip = addr("10.96.0.10:53");
    let one = |k: usize| {
        let number = round * TOGETHER + k;
        let client = addr(&format!("10.1.2.3:{}", 1_024 + number / 2));
        if number.is_multiple_of(2) {
            udp(client, vip).payload(*b"q").wire()
        } else {
            tcp(client, vip, flags::SYN).wire()
        }
    };
    (0..TOGETHER).map(one).collect()
}

/// Where the packets of a round went, by protocol and client port.
type Went = BTreeMap<(bool, u16), SocketAddr>;

fn collect(batch: &Batch, went: &mut Went) {
    for frame in batch.frames() {
        match frame.verdict {
            Some(Verdict::Translated) => {
                let wire = Wire { vnet: frame.vnet().expect("a header"), bytes: frame.packet().to_vec() };
                let view = assert_valid(&wire);
                let again = went.insert((matches!(view.l4, L4::Tcp { .. }), view.src.port()), view.dst);
                assert_eq!(again, None, "one packet in, one packet out");
            }
            // It waits for the other worker.
            None => {}
            Some(other) => panic!("a first packet ended as {other:?}"),
        }
    }
}

/// One TCP and one UDP Service with 49 endpoints, which keep their clients if it says so.
fn world(region: &Region, affinity: Option<u32>) -> World {
    let mut cluster = Cluster::default();
    let endpoints: Vec<String> = (1..50).map(|n| format!("10.244.1.{n}:53")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    for proto in [Proto::Udp, Proto::Tcp] {
        let id = cluster.serve(proto, "10.96.0.10:53", &endpoints);
        cluster.service(id).affinity = affinity;
    }
    World::Ready(cluster.snapshot(|| region.advance_purge_epoch()))
}

/// Two workers, each with its packets of every round at the same time as the other; where they went.
fn race(
    tables: &Tables,
    world: &World,
    rounds: usize,
    packets: impl Fn(u8, usize) -> Vec<Wire> + Sync,
) -> ([Vec<Went>; 2], Totals) {
    let stats: [Arc<CachePadded<WorkerStats>>; 2] = Default::default();
    let start = Start { arrived: AtomicUsize::new(0), last: AtomicUsize::new(rounds) };
    let begun = Clock.now();
    let worker = |id: u8| {
        let stats = Arc::clone(&stats[usize::from(id)]);
        let mut engine =
            Engine::new(WorkerId(id), tables.clone(), EngineConfig::default(), stats, u64::from(id) + 1);
        let mut batch = Batch::default();
        let mut all = Vec::new();
        for round in 0..rounds {
            let packets = packets(id, round);
            batch.clear();
            for wire in &packets {
                wire.put(&mut batch);
            }
            if id == 0 && over(begun) {
                start.last.store(round, Ordering::Release);
            }
            if !start.meet(2, round) {
                break;
            }
            let mut went = Went::new();
            // The engine's clock stands still while frames wait: on a busy machine the other thread may sleep in the
            // middle of an open for longer than a frame's patience, which is no matter of who opens what.
            let now = Clock.now();
            engine.process(&mut batch, world, now);
            collect(&batch, &mut went);
            while engine.parked() > 0 {
                thread::yield_now();
                batch.clear();
                engine.process(&mut batch, world, now);
                collect(&batch, &mut went);
            }
            all.push(went);
        }
        all
    };
    let (one, two) = thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| worker(0)), scope.spawn(|| worker(1)));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!(one.len() > 100 && one.len() == two.len(), "{} and {} rounds", one.len(), two.len());
    let mut totals = Totals::default();
    stats.iter().for_each(|stats| totals.merge(&stats.read()));
    assert_eq!(totals.dropped(), 0);
    ([one, two], totals)
}

#[test]
fn the_first_packets_of_a_flow_on_two_workers_at_once_open_one_flow() {
    let (region, tables) = tables(1 << 18);
    let world = world(&region, None);
    let ([one, two], totals) = race(&tables, &world, 3_900, |_, round| first_packets(round));
    for (round, (one, two)) in one.iter().zip(&two).enumerate() {
        assert_eq!(one, two, "round {round}: both workers found the same endpoint and kept the port");
        let ports = |number: usize| (number % 2 == 1, u16::try_from(1_024 + number / 2).unwrap());
        let wanted: BTreeSet<_> = (round * TOGETHER..(round + 1) * TOGETHER).map(ports).collect();
        assert_eq!(one.keys().copied().collect::<BTreeSet<_>>(), wanted, "round {round}");
    }
    assert_eq!(totals.get(Counter::FlowsOpened), (one.len() * TOGETHER) as u64);
    assert_eq!(totals.get(Counter::PortClashes), 0);
    println!(
        "measured: {} pairs, {} waited for the other worker",
        one.len() * TOGETHER,
        totals.get(Counter::Parked)
    );
}

/// Session affinity: each round has clients nobody saw before, and either worker the first packet of another flow of each.
#[test]
fn the_first_flows_of_a_client_on_two_workers_at_once_get_one_endpoint() {
    const ROUNDS: usize = 2_000;
    let (region, tables) = tables(1 << 17);
    let world = world(&region, Some(600));
    let vip = addr("10.96.0.10:53");
    // Ports tell clients apart when their addresses are translated.
    let port = |number: usize, id: u8| u16::try_from(1_024 + 2 * number + usize::from(id)).unwrap();
    let ([one, two], totals) = race(&tables, &world, ROUNDS, |id, round| {
        let packet = |number: usize| {
            let [high, low, ..] = u16::try_from(number).unwrap().to_be_bytes();
            let client = SocketAddr::new(Ipv4Addr::new(10, 7, high, low).into(), port(number, id));
            tcp(client, vip, flags::SYN).wire()
        };
        (round * TOGETHER..(round + 1) * TOGETHER).map(packet).collect()
    });
    let rounds = one.len();
    let [one, two] = [one, two].map(|rounds| rounds.into_iter().flatten().collect::<Went>());
    let mut reached = BTreeMap::<SocketAddr, usize>::new();
    for number in 0..rounds * TOGETHER {
        let [first, second] = [(&one, 0), (&two, 1)].map(|(went, id)| went[&(true, port(number, id))]);
        assert_eq!(first, second, "client {number}");
        *reached.entry(first).or_default() += 1;
    }
    assert_eq!(totals.get(Counter::FlowsOpened), (2 * rounds * TOGETHER) as u64);
    assert_eq!(tables.affinity.len(), rounds * TOGETHER);
    // Uniform over 49: 32,000 clients leave nobody below a half or above the double.
    let expected = rounds * TOGETHER / 49;
    assert!(
        reached.len() == 49 && reached.values().all(|n| (expected / 2..expected * 2).contains(n)),
        "{reached:?}"
    );
    println!("measured: {} clients met by two workers at once", rounds * TOGETHER);
}

const KEYS: u16 = 3_000;

/// The `n`th client's tuple.
fn forward(n: u16) -> Tuple<Ipv4Addr> {
    let sport = 1_024 + n / 2;
    let vip = Ipv4Addr::new(10, 96, 0, if n.is_multiple_of(2) { 10 } else { 11 });
    Tuple { src: Ipv4Addr::new(10, 1, 0, 1), dst: vip, sport, dport: 80, proto: Proto::Tcp }
}

/// Reply tuples to try: the first is the same for two clients, the second its own.
fn replies(n: u16) -> [Tuple<Ipv4Addr>; 2] {
    let snat = |sport| Tuple {
        src: Ipv4Addr::new(10, 244, 1, 1),
        dst: Ipv4Addr::new(10, 255, 0, 1),
        sport: 8_080,
        dport: sport,
        proto: Proto::Tcp,
    };
    let own = 30_000 + n;
    [snat(forward(n).sport), snat(own)]
}

fn id_of(n: u16) -> ServiceId {
    ServiceId(u32::from(n) + 1)
}

/// A hit of a key must be of this key's flow, whichever worker opened it and however often it was reopened.
fn check(n: u16, dir: Dir, hit: &Hit<2>) {
    assert_eq!(hit.dir, dir);
    let out = Tuple::<Ipv4Addr>::from(hit.out);
    match dir {
        Dir::Forward => assert!(replies(n).iter().any(|reply| reply.reversed() == out), "{n}: {out:?}"),
        Dir::Reply => assert_eq!(out, forward(n).reversed()),
    }
    assert_eq!(hit.service, id_of(n));
}

#[test]
fn three_threads_hammer_one_table_and_every_answer_is_of_the_key_asked_for() {
    let (_region, tables) = tables(1 << 16);
    let table = &*tables.v4;
    let begun = Clock.now();
    let work = |id: u8| {
        let mut own = table.chunks(WorkerId(id));
        let mut random = 0x9e37_79b9_7f4a_7c15_u64.rotate_left(u32::from(id) * 11);
        let mut tally = [0_u64; 7];
        let mut now = begun;
        for step in 0_u32.. {
            if step % 1_024 == 0 {
                now = Clock.now();
                table.sweep(&mut own, now, false, |_| false);
                if over(begun) {
                    break;
                }
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let n = u16::try_from(random >> 48).unwrap() % KEYS;
            let key = Key::from(forward(n));
            match table.lookup(table.hash(&key), &key) {
                Some(hit) => {
                    check(n, Dir::Forward, &hit);
                    match random % 16 {
                        0..3 => tally[1] += u64::from(table.kill(&hit)),
                        3 => table.touch(&hit, now.tick(), L4Flags::FIN),
                        4 => table.account(&hit, 1, 100),
                        _ => table.touch(&hit, now.tick(), L4Flags::ACK),
                    }
                }
                None => {
                    let new = NewFlow {
                        forward: key,
                        service: id_of(n),
                        endpoint: EndpointId(1),
                        epoch: 1,
                        masquerade: true,
                        tops: None,
                        pickup: false,
                        seen: L4Flags::SYN,
                        now,
                    };
                    let mut met = Met::default();
                    match table.open(&mut own, &new, replies(n).map(Key::from).into_iter(), &mut met) {
                        Opened::New(hit) => {
                            check(n, Dir::Forward, &hit);
                            tally[0] += 1;
                        }
                        Opened::Existing(hit) => {
                            check(n, Dir::Forward, &hit);
                            tally[2] += 1;
                        }
                        Opened::Raced => tally[3] += 1,
                        // What was killed is free again when the hand has met it.
                        Opened::TableFull => {
                            tally[5] += 1;
                            tally[6] += u64::from(table.sweep(&mut own, now, true, |_| false).evicted);
                        }
                        other @ (Opened::BucketFull | Opened::PortsExhausted) => panic!("{n}: {other:?}"),
                    }
                    tally[4] += u64::from(met.clashes);
                }
            }
            for reply in replies(n) {
                let key = Key::from(reply);
                if let Some(hit) = table.lookup(table.hash(&key), &key) {
                    // The first one may be the neighbour's.
                    let n = if hit.service == id_of(n ^ 1) { n ^ 1 } else { n };
                    check(n, Dir::Reply, &hit);
                }
            }
        }
        tally
    };
    let tallies: Vec<[u64; 7]> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|id| scope.spawn(move || work(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut forwards = BTreeSet::new();
    let mut backs = BTreeSet::new();
    table.for_each(Clock.now().tick(), |view| {
        let (forward, reply) = (Tuple::<Ipv4Addr>::from(view.forward), Tuple::<Ipv4Addr>::from(view.reply));
        assert!(forwards.insert(forward), "{forward:?} twice");
        assert!(backs.insert(reply), "{reply:?} twice");
    });
    assert_eq!(table.live(), forwards.len());
    for n in 0..KEYS {
        let key = Key::from(forward(n));
        let found = table.lookup(table.hash(&key), &key).is_some();
        assert_eq!(found, forwards.contains(&forward(n)), "key {n}: index and arena agree");
    }
    let sum = |at: usize| tallies.iter().map(|tally| tally[at]).sum::<u64>();
    println!(
        "measured: opened, killed, existing, raced, clashes, full, evicted: {:?}",
        [0, 1, 2, 3, 4, 5, 6].map(sum)
    );
    // A flow that somebody ends before its opener looks again was never open to the opener: it raced.
    let ended = sum(1) + sum(6) + forwards.len() as u64;
    assert!((ended - sum(3)..=ended).contains(&sum(0)), "what was opened was ended or is there: {tallies:?}");
    assert!(sum(0) > 10_000 && sum(4) > 100 && sum(5) < sum(0), "{tallies:?}");
}
