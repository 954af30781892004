//! SCTP: associations from INIT to SHUTDOWN COMPLETE, what is of none, ports. What becomes of bytes is in `bytes`.

use std::collections::BTreeSet;

use etherparse::IpNumber;

use super::*;
use crate::packet::samples::crc32c;
use crate::packet::tuple::Proto;
use crate::service::Service;

mod bytes;

/// Services whose endpoints listen on another port, without endpoints, and with endpoints on the same port.
const CORE: &str = "10.96.0.38:3868";
const CORE6: &str = "[fd00:96::38]:3868";
const GONE: &str = "10.96.0.39:3868";
const GONE6: &str = "[fd00:96::39]:3868";
const SAME: &str = "10.96.0.40:3868";
const SAME6: &str = "[fd00:96::40]:3868";

const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

fn services() -> [Service; 6] {
    let of = |id, vip, endpoints: &[&str]| service(id, Proto::Sctp, vip, 1, endpoints);
    [
        of(7, CORE, &["10.244.0.5:13868", "10.244.0.6:13868"]),
        of(8, CORE6, &["[fd00:244::5]:13868", "[fd00:244::6]:13868"]),
        of(9, GONE, &[]),
        of(10, GONE6, &[]),
        of(11, SAME, &["10.244.0.7:3868"]),
        of(12, SAME6, &["[fd00:244::7]:3868"]),
    ]
}

fn rig() -> Rig {
    Rig::with(EngineConfig::default(), world(&services()))
}

/// A packet of one chunk with a value of so many bytes; an INIT has no tag.
fn sctp_of(src: impl Into<End>, dst: impl Into<End>, chunk: u8, value: usize) -> Vec<u8> {
    let (End(src), End(dst)) = (src.into(), dst.into());
    let tag = u32::from(chunk != INIT) * 0x0bad_cafe;
    let len = u16::try_from(4 + value).unwrap().to_be_bytes();
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let mut bytes = [&ports[..], &tag.to_be_bytes(), &[0; 4], &[chunk, 0], &len].concat();
    bytes.extend((0..value.next_multiple_of(4)).map(|n| (n % 251).to_le_bytes()[0]));
    let crc = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut out = Vec::new();
    between(src.ip(), dst.ip()).write(&mut out, IpNumber::SCTP, &bytes).unwrap();
    out
}

fn sctp(src: impl Into<End>, dst: impl Into<End>, chunk: u8) -> Vec<u8> {
    sctp_of(src, dst, chunk, 16)
}

/// The states of all IPv4 flows.
fn states(rig: &Rig) -> Vec<&'static str> {
    rig.flows().iter().map(|flow| flow.state).collect()
}

/// The one IPv4 or IPv6 flow's state.
#[track_caller]
fn state(rig: &Rig) -> &'static str {
    let mut states = states(rig);
    rig.tables.v6.for_each(rig.now.tick(), |flow| states.push(flow.state));
    assert_eq!(states.len(), 1, "{states:?}");
    states[0]
}

/// A conversation: true is the endpoint. Fails unless each packet is translated exactly and leaves this state.
#[track_caller]
fn talk(rig: &mut Rig, client: &str, vip: &str, sent: &Sent, talk: &[(bool, u8, &str)]) {
    for (reply, chunk, after) in talk {
        let (src, dst, want) = if *reply {
            (sent.dst(), sent.src(), (addr(vip), addr(client)))
        } else {
            (addr(client), addr(vip), (sent.src(), sent.dst()))
        };
        let packet = sctp_of(src, dst, *chunk, 33);
        let out = rig.one(&packet).translated();
        assert_valid(&out.bytes);
        assert_eq!((out.src(), out.dst()), want, "{reply} {chunk}");
        let l4 = if src.is_ipv4() { 20 } else { 40 };
        assert_eq!(out.bytes[l4 + 12..], packet[l4 + 12..], "chunks are nobody's to change");
        assert_eq!(state(rig), *after, "after {reply} {chunk}");
    }
}

