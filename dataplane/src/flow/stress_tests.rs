//! Four workers on one small table for a few seconds, with few tuples and few records, so that everything
//! collides; an oracle beside it that can be wrong in one direction only.

use std::sync::Arc;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::kit::*;
use super::*;
use crate::clock::{Clock, Tick, Time};
use crate::ids::{EndpointId, FlowIx, ServiceId};

use crate::packet::tuple::{Proto, Tuple};
use Dir::{Forward as C, Reply as S};

const WORKERS: u8 = 4;
const FLOWS: u32 = 12;
const PORTS: u16 = 8;
/// Records a worker has to do with, so that they are used again at once.
const RECORDS: usize = 5;
const SECONDS: u64 = 2;
/// A flow nobody ends, and which all workers touch.
const PROTECTED: u32 = 99;
const PROTECTED_PORT: u16 = 999;

struct Shared<'a> {
    table: &'a Table<2>,
    /// Live flows per forward key and per reply key, as far as anybody can know: counted up *after* an open
    /// and down *before* a kill, so that more than one is always a fault of the table.
    ///
    /// `counted` says which generation of each record was counted (plus one): only those are killed, each by
    /// one.
    counted: Vec<AtomicU32>,
    forward: [AtomicI64; FLOWS as usize],
    reply: [AtomicI64; PORTS as usize],
    seconds: AtomicU64,
    stop: AtomicBool,
    seed: u64,
}

#[derive(Default, Debug)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

struct Player<'a> {
    shared: &'a Shared<'a>,
    worker: Worker<'a>,
    random: u64,
    tally: Tally,
    newest: Tick,
}

impl Shared<'_> {
    fn now(&self) -> Time {
        at(self.seconds.load(Ordering::Relaxed))
    }

    fn opened(&self, hit: &Hit<2>) {
        let (n, port) = (hit.service.0, hit.endpoint.0);
        let both = [&self.forward[n as usize], &self.reply[port as usize]];
        let live = both.map(|count| count.fetch_add(1, Ordering::SeqCst) + 1);
        assert!(live.iter().all(|count| *count <= 1), "two flows on a key; seed {}", self.seed);
        self.counted[hit.ix.0 as usize].store(u32::from(hit.generation) + 1, Ordering::SeqCst);
    }

    fn ending(&self, hit: &Hit<2>) -> bool {
        let (cell, counted) = (&self.counted[hit.ix.0 as usize], u32::from(hit.generation) + 1);
        let mine = cell.compare_exchange(counted, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if mine {
            self.forward[hit.service.0 as usize].fetch_sub(1, Ordering::SeqCst);
            self.reply[hit.endpoint.0 as usize].fetch_sub(1, Ordering::SeqCst);
        }
        mine
    }
}

