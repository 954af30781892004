//! A small cluster, its engines, and packets built by `etherparse`, for the tests of this module and of `nat`.
//!
//! Every [`Rig::send`] also checks what holds after every batch: one verdict a frame, one counter a verdict, and whole
//! checksums in whatever leaves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader};

pub(crate) use self::netfilter::{unmask, up};
pub(crate) use self::valid::assert_valid;
use super::{Engine, EngineConfig, Tables};
use crate::clock::Time;
use crate::flow::{FlowView, Region, RegionConfig, Table, Ttls};
use crate::ids::{EndpointId, ServiceId, WorkerId};
use crate::packet::frame::{Batch, Frame};
pub(crate) use crate::packet::samples::hop_back;
use crate::packet::tuple::Proto;
use crate::packet::vnet::VnetHdr;
use crate::service::{Affinity, Backend, Fabric, ReturnPath, Service, SnapshotBuilder, SvcPort, World};
use crate::stats::{Counter, Totals, WorkerStats};
use crate::verdict::{DropReason, Verdict};

mod netfilter;
mod valid;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP Service with two endpoints, one of UDP with two, and a TCP one without any.
pub(crate) const WEB: &str = "10.96.0.10:80";
pub(crate) const WEB6: &str = "[fd00:96::10]:80";
pub(crate) const DNS: &str = "10.96.0.53:53";
pub(crate) const DNS6: &str = "[fd00:96::53]:53";
pub(crate) const DEAD: &str = "10.96.0.99:80";
pub(crate) const DEAD6: &str = "[fd00:96::99]:80";
pub(crate) const SNAT: &str = "192.168.9.1";
pub(crate) const CLIENT: &str = "10.1.0.7:40000";
pub(crate) const CLIENT6: &str = "[fd00:1::7]:40000";

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What left the engine, or became of a frame.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// None while it waits.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) bytes: Vec<u8>,
}

impl Sent {
    pub(crate) fn src(&self) -> SocketAddr {
        endpoints(&self.bytes).0
    }

    pub(crate) fn dst(&self) -> SocketAddr {
        endpoints(&self.bytes).1
    }

    /// Fails unless it was translated.
    #[track_caller]
    pub(crate) fn translated(self) -> Self {
        assert_eq!(self.verdict, Some(Verdict::Translated));
        self
    }

    #[track_caller]
    pub(crate) fn dropped(&self, reason: DropReason) {
        assert_eq!(self.verdict, Some(Verdict::Dropped(reason)));
    }
}

