//! Objects into a snapshot: one changed slice among 10,000 Services, and 1,000 Services from nothing.

#[path = "support/cluster.rs"]
mod cluster;

use std::hint::black_box;

use cluster::{Cluster, change};
use criterion::{BatchSize, Criterion};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_of_many(&mut criterion);
    from_nothing(&mut criterion);
    criterion.final_summary();
}

/// The event is made outside the measurement; applied and compiled inside.
fn one_of_many(criterion: &mut Criterion) {
    const SERVICES: u32 = 10_000;
    let mut cluster = Cluster::new(SERVICES);
    let first = cluster.compile();
    let mut turn = 0_u32;
    criterion.bench_function("compile/1_of_10k", |bencher| {
        bencher.iter_batched(
            || {
                turn += 1;
                change(turn - 1, SERVICES)
            },
            |event| {
                cluster.desired.apply(event);
                cluster.compile()
            },
            BatchSize::SmallInput,
        );
    });
    drop(first);
}

fn from_nothing(criterion: &mut Criterion) {
    criterion.bench_function("compile/full_1k", |bencher| {
        bencher.iter_batched(
            || Cluster::new(1_000),
            |mut cluster| (black_box(cluster.compile()), cluster),
            BatchSize::LargeInput,
        );
    });
}
