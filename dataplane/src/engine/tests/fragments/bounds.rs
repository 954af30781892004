//! How long datagrams in fragments are remembered, how many, and what makes room for what.

use super::*;
use crate::nat::fragment::Fragments;

/// A later fragment of a datagram of its own.
fn stray(n: u16) -> Vec<u8> {
    let whole = long_udp(format!("10.4.{}.{}:999", n >> 8, n & 0xff).as_str(), DNS, 2_000);
    cut(&whole, 7, 1_000).remove(1)
}

fn fragments(rig: &Rig) -> Arc<Fragments> {
    Arc::clone(&rig.tables.fragments)
}

#[test]
fn an_ipv4_datagram_has_30_seconds_and_an_ipv6_one_60() {
    for (client, vip, limit) in [(CLIENT, DNS, 30), (CLIENT6, DNS6, 60)] {
        let mut rig = Rig::new();
        let pieces = cut(&long_udp(client, vip, 3_000), 7, 1_000);
        let other = cut(&long_udp(client, vip, 3_000), 8, 1_000);
        assert_eq!(rig.one(&pieces[1]).verdict, None);
        rig.one(&other[0]).translated();
        // A fragment that comes does not begin the time anew.
        rig.later(limit - 1);
        assert_eq!(rig.one(&pieces[2]).verdict, None);
        rig.later(1);
        rig.engines[0].0.sweep(&rig.world, rig.now);
        assert_eq!((fragments(&rig).held(), fragments(&rig).datagrams()), (2, 2));
        rig.later(1);
        rig.engines[0].0.sweep(&rig.world, rig.now);
        assert_eq!((fragments(&rig).held(), fragments(&rig).datagrams()), (0, 0));
        let totals = rig.totals();
        assert_eq!(
            (totals.drops(DropReason::FragmentTimeout), totals.get(Counter::DatagramsIncomplete)),
            (2, 2)
        );
        rig.conserved();
        // What comes now begins the datagram anew.
        assert_eq!(rig.one(&other[1]).verdict, None);
        all_translated(&rig.send(&[other[0].clone()]));
    }
}

#[test]
fn time_is_up_also_before_a_sweep_has_seen_it() {
    let mut rig = Rig::new();
    let pieces = cut(&long_udp(CLIENT, DNS, 3_000), 7, 1_000);
    assert_eq!(rig.one(&pieces[1]).verdict, None);
    rig.later(31);
    assert_eq!(rig.send(&[pieces[0].clone()]).len(), 1, "the old one does not leave with the new datagram");
    assert_eq!(rig.totals().drops(DropReason::FragmentTimeout), 1);
}

#[test]
fn the_oldest_datagram_makes_room_for_the_newest() {
    let mut rig = Rig::new();
    let known = cut(&long_udp(CLIENT, DNS, 3_000), 7, 1_000);
    rig.one(&known[0]).translated();
    // 2,048 wait, and use all the memory there is; each one more takes the place of the oldest.
    for n in 0..2_058 {
        rig.now = rig.now.plus_nanos(1);
        assert_eq!(rig.one(&stray(n)).verdict, None);
        assert_eq!(fragments(&rig).held(), usize::from(n + 1).min(2_048));
    }
    let totals = rig.totals();
    assert_eq!((totals.drops(DropReason::FragmentsFull), totals.get(Counter::DatagramsIncomplete)), (10, 10));
    // Those that have nothing waiting were left alone.
    rig.one(&known[1]).translated();
    // Memory is no limit for datagrams that come in order: their number is.
    let first = |n: u16| {
        cut(&long_udp(format!("10.2.{}.{}:999", n >> 8, n & 0xff).as_str(), "10.3.0.1:53", 2_000), 7, 1_000)
    };
    for n in 0..2_046 {
        assert_eq!(rig.one(&first(n)[0]).verdict, Some(Verdict::Passed));
    }
    assert_eq!((fragments(&rig).datagrams(), rig.totals().drops(DropReason::FragmentsFull)), (4_095, 10));
    rig.one(&known[2]).translated();
    for n in 3_000..3_003 {
        assert_eq!(rig.one(&first(n)[0]).verdict, Some(Verdict::Passed));
    }
    // The known one has nothing to lose, the next oldest a fragment that waits.
    assert_eq!((fragments(&rig).datagrams(), rig.totals().drops(DropReason::FragmentsFull)), (4_096, 11));
    assert_eq!(rig.one(&known[3]).verdict, None, "the oldest of all was forgotten");
    rig.conserved();
}

#[test]
fn long_fragments_take_the_room_of_many() {
    let mut rig = Rig::new();
    for n in 0..2_048 {
        assert_eq!(rig.one(&stray(n)).verdict, None);
    }
    let whole = long_udp(CLIENT, DNS, 64_000);
    let pieces = cut(&whole, 7, 60_000);
    assert_eq!(rig.one(&pieces[1]).verdict, None);
    let long = piece(&whole, 8, 4_000, false, &whole[20 + 4_000..]);
    assert_eq!(rig.one(&long).verdict, None);
    let blocks = (pieces[1].len() + 10).div_ceil(2_048) + (long.len() + 10).div_ceil(2_048);
    assert_eq!(fragments(&rig).held(), 2_048 - blocks + 2);
    assert_eq!(rig.totals().drops(DropReason::FragmentsFull), blocks as u64);
    let sent = rig.send(&[piece(&whole, 8, 0, true, &whole[20..20 + 4_000])]);
    all_translated(&sent);
    assert_valid(&joined(&sent));
}

#[test]
fn one_datagram_has_so_many_gaps_and_waiting_fragments() {
    for (apart, bound) in [(2, 64), (1, 128)] {
        let mut rig = Rig::new();
        let whole = long_udp(CLIENT, DNS, 8_000);
        let nth = |n: usize| piece(&whole, 7, 8 + n * 8 * apart, true, &whole[28 + n * 8 * apart..][..8]);
        for n in 0..bound {
            assert_eq!(rig.one(&nth(n)).verdict, None);
        }
        rig.one(&nth(bound)).dropped(DropReason::FragmentDisorder);
        rig.one(&piece(&whole, 7, 0, true, &whole[20..28])).dropped(DropReason::FragmentDisorder);
        assert_eq!(fragments(&rig).held(), 0);
        assert_eq!(rig.totals().drops(DropReason::FragmentDisorder), bound as u64 + 2);
        rig.conserved();
    }
}

#[test]
fn a_worker_that_ends_gives_waiting_fragments_their_end() {
    let mut rig = Rig::new();
    (0..10).for_each(|n| assert_eq!(rig.one(&stray(n)).verdict, None));
    rig.engines[0].0.abandon_fragments();
    assert_eq!((fragments(&rig).held(), fragments(&rig).datagrams()), (0, 0));
    assert_eq!(rig.totals().drops(DropReason::FragmentTimeout), 10);
    rig.conserved();
}
