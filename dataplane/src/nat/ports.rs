//! Source ports to try for a flow, best first: its own, then the kernel's ladder
//! (`nf_nat_l4proto_unique_tuple`, net/netfilter/nf_nat_core.c).
//!
//! A port is free when the reply tuple it makes is free; nothing is reserved beforehand. So one port serves
//! any number of flows as long as they go to different endpoints. Ports that this host or its node ports need are left
//! out by whoever asks.

use super::prng::Prng;

/// Tries of each rung: consecutive ports from a new random start.
const LADDER: [u16; 5] = [128, 64, 32, 16, 8];

/// Ports to try, in order. Ends after 249.
#[derive(Clone, Debug)]
pub struct Candidates {
    own: Option<u16>,
    range: Range,
    starts: [u16; LADDER.len()],
    rung: usize,
    step: u16,
}

/// Ports that may stand for one another: a privileged port is replaced by a privileged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    count: u16,
}

impl Range {
    const fn of(port: u16) -> Self {
        match port {
            0..512 => Self { first: 1, count: 511 },
            512..1024 => Self { first: 600, count: 424 },
            1024.. => Self { first: 1024, count: 64_512 },
        }
    }
}

impl Candidates {
    /// Ports there are to try at most.
    pub const MOST: u32 = 1 + 128 + 64 + 32 + 16 + 8;

    /// The ports to try for a flow whose client uses `own`.
    #[must_use]
    pub fn new(own: u16, prng: &mut Prng) -> Self {
        let range = Range::of(own);
        let starts = std::array::from_fn(|_| {
            // Below `count`, which is a u16.
            u16::try_from(prng.below(u32::from(range.count))).unwrap_or(0)
        });
        Self { own: Some(own), range, starts, rung: 0, step: 0 }
    }
}

impl Iterator for Candidates {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if let Some(own) = self.own.take() {
            return Some(own);
        }
        let start = *self.starts.get(self.rung)?;
        let offset = (u32::from(start) + u32::from(self.step)) % u32::from(self.range.count);
        self.step += 1;
        if self.step == LADDER[self.rung] {
            self.rung += 1;
            self.step = 0;
        }
        u16::try_from(u32::from(self.range.first) + offset).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_port_comes_first_and_the_ladder_has_249_rungs_in_all() {
        let ports: Vec<u16> = Candidates::new(40_000, &mut Prng::new(3)).collect();
        assert_eq!(ports.len(), Candidates::MOST as usize);
        assert_eq!(ports[0], 40_000);
        assert!(ports[1..].iter().all(|port| *port >= 1024));
    }

    #[test]
    fn a_port_is_replaced_within_its_class() {
        for seed in 0..50 {
            let low: Vec<u16> = Candidates::new(53, &mut Prng::new(seed)).skip(1).collect();
            assert!(low.iter().all(|port| (1..512).contains(port)), "{low:?}");
            let middle: Vec<u16> = Candidates::new(600, &mut Prng::new(seed)).skip(1).collect();
            assert!(middle.iter().all(|port| (600..1024).contains(port)), "{middle:?}");
        }
    }

    #[test]
    fn a_rung_is_consecutive_and_wraps_inside_the_range() {
        let mut ports = Candidates::new(2_000, &mut Prng::new(0));
        ports.starts[0] = 64_511;
        let rung: Vec<u16> = ports.skip(1).take(3).collect();
        assert_eq!(rung, [65_535, 1024, 1025]);
    }
}
