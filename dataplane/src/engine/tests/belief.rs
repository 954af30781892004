//! RSTs and FINs that are not their endpoints': the connection goes on where it was.

use crate::engine::testkit::*;
use crate::packet::tuple::Proto;
use crate::stats::Counter;

const FAR: u32 = 0x8000_0000;

/// The same segment with another sequence number; its checksum follows.
fn with_seq(mut packet: Vec<u8>, seq: u32) -> Vec<u8> {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let word = |bytes: &[u8], at: usize| u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    let old = word(&packet, at + 4) + word(&packet, at + 6);
    packet[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
    let new = word(&packet, at + 4) + word(&packet, at + 6);
    let mut sum = 0xffff - word(&packet, at + 16) + new + 2 * 0xffff - old;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = (!u16::try_from(sum).unwrap()).to_be_bytes();
    packet[at + 16..at + 18].copy_from_slice(&checksum);
    packet
}

/// An established connection; what left first.
fn established(rig: &mut Rig, client: &str, vip: &str) -> Sent {
    let sent = rig.open(&tcp(client, vip, SYN));
    rig.one(&tcp(sent.dst(), sent.src(), SYN | ACK)).translated();
    rig.one(&tcp(client, vip, ACK)).translated();
    sent
}

fn many() -> Rig {
    let endpoints: Vec<String> = (1..=40).map(|n| format!("10.244.0.{n}:8080")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    Rig::with(crate::engine::EngineConfig::default(), world(&[service(1, Proto::Tcp, WEB, 1, &endpoints)]))
}

/// Lets the clock hand catch up.
fn sweep(rig: &mut Rig) {
    while rig.engines[0].0.sweep(&rig.world, rig.now) {}
}

#[test]
fn a_stray_rst_or_fin_neither_shortens_a_connection_nor_moves_it() {
    for (client, vip) in [(CLIENT, WEB), (CLIENT6, WEB6)] {
        for flags in [RST, RST | ACK, FIN | ACK] {
            let mut rig = many();
            let sent = established(&mut rig, client, vip);
            let stray = with_seq(tcp(client, vip, flags), FAR);
            let out = rig.one(&stray).translated();
            assert_valid(&out.bytes);
            assert_eq!(out.dst(), sent.dst(), "the endpoint judges it");
            // A SYN at once does not open the way to another endpoint.
            assert_eq!(rig.one(&tcp(client, vip, SYN)).translated().dst(), sent.dst());
            sweep(&mut rig);
            rig.later(4_000);
            sweep(&mut rig);
            assert_eq!(rig.one(&tcp(client, vip, ACK)).translated().dst(), sent.dst());
            assert_eq!(rig.totals().get(Counter::FlowsReopened), 0);
        }
    }
}

#[test]
fn a_clients_own_rst_is_believed_and_its_port_serves_a_new_connection() {
    let mut rig = many();
    established(&mut rig, CLIENT, WEB);
    rig.one(&tcp(CLIENT, WEB, RST)).translated();
    assert_eq!(rig.flows()[0].state, "RESET");
    rig.one(&tcp(CLIENT, WEB, SYN)).translated();
    assert_eq!(rig.totals().get(Counter::FlowsReopened), 1);
    assert_eq!(rig.flows().iter().filter(|flow| flow.state == "SYN_SENT").count(), 1);
}

#[test]
fn a_port_reused_after_a_rst_nobody_believed_still_works() {
    let mut rig = many();
    let sent = established(&mut rig, CLIENT, WEB);
    rig.one(&with_seq(tcp(CLIENT, WEB, RST), FAR)).translated();
    // The endpoint has no such connection any more and answers the SYN as any other.
    rig.one(&with_seq(tcp(CLIENT, WEB, SYN), FAR + 5)).translated();
    rig.one(&with_seq(tcp(sent.dst(), sent.src(), SYN | ACK), FAR / 2)).translated();
    rig.one(&with_seq(tcp(CLIENT, WEB, ACK), FAR + 6)).translated();
    let server = tcp(sent.dst(), sent.src(), RST);
    rig.one(&server).translated();
    assert_eq!(rig.flows()[0].state, "ESTABLISHED", "the numbers of the old connection say nothing");
    rig.one(&with_seq(server, FAR / 2 + 1)).translated();
    assert_eq!(rig.flows()[0].state, "RESET");
    sweep(&mut rig);
    rig.later(20);
    sweep(&mut rig);
    assert_eq!(rig.flows().len(), 0, "ten seconds after it");
}
