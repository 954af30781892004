//! One rewrite of a TCP packet, ns: with the stored delta of a flow (`delta`), with a delta computed for
//! each packet (`between`), with an unfinished checksum (`partial`), and for comparison with the checksum
//! computed anew (`full`). Only the last may grow with the packet.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::Criterion;
use dataplane::packet::Packet;
use dataplane::packet::checksum::Delta;
use dataplane::packet::layout::{Csum, Layout};
use dataplane::packet::tuple::{Address, Proto, Tuple};
use etherparse::PacketBuilder;
use etherparse::checksum::Sum16BitWords;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (size, payload) in [("64B", 64), ("1400B", 1400), ("60kB", 60_000)] {
        let (src, dst) = (Ipv4Addr::new(10, 244, 1, 5), Ipv4Addr::new(10, 96, 0, 10));
        let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp(40_000, 80, 1, 64_240);
        let mut packet = Vec::new();
        builder.write(&mut packet, &vec![0x5a; payload]).expect("a packet that can be built");
        let from = Tuple { src, dst, sport: 40_000, dport: 80, proto: Proto::Tcp };
        let to = Tuple { dst: Ipv4Addr::new(10, 244, 2, 8), dport: 8080, ..from };
        bench(&mut criterion, "v4", size, &mut packet, &from, &to);

        let (src, dst) =
            (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 5), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9));
        let builder = PacketBuilder::ipv6(src.octets(), dst.octets(), 64).tcp(40_000, 80, 1, 64_240);
        let mut packet = Vec::new();
        builder.write(&mut packet, &vec![0x5a; payload]).expect("a packet that can be built");
        let from = Tuple { src, dst, sport: 40_000, dport: 80, proto: Proto::Tcp };
        let to = Tuple { dst: Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 8), dport: 8080, ..from };
        bench(&mut criterion, "v6", size, &mut packet, &from, &to);
    }
    criterion.final_summary();
}

/// The packet is rewritten over and over: the work is the same whatever its bytes are.
fn bench<A: Address>(
    criterion: &mut Criterion,
    family: &str,
    size: &str,
    packet: &mut [u8],
    from: &Tuple<A>,
    to: &Tuple<A>,
) {
    let layout = Layout::of(packet).expect("a packet of ours");
    let delta = Delta::between(from, to);
    let mut case = |name: &str, rewrite: &mut dyn FnMut(&mut [u8])| {
        criterion.bench_function(&format!("checksum/{name}/{family}/{size}"), |bencher| {
            bencher.iter(|| rewrite(black_box(&mut *packet)));
        });
    };
    case("delta", &mut |packet| {
        Packet::from_parts(packet, layout, Csum::Full).apply(black_box(to), black_box(delta));
    });
    case("between", &mut |packet| {
        let delta = Delta::between(black_box(from), to);
        Packet::from_parts(packet, layout, Csum::Full).apply(black_box(to), delta);
    });
    case("partial", &mut |packet| {
        Packet::from_parts(packet, layout, Csum::Partial).apply(black_box(to), black_box(delta));
    });
    case("full", &mut |packet| {
        Packet::from_parts(packet, layout, Csum::Full).apply(black_box(to), black_box(delta));
        let l4 = &mut packet[layout.l4_offset()..];
        l4[16..18].fill(0);
        let pseudo = to.src.word_sum() + to.dst.word_sum() + 6;
        let len = u32::try_from(l4.len()).unwrap_or(0);
        let sum = Sum16BitWords::new().add_4bytes((pseudo + len).to_be_bytes()).add_slice(l4);
        l4[16..18].copy_from_slice(&sum.ones_complement().to_ne_bytes());
    });
}
