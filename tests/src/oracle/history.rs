//! What a flow has seen, and how long it may stay idle: the timers of conntrack, written down naively.

use dataplane::clock::Time;
use dataplane::packet::tuple::Proto;

use super::association::Association;
use crate::packets::flags;

/// A flow's past.
#[derive(Clone, Debug)]
pub(super) struct History {
    proto: Proto,
    masquerade: bool,
    opened: Time,
    last: Time,
    replied: bool,
    stream: bool,
    syn_ack: bool,
    established: bool,
    fin: [bool; 2],
    closed: bool,
    reset: bool,
    association: Association,
}

impl History {
    pub(super) fn start(proto: Proto, masquerade: bool, seen: u8, now: Time) -> Self {
        let mut history = Self {
            proto,
            masquerade,
            opened: now,
            last: now,
            replied: false,
            stream: false,
            syn_ack: false,
            established: false,
            fin: [false; 2],
            closed: false,
            reset: false,
            association: Association::begun_with(seen),
        };
        history.observe(false, seen, now);
        history
    }

    /// Takes one packet down; true when it ends the flow at once.
    pub(super) fn observe(&mut self, is_reply: bool, seen: u8, now: Time) -> bool {
        if self.proto == Proto::Sctp {
            self.association.observe(is_reply, seen);
            self.last = now;
            return false;
        }
        if self.proto == Proto::Udp {
            self.replied |= is_reply;
            // A stream is a flow with an answer, two seconds old at least.
            self.stream |= self.replied && now.since(self.opened) >= 2_000_000_000;
            self.last = now;
            return false;
        }
        let has = |flag| seen & flag != 0;
        if has(flags::RST) {
            self.reset = true;
            self.last = now;
            // A RST as the only answer to a SYN.
            return is_reply && !self.replied;
        }
        let counts = match (has(flags::SYN), has(flags::ACK)) {
            // The first SYN/ACK; later ones only undo a RST.
            (true, true) if is_reply => {
                let first = !self.syn_ack;
                self.replied = true;
                self.syn_ack = true;
                first || self.reset
            }
            // Retransmitted, or on a live connection, where the server answers with a challenge.
            (true, _) => false,
            (false, ack) => {
                self.replied |= is_reply;
                if self.syn_ack && has(flags::FIN) {
                    self.fin[usize::from(is_reply)] = true;
                } else if self.syn_ack && ack {
                    self.closed |= self.fin == [true; 2];
                    self.established |= !is_reply;
                }
                self.syn_ack && (ack || has(flags::FIN))
            }
        };
        if counts {
            self.reset = false;
            self.last = now;
        }
        false
    }

    /// Until when nobody else may have its reply tuple, once it is over: the server remembers it for a minute. A
    /// client's own address is its own business.
    pub(super) fn held_until(&self) -> Option<Time> {
        (self.masquerade && self.proto == Proto::Tcp && self.fin[1])
            .then(|| self.last.plus_nanos(60_000_000_000))
    }

    /// The client's SYN or INIT may open the tuple anew.
    pub(super) fn reopenable(&self) -> bool {
        match self.proto {
            Proto::Tcp => self.reset || self.closed,
            Proto::Udp => false,
            Proto::Sctp => self.association.is_over(),
        }
    }

    /// It is an SCTP association that both ends know.
    pub(super) fn is_associated(&self) -> bool {
        self.proto == Proto::Sctp && self.association.is_up()
    }

    /// Seconds it may stay idle. Closed by the server, it keeps its tuple for a minute at least.
    pub(super) fn ttl(&self) -> u32 {
        let class = match self.proto {
            Proto::Sctp => self.association.ttl(),
            Proto::Udp if self.stream => 120,
            Proto::Udp => 30,
            Proto::Tcp if self.reset => 10,
            Proto::Tcp if self.closed => 120,
            Proto::Tcp if self.fin == [true; 2] => 30,
            Proto::Tcp if self.fin != [false; 2] => 3_600,
            Proto::Tcp if self.established => 86_400,
            Proto::Tcp if self.syn_ack => 60,
            Proto::Tcp => 120,
        };
        if self.held_until().is_some() { class.max(60) } else { class }
    }

    /// Whole seconds since the last packet that counted.
    pub(super) fn idle(&self, now: Time) -> u32 {
        now.tick().age(self.last.tick())
    }

    /// It may never be evicted to make room.
    pub(super) fn protected(&self) -> bool {
        let tcp = self.proto == Proto::Tcp && self.established && self.fin == [false; 2] && !self.reset;
        tcp || self.is_associated()
    }
}
