//! File descriptors: the limit is raised at the start, and some are kept back for what must go on whoever connects.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Kept back for the source, the control socket, netlink, the programs a repair starts, the device and its workers.
const KEPT: u64 = 256;

/// Raises the soft limit to the hard one: 1,024 is there for programs that use `select`, which nothing here does.
pub fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Descriptors that may be used for those who connect, now.
#[must_use]
pub fn to_give_away() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft.saturating_sub(KEPT).max(soft / 4)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one_and_some_are_kept() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(1024), hard).unwrap();
        assert!(to_give_away() <= 768);
        raise();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
        assert!((to_give_away() as u64) < hard);
    }
}
