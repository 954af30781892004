//! The model: of every datagram, which of its bytes were seen, one flag a byte. And the stories told to it.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::clock::Time;
use dataplane::verdict::DropReason;
use tests::check::valid;
use tests::cluster::addr;
use tests::gateway::{Gateway, Outcome};
use tests::packets::{Cut, Reassembler, Wire, fragment, fragments, head, udp};

use super::ROADS;

/// A datagram of the story.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) road: usize,
    /// Bytes of UDP payload.
    pub(super) payload: usize,
    /// Bytes of a fragment, a multiple of eight.
    pub(super) size: usize,
    /// With a UDP checksum.
    pub(super) checksum: bool,
}

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A fragment of a datagram, be it for the first time or again.
    Piece { of: u16, piece: u16 },
    /// All fragments that were not sent yet, in some order.
    AllThatIsLeft { of: u16, order: u64 },
    /// The datagram's bytes, but cut elsewhere.
    OtherCut { of: u16, from: u16, len: u16, more: bool },
    /// Bytes that are not the datagram's, anywhere.
    Absurd { of: u16, offset: u16, len: u16, more: bool },
    /// Seconds pass.
    Advance(u8),
}

/// How often each end was seen.
pub(super) type Seen = BTreeMap<String, u64>;

/// What a road does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Road {
    Served,
    Refused,
    Passed,
}

/// A datagram and what the model knows of it.
struct Datagram {
    number: u32,
    road: Road,
    whole: Vec<u8>,
    /// The whole packet as it leaves.
    out: Vec<u8>,
    unsent: Vec<usize>,
    pieces: Vec<Vec<u8>>,
    now: Option<Instance>,
}

/// One try to bring a datagram through, from its first fragment here to its end.
struct Instance {
    since: Time,
    bytes: Vec<bool>,
    total: Option<usize>,
    state: State,
    /// What left, put together naively; none once bytes came in that are not the datagram's.
    left: Option<Reassembler>,
}

enum State {
    Waiting(Vec<Sent>),
    Known,
    Dead(DropReason),
}

/// A fragment on its way, and as it must leave.
#[derive(Clone)]
pub(super) struct Sent {
    cut: Cut,
    wire: Wire,
    out: Wire,
    /// It says nothing about the datagram that is not so.
    genuine: bool,
}

/// What the model expects of one fragment.
enum Expected {
    /// It leaves like this, and so do those that waited.
    Leaves(Outcome, Vec<Outcome>),
    /// The answer to it leaves.
    Answered,
    Waits,
    Dropped(DropReason),
}

/// Plays a story: each event's fragments are sent in batches through its worker.
pub(super) fn play(
    gateway: &mut Gateway,
    shapes: &[Shape],
    events: &[(Event, u8, usize)],
    seen: &mut Seen,
) -> Result<(), String> {
    let mut datagrams: Vec<Datagram> =
        (1..).zip(shapes).map(|(number, shape)| Datagram::new(gateway, number, shape)).collect();
    for (index, (event, worker, batch)) in events.iter().enumerate() {
        let (of, fragments) = event.fragments(&mut datagrams, gateway);
        for batch in fragments.chunks(*batch) {
            deliver(gateway, &mut datagrams[of], usize::from(*worker), batch, seen)
                .map_err(|what| format!("event {index}, {event:?}: {what}"))?;
        }
    }
    gateway.advance(Duration::from_secs(62));
    let timed_out = gateway.totals().drops(DropReason::FragmentTimeout);
    *seen.entry(DropReason::FragmentTimeout.label().into()).or_default() += timed_out;
    match (gateway.waiting(), gateway.tables.fragments.datagrams()) {
        (0, 0) => Ok(()),
        left => Err(format!("{left:?} are left for ever")),
    }
}

/// Sends a batch of fragments of one datagram and compares what leaves with what must.
fn deliver(
    gateway: &mut Gateway,
    datagram: &mut Datagram,
    worker: usize,
    batch: &[Sent],
    seen: &mut Seen,
) -> Result<(), String> {
    let wires: Vec<Wire> = batch.iter().map(|sent| sent.wire.clone()).collect();
    let mut outcomes = gateway.send_all(worker, &wires);
    let mut released = outcomes.split_off(batch.len());
    for _ in 0..8 {
        released.extend(gateway.turn(worker));
    }
    let mut count = |what: &str| *seen.entry(what.into()).or_default() += 1;
    let mut due = Vec::new();
    for (sent, outcome) in batch.iter().zip(&outcomes) {
        let cut = &sent.cut;
        let part = format!("{}..{} of {:?}", cut.offset, cut.offset + cut.data.len(), datagram.road);
        let fits = match datagram.expect(sent, gateway.now, &mut count)? {
            Expected::Leaves(expected, waited) => {
                due.extend(waited);
                count(if datagram.road == Road::Served { "translated" } else { "passed" });
                *outcome == expected
            }
            Expected::Answered => {
                count("replied");
                // The batch has room for eight answers, of which this is one.
                matches!(outcome, Outcome::Replied(_))
            }
            Expected::Waits => {
                count("held");
                *outcome == Outcome::Parked
            }
            Expected::Dropped(reason) => {
                count(reason.label());
                *outcome == Outcome::Dropped(reason)
            }
        };
        if !fits {
            return Err(format!("{part}: {outcome:?}"));
        }
    }
    due.iter().for_each(|_| count("released"));
    if released == due {
        Ok(())
    } else {
        Err(format!("{} waited fragments left, should {}, or they differ", released.len(), due.len()))
    }
}

