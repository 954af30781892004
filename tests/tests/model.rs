//! Random stories against the naive model, and the stories that once went wrong.
//!
//! `TUNWAY_SEED=N` repeats a run, `TUNWAY_CASES=N` makes it longer or shorter.

use std::cell::RefCell;
use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::packet::tuple::Proto;
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use tests::cluster::{Cluster, addr};
use tests::gateway::{Gateway, Outcome};
use tests::packets::{flags, tcp, udp};
use tests::script::{self, Histogram};

#[test]
fn random_stories_keep_every_property() {
    let seed = seed();
    let cases =
        std::env::var("TUNWAY_CASES").ok().map_or(256, |text| text.parse().expect("a number of cases"));
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let histogram = RefCell::new(Histogram::new());
    let outcome = TestRunner::new(config).run(&script::script(250), |story| {
        script::run(&story, &mut histogram.borrow_mut()).map_err(TestCaseError::fail)
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, story)) => panic!("TUNWAY_SEED={seed}: {reason}\n{story}"),
        Err(TestError::Abort(reason)) => panic!("TUNWAY_SEED={seed}: {reason}"),
    }
    let histogram = histogram.into_inner();
    println!("measured: seed {seed}: {histogram:?}");
    // A story that never meets a case proves nothing about it.
    for reached in [
        "translated",
        "passed",
        "replied",
        "clash",
        "clash of a kept source",
        "kept source",
        "not_unicast",
        "remembered",
        "forgotten in time",
        "malformed",
        "reopened",
        "not_ready",
        "no_flow",
        "stale_endpoint",
        "unallocated_vip",
        "unmatched_icmp_error",
        "icmp_redirect",
        "not_answerable",
        "martian",
        "expired",
        "purged",
        "evicted",
        "errors translated",
        "associated",
        "out_of_the_blue",
        "fragments of SCTP",
        "in fragments",
        "fragments held",
    ] {
        assert!(cases < 100 || histogram.get(reached).is_some_and(|n| *n > 0), "seed {seed}: no {reached}");
    }
}

/// Fills an IPv4 table of one chunk with flows of this kind, one a client port; returns how many.
fn fill(gateway: &mut Gateway, established: bool) -> usize {
    for n in 0..4_096_u32 {
        let client = addr(&format!("10.{}.{}.9:{}", 100 + n / 16_384, n / 64 % 256, 1_024 + n));
        let vip = addr("10.96.0.10:80");
        let outcome = gateway.send(0, &tcp(client, vip, flags::SYN).wire());
        let Outcome::Translated(wire) = outcome else { return usize::try_from(n).expect("a small number") };
        if established {
            let out = tests::check::assert_valid(&wire);
            let back = gateway.send(0, &tcp(out.dst, out.src, flags::SYN | flags::ACK).wire());
            assert!(matches!(back, Outcome::Translated(_)), "{back:?}");
            let ack = gateway.send(0, &tcp(client, vip, flags::ACK).wire());
            assert!(matches!(ack, Outcome::Translated(_)), "{ack:?}");
        }
    }
    4_096
}

fn small_gateway() -> (Gateway, Cluster) {
    let mut gateway = Gateway::new(1, 4_096, &EngineConfig::default(), 7);
    let mut cluster = Cluster::default();
    cluster.serve(Proto::Tcp, "10.96.0.10:80", &["10.244.1.1:8080", "10.244.1.2:8080"]);
    cluster.serve(Proto::Udp, "10.96.0.10:53", &["10.244.1.1:53"]);
    gateway.publish(&mut cluster);
    (gateway, cluster)
}

#[test]
fn a_table_full_of_established_flows_refuses_new_ones_and_keeps_the_old() {
    let (mut gateway, _cluster) = small_gateway();
    let filled = fill(&mut gateway, true);
    assert!(filled >= 4_000, "only {filled} flows");
    let before = gateway.flows().len();
    for n in 0..200_u16 {
        let late = tcp(addr(&format!("10.200.0.1:{}", 2_000 + n)), addr("10.96.0.10:80"), flags::SYN);
        let outcome = gateway.send(0, &late.wire());
        assert_eq!(outcome, Outcome::Dropped(DropReason::TableFull));
        gateway.advance(Duration::from_millis(100));
    }
    assert_eq!(gateway.flows().len(), before);
    assert_eq!(gateway.totals().drops(DropReason::TableFull), 200);
    assert_eq!(gateway.totals().get(Counter::FlowsEvicted), 0);
}

#[test]
fn half_open_flows_make_room_and_the_eviction_is_counted() {
    let (mut gateway, _cluster) = small_gateway();
    let filled = fill(&mut gateway, false);
    let mut taken = 0;
    for n in 0..200_u16 {
        let late = tcp(addr(&format!("10.200.0.1:{}", 2_000 + n)), addr("10.96.0.10:80"), flags::SYN);
        taken += usize::from(matches!(gateway.send(0, &late.wire()), Outcome::Translated(_)));
        gateway.advance(Duration::from_millis(10));
    }
    assert!(filled >= 4_000 && taken > 150, "{filled} filled, {taken} taken");
    assert!(gateway.totals().get(Counter::FlowsEvicted) >= 100);
    assert!(gateway.flows().len() <= 4_096);
}

#[test]
fn after_its_time_a_flow_is_gone_and_its_memory_is_back() {
    let (mut gateway, _cluster) = small_gateway();
    for round in 0..3 {
        let filled = fill(&mut gateway, false);
        assert!(filled >= 4_000, "round {round}: {filled}");
        gateway.advance(Duration::from_secs(140));
        assert_eq!(gateway.flows().len(), 0, "round {round}");
    }
}

#[test]
fn one_source_port_serves_many_endpoints_and_a_clash_changes_it() {
    let mut gateway = Gateway::new(2, 16_384, &EngineConfig::default(), 1);
    let mut cluster = Cluster::default();
    for n in 0..20 {
        cluster.serve(Proto::Udp, &format!("10.96.1.{n}:53"), &["10.244.1.1:53"]);
    }
    gateway.publish(&mut cluster);
    let mut ports = std::collections::BTreeSet::new();
    for n in 0..20 {
        let query = udp(addr("10.1.0.1:33333"), addr(&format!("10.96.1.{n}:53"))).payload(*b"q");
        let Outcome::Translated(wire) = gateway.send(n, &query.wire()) else { panic!("query {n}") };
        ports.insert(tests::check::assert_valid(&wire).src.port());
    }
    assert_eq!(ports.len(), 20, "{ports:?}");
    assert!(ports.contains(&33_333));
    assert!(gateway.totals().get(Counter::PortClashes) >= 19);
}

fn seed() -> u64 {
    match std::env::var("TUNWAY_SEED") {
        Ok(text) => text.parse().expect("TUNWAY_SEED is a number"),
        Err(_) => dataplane::clock::Clock.now().nanos(),
    }
}
