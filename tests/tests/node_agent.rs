//! The node agent that stands in for the kubelet, against the real control plane: pods that Deployments make run, are
//! attached, probed, restarted and ended as Kubernetes has it. Root only.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests end by panics, and print what they measured"
)]

use std::process::ExitCode;

use tests::runner;

#[path = "node_agent/end.rs"]
mod end;
#[path = "node_agent/kit.rs"]
mod kit;
#[path = "node_agent/life.rs"]
mod life;
#[path = "node_agent/network.rs"]
mod network;

fn main() -> ExitCode {
    runner::main(&[
        ("a_deployment_runs_on_two_nodes_and_is_reached", network::deployment),
        ("programs_of_a_pod_have_its_names_and_addresses", network::names),
        ("answers_of_a_host_process_leave_from_the_address_that_was_asked", network::host_process),
        ("readiness_is_what_probes_and_gates_say", life::readiness),
        ("containers_start_in_order_and_again", life::containers),
        ("what_cannot_start_says_why", life::refused),
        ("a_pod_ends_gracefully_and_its_name_is_free", end::graceful),
        ("pods_survive_the_api_server", end::survive),
        ("many_pods_start_beside_each_other_and_nothing_is_left", end::many),
    ])
}
