//! How one endpoint is picked out of a set, once the set is known.

use super::Live;

/// The rule by which a service port picks endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// Uniform, independent for every flow: what kube-proxy's iptables and nftables modes do.
    #[default]
    Random,
}

impl Selector {
    /// A position below `count`; `None` only when there is nothing to pick from.
    pub(super) fn pick<L: Live>(self, count: usize, live: &mut L) -> Option<usize> {
        let below = u32::try_from(count).ok().filter(|count| *count > 0)?;
        match self {
            Self::Random => Some(live.draw(below) as usize),
        }
    }
}
