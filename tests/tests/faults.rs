//! Every kind of wrong packet is a counted drop with its reason, and nothing is ever lost from the count.

use std::collections::BTreeSet;
use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::packet::frame::BATCH;
use dataplane::packet::tuple::Proto;
use dataplane::service::World;
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;
use tests::check::{L4, assert_valid, valid};
use tests::cluster::{Cluster, addr};
use tests::gateway::{Gateway, Outcome};
use tests::packets::{IcmpError, Offload, Wire, echo, flags, icmp_error, tcp, udp};
use tests::script::malformed;

fn gateway(config: &EngineConfig) -> Gateway {
    let mut gateway = Gateway::new(1, 8_192, config, 3);
    let mut cluster = Cluster::default();
    cluster.serve(Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080"]);
    cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:53"]);
    cluster.serve(Proto::Tcp, "[fd96::10]:80", &["[fd24::1]:8080"]);
    cluster.serve(Proto::Udp, "[fd96::10]:53", &["[fd24::1]:53"]);
    cluster.serve(Proto::Tcp, "10.96.0.12:80", &[]);
    gateway.publish(&mut cluster);
    gateway
}

#[test]
fn every_malformed_packet_is_dropped_for_its_own_reason() {
    let mut gateway = gateway(&EngineConfig::default());
    let mut reasons = BTreeSet::new();
    let mut wrong = Vec::new();
    for one in malformed() {
        let outcome = gateway.send_raw(0, &one.raw);
        if outcome != Outcome::Dropped(one.reason) {
            wrong.push(format!("{}: {outcome:?}, should be {}", one.name, one.reason.label()));
        }
        reasons.insert(one.reason);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(gateway.totals().get(Counter::Received), malformed().len() as u64);
    assert_eq!(gateway.totals().dropped(), malformed().len() as u64);
    assert_eq!(gateway.flows().len(), 0);
    // The table of malformed packets is complete: it reaches every reason a packet's own form can be.
    let by_form = [
        DropReason::Truncated,
        DropReason::BadVersion,
        DropReason::BadHeaderLength,
        DropReason::BadTotalLength,
        DropReason::BadHeaderChecksum,
        DropReason::BadL4Header,
        DropReason::BadExtensionHeader,
        DropReason::RoutingHeader,
        DropReason::BadVnetHeader,
        DropReason::Martian,
        DropReason::NotUnicast,
        DropReason::BadFragment,
        DropReason::TinyFragment,
        DropReason::BadIcmpError,
    ];
    assert_eq!(reasons, by_form.into_iter().collect());
}

#[test]
fn a_malformed_packet_of_a_known_flow_is_dropped_too() {
    let mut gateway = gateway(&EngineConfig::default());
    for spec in [
        tcp(addr("10.1.0.1:40000"), addr("10.96.0.10:80"), flags::SYN),
        udp(addr("10.1.0.1:40000"), addr("10.96.0.10:53")),
        tcp(addr("[fd01::1]:40000"), addr("[fd96::10]:80"), flags::SYN),
        udp(addr("[fd01::1]:40000"), addr("[fd96::10]:53")),
    ] {
        assert!(matches!(gateway.send(0, &spec.wire()), Outcome::Translated(_)));
    }
    for one in malformed() {
        assert_eq!(gateway.send_raw(0, &one.raw), Outcome::Dropped(one.reason), "{}", one.name);
    }
    assert_eq!(gateway.flows().len(), 4);
}

#[test]
fn good_packets_between_bad_ones_go_through() {
    let mut gateway = gateway(&EngineConfig::default());
    let bad = Wire::plain(vec![0x55; 60]);
    let good = |n: usize| {
        let client = addr(&format!("10.1.0.1:{}", 40_000 + n));
        tcp(client, addr("10.96.0.10:80"), flags::SYN).wire()
    };
    let batch: Vec<Wire> = (0..BATCH).map(|n| if n % 2 == 0 { bad.clone() } else { good(n) }).collect();
    for (n, outcome) in gateway.send_all(0, &batch).into_iter().enumerate() {
        if n % 2 == 0 {
            assert_eq!(outcome, Outcome::Dropped(DropReason::BadVersion));
        } else {
            assert!(matches!(outcome, Outcome::Translated(_)), "{outcome:?}");
        }
    }
}

#[test]
fn the_longest_packet_and_padding_behind_a_packet_are_no_faults() {
    let mut gateway = gateway(&EngineConfig::default());
    let (client, vip) = (addr("10.1.0.1:40000"), addr("10.96.0.10:80"));
    assert!(matches!(gateway.send(0, &tcp(client, vip, flags::SYN).wire()), Outcome::Translated(_)));
    let longest =
        tcp(client, vip, flags::ACK).payload(vec![7; 65_535 - 40]).offload(Offload::Gso(1_460)).wire();
    let Outcome::Translated(out) = gateway.send(0, &longest) else { panic!("the longest packet") };
    assert_eq!(out.bytes.len(), 65_535);
    assert_valid(&out);
    assert_eq!(out.vnet, longest.vnet, "the virtio header goes through untouched");
}

#[test]
fn answers_are_limited_and_the_rest_is_counted() {
    let config = EngineConfig { replies_per_second: 100, ..EngineConfig::default() };
    let mut gateway = gateway(&config);
    let ask = |gateway: &mut Gateway, n: u16| {
        let client = addr(&format!("10.1.0.1:{}", 1_024 + n));
        gateway.send(0, &tcp(client, addr("10.96.0.12:80"), flags::SYN).wire())
    };
    let answered = |gateway: &mut Gateway, n: u16| {
        (0..n).filter(|n| matches!(ask(gateway, *n), Outcome::Replied(_))).count()
    };
    assert!((1..=100).contains(&answered(&mut gateway, 1_000)));
    let limited = gateway.totals().drops(DropReason::ReplyLimited);
    assert!(limited >= 900, "{limited}");
    gateway.advance(Duration::from_secs(1));
    assert!((1..=101).contains(&answered(&mut gateway, 1_000)));
}

#[test]
fn a_full_batch_of_refusals_answers_as_many_as_there_is_room_for() {
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    let mut gateway = gateway(&config);
    let batch: Vec<Wire> = (0..BATCH)
        .map(|n| tcp(addr(&format!("10.1.0.1:{}", 2_000 + n)), addr("10.96.0.12:80"), flags::SYN).wire())
        .collect();
    let outcomes = gateway.send_all(0, &batch);
    let replied = outcomes.iter().filter(|one| matches!(one, Outcome::Replied(_))).count();
    let counted = outcomes.iter().filter(|one| matches!(one, Outcome::Dropped(_))).count();
    assert_eq!(
        (replied, counted),
        (dataplane::packet::frame::REPLIES, BATCH - dataplane::packet::frame::REPLIES)
    );
}

#[test]
fn refusal_by_rst_is_a_choice() {
    let mut gateway = gateway(&EngineConfig { reject_with_rst: true, ..EngineConfig::default() });
    let syn = tcp(addr("10.1.0.1:5000"), addr("10.96.0.12:80"), flags::SYN).seq(77);
    let Outcome::Replied(reply) = gateway.send(0, &syn.wire()) else { panic!("no answer") };
    let L4::Tcp { flags: set, seq: 0, ack: 78, payload: 0 } = assert_valid(&reply).l4 else {
        panic!("{reply:?}")
    };
    assert_eq!(set, flags::RST | flags::ACK);
    let query = udp(addr("10.1.0.1:5000"), addr("10.96.0.12:80")).payload(*b"q");
    let Outcome::Replied(reply) = gateway.send(0, &query.wire()) else { panic!("no answer") };
    assert!(matches!(assert_valid(&reply).l4, L4::Icmp { kind: 3, code: 3, .. }));
}

#[test]
fn picking_up_mid_stream_is_a_choice() {
    let mut strict = gateway(&EngineConfig::default());
    let data = tcp(addr("10.1.0.1:5000"), addr("10.96.0.10:80"), flags::ACK).payload(*b"data");
    assert!(matches!(strict.send(0, &data.wire()), Outcome::Replied(_)));
    let mut loose = gateway(&EngineConfig { tcp_loose: true, ..EngineConfig::default() });
    let Outcome::Translated(out) = loose.send(0, &data.wire()) else { panic!("not picked up") };
    let out = assert_valid(&out);
    let back = tcp(out.dst, out.src, flags::ACK).payload(*b"answer");
    assert!(matches!(loose.send(0, &back.wire()), Outcome::Translated(_)));
}

#[test]
fn before_the_first_world_nothing_new_is_answered_or_refused() {
    let mut gateway = gateway(&EngineConfig::default());
    let known = tcp(addr("10.1.0.1:5000"), addr("10.96.0.10:80"), flags::SYN);
    assert!(matches!(gateway.send(0, &known.wire()), Outcome::Translated(_)));
    gateway.world = World::NotReady;
    assert!(matches!(gateway.send(0, &known.wire()), Outcome::Translated(_)), "known flows are served");
    let before = gateway.totals().drops(DropReason::NotReady);
    for wire in [
        tcp(addr("10.1.0.1:5001"), addr("10.96.0.10:80"), flags::SYN).wire(),
        tcp(addr("10.1.0.1:5001"), addr("10.96.0.12:80"), flags::SYN).wire(),
        tcp(addr("10.1.0.1:5001"), addr("10.96.0.99:80"), flags::ACK).wire(),
        udp(addr("10.1.0.1:5001"), addr("192.0.2.1:53")).wire(),
        Wire::plain(echo(addr("10.1.0.1:0").ip(), addr("10.96.0.10:0").ip())),
    ] {
        assert_eq!(gateway.send(0, &wire), Outcome::Dropped(DropReason::NotReady));
    }
    assert_eq!(gateway.totals().drops(DropReason::NotReady) - before, 5);
}

/// Good packets of every kind, of known and of new flows.
fn seeds() -> Vec<Wire> {
    let mut seeds = Vec::new();
    for (client, tcp_vip, udp_vip, snat, server) in [
        ("10.1.0.1:40000", "10.96.0.10:80", "10.96.0.10:53", "10.255.0.1:40000", "10.244.1.1:8080"),
        ("[fd01::1]:40000", "[fd96::10]:80", "[fd96::10]:53", "[fd00:ffff::1]:40000", "[fd24::1]:8080"),
    ]
    .map(|(a, b, c, d, e)| (addr(a), addr(b), addr(c), addr(d), addr(e)))
    {
        let about = tcp(snat, server, flags::ACK).payload(*b"some payload").bytes();
        seeds.extend([
            tcp(client, tcp_vip, flags::SYN).tcp_options(&[2, 4, 5, 180]).wire(),
            tcp(client, tcp_vip, flags::ACK).payload(vec![3; 400]).offload(Offload::Gso(100)).wire(),
            tcp(client, tcp_vip, flags::FIN | flags::ACK).offload(Offload::Checksum).wire(),
            tcp(server, snat, flags::SYN | flags::ACK).wire(),
            udp(client, udp_vip).payload(*b"query").wire(),
            udp(client, udp_vip).payload(vec![4; 300]).offload(Offload::Gso(100)).wire(),
            Wire::plain(icmp_error(IcmpError::TooBig(1_280), server.ip(), snat.ip(), &about)),
            Wire::plain(echo(client.ip(), tcp_vip.ip())),
        ]);
    }
    seeds
}

#[test]
fn packets_broken_at_random_never_break_the_engine_nor_the_count() {
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    let mut gateway = gateway(&config);
    let seeds = seeds();
    for wire in &seeds {
        assert!(valid(wire).is_ok());
        gateway.send(0, wire);
    }
    let seed = 1 + dataplane::clock::Clock.now().nanos();
    let mut random = seed;
    let mut draw = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 33).expect("31 bits") % below
    };
    let mut survived = 0;
    for n in 0..60_000 {
        let wire = &seeds[n % seeds.len()];
        let mut raw = [&wire.vnet.write()[..], &wire.bytes].concat();
        for _ in 0..=draw(3) {
            let at = draw(raw.len().min(90));
            match draw(8) {
                0 => raw.truncate(at + 1),
                1 => raw[at] = 0,
                2 => raw[at] = 0xff,
                _ => raw[at] ^= 1 << draw(8),
            }
        }
        // The harness checks that exactly one counter moved.
        let Outcome::Translated(out) = gateway.send_raw(0, &raw) else { continue };
        survived += 1;
        let sent = Wire { vnet: out.vnet, bytes: raw[10..].to_vec() };
        assert_eq!(out.vnet.write()[..], raw[..10], "seed {seed}, packet {n}: the virtio header");
        assert_eq!(out.bytes.len(), sent.bytes.len(), "seed {seed}, packet {n}: length");
        // A right checksum stays right; a wrong one stays wrong: nothing is repaired on the way.
        match (valid(&sent), valid(&out)) {
            (Ok(mut before), Ok(after)) => {
                // The hop that the way to the device took is given back.
                let hops = if before.frozen[0] >> 4 == 4 { 8 } else { 7 };
                before.frozen[hops] = before.frozen[hops].saturating_add(1);
                assert_eq!(before.frozen, after.frozen, "seed {seed}, packet {n}");
            }
            (Err(_), Err(_)) => {}
            (before, after) => panic!("seed {seed}, packet {n}: {before:?} became {after:?}\n{raw:02x?}"),
        }
    }
    assert!(survived > 1_000, "seed {seed}: only {survived} were translated");
}
