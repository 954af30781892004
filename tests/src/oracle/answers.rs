//! How a packet may end that no flow takes, and what an answer must look like.

use std::net::IpAddr;

use dataplane::packet::tuple::Tuple;
use dataplane::verdict::DropReason;

use super::{Judgement, tuple};
use crate::check::{L4, View, assert_valid};
use crate::cluster::Cluster;
use crate::gateway::Outcome;
use crate::packets::{Wire, flags};

/// What an address is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    LiveVip,
    Snat,
    Unallocated,
    /// Nobody's to forward.
    LinkLocal,
    Elsewhere,
}

impl Place {
    pub(super) fn of(cluster: &Cluster, addr: IpAddr) -> Self {
        let inside = |(base, len): &(IpAddr, u8)| match (base, addr) {
            (IpAddr::V4(base), IpAddr::V4(addr)) => (base.to_bits() ^ addr.to_bits()) >> (32 - len) == 0,
            (IpAddr::V6(base), IpAddr::V6(addr)) => (base.to_bits() ^ addr.to_bits()) >> (128 - len) == 0,
            _ => false,
        };
        if cluster.services.values().any(|svc| svc.vip.ip() == addr) {
            Self::LiveVip
        } else if cluster.sources.snat().contains(&addr) {
            Self::Snat
        } else if cluster.cidrs.iter().any(inside) {
            Self::Unallocated
        } else if matches!(addr, IpAddr::V4(addr) if addr.is_link_local()) {
            Self::LinkLocal
        } else {
            Self::Elsewhere
        }
    }

    /// What becomes of a packet to such a place that no frontend takes.
    pub(super) fn not_served(self, view: &View, outcome: &Outcome) -> Judgement {
        match self {
            Self::LiveVip => refused(view, outcome),
            Self::Snat => same(outcome, &Outcome::Dropped(DropReason::NoFlow)),
            Self::Unallocated => same(outcome, &Outcome::Dropped(DropReason::UnallocatedVip)),
            Self::LinkLocal => same(outcome, &Outcome::Dropped(DropReason::NotUnicast)),
            Self::Elsewhere => {
                if matches!(outcome, Outcome::Passed(wire) if assert_valid(wire) == *view) {
                    Ok(())
                } else {
                    Err(format!("not ours, but ended as {outcome:?}"))
                }
            }
        }
    }
}

pub(super) fn portless(cluster: Option<&Cluster>, view: &View, sent: &Wire, outcome: &Outcome) -> Judgement {
    let Some(cluster) = cluster else { return same(outcome, &Outcome::Dropped(DropReason::NotReady)) };
    if let Outcome::Passed(wire) = outcome
        && wire != sent
    {
        return Err("passed, but changed".into());
    }
    Place::of(cluster, view.dst.ip()).not_served(view, outcome)
}

pub(super) fn translated_to(view: &View, outcome: &Outcome, to: Tuple<IpAddr>) -> Judgement {
    let Outcome::Translated(wire) = outcome else {
        return Err(format!("a packet of a known flow ended as {outcome:?}"));
    };
    let out = assert_valid(wire);
    untouched(view, &out)?;
    match tuple(&out) {
        Some(is) if is == to => Ok(()),
        is => Err(format!("went out as {is:?}, should be {to}")),
    }
}

pub(super) fn untouched(before: &View, after: &View) -> Judgement {
    // The hop that the way to the device took is given back.
    let mut expected = before.frozen.clone();
    let at = if before.src.is_ipv4() { 8 } else { 7 };
    expected[at] = expected[at].saturating_add(1);
    if expected != after.frozen {
        return Err(format!("more than addresses changed:\n{expected:02x?}\n{:02x?}", after.frozen));
    }
    let unsummed = |view: &View| matches!(view.l4, L4::Udp { checksum: 0, .. });
    if unsummed(before) != unsummed(after) {
        return Err("a UDP checksum appeared or vanished".into());
    }
    Ok(())
}

/// An ICMP port unreachable from the VIP, quoting the packet.
pub(super) fn refused(view: &View, outcome: &Outcome) -> Judgement {
    let Outcome::Replied(wire) = outcome else {
        return Err(format!("should be refused, but ended as {outcome:?}"));
    };
    let reply = assert_valid(wire);
    let want = if view.src.is_ipv4() { (3, 3) } else { (1, 4) };
    let L4::Icmp { kind, code, quoted, .. } = reply.l4 else {
        return Err(format!("refused by {:?}", reply.l4));
    };
    if (kind, code) != want {
        return Err(format!("refused by ICMP type {kind} code {code}"));
    }
    let ported = matches!(view.l4, L4::Tcp { .. } | L4::Udp { .. } | L4::Sctp { .. });
    if ported && quoted.is_none_or(|quoted| (quoted.src, quoted.dst) != (view.src, view.dst)) {
        return Err(format!("quotes {quoted:?}"));
    }
    from_to(&reply, view.dst.ip(), view.src.ip())
}

/// A RST as RFC 9293, 3.10.7.1 asks.
pub(super) fn reset(view: &View, outcome: &Outcome) -> Judgement {
    let Outcome::Replied(wire) = outcome else {
        return Err(format!("should be reset, but ended as {outcome:?}"));
    };
    let reply = assert_valid(wire);
    let L4::Tcp { flags: theirs, seq, ack, payload } = view.l4 else { return Err("not TCP".into()) };
    let counted = u32::from(theirs & flags::SYN != 0) + u32::from(theirs & flags::FIN != 0);
    let length = u32::try_from(payload).map_err(|error| error.to_string())? + counted;
    let want = if theirs & flags::ACK != 0 {
        L4::Tcp { flags: flags::RST, seq: ack, ack: 0, payload: 0 }
    } else {
        L4::Tcp { flags: flags::RST | flags::ACK, seq: 0, ack: seq.wrapping_add(length), payload: 0 }
    };
    if reply.l4 != want {
        return Err(format!("reset by {:?}, should be {want:?}", reply.l4));
    }
    if (reply.src, reply.dst) != (view.dst, view.src) {
        return Err(format!("reset goes {} > {}", reply.src, reply.dst));
    }
    Ok(())
}

fn from_to(reply: &View, from: IpAddr, to: IpAddr) -> Judgement {
    if (reply.src.ip(), reply.dst.ip()) == (from, to) {
        Ok(())
    } else {
        Err(format!("the answer goes {} > {}", reply.src, reply.dst))
    }
}

pub(super) fn same_port_class(own: u16, other: u16) -> Judgement {
    let class = |port| match port {
        0..512 => 0,
        512..1024 => 1,
        1024.. => 2,
    };
    if class(own) == class(other) { Ok(()) } else { Err(format!("port {own} was replaced by {other}")) }
}

pub(super) fn same(is: &Outcome, want: &Outcome) -> Judgement {
    if is == want { Ok(()) } else { Err(format!("ended as {is:?}, should be {want:?}")) }
}
