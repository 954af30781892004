//! The one way a Service change touches a living flow: UDP whose endpoint was withdrawn.
//!
//! A change costs nothing when it happens. The service port gets a new purge epoch, and each of its UDP flows is
//! judged by its own next packet, or by the sweep when it has none. TCP and SCTP flows are never judged.

use std::net::IpAddr;

use crate::flow::{Dir, Hit, Key, Table};
use crate::packet::tuple::{Address, Tuple};
use crate::service::{Purge, Snapshot, epoch_newer};

/// Whether a UDP flow may go on under this snapshot. A flow judged and kept is stamped, so that it is not judged
/// again until something changes.
///
/// `endpoint` is the flow's endpoint, address and port (host order).
pub(crate) fn may_go_on<const N: usize>(
    table: &Table<N>,
    snapshot: &Snapshot,
    hit: &Hit<N>,
    endpoint: (IpAddr, u16),
) -> bool {
    let epoch = snapshot.purge_epoch();
    if !epoch_newer(epoch, hit.epoch()) {
        return true;
    }
    // A service port the snapshot does not know is gone: its flows are kept until they time out.
    let keep = snapshot.service(hit.service).is_none_or(|service| {
        !service.judges(hit.epoch()) || service.keeps(endpoint.0, endpoint.1) == Purge::Kept
    });
    if keep {
        table.keep(hit, epoch);
    }
    keep
}

/// The endpoint of the flow a packet belongs to: where it goes, or where it comes from.
pub(crate) fn endpoint_of<A: Address, const N: usize>(hit: &Hit<N>, arrived: &Tuple<A>) -> (IpAddr, u16)
where
    Tuple<A>: From<Key<N>>,
{
    match hit.dir {
        Dir::Forward => {
            let out = Tuple::<A>::from(hit.out);
            (out.dst.into(), out.dport)
        }
        Dir::Reply => (arrived.src.into(), arrived.sport),
    }
}
