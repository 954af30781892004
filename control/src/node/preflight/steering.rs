//! What steering by routes of the local table needs of a host: that this table is looked up first; and with alias
//! destinations, that nobody is where these are, and a kernel that takes our nftables table.

use super::super::former;
use super::super::host::{NFT_TABLE, alias_ranges, belongs_to_another, check_table, refused};
use super::super::netlink::Netlink;
use super::super::plan::{LOCAL_TABLE, PROTOCOL, looks_up_local};
use super::super::rt::{Family, Prefix, Route, Rule};
use super::super::view::HostView;
use super::super::{Finding, HostConfig, NodeError, Steering};
use super::tracking;
use crate::model::ip::contains;

/// Everything of it.
pub(super) fn findings(
    config: &HostConfig,
    netlink: &mut Netlink,
    view: &HostView,
    capable: bool,
) -> Result<Vec<Finding>, NodeError> {
    let aliases = config.steering == Steering::Alias;
    let mut findings = if aliases { tracking::tracking(config, view) } else { Vec::new() };
    let device = view.link(&config.device).map(|link| link.index);
    for family in view.families() {
        let ranges = if aliases { alias_ranges(family) } else { Vec::new() };
        for address in view.addresses.iter().filter(|own| Family::of(own.address) == family) {
            findings.extend(in_the_way((address.address, family.bits()), "address", &ranges));
        }
        for table in [MAIN_TABLE, LOCAL_TABLE] {
            let routes = netlink.routes(family, table).map_err(refused("read the routes"))?;
            let others = routes.iter().filter(|route| route.protocol != PROTOCOL && route.destination.1 > 0);
            findings.extend(others.filter_map(|route| route_in_the_way(route, &ranges)).take(MOST));
        }
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        findings.extend(before_local(&rules));
    }
    if let Some(other) = former::owner(netlink)?.filter(|other| *other != config.device) {
        findings.push(Finding::fatal(
            "rules with protocol 77",
            format!("belong to a tunway on device {other}: one host has one"),
            format!("tunway cleanup --device {other}"),
        ));
    }
    if belongs_to_another(netlink, device).map_err(refused("read the local table"))? {
        findings.push(Finding::fatal(
            "routes of the local table with protocol 77",
            "lead to another device: one host has one tunway",
            "tunway cleanup --device NAME, as `ip route show table local proto 77` names it",
        ));
    }
    if capable && aliases {
        findings.extend(check_table(config, view).err().map(|error| {
            let remedy = "a kernel with nf_tables, nft_ct, nft_nat and nft_masq; or take returnPath: masquerade with \
                          snatAddresses";
            Finding::fatal(format!("nft table inet {}", NFT_TABLE), format!("cannot be written: {error}"), remedy)
        }));
        findings.extend(tracking::source_checks(config));
    }
    Ok(findings)
}

fn route_in_the_way(route: &Route, ranges: &[Prefix]) -> Option<Finding> {
    in_the_way(route.destination, "route", ranges)
}

/// Somebody uses what aliases need.
fn in_the_way(prefix: Prefix, what: &str, ranges: &[Prefix]) -> Option<Finding> {
    let range = ranges.iter().find(|range| contains(**range, prefix.0))?;
    let why = format!(
        "lies in {}/{}, where tunway has the aliases of addresses: replies would go there",
        range.0, range.1
    );
    let remedy = "take returnPath: masquerade with snatAddresses on a host that uses these addresses";
    Some(Finding::fatal(format!("{what} {}/{}", prefix.0, prefix.1), why, remedy))
}

/// Rules asked before the local table, which has our routes.
fn before_local(rules: &[Rule]) -> Vec<Finding> {
    let local = rules.iter().filter(|rule| looks_up_local(rule)).map(|rule| rule.preference).min();
    let Some(local) = local else { return Vec::new() };
    let before = rules.iter().filter(|rule| rule.preference < local && rule.protocol != PROTOCOL);
    let finding = |rule: &Rule| {
        let family = rule.family.ip_option();
        let why = format!(
            "is asked before the local table (rule {local}), which has the routes to tunway's device: what it matches never \
             comes here"
        );
        let remedy = format!(
            "give it a preference above {local}, or put `lookup local` back to 0: ip {family} rule add preference 0 lookup local"
        );
        Finding::warning(format!("ip {family} rule {}", rule.preference), why, remedy)
    };
    before.map(finding).take(MOST).collect()
}

/// The main table.
const MAIN_TABLE: u32 = 254;
/// Things of others named one by one.
const MOST: usize = 5;

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::rule::RuleAction;

    use super::*;

    fn rule(preference: u32, table: u32) -> Rule {
        Rule {
            family: Family::V4,
            preference,
            action: RuleAction::ToTable,
            table,
            goto: None,
            input: None,
            mark: None,
            protocol: 0,
            selective: false,
        }
    }

    #[test]
    fn rules_before_a_local_table_that_was_moved_are_named() {
        assert_eq!(before_local(&[rule(0, 255), rule(98, 51_820), rule(32_766, 254)]), []);
        let found = before_local(&[rule(9, 2004), rule(100, 255), rule(32_766, 254)]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].what.as_str(), found[0].fatal), ("ip -4 rule 9", false));
        assert!(found[0].remedy.contains("preference 0 lookup local"), "{}", found[0].remedy);
    }

    #[test]
    fn who_uses_the_range_of_aliases_is_named() {
        let ranges = alias_ranges(Family::V4);
        let found = in_the_way(("240.10.0.0".parse().unwrap(), 16), "route", &ranges).unwrap();
        assert!(found.fatal && found.why.contains("240.0.0.0/4"), "{found:?}");
        assert_eq!(in_the_way(("10.0.0.0".parse().unwrap(), 8), "route", &ranges), None);
        let ranges = alias_ranges(Family::V6);
        assert!(in_the_way(("a001:db8::".parse().unwrap(), 32), "route", &ranges).is_some());
        assert_eq!(in_the_way(("2001:db8::".parse().unwrap(), 32), "route", &ranges), None);
    }
}
