//! How long a flow may be idle, and which may go when the table is full.

use super::sctp::Association;
use super::tcp::{Class, Flags};
use crate::clock::Tick;
use crate::packet::tuple::Proto;

/// Seconds a masqueraded flow keeps its reply tuple after the server's FIN: Linux servers remember a
/// connection for 60 s (`TCP_TIMEWAIT_LEN`), and would answer another client's SYN on the same tuple with an
/// ACK of the old one.
pub(super) const HOLD: u32 = 60;

/// All timers in seconds. Each at least 1 and at most [`Tick::MAX_TTL`]: see [`Ttls::validate`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ttls {
    /// A SYN nobody answered yet.
    pub tcp_syn_sent: u32,
    /// SYN/ACK seen, its ACK not.
    pub tcp_syn_recv: u32,
    /// Established; kube-proxy's 24 h.
    pub tcp_established: u32,
    /// One side's FIN seen; kube-proxy's 1 h.
    pub tcp_half_closed: u32,
    /// Both FINs seen, the last ACK not.
    pub tcp_last_ack: u32,
    /// Closed.
    pub tcp_time_wait: u32,
    /// A RST was the last thing seen.
    pub tcp_reset: u32,
    /// Picked up in its middle and not answered.
    pub tcp_unacknowledged: u32,
    /// UDP, until it is a stream.
    pub udp: u32,
    /// UDP, replied and older than 2 s.
    pub udp_stream: u32,
    /// SCTP, shut down or aborted.
    pub sctp_closed: u32,
    /// SCTP, before the COOKIE ACK.
    pub sctp_cookie: u32,
    /// An SCTP association. Its ends ask for each other every 30 s (RFC 9260, section 8.3: `HB.interval`).
    pub sctp_established: u32,
    /// SCTP, from the first SHUTDOWN to the SHUTDOWN COMPLETE.
    pub sctp_shutdown: u32,
    /// SCTP, begun with a HEARTBEAT nobody answered yet: an association whose flow was lost.
    pub sctp_heartbeat: u32,
}

impl Default for Ttls {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 120,
            tcp_syn_recv: 60,
            tcp_established: 86_400,
            tcp_half_closed: 3_600,
            tcp_last_ack: 30,
            tcp_time_wait: 120,
            tcp_reset: 10,
            tcp_unacknowledged: 300,
            udp: 30,
            udp_stream: 120,
            sctp_closed: 10,
            sctp_cookie: 3,
            sctp_established: 210,
            sctp_shutdown: 3,
            sctp_heartbeat: 30,
        }
    }
}

/// A timer the table cannot keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timer {name}: {seconds} s is not between 1 and {max} s", max = Tick::MAX_TTL)]
pub struct TtlError {
    /// The field of [`Ttls`].
    pub name: &'static str,
    /// Its value.
    pub seconds: u32,
}

impl Ttls {
    /// Whether the table can keep every timer.
    ///
    /// # Errors
    /// The first timer that is 0 or longer than [`Tick::MAX_TTL`].
    pub fn validate(&self) -> Result<(), TtlError> {
        let all = [
            ("tcp_syn_sent", self.tcp_syn_sent),
            ("tcp_syn_recv", self.tcp_syn_recv),
            ("tcp_established", self.tcp_established),
            ("tcp_half_closed", self.tcp_half_closed),
            ("tcp_last_ack", self.tcp_last_ack),
            ("tcp_time_wait", self.tcp_time_wait),
            ("tcp_reset", self.tcp_reset),
            ("tcp_unacknowledged", self.tcp_unacknowledged),
            ("udp", self.udp),
            ("udp_stream", self.udp_stream),
            ("sctp_closed", self.sctp_closed),
            ("sctp_cookie", self.sctp_cookie),
            ("sctp_established", self.sctp_established),
            ("sctp_shutdown", self.sctp_shutdown),
            ("sctp_heartbeat", self.sctp_heartbeat),
        ];
        let bad = all.into_iter().find(|(_, seconds)| !(1..=Tick::MAX_TTL).contains(seconds));
        bad.map_or(Ok(()), |(name, seconds)| Err(TtlError { name, seconds }))
    }

    /// Seconds a flow with these flags may be idle.
    pub(super) fn of(&self, proto: Proto, flags: Flags) -> u32 {
        if flags.has(Flags::LINGER) {
            return HOLD;
        }
        let ttl = match Class::of(proto, flags) {
            Class::SynSent => self.tcp_syn_sent,
            Class::SynRecv => self.tcp_syn_recv,
            Class::Established => self.tcp_established,
            Class::PickedUp => self.tcp_unacknowledged.min(self.tcp_established),
            Class::HalfClosed => self.tcp_half_closed,
            Class::LastAck => self.tcp_last_ack,
            Class::TimeWait => self.tcp_time_wait,
            Class::Reset => self.tcp_reset,
            Class::Unreplied | Class::Replied => self.udp,
            Class::Stream => self.udp_stream,
            Class::Sctp(association) => match association {
                Association::CookieWait | Association::CookieEchoed => self.sctp_cookie,
                Association::Established => self.sctp_established,
                Association::ShutdownSent | Association::ShutdownRecd | Association::ShutdownAckSent => {
                    self.sctp_shutdown
                }
                Association::HeartbeatSent => self.sctp_heartbeat,
                Association::Closed => self.sctp_closed,
            },
        };
        if holds_tuple(proto, flags) { ttl.max(HOLD) } else { ttl }
    }
}

