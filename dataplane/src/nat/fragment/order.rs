//! Numbers in the order they were put in, taken out anywhere: a doubly linked list over an array.

const NONE: u16 = u16::MAX;

/// Which of the slots `0..n` are in it, oldest first.
#[derive(Debug)]
pub(super) struct Order {
    /// Before and behind each slot.
    links: Box<[(u16, u16)]>,
    first: u16,
    last: u16,
}

impl Order {
    /// An empty one for so many slots.
    pub(super) fn new(slots: u16) -> Self {
        Self { links: vec![(NONE, NONE); usize::from(slots)].into_boxed_slice(), first: NONE, last: NONE }
    }

    /// The oldest.
    pub(super) fn first(&self) -> Option<u16> {
        (self.first != NONE).then_some(self.first)
    }

    /// Puts in a slot that is not in it, as the newest.
    pub(super) fn push(&mut self, slot: u16) {
        self.links[usize::from(slot)] = (self.last, NONE);
        match self.last {
            NONE => self.first = slot,
            last => self.links[usize::from(last)].1 = slot,
        }
        self.last = slot;
    }

    /// Takes out a slot that is in it.
    pub(super) fn remove(&mut self, slot: u16) {
        let (before, behind) = self.links[usize::from(slot)];
        match before {
            NONE => self.first = behind,
            before => self.links[usize::from(before)].1 = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => self.links[usize::from(behind)].0 = before,
        }
    }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_whatever_is_taken_out() {
        let mut order = Order::new(5);
        assert_eq!(order.first(), None);
        (0..5).for_each(|slot| order.push(slot));
        for (out, first) in [(2, Some(0)), (0, Some(1)), (4, Some(1)), (1, Some(3)), (3, None)] {
            order.remove(out);
            assert_eq!(order.first(), first);
        }
        order.push(4);
        order.push(0);
        order.remove(4);
        assert_eq!(order.first(), Some(0));
    }
}
