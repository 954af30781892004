//! Hosts and a gateway on a virtual clock: packets take time, get lost, overtake each other, and meet a randomly
//! chosen engine. Everything a peer sends and everything that leaves the gateway is judged on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dataplane::engine::EngineConfig;
use smoltcp::time::Instant;

use crate::check::{assert_valid, completed, segments};
use crate::cluster::{Cluster, ip};
use crate::gateway::{Gateway, Outcome};
use crate::oracle::{Leave, Oracle};
use crate::packets::Wire;
use crate::peer::Host;

/// What links do to packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Packets in a thousand that are lost, on each link.
    pub loss: u64,
    /// Packets in a thousand that are late enough for others to overtake them.
    pub late: u64,
}

/// The world.
#[derive(Debug)]
pub struct World {
    /// What is served.
    pub cluster: Cluster,
    /// The gateway in the middle.
    pub gateway: Gateway,
    /// The model that judges it.
    pub oracle: Oracle,
    /// What links do.
    pub weather: Weather,
    /// Drops packets from the gateway to hosts that are larger than this, as a router with a narrow link does; the
    /// test plays that router's part and sends the ICMP error.
    pub narrow: Option<usize>,
    /// Packets [`World::narrow`] stopped.
    pub stopped: Vec<Vec<u8>>,
    /// Packets nobody wanted.
    pub astray: Vec<Vec<u8>>,
    /// Engines that saw packets.
    pub used: BTreeSet<usize>,
    hosts: Vec<Host>,
    /// Source and destination of the replies to everything the gateway has sent on: connection marks bring them back,
    /// wherever they are addressed to.
    marked: BTreeSet<(SocketAddr, SocketAddr)>,
    flying: BTreeMap<(u64, u64), (Place, Wire)>,
    number: u64,
    now: u64,
    random: u64,
    swept: u64,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Gateway,
    Host(usize),
}

/// Microseconds a link takes.
const LINK: u64 = 500;

impl World {
    /// A world with no hosts.
    #[must_use]
    pub fn new(workers: u8, seed: u64) -> Self {
        Self {
            cluster: Cluster::default(),
            gateway: Gateway::new(workers, 16_384, &EngineConfig::default(), seed),
            oracle: Oracle::new(Leave::default()),
            weather: Weather::default(),
            narrow: None,
            stopped: Vec::new(),
            astray: Vec::new(),
            used: BTreeSet::new(),
            hosts: Vec::new(),
            marked: BTreeSet::new(),
            flying: BTreeMap::new(),
            number: 0,
            now: 0,
            random: seed | 1,
            swept: 0,
        }
    }

    /// Adds a host; the number it is known by.
    pub fn host(&mut self, addrs: &[&str], offload: bool) -> usize {
        let addrs: Vec<IpAddr> = addrs.iter().map(|addr| ip(addr)).collect();
        let seed = self.draw();
        self.hosts.push(Host::new(&addrs, offload, seed));
        self.hosts.len() - 1
    }

    /// A host.
    pub fn at(&mut self, host: usize) -> &mut Host {
        &mut self.hosts[host]
    }

    /// Publishes the cluster as it stands.
    pub fn publish(&mut self) {
        self.gateway.publish(&mut self.cluster);
        self.oracle.published(&self.cluster);
    }

    /// A packet appears at the gateway, from nobody's stack.
    pub fn inject(&mut self, wire: Wire) {
        self.fly(Place::Gateway, wire);
    }

