//! Any bytes as frames of a device: everything from the validation of a packet to what leaves the engine.
//!
//! The gateway serves a few Services. Every frame gets one verdict and moves one counter ([`Gateway`] checks that);
//! what is translated differs in addresses, ports and checksums only, and is right where it came in right; what is
//! passed on is untouched; what is answered is answered with a valid packet.
//!
//! ```text
//! input: sources | frame*     frame: how | destination | source | length (2 bytes) | bytes
//! ```

use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::packet::layout::{Kind, Layout, Piece};
use dataplane::packet::tuple::{Family, Proto};
use dataplane::packet::vnet::{VNET_LEN, VnetHdr};
use dataplane::verdict::DropReason;

use super::Draw;
use crate::check::valid;
use crate::cluster::Cluster;
use crate::gateway::{Gateway, Outcome};
use crate::packets::{Wire, crc32c, pseudo_sum};
use crate::script::{FRONTENDS, sources};

/// Frames of one input.
const FRAMES: usize = 24;

/// What is done to a frame's bytes first: nobody guesses a checksum.
mod how {
    /// The IP lengths and the IPv4 header checksum are set right.
    pub(super) const HEADER: u8 = 1;
    /// The layer-4 checksum is set right.
    pub(super) const SUM: u8 = 1 << 1;
    /// The bytes begin with a virtio-net header.
    pub(super) const VNET: u8 = 1 << 2;
    /// The layer-4 checksum is left to the device.
    pub(super) const PARTIAL: u8 = 1 << 3;
    /// The destination is one of [`super::PLACES`].
    pub(super) const DESTINATION: u8 = 1 << 4;
    /// So is the source.
    pub(super) const SOURCE: u8 = 1 << 5;
    /// It comes to the second worker.
    pub(super) const SECOND: u8 = 1 << 6;
    /// Ten seconds later.
    pub(super) const LATER: u8 = 1 << 7;
}

/// Clients, frontends, endpoints, SNAT addresses: IPv4, and the same in IPv6.
const PLACES: [([u8; 4], &str); 12] = [
    ([10, 1, 0, 1], "fd01::1"),
    ([10, 1, 0, 2], "fd01::2"),
    ([10, 96, 0, 10], "fd96::10"),
    ([10, 96, 0, 11], "fd96::11"),
    ([10, 96, 0, 12], "fd96::12"),
    ([10, 96, 0, 77], "fd96::77"),
    ([10, 244, 1, 1], "fd24::1:1"),
    ([10, 244, 1, 2], "fd24::1:2"),
    ([10, 244, 2, 1], "fd24::1:3"),
    ([10, 255, 0, 1], "fd00:ffff::1"),
    ([169, 254, 77, 1], "fd00:fffe:77::1"),
    ([192, 0, 2, 7], "2001:db8::1"),
];

/// Runs the target.
///
/// # Panics
/// On a finding.
pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    let mut gateway = Gateway::new(2, 8_192, &config, 7);
    let mut cluster = Cluster::default();
    cluster.sources = sources(draw.below(4));
    for (proto, vip, endpoints) in FRONTENDS {
        cluster.serve(proto, vip, endpoints);
    }
    gateway.publish(&mut cluster);
    for _ in 0..FRAMES {
        if draw.is_empty() {
            break;
        }
        one(&mut gateway, &mut draw);
    }
}

