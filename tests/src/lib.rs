//! tunway's test harness: packets built and judged by an independent library, a naive model of Service NAT,
//! TCP stacks on a virtual clock, network namespaces with the real kernel, and the binary under test.
//!
//! The suites are in `tests/tests/`; `tests/run` runs them layer by layer.
#![allow(clippy::print_stdout, reason = "what a test prints is read by a person, or summed by tests/run")]

pub mod alloc;
#[cfg(feature = "control")]
pub mod apiserver;
pub mod bin;
pub mod check;
pub mod cluster;
pub mod fuzz;
pub mod gateway;
pub mod http;
#[cfg(feature = "control")]
pub mod kubernetes;
pub mod netns;
pub mod oracle;
pub mod packets;
pub mod peer;
pub mod runner;
pub mod script;
pub mod world;