impl Datagram {
    fn new(gateway: &mut Gateway, number: u32, shape: &Shape) -> Self {
        let (src, dst) = ROADS[shape.road];
        let spec = udp(addr(src), addr(dst))
            .payload((0..shape.payload).map(|n| (n * 31 + n / 8).to_le_bytes()[0]).collect::<Vec<_>>());
        let spec = if shape.checksum || addr(src).is_ipv6() { spec } else { spec.no_checksum() };
        let packet = spec.bytes();
        let pieces = fragments(&packet, number, shape.size);
        // As it was before it was cut: with the identification.
        let whole = match pieces.len() {
            1 => packet,
            _ => put_together(&pieces),
        };
        let (road, out) = match gateway.send(0, &Wire::plain(whole.clone())) {
            Outcome::Translated(wire) => (Road::Served, wire.bytes),
            Outcome::Passed(wire) => (Road::Passed, wire.bytes),
            Outcome::Replied(_) => (Road::Refused, whole.clone()),
            other @ (Outcome::Dropped(_) | Outcome::Parked) => panic!("{src} > {dst}: {other:?}"),
        };
        Self { number, road, whole, out, unsent: (0..pieces.len()).collect(), pieces, now: None }
    }

    fn data(&self) -> &[u8] {
        &self.whole[head(&self.whole)..]
    }

    /// A fragment of this datagram's number with these bytes.
    fn part(&self, offset: usize, more: bool, data: &[u8], genuine: bool) -> Option<Sent> {
        let wire = Wire::plain(fragment(&self.whole, self.number, offset, more, data));
        let out = if genuine { &self.out[head(&self.out) + offset..][..data.len()] } else { data };
        let out = Wire::plain(fragment(&self.out, self.number, offset, more, out));
        // A whole packet is no fragment, also with an IPv6 fragment header, and none of this model's.
        let cut = Cut::read(&wire.bytes).ok().filter(|cut| cut.offset > 0 || cut.more)?;
        // A last part that is not the end makes another datagram of it.
        let genuine = genuine && (more || offset + data.len() == self.data().len());
        Some(Sent { cut, wire, out, genuine })
    }

    /// What must become of this fragment.
    fn expect(&mut self, sent: &Sent, now: Time, count: &mut impl FnMut(&str)) -> Result<Expected, String> {
        let Cut { offset, more, ref data, .. } = sent.cut;
        let end = offset + data.len();
        let longest = if self.whole[0] >> 4 == 4 { 65_535 - 20 } else { 65_535 };
        if data.is_empty() || more && !data.len().is_multiple_of(8) || end > longest {
            return Ok(Expected::Dropped(DropReason::BadFragment));
        }
        if offset == 0 && data.len() < 8 {
            return Ok(Expected::Dropped(DropReason::TinyFragment));
        }
        // The UDP header says how long the datagram is, and this is not all of it.
        if offset == 0 && data.len() >= self.data().len() {
            return Ok(Expected::Dropped(DropReason::BadL4Header));
        }
        let limit = if self.whole[0] >> 4 == 4 { 30 } else { 60 };
        let up = |instance: &Instance| now.since(instance.since) > limit * 1_000_000_000;
        if self.now.as_ref().is_some_and(up) {
            self.now = None;
        }
        let road = self.road;
        let instance = self.now.get_or_insert_with(|| Instance::new(now));
        if let State::Dead(reason) = instance.state {
            return Ok(Expected::Dropped(reason));
        }
        if let Some(reason) = instance.unfit(offset, end, !more) {
            if reason != DropReason::FragmentDuplicate {
                let dropped = if let State::Waiting(waited) = &instance.state { waited.len() } else { 0 };
                (0..dropped).for_each(|_| count(reason.label()));
                instance.state = State::Dead(reason);
            }
            return Ok(Expected::Dropped(reason));
        }
        instance.bytes[offset..end].fill(true);
        if !more {
            instance.total = Some(end);
        }
        let expected = instance.follow(sent, road, offset == 0)?;
        if instance.total.is_some_and(|total| instance.bytes[..total].iter().all(|seen| *seen)) {
            count("complete");
            if road != Road::Refused && instance.left.as_ref().is_some_and(|left| left.pending() > 0) {
                return Err("every fragment came, and not all of them left".into());
            }
            self.now = None;
        }
        Ok(expected)
    }
}

