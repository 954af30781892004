//! The packet path asks for no memory: not for a known flow, not for a new one, not for any other end. The one exception:
//! a client session affinity has never seen makes the map grow now and then.

use dataplane::engine::EngineConfig;
use dataplane::packet::frame::{BATCH, Batch};
use dataplane::packet::tuple::Proto;
use dataplane::stats::Counter;
use dataplane::verdict::{DropReason, Verdict};
use tests::alloc::{Counting, count};
use tests::cluster::{Cluster, addr};
use tests::gateway::Gateway;
use tests::packets::{IcmpError, Offload, Wire, chunks, echo, flags, fragments, icmp_error, sctp, tcp, udp};
use tests::script::malformed;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PACKETS: usize = 10_000;

fn gateway() -> Gateway {
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    let mut gateway = Gateway::new(1, 16_384, &config, 9);
    let mut cluster = Cluster::default();
    for (proto, vip, endpoints) in [
        (Proto::Tcp, "10.96.0.10:80", ["10.244.1.1:8080", "10.244.1.2:8080"]),
        (Proto::Udp, "10.96.0.10:53", ["10.244.1.1:53", "10.244.1.2:53"]),
        (Proto::Tcp, "[fd96::10]:80", ["[fd24::1]:8080", "[fd24::2]:8080"]),
        (Proto::Udp, "[fd96::10]:53", ["[fd24::1]:53", "[fd24::2]:53"]),
        (Proto::Sctp, "10.96.0.10:80", ["10.244.1.1:8080", "10.244.1.2:8080"]),
        (Proto::Sctp, "[fd96::10]:80", ["[fd24::1]:8080", "[fd24::2]:8080"]),
    ] {
        cluster.serve(proto, vip, &endpoints);
    }
    cluster.serve(Proto::Tcp, "10.96.0.12:80", &[]);
    cluster.serve(Proto::Sctp, "10.96.0.12:80", &[]);
    gateway.publish(&mut cluster);
    gateway
}

/// Sends packets in full batches, counting only what the engine does; the verdicts' tally and the allocations.
fn run(gateway: &mut Gateway, packets: &[Wire]) -> (Vec<Verdict>, u64) {
    let mut batch = Batch::default();
    let mut verdicts = Vec::new();
    let mut allocations = 0;
    for chunk in packets.chunks(BATCH) {
        batch.clear();
        for wire in chunk {
            wire.put(&mut batch);
        }
        let now = gateway.now.plus_nanos(1_000_000);
        gateway.now = now;
        let ((), n) = count(|| gateway.step(0, &mut batch));
        allocations += n;
        verdicts.extend(batch.frames().iter().map(|frame| frame.verdict.expect("no frame waits")));
    }
    (verdicts, allocations)
}

fn opening(n: usize) -> Wire {
    let port = 1_024 + n;
    let four = || addr(&format!("10.1.{}.1:{port}", n / 1_000));
    let six = || addr(&format!("[fd01::{}]:{port}", n / 1_000));
    match n % 4 {
        0 => tcp(four(), addr("10.96.0.10:80"), flags::SYN).wire(),
        1 => udp(four(), addr("10.96.0.10:53")).payload(*b"q").wire(),
        2 => tcp(six(), addr("[fd96::10]:80"), flags::SYN).wire(),
        _ => udp(six(), addr("[fd96::10]:53")).payload(*b"q").wire(),
    }
}

#[test]
fn the_counter_counts() {
    let (boxed, n) = count(|| Box::new(std::hint::black_box(7_u64)));
    assert_eq!((*boxed, n), (7, 1));
    assert_eq!(count(|| std::hint::black_box(7_u64)).1, 0);
}

#[test]
fn ten_thousand_new_flows_and_ten_thousand_packets_of_known_ones() {
    let mut gateway = gateway();
    let packets: Vec<Wire> = (0..PACKETS).map(opening).collect();
    let (verdicts, allocations) = run(&mut gateway, &packets);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Translated));
    assert_eq!(allocations, 0, "opening flows");
    assert_eq!(gateway.flows().len(), PACKETS);

    let known: Vec<Wire> = (0..PACKETS)
        .map(|n| match n % 8 {
            0 => tcp(addr("10.1.0.1:1024"), addr("10.96.0.10:80"), flags::ACK)
                .payload(vec![1; 30_000])
                .offload(Offload::Gso(1_400))
                .wire(),
            4 => tcp(addr("10.1.0.1:1028"), addr("10.96.0.10:80"), flags::FIN | flags::ACK).wire(),
            _ => opening(n),
        })
        .collect();
    let (verdicts, allocations) = run(&mut gateway, &known);
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Translated));
    assert_eq!(allocations, 0, "known flows");
}

