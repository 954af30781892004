//! Fuzz targets: functions that take any bytes and panic when tunway did something wrong with them.
//!
//! `tests/fuzz` has libFuzzer's entry points, one line each. The corpora in `tests/fuzz/corpus/TARGET` and the
//! findings in `tests/regress/TARGET` are replayed by `tests/tests/regress.rs` with the toolchain everything else is
//! built with.

#[cfg(feature = "control")]
pub mod config;
#[cfg(feature = "control")]
pub mod documents;
mod draw;
pub mod engine;
pub mod frames;
#[cfg(feature = "control")]
pub mod objects;
pub mod region;
#[cfg(feature = "control")]
pub mod socket;
#[cfg(feature = "control")]
mod world;

pub use draw::Draw;

/// A target: what folders call it, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("frames", frames::run),
    ("engine", engine::run),
    ("region", region::run),
    #[cfg(feature = "control")]
    ("config", config::run),
    #[cfg(feature = "control")]
    ("documents", documents::run),
    #[cfg(feature = "control")]
    ("objects", objects::run),
    #[cfg(feature = "control")]
    ("socket", socket::run),
];
