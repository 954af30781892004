//! Uniform picks, clients that stay where they are, and those that must move.

use std::collections::BTreeSet;

use super::super::testing::{Rng, backend, flow_of, service};
use super::super::{Affinity, Fabric, NoReasons, Recorded, Snapshot, SnapshotBuilder, Sticky};
use super::*;
use crate::ids::EndpointId;

fn client(n: u32) -> IpAddr {
    IpAddr::V4((0x0a00_0000 + n).into())
}

fn with_backends(count: u16) -> Service {
    let mut service = service(1, "10.96.0.1", 80);
    service.backends = (0..count)
        .map(|i| backend(u32::from(i) + 1, &format!("10.1.{}.{}", i / 250, i % 250 + 1), 8080))
        .collect();
    service.cluster = (0..u32::from(count)).collect();
    service.any = count > 0;
    service
}

/// As [`with_backends`], sticky for 100 s, with only these members; built as the next world of `before`.
fn sticky(before: Option<&Snapshot>, count: u16, members: impl IntoIterator<Item = u32>) -> Snapshot {
    let mut builder = before.map_or_else(|| SnapshotBuilder::new(Fabric::default()), SnapshotBuilder::from);
    let cluster = members.into_iter().collect();
    builder.upsert(Service { affinity: Some(Sticky::new(100)), cluster, ..with_backends(count) });
    builder.build().unwrap()
}

fn the(world: &Snapshot) -> &Service {
    world.service(ServiceId(1)).unwrap()
}

/// The id of the endpoint a client gets from the cluster set.
#[track_caller]
fn pick(world: &Snapshot, live: &mut Rng, client: IpAddr) -> u32 {
    choose(the(world), Set::Cluster, live, &flow_of(client), &mut NoReasons).unwrap().id.0
}

fn second(secs: u64) -> Tick {
    Tick::from_secs(secs)
}

#[test]
fn an_empty_set_gives_none_draws_nothing_and_remembers_nobody() {
    let mut rng = Rng::new(1);
    let empty = Service { affinity: Some(Sticky::new(1)), ..with_backends(0) };
    for (service, set) in
        [(with_backends(0), Set::Cluster), (with_backends(3), Set::Local), (empty, Set::Cluster)]
    {
        assert_eq!(choose(&service, set, &mut rng, &flow_of(client(1)), &mut NoReasons), None);
    }
    assert_eq!((rng.draws, rng.affinity.len()), (0, 0));
}

#[test]
fn only_members_of_the_set_are_picked() {
    let mut service = with_backends(5);
    service.cluster = Box::new([1, 4]);
    service.local = Box::new([4]);
    let mut rng = Rng::new(7);
    let picked =
        |set, rng: &mut Rng| choose(&service, set, rng, &flow_of(client(1)), &mut NoReasons).unwrap().id.0;
    for _ in 0..200 {
        assert!([2, 5].contains(&picked(Set::Cluster, &mut rng)));
        assert_eq!(picked(Set::Local, &mut rng), 5);
    }
    assert!(rng.affinity.is_empty(), "it is not sticky");
}

#[test]
fn the_pick_is_recorded_with_its_set_and_what_is_remembered() {
    let mut recorded = Recorded::default();
    choose(&with_backends(3), Set::Cluster, &mut Rng::new(1), &flow_of(client(1)), &mut recorded).unwrap();
    assert_eq!(recorded.steps().len(), 1);
    assert!(recorded.steps()[0].contains("of 3"), "{:?}", recorded.steps());
    let (world, mut rng) = (sticky(None, 3, 0..3), Rng::new(1));
    for wanted in
        ["session affinity, 100 s: 10.0.0.1 is new", "session affinity, 100 s: 10.0.0.1 is remembered"]
    {
        let mut recorded = Recorded::default();
        choose(the(&world), Set::Cluster, &mut rng, &flow_of(client(1)), &mut recorded).unwrap();
        assert!(recorded.steps()[0].starts_with(wanted), "{:?}", recorded.steps());
        assert!(recorded.steps()[1].contains("10.0.0.1 gets endpoint"), "{:?}", recorded.steps());
    }
}

