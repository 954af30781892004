//! What a packet does to its flow: the flags machine of TCP, and the two steps of UDP. SCTP's is `flow/sctp.rs`.
//!
//! No sequence numbers: a RST or FIN from out of the window does not get here (`flow/belief.rs`). The kernel's table
//! (`net/netfilter/nf_conntrack_proto_tcp.c`) reduced to flags: NEW, SYN_RECV, ESTABLISHED, half-closed by the first
//! FIN, LAST_ACK by the second, TIME_WAIT by the ACK behind it, RST beside any of them. What the kernel ignores or
//! calls invalid is translated all the same, but neither refreshes nor moves the flow.

use super::sctp::Association;
use super::word::Dir;
use crate::packet::layout::L4Flags;
use crate::packet::tuple::Proto;

/// The low 16 bits of a flow's state word. The names are TCP's; an SCTP flow has its state in some of the same bits, see
/// [`Association`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(pub(super) u16);

impl Flags {
    pub(super) const NONE: Self = Self(0);
    /// The server's SYN/ACK was seen.
    pub(super) const SYN_ACK: Self = Self(1);
    /// Anything but a RST came back.
    pub(super) const REPLIED: Self = Self(1 << 1);
    /// The handshake was completed, or the flow was picked up in its middle.
    pub(super) const EST: Self = Self(1 << 2);
    /// The client's FIN was seen.
    pub(super) const FIN_FWD: Self = Self(1 << 3);
    /// The server's FIN was seen.
    pub(super) const FIN_REV: Self = Self(1 << 4);
    /// An ACK behind both FINs was seen.
    pub(super) const CLOSED: Self = Self(1 << 5);
    /// The last thing seen was a RST. Undone by any later segment: a forged RST is answered by a challenge
    /// ACK (RFC 5961), the connection lives, and so must the flow.
    pub(super) const RST: Self = Self(1 << 6);
    /// Ended. Never undone within a generation.
    pub(super) const DEAD: Self = Self(1 << 7);
    /// Counted as active at its endpoint; see [`Loads`](super::Loads).
    pub(super) const COUNTED: Self = Self(1 << 8);
    /// The source address is translated too.
    pub(super) const MASQ: Self = Self(1 << 9);
    /// UDP: replied and older than 2 s.
    pub(super) const STREAM: Self = Self(1 << 10);
    /// Picked up in its middle.
    pub(super) const PICKUP: Self = Self(1 << 11);
    // 12 to 14: RETRIED, PROBE, OFFLOADED; not used yet.
    /// Ended by its client, who opened the same tuple anew; only the reply tuple is still reserved, because
    /// the server remembers it (TIME_WAIT). Serves no packet. See [`super::ttl::HOLD`].
    pub(super) const LINGER: Self = Self(1 << 15);

    const FINS: Self = Self(Self::FIN_FWD.0 | Self::FIN_REV.0);

    /// Has every bit of `other`.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Has a bit of `other`.
    pub(super) const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Serves no packet any more.
    pub(super) const fn is_over(self) -> bool {
        self.any(Self::DEAD.with(Self::LINGER))
    }
}

/// What a packet changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) set: Flags,
    pub(super) clear: Flags,
    /// The timer starts anew.
    pub(super) refresh: bool,
    /// The flow is over now.
    pub(super) end: bool,
}

impl Effect {
    const IGNORED: Self = Self { set: Flags::NONE, clear: Flags::NONE, refresh: false, end: false };

    const fn marks(set: Flags) -> Self {
        Self { set, ..Self::IGNORED }
    }

    /// A segment that counts: it refreshes, and undoes a RST.
    const fn segment(set: Flags) -> Self {
        Self { set, clear: Flags::RST, refresh: true, end: false }
    }

    const END: Self = Self { end: true, ..Self::IGNORED };

    /// The same for a flow with these flags, which is counted from now on exactly if it is active then.
    pub(super) fn counting(self, proto: Proto, flags: Flags) -> Self {
        let next = flags.without(self.clear).with(self.set);
        if next == flags {
            return self;
        }
        if Class::of(proto, next).is_active() {
            Self { set: self.set.with(Flags::COUNTED), ..self }
        } else {
            Self { clear: self.clear.with(Flags::COUNTED), ..self }
        }
    }
}

