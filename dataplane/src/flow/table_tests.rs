//! Opening, looking up, touching, killing: one worker at a time.

use std::sync::Arc;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::kit::*;
use super::*;
use crate::clock::Time;
use crate::ids::{EndpointId, ServiceId, WorkerId};
use crate::packet::checksum::Delta;
use crate::packet::layout::L4Flags;
use crate::packet::tuple::{Proto, Tuple};
use Dir::{Forward as C, Reply as S};
use Proto::{Tcp, Udp};

#[test]
fn a_flow_is_found_by_both_tuples_and_rewrites_each_into_the_other() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Tcp, 7), reply(Tcp, 4321));
    assert!(find(&table, key).is_none());
    let hit = worker.open(&new(key, at(10)), 4321);
    for (hit, dir) in [(hit, C), (find(&table, key).unwrap(), C), (find(&table, back).unwrap(), S)] {
        let (from, to) = if dir == C { (key, back.reversed()) } else { (back, key.reversed()) };
        assert_eq!((hit.dir, hit.out), (dir, to));
        assert_eq!((hit.service, hit.endpoint, hit.epoch()), (ServiceId(3), EndpointId(4), 1));
        let delta = Delta::between::<Ipv4Addr>(&from.into(), &to.into());
        // One's complement has two zeros; equal up to that.
        let same = |a: u16, b: u16| a == b || (a.wrapping_sub(b) == u16::MAX && (a == 0 || b == 0));
        assert!(
            same(hit.delta.addr, delta.addr) && same(hit.delta.l4, delta.l4),
            "{:?} {delta:?}",
            hit.delta
        );
    }
    assert!(find(&table, key.reversed()).is_none() && find(&table, forward(Udp, 7)).is_none());
    assert_eq!(table.live(), 1);
}

#[test]
fn ipv6_works_alike() {
    let table = Table::<5>::new(&region(1), Ttls::default());
    let mut own = table.chunks(WorkerId(0));
    let client: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let vip: Ipv6Addr = "fd00:96::1".parse().unwrap();
    let key = Key::from(Tuple { src: client, dst: vip, sport: 5353, dport: 53, proto: Udp });
    let opened = table.open(&mut own, &new(key, at(1)), [reply6(5353)].into_iter(), &mut Met::default());
    assert!(matches!(opened, Opened::New(_)));
    let answer = find(&table, reply6(5353)).unwrap();
    assert_eq!(Tuple::from(answer.out), Tuple { src: vip, dst: client, sport: 53, dport: 5353, proto: Udp });
}

#[test]
fn prefetching_changes_no_answer() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    worker.open(&new(forward(Udp, 1), at(1)), 1);
    for n in 0..50 {
        let hash = table.hash(&forward(Udp, n));
        table.prefetch_bucket(hash);
        table.prefetch_record(hash);
        assert_eq!(table.lookup(hash, &forward(Udp, n)).is_some(), n == 1);
    }
}

#[test]
fn only_a_clash_with_another_flow_changes_the_port() {
    let table = table(8192);
    let (mut a, mut b) = (Worker::new(&table, 0), Worker::new(&table, 1));
    a.open(&new(forward(Tcp, 1), at(1)), 5000);
    let Opened::New(hit) = b.try_open(&new(forward(Tcp, 2), at(1)), [5000, 5000, 5001]) else { panic!() };
    assert_eq!((Tuple::from(hit.out).sport, b.met.clashes), (5001, 2));
    // The same flow again, with the tuple it has: come back, and then find it.
    assert!(matches!(b.try_open(&new(forward(Tcp, 1), at(1)), [5000, 5002]), Opened::Raced));
    // With a tuple it has not: the forward claim finds it.
    let Opened::Existing(hit) = b.try_open(&new(forward(Tcp, 1), at(1)), [5002]) else { panic!() };
    assert_eq!(hit.out, reply(Tcp, 5000).reversed());
    assert!(find(&table, reply(Tcp, 5002)).is_none(), "the reply word is gone again");
    assert_eq!((b.met.clashes, table.live()), (2, 2));
    assert!(matches!(b.try_open(&new(forward(Tcp, 3), at(1)), [5000, 5001]), Opened::PortsExhausted));
    assert!(matches!(b.try_open(&new(forward(Tcp, 3), at(1)), []), Opened::PortsExhausted));
    assert_eq!(table.live(), 2);
    assert_eq!(b.own.free() + 1, b.own.owned(), "every failed open gave its record back");
}

