//! The scenarios: the upstream Service suite for ClusterIPs, by theme, each under upstream's words, shortened.

use crate::client::Proto;
use crate::kit::Outcome;
use crate::objects::Family;
use crate::table::Scenario;
use crate::ways::Way;
use crate::{faults, walkthrough};

mod affinity;
mod disrupt;
mod external;
mod families;
mod invalid;
mod labels;
mod large;
mod loadbalancer;
mod matrix;
mod names;
mod nodeport;
mod policies;
mod policy;
mod readiness;
mod refuse;
mod rollout;
mod services;
mod slices;
mod source;
mod topology;
mod udp;

use udp::Client;

/// Node 1's node ports.
const NODE: Way = Way::NodePort(0);

/// A load balancer that sends everything to node 1.
const BALANCED: Way = Way::LoadBalancer(0);

/// All of them, in the order of the table.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut group = |name, rows: Vec<Scenario>| all.extend(rows.into_iter().map(|row| row.group(name)));
    group(
        "walkthrough",
        vec![
            Scenario::new("walkthrough", walkthrough::tell),
            Scenario::new("walkthrough_of_any_cluster", walkthrough::of_any_cluster),
        ],
    );
    group("services", services());
    group("who asks", who_asks());
    group("readiness", readiness());
    group("affinity", affinity());
    group("labels and ranges", labels());
    group("internal traffic policy", policy());
    group("names", names());
    group("endpoint slices", slices());
    group("dual-stack", dual_stack());
    group("large requests", large());
    group("connection tracking", tracking());
    group("rollout", rollout());
    group("node ports", node_ports());
    group("load balancers", load_balancers());
    group("external addresses", external());
    group("external traffic policy", policies());
    group("topology", topology());
    group("disruptive", disruptive());
    group("API faults", api_faults());
    all
}

fn services() -> Vec<Scenario> {
    vec![
        Scenario::new("serve_a_basic_endpoint_from_pods", |site| services::basic_endpoint(site, Family::V4)),
        Scenario::new("serve_multiport_endpoints_from_pods", |site| services::multiport(site, Family::V4)),
        Scenario::new("be_updated_after_adding_or_deleting_ports", services::updated_ports),
        Scenario::new(
            "serve_endpoints_on_same_port_and_different_protocols",
            services::same_port_two_protocols,
        ),
        Scenario::new("work_after_the_service_has_been_recreated", services::recreated),
        Scenario::new("be_able_to_up_and_down_services", services::up_and_down),
        Scenario::new("multiple_services_with_same_selector_one_deleted", services::one_selector_twice),
        Scenario::new("update_endpoints_http_and_udp", services::update_endpoints),
        Scenario::new("connections_outlive_endpoint_and_service", services::connections_outlive_changes),
        Scenario::new("provide_secure_master_service", services::api_server),
        Scenario::new("allow_creating_a_basic_sctp_service", services::sctp),
        Scenario::new("serve_a_chosen_cluster_ip", services::chosen_address),
        Scenario::new("be_rejected_when_no_endpoints_exist", refuse::no_endpoints),
        Scenario::new("be_rejected_for_evicted_pods", refuse::evicted_pods),
        Scenario::new("refuse_wrong_ports_and_drop_unallocated_addresses", refuse::wrong_port_and_nobody),
        Scenario::new("answer_a_ping_with_port_unreachable", refuse::ping),
    ]
}

fn who_asks() -> Vec<Scenario> {
    vec![
        Scenario::new("preserve_source_pod_ip", |site| source::pod_address_kept(site, Family::V4)),
        Scenario::new("allow_pods_to_hairpin_back_to_themselves", |site| source::hairpin(site, Family::V4)),
        Scenario::new("function_for_pod_service_http_and_udp", source::from_pods),
        Scenario::new("function_for_node_service_http_and_udp", source::from_nodes),
        Scenario::new("function_for_endpoint_service_http_and_udp", source::from_endpoints),
        Scenario::new("function_for_service_endpoints_using_host_network", source::host_network_endpoints),
        Scenario::new("function_for_host_network_clients", source::host_network_client),
        Scenario::new("pod_to_pod_without_snat", source::direct_traffic_untouched),
        Scenario::new("source_matrix_by_every_way_in", matrix::measured),
    ]
}

