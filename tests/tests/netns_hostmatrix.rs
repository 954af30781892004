//! The return path by connection marks on the real kernel: two nodes that each run the real binary, two pods on each,
//! and a client outside. Every way a packet can take to a Service, in both families, pods routed or on a bridge; of
//! every cell both is checked, that it is delivered, and which source the server saw: the one that it sees with kernel
//! NAT and kube-proxy's rules on the same site.
#![cfg(feature = "control")]
#![allow(clippy::print_stdout, reason = "the table of what was measured is what a reader wants")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::process::ExitCode;

#[path = "netns_hostmatrix/hostile.rs"]
mod hostile;
#[path = "netns_hostmatrix/kept.rs"]
mod kept;
#[path = "netns_hostmatrix/matrix.rs"]
mod matrix;
#[path = "netns_hostmatrix/others.rs"]
mod others;
#[path = "netns_hostmatrix/reference.rs"]
mod reference;
#[path = "netns_hostmatrix/refused.rs"]
mod refused;
#[path = "netns_hostmatrix/rows.rs"]
mod rows;
#[path = "netns_hostmatrix/services.rs"]
mod services;
#[path = "netns_hostmatrix/site.rs"]
mod site;
#[path = "netns_hostmatrix/state.rs"]
mod state;
#[path = "netns_hostmatrix/stories.rs"]
mod stories;
#[path = "netns_hostmatrix/traffic.rs"]
mod traffic;
#[path = "netns_hostmatrix/writes.rs"]
mod writes;

fn main() -> ExitCode {
    tests::runner::main(&[
        ("every_way_in_with_routed_pods", matrix::routed),
        ("every_way_in_with_pods_on_a_bridge", matrix::bridged),
        ("every_way_in_on_a_hostile_host", matrix::hostile),
        ("a_bridge_that_hides_its_packets_fails_and_is_named", refused::fails_and_is_named),
        (
            "a_firewall_that_checks_sources_strictly_fails_and_is_named",
            refused::strict_firewall_fails_and_is_named,
        ),
        ("a_kill_harms_no_direct_connection_and_a_repair_none_at_all", stories::killed_and_repaired),
        ("a_smaller_mtu_is_learned_for_the_service", stories::path_mtu),
        ("rules_of_others_do_no_harm", others::rules_of_others_do_no_harm),
        ("one_tuple_directly_and_by_the_service", others::one_tuple_directly_and_by_the_service),
        ("a_denied_client_stays_denied", others::a_denied_client_stays_denied),
        ("open_flows_outlive_their_frontends", kept::open_flows_outlive_their_frontends),
        ("cleanup_leaves_both_nodes_as_they_were", stories::cleanup),
    ])
}
