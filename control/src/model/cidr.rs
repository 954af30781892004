//! ServiceCIDRs: where the API server takes ClusterIPs from.

use crate::model::object as api;
use crate::model::{Reading, Report, ServiceCidr, ip};

/// Reads a ServiceCIDR. One that is being deleted counts until it is gone: its Services are still there.
#[must_use]
pub(crate) fn read(object: &api::ServiceCIDR) -> Reading<ServiceCidr> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut report = Report::new(format!("ServiceCIDR {name}"));
    let given = &object.cidrs;
    let mut cidrs = Vec::with_capacity(given.len());
    for (at, text) in given.iter().enumerate() {
        match ip::parse_prefix(text) {
            Some(cidr) if cidr.1 >= ip::shortest_service_range(cidr.0) => cidrs.push(cidr),
            Some((addr, _)) => report.invalid(
                format!("spec.cidrs[{at}]"),
                format!("{text} is wider than any Service range; it is left out"),
                format!("a prefix of at least /{}", ip::shortest_service_range(addr)),
            ),
            None => report.invalid(
                format!("spec.cidrs[{at}]"),
                format!("{text:?} is no CIDR; it is left out"),
                "write an address and a prefix length, as 10.96.0.0/16",
            ),
        }
    }
    report.reading(Some(ServiceCidr { name, cidrs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_families_are_read_and_nonsense_is_told() {
        let object = json!({
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.7/16", "fd00:96::/112", "10.96.0.0", "::ffff:10.0.0.0/104", "10.0.0.0/7", "fd00::/31"]},
        });
        let reading = read(&serde_json::from_value(object).unwrap());
        let value = reading.value.unwrap();
        assert_eq!(value.name, "kubernetes");
        assert_eq!(value.cidrs, [("10.96.0.0".parse().unwrap(), 16), ("fd00:96::".parse().unwrap(), 112)]);
        let fields: Vec<_> = reading.problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, ["spec.cidrs[2]", "spec.cidrs[3]", "spec.cidrs[4]", "spec.cidrs[5]"]);
    }

    #[test]
    fn one_without_a_spec_has_none() {
        let reading = read(&api::ServiceCIDR::default());
        assert!(reading.value.unwrap().cidrs.is_empty() && reading.problems.is_empty());
    }
}