#[test]
fn associations_opened_used_aborted_opened_anew_and_refused() {
    use chunks::{ABORT, DATA, HEARTBEAT, INIT};
    let mut gateway = gateway();
    let ends = |n: usize| {
        let port = 1_024 + n / 2;
        let four = (addr(&format!("10.1.0.1:{port}")), addr("10.96.0.10:80"));
        if n.is_multiple_of(2) { four } else { (addr(&format!("[fd01::1]:{port}")), addr("[fd96::10]:80")) }
    };
    let flows = PACKETS / 2;
    let each = |kinds: &'static [u8]| -> Vec<Wire> {
        let packet = |n: usize| {
            let (client, vip) = ends(n);
            sctp(client, vip, &kinds[n % kinds.len()..=n % kinds.len()]).payload(vec![1; n % 1_400]).wire()
        };
        (0..flows).map(packet).collect()
    };
    for (kinds, what) in [
        (&[INIT][..], "opening"),
        (&[DATA, HEARTBEAT, DATA], "using"),
        (&[ABORT], "aborting"),
        (&[INIT], "opening anew"),
    ] {
        let packets = each(kinds);
        let (verdicts, allocations) = run(&mut gateway, &packets);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Translated), "{what}");
        assert_eq!((allocations, gateway.flows().len()), (0, flows), "{what}");
    }
    assert_eq!(gateway.totals().get(Counter::FlowsReopened), flows as u64);
    let lost = [DATA, INIT].map(|chunk| sctp(addr("10.1.0.2:9"), addr("10.96.0.12:80"), &[chunk]).wire());
    let (verdicts, allocations) = run(&mut gateway, &lost);
    assert_eq!(verdicts, [Verdict::Dropped(DropReason::OutOfTheBlue), Verdict::Replied]);
    assert_eq!(allocations, 0, "refusing");
}

#[test]
fn clients_that_are_remembered_and_those_that_are_new() {
    let mut gateway = gateway();
    let mut cluster = Cluster::default();
    for (proto, vip, endpoints) in [
        (Proto::Tcp, "10.96.0.10:80", ["10.244.1.1:8080", "10.244.1.2:8080"]),
        (Proto::Udp, "[fd96::10]:53", ["[fd24::1]:53", "[fd24::2]:53"]),
    ] {
        let id = cluster.serve(proto, vip, &endpoints);
        cluster.service(id).affinity = Some(600);
    }
    gateway.publish(&mut cluster);
    let first = |from: usize| -> Vec<Wire> {
        (0..5_000)
            .flat_map(|n| {
                let port = from + n;
                let four = addr(&format!("10.1.{}.{}:{port}", n / 200, n % 200));
                let six = addr(&format!("[fd01:0:0:{}::{n}]:{port}", n / 100));
                let query = udp(six, addr("[fd96::10]:53")).payload(*b"q").wire();
                [tcp(four, addr("10.96.0.10:80"), flags::SYN).wire(), query]
            })
            .collect()
    };
    let (verdicts, growth) = run(&mut gateway, &first(2_000));
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Translated));
    assert_eq!(gateway.tables.affinity.len(), 10_000);
    // 256 shards that double from 4 entries.
    assert!((256..=256 * 8).contains(&growth), "{growth} allocations for 10,000 new clients");
    println!("measured: {growth} allocations for 10,000 new clients");
    // The next second, so that each is written again.
    gateway.now = gateway.now.plus_nanos(2_000_000_000);
    let (verdicts, allocations) = run(&mut gateway, &first(20_000));
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Translated));
    assert_eq!((allocations, gateway.tables.affinity.len()), (0, 10_000), "known clients, new flows");
    let (_, allocations) = run(&mut gateway, &first(20_000));
    assert_eq!(allocations, 0, "known flows");
}