const OPENING: [(bool, u8, &str); 3] = [
    (true, INIT_ACK, "COOKIE_WAIT"),
    (false, COOKIE_ECHO, "COOKIE_ECHOED"),
    (true, COOKIE_ACK, "ESTABLISHED"),
];

#[test]
fn an_association_is_opened_used_and_shut_down() {
    for (client, vip) in [(CLIENT, CORE), (CLIENT6, CORE6)] {
        for by_server in [false, true] {
            let mut rig = rig();
            let sent = rig.open(&sctp(client, vip, INIT));
            assert_valid(&sent.bytes);
            assert_eq!((sent.dst().port(), sent.src().port()), (13_868, 40_000));
            assert_eq!(state(&rig), "COOKIE_WAIT");
            talk(&mut rig, client, vip, &sent, &OPENING);
            let up = "ESTABLISHED";
            let used = [
                (false, DATA, up),
                (true, SACK, up),
                (true, DATA, up),
                (false, HEARTBEAT, up),
                (true, HEARTBEAT_ACK, up),
                (false, INIT, up),
            ];
            talk(&mut rig, client, vip, &sent, &used);
            let going = if by_server { "SHUTDOWN_RECD" } else { "SHUTDOWN_SENT" };
            let down = [
                (by_server, SHUTDOWN, going),
                (!by_server, SACK, going),
                (!by_server, SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT"),
                (by_server, SHUTDOWN_COMPLETE, "CLOSED"),
            ];
            talk(&mut rig, client, vip, &sent, &down);
            assert_eq!(rig.totals().get(Counter::FlowsOpened), 1);
        }
    }
}

#[test]
fn timers_are_those_of_the_state() {
    let mut rig = rig();
    let sent = rig.open(&sctp(CLIENT, CORE, INIT));
    let left = |rig: &Rig| rig.flows()[0].expires;
    assert_eq!(left(&rig), 3);
    talk(&mut rig, CLIENT, CORE, &sent, &OPENING[..2]);
    assert_eq!(left(&rig), 3);
    talk(&mut rig, CLIENT, CORE, &sent, &OPENING[2..]);
    assert_eq!(left(&rig), 210);
    rig.later(100);
    assert_eq!(left(&rig), 110);
    talk(&mut rig, CLIENT, CORE, &sent, &[(true, HEARTBEAT, "ESTABLISHED")]);
    assert_eq!(left(&rig), 210);
    talk(&mut rig, CLIENT, CORE, &sent, &[(false, SHUTDOWN, "SHUTDOWN_SENT")]);
    assert_eq!(left(&rig), 3);
    talk(&mut rig, CLIENT, CORE, &sent, &[(true, ABORT, "CLOSED")]);
    assert_eq!(left(&rig), 10);
    for _ in 0..5 {
        rig.later(5);
        rig.engines[0].0.sweep(&rig.world, rig.now);
    }
    assert_eq!((rig.flows().len(), rig.totals().get(Counter::FlowsExpired)), (0, 1));
    rig.open(&sctp(CLIENT, CORE, HEARTBEAT));
    assert_eq!((left(&rig), state(&rig)), (30, "HEARTBEAT_SENT"));
}

#[test]
fn an_init_reopens_a_closed_association_with_a_fresh_choice_and_no_other() {
    let mut reached = BTreeSet::new();
    for (client, vip) in [(CLIENT, CORE), (CLIENT6, CORE6)] {
        let mut rig = rig();
        for round in 0..40 {
            let sent = rig.open(&sctp(client, vip, INIT));
            reached.insert(sent.dst());
            // A retransmission, before and after the answer, is none.
            talk(&mut rig, client, vip, &sent, &[(false, INIT, "COOKIE_WAIT")]);
            talk(&mut rig, client, vip, &sent, &OPENING);
            talk(&mut rig, client, vip, &sent, &[(false, INIT, "ESTABLISHED")]);
            let end: &[(bool, u8, &str)] = match round % 3 {
                0 => &[(false, ABORT, "CLOSED")],
                1 => &[(true, ABORT, "CLOSED"), (true, INIT, "CLOSED")],
                _ => &[
                    (true, SHUTDOWN, "SHUTDOWN_RECD"),
                    (false, INIT, "SHUTDOWN_RECD"),
                    (false, SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT"),
                    (false, INIT, "SHUTDOWN_ACK_SENT"),
                    (true, SHUTDOWN_COMPLETE, "CLOSED"),
                ],
            };
            talk(&mut rig, client, vip, &sent, end);
            assert_eq!(rig.totals().get(Counter::FlowsReopened), round);
        }
    }
    assert_eq!(reached.len(), 4, "{reached:?}");
}

#[test]
fn an_abort_that_was_forged_ends_nothing() {
    let mut rig = rig();
    let sent = rig.open(&sctp(CLIENT, CORE, INIT));
    talk(&mut rig, CLIENT, CORE, &sent, &OPENING);
    talk(&mut rig, CLIENT, CORE, &sent, &[(false, ABORT, "CLOSED"), (true, SACK, "ESTABLISHED")]);
}

#[test]
fn what_is_of_no_association_opens_a_flow_as_in_the_kernel_or_is_dropped() {
    for (client, vip, gone) in [(CLIENT, CORE, GONE), (CLIENT6, CORE6, GONE6)] {
        for chunk in [DATA, SACK, ABORT, COOKIE_ACK, SHUTDOWN_COMPLETE, 12, 64, 0xc1] {
            let mut rig = rig();
            rig.one(&sctp(client, vip, chunk)).dropped(DropReason::OutOfTheBlue);
            rig.one(&sctp(client, gone, chunk)).dropped(DropReason::OutOfTheBlue);
            assert_eq!(rig.tables.v4.live() + rig.tables.v6.live(), 0, "{chunk}");
        }
        for (chunk, begins) in [
            (HEARTBEAT, "HEARTBEAT_SENT"),
            (COOKIE_ECHO, "COOKIE_ECHOED"),
            (SHUTDOWN_ACK, "SHUTDOWN_ACK_SENT"),
            (SHUTDOWN, "CLOSED"),
            (INIT_ACK, "CLOSED"),
            (HEARTBEAT_ACK, "CLOSED"),
            (ERROR, "CLOSED"),
        ] {
            let mut rig = rig();
            let sent = rig.open(&sctp(client, vip, chunk));
            assert_eq!(state(&rig), begins, "{chunk}");
            // Such an endpoint knows nothing of it, and says so to the client (RFC 9260, section 8.4).
            talk(&mut rig, client, vip, &sent, &[(true, ABORT, "CLOSED")]);
        }
    }
    // An INIT has no tag, or it is none.
    let mut rig = rig();
    let mut tagged = sctp(CLIENT, CORE, INIT);
    tagged[24] = 1;
    rig.one(&tagged).dropped(DropReason::OutOfTheBlue);
    // To the SNAT address, and to an address nobody has.
    rig.one(&sctp("10.244.0.5:13868", "192.168.9.1:7", DATA)).dropped(DropReason::NoFlow);
    rig.one(&sctp(CLIENT, "10.96.7.7:1", INIT)).dropped(DropReason::UnallocatedVip);
    rig.one(&sctp("10.96.0.38:3868", CORE, INIT)).dropped(DropReason::Martian);
}

#[test]
fn an_association_whose_flow_was_lost_goes_on_with_a_heartbeat_where_there_is_one_endpoint() {
    let mut rig = rig();
    rig.one(&sctp(CLIENT, SAME, DATA)).dropped(DropReason::OutOfTheBlue);
    let sent = rig.open(&sctp(CLIENT, SAME, HEARTBEAT));
    let on =
        [(true, HEARTBEAT_ACK, "ESTABLISHED"), (false, DATA, "ESTABLISHED"), (true, SACK, "ESTABLISHED")];
    talk(&mut rig, CLIENT, SAME, &sent, &on);
    assert_eq!(rig.flows()[0].expires, 210);
}

#[test]
fn without_endpoints_a_beginning_is_refused_by_icmp_if_its_crc_is_right() {
    let with_rst = EngineConfig { reject_with_rst: true, ..EngineConfig::default() };
    let mut rig = Rig::with(with_rst, world(&services()));
    for (client, gone, at, kind) in [(CLIENT, GONE, 20, [3, 3]), (CLIENT6, GONE6, 40, [1, 4])] {
        let init = sctp(client, gone, INIT);
        let answer = rig.answered(&init);
        assert_eq!((&answer[at..at + 2], &answer[at + 8..]), (&kind[..], &init[..]));
        let (from, to) = endpoints(&answer);
        assert_eq!((from.ip(), to.ip()), (addr(gone).ip(), addr(client).ip()));
        let mut corrupt = init;
        corrupt[at + 20] ^= 1;
        rig.one(&corrupt).dropped(DropReason::NotAnswerable);
    }
    // A port the VIP has for TCP only.
    assert_eq!(rig.answered(&sctp(CLIENT, WEB, INIT))[20..22], [3, 3]);
}

#[test]
fn a_port_that_is_taken_is_replaced_and_both_associations_work() {
    for (clients, vip) in
        [(["10.1.0.7:40000", "10.1.0.8:40000"], SAME), (["[fd00:1::7]:40000", "[fd00:1::8]:40000"], SAME6)]
    {
        let mut rig = rig();
        let sent = clients.map(|client| rig.open(&sctp(client, vip, INIT)));
        sent.iter().for_each(|sent| assert_valid(&sent.bytes));
        assert_eq!((sent[0].dst(), sent[0].src().ip()), (sent[1].dst(), sent[1].src().ip()));
        assert_eq!(sent[0].src().port(), 40_000);
        assert_ne!(sent[1].src().port(), 40_000);
        assert!(rig.totals().get(Counter::PortClashes) > 0);
        for (client, sent) in clients.iter().zip(&sent) {
            let back = rig.one(&sctp(sent.dst(), sent.src(), INIT_ACK)).translated();
            assert_valid(&back.bytes);
            assert_eq!((back.src(), back.dst()), (addr(vip), addr(client)));
            // The way back restores the packet to the byte.
            let echo = sctp_of(*client, vip, COOKIE_ECHO, 1_203);
            let there = rig.one(&echo).translated();
            assert_valid(&there.bytes);
            let mut mirrored = sctp_of(there.dst(), there.src(), COOKIE_ECHO, 1_203);
            mirrored = rig.one(&mirrored).translated().bytes;
            assert_eq!(mirrored, hop_back(sctp_of(addr(vip), addr(client), COOKIE_ECHO, 1_203)));
        }
    }
}

#[test]
fn no_change_of_a_service_ends_an_association() {
    let mut rig = rig();
    let sent = rig.open(&sctp(CLIENT, CORE, INIT));
    talk(&mut rig, CLIENT, CORE, &sent, &OPENING);
    let other = |epoch, endpoints: &[&str]| service(7, Proto::Sctp, CORE, epoch, endpoints);
    let data = [(false, DATA, "ESTABLISHED"), (true, DATA, "ESTABLISHED")];
    for world in [
        world(&[other(2, &["10.244.0.9:13868"])]),
        world(&[other(3, &["!10.244.0.5:13868", "!10.244.0.6:13868"])]),
        world(&[other(4, &[])]),
        world(&[]),
        World::NotReady,
    ] {
        rig.world = world;
        rig.engines[0].0.sweep(&rig.world, rig.now);
        talk(&mut rig, CLIENT, CORE, &sent, &data);
        rig.later(10);
    }
    assert_eq!(rig.totals().get(Counter::FlowsPurged), 0);
}
