//! An SCTP association as the model sees it: which chunk of a packet counts, and what it makes of the association.

use crate::packets::chunks::*;

/// Where an association is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Wait,
    Echoed,
    Up,
    Closing,
    Agreed,
    Asked,
    Gone,
}

/// An association.
#[derive(Clone, Copy, Debug)]
pub(super) struct Association {
    stage: Stage,
    aborted: bool,
    replied: bool,
}

/// The chunk type that counts of a packet's: an ABORT; else the first that moves an association; else one that asks for
/// the other end or tells an error; else nothing, which is told as DATA. An INIT has no tag, and some stand first or not
/// at all; behind data nothing is looked for.
pub(super) fn telling(tag: u32, types: &[u8]) -> u8 {
    let control = types.iter().position(|one| *one == DATA).map_or(types, |data| &types[..data]);
    let valid = |(n, one): &(usize, &u8)| match **one {
        INIT => *n == 0 && tag == 0,
        INIT_ACK | COOKIE_ECHO | COOKIE_ACK | SHUTDOWN_COMPLETE => *n == 0,
        SHUTDOWN | SHUTDOWN_ACK | ABORT | HEARTBEAT | HEARTBEAT_ACK | ERROR => true,
        _ => false,
    };
    let all: Vec<u8> = control.iter().enumerate().filter(valid).map(|(_, one)| *one).collect();
    let first = |wanted: &dyn Fn(u8) -> bool| all.iter().copied().find(|one| wanted(*one));
    first(&|one| one == ABORT)
        .or_else(|| first(&|one| !matches!(one, HEARTBEAT | HEARTBEAT_ACK | ERROR)))
        .or_else(|| first(&|_| true))
        .unwrap_or(DATA)
}

/// Whether a packet with this chunk may begin a flow.
pub(super) fn opens(chunk: u8) -> bool {
    !matches!(chunk, DATA | ABORT | COOKIE_ACK | SHUTDOWN_COMPLETE)
}

impl Association {
    pub(super) fn begun_with(chunk: u8) -> Self {
        let stage = match chunk {
            INIT => Stage::Wait,
            COOKIE_ECHO => Stage::Echoed,
            HEARTBEAT => Stage::Asked,
            SHUTDOWN_ACK => Stage::Agreed,
            _ => Stage::Gone,
        };
        Self { stage, aborted: false, replied: false }
    }

    /// Takes one packet's chunk down.
    pub(super) fn observe(&mut self, is_reply: bool, chunk: u8) {
        if chunk == ABORT {
            self.aborted = true;
            return;
        }
        if chunk == INIT && self.aborted {
            return;
        }
        self.stage = match (self.stage, chunk) {
            (Stage::Wait, COOKIE_ECHO) => Stage::Echoed,
            (Stage::Echoed, COOKIE_ACK) if is_reply || self.replied => Stage::Up,
            (Stage::Echoed, ERROR) if is_reply => Stage::Gone,
            (Stage::Up, SHUTDOWN) => Stage::Closing,
            (Stage::Closing, SHUTDOWN_ACK) => Stage::Agreed,
            (Stage::Agreed, SHUTDOWN_COMPLETE) => Stage::Gone,
            (Stage::Asked, HEARTBEAT_ACK) if is_reply => Stage::Up,
            (Stage::Asked, INIT) if !is_reply => Stage::Wait,
            (same, _) => same,
        };
        self.aborted = false;
        self.replied |= is_reply;
    }

    pub(super) fn is_over(self) -> bool {
        self.aborted || self.stage == Stage::Gone
    }

    pub(super) fn is_up(self) -> bool {
        !self.aborted && self.stage == Stage::Up
    }

    /// Seconds it may stay idle.
    pub(super) fn ttl(self) -> u32 {
        match self.stage {
            _ if self.aborted => 10,
            Stage::Wait | Stage::Echoed | Stage::Closing | Stage::Agreed => 3,
            Stage::Up => 210,
            Stage::Asked => 30,
            Stage::Gone => 10,
        }
    }
}
