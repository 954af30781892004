//! ICMP errors about flows, in both directions, and what is forged.

use std::net::IpAddr;

use crate::engine::testkit::*;
use crate::stats::Counter;
use crate::verdict::{DropReason, Verdict};

const MTU: [u8; 4] = [0, 0, 5, 120];

/// Type and code of "packet too big".
fn too_big(of: IpAddr) -> [u8; 2] {
    if of.is_ipv4() { [3, 4] } else { [2, 0] }
}

fn header(of: IpAddr) -> usize {
    if of.is_ipv4() { 20 } else { 40 }
}

#[test]
fn an_error_from_the_endpoints_side_reaches_the_client_from_the_vip() {
    for (client, vip, router) in [(CLIENT, WEB, "10.200.0.1"), (CLIENT6, WEB6, "fd00:200::1")] {
        let mut rig = Rig::new();
        let first = tcp(client, vip, SYN);
        let sent = rig.open(&first);
        let error = icmp(ip(router), sent.src().ip(), too_big(ip(router)), MTU, &sent.bytes);
        let got = rig.one(&error).translated().bytes;
        assert_valid(&got);
        let (from, to) = endpoints(&got);
        assert_eq!((from.ip(), to.ip()), (addr(vip).ip(), addr(client).ip()));
        let at = header(from.ip());
        assert_eq!(got[at..at + 2], too_big(ip(router)));
        assert_eq!(got[at + 4..at + 8], MTU);
        assert_eq!(got[at + 8..], hop_back(first), "the client finds what it sent, its checksum included");
        assert_eq!(rig.totals().get(Counter::IcmpErrorsTranslated), 1);
    }
}

#[test]
fn an_error_from_the_clients_side_reaches_the_endpoint_from_the_snat_address() {
    for (client, vip, router) in [(CLIENT, WEB, "10.1.255.1"), (CLIENT6, WEB6, "fd00:1::ffff")] {
        let mut rig = Rig::new();
        let sent = rig.open(&tcp(client, vip, SYN));
        let answer = tcp(sent.dst(), sent.src(), SYN | ACK);
        let seen = rig.one(&answer).translated();
        let error =
            icmp(ip(router), addr(vip).ip(), too_big(ip(router)), MTU, &seen.bytes[..header(ip(router)) + 8]);
        let got = rig.one(&error).translated().bytes;
        assert_valid(&got);
        let (from, to) = endpoints(&got);
        assert_eq!((from.ip(), to.ip()), (sent.src().ip(), sent.dst().ip()));
        let at = header(from.ip());
        assert_eq!(got[at + 4..at + 8], MTU);
        assert_eq!(got[at + 8..], hop_back(answer)[..at + 8], "the endpoint finds what it sent");
    }
}

#[test]
fn an_error_refreshes_nothing() {
    let mut rig = Rig::new();
    let sent = rig.open(&udp(CLIENT, DNS));
    rig.later(20);
    rig.one(&icmp(sent.dst().ip(), sent.src().ip(), [3, 3], [0; 4], &sent.bytes)).translated();
    let flow = &rig.flows()[0];
    assert_eq!((flow.idle, flow.state), (20, "UNREPLIED"));
}

#[test]
fn an_error_for_somebody_else_than_the_sender_is_forged() {
    let mut rig = Rig::new();
    let first = tcp(CLIENT, WEB, SYN);
    let sent = rig.open(&first);
    // Quotes the endpoint's side, sent to the VIP, to a stranger, to the client.
    for dst in [addr(WEB).ip(), ip("10.3.0.1"), addr(CLIENT).ip(), sent.dst().ip()] {
        let forged = icmp(ip("10.200.0.1"), dst, [3, 1], [0; 4], &sent.bytes);
        rig.one(&forged).dropped(DropReason::UnmatchedIcmpError);
    }
    // The client's own packet is never quoted to us: a VIP answers nothing behind us.
    let reversed = icmp(ip("10.200.0.1"), addr(CLIENT).ip(), [3, 1], [0; 4], &first);
    let end = rig.one(&reversed);
    assert_eq!(end.verdict, Some(Verdict::Passed), "about no tuple that arrives here");
    assert_eq!(end.bytes, reversed);
}

#[test]
fn redirects_about_flows_are_dropped() {
    let mut rig = Rig::new();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    rig.one(&icmp(ip("10.200.0.1"), sent.src().ip(), [5, 1], [10, 0, 0, 1], &sent.bytes))
        .dropped(DropReason::IcmpRedirect);
    let sent = rig.open(&tcp(CLIENT6, WEB6, SYN));
    let quote = [&[0; 32][..], &sent.bytes].concat();
    rig.one(&icmp(ip("fd00:200::1"), sent.src().ip(), [137, 0], [0; 4], &quote))
        .dropped(DropReason::IcmpRedirect);
}

#[test]
fn errors_about_no_flow_end_at_our_addresses_and_pass_elsewhere() {
    let mut rig = Rig::new();
    for ours in ["10.96.0.10", "192.168.9.1"] {
        let quote = udp(addr(&format!("{ours}:99")), "10.3.0.1:7");
        rig.one(&icmp(ip("10.3.0.1"), ip(ours), [3, 3], [0; 4], &quote))
            .dropped(DropReason::UnmatchedIcmpError);
        rig.one(&icmp(ip("10.3.0.1"), ip(ours), [3, 3], [0; 4], b"rubbish"))
            .dropped(DropReason::BadIcmpError);
    }
    let quote = udp("10.2.0.1:99", "10.3.0.1:7");
    let foreign = icmp(ip("10.3.0.1"), ip("10.2.0.1"), [3, 3], [0; 4], &quote);
    let end = rig.one(&foreign);
    assert_eq!((end.verdict, end.bytes), (Some(Verdict::Passed), foreign));
}

#[test]
fn a_broken_error_is_not_translated() {
    let mut rig = Rig::new();
    let sent = rig.open(&tcp(CLIENT, WEB, SYN));
    let mut error = icmp(ip("10.200.0.1"), sent.src().ip(), [3, 4], MTU, &sent.bytes);
    error[24] ^= 1;
    rig.one(&error).dropped(DropReason::BadIcmpError);
}