fn readiness() -> Vec<Scenario> {
    vec![
        Scenario::new("create_endpoints_for_unready_pods", readiness::unready_pods),
        Scenario::new("endpoints_follow_readiness", readiness::readiness_flaps),
        Scenario::new("terminating_and_unready_with_publish_not_ready", |site| {
            readiness::terminating_unready_published(site, Way::ClusterIp)
        }),
        Scenario::new("no_terminating_and_unready_without_publish_not_ready", |site| {
            readiness::terminating_unready_not_published(site, Way::ClusterIp)
        }),
        Scenario::new("fall_back_to_terminating_endpoints", readiness::terminating_fallback),
        Scenario::new("connectivity_to_and_from_terminating_pod", readiness::terminating_keeps_connections),
    ]
}

fn affinity() -> Vec<Scenario> {
    vec![
        Scenario::new("session_affinity_http_and_udp", |site| affinity::works(site, Way::ClusterIp)),
        Scenario::new("session_affinity_timeout", |site| {
            affinity::times_out(site, Way::ClusterIp, Proto::Tcp)
        }),
        Scenario::new("session_affinity_timeout_udp", |site| {
            affinity::times_out(site, Way::ClusterIp, Proto::Udp)
        }),
        Scenario::new("switch_session_affinity", |site| affinity::switches(site, Way::ClusterIp)),
        Scenario::new("session_affinity_leaves_a_deleted_endpoint", affinity::moves_with_its_endpoint),
    ]
}

fn labels() -> Vec<Scenario> {
    vec![
        Scenario::new("implement_service_proxy_name", labels::service_proxy_name),
        Scenario::new("implement_headless_label_on_slices", labels::headless_slice),
        // While there is a second range, anybody's Service may get an address of it.
        Scenario::new("serve_on_different_service_cidrs", labels::service_cidrs).alone(),
    ]
}

fn policy() -> Vec<Scenario> {
    vec![
        Scenario::new("respect_internal_traffic_policy_local", policy::respected),
        Scenario::new("internal_traffic_policy_local_own_endpoints", policy::own_endpoints_only),
        Scenario::new("internal_traffic_policy_local_host_network", policy::host_network_endpoint),
        Scenario::new("fall_back_to_local_terminating_endpoints", policy::local_fallback),
        Scenario::new("udp_when_server_pod_cycles_policy_local", udp::server_pod_cycles_locally),
    ]
}

fn names() -> Vec<Scenario> {
    vec![
        Scenario::new("dns_over_udp_and_tcp", names::resolve),
        Scenario::new("change_type_from_external_name_to_cluster_ip", names::external_name_to_cluster_ip),
        Scenario::new("change_type_from_cluster_ip_to_external_name", names::cluster_ip_to_external_name),
        Scenario::new("change_type_from_headless_to_cluster_ip", names::headless_and_back),
    ]
}

fn slices() -> Vec<Scenario> {
    vec![
        Scenario::new("multiple_endpoint_ips_in_multiple_slices", slices::several_slices),
        Scenario::new("multiple_ports_in_multiple_slices", slices::several_ports),
        Scenario::new("mirror_a_custom_endpoint", slices::mirrored),
        Scenario::new(
            "mirror_a_custom_endpoint_with_several_subsets_of_one_address",
            slices::mirrored_subsets,
        ),
        Scenario::new("named_target_ports_resolve_to_different_ports", slices::named_ports_differ),
        Scenario::new("ports_of_restartable_init_containers", slices::sidecar_ports),
    ]
}

fn dual_stack() -> Vec<Scenario> {
    vec![
        Scenario::new("secondary_serve_a_basic_endpoint", |site| services::basic_endpoint(site, Family::V6)),
        Scenario::new("secondary_serve_multiport_endpoints", |site| services::multiport(site, Family::V6)),
        Scenario::new("secondary_preserve_source_pod_ip", |site| source::pod_address_kept(site, Family::V6)),
        Scenario::new("secondary_hairpin", |site| source::hairpin(site, Family::V6)),
        Scenario::new("secondary_udp_when_server_pod_cycles", |site| {
            udp::server_pod_cycles(site, Way::ClusterIp, Family::V6, Client::Pod, [0, 1])
        }),
        Scenario::new("cluster_ip_family_variants", families::variants),
        Scenario::new("second_family_comes_and_goes", families::second_family_comes_and_goes),
        Scenario::new("endpoints_of_one_family_only", families::families_are_apart),
    ]
}