/// Pearson's statistic of how often each of 16 endpoints was picked. With 15 degrees of freedom a uniform choice exceeds
/// 44.3 for one seed in 10,000; one that gives an endpoint a tenth more exceeds it always, which the twins show.
fn chi_square(draws: u32, mut pick: impl FnMut(u32) -> EndpointId) -> f64 {
    let mut hits = [0_u32; 16];
    (0..draws).for_each(|n| hits[pick(n).0 as usize - 1] += 1);
    let expected = f64::from(draws) / 16.0;
    hits.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum()
}

#[test]
fn random_is_uniform() {
    let service = with_backends(16);
    for seed in [1, 2, 3, 4, 5] {
        let of = |loaded| {
            let mut rng = Rng { loaded, ..Rng::new(seed) };
            chi_square(160_000, |_| {
                choose(&service, Set::Cluster, &mut rng, &flow_of(client(1)), &mut NoReasons).unwrap().id
            })
        };
        assert!(of(false) < 44.3, "seed {seed}: chi-square {:.1}", of(false));
        assert!(of(true) > 44.3, "seed {seed}: the loaded twin passes with {:.1}", of(true));
    }
}

#[test]
fn clients_spread_uniformly_and_each_stays_where_it_is() {
    let world = sticky(None, 16, 0..16);
    for seed in [1, 2, 3] {
        let of = |loaded| {
            let mut rng = Rng { loaded, affinity: Affinity::new(1 << 18), ..Rng::new(seed) };
            chi_square(160_000, |n| {
                let first = pick(&world, &mut rng, client(n));
                assert!(n % 16 > 0 || pick(&world, &mut rng, client(n)) == first, "client {n} moved");
                EndpointId(first)
            })
        };
        assert!(of(false) < 44.3, "seed {seed}: chi-square {:.1}", of(false));
        assert!(of(true) > 44.3, "seed {seed}: the loaded twin passes with {:.1}", of(true));
    }
}

#[test]
fn a_client_stays_for_the_timeout_after_its_last_new_flow_and_then_moves() {
    let (world, mut rng) = (sticky(None, 8, 0..8), Rng::new(3));
    rng.now = second(1_000);
    let mut at = pick(&world, &mut rng, client(1));
    // Every new flow is a new start.
    for step in 1..=10 {
        rng.now = second(1_000 + step * 100);
        assert_eq!(pick(&world, &mut rng, client(1)), at, "after {step} times 100 s");
    }
    let draws = rng.draws;
    let mut seen = BTreeSet::new();
    for step in 1..=60 {
        rng.now = second(2_000 + step * 101);
        at = pick(&world, &mut rng, client(1));
        seen.insert(at);
        assert_eq!(pick(&world, &mut rng, client(1)), at, "within one second");
    }
    assert_eq!(rng.draws - draws, 60, "one pick each time its time was up");
    assert_eq!(seen.len(), 8, "of 60 picks of 8: {seen:?}");
    // The first of its kind lasted 101 s: one second more than the timeout, not less.
    assert_eq!(rng.affinity.recall(ServiceId(1), client(1)).unwrap().last(), rng.now);
}

#[test]
fn an_endpoint_outside_the_set_makes_the_client_move_and_the_other_is_remembered() {
    let mut service = Service { affinity: Some(Sticky::new(100)), ..with_backends(6) };
    service.backends.iter_mut().skip(4).for_each(|backend| backend.local = true);
    (service.cluster, service.local) = ((0..6).collect(), Box::new([4, 5]));
    let mut builder = SnapshotBuilder::new(Fabric::default());
    builder.upsert(service);
    let world = builder.build().unwrap();
    let mut moved = 0;
    for n in 0..60 {
        let mut rng = Rng::new(u64::from(n));
        let pick = |set, rng: &mut Rng| {
            choose(the(&world), set, rng, &flow_of(client(n)), &mut NoReasons).unwrap().id.0
        };
        let (first, local) = (pick(Set::Cluster, &mut rng), pick(Set::Local, &mut rng));
        assert!(local > 4, "{local} is not of this node");
        assert!(first < 5 || first == local, "it was in the set");
        assert_eq!((pick(Set::Cluster, &mut rng), pick(Set::Local, &mut rng)), (local, local));
        moved += usize::from(first != local);
    }
    assert!((25..60).contains(&moved), "{moved}");
}

