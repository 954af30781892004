//! What the benchmarks share: worlds to measure in, loads, samples and reports.

pub mod balance;
pub mod null;
pub mod wire;
pub mod world;
