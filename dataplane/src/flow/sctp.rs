//! What an SCTP packet does to its flow: the state of the association, by the chunk types of both directions.
//!
//! The kernel's table (`net/netfilter/nf_conntrack_proto_sctp.c`) without verification tags, as TCP's here is without
//! sequence numbers. So nothing a forger may have sent is final: an ABORT is the last thing seen until something else
//! is, as TCP's RST. Otherwise the differences are these:
//!
//! - A COOKIE ECHO that comes first counts as what it is: the INIT's flow ran out, and the server may take it.
//! - A client's COOKIE ACK counts only once something came back, so that nobody establishes an association alone.
//! - Whatever is translated, which is everything, also restarts the timer.
//!
//! An association of several addresses is several flows here, and a NAT in between knows only the first: the others
//! begin with a HEARTBEAT and may reach another endpoint. Multihoming is not supported.

use super::tcp::{Effect, Flags};
use super::word::Dir;
use crate::packet::layout::L4Flags;
use crate::packet::sctp::Chunk;

/// Where an association is in its life. It is kept in three bits, which are TCP's in a TCP flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Association {
    /// The client's INIT was seen, and maybe the server's answer.
    CookieWait = 0,
    /// The COOKIE ECHO was seen.
    CookieEchoed = 1,
    /// So was its acknowledgment, or one of a HEARTBEAT.
    Established = 2,
    /// The client began to shut down.
    ShutdownSent = 3,
    /// The server did.
    ShutdownRecd = 4,
    /// The other end agreed.
    ShutdownAckSent = 5,
    /// Begun with a HEARTBEAT.
    HeartbeatSent = 6,
    /// Shut down, or aborted, or begun with what only an ABORT can answer.
    Closed = 7,
}

const FIELD: Flags = Flags::EST.with(Flags::FIN_FWD).with(Flags::FIN_REV);
const SHIFT: u32 = FIELD.0.trailing_zeros();
/// An ABORT was the last thing seen; what the association was before stays in the field.
const ABORTED: Flags = Flags::RST;

const _: () = assert!(FIELD.0 == 7 << SHIFT, "three bits side by side");

impl Association {
    /// The state in a flow's flags.
    pub(super) const fn of(flags: Flags) -> Self {
        if flags.has(ABORTED) { Self::Closed } else { Self::before_abort(flags) }
    }

    /// The state a packet without a flow begins with.
    pub(super) const fn opened_by(seen: L4Flags) -> Self {
        match Chunk::of(seen) {
            Chunk::Init => Self::CookieWait,
            Chunk::CookieEcho => Self::CookieEchoed,
            Chunk::Heartbeat => Self::HeartbeatSent,
            Chunk::ShutdownAck => Self::ShutdownAckSent,
            Chunk::InitAck
            | Chunk::HeartbeatAck
            | Chunk::Shutdown
            | Chunk::Error
            // And these open nothing.
            | Chunk::Other
            | Chunk::Abort
            | Chunk::CookieAck
            | Chunk::ShutdownComplete => Self::Closed,
        }
    }

    /// As flags.
    pub(super) const fn flags(self) -> Flags {
        Flags((self as u16) << SHIFT)
    }

    /// Neither shutting down nor over.
    pub(super) const fn is_active(self) -> bool {
        match self {
            Self::CookieWait | Self::CookieEchoed | Self::Established | Self::HeartbeatSent => true,
            Self::ShutdownSent | Self::ShutdownRecd | Self::ShutdownAckSent | Self::Closed => false,
        }
    }

    /// As tables print it: the kernel's names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CookieWait => "COOKIE_WAIT",
            Self::CookieEchoed => "COOKIE_ECHOED",
            Self::Established => "ESTABLISHED",
            Self::ShutdownSent => "SHUTDOWN_SENT",
            Self::ShutdownRecd => "SHUTDOWN_RECD",
            Self::ShutdownAckSent => "SHUTDOWN_ACK_SENT",
            Self::HeartbeatSent => "HEARTBEAT_SENT",
            Self::Closed => "CLOSED",
        }
    }

    const fn before_abort(flags: Flags) -> Self {
        match (flags.0 & FIELD.0) >> SHIFT {
            0 => Self::CookieWait,
            1 => Self::CookieEchoed,
            2 => Self::Established,
            3 => Self::ShutdownSent,
            4 => Self::ShutdownRecd,
            5 => Self::ShutdownAckSent,
            6 => Self::HeartbeatSent,
            _ => Self::Closed,
        }
    }

    /// The state after a chunk. An ABORT is the caller's.
    const fn after(self, chunk: Chunk, dir: Dir, replied: bool) -> Self {
        let reply = matches!(dir, Dir::Reply);
        match (chunk, self) {
            (Chunk::Init, Self::HeartbeatSent) if !reply => Self::CookieWait,
            (Chunk::CookieEcho, Self::CookieWait) => Self::CookieEchoed,
            (Chunk::CookieAck, Self::CookieEchoed) if reply || replied => Self::Established,
            (Chunk::Error, Self::CookieEchoed) if reply => Self::Closed,
            (Chunk::HeartbeatAck, Self::HeartbeatSent) if reply => Self::Established,
            (Chunk::Shutdown, Self::Established) if reply => Self::ShutdownRecd,
            (Chunk::Shutdown, Self::Established) => Self::ShutdownSent,
            (Chunk::ShutdownAck, Self::ShutdownSent | Self::ShutdownRecd) => Self::ShutdownAckSent,
            (Chunk::ShutdownComplete, Self::ShutdownAckSent) => Self::Closed,
            _ => self,
        }
    }
}