#[test]
fn an_endpoint_that_left_is_forgotten_even_if_it_comes_back() {
    let mut stayed = 0;
    for seed in 0..64 {
        let mut rng = Rng::new(seed);
        let first = sticky(None, 4, 0..4);
        let at = pick(&first, &mut rng, client(1));
        let away = sticky(Some(&first), 4, (0..4).filter(|n| n + 1 != at));
        let back = sticky(Some(&away), 4, 0..4);
        // It has not come by meanwhile: nothing but the endpoint's absence is there to know by.
        stayed += usize::from(pick(&back, &mut rng, client(1)) == at);
        // What was written under the newer snapshot holds under the older one, if that has the endpoint.
        let there = pick(&back, &mut rng, client(1));
        if there != at {
            assert_eq!(pick(&away, &mut rng, client(1)), there);
        }
    }
    assert!((4..32).contains(&stayed), "{stayed} of 64: a quarter by chance");
}

#[test]
fn what_happens_to_others_and_to_places_moves_nobody() {
    let (mut rng, mut world) = (Rng::new(5), sticky(None, 40, 0..40));
    let before: Vec<u32> = (0..500).map(|n| pick(&world, &mut rng, client(n))).collect();
    // Others come and go, and every backend moves to another place.
    for count in [30_u16, 31, 32, 33] {
        let mut next = Service { affinity: Some(Sticky::new(100)), ..with_backends(count + 7) };
        next.backends = next.backends.iter().skip(7).cloned().collect();
        (next.cluster, next.any) = ((0..u32::from(count)).collect(), true);
        let mut builder = SnapshotBuilder::from(&world);
        builder.upsert(next);
        world = builder.build().unwrap();
    }
    let draws = rng.draws;
    for (n, was) in (0..).zip(&before) {
        let is = pick(&world, &mut rng, client(n));
        // Ids 8 to 37 were there all the time.
        assert!(is == *was || !(8..=37).contains(was), "client {n} moved from {was} to {is}");
    }
    let gone = before.iter().filter(|at| !(8..=37).contains(*at)).count();
    assert!(gone > 50 && rng.draws - draws == gone, "{gone} had to move");
}

#[test]
fn affinity_off_and_on_again_starts_anew_and_another_timeout_does_not() {
    let (mut rng, first) = (Rng::new(11), sticky(None, 8, 0..8));
    let change = |world: &Snapshot, affinity: Option<Sticky>| {
        let mut builder = SnapshotBuilder::from(world);
        builder.upsert(Service { affinity, ..with_backends(8) });
        builder.build().unwrap()
    };
    let at: Vec<u32> = (0..64).map(|n| pick(&first, &mut rng, client(n))).collect();
    let stayed = |world: &Snapshot, rng: &mut Rng| {
        (0..64).zip(&at).filter(|(n, at)| pick(world, rng, client(*n)) == **at).count()
    };
    let shorter = change(&first, Some(Sticky::new(5)));
    rng.now = second(100);
    assert_eq!(stayed(&shorter, &mut rng), 64, "what they were promised counts");
    rng.now = second(106);
    let longer = change(&shorter, Some(Sticky::new(50)));
    let moved = stayed(&longer, &mut rng);
    assert!(moved < 32, "{moved}: their time was up before it was made longer");
    rng.now = second(150);
    assert_eq!(stayed(&longer, &mut rng), moved);
    let off = change(&longer, None);
    let at_random = stayed(&off, &mut rng);
    let on = change(&off, Some(Sticky::new(50)));
    let anew = stayed(&on, &mut rng);
    assert!(at_random < 32 && anew < 32, "{at_random} and {anew} of 64");
    assert_eq!(stayed(&on, &mut rng), anew, "and then they stay");
}

