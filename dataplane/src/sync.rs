//! The one place that names atomics, so that the same code runs on `std` and under loom.
//!
//! Everything else in this crate imports atomics from here. Built with
//! `--cfg tunway_loom` the types are loom's, whose every access is a scheduling point.
//!
//! [`broken`] lets a model of the real code leave out one of its rules, to prove that the model would notice.
//! In a normal build it is a constant `false` and costs nothing.

#[cfg(not(tunway_loom))]
#[allow(unused_imports, reason = "each module takes the widths it needs")]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(tunway_loom)]
#[allow(unused_imports, reason = "each module takes the widths it needs")]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// A rule a model can leave out: its broken twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twin {
    /// `claim` scans without the SeqCst fence behind its tentative word.
    NoFence,
    /// Index words carry no generation.
    NoGeneration,
    /// A flag's compare-and-swap is not repeated.
    FlagOnce,
    /// Ages are unsigned differences.
    UnsignedAge,
    /// An expired flow is unlinked without ending its state first.
    UnlinkOnly,
    /// A clash is judged without the holder's forward key.
    ClashUnjudged,
    /// A flow is opened without claiming its reply tuple.
    NoReplyClaim,
    /// A lingering reply tuple is freed before it is claimed anew.
    FreeFirst,
    /// A claim does not look again when a rival's record has moved on.
    MovedIsGone,
    /// A reader does not look at `ver` a second time.
    LookOnce,
    /// A chunk's owner is a plain store.
    OwnerByStore,
    /// An end that came too late moves the endpoint's counter all the same.
    CountBeside,
}

/// Whether a model runs the broken twin of this rule.
#[cfg(not(tunway_loom))]
#[inline(always)]
pub(crate) const fn broken(_: Twin) -> bool {
    false
}

#[cfg(tunway_loom)]
pub(crate) use twin::broken;

#[cfg(tunway_loom)]
pub(crate) mod twin {
    //! The switch. Loom runs all threads of a model on the thread of its test, so a thread-local is the
    //! model's own.

    use super::Twin;
    use std::cell::Cell;

    std::thread_local!(static BROKEN: Cell<Option<Twin>> = const { Cell::new(None) });

    pub(crate) fn broken(twin: Twin) -> bool {
        BROKEN.get() == Some(twin)
    }

    /// Leaves the rule out from here on, in models this thread runs.
    #[cfg_attr(not(test), expect(dead_code, reason = "models are tests"))]
    pub(crate) fn leave_out(twin: Option<Twin>) {
        BROKEN.set(twin);
    }
}