/// Engines on one pair of tables.
pub(crate) struct Rig {
    pub(crate) tables: Tables,
    pub(crate) engines: Vec<(Engine, Arc<CachePadded<WorkerStats>>)>,
    pub(crate) world: World,
    pub(crate) now: Time,
    pub(crate) batch: Batch,
    /// Answers of the last batch.
    pub(crate) replies: Vec<Vec<u8>>,
    /// What leaves is masked, and netfilter would unmask it.
    masked: bool,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(EngineConfig::default(), world(&[]))
    }

    pub(crate) fn with(config: EngineConfig, world: World) -> Self {
        let now = Time::from_secs(1_000);
        let sizes =
            RegionConfig { dir: None, name: "engine".into(), max_flows_v4: 4_096, max_flows_v6: 4_096 };
        let region = Region::open(&sizes, now).unwrap();
        let tables = Tables::new(
            Table::new(&region, Ttls::default()),
            Table::new(&region, Ttls::default()),
            Affinity::new(1_024),
        );
        let (batch, masked) = (Batch::default(), config.alias);
        let mut rig = Self { tables, engines: Vec::new(), world, now, batch, replies: Vec::new(), masked };
        rig.engine(config);
        rig
    }

    /// One more worker.
    pub(crate) fn engine(&mut self, config: EngineConfig) {
        let stats = Arc::new(CachePadded::new(WorkerStats::default()));
        let id = WorkerId(u8::try_from(self.engines.len()).unwrap());
        let engine = Engine::new(id, self.tables.clone(), config, Arc::clone(&stats), 7);
        self.engines.push((engine, stats));
    }

    /// One batch, by the first engine.
    #[track_caller]
    pub(crate) fn send(&mut self, packets: &[Vec<u8>]) -> Vec<Sent> {
        let frames: Vec<_> = packets.iter().map(|packet| (VnetHdr::default(), packet.clone())).collect();
        self.send_frames(&frames)
    }

    /// One packet.
    #[track_caller]
    pub(crate) fn one(&mut self, packet: &[u8]) -> Sent {
        self.send(&[packet.to_vec()]).remove(0)
    }

    #[track_caller]
    pub(crate) fn send_frames(&mut self, frames: &[(VnetHdr, Vec<u8>)]) -> Vec<Sent> {
        self.batch.clear();
        for (vnet, packet) in frames {
            self.batch.spare().unwrap().fill(*vnet, packet);
            self.batch.push();
        }
        let before = self.totals();
        self.engines[0].0.process(&mut self.batch, &self.world, self.now);
        assert_eq!(self.totals().get(Counter::Received) - before.get(Counter::Received), frames.len() as u64);
        self.conserved();
        if self.masked {
            self.batch.written_mut().for_each(|frame| unmask(frame.packet_mut()));
        }
        let sent = |frame: &Frame| Sent { verdict: frame.verdict, bytes: frame.packet().to_vec() };
        let sent: Vec<Sent> = self.batch.frames().iter().map(sent).collect();
        self.replies = self.batch.replies().iter().map(|reply| reply.packet().to_vec()).collect();
        assert!(self.batch.replies().iter().all(|reply| reply.verdict == Some(Verdict::Replied)));
        let replied = sent.iter().filter(|frame| frame.verdict == Some(Verdict::Replied)).count();
        assert_eq!(replied, self.replies.len(), "an answer each");
        self.replies.iter().for_each(|reply| assert_valid(reply));
        sent
    }

    /// As [`Rig::send`], of one packet that is answered; the answer.
    #[track_caller]
    pub(crate) fn answered(&mut self, packet: &[u8]) -> Vec<u8> {
        assert_eq!(self.one(packet).verdict, Some(Verdict::Replied));
        self.replies.remove(0)
    }

    /// Opens the flow of this first packet; what left.
    #[track_caller]
    pub(crate) fn open(&mut self, packet: &[u8]) -> Sent {
        let opened = self.totals().get(Counter::FlowsOpened);
        let sent = self.one(packet).translated();
        assert_eq!(self.totals().get(Counter::FlowsOpened), opened + 1);
        sent
    }

    /// Every frame ended in one counter, or waits.
    #[track_caller]
    pub(crate) fn conserved(&self) {
        let totals = self.totals();
        let ended =
            [Counter::Translated, Counter::Passed, Counter::Replied].map(|counter| totals.get(counter));
        let parked: usize = self.engines.iter().map(|(engine, _)| engine.parked()).sum();
        let parked = parked + self.tables.fragments.held();
        let sum = ended.iter().sum::<u64>() + totals.dropped() + parked as u64;
        assert_eq!(totals.get(Counter::Received), sum, "{totals:?}, {parked} wait");
    }

    pub(crate) fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        self.engines.iter().for_each(|(_, stats)| sum.merge(&stats.read()));
        sum
    }

    pub(crate) fn flows(&self) -> Vec<FlowView<2>> {
        let mut flows = Vec::new();
        self.tables.v4.for_each(self.now.tick(), |flow| flows.push(flow));
        flows
    }

    pub(crate) fn later(&mut self, seconds: u64) {
        self.now = self.now.plus_nanos(seconds * 1_000_000_000);
    }
}

/// A service port; endpoints are `address:port`, a `!` in front says that it is neither ready nor serving.
pub(crate) fn service(id: u32, proto: Proto, vip: &str, epoch: u16, endpoints: &[&str]) -> Service {
    let vip = addr(vip);
    let backend = |(n, text): (usize, &&str)| Backend {
        id: EndpointId(id * 100 + u32::try_from(n).unwrap()),
        addr: addr(text.trim_start_matches('!')).ip(),
        port: addr(text.trim_start_matches('!')).port(),
        local: false,
        ready_or_serving: !text.starts_with('!'),
    };
    let backends: Box<[Backend]> = endpoints.iter().enumerate().map(backend).collect();
    let of_use = |n: &u32| backends[*n as usize].ready_or_serving;
    let cluster: Box<[u32]> = (0..u32::try_from(backends.len()).unwrap()).filter(of_use).collect();
    let port = SvcPort { port: vip.port(), proto };
    Service {
        purge_epoch: epoch,
        any: !cluster.is_empty(),
        backends,
        cluster,
        ..Service::bare(ServiceId(id), &format!("default/s{id}"), vip.ip(), port)
    }
}

pub(crate) fn fabric() -> Fabric {
    Fabric {
        return_path: ReturnPath::Masquerade,
        snat: vec![ip(SNAT), ip("fd00:31::1")],
        service_cidrs: vec![(ip("10.96.0.0"), 12), (ip("fd00:96::"), 112)],
        ..Fabric::default()
    }
}

/// The usual world, some of its service ports replaced or added.
pub(crate) fn world(changed: &[Service]) -> World {
    world_of(fabric(), changed)
}