fn one(gateway: &mut Gateway, draw: &mut Draw<'_>) {
    let (how, to, from, length) = (draw.byte(), draw.byte(), draw.byte(), draw.word());
    let mut bytes = draw.take(usize::from(length)).to_vec();
    if how & how::LATER != 0 {
        gateway.advance(Duration::from_secs(10));
    }
    let mut vnet = VnetHdr::default();
    if how & how::VNET != 0 {
        if bytes.len() < VNET_LEN {
            // Not even a header: as a device never gives it.
            judge_short(gateway, &bytes);
            return;
        }
        let packet = bytes.split_off(VNET_LEN);
        vnet = VnetHdr::read(&bytes.try_into().expect("split off behind the header"));
        bytes = packet;
    }
    for (bit, at, place) in [(how::DESTINATION, 1, to), (how::SOURCE, 0, from)] {
        if how & bit != 0 {
            put_address(&mut bytes, at, place);
        }
    }
    if how & how::HEADER != 0 {
        mend_header(&mut bytes);
    }
    if let Ok(layout) = Layout::of(&bytes) {
        if how & how::PARTIAL != 0 {
            vnet = leave_checksum(&mut bytes, &layout).unwrap_or(vnet);
        } else if how & how::SUM != 0 {
            mend_checksum(&mut bytes, &layout);
        }
    }
    let wire = Wire { vnet, bytes };
    let outcome = gateway.send(usize::from(how & how::SECOND != 0), &wire);
    judge(&wire, &outcome);
}

fn judge_short(gateway: &mut Gateway, bytes: &[u8]) {
    let outcome = gateway.send_raw(0, bytes);
    assert!(matches!(outcome, Outcome::Dropped(_)), "{outcome:?} of {} bytes", bytes.len());
}

fn judge(sent: &Wire, outcome: &Outcome) {
    match outcome {
        Outcome::Dropped(_) | Outcome::Parked => {}
        Outcome::Passed(left) => assert_eq!(left, sent, "passed on, but touched"),
        Outcome::Replied(answer) => {
            valid(answer).unwrap_or_else(|what| panic!("{what}: the answer {answer:02x?} to {sent:02x?}"));
        }
        Outcome::Translated(left) => {
            assert_eq!(left.vnet, sent.vnet, "the device's header changed");
            let layout = Layout::of(&sent.bytes).expect("translated, so valid");
            let after = Layout::of(&left.bytes);
            // A SNAT address may be one that no other packet may come from.
            let same = after == Ok(layout) || after == Err(DropReason::NotUnicast);
            assert!(same, "{after:?}: {sent:02x?} left as {left:02x?}");
            let may = may_change(&layout, &sent.bytes);
            for (at, (before, after)) in sent.bytes.iter().zip(&left.bytes).enumerate() {
                assert!(before == after || may(at), "byte {at} of {sent:02x?} changed in {left:02x?}");
            }
            assert_eq!(sent.bytes.len(), left.bytes.len());
            // Of a part of a datagram nobody can say whether its checksum is right.
            if !layout.is_fragment()
                && sent.bytes.len() == layout.total_len()
                && let Ok(before) = valid(sent)
            {
                let after = valid(left);
                let after = after.unwrap_or_else(|what| panic!("{what}: {sent:02x?} left as {left:02x?}"));
                let kinds = [before, after].map(|view| std::mem::discriminant(&view.l4));
                assert_eq!(kinds[0], kinds[1], "{sent:02x?} left as {left:02x?}");
            }
        }
    }
}

/// Which bytes a translation may touch.
fn may_change(layout: &Layout, bytes: &[u8]) -> impl Fn(usize) -> bool {
    let (l4, total, kind, piece) = (layout.l4_offset(), layout.total_len(), layout.kind(), layout.piece());
    let v4 = layout.family() == Family::V4;
    let checksum = match kind {
        Kind::Flow(Proto::Tcp) => 16..18,
        Kind::Flow(Proto::Udp) => 6..8,
        Kind::Flow(Proto::Sctp) => 8..12,
        Kind::IcmpError => 2..4,
        Kind::Icmp | Kind::Other => 0..0,
    };
    let hop = if v4 { 8 } else { 7 };
    // What an error quotes: two headers, of which IPv6 may have more between them.
    let quoted = if kind == Kind::IcmpError { l4 + 8..total } else { 0..0 };
    let quoted = if v4 { quoted.start..quoted.end.min(l4 + 8 + 60 + 20) } else { quoted };
    let length = bytes.len();
    move |at| {
        let addresses = if v4 { (10..20).contains(&at) } else { (8..40).contains(&at) };
        let ports = matches!(kind, Kind::Flow(_)) && (l4..l4 + 4).contains(&at);
        let sums = piece != Piece::Later && at >= l4 && checksum.contains(&(at - l4));
        at < length && (addresses || at == hop || ports || sums || quoted.contains(&at))
    }
}

