//! Which bytes of a datagram were seen, and what another fragment adds to them. The kernel's rules
//! (`inet_frag_queue_insert`, `ip_frag_queue`): what is inside of what was seen is a duplicate, what is partly inside
//! an overlap, and two ends are one too many.

use crate::packet::fragment::Part;
use crate::verdict::DropReason;

/// Gaps a datagram may have at once. 64 KiB in fragments of 512 bytes, every other one late, make as many.
const MAX_RUNS: usize = 64;

/// The bytes seen: runs that do not touch each other, in order.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    /// Start, and one beyond the end.
    list: [(u16, u16); MAX_RUNS],
    len: usize,
    /// The datagram's length, once its last fragment was seen.
    total: Option<u16>,
}

impl Default for Runs {
    fn default() -> Self {
        Self { list: [(0, 0); MAX_RUNS], len: 0, total: None }
    }
}

impl Runs {
    /// Whether the part may be added. `FragmentDuplicate` concerns this part alone; any other reason the datagram.
    pub(super) fn check(&self, part: &Part) -> Result<(), DropReason> {
        let seen_end = self.list().last().map_or(0, |(_, end)| *end);
        let contradicts = match self.total {
            Some(total) if part.last => part.end != total,
            Some(total) => part.end > total,
            None => part.last && part.end < seen_end,
        };
        if contradicts {
            return Err(DropReason::BadFragment);
        }
        let next = self.next(part);
        if let Some((start, end)) = self.list().get(next).copied()
            && start < part.end
        {
            let inside = start <= part.start && part.end <= end;
            return Err(if inside { DropReason::FragmentDuplicate } else { DropReason::FragmentOverlap });
        }
        if self.len == MAX_RUNS && !self.touches(next, part) {
            return Err(DropReason::FragmentDisorder);
        }
        Ok(())
    }

    /// Adds a part that was checked. True when the datagram is complete.
    pub(super) fn add(&mut self, part: &Part) -> bool {
        if part.last {
            self.total = Some(part.end);
        }
        let next = self.next(part);
        let before = next > 0 && self.list[next - 1].1 == part.start;
        let behind = next < self.len && self.list[next].0 == part.end;
        match (before, behind) {
            (true, true) => {
                self.list[next - 1].1 = self.list[next].1;
                self.list.copy_within(next + 1..self.len, next);
                self.len -= 1;
            }
            (true, false) => self.list[next - 1].1 = part.end,
            (false, true) => self.list[next].0 = part.start,
            (false, false) if self.len < MAX_RUNS => {
                self.list.copy_within(next..self.len, next + 1);
                self.list[next] = (part.start, part.end);
                self.len += 1;
            }
            // Was not checked.
            (false, false) => {}
        }
        self.total.is_some_and(|total| self.list() == [(0, total)])
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn list(&self) -> &[(u16, u16)] {
        &self.list[..self.len]
    }

    /// The first run that ends behind the part's start.
    fn next(&self, part: &Part) -> usize {
        self.list().partition_point(|(_, end)| *end <= part.start)
    }

    fn touches(&self, next: usize, part: &Part) -> bool {
        let before = next.checked_sub(1).map(|at| self.list[at].1);
        before == Some(part.start) || self.list().get(next).is_some_and(|(start, _)| *start == part.end)
    }
}

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod tests {
    use super::*;
    use crate::packet::fragment::DatagramId;
    use std::net::Ipv4Addr;

    fn part(start: u16, end: u16, last: bool) -> Part {
        let addr = Ipv4Addr::new(10, 0, 0, 1).into();
        Part { id: DatagramId { src: addr, dst: addr, number: 1, protocol: 17 }, start, end, last }
    }

    fn seen(parts: &[(u16, u16, bool)]) -> Runs {
        let mut runs = Runs::default();
        for (start, end, last) in parts {
            let part = part(*start, *end, *last);
            assert_eq!(runs.check(&part), Ok(()), "{part:?}");
            assert!(!runs.add(&part), "{part:?}");
        }
        runs
    }

    #[test]
    fn fragments_in_any_order_fill_a_datagram() {
        let parts = [(0, 8), (8, 16), (16, 24), (24, 27)].map(|(start, end)| part(start, end, end == 27));
        for order in 0..24 {
            let mut left: Vec<_> = parts.to_vec();
            let mut runs = Runs::default();
            let mut order = order;
            while !left.is_empty() {
                let next = left.remove(order % left.len());
                order /= left.len() + 1;
                assert_eq!(runs.check(&next), Ok(()));
                assert_eq!(runs.add(&next), left.is_empty(), "{next:?}, {left:?} missing");
            }
        }
    }

    #[test]
    fn what_was_seen_is_a_duplicate_and_what_was_partly_seen_an_overlap() {
        let runs = seen(&[(8, 16, false), (16, 24, false), (40, 48, false)]);
        for (start, end, verdict) in [
            (8, 16, Err(DropReason::FragmentDuplicate)),
            (8, 24, Err(DropReason::FragmentDuplicate)),
            (16, 24, Err(DropReason::FragmentDuplicate)),
            (40, 48, Err(DropReason::FragmentDuplicate)),
            (0, 16, Err(DropReason::FragmentOverlap)),
            (0, 56, Err(DropReason::FragmentOverlap)),
            (16, 32, Err(DropReason::FragmentOverlap)),
            (32, 48, Err(DropReason::FragmentOverlap)),
            (40, 56, Err(DropReason::FragmentOverlap)),
            (0, 8, Ok(())),
            (24, 32, Ok(())),
            (24, 40, Ok(())),
            (48, 56, Ok(())),
        ] {
            assert_eq!(runs.check(&part(start, end, false)), verdict, "{start}..{end}");
        }
    }

    #[test]
    fn a_datagram_has_one_end() {
        let runs = seen(&[(16, 24, false)]);
        assert_eq!(runs.check(&part(8, 16, true)), Err(DropReason::BadFragment));
        let runs = seen(&[(16, 24, true)]);
        assert_eq!(runs.check(&part(24, 32, false)), Err(DropReason::BadFragment));
        assert_eq!(runs.check(&part(24, 32, true)), Err(DropReason::BadFragment));
        assert_eq!(runs.check(&part(8, 16, true)), Err(DropReason::BadFragment));
        assert_eq!(runs.check(&part(16, 24, true)), Err(DropReason::FragmentDuplicate));
        assert_eq!(runs.check(&part(0, 16, false)), Ok(()));
        let mut longest = seen(&[(65_528, 65_535, true)]);
        assert!(longest.check(&part(0, 65_528, false)).is_ok() && longest.add(&part(0, 65_528, false)));
    }

    #[test]
    fn gaps_are_bounded_and_filling_one_always_goes() {
        let apart: Vec<_> = (0..64).map(|n| (n * 16, n * 16 + 8, false)).collect();
        let mut runs = seen(&apart);
        assert_eq!(runs.check(&part(1_032, 1_040, false)), Err(DropReason::FragmentDisorder));
        for at in [part(8, 16, false), part(1_016, 1_024, false), part(24, 32, false)] {
            assert_eq!(runs.check(&at), Ok(()));
            runs.add(&at);
        }
        assert_eq!(runs.check(&part(1_032, 1_040, false)), Ok(()));
    }
}