#[test]
fn ports_families_and_clients_have_memories_of_their_own() {
    let mut builder = SnapshotBuilder::new(Fabric::default());
    for (id, port) in [(1, 80), (2, 81)] {
        builder.upsert(Service {
            id: ServiceId(id),
            name: format!("default/s{id}").into(),
            port: super::super::SvcPort { port, ..with_backends(0).port },
            affinity: Some(Sticky::new(100)),
            ..with_backends(50)
        });
    }
    let world = builder.build().unwrap();
    let mut rng = Rng::new(1);
    let mut at = |id: u32, client: IpAddr| {
        let service = world.service(ServiceId(id)).unwrap();
        choose(service, Set::Cluster, &mut rng, &flow_of(client), &mut NoReasons).unwrap().id.0
    };
    let v6 = |n: u32| IpAddr::V6((0xfd00_u128 << 112 | u128::from(n)).into());
    let all: BTreeSet<u32> = [(1, client(1)), (2, client(1)), (1, client(2)), (1, v6(1)), (1, v6(2))]
        .into_iter()
        .map(|(id, client)| at(id, client))
        .collect();
    assert!(all.len() > 3, "{all:?}");
}

/// A memory in which somebody else always settles first.
struct Rival {
    rng: Rng,
    first: u32,
    settled: usize,
}

impl Live for Rival {
    fn draw(&mut self, below: u32) -> u32 {
        self.rng.draw(below)
    }
    fn active(&self, _: EndpointId) -> u32 {
        0
    }

    fn now(&self) -> Tick {
        self.rng.now
    }
    fn recall(&self, service: ServiceId, client: IpAddr) -> Option<Seat> {
        self.rng.recall(service, client)
    }
    fn settle(
        &mut self,
        service: ServiceId,
        client: IpAddr,
        seen: Option<Seat>,
        new: Seat,
    ) -> Result<(), Seat> {
        self.settled += 1;
        if self.first > 0 {
            self.first -= 1;
            let world = sticky(None, 8, 0..8);
            let theirs = the(&world).seat(self.first % 8, self.rng.now).unwrap();
            let before = self.rng.recall(service, client);
            self.rng.settle(service, client, before, theirs).unwrap();
        }
        self.rng.settle(service, client, seen, new)
    }
}

#[test]
fn who_comes_second_takes_what_the_first_one_wrote() {
    let world = sticky(None, 8, 0..8);
    for seed in 0..32 {
        let mut live = Rival { rng: Rng::new(seed), first: 1, settled: 0 };
        let got =
            choose(the(&world), Set::Cluster, &mut live, &flow_of(client(1)), &mut NoReasons).unwrap().id.0;
        assert_eq!((got, live.settled), (1, 1), "the rival's first place");
    }
    // One that settles for endpoints out of the set, and then stops, comes second.
    let none_of_these = sticky(Some(&world), 8, [7]);
    for first in 1..ATTEMPTS {
        let mut live = Rival { rng: Rng::new(1), first: u32::try_from(first).unwrap(), settled: 0 };
        let got = choose(the(&none_of_these), Set::Cluster, &mut live, &flow_of(client(1)), &mut NoReasons)
            .unwrap()
            .id;
        let kept = live.recall(the(&none_of_these).id, client(1));
        assert_eq!((got.0, live.settled), (8, first + 1));
        assert_eq!(kept, the(&none_of_these).seat(7, live.now()));
    }
    // One that settles without end keeps nobody waiting.
    let mut live = Rival { rng: Rng::new(1), first: u32::MAX, settled: 0 };
    let got = choose(the(&none_of_these), Set::Cluster, &mut live, &flow_of(client(1)), &mut NoReasons)
        .unwrap()
        .id
        .0;
    assert_eq!((got, live.settled), (8, ATTEMPTS));
}
