//! Conntrack: one table of flows for all workers, in memory that is never allocated, locked or waited for.
//!
//! A flow is one *record* for both directions, found by two *words* in an *index*: one for the forward tuple
//! (client to VIP), one for the reply tuple (endpoint to client or SNAT address), both as they arrive. Any
//! worker finds either.
//!
//! ```text
//! tuple ─ key ─ hash ─┬─ home bucket ─┐    word: tag | generation | committed | dir | ix
//!                     └─ home bucket ─┴──► record[ix]: ver, seq | state | both tuples | delta | meta     ledger[ix]
//! ```
//!
//! - **Look-up** (`flow/table.rs`) reads at most two index lines and one record, under the record's sequence
//!   lock and against the word's generation. Whatever does not fit is a miss; it never looks twice.
//! - **Open** (`flow/open.rs`) writes a record nobody can see, then claims the reply tuple, then the forward
//!   tuple. A *claim* (`flow/index.rs`) puts a tentative word, fences, and looks for rivals: committed ones
//!   win, undecided ones go by position.
//! - **Touch** (`flow/state.rs`) is a look at one word, and a compare-and-swap only in another second or with
//!   a new flag.
//! - **Ending** a flow is a compare-and-swap of DEAD into the exact state that was judged; only then its
//!   words go. Only the owner of the record's chunk (`flow/arena.rs`) makes it free again, by the hand of
//!   `flow/sweep.rs`.
//! - Everything lies in one mapped region (`flow/region.rs`), by offsets, every index masked.
//!
//! What holds at any moment:
//! 1. at most one committed word per key of a live flow; a tentative word serves no look-up;
//! 2. a reader returns a pair of tuples only if `ver` was even and unchanged around the copy, the generation
//!    is the word's, and the key is the packet's;
//! 3. only a chunk's owner writes and frees its records; anybody may touch, kill, and unlink what is dead;
//! 4. nothing is unlinked but what was made DEAD from the state that was judged (or LINGER, forward word
//!    only; its reply word may be handed over, and is never gone in between); a record is free only after
//!    both words are gone and `ver` has moved;
//! 5. the reply word is committed before the forward word, and nothing leaves the host before that;
//! 6. no two live flows share a reply tuple;
//! 7. a flag set by one worker is never lost to another's touch; a tick never moves backwards;
//! 8. an endpoint's counter (`flow/loads.rs`) is the number of its flows with COUNTED.

mod arena;
mod belief;
mod hash;
mod held;
mod index;
mod key;
mod ledger;
mod limit;
mod loads;
mod map;
mod open;
mod place;
mod prefetch;
mod record;
mod region;
mod sctp;
mod state;
mod sweep;
mod table;
mod tcp;
mod ttl;
mod word;

#[cfg(test)]
#[cfg(not(tunway_loom))]
mod kit;
#[cfg(test)]
#[cfg(tunway_loom)]
mod loom_tests;
#[cfg(test)]
#[cfg(not(tunway_loom))]
mod place_tests;
#[cfg(test)]
#[cfg(not(tunway_loom))]
mod stress_tests;
#[cfg(test)]
#[cfg(not(tunway_loom))]
mod sweep_tests;
#[cfg(test)]
#[cfg(not(tunway_loom))]
mod table_tests;

pub use arena::Chunks;
pub use hash::Hash;
pub use key::{Key, Tops};
pub use loads::Loads;
pub use open::{Abandoned, ENOUGH, Met, NewFlow, Opened};
pub use place::{DEFAULT_DIRS, Placement, RegionConfig, RegionError, file_name};
pub use record::Expected;
pub use region::{Region, region_bytes};
pub use state::epoch_is_newer;
pub use sweep::Swept;
pub use table::{FlowView, Hit, Table};
pub use ttl::{TtlError, Ttls};
pub use word::Dir;