fn large() -> Vec<Scenario> {
    vec![
        Scenario::new("handle_large_requests_http", large::http),
        Scenario::new("handle_large_requests_udp", large::udp),
        Scenario::new("handle_datagrams_around_the_mtu", large::udp_around_the_mtu),
    ]
}

fn tracking() -> Vec<Scenario> {
    vec![
        Scenario::new("udp_when_server_pod_cycles", |site| udp::server_pod_cycles(site, Way::ClusterIp, Family::V4, Client::Pod, [0, 1])),
        Scenario::new("udp_when_server_pod_cycles_host_client", |site| {
            udp::server_pod_cycles(site, Way::ClusterIp, Family::V4, Client::HostPod, [0, 1])
        }),
        Scenario::new("udp_when_initial_unready_endpoints_get_ready", udp::unready_becomes_ready),
        Scenario::new("udp_client_older_than_the_service", udp::client_before_service),
        Scenario::new("udp_when_target_port_changes", |site| udp::target_port_changes(site, Way::ClusterIp)),
        Scenario::new("udp_flows_of_others_stay", udp::others_do_not_move_it),
        Scenario::new("not_vulnerable_to_invalid_conntrack_state", |site| {
            invalid::out_of_window(site, false)
        }),
        Scenario::new("segments_ahead_of_the_window", |site| invalid::out_of_window(site, true)).beyond(
            "to conntrack they are INVALID, they reach the client with the pod's address, and it resets (k/k #74839)",
        ),
    ]
}

fn rollout() -> Vec<Scenario> {
    vec![
        Scenario::new("zero_downtime_rolling_update", rollout::rolling_update),
        Scenario::new("zero_downtime_blue_green_with_readiness_gates", rollout::blue_green_gates),
        Scenario::new("zero_downtime_blue_green_by_selector", rollout::blue_green),
        Scenario::new("service_endpoints_latency", rollout::endpoints_latency),
    ]
}

fn node_ports() -> Vec<Scenario> {
    vec![
        Scenario::new("functioning_node_port_from_everywhere", nodeport::from_everywhere),
        Scenario::new("node_ports_of_two_protocols_on_one_port", nodeport::same_port_two_protocols),
        Scenario::new("change_type_between_external_name_and_node_port", nodeport::external_name_and_back),
        Scenario::new("change_type_between_cluster_ip_and_node_port", nodeport::cluster_ip_and_back),
        Scenario::new("update_node_port_http_and_udp", nodeport::number_changes),
        Scenario::new("node_port_be_rejected_when_no_endpoints_exist", nodeport::no_endpoints),
        Scenario::new("node_port_leaves_other_addresses_alone", nodeport::other_addresses_untouched),
        Scenario::new("node_port_leaves_other_ports_alone", nodeport::ports_of_the_host),
        Scenario::new("node_port_terminating_and_unready_with_publish_not_ready", |site| {
            readiness::terminating_unready_published(site, NODE)
        }),
        Scenario::new("node_port_no_terminating_and_unready_without_publish_not_ready", |site| {
            readiness::terminating_unready_not_published(site, NODE)
        }),
        Scenario::new("node_port_session_affinity_http_and_udp", |site| affinity::works(site, NODE)),
        Scenario::new("node_port_session_affinity_timeout", |site| {
            affinity::times_out(site, NODE, Proto::Tcp)
        }),
        Scenario::new("node_port_switch_session_affinity", |site| affinity::switches(site, NODE)),
        Scenario::new("node_port_udp_when_server_pod_cycles", |site| {
            udp::server_pod_cycles(site, NODE, Family::V4, Client::Pod, [0, 1])
        }),
        Scenario::new("node_port_udp_when_server_pod_cycles_outside_client", |site| {
            udp::server_pod_cycles(site, NODE, Family::V6, Client::Outside, [0, 1])
        }),
        Scenario::new("node_port_udp_when_target_port_changes", |site| udp::target_port_changes(site, NODE)),
    ]
}

