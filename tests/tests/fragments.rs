//! Fragments in any sequence, whatever it is: exactly what a naive model of bytes allows comes out, each part where
//! the whole packet would have gone, and what it all keeps has a bound.
//!
//! `TUNWAY_SEED=N` repeats a run, `TUNWAY_CASES=N` makes it longer or shorter.
#![allow(clippy::unwrap_used, reason = "helpers of tests end the test")]

use std::cell::RefCell;
use std::collections::BTreeMap;

use dataplane::engine::EngineConfig;
use dataplane::packet::tuple::Proto;
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError, TestRunner};
use tests::cluster::{Cluster, addr};
use tests::gateway::{Gateway, Outcome};
use tests::packets::{Wire, fragment, fragments, udp};

#[path = "fragments/model.rs"]
mod model;
#[path = "fragments/threads.rs"]
mod threads;

use model::{Event, Shape, play};

const WORKERS: u8 = 3;

fn gateway() -> Gateway {
    let config = EngineConfig { replies_per_second: 1_000_000, ..EngineConfig::default() };
    let mut gateway = Gateway::new(WORKERS, 16_384, &config, 3);
    let mut cluster = Cluster::default();
    // One endpoint: a flow whose time was up goes the same way again.
    cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:5353"]);
    cluster.serve(Proto::Udp, "[fd96::10]:53", &["[fd24::1]:5353"]);
    cluster.serve(Proto::Udp, "10.96.0.11:53", &[]);
    cluster.serve(Proto::Udp, "[fd96::11]:53", &[]);
    gateway.publish(&mut cluster);
    gateway
}

/// Where a datagram of the story goes: to a Service, to one without endpoints, past us; IPv4 and IPv6.
const ROADS: [(&str, &str); 6] = [
    ("10.1.0.1:40000", "10.96.0.10:53"),
    ("[fd01::1]:40000", "[fd96::10]:53"),
    ("10.1.0.1:40000", "10.96.0.11:53"),
    ("[fd01::1]:40000", "[fd96::11]:53"),
    ("10.1.0.1:40000", "192.0.2.1:53"),
    ("[fd01::1]:40000", "[2001:db8::1]:53"),
];

fn shape() -> impl Strategy<Value = Shape> {
    let payload = prop_oneof![4 => 30_usize..2_000, // The longest a frame of IPv6 holds.
        1 => Just(65_487), 1 => Just(20_000)];
    let size = prop_oneof![3 => 1_usize..40, 1 => Just(185)];
    (0..ROADS.len(), payload, size, any::<bool>()).prop_map(|(road, payload, size, checksum)| {
        // A bound on how many fragments one datagram has, below those of the store.
        let size = 8 * size.max(payload / 480);
        Shape { road, payload, size, checksum }
    })
}

fn event() -> impl Strategy<Value = Event> {
    let which = any::<u16>();
    let piece = (which, any::<u16>()).prop_map(|(of, piece)| Event::Piece { of, piece });
    let other = (which, any::<u16>(), 0_u16..300, any::<bool>())
        .prop_map(|(of, from, len, more)| Event::OtherCut { of, from, len, more });
    let absurd = (which, any::<u16>(), 0_u16..600, any::<bool>())
        .prop_map(|(of, offset, len, more)| Event::Absurd { of, offset, len, more });
    prop_oneof![
        40 => piece,
        1 => other,
        1 => absurd,
        1 => (0_u8..62).prop_map(Event::Advance),
        12 => (which, any::<u64>()).prop_map(|(of, order)| Event::AllThatIsLeft { of, order }),
    ]
}

#[test]
fn what_comes_out_is_what_a_naive_model_allows() {
    let seed = seed();
    let cases =
        std::env::var("TUNWAY_CASES").ok().map_or(200, |text| text.parse().expect("a number of cases"));
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let seen = RefCell::new(BTreeMap::new());
    let story = (vec(shape(), 1..6), vec((event(), 0..WORKERS, 1_usize..9), 1..120));
    let outcome = TestRunner::new(config).run(&story, |(shapes, events)| {
        play(&mut gateway(), &shapes, &events, &mut seen.borrow_mut()).map_err(TestCaseError::fail)
    });
    outcome.unwrap_or_else(|error| panic!("TUNWAY_SEED={seed}: {error}"));
    let seen = seen.into_inner();
    println!("measured: seed {seed}: {seen:?}");
    for reached in [
        "translated",
        "passed",
        "replied",
        "held",
        "released",
        "complete",
        "bad_fragment",
        "fragment_duplicate",
        "fragment_overlap",
        "fragment_refused",
        "fragment_timeout",
    ] {
        assert!(cases < 100 || seen.contains_key(reached), "seed {seed}: no {reached}: {seen:?}");
    }
}