#[test]
fn a_tuple_that_is_its_own_reply_clashes() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let key = reply(Udp, 9);
    let opened = table.open(&mut worker.own, &new(key, at(1)), [key].into_iter(), &mut worker.met);
    assert!(matches!(opened, Opened::PortsExhausted) && worker.met.clashes == 1);
}

#[test]
fn a_reply_tuple_that_is_anothers_forward_tuple_clashes() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    worker.open(&new(reply(Udp, 9), at(1)), 10);
    assert!(matches!(worker.try_open(&new(forward(Udp, 1), at(1)), [9]), Opened::PortsExhausted));
    assert_eq!(find(&table, reply(Udp, 9)).unwrap().dir, C);
}

#[test]
fn a_killed_flow_is_gone_at_once_and_its_tuples_are_free() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Udp, 1), reply(Udp, 1));
    let hit = worker.open(&new(key, at(1)), 1);
    table.touch(&find(&table, back).unwrap(), tick(2), Default::default());
    assert!(!table.kill(&hit), "changed since it was judged");
    assert!(table.kill(&find(&table, back).unwrap()));
    assert!(!table.kill(&hit) && find(&table, key).is_none() && find(&table, back).is_none());
    let again = worker.open(&new(key, at(3)), 1);
    assert_ne!((again.ix, again.generation), (hit.ix, hit.generation));
    assert!(!table.kill(&hit), "not that flow any more");
    table.touch(&hit, tick(99), Default::default());
    table.keep(&hit, 9);
    table.account(&hit, 5, 5);
    let now = find(&table, key).unwrap();
    assert_eq!((now.state, now.epoch()), (again.state, 1), "a stale hit changes nothing");
}

#[test]
fn a_flow_is_counted_at_its_endpoint_until_it_closes() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let endpoint = new(forward(Tcp, 1), at(1)).endpoint;
    let active = || table.loads().active(endpoint);
    for (port, end, after) in [
        (1, vec![(C, FIN_ACK)], 0),
        (2, vec![(S, FIN_ACK)], 0),
        (3, vec![(C, L4Flags::RST)], 0),
        (4, vec![(C, L4Flags::RST), (S, ACK)], 1),
        (5, vec![(S, FIN_ACK), (C, FIN_ACK), (S, ACK)], 1),
    ] {
        let before = active();
        worker.open(&new(forward(Tcp, port), at(1)), port.try_into().unwrap());
        assert_eq!(active(), before + 1);
        let (key, back) = (forward(Tcp, port), reply(Tcp, port.try_into().unwrap()));
        drive(&table, key, back, at(1), &[&HANDSHAKE[..], &end].concat());
        assert_eq!(active(), after, "after {end:?}");
    }
    assert!(table.kill(&find(&table, forward(Tcp, 4)).unwrap()));
    assert!(table.kill(&find(&table, forward(Tcp, 5)).unwrap()));
    assert_eq!(active(), 0, "each of them once");
    // What is not opened is not counted, and what expires no longer.
    worker.open(&new(forward(Udp, 1), at(1)), 1);
    assert!(matches!(worker.try_open(&new(forward(Udp, 2), at(1)), [1]), Opened::PortsExhausted));
    assert_eq!(active(), 1);
    worker.turn(100_000);
    assert_eq!(active(), 0);
}

