//! The bounds of the memory, what is taken away and when, and the race for a client.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::thread;

use super::super::testing::{backend, service};
use super::super::{Fabric, SnapshotBuilder};
use super::*;

const ONE: ServiceId = ServiceId(1);

/// A world of one sticky service port, for 100 s, with two endpoints.
fn world() -> Snapshot {
    let mut service = service(1, "10.96.0.1", 80);
    service.backends = Box::new([backend(1, "10.1.0.1", 80), backend(2, "10.1.0.2", 80)]);
    (service.cluster, service.any) = (Box::new([0, 1]), true);
    service.affinity = Some(Sticky::new(100));
    let mut builder = SnapshotBuilder::new(Fabric::default());
    builder.upsert(service);
    builder.build().unwrap()
}

fn seat(world: &Snapshot, place: u32, secs: u64) -> Seat {
    world.service(ONE).unwrap().seat(place, Tick::from_secs(secs)).unwrap()
}

fn v4(n: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + n).into())
}

fn v6(prefix: u64, n: u64) -> IpAddr {
    Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(n)).into()
}

#[test]
fn what_is_settled_is_recalled_until_somebody_else_was_faster() {
    let (world, affinity) = (world(), Affinity::new(16));
    let [first, second, third] = [(0, 1), (1, 2), (0, 3)].map(|(place, secs)| seat(&world, place, secs));
    assert_eq!(affinity.recall(ONE, v4(1)), None);
    assert_eq!(affinity.settle(ONE, v4(1), None, first), Ok(()));
    assert_eq!(affinity.recall(ONE, v4(1)), Some(first));
    assert_eq!((affinity.recall(ONE, v4(2)), affinity.recall(ServiceId(2), v4(1))), (None, None));
    assert_eq!(affinity.settle(ONE, v4(1), None, second), Err(first));
    assert_eq!(affinity.settle(ONE, v4(1), Some(third), second), Err(first));
    assert_eq!(affinity.settle(ONE, v4(1), Some(first), second), Ok(()));
    assert_eq!((affinity.recall(ONE, v4(1)), affinity.len()), (Some(second), 1));
    // Forgotten between the look and the settling.
    assert_eq!(affinity.settle(ONE, v4(2), Some(first), second), Ok(()));
    assert_eq!(affinity.recall(ONE, v4(2)), Some(second));
}

#[test]
fn without_room_a_client_is_not_remembered_and_counted() {
    let (world, affinity) = (world(), Affinity::new(64));
    for n in 0..70 {
        assert_eq!(affinity.settle(ONE, v4(n), None, seat(&world, 0, 1)), Ok(()));
    }
    assert_eq!((affinity.len(), affinity.refused(), affinity.evicted()), (64, 6, 0));
    assert_eq!((0..70).filter(|n| affinity.recall(ONE, v4(*n)).is_some()).count(), 64);
    // Who is there stays there.
    assert_eq!(affinity.settle(ONE, v4(3), Some(seat(&world, 0, 1)), seat(&world, 0, 9)), Ok(()));
    assert_eq!(affinity.recall(ONE, v4(3)).unwrap().last(), Tick::from_secs(9));
    assert_eq!(affinity.refused(), 6);
}

#[test]
fn when_it_is_tight_the_oldest_go_until_a_quarter_is_free() {
    let (world, affinity) = (world(), Affinity::new(1_000));
    // Ten a second: the later, the younger.
    for n in 0..875_u32 {
        affinity.settle(ONE, v4(n), None, seat(&world, n % 2, u64::from(n / 10))).unwrap();
    }
    let now = Tick::from_secs(90);
    assert_eq!((affinity.is_tight(), affinity.tidy(&world, now)), (false, Tidied::default()));
    for n in 875..885_u32 {
        affinity.settle(ONE, v4(n), None, seat(&world, 0, u64::from(n / 10))).unwrap();
    }
    assert!(affinity.is_tight());
    assert_eq!(affinity.tidy(&world, now), Tidied { ended: 0, evicted: 135 });
    assert_eq!((affinity.len(), affinity.evicted(), affinity.is_tight()), (750, 135, false));
    let left: BTreeSet<u32> = (0..885).filter(|n| affinity.recall(ONE, v4(*n)).is_some()).collect();
    // 130 of the first thirteen seconds, and half of the fourteenth.
    assert_eq!(left.len(), 750);
    assert!(left.iter().all(|n| *n >= 130) && (140..885).all(|n| left.contains(&n)), "{left:?}");
}