#[test]
fn no_bytes_make_it_stumble() {
    let seed = seed();
    let config = ProptestConfig {
        cases: 300,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let change = (any::<u16>(), any::<u8>());
    let frame = (0..ROADS.len(), any::<u16>(), vec(change, 0..4), any::<bool>(), 0..WORKERS);
    let gateway = RefCell::new(gateway());
    let outcome = TestRunner::new(config).run(&vec(frame, 1..60), |frames| {
        let mut gateway = gateway.borrow_mut();
        for (road, which, changes, resum, worker) in frames {
            let (src, dst) = ROADS[road];
            let packet = udp(addr(src), addr(dst)).payload(vec![7; 900]).bytes();
            let pieces = fragments(&packet, u32::from(which % 16), 200);
            let mut bytes = pieces[usize::from(which / 16) % pieces.len()].clone();
            for (at, value) in changes {
                // The headers most of the time.
                let at = usize::from(at) % if at % 4 == 0 { bytes.len() } else { 60 };
                bytes[at] = value;
            }
            if resum && bytes[0] >> 4 == 4 {
                let end = (usize::from(bytes[0] & 15) * 4).max(20);
                bytes[10..12].fill(0);
                let sum =
                    etherparse::checksum::Sum16BitWords::new().add_slice(&bytes[..end]).ones_complement();
                bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
            }
            let len = bytes.len();
            let wire = Wire::plain(bytes);
            let outcomes = gateway.send_all(worker.into(), std::slice::from_ref(&wire));
            if let Outcome::Translated(out) | Outcome::Passed(out) = &outcomes[0] {
                prop_assert_eq!(out.bytes.len(), len);
            }
            // An answer is a whole packet, and everything that leaves has its header in order.
            for out in outcomes.iter().filter_map(Outcome::wire) {
                if out.bytes[0] >> 4 == 4 {
                    let header = &out.bytes[..usize::from(out.bytes[0] & 15) * 4];
                    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header);
                    prop_assert_eq!(sum.ones_complement(), 0);
                }
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("TUNWAY_SEED={seed}: {error}"));
    let mut gateway = gateway.into_inner();
    gateway.advance(std::time::Duration::from_secs(62));
    assert_eq!((gateway.waiting(), gateway.tables.fragments.datagrams()), (0, 0));
    gateway.assert_nothing_uncounted();
}

#[test]
fn a_flood_is_bounded_and_datagrams_get_through_it() {
    let mut gateway = gateway();
    let good = udp(addr("10.1.0.1:40000"), addr("10.96.0.10:53")).payload(vec![5; 3_000]).bytes();
    let good6 = udp(addr("[fd01::1]:40000"), addr("[fd96::10]:53")).payload(vec![5; 3_000]).bytes();
    let mut through = 0;
    for n in 0..20_000_u32 {
        let (src, dst) =
            if n % 2 == 0 { ("10.9.0.1:9", "10.96.0.10:53") } else { ("[fd09::1]:9", "[fd96::10]:53") };
        let packet = udp(addr(src), addr(dst)).payload(vec![1; 64]).bytes();
        // Datagrams that never end: half of them have a first fragment, half wait for it for ever.
        let offset = if n % 4 < 2 { 0 } else { 1_480 };
        let data = [&packet[packet.len() - 72..][..4], &[0xff, 0xff, 0, 0], &[1; 1_472]].concat();
        let garbage = Wire::plain(fragment(&packet, n / 2, offset, true, &data));
        gateway.send(n as usize, &garbage);
        assert!(gateway.waiting() <= 2 * 2_048 && gateway.tables.fragments.datagrams() <= 2 * 4_096);
        if n % 1_000 == 0 {
            for (packet, v6) in [(&good, false), (&good6, true)] {
                let mut pieces = fragments(packet, 90_000 + n, 1_480);
                pieces.rotate_left(usize::from(v6));
                let mut sent = 0;
                for (worker, piece) in pieces.iter().enumerate() {
                    let outcomes = gateway.send_all(worker, &[Wire::plain(piece.clone())]);
                    sent += outcomes.iter().filter(|one| matches!(one, Outcome::Translated(_))).count();
                }
                assert_eq!(sent, pieces.len(), "after {n} of the flood");
                through += 1;
            }
        }
    }
    let totals = gateway.totals();
    assert_eq!((through, totals.get(Counter::DatagramsComplete)), (40, 40));
    assert!(totals.drops(DropReason::FragmentsFull) > 1_000, "{totals:?}");
    assert!(gateway.tables.fragments.datagrams() >= 4_096);
    gateway.advance(std::time::Duration::from_secs(62));
    assert_eq!((gateway.waiting(), gateway.tables.fragments.datagrams()), (0, 0));
    gateway.assert_nothing_uncounted();
}

fn seed() -> u64 {
    match std::env::var("TUNWAY_SEED") {
        Ok(text) => text.parse().expect("TUNWAY_SEED is a number"),
        Err(_) => dataplane::clock::Clock.now().nanos(),
    }
}