/// Whether the server may still remember this flow's reply tuple when the flow ends now: it sent its FIN, and
/// the source port is ours to give to somebody else. (A client's own port is the client's business.) SCTP remembers
/// nothing: its verification tags tell associations apart.
pub(super) fn holds_tuple(proto: Proto, flags: Flags) -> bool {
    proto == Proto::Tcp && flags.has(Flags::MASQ.with(Flags::FIN_REV))
}

/// Seconds a handshake is given before it counts as one nobody will finish: a lost SYN is sent again after one, and
/// after two more.
pub(super) const HANDSHAKE: u32 = 3;

/// Which flows go first when the table is full: lower goes before higher. `None` is never evicted.
///
/// Handshakes that may still be under way go after what is closed, or a crowd of closed connections would cost others
/// their new ones; when there is nothing else, the oldest of them go: in a flood of SYNs that is the flood.
pub(super) fn rank(proto: Proto, flags: Flags, idle: u32) -> Option<u8> {
    if flags.has(Flags::DEAD) {
        return None;
    }
    if flags.has(Flags::LINGER) {
        return Some(1);
    }
    let half_open = if idle >= HANDSHAKE { 0 } else { 2 };
    match Class::of(proto, flags) {
        Class::SynSent | Class::SynRecv => Some(half_open),
        Class::LastAck | Class::TimeWait | Class::Reset => Some(1),
        Class::Unreplied | Class::PickedUp => Some(3),
        Class::Replied | Class::Stream => Some(4),
        // An established flow, and one whose other half still may carry data.
        Class::Established | Class::HalfClosed => None,
        Class::Sctp(association) => match association {
            Association::CookieWait | Association::CookieEchoed => Some(half_open),
            Association::ShutdownSent
            | Association::ShutdownRecd
            | Association::ShutdownAckSent
            | Association::Closed => Some(1),
            Association::HeartbeatSent => Some(3),
            Association::Established => None,
        },
    }
}

/// Whether a flow that ends now, so long after its last packet, leaves a reply tuple behind that must not go to another
/// client yet.
pub(super) fn leaves_hold(proto: Proto, flags: Flags, idle: u32) -> bool {
    idle < HOLD && (flags.has(Flags::LINGER) || holds_tuple(proto, flags))
}