fn load_balancers() -> Vec<Scenario> {
    vec![
        Scenario::new("load_balancer_change_type_and_ports", loadbalancer::change_type_and_ports),
        Scenario::new("load_balancer_source_ranges", loadbalancer::source_ranges),
        Scenario::new("load_balancer_without_node_ports", loadbalancer::without_node_ports),
        Scenario::new("load_balancer_address_of_a_node", loadbalancer::address_of_the_node),
        Scenario::new("load_balancer_session_affinity_cluster", |site| {
            loadbalancer::affinity(site, "Cluster")
        }),
        Scenario::new("load_balancer_session_affinity_local", |site| loadbalancer::affinity(site, "Local")),
        Scenario::new("load_balancer_external_traffic_policy_local", loadbalancer::local),
        Scenario::new("load_balancer_with_ip_mode_proxy", loadbalancer::mode_proxy),
        Scenario::new("load_balancer_udp_when_server_pod_cycles_different_nodes", |site| {
            udp::server_pod_cycles(site, BALANCED, Family::V4, Client::Outside, [0, 1])
        }),
        Scenario::new("load_balancer_udp_when_server_pod_cycles_same_node", |site| {
            udp::server_pod_cycles(site, BALANCED, Family::V4, Client::Outside, [1, 1])
        }),
        Scenario::new("load_balancer_no_disruption_in_rolling_update_cluster", |site| {
            rollout::rolling_update_by_load_balancer(site, "Cluster")
        }),
        Scenario::new("load_balancer_no_disruption_in_rolling_update_local", |site| {
            rollout::rolling_update_by_load_balancer(site, "Local")
        }),
    ]
}

fn external() -> Vec<Scenario> {
    vec![
        Scenario::new("external_ip_not_assigned_to_a_node", external::not_of_a_node),
        Scenario::new("external_ip_assigned_to_a_node", external::of_a_node),
        Scenario::new("external_ip_external_traffic_policy_local", external::local),
    ]
}

fn policies() -> Vec<Scenario> {
    vec![
        Scenario::new("node_port_external_traffic_policy_local", policies::local),
        Scenario::new("node_port_fall_back_to_terminating_endpoints_cluster", policies::terminating_fallback),
        Scenario::new(
            "node_port_fall_back_to_terminating_endpoints_local",
            policies::local_terminating_fallback,
        ),
        Scenario::new(
            "fail_health_check_node_port_with_only_terminating",
            policies::health_check_of_terminating,
        ),
        Scenario::new("node_port_and_health_check_when_policy_changes", policies::policy_changes),
    ]
}

fn topology() -> Vec<Scenario> {
    vec![
        Scenario::new("traffic_distribution_same_zone", topology::same_zone),
        Scenario::new("traffic_distribution_same_node", topology::same_node),
        Scenario::new("topology_mode_auto", topology::mode_auto),
        Scenario::new("hints_by_hand_zones_and_nodes", topology::hints_by_hand),
        // Everybody's hints would count for another zone.
        Scenario::new("zone_of_a_node_changes", topology::zone_changes).alone(),
    ]
}

fn disruptive() -> Vec<Scenario> {
    vec![
        Scenario::new("work_after_restarting_the_proxy", |site| disrupt::proxy_restarted(site, false))
            .alone(),
        Scenario::new("work_after_killing_the_proxy", |site| disrupt::proxy_restarted(site, true)).alone(),
        Scenario::new("work_after_restarting_apiserver", disrupt::api_server_restarted).alone(),
    ]
}

fn api_faults() -> Vec<Scenario> {
    vec![
        Scenario::new("api_server_killed", faults::api_server_killed).alone(),
        Scenario::new("etcd_compacted_and_watch_expired", faults::watch_expired).alone(),
        Scenario::new("api_server_slow", faults::slow_api_server).alone(),
        Scenario::new("network_to_api_server_cut", faults::network_cut).alone(),
        Scenario::new("two_thousand_services_at_once", faults::many_services).alone(),
    ]
}

/// A counter of the kernel, of the namespace this thread is in: `/proc/net/snmp`.
pub(crate) fn snmp(protocol: &str, name: &str) -> Outcome<u64> {
    counter("snmp", protocol, name)
}

/// One of `/proc/net/snmp`, or of `/proc/net/netstat`.
fn counter(file: &str, protocol: &str, name: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
    let (names, values) = rows.next().zip(rows.next()).ok_or("no such protocol")?;
    let found = names.split(' ').zip(values.split(' ')).find(|(one, _)| *one == name);
    let (_, value) = found.ok_or_else(|| format!("no counter {protocol}.{name}"))?;
    Ok(value.parse()?)
}