#[test]
fn what_means_nothing_any_more_is_taken_away() {
    let (world, affinity) = (world(), Affinity::new(1_000));
    for n in 0..300 {
        affinity.settle(ONE, v4(n), None, seat(&world, n % 2, u64::from(n))).unwrap();
    }
    // Somebody's Service that is gone.
    affinity.settle(ServiceId(7), v4(1), None, seat(&world, 0, 299)).unwrap();
    assert_eq!(affinity.tidy(&world, Tick::from_secs(299)), Tidied { ended: 200, evicted: 0 });
    assert_eq!(affinity.len(), 101, "those of the last 100 s, the bound included");
    assert_eq!(affinity.recall(ONE, v4(198)), None);
    assert!(affinity.recall(ONE, v4(199)).is_some());
    // An endpoint that left the set takes its clients along.
    let mut service = Service::clone(world.service(ONE).unwrap());
    service.cluster = Box::new([1]);
    let mut builder = SnapshotBuilder::from(&world);
    builder.upsert(service.clone());
    let one_left = builder.build().unwrap();
    assert_eq!(affinity.tidy(&one_left, Tick::from_secs(299)), Tidied { ended: 50, evicted: 0 });
    service.affinity = None;
    let mut builder = SnapshotBuilder::from(&one_left);
    builder.upsert(service);
    assert_eq!(affinity.tidy(&builder.build().unwrap(), Tick::from_secs(299)).ended, 51);
    assert!(affinity.is_empty() && affinity.seats.is_empty());
}

#[test]
fn one_prefix_cannot_have_the_memory_and_gets_its_share_back() {
    let (world, affinity) = (world(), Affinity::new(20_000));
    let now = seat(&world, 0, 1);
    for n in 0..1_000 {
        affinity.settle(ONE, v6(0xfd00_0000_0000_0001, n), None, now).unwrap();
    }
    assert_eq!((affinity.len(), affinity.refused()), (312, 688), "a 64th of 20,000");
    assert!(affinity.recall(ONE, v6(0xfd00_0000_0000_0001, 5)).is_some());
    // Another prefix, another service port, and IPv4 are not concerned.
    for n in 0..100 {
        affinity.settle(ONE, v6(0xfd00_0000_0000_0002, n), None, now).unwrap();
        affinity.settle(ServiceId(2), v6(0xfd00_0000_0000_0001, n), None, now).unwrap();
    }
    (0..1_000).for_each(|n| affinity.settle(ONE, v4(n), None, now).unwrap());
    assert_eq!((affinity.len(), affinity.refused()), (1_512, 688));
    affinity.tidy(&world, Tick::from_secs(200));
    assert!(affinity.is_empty() && affinity.prefixes.iter().all(|n| n.load(Ordering::Relaxed) == 0));
    for n in 2_000..2_100 {
        affinity.settle(ONE, v6(0xfd00_0000_0000_0001, n), None, seat(&world, 0, 200)).unwrap();
    }
    assert_eq!((affinity.len(), affinity.refused()), (100, 688));
}

#[test]
fn seconds_wrap_without_anybody_noticing() {
    let (world, affinity) = (world(), Affinity::new(16));
    let last = (1 << 20) - 5;
    affinity.settle(ONE, v4(1), None, seat(&world, 1, last)).unwrap();
    let seen = affinity.recall(ONE, v4(1)).unwrap();
    let place = |secs| world.service(ONE).unwrap().place_of(&seen, Tick::from_secs(secs));
    assert_eq!([last - 3, last, last + 100, last + 101].map(place), [Some(1), Some(1), Some(1), None]);
    assert_eq!(affinity.tidy(&world, Tick::from_secs(last + 100)).ended, 0);
    assert_eq!(affinity.tidy(&world, Tick::from_secs(last + 101)).ended, 1);
}

/// Everybody who settles a client finds the same seat there, and the count is the number of entries, also while somebody
/// tidies up.
#[test]
fn threads_agree_on_every_client_and_the_bound_holds() {
    const CLIENTS: u32 = 20_000;
    const ROOM: usize = 12_000;
    let (world, affinity) = (world(), Affinity::new(ROOM));
    let settle = |place: u32| -> Vec<Option<Seat>> {
        (0..CLIENTS)
            .map(|n| {
                assert!(affinity.len() <= ROOM + 2, "each worker may be about to step back");
                let new = seat(&world, (n + place) % 2, 5);
                affinity.settle(ONE, v4(n), None, new).err().or_else(|| affinity.recall(ONE, v4(n)))
            })
            .collect()
    };
    let (one, two) = thread::scope(|scope| {
        let two = scope.spawn(|| settle(1));
        (settle(0), two.join().unwrap())
    });
    assert_eq!((affinity.len(), affinity.seats.len()), (ROOM, ROOM));
    let both: Vec<_> = one.iter().zip(&two).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?))).collect();
    assert!(both.len() > 5_000 && both.iter().all(|(a, b)| a == b), "{} clients", both.len());
    thread::scope(|scope| {
        scope.spawn(|| (0..50).map(|_| affinity.tidy(&world, Tick::from_secs(6)).evicted).sum::<usize>());
        (0..CLIENTS).for_each(|n| affinity.settle(ONE, v4(n + CLIENTS), None, seat(&world, 0, 6)).unwrap());
    });
    assert_eq!(affinity.len(), affinity.seats.len());
    assert!(affinity.len() <= ROOM && affinity.evicted() > 0, "{}", affinity.len());
}
