//! Packet by packet against kernel NAT: the same generated packets go through kube-proxy-like nftables rules and
//! through the real binary, in two network namespaces with the same addresses, and so do a server's answers. What
//! leaves must be equal byte for byte, but for what `kernel_nat/except.rs` lists with a reason.
//!
//! `TUNWAY_SEED=N` repeats a run, `TUNWAY_CASES=N` makes it longer or shorter.
#![cfg(feature = "control")]
#![allow(clippy::print_stdout, reason = "what was compared is what a reader wants")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::process::ExitCode;

#[path = "kernel_nat/except.rs"]
mod except;
#[path = "kernel_nat/generate.rs"]
mod generate;
#[path = "kernel_nat/run.rs"]
mod run;
#[path = "kernel_nat/site.rs"]
mod site;

fn main() -> ExitCode {
    tests::runner::main(&[
        ("packets_and_answers_are_the_kernels_with_sources_kept", run::kept),
        ("packets_and_answers_are_the_kernels_with_a_snat_address", run::masqueraded),
    ])
}
