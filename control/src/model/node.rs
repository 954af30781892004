//! Our own Node: its zone, its addresses and its pods' CIDRs.

use crate::model::object as api;
use crate::model::{Node, Reading, Report, ip};

/// The label that says where a Node is; zone hints are compared with it.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Reads a Node. An empty zone label is no zone; InternalIP addresses come before ExternalIP ones.
#[must_use]
pub(crate) fn read(node: &api::Node) -> Reading<Node> {
    let name = node.metadata.name.clone().unwrap_or_default();
    let mut report = Report::new(format!("Node {name}"));
    if name.is_empty() {
        report.invalid("metadata.name", "a Node without a name cannot be ours", "give it a name");
        return report.reading(None);
    }
    let zone = node.metadata.labels.get(ZONE_LABEL);
    let mut addresses = Vec::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, (_, text)) in node.addresses.iter().enumerate().filter(|(_, (kind, _))| kind == wanted) {
            match ip::parse(text) {
                Some(addr) => addresses.push(addr),
                None => report.invalid(
                    format!("status.addresses[{index}].address"),
                    format!("{text:?} is not an IP address; it is left out"),
                    "write an IPv4 or IPv6 address",
                ),
            }
        }
    }
    let zone = zone.filter(|zone| !zone.is_empty()).cloned();
    let given = &node.pod_cidrs;
    let mut pod_cidrs = Vec::with_capacity(given.len());
    for (index, text) in given.iter().enumerate() {
        match ip::parse_prefix(text) {
            Some(cidr) => pod_cidrs.push(cidr),
            None => report.invalid(
                format!("spec.podCIDRs[{index}]"),
                format!("{text:?} is no CIDR; it is left out"),
                "write an address and a prefix length, as 10.244.1.0/24",
            ),
        }
    }
    report.reading(Some(Node { name, zone, addresses, pod_cidrs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn internal_addresses_come_first_and_bad_ones_are_told() {
        let node: api::Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {ZONE_LABEL: "a"}},
            "status": {"addresses": [
                {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
                {"type": "InternalIP", "address": "010.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
                {"type": "InternalIP", "address": "n1.local"},
            ]},
        }))
        .unwrap();
        let reading = read(&node);
        let value = reading.value.unwrap();
        assert_eq!((value.name.as_str(), value.zone.as_deref()), ("n1", Some("a")));
        assert_eq!(
            value.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.1", "fd00::1", "203.0.113.1"]
        );
        assert_eq!(reading.problems.len(), 1);
        assert_eq!(reading.problems[0].field, "status.addresses[4].address");
    }

    #[test]
    fn pod_cidrs_are_read_in_order() {
        let node = json!({
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64", "10.0.0.0/99"]},
        });
        let reading = read(&serde_json::from_value(node).unwrap());
        let cidrs: Vec<_> =
            reading.value.unwrap().pod_cidrs.iter().map(|(addr, len)| format!("{addr}/{len}")).collect();
        assert_eq!(cidrs, ["10.244.1.0/24", "fd00:244:1::/64"]);
        assert_eq!(reading.problems[0].field, "spec.podCIDRs[2]");
    }

    #[test]
    fn an_empty_zone_is_no_zone_and_a_nameless_node_is_none() {
        let node = json!({"metadata": {"name": "n1", "labels": {ZONE_LABEL: ""}}});
        let reading = read(&serde_json::from_value(node).unwrap());
        assert_eq!(reading.value, Some(Node { name: "n1".into(), ..Node::default() }));
        assert!(read(&api::Node::default()).value.is_none());
    }
}
