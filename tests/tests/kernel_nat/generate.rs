//! Packets as no host would send them, and as some do.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, checksum::Sum16BitWords};
use tests::packets::{IcmpError, flags, fragments, icmp_error, pseudo_sum, tcp, udp};

use crate::site::{PORTS, VIP};

/// Numbers that a seed gives (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds that are near each other are far apart.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.below(256).to_le_bytes()[0]).collect()
    }
}

/// What is odd about a packet; `except.rs` asks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Odd {
    /// TCP flags; none of UDP.
    pub(crate) flags: Option<u8>,
    /// The layer-4 checksum is wrong.
    pub(crate) bad_checksum: bool,
    /// The UDP length is less than the IP payload.
    pub(crate) short_udp: bool,
    /// It is sent in fragments.
    pub(crate) fragments: usize,
    /// One of its IPv6 fragments is as long as it would be whole.
    pub(crate) joins: bool,
    /// It has an IPv6 fragment header, and is all of its datagram.
    pub(crate) atomic: bool,
    /// TCP options.
    pub(crate) tcp_options: Vec<u8>,
    /// IPv6 extension headers.
    pub(crate) extensions: Vec<u8>,
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
}

/// One packet of a client, as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) odd: Odd,
    /// The packet, or its fragments.
    pub(crate) sent: Vec<Vec<u8>>,
}

/// TCP flags: of every kind of segment, and some that belong to none.
const FLAGS: [u8; 14] = [
    flags::SYN,
    flags::SYN,
    flags::SYN | 0xc0,
    flags::ACK,
    flags::ACK | flags::PSH,
    flags::ACK | flags::PSH | 0x20,
    flags::FIN | flags::ACK,
    flags::RST,
    flags::RST | flags::ACK,
    flags::SYN | flags::ACK,
    0,
    flags::SYN | flags::FIN,
    flags::FIN,
    0xff,
];
/// A maximum segment of 1,460 bytes: too large for IPv6 on these links.
pub(crate) const LARGE_MSS: [u8; 4] = [2, 4, 5, 180];
const SIZES: [u64; 8] = [0, 1, 7, 8, 64, 511, 1_000, 1_300];

