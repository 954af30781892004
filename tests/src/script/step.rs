//! What may happen in a story.

use crate::packets::flags;

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// TCP flags; not used for UDP.
    pub flags: u8,
    /// Payload bytes.
    pub payload: u16,
    /// What is left to the device.
    pub offload: u8,
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
}

impl Converse {
    /// Who sends (true: the endpoint), and with which TCP flags.
    pub(super) fn packets(self) -> &'static [(bool, u8)] {
        use flags::{ACK, FIN, RST, SYN};
        match self {
            Self::Open => &[(true, SYN | ACK), (false, ACK), (true, ACK), (false, ACK)],
            Self::CloseByClient => &[(false, FIN | ACK), (true, ACK), (true, FIN | ACK), (false, ACK)],
            Self::CloseByServer => &[(true, FIN | ACK), (false, ACK), (false, FIN | ACK), (true, ACK)],
            Self::Reopen => &[(false, RST | ACK), (false, SYN)],
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