impl Instance {
    fn new(since: Time) -> Self {
        let state = State::Waiting(Vec::new());
        Self { since, bytes: vec![false; 65_536], total: None, state, left: Some(Reassembler::default()) }
    }

    /// Why these bytes cannot be added, if they cannot.
    fn unfit(&self, offset: usize, end: usize, last: bool) -> Option<DropReason> {
        let longest = self.bytes.iter().rposition(|seen| *seen).map_or(0, |at| at + 1);
        let contradicts = match self.total {
            Some(total) => end > total || last && end != total,
            None => last && end < longest,
        };
        let seen = self.bytes[offset..end].iter().filter(|seen| **seen).count();
        if contradicts {
            Some(DropReason::BadFragment)
        } else if seen == end - offset {
            Some(DropReason::FragmentDuplicate)
        } else if seen > 0 {
            Some(DropReason::FragmentOverlap)
        } else {
            None
        }
    }

    fn follow(&mut self, sent: &Sent, road: Road, first: bool) -> Result<Expected, String> {
        match (&mut self.state, first) {
            (State::Waiting(waited), false) => {
                waited.push(sent.clone());
                Ok(Expected::Waits)
            }
            (State::Waiting(waited), true) => {
                let waited = std::mem::take(waited);
                self.state = State::Known;
                if road == Road::Refused {
                    return Ok(Expected::Answered);
                }
                self.leave(sent)?;
                waited.iter().try_for_each(|sent| self.leave(sent))?;
                let waited = waited.into_iter().map(|sent| outcome(road, sent.out)).collect();
                Ok(Expected::Leaves(outcome(road, sent.out.clone()), waited))
            }
            (State::Known, _) if road == Road::Refused => Ok(Expected::Dropped(DropReason::FragmentRefused)),
            (State::Known, _) => {
                self.leave(sent)?;
                Ok(Expected::Leaves(outcome(road, sent.out.clone()), Vec::new()))
            }
            (State::Dead(reason), _) => Ok(Expected::Dropped(*reason)),
        }
    }

    /// Puts together what left; a datagram of genuine bytes must be valid, checksums and all.
    fn leave(&mut self, sent: &Sent) -> Result<(), String> {
        if !sent.genuine {
            self.left = None;
        }
        if let Some(left) = &mut self.left
            && let Some(whole) = left.take(&sent.out.bytes)?
        {
            valid(&Wire::plain(whole))?;
        }
        Ok(())
    }
}

fn outcome(road: Road, wire: Wire) -> Outcome {
    if road == Road::Served { Outcome::Translated(wire) } else { Outcome::Passed(wire) }
}

impl Event {
    /// The datagram it is about and the fragments to be sent; time passes here.
    fn fragments(&self, datagrams: &mut [Datagram], gateway: &mut Gateway) -> (usize, Vec<Sent>) {
        let count = datagrams.len();
        let which = |of: &u16| usize::from(*of) % count;
        match self {
            Self::Piece { of, piece } => {
                let datagram = &mut datagrams[which(of)];
                let piece = usize::from(*piece) % datagram.pieces.len();
                datagram.unsent.retain(|unsent| *unsent != piece);
                (which(of), datagram.nth(piece).into_iter().collect())
            }
            Self::AllThatIsLeft { of, order } => {
                let datagram = &mut datagrams[which(of)];
                let mut unsent = std::mem::take(&mut datagram.unsent);
                if unsent.is_empty() {
                    unsent = (0..datagram.pieces.len()).collect();
                }
                // Every third time in order.
                if order % 3 > 0 {
                    unsent.sort_by_key(|n| {
                        (*n as u64 + 1).wrapping_mul(order | 1).wrapping_mul(0x9e37_79b9) >> 7 & 0xffff
                    });
                }
                (which(of), unsent.iter().filter_map(|n| datagram.nth(*n)).collect())
            }
            Self::OtherCut { of, from, len, more } => {
                let datagram = &datagrams[which(of)];
                let data = datagram.data();
                let from = usize::from(*from) % data.len() / 8 * 8;
                let len = usize::from(*len).min(data.len() - from);
                (which(of), datagram.part(from, *more, &data[from..from + len], true).into_iter().collect())
            }
            Self::Absurd { of, offset, len, more } => {
                let offset = (usize::from(*offset) / 8 * 8).max(8);
                let part = datagrams[which(of)].part(offset, *more, &vec![0xab; usize::from(*len)], false);
                (which(of), part.into_iter().collect())
            }
            Self::Advance(seconds) => {
                gateway.advance(Duration::from_secs((*seconds).into()));
                (0, Vec::new())
            }
        }
    }
}

impl Datagram {
    fn nth(&self, piece: usize) -> Option<Sent> {
        let cut = Cut::read(&self.pieces[piece]).ok()?;
        self.part(cut.offset, cut.more, &cut.data, true)
    }
}

fn put_together(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut reassembler = Reassembler::default();
    let whole = pieces.iter().find_map(|piece| reassembler.take(piece).unwrap());
    whole.expect("all of its fragments")
}
