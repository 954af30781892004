//! Datagrams in fragments: whole in, whole out, whichever fragment comes when; and what is refused.

use etherparse::checksum::Sum16BitWords;

use super::*;

mod bounds;

/// A datagram cut into fragments of at most `size` bytes, which is a multiple of eight.
pub(super) fn cut(packet: &[u8], number: u16, size: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let head = if v4 { usize::from(packet[0] & 0xf) * 4 } else { 40 };
    let data = &packet[head..];
    let pieces = data.len().div_ceil(size);
    let cut = |n: usize| {
        let bytes = &data[n * size..data.len().min((n + 1) * size)];
        piece(packet, number, n * size, n + 1 < pieces, bytes)
    };
    (0..pieces).map(cut).collect()
}

/// One fragment of the datagram `packet` is the whole of.
pub(super) fn piece(packet: &[u8], number: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    let (offset, number) = (u16::try_from(offset).unwrap(), number.to_be_bytes());
    if packet[0] >> 4 == 4 {
        let head = usize::from(packet[0] & 0xf) * 4;
        let mut bytes = [&packet[..head], data].concat();
        let total = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        bytes[2..4].copy_from_slice(&total);
        bytes[4..6].copy_from_slice(&number);
        bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&bytes[..head]).ones_complement();
        bytes[10..12].copy_from_slice(&sum.to_ne_bytes());
        bytes
    } else {
        let [a, b] = (offset | u16::from(more)).to_be_bytes();
        let header = [packet[6], 0, a, b, 0, 0, number[0], number[1]];
        let mut bytes = [&packet[..40], &header, data].concat();
        let len = u16::try_from(bytes.len() - 40).unwrap().to_be_bytes();
        bytes[4..6].copy_from_slice(&len);
        bytes[6] = 44;
        bytes
    }
}

/// Puts fragments together, in the order of their offsets, as a packet that was never cut; fails unless they fit
/// together without a gap and agree on everything but length and offset.
pub(super) fn joined(fragments: &[Sent]) -> Vec<u8> {
    let mut parts: Vec<(u16, bool, Vec<u8>, &[u8])> =
        fragments.iter().map(|fragment| taken_apart(&fragment.bytes)).collect();
    parts.sort_by_key(|part| part.0);
    let mut packet = parts[0].2.clone();
    let last = parts.len() - 1;
    for (n, (offset, more, header, data)) in parts.iter().enumerate() {
        assert_eq!(usize::from(*offset), packet.len() - parts[0].2.len(), "no gap, no overlap");
        assert_eq!((*more, header), (n < last, &parts[0].2));
        packet.extend_from_slice(data);
    }
    let len = packet.len();
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        let sum = Sum16BitWords::new().add_slice(&packet[..20]).ones_complement();
        packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    } else {
        packet[4..6].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
    }
    packet
}

/// Offset, more, the header without all that differs from fragment to fragment, and the data. The header checksum
/// is verified.
fn taken_apart(bytes: &[u8]) -> (u16, bool, Vec<u8>, &[u8]) {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    if bytes[0] >> 4 == 4 {
        assert_eq!(Sum16BitWords::new().add_slice(&bytes[..20]).ones_complement(), 0, "header checksum");
        assert_eq!(usize::from(word(2)), bytes.len());
        let mut header = bytes[..20].to_vec();
        [2, 3, 6, 7, 10, 11].iter().for_each(|at| header[*at] = 0);
        ((word(6) & 0x1fff) * 8, word(6) & 0x2000 != 0, header, &bytes[20..])
    } else {
        assert_eq!((bytes[6], usize::from(word(4))), (44, bytes.len() - 40));
        let mut header = bytes[..40].to_vec();
        (header[4], header[5], header[6]) = (0, 0, bytes[40]);
        (word(42) & 0xfff8, word(42) & 1 != 0, header, &bytes[48..])
    }
}

/// A UDP packet of so many bytes of payload.
pub(super) fn long_udp(src: impl Into<End>, dst: impl Into<End>, payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|n| (n / 7).to_le_bytes()[0]).collect();
    udp_with(src, dst, &payload)
}

/// Sends packets one a batch; everything that left.
fn each(rig: &mut Rig, packets: &[&Vec<u8>]) -> Vec<Sent> {
    let sent = packets.iter().flat_map(|packet| rig.send(&[(*packet).clone()])).collect::<Vec<_>>();
    sent.into_iter().filter(|frame| frame.verdict.is_some()).collect()
}

fn all_translated(sent: &[Sent]) {
    assert!(sent.iter().all(|frame| frame.verdict == Some(Verdict::Translated)), "{:?}", verdicts(sent));
}

