//! Opening a flow: the reply tuple first, then the forward tuple.
//!
//! The reply word *is* the port reservation, so no two live flows ever share a reply tuple. Nothing leaves
//! the host before the forward word is committed, so every reply finds its flow. Two workers that open the
//! same flow at once both get there: one opens it, the other finds it or is told to come back in a moment.
//! Only a real clash changes a port.

use super::arena::Chunks;
use super::index::{Claim, Rival};
use super::key::{Key, Tops};
use super::record::Draft;
use super::sctp::Association;
use super::state::{State, StateWord};
use super::table::{Hit, Table};
use super::tcp::{Class, Flags, tcp};
use super::ttl::gives_way;
use super::word::{Dir, Word};
use crate::clock::{Tick, Time};
use crate::ids::{EndpointId, FlowIx, ServiceId};
use crate::packet::layout::L4Flags;
use crate::packet::tuple::Proto;
use crate::sync::{Twin, broken};

/// A flow to be opened.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<const N: usize> {
    /// As it arrived: client to VIP.
    pub forward: Key<N>,
    /// Whose it is.
    pub service: ServiceId,
    /// Where it goes.
    pub endpoint: EndpointId,
    /// The current purge epoch of its port; never 0.
    pub epoch: u16,
    /// The source address is translated too.
    pub masquerade: bool,
    /// Of the real destinations, where these tuples may arrive by aliases.
    pub tops: Option<Tops>,
    /// TCP picked up in its middle.
    pub pickup: bool,
    /// Flags of the first packet, or its SCTP chunk.
    pub seen: L4Flags,
    /// Now.
    pub now: Time,
}

/// Outcome of an open.
#[derive(Clone, Copy, Debug)]
pub enum Opened<const N: usize> {
    /// It is open, and this hit is its first packet's. That packet has had its effect: no touch is due.
    New(Hit<N>),
    /// Another worker was faster; this is its flow. The packet has had no effect on it yet.
    Existing(Hit<N>),
    /// Another worker is at it: look it up again in a moment.
    Raced,
    /// No free record.
    TableFull,
    /// Both home buckets of a tuple are full of live flows.
    BucketFull,
    /// Every reply tuple offered belongs to another flow.
    PortsExhausted,
}

/// Who has a reply tuple.
enum Holder<const N: usize> {
    Nobody,
    /// A flow that lingers for the same client: its word may be taken over.
    Lingers(Word),
    /// This very flow, opened elsewhere.
    Same,
    /// Another flow, or a server's memory of one.
    Other,
    /// Another flow, which nobody goes on with: it gives way when no tuple is free.
    Abandoned(Abandoned<N>),
}

/// What an open met on its way.
#[derive(Clone, Copy, Debug)]
pub struct Met<const N: usize> {
    /// Reply tuples that belonged to another flow.
    pub clashes: u32,
    /// The longest idle of those flows that nobody goes on with; see [`Table::abandon`].
    pub abandoned: Option<Abandoned<N>>,
    /// Clashes after which the search ends if it met an abandoned flow.
    pub enough: u32,
}

impl<const N: usize> Default for Met<N> {
    fn default() -> Self {
        Self { clashes: 0, abandoned: None, enough: ENOUGH }
    }
}

/// A flow that nobody goes on with: a handshake or a question without an answer, or a connection that was reset.
#[derive(Clone, Copy, Debug)]
pub struct Abandoned<const N: usize> {
    /// Its reply tuple.
    pub reply: Key<N>,
    idle: u32,
    ix: FlowIx,
    generation: u16,
}

/// Source ports of one address tried before an abandoned flow among them gives way: with so many in a row taken, few are
/// left, and a longer search would cost more than such a flow is worth.
pub const ENOUGH: u32 = 64;

/// How far one reply tuple got.
enum Tried<const N: usize> {
    Settled(Opened<N>),
    /// Another flow has it; whether that gives way.
    Clash(Option<Abandoned<N>>),
}