/// A TCP segment on a flow with these flags.
pub(super) const fn tcp(flags: Flags, dir: Dir, seen: L4Flags) -> Effect {
    let reply = matches!(dir, Dir::Reply);
    let came_back = if reply { Flags::REPLIED } else { Flags::NONE };
    let answered = flags.any(Flags::SYN_ACK.with(Flags::EST));
    if seen.has(L4Flags::RST) {
        // The only answer to a SYN, or to a flow picked up wrongly: nobody is there.
        if reply && !flags.has(Flags::REPLIED) {
            return Effect::END;
        }
        return Effect { set: Flags::RST, clear: Flags::NONE, refresh: true, end: false };
    }
    if seen.has(L4Flags::SYN) {
        return match (reply, seen.has(L4Flags::ACK)) {
            (true, true) if !answered => Effect::segment(Flags::SYN_ACK.with(came_back)),
            (true, true) if flags.has(Flags::RST) => Effect::segment(came_back),
            (true, true) => Effect::marks(came_back),
            // A retransmission must not keep a flow nobody answers; on a live flow the endpoint answers with
            // a challenge ACK; on a closed one the caller reopens.
            (true, false) | (false, _) => Effect::IGNORED,
        };
    }
    if !answered {
        // FIN or ACK before any SYN/ACK.
        return Effect::marks(came_back);
    }
    if seen.has(L4Flags::FIN) {
        let fin = if reply { Flags::FIN_REV } else { Flags::FIN_FWD };
        return Effect::segment(fin.with(came_back));
    }
    if !seen.has(L4Flags::ACK) {
        return Effect::marks(came_back);
    }
    if flags.has(Flags::FINS) {
        return Effect::segment(Flags::CLOSED.with(came_back));
    }
    Effect::segment(if reply { Flags::REPLIED } else { Flags::EST })
}

/// A datagram on a flow. `old` says whether the flow is older than 2 s; asked only when it matters.
pub(super) fn udp(flags: Flags, dir: Dir, old: impl FnOnce() -> bool) -> Effect {
    let replied = dir == Dir::Reply || flags.has(Flags::REPLIED);
    let mut set = if replied { Flags::REPLIED } else { Flags::NONE };
    if replied && !flags.has(Flags::STREAM) && old() {
        set = set.with(Flags::STREAM);
    }
    Effect { set, clear: Flags::NONE, refresh: true, end: false }
}

/// Where a flow is in its life: what its timer depends on, and what tables print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    SynSent,
    SynRecv,
    Established,
    PickedUp,
    HalfClosed,
    LastAck,
    TimeWait,
    Reset,
    Unreplied,
    Replied,
    Stream,
    Sctp(Association),
}

impl Class {
    /// The class of a flow.
    pub(super) const fn of(proto: Proto, flags: Flags) -> Self {
        match proto {
            Proto::Sctp => Self::Sctp(Association::of(flags)),
            Proto::Udp if flags.has(Flags::STREAM) => Self::Stream,
            Proto::Udp if flags.has(Flags::REPLIED) => Self::Replied,
            Proto::Udp => Self::Unreplied,
            Proto::Tcp if flags.has(Flags::RST) => Self::Reset,
            Proto::Tcp if flags.has(Flags::CLOSED) => Self::TimeWait,
            Proto::Tcp if flags.has(Flags::FINS) => Self::LastAck,
            Proto::Tcp if flags.any(Flags::FINS) => Self::HalfClosed,
            Proto::Tcp if flags.has(Flags::PICKUP) && !flags.has(Flags::REPLIED) => Self::PickedUp,
            Proto::Tcp if flags.has(Flags::EST) => Self::Established,
            Proto::Tcp if flags.has(Flags::SYN_ACK) => Self::SynRecv,
            Proto::Tcp => Self::SynSent,
        }
    }