#[test]
fn a_datagram_in_fragments_goes_where_it_would_go_whole_and_so_does_its_answer() {
    for (client, vip, size) in
        [(CLIENT, DNS, 1_480), (CLIENT6, DNS6, 1_448), (CLIENT, DNS, 8), (CLIENT6, DNS6, 8)]
    {
        let mut rig = Rig::new();
        let whole = long_udp(client, vip, if size == 8 { 100 } else { 60_000 });
        let sent: Vec<_> = cut(&whole, 7, size).chunks(BATCH).flat_map(|batch| rig.send(batch)).collect();
        all_translated(&sent);
        let out = joined(&sent);
        assert_valid(&out);
        assert_eq!(out, rig.one(&joined_as(&whole, 7)).translated().bytes, "as the whole packet");
        let (src, dst) = endpoints(&out);
        let answer = long_udp(dst, src, 3_000);
        let back = joined(&each(&mut rig, &cut(&answer, 9, size.max(512)).iter().collect::<Vec<_>>()));
        assert_valid(&back);
        assert_eq!(endpoints(&back), (addr(vip), addr(client)));
        let totals = rig.totals();
        assert_eq!(
            (totals.get(Counter::DatagramsComplete), totals.get(Counter::DatagramsIncomplete)),
            (2, 0)
        );
        assert_eq!((totals.get(Counter::FlowsOpened), rig.tables.fragments.datagrams()), (1, 0));
    }
}

/// The packet with the identification its fragments have: the one thing cutting adds.
pub(super) fn joined_as(packet: &[u8], number: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[4..6].copy_from_slice(&number.to_be_bytes());
        packet[6..8].fill(0);
        packet[10..12].fill(0);
        let sum = Sum16BitWords::new().add_slice(&packet[..20]).ones_complement();
        packet[10..12].copy_from_slice(&sum.to_ne_bytes());
    }
    packet
}

#[test]
fn fragments_that_come_before_the_first_leave_behind_it_in_their_order() {
    for (client, vip) in [(CLIENT, DNS), (CLIENT6, DNS6)] {
        let mut rig = Rig::new();
        rig.engine(EngineConfig::default());
        let pieces = cut(&long_udp(client, vip, 4_000), 7, 1_000);
        for (held, n) in (1..).zip([3, 1]) {
            let waits = rig.one(&pieces[n]);
            assert_eq!((waits.verdict, waits.bytes.len()), (None, 0));
            assert_eq!(rig.tables.fragments.held(), held);
        }
        // The first comes to the other worker, and the others leave with it.
        rig.engines.swap(0, 1);
        let sent = rig.send(&[pieces[0].clone()]);
        all_translated(&sent);
        let offsets: Vec<_> = sent.iter().map(|frame| taken_apart(&frame.bytes).0).collect();
        assert_eq!(offsets, [0, 3_000, 1_000]);
        rig.engines.swap(0, 1);
        let rest = rig.send(&[pieces[2].clone(), pieces[4].clone()]);
        all_translated(&rest);
        assert_valid(&joined(&[sent, rest].concat()));
        assert_eq!((rig.tables.fragments.held(), rig.tables.fragments.datagrams()), (0, 0));
        let totals = rig.totals();
        assert_eq!((totals.get(Counter::Fragments), totals.get(Counter::FragmentsHeld)), (5, 2));
    }
}

#[test]
fn more_fragments_than_a_batch_wait_for_the_next_ones() {
    let mut rig = Rig::new();
    let pieces = cut(&long_udp(CLIENT, DNS, 60_000), 7, 512);
    assert!(pieces.len() > 3 * BATCH);
    for batch in pieces[1..].chunks(BATCH) {
        assert!(rig.send(batch).iter().all(|frame| frame.verdict.is_none()));
    }
    let others: Vec<_> =
        (0..BATCH - 1).map(|n| tcp(format!("10.1.0.9:{}", 3_000 + n).as_str(), WEB, SYN)).collect();
    let mut sent = rig.send(&[&pieces[..1], &others[..]].concat());
    assert_eq!((sent.len(), rig.engines[0].0.parked()), (BATCH, pieces.len() - 1));
    sent.truncate(1);
    while rig.engines[0].0.parked() > 0 {
        sent.extend(rig.send(&[]));
    }
    all_translated(&sent);
    assert_valid(&joined(&sent));
}

#[test]
fn every_fragment_of_a_stranger_passes_unchanged() {
    let mut rig = Rig::new();
    for (src, dst) in [("10.1.0.7:4000", "10.3.0.1:4000"), ("[fd00:1::7]:4000", "[fd00:3::1]:4000")] {
        let pieces = cut(&long_udp(src, dst, 4_000), 7, 1_000);
        let shuffled = [&pieces[4], &pieces[2], &pieces[0], &pieces[1], &pieces[3]];
        let sent = each(&mut rig, &shuffled);
        assert!(sent.iter().all(|frame| frame.verdict == Some(Verdict::Passed)));
        let order = [0, 4, 2, 1, 3];
        assert!(sent.iter().zip(order).all(|(frame, n)| frame.bytes == pieces[n]));
    }
}

