//! Validation of one packet: `Layout::of` and the tuple, ns per packet.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::Criterion;
use dataplane::packet::layout::{Kind, Layout};
use dataplane::packet::tuple::Address;
use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};

const SRC4: [u8; 4] = [10, 244, 1, 5];
const DST4: [u8; 4] = [10, 96, 0, 10];
const SRC6: [u8; 16] = [0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
const DST6: [u8; 16] = [0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let v4 = || PacketBuilder::ipv4(SRC4, DST4, 64);
    let v6 = || PacketBuilder::ipv6(SRC6, DST6, 64);
    let cases = [
        ("v4_tcp", built(|out| v4().tcp(40_000, 80, 1, 64_240).write(out, &[0; 64]).is_ok())),
        ("v4_udp", built(|out| v4().udp(40_000, 53).write(out, &[0; 64]).is_ok())),
        (
            "v4_options",
            built(|out| PacketBuilder::ip(with_options()).udp(40_000, 53).write(out, &[0; 64]).is_ok()),
        ),
    ];
    for (name, packet) in cases {
        bench::<Ipv4Addr>(&mut criterion, name, &packet);
    }
    let cases = [
        ("v6_tcp", built(|out| v6().tcp(40_000, 80, 1, 64_240).write(out, &[0; 64]).is_ok())),
        (
            "v6_exthdr",
            built(|out| PacketBuilder::ip(with_chain()).udp(40_000, 53).write(out, &[0; 64]).is_ok()),
        ),
    ];
    for (name, packet) in cases {
        bench::<Ipv6Addr>(&mut criterion, name, &packet);
    }
    criterion.final_summary();
}

fn bench<A: Address>(criterion: &mut Criterion, name: &str, packet: &[u8]) {
    let layout = Layout::of(packet).expect("a packet of ours");
    assert!(matches!(layout.kind(), Kind::Flow(_)) && layout.family() == A::FAMILY);
    criterion.bench_function(&format!("parse/{name}"), |bencher| {
        bencher.iter(|| {
            let packet = black_box(packet);
            Layout::of(packet).map(|layout| layout.tuple::<A>(packet))
        });
    });
}

fn built(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    assert!(write(&mut out), "a packet that can be built");
    out
}

/// With a router alert.
fn with_options() -> IpHeaders {
    let mut header =
        Ipv4Header { time_to_live: 64, source: SRC4, destination: DST4, ..Ipv4Header::default() };
    header.options = [148, 4, 0, 0].into();
    IpHeaders::Ipv4(header, Ipv4Extensions::default())
}

/// With hop-by-hop and destination options.
fn with_chain() -> IpHeaders {
    let header = Ipv6Header { hop_limit: 64, source: SRC6, destination: DST6, ..Ipv6Header::default() };
    let options = Ipv6RawExtHeader::new_raw(0.into(), &[1, 4, 0, 0, 0, 0]).ok();
    let extensions = Ipv6Extensions {
        hop_by_hop_options: options.clone(),
        destination_options: options,
        ..Ipv6Extensions::default()
    };
    IpHeaders::Ipv6(header, extensions)
}
