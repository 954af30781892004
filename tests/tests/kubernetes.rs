//! The Service suite: upstream's scenarios on real clusters, one with tunway and one with kube-proxy, judged by the
//! answers clients get. kube-proxy judges the scenarios: one that fails there is wrong.
//!
//! `--proxy tunway|kube-proxy|both`; name filters as the standard harness has them.
#![cfg(feature = "control")]
#![allow(clippy::print_stdout, reason = "the table is read by a person")]
#![allow(clippy::print_stderr, reason = "a usage error is told there")]

use std::process::ExitCode;

/// The files of `kubernetes/`.
mod kubernetes {
    pub(crate) mod arguments;
    pub(crate) mod client;
    pub(crate) mod faults;
    pub(crate) mod kit;
    pub(crate) mod objects;
    pub(crate) mod pending;
    pub(crate) mod report;
    pub(crate) mod scenarios;
    pub(crate) mod table;
    pub(crate) mod walkthrough;
    pub(crate) mod ways;
}

use kubernetes::{client, faults, kit, objects, table, walkthrough, ways};

fn main() -> ExitCode {
    table::main(&kubernetes::scenarios::all(), kubernetes::pending::PENDING)
}