    /// Lets things happen until `done` says so, at most for this long in virtual time. True when it did.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + micros(limit);
        loop {
            if done(self) {
                return true;
            }
            let present = self.instant();
            for host in 0..self.hosts.len() {
                self.hosts[host].poll(present);
                while let Some(wire) = self.hosts[host].sent() {
                    let view = assert_valid(&wire);
                    if self.marked.contains(&(view.src, view.dst)) {
                        self.fly(Place::Gateway, wire);
                    } else {
                        self.route(wire);
                    }
                }
            }
            if done(self) {
                return true;
            }
            let timers = self.hosts.iter_mut().filter_map(|host| host.poll_at(present));
            let timer = timers.min().map(|at| u64::try_from(at.total_micros()).unwrap_or(0));
            let packet = self.flying.keys().next().map(|(at, _)| *at);
            let Some(next) = [timer, packet].into_iter().flatten().min().filter(|next| *next <= end) else {
                self.pass_until(end);
                return done(self);
            };
            self.pass_until(next);
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (place, wire) = entry.remove();
                match place {
                    Place::Gateway => self.through(&wire),
                    Place::Host(host) => self.deliver(host, &wire),
                }
            }
        }
    }

    /// Lets this long pass, whatever happens.
    pub fn pass(&mut self, time: Duration) {
        self.run(time, |_| false);
    }

    /// Checks the whole table against the model.
    ///
    /// # Panics
    /// When they differ.
    pub fn compare(&mut self) {
        self.oracle.compare(&self.gateway, Some(&self.cluster), None).expect("the table is as the model");
    }

    /// The next random number (xorshift64*).
    pub fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn through(&mut self, wire: &Wire) {
        let worker = usize::try_from(self.draw() >> 33).expect("31 bits") % self.gateway.workers();
        self.used.insert(worker);
        let outcome = self.gateway.send(worker, wire);
        let judged = self.oracle.judge(Some(&self.cluster), wire, &outcome, self.gateway.now);
        judged.unwrap_or_else(|what| panic!("{what}; at {} us", self.now));
        if let Outcome::Translated(wire) = &outcome {
            let view = assert_valid(wire);
            self.marked.insert((view.dst, view.src));
        }
        match outcome {
            Outcome::Translated(wire) | Outcome::Passed(wire) | Outcome::Replied(wire) => self.route(wire),
            Outcome::Dropped(_) | Outcome::Parked => self.astray.push(wire.bytes.clone()),
        }
    }

    /// Sends a packet where its destination lives.
    fn route(&mut self, wire: Wire) {
        let dst = assert_valid(&wire).dst.ip();
        let vip = self.cluster.services.values().any(|svc| svc.vip.ip() == dst);
        if vip || self.cluster.sources.snat().contains(&dst) {
            self.fly(Place::Gateway, wire);
        } else if let Some(host) = self.hosts.iter().position(|host| host.addrs.contains(&dst)) {
            self.fly(Place::Host(host), wire);
        } else {
            self.astray.push(wire.bytes);
        }
    }

    fn fly(&mut self, place: Place, wire: Wire) {
        let luck = self.draw() >> 20;
        if luck % 1_000 < self.weather.loss {
            return;
        }
        let late = if luck / 1_000 % 1_000 < self.weather.late { luck / 1_000_000 % (8 * LINK) } else { 0 };
        self.number += 1;
        self.flying.insert((self.now + LINK + late, self.number), (place, wire));
    }

    fn deliver(&mut self, host: usize, wire: &Wire) {
        // Some cards merge, some do not: a super-packet arrives whole or in pieces.
        let pieces = if self.draw() >> 63 == 0 { segments(wire) } else { vec![completed(wire)] };
        for bytes in pieces {
            if self.narrow.is_some_and(|limit| bytes.len() > limit) {
                self.stopped.push(bytes);
            } else {
                self.hosts[host].receive(bytes);
            }
        }
    }

    fn pass_until(&mut self, until: u64) {
        self.now = self.now.max(until);
        // Workers sweep between batches; every 50 ms of virtual time is often enough.
        if self.now - self.swept >= 50_000 {
            self.gateway.advance(Duration::from_micros(self.now - self.swept));
            self.swept = self.now;
        }
    }

    fn instant(&self) -> Instant {
        Instant::from_micros(i64::try_from(self.now).expect("a time in this millennium"))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("a time in this millennium")
}