impl Player<'_> {
    fn below(&mut self, limit: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from((self.random >> 16) % u64::from(limit)).unwrap()
    }

    fn port(&mut self) -> u16 {
        u16::try_from(self.below(u32::from(PORTS))).unwrap()
    }

    fn play(&mut self) {
        let (n, port) = (self.below(FLOWS), self.port());
        match self.below(16) {
            0..=4 => self.open(n, port),
            5..=7 => self.look(n),
            8 => drop(self.hit(reply(Proto::Tcp, port))),
            9 | 10 => self.kill(n, port),
            11 => self.touch(n),
            12 => self.short_lived(n),
            13 | 14 => {
                let now = self.shared.now().plus_nanos(self.random % 999_999_999);
                let _ = self.worker.sweep(now, false);
            }
            _ => self.protected(),
        }
    }

    /// A look-up's answer belongs together: the service is the forward tuple's, the endpoint the reply
    /// tuple's.
    fn hit(&mut self, key: Key<2>) -> Option<Hit<2>> {
        let hit = find(self.shared.table, key)?;
        let seed = self.shared.seed;
        let (client, endpoint) =
            if hit.dir == C { (key, hit.out.reversed()) } else { (hit.out.reversed(), key) };
        assert_eq!(endpoint, reply(Proto::Tcp, u16::try_from(hit.endpoint.0).unwrap()), "torn; seed {seed}");
        assert_eq!(client, forward(Proto::Tcp, hit.service.0), "torn; seed {seed}");
        self.tally.count("hit");
        Some(hit)
    }

    fn open(&mut self, n: u32, first: u16) {
        let now = self.shared.now();
        for step in 0..PORTS {
            let port = (first + step) % PORTS;
            let (service, endpoint) = (ServiceId(n), EndpointId(u32::from(port)));
            let masquerade = port.is_multiple_of(2);
            let flow = NewFlow { service, endpoint, masquerade, ..new(forward(Proto::Tcp, n), now) };
            match self.worker.try_open(&flow, [port]) {
                Opened::New(hit) => {
                    assert_eq!(hit.out, reply(Proto::Tcp, port).reversed());
                    self.shared.opened(&hit);
                    return self.tally.count("new");
                }
                Opened::Existing(hit) => {
                    assert_eq!(hit.service, ServiceId(n), "seed {}", self.shared.seed);
                    return self.tally.count("existing");
                }
                Opened::Raced => return self.tally.count("raced"),
                Opened::TableFull => return self.tally.count("table full"),
                Opened::BucketFull => return self.tally.count("bucket full"),
                Opened::PortsExhausted => self.tally.count("clash"),
            }
        }
    }

    /// A flow found by its forward tuple is found by its reply tuple as well.
    fn look(&mut self, n: u32) {
        let Some(hit) = self.hit(forward(Proto::Tcp, n)) else { return };
        if hit.dir != C {
            return;
        }
        let back = find(self.shared.table, hit.out.reversed()).map(|hit| (hit.ix, hit.generation, hit.dir));
        let again = find(self.shared.table, forward(Proto::Tcp, n));
        let still = again.is_some_and(|again| (again.ix, again.generation) == (hit.ix, hit.generation));
        if still {
            assert_eq!(back, Some((hit.ix, hit.generation, S)), "no way back; seed {}", self.shared.seed);
            self.tally.count("both ways");
        }
    }

    fn kill(&mut self, n: u32, port: u16) {
        let key = if port.is_multiple_of(2) { forward(Proto::Tcp, n) } else { reply(Proto::Tcp, port) };
        let Some(hit) = self.hit(key) else { return };
        if !self.shared.ending(&hit) {
            return self.tally.count("not counted");
        }
        if self.shared.table.kill(&hit) {
            self.tally.count("killed");
        } else {
            // Somebody else ended or touched it: it may still be there.
            self.shared.opened(&hit);
            self.tally.count("not killed");
        }
    }

    fn touch(&mut self, n: u32) {
        let Some(hit) = self.hit(forward(Proto::Tcp, n)) else { return };
        let flags = [SYN_ACK, ACK, FIN_ACK, ACK][self.below(4) as usize];
        let dir = if self.below(2) == 0 { C } else { S };
        self.shared.table.touch(&Hit { dir, ..hit }, self.shared.now().tick(), flags);
    }

    /// UDP flows expire, and are killed at any time, also while they are being opened.
    fn short_lived(&mut self, n: u32) {
        let port = self.port() + 100;
        if let Some(hit) = find(self.shared.table, reply(Proto::Udp, port)) {
            assert_eq!(Tuple::from(hit.out).proto, Proto::Udp, "torn; seed {}", self.shared.seed);
            let killed = self.shared.table.kill(&hit);
            return self.tally.count(if killed { "short-lived killed" } else { "short-lived gone" });
        }
        let flow = new(forward(Proto::Udp, n), self.shared.now());
        if let Opened::New(_) = self.worker.try_open(&flow, [port]) {
            self.tally.count("short-lived");
        }
    }

    /// What all touch and nobody ends is always there, keeps its flags, and never gets older.
    fn protected(&mut self) {
        let seed = self.shared.seed;
        let hit = find(self.shared.table, forward(Proto::Tcp, PROTECTED))
            .unwrap_or_else(|| panic!("lost; seed {seed}"));
        assert_eq!(Tuple::from(hit.out).sport, PROTECTED_PORT, "seed {seed}");
        let tick = state::State(hit.state).tick();
        assert!(tick.diff(self.newest) >= 0, "a tick moved backwards; seed {seed}");
        self.newest = tick;
        let me = self.worker.own.free().min(1); // Any two directions will do.
        let dir = if (self.random >> 20) as usize % 2 == me { C } else { S };
        self.shared.table.touch(&Hit { dir, ..hit }, self.shared.now().tick(), FIN_ACK);
        let fin = if dir == C { tcp::Flags::FIN_FWD } else { tcp::Flags::FIN_REV };
        let after = find(self.shared.table, forward(Proto::Tcp, PROTECTED)).expect("lost");
        assert!(state::State(after.state).flags().has(fin), "a flag was lost; seed {seed}");
        self.tally.count("protected");
    }
}