#[test]
fn tcp_goes_through_its_states_and_is_reopened_from_time_wait_only() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Tcp, 1), reply(Tcp, 1));
    worker.open(&new(key, at(1)), 1);
    let name = || find(&table, key).unwrap().state_name();
    assert_eq!(name(), "SYN_SENT");
    for (segments, state, reopenable) in [
        (HANDSHAKE[..1].to_vec(), "SYN_RECV", false),
        (HANDSHAKE[1..].to_vec(), "ESTABLISHED", false),
        (vec![(C, SYN)], "ESTABLISHED", false),
        (vec![(C, FIN_ACK)], "HALF_CLOSED", false),
        (vec![(S, FIN_ACK)], "LAST_ACK", false),
        (vec![(C, ACK)], "TIME_WAIT", true),
        (vec![(S, RST)], "RESET", true),
        (vec![(S, ACK)], "TIME_WAIT", true),
    ] {
        drive(&table, key, back, at(2), &segments);
        let hit = find(&table, key).unwrap();
        assert_eq!((hit.state_name(), hit.reopenable()), (state, reopenable));
        assert!(!find(&table, back).unwrap().reopenable(), "not from the server");
    }
    assert!(table.kill(&find(&table, key).unwrap()));
    let hit = worker.open(&new(key, at(3)), 1);
    assert_eq!(
        hit.state_name(),
        "SYN_SENT",
        "the same reply tuple: not masqueraded, so it is the client's own"
    );
}

#[test]
fn a_rst_as_the_only_answer_ends_the_flow_at_once() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    worker.open(&new(forward(Tcp, 1), at(1)), 1);
    drive(&table, forward(Tcp, 1), reply(Tcp, 1), at(1), &[(S, RST)]);
    assert!(find(&table, forward(Tcp, 1)).is_none() && find(&table, reply(Tcp, 1)).is_none());
    worker.open(&new(forward(Tcp, 1), at(1)), 1);
}

#[test]
fn a_reply_tuple_the_server_closed_is_not_given_to_others_for_a_minute() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Tcp, 1), reply(Tcp, 1));
    let masquerade = |n: u32, now: Time| NewFlow { masquerade: true, ..new(forward(Tcp, n), now) };
    worker.open(&masquerade(1, at(1)), 1);
    drive(&table, key, back, at(2), &HANDSHAKE);
    drive(&table, key, back, at(2), &[(S, FIN_ACK), (C, FIN_ACK), (S, ACK)]);
    // The client comes again from the same port, and is sent to another endpoint, say.
    assert!(table.kill(&find(&table, key).unwrap()));
    assert!(find(&table, key).is_none() && find(&table, back).is_none(), "it serves nobody");
    assert_eq!(table.live(), 1, "it has its record");
    worker.open(&masquerade(1, at(3)), 2);
    // Another client may not have the tuple yet.
    assert!(matches!(worker.try_open(&masquerade(2, at(3)), [1]), Opened::PortsExhausted));
    worker.turn(40);
    assert!(matches!(worker.try_open(&masquerade(2, at(62)), [1]), Opened::PortsExhausted));
    worker.open(&masquerade(2, at(63)), 1);
}

#[test]
fn a_client_may_have_its_own_lingering_tuple_back() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Tcp, 1), reply(Tcp, 1));
    let masqueraded = NewFlow { masquerade: true, ..new(key, at(1)) };
    for _ in 0..3 {
        worker.open(&masqueraded, 1);
        drive(&table, key, back, at(2), &HANDSHAKE);
        drive(&table, key, back, at(2), &[(S, FIN_ACK), (C, FIN_ACK), (S, ACK)]);
        assert!(table.kill(&find(&table, key).unwrap()));
    }
    assert_eq!((table.live(), worker.met.clashes), (1, 0), "the last one holds it");
}

#[test]
fn udp_becomes_a_stream_when_replied_and_two_seconds_old() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Udp, 1), reply(Udp, 1));
    worker.open(&new(key, at(100)), 1);
    for (secs, dir, state) in
        [(101, C, "UNREPLIED"), (103, C, "UNREPLIED"), (103, S, "STREAM"), (104, C, "STREAM")]
    {
        drive(&table, key, back, at(secs), &[(dir, Default::default())]);
        assert_eq!(find(&table, key).unwrap().state_name(), state);
    }
    worker.open(&new(forward(Udp, 2), at(100)), 2);
    drive(&table, forward(Udp, 2), reply(Udp, 2), at(101), &[(S, Default::default())]);
    assert_eq!(find(&table, reply(Udp, 2)).unwrap().state_name(), "REPLIED");
}

