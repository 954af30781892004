//! Services as the packet path sees them: one immutable [`Snapshot`] at a time, and the pure functions that
//! decide about the first packet of a flow.
//!
//! The control thread makes a snapshot from the previous one ([`SnapshotBuilder`]), sharing every chunk that
//! did not change, and puts it into a [`Published`] slot. A worker pins, loads the world once per batch, and
//! asks [`decide()`] which frontend and endpoint set a new flow gets, [`choose()`] for the endpoint, then
//! [`masquerades()`] whether it gets a SNAT address. All are generic over [`Reasons`]: the packet path takes none
//! down and pays nothing for it.

mod affinity;
mod balancing;
mod build;
mod choose;
mod chunked;
mod decide;
mod frontend;
mod groups;
mod local;
mod lookup;
mod maglev;
mod port;
mod publish;
mod reasons;
mod select;
mod snapshot;

use std::fmt;

pub use affinity::{Affinity, MAX_AFFINITY_SECONDS, Seat, Sticky, Tidied};
pub use balancing::{Balancing, MAX_WEIGHT};
pub use build::{BuildError, SnapshotBuilder};
pub use choose::{Live, choose};
pub use decide::{Decision, Origin, decide, decide_portless, masquerades};
pub use frontend::{Frontend, FrontendKind, PortSet};
pub use local::{BadPrefix, LocalMap, Place};
pub use lookup::Prefixes;
pub use port::{Backend, PURGE_EPOCH_BITS, Purge, Service, Set, epoch_newer};
pub use publish::Published;
pub use reasons::{NoReasons, Reason, Reasons, Recorded};
pub use select::{HashBy, Selector};
pub use snapshot::{Fabric, ReturnPath, Snapshot, World};

use crate::packet::tuple::Proto;

/// A port and its protocol: the same number over TCP and over UDP are two frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SvcPort {
    /// The port, host order.
    pub port: u16,
    /// The protocol.
    pub proto: Proto,
}

impl fmt::Display for SvcPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.proto)
    }
}

/// A traffic policy: which endpoints a frontend may send to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Any endpoint in the cluster.
    #[default]
    Cluster,
    /// Only endpoints on this node.
    Local,
}

#[cfg(test)]
mod testing;