impl<const N: usize> Table<N> {
    /// Opens a flow with the first reply tuple no other flow has. `replies` are tried in order, as they would
    /// arrive: endpoint to SNAT address or client. What it met is added to `met`.
    ///
    /// The search ends early where enough of them belong to others and one of those flows is abandoned: ending that one
    /// makes room.
    pub fn open(
        &self,
        own: &mut Chunks<N>,
        new: &NewFlow<N>,
        replies: impl Iterator<Item = Key<N>>,
        met: &mut Met<N>,
    ) -> Opened<N> {
        let Some(ix) = own.pop() else { return Opened::TableFull };
        let mut tried = 0;
        for reply in replies {
            match self.try_reply(ix, new, &reply) {
                Tried::Settled(Opened::New(hit)) => return Opened::New(hit),
                Tried::Settled(failed) => {
                    own.push(ix);
                    return failed;
                }
                Tried::Clash(found) => {
                    tried += 1;
                    met.clashes += 1;
                    let known = met.abandoned;
                    let longer = |one: &Abandoned<N>| known.is_none_or(|other| one.idle > other.idle);
                    met.abandoned = found.filter(longer).or(known);
                }
            }
            if tried >= met.enough && met.abandoned.is_some() {
                break;
            }
        }
        own.push(ix);
        Opened::PortsExhausted
    }

    /// Ends a flow nobody goes on with, if that is so still, so that its reply tuple is free. Its record is its owner's
    /// to free.
    pub fn abandon(&self, flow: &Abandoned<N>, now: Tick) -> bool {
        let Some(seen) = self.record(flow.ix).seen(flow.generation) else { return false };
        let (proto, state) = (seen.keys[0].proto(), seen.state);
        let ended = state.generation() == flow.generation
            && gives_way(proto, state.flags(), state.idle(now))
            && self.end(flow.ix, &seen, Flags::DEAD);
        if ended {
            self.unlink(flow.ix, flow.generation, Flags::DEAD);
        }
        ended
    }

    /// Leaves the record free unless the flow is open.
    fn try_reply(&self, ix: FlowIx, new: &NewFlow<N>, reply: &Key<N>) -> Tried<N> {
        if *reply == new.forward {
            return Tried::Clash(None);
        }
        let lingering = match self.holder(reply, new) {
            Holder::Nobody => None,
            Holder::Lingers(word) => Some(word),
            Holder::Same => return Tried::Settled(Opened::Raced),
            Holder::Other => return Tried::Clash(None),
            Holder::Abandoned(flow) => return Tried::Clash(Some(flow)),
        };
        let generation = self.write(ix, new, reply);
        let tried = match self.claim_reply(ix, generation, new, reply, lingering) {
            Some(failed) => failed,
            None => Tried::Settled(self.claim_forward(ix, generation, new)),
        };
        if !matches!(tried, Tried::Settled(Opened::New(_))) {
            let record = self.record(ix);
            // Somebody may have found it by its reply tuple and be touching it: it ends as every flow does.
            if record.condemn() {
                self.loads.remove(new.endpoint);
            }
            self.unlink_key(reply, ix, generation, Dir::Reply);
            record.retire();
        }
        tried
    }

    /// `None`: the reply tuple is ours.
    fn claim_reply(
        &self,
        ix: FlowIx,
        generation: u16,
        new: &NewFlow<N>,
        reply: &Key<N>,
        lingering: Option<Word>,
    ) -> Option<Tried<N>> {
        if let Some(from) = lingering {
            return (!self.take_over(from, ix, generation, reply)).then_some(Tried::Settled(Opened::Raced));
        }
        if broken(Twin::NoReplyClaim) {
            return None;
        }
        match self.claim(reply, generation, Dir::Reply, ix, new.now) {
            Claim::Won => None,
            Claim::Existing(word) | Claim::Raced(Some(word)) => Some(self.clash(word, new)),
            Claim::Raced(None) => Some(Tried::Settled(Opened::Raced)),
            Claim::Full => Some(Tried::Settled(Opened::BucketFull)),
        }
    }

