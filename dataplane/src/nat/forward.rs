//! The first packet of a flow: decide, choose, find a source port, open, translate.

use super::aliased::begins;
use super::picks::Picks;
use super::ports::Candidates;
use super::reject::Answer;
use super::{Fate, Nat, Outcome, is_cluster_ip_or_snat, may_go_on};
use crate::flow::{Abandoned, ENOUGH, Hit, Key, Met, NewFlow, Opened, Tops};
use crate::packet::alias;
use crate::packet::frame::Frame;
use crate::packet::layout::L4Flags;
use crate::packet::sctp::Chunk;
use crate::packet::segment::Numbers;
use crate::packet::tuple::{Address, Proto, Tuple};
use crate::service::{
    Backend, Decision, NoReasons, Origin, Service, Set, Snapshot, World, choose, decide, masquerades,
};
use crate::stats::Counter;
use crate::verdict::DropReason;

impl<const N: usize> Nat<'_, N> {
    /// A packet no flow knows. `arrived` is its tuple, `tuple` the same with its real destination.
    pub(crate) fn new_flow<A: Address>(
        &mut self,
        frame: &mut Frame,
        arrived: &Tuple<A>,
        tuple: &Tuple<A>,
        flags: L4Flags,
    ) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let World::Ready(snapshot) = self.world else { return Outcome::dropped(DropReason::NotReady) };
        let decision = decide(snapshot, &tuple.any(), &ORIGIN, &mut NoReasons);
        if matches!(decision, Decision::Serve { .. } | Decision::Reject) {
            if is_cluster_ip_or_snat(snapshot, tuple.src) {
                return Outcome::dropped(DropReason::Martian);
            }
            let not_a_start = match tuple.proto {
                Proto::Tcp => self.midstream(flags),
                Proto::Udp => None,
                Proto::Sctp => out_of_the_blue(frame, flags),
            };
            if let Some(outcome) = not_a_start {
                return outcome;
            }
        }
        match decision {
            // The host would refuse it, had it not been led here.
            Decision::NotOurs
                if arrived != tuple
                    && snapshot.is_aliased(tuple.dst.into())
                    && begins(tuple.proto, flags) =>
            {
                alias::set_destination(frame.packet_mut(), tuple.dst);
                Outcome::Answer(if tuple.proto == Proto::Tcp { Answer::Reset } else { Answer::Unreachable })
            }
            Decision::NotOurs => self.pass_on(arrived.dst.into()),
            Decision::Drop(reason) => Outcome::dropped(reason),
            Decision::Reject => {
                if arrived != tuple {
                    // The answer comes from the real one, and quotes it.
                    alias::set_destination(frame.packet_mut(), tuple.dst);
                }
                let reset = tuple.proto == Proto::Tcp && self.choices.reject_with_rst;
                Outcome::Answer(if reset { Answer::Reset } else { Answer::Unreachable })
            }
            Decision::Serve { service, set, masquerade } => {
                let arrived = Key::from(*arrived);
                self.serve(frame, arrived, tuple, flags, snapshot, &Serving { service, set, masquerade })
            }
        }
    }

    /// TCP that does not begin with a SYN: the flow was lost or never ours. A RST tells the client at once. What may
    /// be picked up instead is an ACK, as in the kernel: nobody waits for an answer to a RST, and a FIN's or a
    /// SYN/ACK's endpoint, drawn at random, could only say RST.
    fn midstream(&self, flags: L4Flags) -> Option<Outcome> {
        const NO_START: [L4Flags; 3] = [L4Flags::SYN, L4Flags::FIN, L4Flags::RST];
        let picked_up = || flags.has(L4Flags::ACK) && !NO_START.iter().any(|flag| flags.has(*flag));
        if flags.is_syn() || (self.choices.tcp_loose && picked_up()) {
            return None;
        }
        Some(if flags.has(L4Flags::RST) {
            Outcome::dropped(DropReason::NotAnswerable)
        } else {
            Outcome::Answer(Answer::Reset)
        })
    }

    fn serve<A: Address>(
        &mut self,
        frame: &mut Frame,
        arrived: Key<N>,
        tuple: &Tuple<A>,
        flags: L4Flags,
        snapshot: &Snapshot,
        serving: &Serving<'_>,
    ) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let Serving { service, set, masquerade } = *serving;
        // `decide` serves only from sets that are not empty.
        let (loads, now) = (&**self.table.loads(), self.now.tick());
        let mut live = Picks { prng: self.prng, affinity: self.affinity, loads, now };
        let Some(backend) = choose(service, set, &mut live, &tuple.any(), &mut NoReasons) else {
            return Outcome::Answer(Answer::Unreachable);
        };
        let (client, endpoint) = (tuple.src.into(), backend.addr);
        let masquerade = masquerades(snapshot, masquerade, client, endpoint, &ORIGIN, &mut NoReasons);
        let new = NewFlow {
            forward: arrived,
            service: service.id,
            endpoint: backend.id,
            epoch: snapshot.purge_epoch(),
            masquerade,
            tops: self.choices.alias.then(|| tops(tuple, masquerade, snapshot)),
            pickup: tuple.proto == Proto::Tcp && !flags.is_syn(),
            seen: flags,
            now: self.now,
        };
        let mut opened = self.open(&new, tuple, snapshot, backend);
        if matches!(opened, Opened::TableFull) && self.make_room::<A>(snapshot) {
            opened = self.open(&new, tuple, snapshot, backend);
        }
        let hit = match opened {
            Opened::New(mut hit) => {
                self.stats.add(Counter::FlowsOpened, 1);
                if new.pickup {
                    self.table.pick_up(&mut hit, Numbers::of(frame.packet(), &frame.layout));
                }
                hit
            }
            // Judged as any hit is: it may have been opened under an older snapshot.
            Opened::Existing(hit) => match self.fate::<A>(&hit, tuple.proto, flags) {
                Fate::GoesOn => hit,
                Fate::OpensAnew | Fate::Changed => return Outcome::Raced,
                Fate::Ends(reason) => return Outcome::dropped(reason),
            },
            Opened::Raced => return Outcome::Raced,
            Opened::TableFull => return Outcome::dropped(DropReason::TableFull),
            Opened::BucketFull => return Outcome::dropped(DropReason::BucketFull),
            Opened::PortsExhausted => return Outcome::dropped(DropReason::PortsExhausted),
        };
        self.apply::<A>(frame, &hit, flags)
    }

    fn open<A: Address>(
        &mut self,
        new: &NewFlow<N>,
        tuple: &Tuple<A>,
        snapshot: &Snapshot,
        backend: &Backend,
    ) -> Opened<N>
    where
        Key<N>: From<Tuple<A>>,
    {
        let Some(endpoint) = A::from_ip(backend.addr) else { return Opened::PortsExhausted };
        let ports = Candidates::new(tuple.sport, self.prng);
        let reserved = &*snapshot.fabric().reserved_ports;
        let (own, free) = (tuple.sport, |port: &u16| !reserved.contains(*port));
        let by_alias = self.choices.alias;
        let arriving = |dst: A, dport| {
            let dst = if by_alias { A::from_ip(alias::of(dst.into())).unwrap_or(dst) } else { dst };
            Key::from(Tuple { src: endpoint, dst, sport: backend.port, dport, proto: tuple.proto })
        };
        let others =
            snapshot.fabric().snat.iter().filter(|addr| A::from_ip(**addr).is_some()).skip(1).count();
        let others = if new.masquerade { u32::try_from(others).unwrap_or(u32::MAX) } else { 0 };
        // The last address decides: one before it may be full of flows while that has ports.
        let enough = others.saturating_mul(Candidates::MOST).saturating_add(ENOUGH);
        let mut met = Met { enough, ..Met::default() };
        let opened = if new.masquerade {
            let snat = snapshot.fabric().snat.iter().copied().filter_map(A::from_ip);
            let replies =
                snat.flat_map(|dst| ports.clone().filter(free).map(move |port| arriving(dst, port)));
            self.table.open(self.own, new, replies, &mut met)
        } else {
            // Its own port belongs to the client, whatever it is.
            let replies = ports.filter(|port| *port == own || free(port));
            let replies = replies.map(|port| arriving(tuple.src, port));
            self.table.open(self.own, new, replies, &mut met)
        };
        self.stats.add(Counter::PortClashes, u64::from(met.clashes));
        match (opened, met.abandoned) {
            (Opened::PortsExhausted, Some(abandoned)) => self.take_port_of(&abandoned, new),
            (opened, _) => opened,
        }
    }

    /// No source port is left towards this endpoint: a flow that nobody goes on with gives its own.
    fn take_port_of(&mut self, abandoned: &Abandoned<N>, new: &NewFlow<N>) -> Opened<N> {
        if !self.table.abandon(abandoned, self.now.tick()) {
            return Opened::Raced;
        }
        self.stats.add(Counter::FlowsEvicted, 1);
        self.table.open(self.own, new, std::iter::once(abandoned.reply), &mut Met::default())
    }

    /// The table is full: ends flows nobody would miss, once a batch and family. True when there is room now.
    fn make_room<A: Address>(&mut self, snapshot: &Snapshot) -> bool
    where
        Tuple<A>: From<Key<N>>,
    {
        if !std::mem::take(self.may_evict) {
            return false;
        }
        let table = self.table;
        let swept =
            table.sweep(self.own, self.now, true, |hit: &Hit<N>| !may_go_on::<A, N>(table, snapshot, hit));
        self.stats.swept(swept.expired, swept.evicted, swept.purged);
        // Whoever ended the flows: also records that others left behind count.
        swept.freed > 0
    }
}