/// A packet with this chunk on a flow with these flags.
pub(super) const fn sctp(flags: Flags, dir: Dir, seen: L4Flags) -> Effect {
    let chunk = Chunk::of(seen);
    let (set, clear) = if matches!(chunk, Chunk::Abort) {
        (ABORTED, Flags::NONE)
    } else if matches!(chunk, Chunk::Init) && flags.has(ABORTED) {
        // The client's makes the caller reopen. It undoes no ABORT.
        (Flags::NONE, Flags::NONE)
    } else {
        let next = Association::before_abort(flags).after(chunk, dir, flags.has(Flags::REPLIED)).flags();
        let came_back = if matches!(dir, Dir::Reply) { Flags::REPLIED } else { Flags::NONE };
        (next.with(came_back), FIELD.without(next).with(ABORTED))
    };
    Effect { set, clear, refresh: true, end: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Association::*;
    use Chunk::*;
    use Dir::{Forward as C, Reply as S};

    const STATES: [Association; 8] = [
        CookieWait,
        CookieEchoed,
        Established,
        ShutdownSent,
        ShutdownRecd,
        ShutdownAckSent,
        HeartbeatSent,
        Closed,
    ];

    /// Applies chunks to a flow.
    fn run(start: Flags, chunks: &[(Dir, Chunk)]) -> Flags {
        chunks.iter().fold(start, |flags, (dir, chunk)| {
            let effect = sctp(flags, *dir, chunk.flags());
            assert!(effect.refresh && !effect.end, "{dir:?} {chunk:?}");
            flags.without(effect.clear).with(effect.set)
        })
    }

    fn ends_in(start: Association, chunks: &[(Dir, Chunk)]) -> Association {
        Association::of(run(start.flags(), chunks))
    }

    const OPEN: [(Dir, Chunk); 4] = [(C, Init), (S, InitAck), (C, CookieEcho), (S, CookieAck)];

    #[test]
    fn an_association_goes_through_its_states() {
        let mut flags = Association::opened_by(Init.flags()).flags();
        for ((dir, chunk), state) in [
            ((C, Init), CookieWait),
            ((S, InitAck), CookieWait),
            ((C, CookieEcho), CookieEchoed),
            ((C, CookieEcho), CookieEchoed),
            ((S, CookieAck), Established),
            ((C, Other), Established),
            ((S, Other), Established),
            ((S, Heartbeat), Established),
            ((C, HeartbeatAck), Established),
            ((C, Init), Established),
            ((S, Error), Established),
            ((C, Shutdown), ShutdownSent),
            ((S, Other), ShutdownSent),
            ((S, ShutdownAck), ShutdownAckSent),
            ((C, Init), ShutdownAckSent),
            ((C, ShutdownComplete), Closed),
            ((S, ShutdownAck), Closed),
        ] {
            flags = run(flags, &[(dir, chunk)]);
            assert_eq!(Association::of(flags), state, "{dir:?} {chunk:?}");
        }
        let by_server = [(S, Shutdown), (C, ShutdownAck), (S, ShutdownComplete)];
        assert_eq!(ends_in(CookieWait, &[&OPEN[..], &by_server[..1]].concat()), ShutdownRecd);
        assert_eq!(ends_in(CookieWait, &[&OPEN[..], &by_server].concat()), Closed);
    }

    /// The kernel's table for what comes behind a first packet: original and reply direction, without INIT on a closed
    /// association (which opens another), with the ABORT last.
    #[test]
    fn the_kernels_table_is_kept() {
        use {
            Closed as CL, CookieEchoed as CE, CookieWait as CW, Established as ES, HeartbeatSent as HS,
            ShutdownAckSent as SA, ShutdownRecd as SR, ShutdownSent as SS,
        };
        let states = [CL, CW, CE, ES, SS, SR, SA, HS];
        for (dir, chunk, after) in [
            (C, InitAck, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, Shutdown, [CL, CW, CE, SS, SS, SR, SA, HS]),
            (C, ShutdownAck, [CL, CW, CE, ES, SA, SA, SA, HS]),
            (C, Error, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, CookieEcho, [CL, CE, CE, ES, SS, SR, SA, HS]),
            (C, CookieAck, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, ShutdownComplete, [CL, CW, CE, ES, SS, SR, CL, HS]),
            (C, Heartbeat, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, HeartbeatAck, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, Other, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (C, Abort, [CL; 8]),
            (S, Init, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (S, InitAck, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (S, Shutdown, [CL, CW, CE, SR, SS, SR, SA, HS]),
            (S, ShutdownAck, [CL, CW, CE, ES, SA, SA, SA, HS]),
            (S, Error, [CL, CW, CL, ES, SS, SR, SA, HS]),
            (S, CookieEcho, [CL, CE, CE, ES, SS, SR, SA, HS]),
            (S, CookieAck, [CL, CW, ES, ES, SS, SR, SA, HS]),
            (S, ShutdownComplete, [CL, CW, CE, ES, SS, SR, CL, HS]),
            (S, Heartbeat, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (S, HeartbeatAck, [CL, CW, CE, ES, SS, SR, SA, ES]),
            (S, Other, [CL, CW, CE, ES, SS, SR, SA, HS]),
            (S, Abort, [CL; 8]),
        ] {
            assert_eq!(states.map(|state| ends_in(state, &[(dir, chunk)])), after, "{dir:?} {chunk:?}");
        }
        assert_eq!(ends_in(HS, &[(C, Init)]), CW);
    }

    #[test]
    fn an_abort_is_undone_by_whatever_follows_it_but_an_init() {
        for state in STATES {
            let mut flags = run(state.flags(), &[(S, Abort)]);
            assert_eq!(Association::of(flags), Closed);
            flags = run(flags, &[(C, Init)]);
            assert_eq!(Association::of(flags), Closed, "the caller reopens");
            assert_eq!(Association::of(run(flags, &[(C, Other)])), state);
            assert_eq!(Association::of(run(flags, &[(C, Other), (C, Abort)])), Closed);
        }
    }

    #[test]
    fn nobody_establishes_an_association_alone() {
        let alone = [(C, Init), (C, CookieEcho), (C, CookieAck), (C, HeartbeatAck), (C, Other)];
        assert_eq!(ends_in(CookieWait, &alone), CookieEchoed);
        assert_eq!(ends_in(HeartbeatSent, &alone[2..]), HeartbeatSent);
        // Both began: the server's INIT may win (RFC 9260, section 5.2.1).
        let crossed = [(S, Init), (C, InitAck), (S, CookieEcho), (C, CookieAck)];
        assert_eq!(ends_in(CookieWait, &crossed), Established);
        // Nothing of an ABORT counts as an answer.
        assert_eq!(ends_in(CookieEchoed, &[(S, Abort), (C, CookieAck)]), CookieEchoed);
    }

    #[test]
    fn what_opens_a_flow_says_where_it_begins() {
        for (chunk, state) in [
            (Init, CookieWait),
            (CookieEcho, CookieEchoed),
            (Heartbeat, HeartbeatSent),
            (ShutdownAck, ShutdownAckSent),
            (InitAck, Closed),
            (HeartbeatAck, Closed),
            (Shutdown, Closed),
            (Error, Closed),
        ] {
            assert!(chunk.opens());
            assert_eq!(Association::opened_by(chunk.flags()), state, "{chunk:?}");
        }
        assert!([Other, Abort, CookieAck, ShutdownComplete].iter().all(|chunk| !chunk.opens()));
    }

    #[test]
    fn states_are_three_bits_and_leave_the_others_alone() {
        let others = Flags::MASQ.with(Flags::COUNTED).with(Flags::REPLIED);
        for state in STATES {
            assert_eq!(Association::of(state.flags()), state);
            assert_eq!(Association::of(state.flags().with(others)), state);
            assert!(!state.flags().any(others.with(Flags::DEAD).with(Flags::LINGER).with(ABORTED)));
            assert!(run(state.flags().with(others), &[(C, Abort), (S, Other), (C, Shutdown)]).has(others));
        }
    }
}