pub(crate) fn world_of(fabric: Fabric, changed: &[Service]) -> World {
    let mut builder = SnapshotBuilder::new(fabric);
    for service in [
        service(1, Proto::Tcp, WEB, 1, &["10.244.0.1:8080", "10.244.0.2:8080"]),
        service(2, Proto::Udp, DNS, 1, &["10.244.0.3:5353", "10.244.0.4:5353"]),
        service(3, Proto::Tcp, DEAD, 1, &[]),
        service(4, Proto::Tcp, WEB6, 1, &["[fd00:244::1]:8080"]),
        service(5, Proto::Udp, DNS6, 1, &["[fd00:244::3]:5353"]),
        service(6, Proto::Tcp, DEAD6, 1, &[]),
    ] {
        builder.upsert(service);
    }
    for service in changed {
        builder.remove(service.id);
        builder.upsert(service.clone());
    }
    World::Ready(builder.build().unwrap())
}

/// The world without this service port.
pub(crate) fn without(id: u32) -> World {
    let World::Ready(snapshot) = world(&[]) else { unreachable!() };
    let mut builder = SnapshotBuilder::from(&snapshot);
    builder.remove(ServiceId(id));
    World::Ready(builder.build().unwrap())
}

pub(crate) fn between(src: IpAddr, dst: IpAddr) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), 63),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), 63),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => unreachable!("one family"),
    }
}

pub(crate) fn tcp(src: impl Into<End>, dst: impl Into<End>, flags: u8) -> Vec<u8> {
    tcp_with(src, dst, flags, b"")
}

pub(crate) fn tcp_with(src: impl Into<End>, dst: impl Into<End>, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (End(src), End(dst)) = (src.into(), dst.into());
    let mut header = TcpHeader::new(src.port(), dst.port(), 1_000, 64_240);
    [header.fin, header.syn, header.rst, header.psh, header.ack] =
        std::array::from_fn(|bit| flags & (1 << bit) != 0);
    header.acknowledgment_number = if header.ack { 2_000 } else { 0 };
    let mut out = Vec::new();
    between(src.ip(), dst.ip()).tcp_header(header).write(&mut out, payload).unwrap();
    out
}

pub(crate) fn udp(src: impl Into<End>, dst: impl Into<End>) -> Vec<u8> {
    udp_with(src, dst, b"a question")
}

pub(crate) fn udp_with(src: impl Into<End>, dst: impl Into<End>, payload: &[u8]) -> Vec<u8> {
    let (End(src), End(dst)) = (src.into(), dst.into());
    let mut out = Vec::new();
    between(src.ip(), dst.ip()).udp(src.port(), dst.port()).write(&mut out, payload).unwrap();
    out
}

/// An ICMP message: type, code, second word, and what follows.
pub(crate) fn icmp(src: IpAddr, dst: IpAddr, kind: [u8; 2], word: [u8; 4], rest: &[u8]) -> Vec<u8> {
    let (mut out, builder) = (Vec::new(), between(src, dst));
    match src {
        IpAddr::V4(_) => builder.icmpv4_raw(kind[0], kind[1], word).write(&mut out, rest),
        IpAddr::V6(_) => builder.icmpv6_raw(kind[0], kind[1], word).write(&mut out, rest),
    }
    .unwrap();
    out
}

pub(crate) fn protocol(number: u8, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut out = Vec::new();
    between(src, dst).write(&mut out, IpNumber(number), &[0; 24]).unwrap();
    out
}

/// An end of a packet: written as text, or taken from another packet.
pub(crate) struct End(pub(crate) SocketAddr);

impl From<&str> for End {
    fn from(text: &str) -> Self {
        Self(addr(text))
    }
}

impl From<SocketAddr> for End {
    fn from(addr: SocketAddr) -> Self {
        Self(addr)
    }
}

/// Source and destination of a packet; port 0 where it has none.
pub(crate) fn endpoints(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    // From the headers alone: a quoted packet is cut off.
    let (src, dst, l4): (IpAddr, IpAddr, usize) = match bytes[0] >> 4 {
        4 => (be32(&bytes[12..]).into(), be32(&bytes[16..]).into(), usize::from(bytes[0] & 0xf) * 4),
        _ => (be128(&bytes[8..]).into(), be128(&bytes[24..]).into(), 40),
    };
    let number = if src.is_ipv4() { bytes[9] } else { bytes[6] };
    let port = |at: usize| {
        if matches!(number, 6 | 17 | 132) {
            u16::from_be_bytes([bytes[l4 + at], bytes[l4 + at + 1]])
        } else {
            0
        }
    };
    (SocketAddr::new(src, port(0)), SocketAddr::new(dst, port(2)))
}

fn be32(bytes: &[u8]) -> [u8; 4] {
    bytes[..4].try_into().unwrap()
}

fn be128(bytes: &[u8]) -> [u8; 16] {
    bytes[..16].try_into().unwrap()
}
