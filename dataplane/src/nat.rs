//! What becomes of one validated packet: known flow, new flow, ICMP error, or none of ours.
//!
//! [`Nat`] is one worker's hands on one family for one batch. It rewrites packets in place and says how each one
//! ends; building answers and moving frames is the engine's work. The three tiers a packet may reach, and what
//! each may cost, are listed in `engine.rs`.

pub mod fragment;
pub mod ports;
pub mod prng;
pub mod reject;

mod aliased;
mod forward;
mod picks;
mod purge;
mod related;
pub(crate) mod tally;

use std::net::IpAddr;

use crate::clock::Time;
use crate::flow::{Chunks, Dir, Hash, Hit, Key, Table};
use crate::packet::frame::Frame;
use crate::packet::layout::{Addresses, Kind, L4Flags};
use crate::packet::sctp::Chunk;
use crate::packet::segment::Numbers;
use crate::packet::tuple::{Address, Proto, Tuple};
use crate::packet::{Packet, alias, give_back_hop};
use crate::service::{Affinity, Decision, NoReasons, Snapshot, World, decide_portless};
use crate::stats::{Counter, WorkerStats};
use crate::verdict::{DropReason, Verdict};
use fragment::{Due, Shared};
use prng::Prng;
use reject::Answer;
use tally::Tally;

pub(crate) use purge::may_go_on;

/// How a packet's way through the NAT ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has its verdict.
    Done(Verdict),
    /// An answer is due.
    Answer(Answer),
    /// Another worker is opening the same flow, or changed the one it matched: try again shortly.
    Raced,
    /// A fragment that waits for its first one. The frame is empty.
    Held,
}

impl Outcome {
    pub(crate) const TRANSLATED: Self = Self::Done(Verdict::Translated);
    const PASSED: Self = Self::Done(Verdict::Passed);

    const fn dropped(reason: DropReason) -> Self {
        Self::Done(Verdict::Dropped(reason))
    }
}

/// What the spec leaves to the operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choices {
    /// Refuse TCP with a RST instead of an ICMP error.
    pub(crate) reject_with_rst: bool,
    /// Take up TCP flows whose start was not seen.
    pub(crate) tcp_loose: bool,
    /// Count packets and bytes of every flow.
    pub(crate) accounting: bool,
    /// Destinations may arrive as aliases.
    pub(crate) alias: bool,
    /// What is none of ours goes on.
    pub(crate) passes: bool,
}

/// One worker's hands on the flows of one family, for one batch.
pub(crate) struct Nat<'a, const N: usize> {
    pub(crate) table: &'a Table<N>,
    pub(crate) own: &'a mut Chunks<N>,
    pub(crate) tally: &'a mut Tally<N>,
    pub(crate) world: &'a World,
    pub(crate) now: Time,
    pub(crate) choices: Choices,
    pub(crate) prng: &'a mut Prng,
    pub(crate) affinity: &'a Affinity,
    pub(crate) stats: &'a WorkerStats,
    /// Whether this batch may still look for flows of this family to evict.
    pub(crate) may_evict: &'a mut bool,
    pub(crate) fragments: &'a Shared<N>,
    pub(crate) due: &'a mut Due,
}