/// Whether a flow gives its reply tuple to another one when there is no free one left towards its endpoint: a handshake,
/// or a question, that nobody went on with, and a connection that was reset before its server closed.
pub(super) fn gives_way(proto: Proto, flags: Flags, idle: u32) -> bool {
    let abandoned = match Class::of(proto, flags) {
        Class::SynSent | Class::SynRecv | Class::Reset | Class::Unreplied | Class::PickedUp => true,
        Class::Sctp(association) => {
            use Association::{Closed, CookieEchoed, CookieWait, HeartbeatSent};
            matches!(association, CookieWait | CookieEchoed | HeartbeatSent | Closed)
        }
        Class::Established
        | Class::HalfClosed
        | Class::LastAck
        | Class::TimeWait
        | Class::Replied
        | Class::Stream => false,
    };
    abandoned && idle >= HANDSHAKE && !flags.is_over() && !holds_tuple(proto, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Flags = Flags::SYN_ACK.with(Flags::REPLIED).with(Flags::EST);
    const SHUT: Flags = OPEN.with(Flags::FIN_FWD).with(Flags::FIN_REV);

    #[test]
    fn every_class_has_its_timer() {
        let ttls = Ttls::default();
        let (tcp, udp, sctp) = (Proto::Tcp, Proto::Udp, Proto::Sctp);
        for (proto, flags, seconds) in [
            (tcp, Flags::NONE, 120),
            (tcp, Flags::SYN_ACK.with(Flags::REPLIED), 60),
            (tcp, OPEN, 86_400),
            (tcp, OPEN.with(Flags::FIN_FWD), 3_600),
            (tcp, OPEN.with(Flags::FIN_REV), 3_600),
            (tcp, SHUT, 30),
            (tcp, SHUT.with(Flags::CLOSED), 120),
            (tcp, OPEN.with(Flags::RST), 10),
            (tcp, Flags::EST.with(Flags::PICKUP), 300),
            (tcp, OPEN.with(Flags::PICKUP), 86_400),
            (udp, Flags::NONE, 30),
            (udp, Flags::REPLIED, 30),
            (udp, Flags::REPLIED.with(Flags::STREAM), 120),
            (sctp, Association::CookieWait.flags(), 3),
            (sctp, Association::CookieEchoed.flags(), 3),
            (sctp, Association::Established.flags(), 210),
            (sctp, Association::Established.flags().with(Flags::MASQ).with(Flags::REPLIED), 210),
            (sctp, Association::Established.flags().with(Flags::RST), 10),
            (sctp, Association::ShutdownSent.flags(), 3),
            (sctp, Association::ShutdownRecd.flags(), 3),
            (sctp, Association::ShutdownAckSent.flags().with(Flags::MASQ), 3),
            (sctp, Association::HeartbeatSent.flags(), 30),
            (sctp, Association::Closed.flags().with(Flags::MASQ), 10),
        ] {
            assert_eq!(ttls.of(proto, flags), seconds, "{proto} {flags:?}");
        }
    }

    #[test]
    fn a_server_that_closed_keeps_the_tuple_for_a_minute() {
        let ttls = Ttls { tcp_time_wait: 5, ..Ttls::default() };
        let shut = SHUT.with(Flags::MASQ);
        for flags in [shut, shut.with(Flags::CLOSED), shut.with(Flags::RST), shut.with(Flags::LINGER)] {
            assert_eq!(ttls.of(Proto::Tcp, flags), HOLD, "{flags:?}");
            assert_eq!(rank(Proto::Tcp, flags, 0), Some(1), "{flags:?} makes room");
            assert!(leaves_hold(Proto::Tcp, flags, HOLD - 1) && !leaves_hold(Proto::Tcp, flags, HOLD));
            assert!(!gives_way(Proto::Tcp, flags, HOLD), "{flags:?}");
        }
        assert_eq!(rank(Proto::Tcp, shut.with(Flags::CLOSED), HOLD), Some(1));
        assert_eq!(ttls.of(Proto::Tcp, SHUT), 30, "a client's own port");
        assert_eq!(
            ttls.of(Proto::Tcp, OPEN.with(Flags::MASQ).with(Flags::RST)),
            10,
            "the server never closed"
        );
    }

    #[test]
    fn an_established_flow_is_never_evicted() {
        for flags in [OPEN, OPEN.with(Flags::FIN_FWD), OPEN.with(Flags::PICKUP), OPEN.with(Flags::MASQ)] {
            assert_eq!(rank(Proto::Tcp, flags, u32::MAX), None);
        }
        assert_eq!(rank(Proto::Sctp, Association::Established.flags().with(Flags::MASQ), u32::MAX), None);
        let order: Vec<_> = [
            (Proto::Tcp, Flags::NONE),
            (Proto::Tcp, SHUT.with(Flags::CLOSED)),
            (Proto::Udp, Flags::NONE),
            (Proto::Udp, Flags::REPLIED.with(Flags::STREAM)),
            (Proto::Sctp, Association::CookieEchoed.flags()),
            (Proto::Sctp, Association::ShutdownRecd.flags()),
            (Proto::Sctp, Association::HeartbeatSent.flags()),
        ]
        .map(|(proto, flags)| rank(proto, flags, HANDSHAKE))
        .to_vec();
        assert_eq!(order, [0, 1, 3, 4, 0, 1, 3].map(Some));
        assert_eq!(rank(Proto::Tcp, Flags::NONE, HANDSHAKE - 1), Some(2), "it may still get its answer");
    }

    #[test]
    fn only_what_nobody_goes_on_with_gives_its_tuple_away() {
        for (proto, flags, gives) in [
            (Proto::Tcp, Flags::NONE, true),
            (Proto::Tcp, Flags::SYN_ACK.with(Flags::REPLIED), true),
            (Proto::Tcp, OPEN.with(Flags::RST), true),
            (Proto::Udp, Flags::NONE, true),
            (Proto::Sctp, Association::CookieWait.flags(), true),
            (Proto::Tcp, OPEN, false),
            (Proto::Tcp, OPEN.with(Flags::FIN_FWD), false),
            (Proto::Tcp, SHUT.with(Flags::CLOSED), false),
            (Proto::Udp, Flags::REPLIED, false),
            (Proto::Sctp, Association::Established.flags(), false),
        ] {
            assert_eq!(gives_way(proto, flags, HANDSHAKE), gives, "{proto} {flags:?}");
            assert!(!gives_way(proto, flags, HANDSHAKE - 1), "{proto} {flags:?}");
        }
    }

    #[test]
    fn timers_are_checked() {
        assert_eq!(Ttls::default().validate(), Ok(()));
        let long = Ttls { udp_stream: Tick::MAX_TTL + 1, ..Ttls::default() };
        assert!(long.validate().unwrap_err().to_string().starts_with("timer udp_stream: 524288 s"));
        assert!(Ttls { tcp_reset: 0, ..Ttls::default() }.validate().is_err());
    }
}