    fn claim_forward(&self, ix: FlowIx, generation: u16, new: &NewFlow<N>) -> Opened<N> {
        match self.claim(&new.forward, generation, Dir::Forward, ix, new.now) {
            Claim::Won => match self.record(ix).seen(generation).filter(|seen| seen.state.serves(generation))
            {
                Some(seen) => Opened::New(self.hit_of(ix, generation, Dir::Forward, &seen)),
                // Found by its reply tuple and ended before it was open.
                None => {
                    self.unlink_key(&new.forward, ix, generation, Dir::Forward);
                    Opened::Raced
                }
            },
            Claim::Existing(word) => self.hit(word, &new.forward).map_or(Opened::Raced, Opened::Existing),
            Claim::Raced(_) => Opened::Raced,
            Claim::Full => Opened::BucketFull,
        }
    }

    /// Takes the reply tuple over from a flow that lingers for the same client, which reuses its own port, as
    /// it may. The tuple is never free in between: another client would meet a server that remembers this
    /// one.
    fn take_over(&self, from: Word, ix: FlowIx, generation: u16, reply: &Key<N>) -> bool {
        let hash = self.hash(reply);
        let mine = self.word(hash, generation, Dir::Reply, ix).committed();
        let taken = self.index.hand_over(self.homes(hash), from, mine);
        if taken {
            let old = &self.record(from.ix()).state;
            // Its time may run out at this moment; then its owner ends it. It was counted no more.
            let judged = old.state();
            let _ = judged.generation() == self.generation(from) && old.end(judged, Flags::DEAD);
        }
        taken
    }

    /// Writes the record as a live flow that no word names yet.
    fn write(&self, ix: FlowIx, new: &NewFlow<N>, reply: &Key<N>) -> u16 {
        let mut flags = if new.masquerade { Flags::MASQ } else { Flags::NONE };
        if new.pickup && new.forward.proto() == Proto::Tcp {
            flags = flags.with(Flags::PICKUP).with(Flags::EST);
            flags = flags.with(tcp(flags, Dir::Forward, new.seen).set);
        }
        if new.forward.proto() == Proto::Sctp {
            flags = flags.with(Association::opened_by(new.seen).flags());
        }
        if Class::of(new.forward.proto(), flags).is_active() {
            // Before anybody can find it, and take it back.
            flags = flags.with(Flags::COUNTED);
            self.loads.add(new.endpoint);
        }
        self.ledger(ix).open(new.now);
        let (service, endpoint, incarnation) = (new.service, new.endpoint, self.incarnation);
        let tops = new.tops.unwrap_or_else(|| Tops::as_they_arrive(&new.forward, reply));
        let draft = Draft { forward: new.forward, reply: *reply, service, endpoint, incarnation, tops };
        self.record(ix).write(&draft, |generation| State::new(generation, new.now.tick(), new.epoch, flags))
    }

    /// Claims one of the two tuples; when its homes are full, once more behind what could be cleared.
    pub(super) fn claim(&self, key: &Key<N>, generation: u16, dir: Dir, ix: FlowIx, now: Time) -> Claim {
        let hash = self.hash(key);
        let (homes, mine) = (self.homes(hash), self.word(hash, generation, dir, ix));
        let rival = |word: Word| self.rival(word, key);
        let claimed = self.index.claim(homes, mine, rival);
        if claimed == Claim::Full && self.rescue(homes, now.tick()) {
            return self.index.claim(homes, mine, rival);
        }
        claimed
    }