    /// As tables print it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::PickedUp => "PICKED_UP",
            Self::HalfClosed => "HALF_CLOSED",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Reset => "RESET",
            Self::Unreplied => "UNREPLIED",
            Self::Replied => "REPLIED",
            Self::Stream => "STREAM",
            Self::Sctp(association) => association.name(),
        }
    }

    /// A flow of this class is active: not closing yet.
    pub(super) const fn is_active(self) -> bool {
        match self {
            Self::SynSent | Self::SynRecv | Self::Established | Self::PickedUp => true,
            Self::HalfClosed | Self::LastAck | Self::TimeWait | Self::Reset => false,
            Self::Unreplied | Self::Replied | Self::Stream => true,
            Self::Sctp(association) => association.is_active(),
        }
    }

    /// A client's SYN, or INIT, ends a flow of this class and opens a new one.
    pub(super) const fn reopenable(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset | Self::Sctp(Association::Closed))
    }
}

#[cfg(test)]
mod tests {
    //! The rows of the kernel's transition table that the flags machine keeps, as data.

    use super::*;
    use Class::*;
    use Dir::{Forward as C, Reply as S};

    const SYN: L4Flags = L4Flags::SYN;
    const ACK: L4Flags = L4Flags::ACK;
    const SYN_ACK: L4Flags = L4Flags(0x12);
    const FIN_ACK: L4Flags = L4Flags(0x11);
    const RST: L4Flags = L4Flags(0x04);
    const RST_ACK: L4Flags = L4Flags(0x14);
    const PSH_ACK: L4Flags = L4Flags(0x18);
    const NULL: L4Flags = L4Flags(0);

    /// Applies segments to a fresh flow; the class and whether the last one refreshed.
    fn run(start: Flags, segments: &[(Dir, L4Flags)]) -> (Class, bool, Flags) {
        let (mut flags, mut refreshed) = (start, true);
        for (dir, seen) in segments {
            let effect = tcp(flags, *dir, *seen);
            assert!(!effect.end, "ended by {dir:?} {seen:?}");
            flags = flags.without(effect.clear).with(effect.set);
            refreshed = effect.refresh;
        }
        (Class::of(Proto::Tcp, flags), refreshed, flags)
    }

    const OPEN: [(Dir, L4Flags); 2] = [(S, SYN_ACK), (C, ACK)];
    const CLOSING: [(Dir, L4Flags); 4] = [(S, SYN_ACK), (C, ACK), (C, FIN_ACK), (S, FIN_ACK)];

    #[test]
    fn a_connection_goes_through_its_states() {
        let mut way = Vec::new();
        for (segment, class) in [
            ((S, SYN_ACK), SynRecv),
            ((C, ACK), Established),
            ((C, PSH_ACK), Established),
            ((S, PSH_ACK), Established),
            ((S, FIN_ACK), HalfClosed),
            ((C, ACK), HalfClosed),
            ((C, PSH_ACK), HalfClosed),
            ((S, FIN_ACK), HalfClosed),
            ((C, FIN_ACK), LastAck),
            ((C, FIN_ACK), LastAck),
            ((S, ACK), TimeWait),
            ((S, FIN_ACK), TimeWait),
        ] {
            way.push(segment);
            let (got, refreshed, _) = run(Flags::NONE, &way);
            assert_eq!((got, refreshed), (class, true), "after {way:?}");
        }
    }

    #[test]
    fn what_the_kernel_ignores_neither_moves_nor_refreshes() {
        let open = OPEN.to_vec();
        let closed = [CLOSING.to_vec(), vec![(S, ACK)]].concat();
        for (before, segment, class) in [
            (vec![], (C, SYN), SynSent),
            (vec![], (C, ACK), SynSent),
            (vec![], (C, FIN_ACK), SynSent),
            (vec![], (S, ACK), SynSent),
            (vec![], (S, SYN), SynSent),
            (vec![(S, SYN_ACK)], (S, SYN_ACK), SynRecv),
            (vec![(S, SYN_ACK)], (C, SYN), SynRecv),
            (open.clone(), (C, SYN), Established),
            (open.clone(), (C, SYN_ACK), Established),
            (open.clone(), (S, SYN), Established),
            (open.clone(), (S, SYN_ACK), Established),
            (open.clone(), (C, NULL), Established),
            (CLOSING.to_vec(), (C, SYN), LastAck),
            (closed.clone(), (C, SYN), TimeWait),
            (closed, (S, SYN_ACK), TimeWait),
        ] {
            let way = [before, vec![segment]].concat();
            let (got, refreshed, _) = run(Flags::NONE, &way);
            assert_eq!((got, refreshed), (class, false), "after {way:?}");
        }
    }