#[test]
fn a_picked_up_flow_starts_in_its_middle() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let picked = NewFlow { pickup: true, seen: ACK, ..new(forward(Tcp, 1), at(1)) };
    assert_eq!(worker.open(&picked, 1).state_name(), "PICKED_UP");
    drive(&table, forward(Tcp, 1), reply(Tcp, 1), at(2), &[(S, ACK)]);
    assert_eq!(find(&table, forward(Tcp, 1)).unwrap().state_name(), "ESTABLISHED");
    let closing = NewFlow { seen: FIN_ACK, forward: forward(Tcp, 2), ..picked };
    assert_eq!(worker.open(&closing, 2).state_name(), "HALF_CLOSED");
}

#[test]
fn a_view_shows_what_went_through() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let (key, back) = (forward(Udp, 1), reply(Udp, 1));
    let hit = worker.open(&new(key, at(100)), 1);
    table.account(&hit, 1, 60);
    let answer = find(&table, back).unwrap();
    table.account(&answer, 44, 60_000);
    table.touch(&answer, tick(101), Default::default());
    let mut views = Vec::new();
    table.for_each(tick(111), |view| views.push(view));
    let [view] = &views[..] else { panic!("{views:?}") };
    assert_eq!((view.forward, view.reply, view.state), (key, back, "REPLIED"));
    assert_eq!((view.packets, view.bytes), ([1, 44], [60, 60_000]));
    assert_eq!((view.idle, view.expires), (10, 20));
    assert_eq!((view.service, view.endpoint), (ServiceId(3), EndpointId(4)));
}

#[test]
fn full_is_said_and_nothing_is_lost() {
    let table = table(1);
    let mut worker = Worker::new(&table, 0);
    let capacity = u32::try_from(table.capacity()).unwrap();
    for n in 0..capacity {
        worker.open(&new(forward(Tcp, n), at(1)), u16::try_from(n).unwrap());
    }
    let over = new(forward(Tcp, capacity), at(1));
    assert!(matches!(worker.try_open(&over, [60_000]), Opened::TableFull));
    assert_eq!(table.live(), table.capacity());
    for n in 0..capacity {
        let back = reply(Tcp, u16::try_from(n).unwrap());
        assert!(find(&table, forward(Tcp, n)).is_some() && find(&table, back).is_some());
    }
    let rival = Worker::new(&table, 1).try_open(&over, [60_000]);
    assert!(matches!(rival, Opened::TableFull), "the only chunk has an owner");
}

#[test]
fn full_buckets_give_up_what_is_over_or_expired_and_nothing_else() {
    // Two buckets: every tuple's homes.
    let parts = region(1).parts::<2>();
    let buckets = map::Slots::fresh((0..2).map(|_| index::Bucket::unused()));
    let seed = hash::Seed::new(hash::test_seed(1));
    let table = Table::of(region::Parts { buckets, ..parts }, seed, 1, Arc::default(), Ttls::default());
    let mut worker = Worker::new(&table, 0);
    for n in 0..8 {
        worker.open(&new(forward(Udp, n), at(100)), u16::try_from(n).unwrap());
    }
    assert_eq!(table.index.words([0, 1]).len(), 16);
    let late = |now| new(forward(Udp, 99), at(now));
    assert!(matches!(worker.try_open(&late(110), [99]), Opened::BucketFull));
    assert_eq!(table.live(), 8);
    // A dead flow whose words are still there: what a killer asleep leaves.
    let dead = find(&table, forward(Udp, 5)).unwrap();
    assert!(state::StateWord::end(&table.record(dead.ix).state, state::State(dead.state), tcp::Flags::DEAD));
    worker.open(&late(110), 99);
    assert!(find(&table, forward(Udp, 99)).is_some() && find(&table, forward(Udp, 5)).is_none());
    // Full again. One flow refreshed, the rest past their 30 s.
    drive(&table, forward(Udp, 3), reply(Udp, 3), at(129), &[(C, Default::default())]);
    assert!(matches!(worker.try_open(&new(forward(Udp, 100), at(130)), [100]), Opened::BucketFull));
    worker.open(&new(forward(Udp, 100), at(131)), 100);
    let left: Vec<_> = (0..101).filter(|n| find(&table, forward(Udp, *n)).is_some()).collect();
    assert_eq!(left, [3, 99, 100]);
    assert_eq!(worker.turn(131).freed, 7);
}
