//! The choice of an endpoint for a new flow, ns, by algorithm and number of endpoints. The counters least connections
//! looks at are warm: they are looked at for every flow of the service port.

use std::hint::black_box;

use bench::balance::{Worker, flow, service};
use criterion::Criterion;
use dataplane::service::Selector;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for selector in Selector::ALL {
        for count in [2_u32, 10, 32, 100, 1_000] {
            let numbers: Vec<u32> = (0..count).collect();
            let service = service(selector, &numbers, &[]);
            let mut worker = Worker::new(1);
            service.backends.iter().for_each(|backend| worker.loads.add(backend.id));
            let mut n = 0_u32;
            criterion.bench_function(&format!("select/{selector}/{count}"), |b| {
                b.iter(|| {
                    n = n.wrapping_add(1);
                    black_box(worker.choose(&service, &flow(n)).id)
                });
            });
        }
    }
    criterion.final_summary();
}