/// SCTP of no known association. What may begin one, or what its endpoint should answer, goes to an endpoint; of the
/// rest the client hears when it asks with a HEARTBEAT. A fragment begins nothing: the packets that do are short, but
/// for the COOKIE ECHO, which has its INIT's flow.
fn out_of_the_blue(frame: &Frame, flags: L4Flags) -> Option<Outcome> {
    if !Chunk::of(flags).opens() {
        return Some(Outcome::dropped(DropReason::OutOfTheBlue));
    }
    frame.layout.is_fragment().then_some(Outcome::dropped(DropReason::SctpFragment))
}

/// The top bits of a flow's real destinations: the VIP's, and those of the source that endpoints see.
fn tops<A: Address>(tuple: &Tuple<A>, masquerade: bool, snapshot: &Snapshot) -> Tops {
    let snat = || snapshot.fabric().snat.iter().copied().find(|addr| A::from_ip(*addr).is_some());
    let source = masquerade.then(snat).flatten().unwrap_or_else(|| tuple.src.into());
    Tops { source: alias::top(source), vip: alias::top(tuple.dst.into()) }
}

/// What a packet from the device says of where it came from.
const ORIGIN: Origin = Origin { place: None };

/// A decision to serve.
#[derive(Clone, Copy)]
struct Serving<'a> {
    service: &'a Service,
    set: Set,
    masquerade: bool,
}
