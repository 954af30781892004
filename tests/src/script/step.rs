//! What may happen in a story.

use dataplane::packet::tuple::Proto;

use crate::packets::{chunks, flags};

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// TCP flags; not used for UDP. For SCTP they stand for chunks, or with [`Segment::CHUNK`] are a chunk's type.
    pub flags: u8,
    /// Payload bytes.
    pub payload: u16,
    /// What is left to the device.
    pub offload: u8,
}

impl Segment {
    /// With this bit the flags of an SCTP packet are the type of its chunk.
    pub const CHUNK: u8 = 0x80;

    /// The chunks of the SCTP packet.
    pub(super) fn chunks(&self) -> &'static [u8] {
        use chunks::*;
        use flags::{ACK, FIN, PSH, RST, SYN};
        const EACH: [[u8; 1]; 16] =
            [[0], [1], [2], [3], [4], [5], [6], [7], [8], [9], [10], [11], [12], [13], [14], [15]];
        const WHILE_OPENING: [&[u8]; 8] = [
            &[INIT_ACK],
            &[COOKIE_ECHO],
            &[COOKIE_ACK],
            &[COOKIE_ECHO, DATA],
            &[COOKIE_ACK, SACK],
            &[ERROR],
            &[COOKIE_ACK, ERROR],
            &[SACK, COOKIE_ECHO],
        ];
        const WHILE_OPEN: [&[u8]; 8] = [
            &[DATA],
            &[SACK],
            &[HEARTBEAT],
            &[HEARTBEAT_ACK],
            &[SACK, DATA],
            &[HEARTBEAT, DATA],
            &[SACK, HEARTBEAT_ACK],
            &[DATA],
        ];
        const WHILE_CLOSING: [&[u8]; 8] = [
            &[SHUTDOWN],
            &[SHUTDOWN_ACK],
            &[SACK, SHUTDOWN],
            &[SHUTDOWN_COMPLETE],
            &[SHUTDOWN],
            &[SHUTDOWN_ACK],
            &[SACK, SHUTDOWN_COMPLETE],
            &[HEARTBEAT, SHUTDOWN],
        ];
        let which = usize::from(self.offload >> 3) % 8;
        match self.flags {
            direct if direct & Self::CHUNK != 0 => &EACH[usize::from(direct & 0xf)],
            SYN => &[INIT],
            RST => &[ABORT],
            flags if flags == RST | ACK => &[ERROR, ABORT],
            flags if flags == SYN | ACK => WHILE_OPENING[which],
            ACK => WHILE_OPEN[which],
            flags if flags == FIN | ACK || flags == PSH | ACK => WHILE_CLOSING[which],
            FIN => &[SHUTDOWN_COMPLETE],
            _ => &[0xc1, INIT],
        }
    }
}

/// How a packet is cut into fragments, and in which order they are sent.
#[derive(Clone, Copy, Debug)]
pub struct Cutting {
    /// Bytes of a fragment, in eights.
    pub size: u16,
    /// In any order.
    pub disorder: bool,
    /// Through any worker.
    pub spread: bool,
    /// What decides both.
    pub order: u64,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client sends to a frontend, through one worker.
    Client {
        /// Through which worker.
        worker: u8,
        /// Which client.
        client: u8,
        /// From which of its ports.
        port: u8,
        /// To which frontend.
        service: u8,
        /// What.
        segment: Segment,
    },
    /// One end of a flow the model knows sends on.
    Known {
        /// Through which worker.
        worker: u8,
        /// Which flow.
        flow: u16,
        /// The endpoint sends, not the client.
        reply: bool,
        /// What.
        segment: Segment,
    },
    /// A client, or one end of a flow the model knows, sends a packet in fragments.
    Pieces {
        /// Through which worker, if through one.
        worker: u8,
        /// Which client.
        client: u8,
        /// From which of its ports.
        port: u8,
        /// To which frontend.
        service: u8,
        /// Not a client but an end of this flow, if there is one: true is its endpoint.
        known: Option<(u16, bool)>,
        /// What.
        segment: Segment,
        /// How.
        cutting: Cutting,
    },
    /// Both ends of a flow do a usual thing together.
    Converse {
        /// Through which worker; the packets after the first one through the next ones.
        worker: u8,
        /// Which flow.
        flow: u16,
        /// What they do.
        how: Converse,
    },
    /// An ICMP error about a packet of a flow the model knows.
    Error {
        /// Through which worker.
        worker: u8,
        /// Which flow.
        flow: u16,
        /// About a packet the endpoint sent.
        reply: bool,
        /// Which error.
        kind: u8,
        /// To somebody who did not send the packet.
        forged: bool,
        /// How much of the packet is quoted.
        quoted: u16,
    },
    /// A packet of nobody we know.
    Stranger {
        /// Through which worker.
        worker: u8,
        /// Which.
        which: u8,
    },
    /// A packet that is wrong in itself.
    Malformed {
        /// Through which worker.
        worker: u8,
        /// Which.
        which: u8,
    },
    /// The world changes, and is published.
    Change {
        /// Which service.
        service: u8,
        /// Which of its endpoints.
        endpoint: u8,
        /// What happens to it.
        change: Change,
    },
    /// The world is known or not.
    Ready(bool),
    /// Time passes, in seconds.
    Advance(u32),
}