#[test]
fn refusals_errors_drops_and_the_sweep() {
    let mut gateway = gateway();
    let quoted = udp(addr("10.96.0.10:53"), addr("10.1.0.1:4000")).payload(*b"a").bytes();
    run(&mut gateway, &[udp(addr("10.1.0.1:4000"), addr("10.96.0.10:53")).wire()]);
    let mixed: Vec<Wire> = (0..PACKETS)
        .map(|n| match n % 8 {
            0 => tcp(addr("10.1.0.1:4000"), addr("10.96.0.12:80"), flags::SYN).wire(),
            1 => tcp(addr("10.1.0.1:4000"), addr("10.96.0.10:80"), flags::ACK).wire(),
            2 => udp(addr("10.1.0.1:4000"), addr("192.0.2.1:53")).wire(),
            3 => Wire::plain(echo(addr("10.1.0.1:0").ip(), addr("10.96.0.10:0").ip())),
            4 => udp(addr("10.244.1.1:53"), addr("10.255.0.1:9")).wire(),
            5 => {
                let (from, to) = (addr("10.1.0.1:0").ip(), addr("10.96.0.10:0").ip());
                Wire::plain(icmp_error(IcmpError::TimeExceeded, from, to, &quoted))
            }
            6 => Wire::plain(vec![0x45; 30]),
            _ => udp(addr("10.1.0.1:4000"), addr("10.96.0.77:53")).wire(),
        })
        .collect();
    let (verdicts, allocations) = run(&mut gateway, &mixed);
    assert_eq!(allocations, 0, "other ends");
    let translated = verdicts.iter().filter(|verdict| **verdict == Verdict::Translated).count();
    assert_eq!(translated, PACKETS / 8, "the errors are about a known flow");
    for one in malformed() {
        let mut batch = Batch::default();
        let frame = batch.spare().expect("room");
        frame.buffer_mut()[..one.raw.len()].copy_from_slice(&one.raw);
        frame.set_len(one.raw.len());
        batch.push();
        assert_eq!(count(|| gateway.step(0, &mut batch)).1, 0, "{}", one.name);
    }
    let before = gateway.now;
    let ((), allocations) = count(|| gateway.sweep_until(before.plus_nanos(200_000_000_000)));
    assert_eq!(allocations, 0, "the sweep");
    assert_eq!(gateway.flows().len(), 0);
}

#[test]
fn a_full_table_and_its_evictions() {
    let config = EngineConfig::default();
    let mut gateway = Gateway::new(1, 4_096, &config, 9);
    let mut cluster = Cluster::default();
    cluster.serve(Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080", "10.244.1.2:8080"]);
    gateway.publish(&mut cluster);
    let packets: Vec<Wire> = (0..PACKETS)
        .map(|n| {
            tcp(addr(&format!("10.1.{}.1:{}", n / 1_000, 1_024 + n)), addr("10.96.0.10:80"), flags::SYN)
                .wire()
        })
        .collect();
    let (_, allocations) = run(&mut gateway, &packets);
    assert_eq!(allocations, 0);
    assert!(gateway.flows().len() > 4_000);
}

#[test]
fn fragments_in_and_out_of_order_and_more_than_fit() {
    let mut gateway = gateway();
    let mut batch = Batch::default();
    let mut allocations = 0;
    let mut send = |gateway: &mut Gateway, wires: &[Vec<u8>]| {
        batch.clear();
        wires.iter().for_each(|bytes| assert!(Wire::plain(bytes.clone()).put(&mut batch)));
        gateway.now = gateway.now.plus_nanos(1_000);
        allocations += count(|| gateway.step(0, &mut batch)).1;
    };
    for n in 0..PACKETS {
        let (client, vip) =
            if n % 2 == 0 { ("10.1.0.1:4000", "10.96.0.10:53") } else { ("[fd01::1]:4000", "[fd96::10]:53") };
        let packet = udp(addr(client), addr(vip)).payload(vec![1; 3_000]).bytes();
        let number = u32::try_from(n).expect("a small number");
        let mut pieces = fragments(&packet, number, 1_480);
        match n % 7 {
            // Complete, in order and not; without the last; without the first; twice.
            0 => {}
            1 => pieces.reverse(),
            2 | 3 => drop(pieces.pop()),
            4 | 5 => drop(pieces.remove(0)),
            _ => pieces.extend_from_within(..),
        }
        send(&mut gateway, &pieces);
    }
    let totals = gateway.totals();
    assert!(totals.get(Counter::DatagramsComplete) > 4_000, "{totals:?}");
    assert!(totals.drops(DropReason::FragmentsFull) > 0 && totals.get(Counter::DatagramsIncomplete) > 500);
    assert_eq!(allocations, 0);
    let until = gateway.now.plus_nanos(90_000_000_000);
    let ((), allocations) = count(|| gateway.sweep_until(until));
    assert_eq!((allocations, gateway.tables.fragments.datagrams()), (0, 0), "the sweep");
}