#[test]
fn a_refused_datagram_is_answered_once() {
    for (client, vip) in [(CLIENT, "10.96.0.10:7"), (CLIENT6, "[fd00:96::10]:7")] {
        let mut rig = Rig::new();
        let pieces = cut(&long_udp(client, vip, 4_000), 7, 1_000);
        assert_eq!(rig.one(&pieces[1]).verdict, None);
        let answer = rig.answered(&pieces[0]);
        let (from, to) = endpoints(&answer);
        assert_eq!((from.ip(), to.ip()), (addr(vip).ip(), addr(client).ip()));
        let quote = if from.is_ipv4() { &answer[28..] } else { &answer[48..] };
        assert_eq!(quote, &pieces[0][..quote.len()]);
        for piece in &pieces[2..] {
            rig.one(piece).dropped(DropReason::FragmentRefused);
        }
        assert_eq!(rig.totals().drops(DropReason::FragmentRefused), 4);
        assert_eq!(rig.tables.fragments.datagrams(), 0);
    }
}

#[test]
fn what_drops_the_first_fragment_drops_the_others() {
    let mut rig = Rig::new();
    let pieces = cut(&long_udp(CLIENT, "10.96.0.77:53", 3_000), 7, 1_000);
    assert_eq!(rig.one(&pieces[2]).verdict, None);
    rig.one(&pieces[0]).dropped(DropReason::UnallocatedVip);
    rig.one(&pieces[1]).dropped(DropReason::UnallocatedVip);
    rig.one(&pieces[3]).dropped(DropReason::UnallocatedVip);
    assert_eq!(rig.totals().drops(DropReason::UnallocatedVip), 4);
    assert_eq!(rig.tables.fragments.datagrams(), 0);
}

#[test]
fn an_overlap_ends_the_datagram_and_a_duplicate_does_not() {
    for (client, vip) in [(CLIENT, DNS), (CLIENT6, DNS6)] {
        let mut rig = Rig::new();
        let whole = long_udp(client, vip, 4_000);
        let pieces = cut(&whole, 7, 1_000);
        let first = rig.one(&pieces[0]).translated();
        rig.one(&pieces[0]).dropped(DropReason::FragmentDuplicate);
        let rest: Vec<_> = pieces[1..].iter().map(|piece| rig.one(piece).translated()).collect();
        assert_valid(&joined(&[vec![first], rest].concat()));

        let pieces = cut(&whole, 8, 1_000);
        assert_eq!(rig.one(&pieces[1]).verdict, None);
        let head = if client == CLIENT { 20 } else { 40 };
        let over = piece(&whole, 8, 1_992, true, &whole[head + 1_992..head + 2_992]);
        rig.one(&over).dropped(DropReason::FragmentOverlap);
        for piece in &pieces {
            rig.one(piece).dropped(DropReason::FragmentOverlap);
        }
        // One waited, one overlapped, and all that came after.
        assert_eq!(rig.totals().drops(DropReason::FragmentOverlap), 7);
        assert_eq!(rig.tables.fragments.held(), 0);
    }
}

#[test]
fn a_tcp_segment_in_fragments_keeps_its_checksum_and_an_atomic_fragment_is_a_packet() {
    let mut rig = Rig::new();
    rig.open(&tcp(CLIENT, WEB, SYN));
    let segment = tcp_with(CLIENT, WEB, ACK, &[0x5a; 3_000]);
    let sent = each(&mut rig, &cut(&segment, 7, 1_480).iter().collect::<Vec<_>>());
    all_translated(&sent);
    assert_valid(&joined(&sent));
    // RFC 6946: no other fragment has anything to do with it.
    let question = udp(CLIENT6, DNS6);
    let atomic = piece(&question, 7, 0, false, &question[40..]);
    let sent = rig.one(&atomic).translated();
    assert_eq!(sent.bytes[40..48], atomic[40..48]);
    assert_eq!((sent.src().ip(), sent.dst().ip()), (ip("fd00:31::1"), ip("fd00:244::3")));
    assert_eq!((rig.tables.fragments.datagrams(), rig.totals().get(Counter::Fragments)), (0, 3));
}

#[test]
fn every_fragment_is_in_the_flows_account() {
    let mut rig = Rig::new();
    let pieces = cut(&long_udp(CLIENT, DNS, 4_000), 7, 1_000);
    let shuffled = [&pieces[4], &pieces[2], &pieces[0], &pieces[1], &pieces[3]];
    let bytes: usize = each(&mut rig, &shuffled).iter().map(|frame| frame.bytes.len()).sum();
    let flow = &rig.flows()[0];
    assert_eq!((flow.packets, flow.bytes), ([5, 0], [bytes as u64, 0]));
}

#[test]
fn an_echo_and_an_error_in_fragments_end_as_whole_ones_would() {
    let mut rig = Rig::new();
    let (client, vip) = (addr(CLIENT).ip(), addr(DNS).ip());
    let echo = icmp(client, vip, [8, 0], [0, 1, 0, 1], &[9; 3_000]);
    let pieces = cut(&echo, 7, 1_480);
    rig.answered(&pieces[0]);
    rig.one(&pieces[1]).dropped(DropReason::FragmentRefused);
    // Its checksum cannot be made anew without the rest.
    let error = icmp(client, vip, [3, 3], [0; 4], &[9; 2_000]);
    let pieces = cut(&error, 8, 1_480);
    rig.one(&pieces[0]).dropped(DropReason::BadIcmpError);
    rig.one(&pieces[1]).dropped(DropReason::BadIcmpError);
}
