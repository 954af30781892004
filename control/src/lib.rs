//! tunway's control plane, and the pieces of its binary.
//!
//! The way of one event, from an object's change to the packets that follow it:
//!
//! ```text
//! API server ─► watch      list and watch, back-off, trimming      ┐ the same Events,
//! directory  ─► source     documents, watched                      ┘ each object read by model
//! run        ─► lifecycle  the loop: events, publishes, repairs, questions, the stop
//!               desired    the objects there are; a list replaces what was known at once
//!               publish    now, or when 50 ms have passed since the last time
//!               categorize which endpoints of a Service may be used, and why not the others
//!               compile    what changed → the next snapshot, with ids that stay
//!               state      given to the workers (dataplane::plane)
//!               node       routes for new addresses; rules and routes put back when somebody removes them
//! socket     ─► state      what is served, which flows there are, what is wrong
//! ```
//!
//! [`config`] and [`cli`] say what to run, [`demo`] runs it all on a small cluster of namespaces ([`netns`]).

pub mod categorize;
pub mod cli;
pub mod compile;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod desired;
pub mod explain;
pub mod health;
pub mod ids;
pub mod model;
mod nearest;
pub mod netns;
mod nft;
pub mod node;
pub mod publish;
pub mod run;
pub mod shown;
pub mod signal;
pub mod socket;
pub mod source;
pub mod watch;

#[cfg(test)]
mod fixtures;