/// Sets an address of the packet's family.
fn put_address(bytes: &mut [u8], at: usize, place: u8) {
    let (v4, v6) = PLACES[usize::from(place) % PLACES.len()];
    match bytes.first().map(|first| first >> 4) {
        Some(4) if bytes.len() >= 20 => bytes[12 + 4 * at..][..4].copy_from_slice(&v4),
        Some(6) if bytes.len() >= 40 => {
            let addr: std::net::Ipv6Addr = v6.parse().expect("an address of the table");
            bytes[8 + 16 * at..][..16].copy_from_slice(&addr.octets());
        }
        _ => {}
    }
}

fn mend_header(bytes: &mut [u8]) {
    let length = bytes.len();
    let fits = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    match bytes.first().map(|first| first >> 4) {
        Some(4) if length >= 20 => {
            bytes[2..4].copy_from_slice(&fits(length));
            bytes[10..12].fill(0);
            let header = usize::from(bytes[0] & 15) * 4;
            if (20..=length).contains(&header) {
                let sum = !folded(&bytes[..header]);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            }
        }
        Some(6) if length >= 40 => bytes[4..6].copy_from_slice(&fits(length - 40)),
        _ => {}
    }
}

/// Leaves the checksum of TCP and UDP to the device, as the kernel does.
fn leave_checksum(bytes: &mut [u8], layout: &Layout) -> Option<VnetHdr> {
    let (number, offset) = match layout.kind() {
        Kind::Flow(Proto::Tcp) => (6, 16),
        Kind::Flow(Proto::Udp) => (17, 6),
        Kind::Flow(Proto::Sctp) | Kind::IcmpError | Kind::Icmp | Kind::Other => return None,
    };
    let start = layout.l4_offset();
    let sum = pseudo(bytes, layout, number);
    bytes[start + offset..start + offset + 2].copy_from_slice(&sum.to_be_bytes());
    let fits = |n: usize| u16::try_from(n).expect("inside a packet");
    let (csum_start, csum_offset) = (fits(start), fits(offset));
    Some(VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start, csum_offset, ..VnetHdr::default() })
}

fn mend_checksum(bytes: &mut [u8], layout: &Layout) {
    let v4 = layout.family() == Family::V4;
    let (start, end) = (layout.l4_offset(), layout.total_len());
    let number = match layout.kind() {
        Kind::Flow(Proto::Sctp) => {
            bytes[start + 8..start + 12].fill(0);
            let sum = crc32c(&bytes[start..end]);
            bytes[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
            return;
        }
        Kind::Icmp | Kind::IcmpError => {
            if v4 {
                1
            } else {
                58
            }
        }
        Kind::Flow(Proto::Tcp) => 6,
        Kind::Flow(Proto::Udp) => 17,
        Kind::Other => return,
    };
    let at = start + [(6, 16), (17, 6)].iter().find(|(n, _)| *n == number).map_or(2, |(_, at)| *at);
    bytes[at..at + 2].fill(0);
    let head = if number == 1 { 0 } else { pseudo(bytes, layout, number) };
    let with_head = [&head.to_be_bytes()[..], &bytes[start..end]].concat();
    let sum = !folded(&with_head);
    let sum = if sum == 0 && number == 17 { 0xffff } else { sum };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo(bytes: &[u8], layout: &Layout, number: u8) -> u16 {
    let length = layout.total_len() - layout.l4_offset();
    let wire = Wire::plain(bytes.to_vec());
    let (src, dst) = if layout.family() == Family::V4 {
        let at = |at: usize| <[u8; 4]>::try_from(&wire.bytes[at..at + 4]).expect("four bytes").into();
        (at(12), at(16))
    } else {
        let at = |at: usize| <[u8; 16]>::try_from(&wire.bytes[at..at + 16]).expect("sixteen bytes").into();
        (at(8), at(24))
    };
    pseudo_sum(src, dst, number, length)
}

/// The one's complement sum of big-endian words.
fn folded(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
