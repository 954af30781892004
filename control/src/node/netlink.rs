//! A synchronous rtnetlink socket.
//!
//! The kernel answers every rtnetlink request inside the `send` that carries it, so waiting for an answer never
//! waits for anybody else. That makes a blocking socket the simplest thing that can be used everywhere: on a thread
//! inside a namespace, without a runtime, and in the middle of a future that somebody may drop (there is no point
//! inside a request at which it could be dropped).

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// A request to change something: the message and its `NLM_F_*` flags beyond `REQUEST` and `ACK`.
pub(crate) type Change = (RouteNetlinkMessage, u16);

/// An rtnetlink socket of the network namespace the calling thread was in when it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Dumps are filtered by the kernel (RTA_TABLE, IFA index) only when it checks requests strictly.
        socket.set_netlink_get_strict_chk(true)?;
        // An error carries the request's header only, so that a batch's answers fit the receive buffer.
        socket.set_cap_ack(true)?;
        // The kernel always answers; a bug that made us wait for more than it says must not hang the control loop.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_LIMIT, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes one change and waits for the kernel's word on it.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.change_all(vec![(message, flags)]).pop().unwrap_or(Ok(()))
    }

    /// Makes changes in order, many to a system call; one answer each, in order. A refused change does not stop
    /// the ones behind it.
    pub(crate) fn change_all(&mut self, changes: Vec<Change>) -> Vec<io::Result<()>> {
        let mut answers = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let batch: Vec<Change> = changes.by_ref().take(BATCH).collect();
            let size = batch.len();
            match self.send_batch(batch) {
                Ok(mut of_batch) => answers.append(&mut of_batch),
                Err(error) => {
                    answers.extend((0..size).map(|_| Err(io::Error::new(error.kind(), error.to_string()))))
                }
            }
        }
        answers
    }

    /// Asks a question that has one answer (no dump).
    pub(crate) fn get(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        self.collect(sequence).map(|(answers, _)| answers)
    }

    /// Asks for everything of a kind. A dump that the kernel says was disturbed by a change is asked for again.
    pub(crate) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            let (found, disturbed) = self.collect(sequence)?;
            answers = found;
            if !disturbed {
                break;
            }
        }
        // Still disturbed: on a host that changes all the time an inexact view is the best there is, and whoever
        // asked will be told of the changes and ask again.
        Ok(answers)
    }

    fn send_batch(&mut self, batch: Vec<Change>) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let size = batch.len();
        let mut bytes = Vec::new();
        for (message, flags) in batch {
            self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_ACK | flags);
        }
        self.socket.send(&bytes, 0)?;
        let mut answers: Vec<io::Result<()>> = Vec::with_capacity(size);
        while answers.len() < size {
            for message in self.receive()? {
                let turn = message.header.sequence_number.wrapping_sub(first) as usize;
                if turn == answers.len()
                    && let NetlinkPayload::Error(answer) = message.payload
                {
                    answers.push(match answer.code {
                        None => Ok(()),
                        Some(_) => Err(answer.to_io()),
                    });
                }
            }
        }
        Ok(answers)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, flags);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(ALIGN), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Everything that answers `sequence`, up to its end, and whether the kernel called it disturbed.
    fn collect(&mut self, sequence: u32) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut answers = Vec::new();
        let mut disturbed = false;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != sequence {
                    continue; // the rest of an answer nobody waits for any more
                }
                disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(answer) if answer.code.is_some() => return Err(answer.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok((answers, disturbed)),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }

    /// One datagram's messages. What cannot be decoded (a kind of link nobody knows) is left out.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        Ok(messages(&bytes))
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Whether a request failed only because what it wanted to remove or read is not there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};
    matches!(error.raw_os_error(), Some(ENOENT | ESRCH | ENODEV | EADDRNOTAVAIL))
}

/// Whether a request failed only because what it wanted to add is there already.
pub(crate) fn is_present(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EEXIST)
}

/// The messages in a datagram; those that cannot be decoded are left out.
pub(crate) fn messages(bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(length) = rest.first_chunk::<4>().map(|raw| u32::from_ne_bytes(*raw) as usize) {
        if length < HEADER || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            found.push(message);
        }
        rest = rest.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    found
}

/// Seconds.
const ANSWER_LIMIT: i64 = 5;
/// Changes sent together. Their answers wait in the receive buffer (208 KiB, about 1 KiB of bookkeeping each).
const BATCH: usize = 64;
/// How often a disturbed dump is repeated.
const DUMP_ATTEMPTS: usize = 5;
/// `NLMSG_ALIGNTO`.
const ALIGN: usize = 4;
/// `NLMSG_HDRLEN`.
const HEADER: usize = 16;

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::LinkMessage;
    use rtnetlink::packet_route::rule::RuleMessage;

    use super::*;

    #[test]
    fn loopback_is_found_by_a_dump_and_a_missing_link_is_absent() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(links.iter().any(|link| matches!(link, RouteNetlinkMessage::NewLink(link)
            if link.header.index == 1)));

        let mut missing = LinkMessage::default();
        missing.header.index = i32::MAX.cast_unsigned();
        let refused = netlink.get(RouteNetlinkMessage::GetLink(missing)).unwrap_err();
        assert!(is_absent(&refused), "{refused:?}");
    }

    #[test]
    fn every_change_of_a_batch_gets_its_own_answer() {
        // Deleting rules that no host has changes nothing and is refused one by one.
        let mut netlink = Netlink::open().unwrap();
        let mut rule = RuleMessage::default();
        rule.header.family = rtnetlink::packet_route::AddressFamily::Inet;
        rule.attributes.push(rtnetlink::packet_route::rule::RuleAttribute::Priority(31_999));
        rule.attributes.push(rtnetlink::packet_route::rule::RuleAttribute::FwMark(0xdead_beef));
        let changes = vec![(RouteNetlinkMessage::DelRule(rule), 0); 3 * BATCH + 1];
        let answers = netlink.change_all(changes);
        assert_eq!(answers.len(), 3 * BATCH + 1);
        assert!(answers.iter().all(Result::is_err));
    }

    #[test]
    fn truncated_datagrams_yield_what_is_whole() {
        assert!(messages(&[]).is_empty());
        assert!(messages(&[255, 0, 0, 0, 1, 0]).is_empty());
        assert!(messages(&[4, 0, 0, 0]).is_empty());
    }
}
