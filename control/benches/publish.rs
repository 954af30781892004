//! One changed slice among 100,000 Services, from the event to the world every worker reads next, with a worker
//! reading all the while; the world it replaces is dropped as the publisher drops it.

#[path = "support/cluster.rs"]
mod cluster;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::{Cluster, change};
use criterion::{BatchSize, Criterion};
use crossbeam::epoch;
use dataplane::service::{Published, World};

const SERVICES: u32 = 100_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut cluster = Cluster::new(SERVICES);
    let mut current = cluster.compile();
    let slot = Published::new(Arc::clone(&current));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&slot, &stop));
        let ended = Stop(&stop);
        let mut retired: Vec<Arc<World>> = Vec::new();
        let mut turn = 0_u32;
        criterion.bench_function("publish/1_of_100k", |bencher| {
            bencher.iter_batched(
                || {
                    turn += 1;
                    change(turn - 1, SERVICES)
                },
                |event| {
                    cluster.desired.apply(event);
                    let next = cluster.compile();
                    slot.publish(Arc::clone(&next));
                    retired.push(std::mem::replace(&mut current, next));
                    retired.retain(|old| Arc::strong_count(old) > 1);
                },
                BatchSize::SmallInput,
            );
        });
        drop(ended);
        let seen = reader.join().expect("a reader that reads on");
        assert!(seen <= generation(&current), "the reader saw {seen}");
    });
    criterion.final_summary();
}

/// Ends the reader also when the bench fails, which else would wait for it.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A worker's batches without the packets. Returns the last generation it saw.
fn read(slot: &Published<World>, stop: &AtomicBool) -> u64 {
    let mut last = 0;
    while !stop.load(Ordering::Acquire) {
        let guard = epoch::pin();
        let now = generation(slot.load(&guard));
        assert!(now >= last, "went back from {last} to {now}");
        last = now;
        drop(guard);
        std::thread::yield_now();
    }
    last
}

fn generation(world: &World) -> u64 {
    match world {
        World::Ready(snapshot) => snapshot.generation(),
        World::NotReady => 0,
    }
}
