//! One look-up in the flow table, ns: of a flow that is there (`hit`), of one that is not (`miss`), and of
//! packets in batches of 32 with both prefetch stages, as the engine does it (`batch`, ns a batch). Every
//! look-up is another flow's, in an order no cache can guess. A table holds twice its flows, so the index is
//! a quarter full.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, Throughput};
use dataplane::clock::Time;
use dataplane::flow::{Key, Met, NewFlow, Opened, Region, RegionConfig, Table, Ttls};
use dataplane::ids::{EndpointId, ServiceId, WorkerId};
use dataplane::packet::layout::L4Flags;
use dataplane::packet::tuple::{Proto, Tuple};

const BATCH: usize = 32;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for (size, flows) in [("16k", 1 << 14), ("131k", 1 << 17), ("1m", 1 << 20)] {
        bench::<2>(&mut criterion, "v4", size, flows, v4);
        bench::<5>(&mut criterion, "v6", size, flows, v6);
    }
    criterion.final_summary();
}

fn bench<const N: usize>(c: &mut Criterion, family: &str, size: &str, flows: u32, key: fn(u32) -> Key<N>) {
    let table = filled(flows, key);
    // Odd, so that it meets every flow once a round.
    let scattered = |n: u32| n.wrapping_mul(0x9e37_79b1) & (flows - 1);
    let known: Vec<Key<N>> = (0..flows).map(|n| key(scattered(n))).collect();
    let unknown: Vec<Key<N>> = (0..flows).map(|n| key(flows + scattered(n))).collect();
    for (case, keys) in [("hit", &known), ("miss", &unknown)] {
        let mut turn = keys.iter().cycle();
        c.bench_function(&format!("lookup/{case}/{family}/{size}"), |b| {
            b.iter(|| {
                let key = turn.next().expect("an endless walk");
                let found = black_box(table.lookup(table.hash(key), key));
                assert_eq!(found.is_some(), case == "hit");
            });
        });
    }
    let mut group = c.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut turn = known.chunks_exact(BATCH).cycle();
    group.bench_function(format!("batch/{family}/{size}"), |b| {
        b.iter(|| {
            let keys = turn.next().expect("an endless walk");
            let hashes: [_; BATCH] = std::array::from_fn(|n| table.hash(&keys[n]));
            hashes.iter().for_each(|hash| table.prefetch_bucket(*hash));
            hashes.iter().for_each(|hash| table.prefetch_record(*hash));
            for (hash, key) in hashes.iter().zip(keys) {
                assert!(black_box(table.lookup(*hash, key)).is_some());
            }
        });
    });
    group.finish();
}

fn filled<const N: usize>(flows: u32, key: fn(u32) -> Key<N>) -> Table<N> {
    let (max_flows_v4, max_flows_v6) = if N == 2 { (2 * flows, 1) } else { (1, 2 * flows) };
    let config = RegionConfig { dir: None, name: "bench".into(), max_flows_v4, max_flows_v6 };
    let region = Region::open(&config, Time::from_secs(1)).expect("memory for the table");
    let table = Table::new(&region, Ttls::default());
    let mut own = table.chunks(WorkerId(0));
    let (service, endpoint, now) = (ServiceId(1), EndpointId(1), Time::from_secs(1));
    for n in 0..flows {
        let forward = key(n);
        let seen = L4Flags::SYN;
        let new = NewFlow {
            forward,
            service,
            endpoint,
            epoch: 1,
            masquerade: true,
            tops: None,
            pickup: false,
            seen,
            now,
        };
        // Any tuple of its own serves as the reply's.
        let opened = table.open(&mut own, &new, std::iter::once(key(n | 1 << 31)), &mut Met::default());
        assert!(matches!(opened, Opened::New(_)), "{opened:?}");
    }
    // What stands in own chunks stays: the owner is gone, the flows are not.
    table
}

fn v4(n: u32) -> Key<2> {
    let (src, dst) = (Ipv4Addr::from_bits(0x0a00_0000 | n >> 8), Ipv4Addr::new(10, 96, 0, 10));
    Tuple { src, dst, sport: 1024 + low(n), dport: 80, proto: Proto::Tcp }.into()
}

fn v6(n: u32) -> Key<5> {
    let net = 0xfd00_0001_u128 << 96;
    let (src, dst) = (Ipv6Addr::from_bits(net | u128::from(n >> 8)), Ipv6Addr::from_bits(net | 10 << 64));
    Tuple { src, dst, sport: 1024 + low(n), dport: 80, proto: Proto::Tcp }.into()
}

fn low(n: u32) -> u16 {
    u16::from(n.to_le_bytes()[0])
}
