//! Packets that arrive by an alias of their destination (see [`crate::packet::alias`]) and that no flow knows by it: for
//! an address of this host, for a frontend that is gone while a flow of its is open, or a reply that is nobody's.

use super::{Nat, Outcome};
use crate::flow::Key;
use crate::packet::alias;
use crate::packet::frame::Frame;
use crate::packet::layout::L4Flags;
use crate::packet::tuple::{Address, Proto, Tuple};
use crate::service::World;
use crate::verdict::DropReason;

impl<const N: usize> Nat<'_, N> {
    /// A packet to an alias. A flow may know it by its real destination, which led to the device by itself when the flow
    /// was opened; else it may open one.
    #[cold]
    pub(super) fn aliased<A: Address>(
        &mut self,
        frame: &mut Frame,
        arrived: &Tuple<A>,
        flags: L4Flags,
    ) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let World::Ready(snapshot) = self.world else { return Outcome::dropped(DropReason::NotReady) };
        let mut asked = None;
        for real in snapshot.behind_alias(arrived.dst.into()) {
            let Some(dst) = A::from_ip(real) else { continue };
            let real = Tuple { dst, ..*arrived };
            let key = Key::from(real);
            if let Some(mut hit) = self.table.lookup(self.table.hash(&key), &key) {
                // Its header has the alias, and the flow does not know that.
                hit.delta = hit.delta.restoring(alias::top(arrived.dst.into()), alias::top(dst.into()));
                if let Some(outcome) = self.known::<A>(frame, &hit, arrived.proto, flags) {
                    return outcome;
                }
            }
            asked.get_or_insert(real);
        }
        match asked {
            Some(real) => self.new_flow(frame, arrived, &real, flags),
            None => Outcome::dropped(DropReason::NoFlow),
        }
    }
}

/// The tuple by which an ICMP error's flow knows the other direction, given the tuple that the quoted packet implies and
/// where the error was sent to: by alias, if the error came so.
pub(super) fn arriving<A: Address>(implied: Tuple<A>, outer_dst: A) -> Tuple<A> {
    let by_alias = alias::is(outer_dst.into()) && alias::of(implied.dst.into()) == outer_dst.into();
    if by_alias { Tuple { dst: outer_dst, ..implied } } else { implied }
}

/// Whether a tuple begins a connection, as far as that can be told from one packet: what a reply never is.
pub(super) fn begins(proto: Proto, flags: L4Flags) -> bool {
    match proto {
        Proto::Tcp => flags.is_syn(),
        Proto::Sctp => crate::packet::sctp::Chunk::of(flags).opens(),
        Proto::Udp => false,
    }
}
