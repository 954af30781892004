//! What tests of the table share: a small table, tuples with speaking numbers, a worker.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::*;
use crate::clock::{Tick, Time};
use crate::ids::{EndpointId, ServiceId, WorkerId};
use crate::packet::layout::L4Flags;
use crate::packet::tuple::{Proto, Tuple};

pub(super) const SYN: L4Flags = L4Flags::SYN;
pub(super) const ACK: L4Flags = L4Flags::ACK;
pub(super) const SYN_ACK: L4Flags = L4Flags(0x12);
pub(super) const FIN_ACK: L4Flags = L4Flags(0x11);
pub(super) const RST: L4Flags = L4Flags::RST;

pub(super) fn region(flows: u32) -> Arc<Region> {
    let config = RegionConfig { dir: None, name: "test".into(), max_flows_v4: flows, max_flows_v6: flows };
    Region::open(&config, Time::from_secs(1)).unwrap()
}

pub(super) fn table(flows: u32) -> Table<2> {
    Table::new(&region(flows), Ttls::default())
}

pub(super) fn at(secs: u64) -> Time {
    Time::from_secs(secs)
}

pub(super) fn tick(secs: u64) -> Tick {
    at(secs).tick()
}

/// Client `n`'s packet to the VIP.
pub(super) fn forward(proto: Proto, n: u32) -> Key<2> {
    let src = Ipv4Addr::from_bits(0x0a00_0000 | n >> 8);
    let sport = 1024 + u16::try_from(n & 0xff).unwrap();
    Tuple { src, dst: Ipv4Addr::new(10, 96, 0, 1), sport, dport: 80, proto }.into()
}

/// The endpoint's packet to port `port` of the SNAT address.
pub(super) fn reply(proto: Proto, port: u16) -> Key<2> {
    let (src, dst) = (Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(192, 168, 0, 9));
    Tuple { src, dst, sport: 8080, dport: port, proto }.into()
}

pub(super) fn reply6(port: u16) -> Key<5> {
    let (src, dst): (Ipv6Addr, Ipv6Addr) = ("fd00::5".parse().unwrap(), "2001:db8::9".parse().unwrap());
    Tuple { src, dst, sport: 8080, dport: port, proto: Proto::Udp }.into()
}

pub(super) fn new<const N: usize>(forward: Key<N>, now: Time) -> NewFlow<N> {
    let (service, endpoint) = (ServiceId(3), EndpointId(4));
    NewFlow {
        forward,
        service,
        endpoint,
        epoch: 1,
        masquerade: false,
        tops: None,
        pickup: false,
        seen: SYN,
        now,
    }
}

/// A worker with its hands on a table.
pub(super) struct Worker<'a> {
    pub(super) table: &'a Table<2>,
    pub(super) own: Chunks<2>,
    pub(super) met: Met<2>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(table: &'a Table<2>, id: u8) -> Self {
        Self { table, own: table.chunks(WorkerId(id)), met: Met::default() }
    }

    pub(super) fn try_open(&mut self, new: &NewFlow<2>, ports: impl IntoIterator<Item = u16>) -> Opened<2> {
        let proto = new.forward.proto();
        let replies = ports.into_iter().map(|port| reply(proto, port));
        self.table.open(&mut self.own, new, replies, &mut self.met)
    }

    pub(super) fn open(&mut self, new: &NewFlow<2>, port: u16) -> Hit<2> {
        let opened = self.try_open(new, [port]);
        let Opened::New(hit) = opened else { panic!("not opened: {opened:?}") };
        hit
    }

    pub(super) fn sweep(&mut self, now: Time, pressure: bool) -> Swept {
        self.table.sweep(&mut self.own, now, pressure, |_| false)
    }

    /// One whole turn of the hand, starting now.
    pub(super) fn turn(&mut self, secs: u64) -> Swept {
        let mut total = self.sweep(at(secs), false);
        for _ in 0..10_000 {
            let swept = self.sweep(at(secs + 8), false);
            total = Swept {
                scanned: total.scanned + swept.scanned,
                expired: total.expired + swept.expired,
                evicted: total.evicted + swept.evicted,
                purged: total.purged + swept.purged,
                freed: total.freed + swept.freed,
                behind: swept.behind,
            };
            if !swept.behind {
                return total;
            }
        }
        panic!("the hand never catches up");
    }
}

pub(super) fn find<const N: usize>(table: &Table<N>, key: Key<N>) -> Option<Hit<N>> {
    table.lookup(table.hash(&key), &key)
}

/// Sends segments through a flow, as a worker would: look up, touch.
pub(super) fn drive(
    table: &Table<2>,
    forward: Key<2>,
    reply: Key<2>,
    now: Time,
    segments: &[(Dir, L4Flags)],
) {
    for (dir, seen) in segments {
        let key = if *dir == Dir::Forward { forward } else { reply };
        table.touch(&find(table, key).expect("the flow is there"), now.tick(), *seen);
    }
}

pub(super) const HANDSHAKE: [(Dir, L4Flags); 2] = [(Dir::Reply, SYN_ACK), (Dir::Forward, ACK)];
