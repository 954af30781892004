//! The host plan on the real kernel, each test in a host of its own: what is made, that it comes back whatever is
//! done to it, that nothing loops, what preflight finds, and that cleanup leaves what was there before.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program; the harness is its own")]

use std::process::ExitCode;

#[path = "root/cleanup.rs"]
mod cleanup;
#[path = "root/conntrack.rs"]
mod conntrack;
#[path = "root/conntrack_preflight.rs"]
mod conntrack_preflight;
#[path = "root/former.rs"]
mod former;
#[path = "root/host.rs"]
mod host;
#[path = "root/local.rs"]
mod local;
#[path = "root/lookout.rs"]
mod lookout;
#[path = "root/loops.rs"]
mod loops;
#[path = "root/plan.rs"]
mod plan;
#[path = "root/preflight.rs"]
mod preflight;
#[path = "root/repair.rs"]
mod repair;
#[path = "root/runner.rs"]
mod runner;
#[path = "root/take_over.rs"]
mod take_over;

fn main() -> ExitCode {
    runner::main(&[
        ("plan::install_and_attract_make_exactly_the_plan", plan::install_and_attract_make_exactly_the_plan),
        ("plan::a_restart_finds_everything_in_place", plan::a_restart_finds_everything_in_place),
        ("plan::virtual_addresses_come_and_go", plan::virtual_addresses_come_and_go),
        ("plan::a_host_without_ipv6_gets_ipv4_only", plan::a_host_without_ipv6_gets_ipv4_only),
        ("plan::a_read_only_proc_sys_is_no_obstacle", plan::a_read_only_proc_sys_is_no_obstacle),
        (
            "plan::snat_addresses_that_cannot_work_are_refused",
            plan::snat_addresses_that_cannot_work_are_refused,
        ),
        ("plan::thousands_of_virtual_addresses", plan::thousands_of_virtual_addresses),
        ("repair::whatever_is_taken_away_comes_back", repair::whatever_is_taken_away_comes_back),
        ("repair::routes_follow_the_nodes_address", repair::routes_follow_the_nodes_address),
        (
            "repair::a_future_that_is_dropped_all_the_time_still_repairs",
            repair::a_dropped_future_still_repairs,
        ),
        ("repair::changes_that_are_not_ours_to_mind_are_left", repair::changes_not_ours_are_left),
        (
            "repair::what_could_not_be_attracted_is_tried_again",
            repair::what_could_not_be_attracted_is_tried_again,
        ),
        ("repair::a_deleted_device_is_an_error", repair::a_deleted_device_is_an_error),
        ("lookout::addresses_are_told_when_they_change", lookout::addresses_are_told_when_they_change),
        (
            "lookout::a_bridge_has_what_is_routed_out_of_it_and_more_specific_routes_elsewhere_win",
            lookout::a_bridge_has_what_is_routed_out_of_it_and_more_specific_routes_elsewhere_win,
        ),
        (
            "lookout::pods_behind_links_of_their_own_are_told_as_they_come_and_go",
            lookout::pods_behind_links_of_their_own_are_told_as_they_come_and_go,
        ),
        (
            "lookout::service_cidrs_that_come_are_routed_and_those_that_go_are_not",
            lookout::service_cidrs_that_come_are_routed_and_those_that_go_are_not,
        ),
        ("loops::where_sources_are_kept_neither", loops::where_sources_are_kept_neither),
        ("preflight::a_good_host_passes", preflight::a_good_host_passes),
        ("preflight::every_fault_is_named", preflight::every_fault_is_named),
        ("preflight::nothing_is_changed", preflight::nothing_is_changed),
        ("preflight::an_unprivileged_look_says_so", preflight::an_unprivileged_look_says_so),
        ("take_over::kube_proxys_leftovers_go_and_forward_opens", take_over::leftovers_go_and_forward_opens),
        ("take_over::legacy_iptables_too", take_over::legacy_iptables_too),
        ("conntrack::the_plan_is_exactly_this", conntrack::the_plan_is_exactly_this),
        ("conntrack::whatever_is_taken_away_comes_back", conntrack::whatever_is_taken_away_comes_back),
        ("conntrack::the_table_has_an_owner", conntrack::the_table_has_an_owner),
        ("conntrack::rules_follow_the_nodes_address", conntrack::rules_follow_the_nodes_address),
        ("conntrack::bridges_need_no_rules", conntrack::bridges_need_no_rules),
        ("conntrack::no_program_is_needed", conntrack::no_program_is_needed),
        ("conntrack::cleanup_leaves_nothing", conntrack::cleanup_leaves_nothing),
        ("local::addresses_of_this_host_are_served_and_given_back", local::served_and_given_back),
        ("local::a_restart_goes_on_serving", local::restart_goes_on),
        ("conntrack::every_fault_is_named", conntrack_preflight::every_fault_is_named),
        ("conntrack::without_nft_it_starts", conntrack_preflight::without_nft_it_starts),
        ("conntrack::what_cannot_be_set_is_said", conntrack_preflight::what_cannot_be_set_is_said),
        ("former::a_start_replaces_it", former::a_start_replaces_it),
        ("former::from_every_step_there_is_a_way_back", former::every_step_has_a_way_back),
        ("former::nothing_is_lost_while_it_is_replaced", former::nothing_is_lost),
        ("cleanup::the_host_is_as_it_was", cleanup::the_host_is_as_it_was),
        ("cleanup::with_the_dataplanes_own_device", cleanup::with_the_dataplanes_own_device),
        ("cleanup::it_refuses_while_an_instance_runs", cleanup::it_refuses_while_an_instance_runs),
        ("cleanup::it_finishes_what_was_begun", cleanup::it_finishes_what_was_begun),
        ("cleanup::what_is_not_ours_stays", cleanup::what_is_not_ours_stays),
    ])
}
