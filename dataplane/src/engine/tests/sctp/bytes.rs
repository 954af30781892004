//! The CRC where it is not plain: corrupt packets, errors that quote, fragments, offloads.

use super::super::fragments::{cut, joined, joined_as};
use super::*;

#[test]
fn a_corrupt_packet_is_never_repaired() {
    let mut rig = rig();
    rig.open(&sctp(CLIENT, CORE, INIT));
    let mut data = sctp_of(CLIENT, CORE, DATA, 500);
    data[200] ^= 4;
    let out = rig.one(&data).translated().bytes;
    assert!(std::panic::catch_unwind(|| assert_valid(&out)).is_err());
    let mut again = out;
    again[200] ^= 4;
    assert_valid(&again);
}

#[test]
fn errors_reach_both_ends_with_the_packet_they_know() {
    for (client, vip, router) in [(CLIENT, CORE, "10.200.0.1"), (CLIENT6, CORE6, "fd00:200::1")] {
        let mut rig = rig();
        let head = if addr(vip).is_ipv4() { 20 } else { 40 };
        let kind = if addr(vip).is_ipv4() { [3, 4] } else { [2, 0] };
        let sent = rig.open(&sctp(client, vip, INIT));
        talk(&mut rig, client, vip, &sent, &OPENING);
        let (there, back) = (sctp_of(client, vip, DATA, 900), sctp_of(sent.dst(), sent.src(), DATA, 901));
        let (there_out, back_out) = (rig.one(&there).translated(), rig.one(&back).translated());
        // Quoted whole, up to the CRC, and without it: RFC 792 promises eight bytes.
        for quoted in [there.len(), head + 12, head + 8] {
            let error = icmp(ip(router), sent.src().ip(), kind, [0, 0, 5, 120], &there_out.bytes[..quoted]);
            let got = rig.one(&error).translated();
            assert_valid(&got.bytes);
            assert_eq!((got.src().ip(), got.dst().ip()), (addr(vip).ip(), addr(client).ip()));
            assert_eq!(
                got.bytes[head + 8..],
                hop_back(there.clone())[..quoted],
                "{quoted} quoted to the client"
            );
            let error = icmp(ip(router), addr(vip).ip(), kind, [0, 0, 5, 120], &back_out.bytes[..quoted]);
            let got = rig.one(&error).translated();
            assert_valid(&got.bytes);
            assert_eq!((got.src().ip(), got.dst().ip()), (sent.src().ip(), sent.dst().ip()));
            assert_eq!(
                got.bytes[head + 8..],
                hop_back(back.clone())[..quoted],
                "{quoted} quoted to the endpoint"
            );
        }
    }
}

#[test]
fn fragments_may_get_other_addresses_and_no_other_ports() {
    for (client, same, other) in [(CLIENT, SAME, CORE), (CLIENT6, SAME6, CORE6)] {
        let mut rig = rig();
        for vip in [same, other] {
            rig.open(&sctp(client, vip, INIT));
        }
        let data = sctp_of(client, same, DATA, 3_000);
        let whole = rig.one(&data).translated().bytes;
        let mut pieces = cut(&data, 7, 1_000);
        pieces.reverse();
        let sent: Vec<_> = pieces.iter().flat_map(|piece| rig.send(std::slice::from_ref(piece))).collect();
        let sent: Vec<_> = sent.into_iter().filter(|frame| frame.verdict.is_some()).collect();
        assert!(sent.iter().all(|frame| frame.verdict == Some(Verdict::Translated)));
        let out = joined(&sent);
        assert_valid(&out);
        assert_eq!(out[20..], joined_as(&whole, 7)[20..]);
        let before = rig.flows().len();
        // Nothing of a packet that cannot be translated moves its flow.
        rig.later(2);
        for frame in rig.send(&cut(&sctp_of(client, other, ABORT, 3_000), 8, 1_000)) {
            frame.dropped(DropReason::SctpFragment);
        }
        assert!(!states(&rig).contains(&"CLOSED"));
        // Nor does a fragment open one.
        let stranger = if addr(client).is_ipv4() { "10.1.0.9:1" } else { "[fd00:1::9]:1" };
        for vip in [same, other] {
            for frame in rig.send(&cut(&sctp_of(stranger, vip, INIT, 3_000), 9, 1_000)) {
                frame.dropped(DropReason::SctpFragment);
            }
        }
        assert_eq!((rig.flows().len(), rig.totals().drops(DropReason::SctpFragment)), (before, 12));
    }
}

#[test]
fn an_unfinished_crc_is_nobodys_and_dropped() {
    let mut rig = rig();
    for (client, vip, start) in [(CLIENT, CORE, 20), (CLIENT6, CORE6, 40)] {
        let vnet =
            VnetHdr { flags: VnetHdr::NEEDS_CSUM, csum_start: start, csum_offset: 8, ..VnetHdr::default() };
        rig.send_frames(&[(vnet, sctp(client, vip, INIT))])[0].dropped(DropReason::BadVnetHeader);
    }
    let checked = VnetHdr { flags: VnetHdr::DATA_VALID, ..VnetHdr::default() };
    rig.send_frames(&[(checked, sctp(CLIENT, CORE, INIT))]).remove(0).translated();
}

#[test]
fn sctp_of_others_leaves_as_it_came() {
    let mut rig = rig();
    for chunk in [DATA, INIT, ABORT] {
        let packet = sctp("10.1.0.7:5", "10.3.0.9:6", chunk);
        let out = rig.one(&packet);
        assert_eq!((out.verdict, out.bytes), (Some(Verdict::Passed), packet));
    }
}