/// What two ends of a connection do together.
#[derive(Clone, Copy, Debug)]
pub enum Converse {
    /// Open it and talk.
    Open,
    /// The client closes, then the server.
    CloseByClient,
    /// The server closes, then the client.
    CloseByServer,
    /// The client closes its end and opens the same tuple anew.
    Reopen,
    /// The server will have none of it: TCP's RST; of SCTP, the cookie is stale. The client begins again.
    Refuse,
}

impl Converse {
    /// Who sends (true: the endpoint), and with which flags.
    pub(super) fn packets(self, proto: Proto) -> &'static [(bool, u8)] {
        use flags::{ACK, FIN, RST, SYN};
        const C: u8 = Segment::CHUNK;
        if proto == Proto::Sctp {
            return match self {
                Self::Open => &[
                    (true, C | chunks::INIT_ACK),
                    (false, C | chunks::COOKIE_ECHO),
                    (true, C | chunks::COOKIE_ACK),
                    (false, C | chunks::DATA),
                    (true, C | chunks::SACK),
                ],
                Self::CloseByClient => &[
                    (false, C | chunks::SHUTDOWN),
                    (true, C | chunks::SHUTDOWN_ACK),
                    (false, C | chunks::SHUTDOWN_COMPLETE),
                ],
                Self::CloseByServer => &[
                    (true, C | chunks::SHUTDOWN),
                    (false, C | chunks::SHUTDOWN_ACK),
                    (true, C | chunks::SHUTDOWN_COMPLETE),
                ],
                Self::Reopen => &[(false, C | chunks::ABORT), (false, C | chunks::INIT)],
                Self::Refuse => {
                    &[(false, C | chunks::COOKIE_ECHO), (true, C | chunks::ERROR), (false, C | chunks::INIT)]
                }
            };
        }
        match self {
            Self::Open => &[(true, SYN | ACK), (false, ACK), (true, ACK), (false, ACK)],
            Self::CloseByClient => &[(false, FIN | ACK), (true, ACK), (true, FIN | ACK), (false, ACK)],
            Self::CloseByServer => &[(true, FIN | ACK), (false, ACK), (false, FIN | ACK), (true, ACK)],
            Self::Reopen => &[(false, RST | ACK), (false, SYN)],
            Self::Refuse => &[(true, RST | ACK)],
        }
    }
}

/// A change of the world.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The endpoint is gone.
    Withdraw,
    /// The endpoint is there, usable and serving.
    Restore,
    /// It takes no new flows, but serves the ones it has.
    Terminate,
    /// The whole service port is gone.
    Remove,
    /// The service port is there, with all its endpoints.
    Serve,
    /// Another Service has the frontend, with the endpoint only.
    TakeOver,
    /// Clients keep their endpoints for so many seconds, or not.
    Affinity(Option<u32>),
}
