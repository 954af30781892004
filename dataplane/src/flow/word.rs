//! One entry of the index: `tag:24 | gen:14 | committed:1 | dir:1 | ix:24`. 0 is an empty slot.
//!
//! The generation is what makes a late compare-and-swap harmless: a thread that slept while it meant to
//! unlink an old word cannot hit the same record's next tenant.

use crate::ids::FlowIx;

/// Which of a flow's two tuples a packet matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// Client to VIP.
    Forward = 0,
    /// Endpoint to the client or to the SNAT address.
    Reply = 1,
}

impl Dir {
    /// The other way.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }
}

/// Bits of a generation, in words and in state words.
pub(super) const GEN_BITS: u32 = 14;
pub(super) const GEN_MASK: u64 = (1 << GEN_BITS) - 1;

const IX_MASK: u64 = (1 << FlowIx::BITS) - 1;
const DIR_BIT: u64 = 1 << 24;
const COMMITTED: u64 = 1 << 25;
const GEN_SHIFT: u32 = 26;
const TAG_SHIFT: u32 = 40;

/// An occupied slot's word; see the module for its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

impl Word {
    /// A claim not yet decided: it reserves its key against others but serves no look-up.
    pub(super) fn tentative(tag: u64, generation: u16, dir: Dir, ix: FlowIx) -> Self {
        let generation = (u64::from(generation) & GEN_MASK) << GEN_SHIFT;
        Self(tag << TAG_SHIFT | generation | (dir as u64) << 24 | u64::from(ix.0) & IX_MASK)
    }

    /// This claim, won.
    pub(super) const fn committed(self) -> Self {
        Self(self.0 | COMMITTED)
    }

    /// What a word of this tag that serves look-ups has in [`Word::SERVES`].
    pub(super) const fn serving(tag: u64) -> u64 {
        tag << TAG_SHIFT | COMMITTED
    }

    /// The bits [`Word::serving`] speaks of.
    pub(super) const SERVES: u64 = !0 << TAG_SHIFT | COMMITTED;

    pub(super) const fn is_committed(self) -> bool {
        self.0 & COMMITTED != 0
    }

    pub(super) const fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    pub(super) const fn dir(self) -> Dir {
        if self.0 & DIR_BIT == 0 { Dir::Forward } else { Dir::Reply }
    }

    #[allow(clippy::cast_possible_truncation, reason = "14 bits")]
    pub(super) const fn generation(self) -> u16 {
        (self.0 >> GEN_SHIFT & GEN_MASK) as u16
    }

    #[allow(clippy::cast_possible_truncation, reason = "24 bits")]
    pub(super) const fn ix(self) -> FlowIx {
        FlowIx((self.0 & IX_MASK) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        let word = Word::tentative(0xab_cdef, 0x2aaa, Dir::Reply, FlowIx(0x12_3456));
        for word in [word, word.committed()] {
            assert_eq!((word.tag(), word.generation(), word.dir()), (0xab_cdef, 0x2aaa, Dir::Reply));
            assert_eq!(word.ix(), FlowIx(0x12_3456));
        }
        assert!(!word.is_committed() && word.committed().is_committed());
        assert_eq!(word.committed().0 & Word::SERVES, Word::serving(0xab_cdef));
        assert_ne!(word.0 & Word::SERVES, Word::serving(0xab_cdef));
        let (all, none) =
            (Word::tentative(0xff_ffff, 0xffff, Dir::Forward, FlowIx(u32::MAX)), DIR_BIT | COMMITTED);
        assert_eq!(all.0, !none);
    }
}
