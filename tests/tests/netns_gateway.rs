//! The real binary on the real kernel: a client, a gateway that runs `tunway run`, and two backends, each a network
//! namespace; nginx behind a ClusterIP, busybox, curl and iperf3 in front of it.
#![cfg(feature = "control")]
#![allow(clippy::print_stdout, reason = "a failed story shows what tunway said")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::process::ExitCode;

#[path = "netns_gateway/bulk.rs"]
mod bulk;
#[path = "netns_gateway/instance.rs"]
mod instance;
#[path = "netns_gateway/kubernetes.rs"]
mod kubernetes;
#[path = "netns_gateway/large.rs"]
mod large;
#[path = "netns_gateway/refuse.rs"]
mod refuse;
#[path = "netns_gateway/sctp.rs"]
mod sctp;
#[path = "netns_gateway/serve.rs"]
mod serve;
#[path = "netns_gateway/site.rs"]
mod site;
#[path = "netns_gateway/sources.rs"]
mod sources;
#[path = "netns_gateway/udp.rs"]
mod udp;

fn main() -> ExitCode {
    tests::runner::main(&[
        ("pages_come_through_the_service_address_and_from_nowhere_else", serve::pages),
        ("a_source_port_may_be_used_again_and_again", serve::port_reuse),
        ("a_sticky_service_keeps_its_clients", serve::session_affinity),
        ("a_smaller_mtu_behind_the_gateway_is_learned", serve::path_mtu),
        ("bulk_goes_through_as_super_packets_at_mtu_1500", bulk::mtu_1500),
        ("bulk_goes_through_as_super_packets_at_mtu_9000", bulk::mtu_9000),
        ("datagrams_are_echoed_and_move_when_their_endpoint_is_withdrawn", udp::echo_and_move),
        ("a_burst_nobody_reads_is_counted", udp::burst),
        ("datagrams_of_64_kib_cross_links_of_1500_bytes_both_ways", large::datagrams),
        ("a_stream_to_a_withdrawn_endpoint_finishes", udp::stream_finishes),
        ("backends_see_local_pods_and_the_gateway_for_everybody_else", sources::detected),
        ("what_is_not_served_is_refused_or_dropped", refuse::refused),
        ("a_broken_manifest_keeps_the_last_good_state", refuse::broken_manifest),
        ("a_packet_for_nobody_crosses_the_device_once", refuse::strangers),
        ("sctp_is_right_to_the_kernels_connection_tracking", sctp::judged_by_the_kernel),
        ("a_second_instance_is_refused", instance::second),
        ("a_stop_leaves_the_steering_and_cleanup_takes_it", instance::stop_and_cleanup),
        ("usage_errors_exit_64", instance::usage),
        ("after_a_kill_with_the_api_gone_nothing_is_refused", kubernetes::killed_and_alone),
        ("the_api_is_read_as_the_role_allows", kubernetes::reads),
    ])
}