#[test]
fn four_workers_at_once_keep_every_invariant() {
    let longest = Tick::MAX_TTL;
    let ttls = Ttls {
        tcp_syn_sent: longest,
        tcp_syn_recv: longest,
        tcp_half_closed: longest,
        tcp_last_ack: longest,
        tcp_time_wait: longest,
        ..Ttls::default()
    };
    let region = region(u32::from(WORKERS) * arena::CHUNK);
    let buckets = map::Slots::fresh((0..16).map(|_| index::Bucket::unused()));
    let seed = Clock.now().nanos();
    let secret = hash::Seed::new(hash::test_seed(seed));
    let table = Table::of(region::Parts { buckets, ..region.parts() }, secret, 1, Arc::default(), ttls);
    let shared = Shared {
        table: &table,
        counted: (0..table.capacity()).map(|_| AtomicU32::new(0)).collect(),
        forward: Default::default(),
        reply: Default::default(),
        seconds: AtomicU64::new(1000),
        stop: AtomicBool::new(false),
        seed,
    };
    let mut first = Worker::new(&table, 0);
    let protected = first.open(&new(forward(Proto::Tcp, PROTECTED), at(1000)), PROTECTED_PORT);
    drive(&table, forward(Proto::Tcp, PROTECTED), reply(Proto::Tcp, PROTECTED_PORT), at(1000), &HANDSHAKE);
    let mut first = Some(first);

    let (tallies, workers): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WORKERS)
            .map(|id| {
                let mut worker = first.take().unwrap_or_else(|| Worker::new(&table, id));
                let shared = &shared;
                scope.spawn(move || {
                    let kept = keep_busy(shared.table, &mut worker);
                    let random = (seed ^ u64::from(id) << 32) | 1;
                    let newest = state::State(protected.state).tick();
                    let mut player = Player { shared, worker, random, tally: Tally::default(), newest };
                    while !shared.stop.load(Ordering::Relaxed) {
                        player.play();
                    }
                    kept.into_iter().for_each(|ix| free(shared.table, &mut player.worker, ix));
                    (player.tally, player.worker)
                })
            })
            .collect();
        let start = Clock.now();
        while Clock.now().since(start) < SECONDS * 1_000_000_000
            && !threads.iter().any(|thread| thread.is_finished())
        {
            shared.seconds.fetch_add(1, Ordering::Relaxed);
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        shared.stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panic!("seed {seed}"))).unzip()
    });

    let mut all = Tally::default();
    tallies.iter().flat_map(|tally| &tally.0).for_each(|(what, n)| *all.0.entry(what).or_default() += n);
    println!("seed {seed}: {:?}", all.0);
    for what in ["new", "existing", "clash", "hit", "both ways", "killed", "short-lived", "protected"] {
        assert!(all.0.get(what).is_some_and(|n| *n > 0), "{what} never happened: {all:?}, seed {seed}");
    }
    assert_counted(&table);
    settle(&table, workers, &shared);
    assert_counted(&table);
}

/// Every endpoint's counter is the number of its flows that say they are counted, and those are the active ones.
fn assert_counted(table: &Table<2>) {
    let mut active: BTreeMap<EndpointId, u32> =
        (0..u32::from(PORTS)).map(|port| (EndpointId(port), 0)).collect();
    table.for_each(at(1000).tick(), |flow| {
        let closing = ["HALF_CLOSED", "LAST_ACK", "TIME_WAIT", "RESET", "HELD"].contains(&flow.state);
        assert_eq!(flow.active, !closing, "{flow:?}");
        *active.entry(flow.endpoint).or_default() += u32::from(flow.active);
    });
    for (endpoint, flows) in active {
        assert_eq!(table.loads().active(endpoint), flows, "{endpoint:?}");
    }
}

/// Leaves a worker only a few records: the others hold flows that nothing finds and nobody ends.
fn keep_busy(table: &Table<2>, worker: &mut Worker<'_>) -> Vec<FlowIx> {
    let key = forward(Proto::Tcp, 0);
    let nobody = record::Draft {
        forward: key,
        reply: key.reversed(),
        service: ServiceId(0),
        endpoint: EndpointId(0),
        incarnation: 0,
        tops: Tops::as_they_arrive(&key, &key.reversed()),
    };
    let live = |generation| state::State::new(generation, at(1000).tick(), 1, tcp::Flags::NONE);
    (0..arena::CHUNK as usize - RECORDS)
        .map_while(|_| worker.own.pop())
        .inspect(|ix| {
            let _ = table.record(*ix).write(&nobody, live);
        })
        .collect()
}

fn free(table: &Table<2>, worker: &mut Worker<'_>, ix: FlowIx) {
    table.record(ix).condemn();
    table.record(ix).retire();
    worker.own.push(ix);
}

/// Everything ended and swept: no word, no record in use is left.
fn settle(table: &Table<2>, mut workers: Vec<Worker<'_>>, shared: &Shared<'_>) {
    let end = shared.seconds.load(Ordering::Relaxed);
    for key in (0..FLOWS).chain([PROTECTED]).map(|n| forward(Proto::Tcp, n)) {
        if let Some(hit) = find(table, key) {
            assert!(table.kill(&hit), "nobody else is there");
        }
    }
    for worker in &mut workers {
        worker.turn(end + 100);
        assert_eq!(worker.own.free(), worker.own.owned(), "seed {}", shared.seed);
    }
    assert_eq!(table.live(), 0);
    let left: Vec<_> = (0..8).flat_map(|pair| table.index.words([2 * pair, 2 * pair + 1])).collect();
    assert_eq!(left, [], "seed {}", shared.seed);
}
