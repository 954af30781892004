//! A packet in fragments: sent in any order through any workers, it must end as the whole packet would.

use dataplane::stats::Counter;
use dataplane::verdict::DropReason;

use super::{Cutting, Play};
use crate::cluster::Cluster;
use crate::gateway::{Gateway, Outcome};
use crate::packets::{Reassembler, Wire, fragments};

impl Play<'_> {
    /// Sends the fragments of a packet, puts together what leaves, and judges it as one.
    pub(super) fn send_in_pieces(
        &mut self,
        gateway: &mut Gateway,
        cluster: &Cluster,
        worker: u8,
        packet: &[u8],
        cutting: Cutting,
    ) -> Result<(), String> {
        self.datagrams += 1;
        let mut pieces = fragments(packet, self.datagrams, usize::from(cutting.size.max(1)) * 8);
        if pieces.len() == 1 {
            return self.send(gateway, cluster, worker, &Wire::plain(packet.to_vec()));
        }
        let whole = joined(pieces.iter())?;
        let evicted = gateway.totals().get(Counter::FlowsEvicted);
        let mut random = cutting.order;
        let mut draw = |n: usize| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            usize::try_from(random >> 33).expect("31 bits") % n
        };
        let mut outcomes = Vec::new();
        while !pieces.is_empty() {
            // Mostly in order: the first fragment is not held back for ever.
            let at = if cutting.disorder { draw(pieces.len()) } else { 0 };
            let through = if cutting.spread { draw(gateway.workers()) } else { usize::from(worker) };
            let piece = Wire::plain(pieces.remove(at));
            outcomes.extend(gateway.send_all(through, std::slice::from_ref(&piece)));
        }
        for turn in 0..64 {
            if gateway.waiting() == 0 {
                break;
            }
            outcomes.extend(gateway.turn(turn % gateway.workers()));
        }
        if gateway.waiting() > 0 || gateway.tables.fragments.datagrams() > 0 {
            return Err(format!("{} fragments still wait", gateway.waiting()));
        }
        outcomes.retain(|outcome| *outcome != Outcome::Parked);
        if gateway.totals().get(Counter::FlowsEvicted) != evicted {
            self.oracle.lose(gateway)?;
        }
        self.count("in fragments");
        let outcome = as_one(&outcomes)?;
        self.oracle
            .judge_pieces(self.ready.then_some(cluster), &whole, &outcome, gateway.now)
            .map_err(|what| format!("{what}; sent in fragments {:02x?}", &packet[..packet.len().min(60)]))
    }
}

/// What became of a packet, of what became of its fragments.
fn as_one(outcomes: &[Outcome]) -> Result<Outcome, String> {
    let all = |wanted: fn(&Outcome) -> bool| outcomes.iter().all(wanted);
    let pieces = || outcomes.iter().filter_map(Outcome::wire).map(|wire| &wire.bytes);
    if all(|one| matches!(one, Outcome::Translated(_))) {
        return joined(pieces()).map(Outcome::Translated);
    }
    if all(|one| matches!(one, Outcome::Passed(_))) {
        return joined(pieces()).map(Outcome::Passed);
    }
    let refused = Outcome::Dropped(DropReason::FragmentRefused);
    let answers: Vec<_> = outcomes.iter().filter(|one| matches!(one, Outcome::Replied(_))).collect();
    if let [answer] = answers[..]
        && outcomes.iter().all(|one| one == answer || *one == refused)
    {
        return Ok(answer.clone());
    }
    match outcomes {
        [first @ Outcome::Dropped(_), rest @ ..] if rest.iter().all(|one| one == first) => Ok(first.clone()),
        _ => Err(format!("fragments of one packet ended as {outcomes:?}")),
    }
}

fn joined<'a>(pieces: impl Iterator<Item = &'a Vec<u8>>) -> Result<Wire, String> {
    let mut reassembler = Reassembler::default();
    let mut whole = None;
    for piece in pieces {
        if whole.is_some() {
            return Err("a fragment more than needed".into());
        }
        whole = reassembler.take(piece)?;
    }
    whole.map(Wire::plain).ok_or_else(|| "fragments that are not the whole packet".into())
}
