//! How often a packet is written to the device: once for each time it is read, and no packet of ours comes back.

use std::fmt;
use std::thread;
use std::time::{Duration, SystemTime};

use control::socket::wire::Counters;

use crate::matrix::{Cell, Seen, ask};
use crate::rows::{Row, Source};
use crate::site::Site;

/// What all rows together did.
pub(crate) struct Loops {
    exchanges: u64,
    written: u64,
    most: u64,
}

/// Cells of one datagram there and one back, one after another, so that what both instances count is this cell's.
///
/// # Panics
/// When a packet was not written once.
pub(crate) fn one_by_one(site: &Site, rows: &[Row], cells: &[Cell]) -> (Seen, Loops) {
    let mut seen = Seen::new();
    let mut loops = Loops { exchanges: 0, written: 0, most: 0 };
    let mut last = written(site);
    let first = last;
    for cell in cells {
        let row = rows[cell.row];
        let outcome = ask(site, rows, *cell);
        let wanted = match row.wanted(site.style).tunway {
            Source::Client | Source::Node(_) => 2,
            // Nobody answers it.
            Source::Astray => 1,
            Source::Dropped => 0,
        };
        // The answer is here before it is counted.
        let begun = SystemTime::now();
        let mut now = written(site);
        while now < last + wanted && begun.elapsed().unwrap_or_default() < COUNTED_BY {
            thread::sleep(Duration::from_millis(1));
            now = written(site);
        }
        if matches!(outcome, Ok(seen) if seen.is_some() == (wanted == 2)) {
            assert_eq!(now - last, wanted, "{row}, IPv6 {}: writes of a datagram and its answer", cell.v6);
        }
        loops.exchanges += 1;
        loops.most = loops.most.max(now - last);
        last = now;
        seen.insert(*cell, outcome);
    }
    // What still came round would be counted by now.
    thread::sleep(Duration::from_millis(100));
    loops.written = written(site) - first;
    assert_eq!(written(site), last, "something is written again and again");
    (seen, loops)
}

/// What both instances have written so far.
fn written(site: &Site) -> u64 {
    let of = |node| {
        let Counters { counters, .. } = site.counters(node);
        ["translated", "passed", "replied"].iter().map(|name| counters[*name]).sum::<u64>()
    };
    of(1) + of(2)
}

impl fmt::Display for Loops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exchanges, written, most } = self;
        write!(f, "{exchanges} exchanges of two packets made {written} writes, at most {most} each")
    }
}

/// Written packets are counted within this time.
const COUNTED_BY: Duration = Duration::from_secs(1);