impl<const N: usize> Nat<'_, N> {
    /// Sends one validated packet of family `A` on its way. `hash` is its key's, for a packet with a tuple.
    pub(crate) fn translate<A: Address>(&mut self, frame: &mut Frame, hash: Hash) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        if frame.layout.is_fragment() {
            return self.fragment::<A>(frame, hash);
        }
        self.whole::<A>(frame, hash)
    }

    /// A packet that has its headers, be it a datagram's first fragment.
    #[inline]
    fn whole<A: Address>(&mut self, frame: &mut Frame, hash: Hash) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        match frame.layout.kind() {
            Kind::Flow(proto) => self.flow_packet::<A>(frame, hash, proto),
            Kind::IcmpError => self.icmp_error::<A>(frame),
            Kind::Icmp | Kind::Other => self.portless::<A>(frame),
        }
    }

    fn flow_packet<A: Address>(&mut self, frame: &mut Frame, hash: Hash, proto: Proto) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let tuple: Tuple<A> = frame.layout.tuple(frame.packet());
        let key = Key::from(tuple);
        let flags = frame.layout.flags();
        if let Some(hit) = self.table.lookup(hash, &key)
            && let Some(outcome) = self.known::<A>(frame, &hit, proto, flags)
        {
            return outcome;
        }
        if self.choices.alias && alias::is(tuple.dst.into()) {
            return self.aliased(frame, &tuple, flags);
        }
        self.new_flow(frame, &tuple, &tuple, flags)
    }

    /// A packet of this flow. `None`: it opens another one.
    #[inline]
    fn known<A: Address>(
        &mut self,
        frame: &mut Frame,
        hit: &Hit<N>,
        proto: Proto,
        flags: L4Flags,
    ) -> Option<Outcome>
    where
        Tuple<A>: From<Key<N>>,
    {
        match self.fate::<A>(hit, proto, flags) {
            Fate::GoesOn => Some(self.apply::<A>(frame, hit, flags)),
            Fate::OpensAnew => None,
            Fate::Changed => Some(Outcome::Raced),
            Fate::Ends(reason) => Some(Outcome::dropped(reason)),
        }
    }

    /// A hit is translated, whatever its flags and windows say, but for two cases: a client's SYN or INIT on a closed TCP
    /// or SCTP flow, and UDP to a withdrawn endpoint.
    pub(crate) fn fate<A: Address>(&self, hit: &Hit<N>, proto: Proto, flags: L4Flags) -> Fate
    where
        Tuple<A>: From<Key<N>>,
    {
        match proto {
            Proto::Tcp | Proto::Sctp => {
                let begins =
                    if proto == Proto::Tcp { flags.is_syn() } else { Chunk::of(flags) == Chunk::Init };
                if !(begins && hit.dir == Dir::Forward && hit.reopenable()) {
                    return Fate::GoesOn;
                }
                self.end(hit, Counter::FlowsReopened)
            }
            Proto::Udp => {
                let World::Ready(snapshot) = self.world else { return Fate::GoesOn };
                if may_go_on::<A, N>(self.table, snapshot, hit) {
                    return Fate::GoesOn;
                }
                let ended = self.end(hit, Counter::FlowsPurged);
                match hit.dir {
                    Dir::Forward => ended,
                    Dir::Reply => Fate::Ends(DropReason::StaleEndpoint),
                }
            }
        }
    }

    /// Ends the flow of a hit so that its packet opens a new one. Another worker may have ended, reopened or refreshed
    /// it meanwhile: then what was judged is no longer so, and sending the packet to the old endpoint would be wrong.
    fn end(&self, hit: &Hit<N>, counted_as: Counter) -> Fate {
        if !self.table.kill(hit) {
            return Fate::Changed;
        }
        self.stats.add(counted_as, 1);
        Fate::OpensAnew
    }

    /// Translates a packet of this flow. A fragment of an SCTP packet cannot get other ports, see `nat/fragment.rs`.
    fn apply<A: Address>(&mut self, frame: &mut Frame, hit: &Hit<N>, flags: L4Flags) -> Outcome
    where
        Tuple<A>: From<Key<N>>,
    {
        let out = Tuple::<A>::from(hit.out);
        if frame.layout.is_fragment() && out.proto == Proto::Sctp {
            let arrived: Tuple<A> = frame.layout.tuple(frame.packet());
            if (arrived.sport, arrived.dport) != (out.sport, out.dport) {
                return Outcome::dropped(DropReason::SctpFragment);
            }
        }
        let (layout, csum) = (frame.layout, frame.csum);
        let packet = frame.packet_mut();
        let believed = if out.proto == Proto::Tcp {
            self.table.believed(hit, flags, Numbers::of(packet, &layout))
        } else {
            flags
        };
        self.table.touch(hit, self.now.tick(), believed);
        if self.choices.accounting {
            self.tally.add(self.table, hit, layout.total_len());
        }
        Packet::from_parts(packet, layout, csum).apply(&out, hit.delta);
        give_back_hop::<A>(packet);
        Outcome::TRANSLATED
    }

    /// Echo and every protocol a Service cannot have.
    fn portless<A: Address>(&self, frame: &Frame) -> Outcome {
        let World::Ready(snapshot) = self.world else { return Outcome::dropped(DropReason::NotReady) };
        let Addresses { src, dst } = frame.layout.addresses::<A>(frame.packet());
        match decide_portless(snapshot, dst.into(), &mut NoReasons) {
            Decision::NotOurs => self.pass_on(dst.into()),
            Decision::Drop(reason) => Outcome::dropped(reason),
            Decision::Reject if is_cluster_ip_or_snat(snapshot, src) => Outcome::dropped(DropReason::Martian),
            // No Service is served without a port; refusing is the safe reading.
            Decision::Reject | Decision::Serve { .. } => Outcome::Answer(Answer::Unreachable),
        }
    }

    /// A packet to an address that is not ours goes on, unless that is one nobody forwards to: what never leaves its
    /// link. A SNAT address may be such a one: it is ours alone. Where nothing but what is ours is routed to the device,
    /// it would come straight back.
    fn pass_on(&self, dst: IpAddr) -> Outcome {
        if !self.choices.passes {
            let reason =
                if self.choices.alias && alias::is(dst) { DropReason::NoFlow } else { DropReason::NotServed };
            return Outcome::dropped(reason);
        }
        let link_local = match dst {
            IpAddr::V4(addr) => addr.is_link_local(),
            IpAddr::V6(addr) => addr.is_unicast_link_local(),
        };
        if link_local { Outcome::dropped(DropReason::NotUnicast) } else { Outcome::PASSED }
    }
}

/// What happens to the flow a packet matched.
pub(crate) enum Fate {
    GoesOn,
    /// It has ended, and the packet opens another.
    OpensAnew,
    /// Another worker changed it while it was judged.
    Changed,
    /// It gets no further, and neither does the packet.
    Ends(DropReason),
}

/// A source that can only be forged: nobody sends from a ClusterIP, and SNAT addresses are ours. Other frontends may be
/// addresses of nodes.
fn is_cluster_ip_or_snat<A: Address>(snapshot: &Snapshot, src: A) -> bool {
    snapshot.is_cluster_ip(src.into()) || snapshot.is_snat(src.into())
}