/// The `n`th packet of a run: each from an address and a port of its own.
pub(crate) fn case(random: &mut Random, n: u16) -> Case {
    let v6 = random.one_in(2);
    let (proto, port, _) = random.one_of(&PORTS);
    let [high, low] = n.to_be_bytes();
    let host = 3 + u16::from(high) % 200;
    let client = if v6 { format!("fd00:1::{host:x}") } else { format!("10.1.0.{host}") };
    let at = |addr: &str, port: u16| SocketAddr::new(addr.parse::<IpAddr>().unwrap(), port);
    let number = 1_024 + u16::from(low) * 200 + n % 199;
    // A SNAT address never has one of the node ports, which are not the kernel's to know: another would be drawn, and
    // would clash with that of a packet to come.
    let number = if number < 30_000 { number } else { number + 2_768 };
    let (src, dst) = (at(&client, number), at(VIP[usize::from(v6)], port));
    let size = random.one_of(&SIZES);
    let size = if random.one_in(3) { random.below(size + 1) } else { size };
    let payload = random.bytes(usize::try_from(size).unwrap());
    let ttl = random.one_of(&[64, 64, 255, 128, 5, 3]);
    let mut odd = Odd::default();
    let mut spec = if proto == "TCP" {
        let options: &[&[u8]] = &[
            &[],
            &[2, 4, 5, 120],
            &LARGE_MSS,
            &[1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            &[30, 4, 0, 0],
            &[4, 2, 1, 0],
        ];
        odd.flags = Some(random.one_of(&FLAGS));
        let number = |random: &mut Random| u32::try_from(random.below(1 << 31)).unwrap();
        odd.tcp_options = random.one_of(options).to_vec();
        tcp(src, dst, 0).tcp_options(&odd.tcp_options).seq(number(random)).ack(number(random))
    } else {
        let spec = udp(src, dst);
        if random.one_in(5) { spec.no_checksum() } else { spec }
    };
    spec = spec.payload(payload).ttl(ttl).tos(random.below(256).to_le_bytes()[0]);
    if !v6 && random.one_in(4) {
        // Router alert, security, one nobody knows: what no router writes into.
        odd.options = random.one_of(&[[148, 4, 0, 0], [130, 4, 1, 2], [94, 4, 0, 0], [1, 1, 1, 1]]).to_vec();
        spec = spec.ip_options(&odd.options);
    }
    if v6 && random.one_in(3) {
        for _ in 0..=random.below(2) {
            let number = random.one_of(&[IpNumber::IPV6_DESTINATION_OPTIONS, IpNumber::IPV6_ROUTE_HEADER]);
            let body: &[u8] =
                if number == IpNumber::IPV6_ROUTE_HEADER { &[2, 0, 0, 0, 0, 0] } else { &[1, 4, 0, 0, 0, 0] };
            odd.extensions.push(number.0);
            spec = spec.extension(number, body);
        }
    }
    let start = 40 * usize::from(v6) + 20 * usize::from(!v6) + odd.options.len() + 8 * odd.extensions.len();
    let mut packet = spec.bytes();
    spoil(random, &mut packet, start, (src, dst), &mut odd);
    // Options that are not to be copied into later fragments are in none.
    let whole =
        odd.short_udp || packet.len() - start <= 40 || odd.options.first().is_some_and(|kind| kind >> 7 == 0);
    let length = packet.len();
    let sent = if !whole && random.one_in(6) {
        let size = 8 * usize::try_from(5 + random.below(60)).unwrap();
        fragments(&packet, u32::from(n) + 1, size.max((start.saturating_sub(20) + 40).next_multiple_of(8)))
    } else {
        vec![packet]
    };
    odd.fragments = if sent.len() > 1 { sent.len() } else { 0 };
    odd.joins = v6 && sent.len() > 1 && sent.iter().any(|piece| piece.len() >= length);
    odd.atomic = sent.len() == 1 && v6 && sent[0].get(6) == Some(&IpNumber::IPV6_FRAGMENTATION_HEADER.0);
    Case { odd, sent }
}

/// What a builder of right packets would not do.
fn spoil(
    random: &mut Random,
    packet: &mut [u8],
    start: usize,
    (src, dst): (SocketAddr, SocketAddr),
    odd: &mut Odd,
) {
    let v4 = src.is_ipv4();
    if let Some(flags) = odd.flags {
        packet[start + 13] = flags;
        // Reserved bits, window, urgent pointer.
        packet[start + 12] |= random.one_of(&[0, 0, 0, 2, 14]);
        packet[start + 14..start + 16].copy_from_slice(&random.bytes(2));
        packet[start + 18..start + 20].copy_from_slice(&random.bytes(2));
        let number = 6;
        packet[start + 16..start + 18].fill(0);
        let sum = sum(src, dst, number, &packet[start..]);
        packet[start + 16..start + 18].copy_from_slice(&sum.to_be_bytes());
    } else if random.one_in(12) && packet.len() - start > 10 {
        // The checksum covers what the length says; behind it is a surplus (RFC 9868).
        odd.short_udp = true;
        let length = 8 + u16::try_from(random.below((packet.len() - start - 8) as u64)).unwrap();
        packet[start + 4..start + 6].copy_from_slice(&length.to_be_bytes());
        packet[start + 6..start + 8].fill(0);
        let sum = sum(src, dst, 17, &packet[start..start + usize::from(length)]);
        packet[start + 6..start + 8].copy_from_slice(&sum.to_be_bytes());
    }
    let at = start + if odd.flags.is_some() { 16 } else { 6 };
    if random.one_in(10) && packet[at..at + 2] != [0, 0] {
        odd.bad_checksum = true;
        packet[at] ^= 0x5a;
        if packet[at..at + 2] == [0, 0] {
            packet[at + 1] = 1;
        }
    }
    if v4 {
        packet[4..6].copy_from_slice(&random.bytes(2));
        packet[6] = random.one_of(&[0, 0x40]);
        mend_ipv4(packet);
    }
}

fn sum(src: SocketAddr, dst: SocketAddr, number: u8, l4: &[u8]) -> u16 {
    let head = pseudo_sum(src.ip(), dst.ip(), number, l4.len()).to_be_bytes();
    let sum = Sum16BitWords::new().add_2bytes(head).add_slice(l4).ones_complement().to_be();
    if sum == 0 { 0xffff } else { sum }
}

/// Sets the header checksum right.
pub(crate) fn mend_ipv4(packet: &mut [u8]) {
    let (header, _) = Ipv4Header::from_slice(packet).unwrap();
    packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

/// Where the layer-4 header of a packet begins, if it is not one of several fragments.
fn l4_of(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        return usize::from(packet[0] & 15) * 4;
    }
    let (mut number, mut at) = (packet[6], 40);
    while matches!(number, 0 | 43 | 60) {
        number = packet[at];
        at += 8 * (usize::from(packet[at + 1]) + 1);
    }
    at
}

/// What the server says to a packet it got: an answer, or an error about it, its own or a router's.
pub(crate) fn answer(random: &mut Random, got: &[u8], odd: &Odd) -> Vec<u8> {
    let start = l4_of(got);
    let v4 = got[0] >> 4 == 4;
    let addr = |at: usize| -> IpAddr {
        if v4 {
            <[u8; 4]>::try_from(&got[12 + 4 * at..][..4]).unwrap().into()
        } else {
            <[u8; 16]>::try_from(&got[8 + 16 * at..][..16]).unwrap().into()
        }
    };
    let port = |at: usize| u16::from_be_bytes([got[start + at], got[start + at + 1]]);
    let (client, server) = (SocketAddr::new(addr(0), port(0)), SocketAddr::new(addr(1), port(2)));
    if random.one_in(3) {
        let router = if v4 { "10.2.0.77" } else { "fd00:2::77" };
        let from = if random.one_in(2) { router.parse().unwrap() } else { server.ip() };
        let kind = random.one_of(&[
            IcmpError::PortUnreachable,
            IcmpError::HostUnreachable,
            IcmpError::TooBig(1_280),
            IcmpError::TimeExceeded,
            IcmpError::ParameterProblem,
        ]);
        let most = got.len().min(if v4 { 548 } else { 1_232 });
        let quoted = random.one_of(&[start + 8, (start + 20).min(most), most]);
        return icmp_error(kind, from, client.ip(), &got[..quoted]);
    }
    let size = usize::try_from(random.one_of(&SIZES)).unwrap();
    let payload = random.bytes(size);
    let spec = match odd.flags {
        Some(flags) if flags & flags::ACK == 0 => tcp(server, client, flags::SYN | flags::ACK),
        Some(_) => {
            tcp(server, client, random.one_of(&[flags::ACK, flags::ACK | flags::PSH])).payload(payload)
        }
        None => udp(server, client).payload(payload),
    };
    spec.tos(random.below(256).to_le_bytes()[0]).ttl(random.one_of(&[64, 255, 9])).bytes()
}