    /// What a word with our tag is to our key.
    fn rival(&self, word: Word, key: &Key<N>) -> Rival {
        let (record, dir, generation) = (self.record(word.ix()), word.dir(), self.generation(word));
        let Some(holder) = record.key(generation, dir) else { return Rival::Moved };
        let state = record.state.state();
        match () {
            () if holder != *key => Rival::None,
            () if state.generation() != generation => Rival::Moved,
            () if self.is_gone(state, dir) => Rival::Over,
            () => Rival::Same,
        }
    }

    /// Whether a word of that direction stands for nothing any more: a lingering flow keeps its reply tuple.
    fn is_gone(&self, state: State, dir: Dir) -> bool {
        let flags = state.flags();
        flags.has(Flags::DEAD) || (flags.has(Flags::LINGER) && dir == Dir::Forward)
    }

    /// Looks who has a reply tuple, before anything is written. A flow past its time gives way.
    fn holder(&self, reply: &Key<N>, new: &NewFlow<N>) -> Holder<N> {
        let hash = self.hash(reply);
        let holder = self.index.find(self.homes(hash), hash.tag(), |word| {
            let (ix, dir, generation) = (word.ix(), word.dir(), self.generation(word));
            let seen = self.record(ix).seen(generation)?;
            let state = seen.state;
            if seen.keys[dir as usize] != *reply
                || state.generation() != generation
                || self.is_gone(state, dir)
            {
                return None;
            }
            let same = seen.keys[0] == new.forward && !broken(Twin::ClashUnjudged);
            let lingers = same && state.flags().has(Flags::LINGER);
            let ripe = self.expired(state, seen.keys[0].proto(), new.now.tick());
            if ripe || (lingers && broken(Twin::FreeFirst)) {
                if self.end(ix, &seen, Flags::DEAD) {
                    self.unlink(ix, generation, Flags::DEAD);
                    return None;
                }
                return Some(Holder::Same);
            }
            if lingers {
                return Some(Holder::Lingers(word));
            }
            let (flags, idle) = (state.flags(), state.idle(new.now.tick()));
            Some(match () {
                () if same => Holder::Same,
                () if gives_way(reply.proto(), flags, idle) => {
                    Holder::Abandoned(Abandoned { reply: *reply, idle, ix, generation })
                }
                () => Holder::Other,
            })
        });
        let held = || self.held.keeps(hash, self.hash(&new.forward), new.now.tick());
        holder.unwrap_or_else(|| if held() { Holder::Other } else { Holder::Nobody })
    }

    /// A claim met this word. Our own flow's, opened elsewhere: come back. Another flow's: next tuple.
    fn clash(&self, word: Word, new: &NewFlow<N>) -> Tried<N> {
        let forward = self.record(word.ix()).key(self.generation(word), Dir::Forward);
        match forward {
            Some(forward) if forward != new.forward || broken(Twin::ClashUnjudged) => Tried::Clash(None),
            Some(_) | None => Tried::Settled(Opened::Raced),
        }
    }

    /// Makes room in two full buckets: what is over or past its time goes.
    fn rescue(&self, homes: [usize; 2], now: Tick) -> bool {
        let removed = self.index.purge(homes, |word| {
            let (record, generation) = (self.record(word.ix()), self.generation(word));
            let Some(seen) = record.seen(generation) else { return false };
            if seen.state.generation() != generation {
                return false;
            }
            let over = self.is_gone(seen.state, word.dir());
            let expired = !over
                && self.expired(seen.state, seen.keys[0].proto(), now)
                && (broken(Twin::UnlinkOnly) || self.end(word.ix(), &seen, Flags::DEAD));
            if expired {
                // Its other word; this one is `purge`'s.
                let other = word.dir().opposite();
                self.unlink_key(&seen.keys[other as usize], word.ix(), generation, other);
            }
            over || expired
        });
        removed > 0
    }

    /// Whether a flow has been idle for longer than it may be.
    pub(super) fn expired(&self, state: State, proto: Proto, now: Tick) -> bool {
        state.idle(now) > self.ttls.of(proto, state.flags())
    }
}