    #[test]
    fn a_rst_is_undone_by_whatever_follows_it() {
        for (before, class) in
            [(OPEN.to_vec(), Established), (OPEN[..1].to_vec(), SynRecv), (CLOSING[..3].to_vec(), HalfClosed)]
        {
            for rst in [(C, RST), (S, RST_ACK)] {
                let way = [before.clone(), vec![rst]].concat();
                assert_eq!(run(Flags::NONE, &way).0, Reset);
                // A SYN does not undo it: it reopens.
                assert_eq!(run(Flags::NONE, &[way.clone(), vec![(C, SYN)]].concat()).0, Reset);
                let after = run(Flags::NONE, &[way, vec![(S, ACK)]].concat());
                assert_eq!((after.0, after.1), (class, true));
            }
        }
        let undone = run(Flags::NONE, &[(C, RST), (S, SYN_ACK)]);
        assert_eq!((undone.0, undone.1), (SynRecv, true));
        assert_eq!(run(Flags::NONE, &[(S, SYN_ACK), (C, RST), (S, SYN_ACK)]).0, SynRecv);
    }

    #[test]
    fn a_rst_as_the_only_answer_ends_the_flow() {
        assert!(tcp(Flags::NONE, S, RST_ACK).end);
        assert!(tcp(Flags::EST.with(Flags::PICKUP), S, RST).end, "picked up, and nobody knows it");
        assert!(!tcp(Flags::NONE, C, RST).end);
        // A challenge ACK came first: the client's RST and the server's do not end it at once.
        let (_, _, flags) = run(Flags::NONE, &[(S, ACK)]);
        assert!(!tcp(flags, S, RST).end);
    }

    #[test]
    fn a_picked_up_flow_is_established_once_answered() {
        let start = Flags::EST.with(Flags::PICKUP);
        assert_eq!(run(start, &[]).0, PickedUp);
        assert_eq!(run(start, &[(C, PSH_ACK)]).0, PickedUp);
        assert_eq!(run(start, &[(S, ACK)]).0, Established);
        assert_eq!(run(start, &[(C, FIN_ACK)]).0, HalfClosed);
    }

    #[test]
    fn only_what_is_closed_may_be_reopened() {
        assert!(TimeWait.reopenable() && Reset.reopenable());
        for class in
            [SynSent, SynRecv, Established, PickedUp, HalfClosed, LastAck, Unreplied, Replied, Stream]
        {
            assert!(!class.reopenable());
        }
    }

    #[test]
    fn udp_is_a_stream_when_replied_and_old() {
        let step = |flags: Flags, dir, old: bool| flags.with(udp(flags, dir, || old).set);
        let unreplied = step(Flags::NONE, C, true);
        assert_eq!(Class::of(Proto::Udp, unreplied), Unreplied, "age alone makes no stream");
        let replied = step(unreplied, S, false);
        assert_eq!(Class::of(Proto::Udp, replied), Replied);
        assert_eq!(Class::of(Proto::Udp, step(replied, C, false)), Replied);
        for dir in [C, S] {
            assert_eq!(Class::of(Proto::Udp, step(replied, dir, true)), Stream);
        }
        assert!(udp(Flags::NONE, C, || panic!("not asked")).refresh);
    }

    #[test]
    fn flags_have_their_own_bits() {
        let all = [
            Flags::SYN_ACK,
            Flags::REPLIED,
            Flags::EST,
            Flags::FIN_FWD,
            Flags::FIN_REV,
            Flags::CLOSED,
            Flags::RST,
            Flags::DEAD,
            Flags::COUNTED,
            Flags::MASQ,
            Flags::STREAM,
            Flags::PICKUP,
            Flags::LINGER,
        ];
        for (n, flag) in all.iter().enumerate() {
            assert_eq!(flag.0.count_ones(), 1);
            assert!(all[..n].iter().all(|other| !other.any(*flag)));
        }
    }
}
