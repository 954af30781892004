//! The engine on whole batches of 32: nanoseconds per batch (throughput: packets) for known flows of both families,
//! super-packets, new flows, and a mix. Only `Engine::process` is timed; filling frames stands for the device's read.
//! Allocations are not measured here: `tests/tests/no_alloc.rs` shows that there are none.

use std::time::Duration;

use bench::world::Bench;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::packet::frame::BATCH;
use dataplane::packet::tuple::Family;
use tests::packets::Wire;

/// Flows that stand while known flows are measured.
const FLOWS: u32 = 131_072;
/// Batches of packets made in advance, so that neighbours in a batch are strangers in the table.
const BATCHES: u32 = 1_024;

/// A walk over all flows that never meets a neighbour twice in a row.
fn scattered(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761) % FLOWS
}

fn known_flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        let mut bench = Bench::new(family, 2 * FLOWS);
        bench.open(FLOWS);
        for (case, payload) in [("hit", 0), ("tso", 32_000)] {
            let batches = if payload == 0 { BATCHES } else { 16 };
            let packets: Vec<Vec<Wire>> = (0..batches)
                .map(|b| (0..32).map(|n| bench.data(scattered(b * 32 + n), payload)).collect())
                .collect();
            let mut turn = packets.iter().cycle();
            let before = bench.translated();
            let mut batches_run = 0;
            group.bench_function(format!("{case}/{name}"), |b| {
                b.iter_custom(|times| {
                    batches_run += times;
                    let nanos = (0..times).filter_map(|_| turn.next()).map(|batch| bench.run(batch)).sum();
                    Duration::from_nanos(nanos)
                });
            });
            assert_eq!(bench.translated() - before, batches_run * BATCH as u64, "every packet was a hit");
        }
    }
    group.finish();
}

fn new_flows(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        group.bench_function(format!("miss/{name}"), |b| {
            b.iter_custom(|times| {
                let mut nanos = 0;
                let mut bench = Bench::new(family, 2 * FLOWS);
                let mut next = 0;
                for _ in 0..times {
                    if next + 32 > FLOWS {
                        bench = Bench::new(family, 2 * FLOWS);
                        next = 0;
                    }
                    let syns: Vec<Wire> = (next..next + 32).map(|n| bench.syn(n)).collect();
                    nanos += bench.run(&syns);
                    next += 32;
                }
                Duration::from_nanos(nanos)
            });
        });
    }
    group.finish();
}

fn mixed(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut bench = Bench::new(Family::V4, 2 * FLOWS);
    bench.open(FLOWS / 2);
    let mut next = FLOWS / 2;
    group.bench_function("mixed/v4", |b| {
        b.iter_custom(|times| {
            let mut nanos = 0;
            for turn in (0..BATCHES).cycle().take(usize::try_from(times).unwrap_or(usize::MAX)) {
                if next >= FLOWS {
                    bench = Bench::new(Family::V4, 2 * FLOWS);
                    bench.open(FLOWS / 2);
                    next = FLOWS / 2;
                }
                // One new flow among 31 known ones.
                let known = |n: u32| scattered(turn * 31 + n) % (FLOWS / 2);
                let mut packets: Vec<Wire> = (0..31).map(|n| bench.data(known(n), 0)).collect();
                packets.push(bench.syn(next));
                next += 1;
                nanos += bench.run(&packets);
            }
            Duration::from_nanos(nanos)
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = known_flows, new_flows, mixed
}
criterion_main!(benches);
