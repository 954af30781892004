//! The one way a Service change touches a living flow: UDP whose endpoint was withdrawn.
//!
//! A change costs nothing when it happens. The service port gets a new purge epoch, and each of its UDP flows is
//! judged by its own next packet, or by the sweep when it has none. TCP and SCTP flows are never judged.
//!
//! A flow's judge is the service port that has the flow's frontend now, whoever opened the flow: a Service made again
//! under another name on the same address and port is what the client means by that address.

use crate::flow::{Hit, Key, Table};
use crate::packet::tuple::{Address, Tuple};
use crate::service::{Purge, Snapshot, SvcPort, epoch_newer};

/// Whether a UDP flow may go on under this snapshot. A flow judged and kept is stamped, so that it is not judged
/// again until something changes.
pub(crate) fn may_go_on<A: Address, const N: usize>(
    table: &Table<N>,
    snapshot: &Snapshot,
    hit: &Hit<N>,
) -> bool
where
    Tuple<A>: From<Key<N>>,
{
    let epoch = snapshot.purge_epoch();
    if !epoch_newer(epoch, hit.epoch()) {
        return true;
    }
    // Another flow's by now: whoever asks will find that out, too.
    let Some([forward, reply]) = table.tuples(hit) else { return false };
    let (forward, reply) = (Tuple::<A>::from(forward), Tuple::<A>::from(reply));
    let frontend = SvcPort { port: forward.dport, proto: forward.proto };
    // A frontend nobody has any more keeps its flows until they time out.
    let keep = snapshot.frontend(forward.dst.into(), frontend).is_none_or(|(_, service)| {
        !service.judges(hit.epoch()) || service.keeps(reply.src.into(), reply.sport) == Purge::Kept
    });
    if keep {
        table.keep(hit, epoch);
    }
    keep
}
