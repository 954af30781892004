//! How an earlier tunway steered: by rules and marks, with routes in tables 7701 and 7702, and by nftables rules in tables
//! named `tunway`. None of it is made any more. A start replaces it by today's plan, and cleanup takes it away.
//!
//! ```text
//!   0  lookup local          the kernel's; away while addresses of this host were served
//!  40  iif DEVICE goto 60    while they were: what the device emits goes past 50
//!  50  fwmark M/M lookup 7702   while they were: before the local table
//!  60  lookup local          while they were: in the place of 0
//! 100  iif DEVICE goto 200   what the device emits goes past 105 and 110
//! 105  fwmark M/M lookup 7702   replies
//! 110  lookup 7701           Service CIDRs, other virtual addresses, SNAT addresses
//! 200  nop                   where 100 goes
//! ```
//! A rule for the local table is always there before another one goes, so that from wherever somebody was killed the next
//! start or cleanup goes on.

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::cleanup::{remove_routes, unless_absent};
use super::host::{refused, route_with_backstop};
use super::netlink::{Change, Netlink, is_present};
use super::plan::{self, LOCAL_TABLE, PROTOCOL, Way};
use super::rt::{Family, Rule};
use super::{HostConfig, NodeError};
use crate::nft::{Nft, TableFamily};

/// The routing table.
pub(super) const TABLE: u32 = 7701;
/// Where marked packets were routed: a default route to the device, and nothing else.
const MARK_TABLE: u32 = 7702;
/// The name of the nftables tables.
pub(super) const NFT_TABLE: &str = "tunway";
/// Their chains.
const CHAINS: [(TableFamily, &[&str]); 2] = [
    (TableFamily::Inet, &["steer", "pre", "out", "clear", "leave", "post", "in"]),
    (TableFamily::Bridge, &["pre"]),
];

/// Takes it away, unless it is of a tunway on another device: rule 110 first, rule 0 back before the one that stood for
/// it goes.
pub(super) fn remove(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    if owner(netlink)?.is_some_and(|device| device != config.device) {
        return Ok(());
    }
    remove_rule(netlink, OurRule::Lookup, config, removed)?;
    for table in [TABLE, MARK_TABLE] {
        remove_routes(netlink, table, config, removed)?;
    }
    remove_nft_tables(removed)?;
    put_rule_zero_back(netlink, config, removed)?;
    remove_mark_rules(netlink, config, removed)?;
    for rule in [OurRule::SkipMark, OurRule::Local, OurRule::Skip, OurRule::End] {
        remove_rule(netlink, rule, config, removed)?;
    }
    Ok(())
}

/// Routes in the local table what was routed by rules, then takes the rest away: nothing leaks, and the local table is
/// always looked up.
pub(super) fn replace(netlink: &mut Netlink, config: &HostConfig) -> Result<(), NodeError> {
    if owner(netlink)?.is_some_and(|device| device != config.device) {
        return Ok(());
    }
    let device = netlink.link_by_name(&config.device).map_err(refused("look for the device"))?;
    let Some(device) = device else { return Err(NodeError::NoDevice { device: config.device.clone() }) };
    for family in Family::ALL {
        let routes = netlink.routes(family, TABLE).map_err(refused("read table 7701"))?;
        let there = netlink.routes(family, LOCAL_TABLE).map_err(refused("read the local table"))?;
        let ours = routes.iter().filter(|route| route.protocol == PROTOCOL && route.unicast);
        let missing = ours.filter(|route| {
            !there.iter().any(|other| other.protocol == PROTOCOL && other.destination == route.destination)
        });
        for route in missing {
            let way = Way { source: route.source, mtu: route.mtu };
            for (text, (message, flags)) in route_with_backstop(route.destination, way, &device) {
                match netlink.change(message, flags) {
                    Err(error) if !is_present(&error) => {
                        return Err(refused(&format!("set {text}"))(error));
                    }
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
    let mut gone = Vec::new();
    remove(netlink, config, &mut gone)?;
    if !gone.is_empty() {
        tracing::info!(
            ?gone,
            "an earlier tunway steered by rules: routes of the local table took their place"
        );
    }
    Ok(())
}

/// The device of the tunway whose rules are there.
pub(super) fn owner(netlink: &mut Netlink) -> Result<Option<String>, NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let ours = rules.iter().filter(|rule| rule.protocol == PROTOCOL && rule.preference == 100);
        if let Some(device) = ours.filter_map(|rule| rule.input.clone()).next() {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// The tables that have our chains, and none but ours.
fn remove_nft_tables(removed: &mut Vec<String>) -> Result<(), NodeError> {
    for (family, chains) in CHAINS {
        let removed_one = Nft::open_for(family).and_then(|mut nft| {
            let there = nft.chains(NFT_TABLE)?;
            let ours = there.contains("pre") && there.iter().all(|chain| chains.contains(&chain.as_str()));
            Ok(ours && nft.delete(NFT_TABLE)?)
        });
        match removed_one {
            Ok(true) => removed.push(format!("nft table {} {NFT_TABLE}", family.name())),
            Ok(false) => {}
            // A kernel that cannot even be asked holds nothing of ours in most cases.
            Err(error) => tracing::warn!(%error, "could not look for nftables rules of an earlier tunway"),
        }
    }
    Ok(())
}

fn remove_rule(
    netlink: &mut Netlink,
    rule: OurRule,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        // Its twin of another maker does the same and is not ours to take.
        if rules.iter().any(|found| found.protocol == PROTOCOL && rule.is(found, &config.device)) {
            let (message, flags) = rule.remove(family, &config.device);
            let text = rule.text(family, &config.device);
            if unless_absent(netlink.change(message, flags)).map_err(refused(&format!("remove {text}")))? {
                removed.push(text);
            }
        }
    }
    Ok(())
}

/// Before our rule for the local table goes there is another one.
fn put_rule_zero_back(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let ours = |rule: &Rule| OurRule::Local.is(rule, &config.device) && rule.protocol == PROTOCOL;
        let others = rules.iter().any(|rule| plan::looks_up_local(rule) && !ours(rule));
        if rules.iter().any(ours) && !others {
            let text = format!("rule 0: lookup local ({})", plan::family_name(family));
            let (message, flags) = add_rule_zero(family);
            netlink.change(message, flags).map_err(refused(&format!("put {text} back")))?;
            removed.push(format!("(back) {text}"));
        }
    }
    Ok(())
}

/// Rules 50 and 105, with whatever bit they were made.
fn remove_mark_rules(
    netlink: &mut Netlink,
    config: &HostConfig,
    removed: &mut Vec<String>,
) -> Result<(), NodeError> {
    for family in Family::ALL {
        let rules = netlink.rules(family).map_err(refused("read the rules"))?;
        let mut marked: Vec<OurRule> = rules.iter().filter_map(OurRule::marked).collect();
        while let Some(rule) = marked.pop() {
            remove_rule(netlink, rule, config, removed)?;
        }
    }
    Ok(())
}

/// One of our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OurRule {
    /// 200 `nop`.
    End,
    /// 100 `iif DEVICE goto 200`.
    Skip,
    /// 105 `fwmark BIT/BIT lookup 7702`.
    Mark(u32),
    /// 40 `iif DEVICE goto 60`.
    SkipMark,
    /// 50 `fwmark BIT/BIT lookup 7702`.
    EarlyMark(u32),
    /// 60 `lookup local`.
    Local,
    /// 110 `lookup 7701`.
    Lookup,
}

impl OurRule {
    /// Its `ip rule` preference.
    pub(super) fn preference(self) -> u32 {
        match self {
            Self::SkipMark => 40,
            Self::EarlyMark(_) => 50,
            Self::Local => 60,
            Self::Skip => 100,
            Self::Mark(_) => 105,
            Self::Lookup => 110,
            Self::End => 200,
        }
    }

    /// Whether `rule` does what this rule does, whoever made it.
    pub(super) fn is(self, rule: &Rule, device: &str) -> bool {
        let input = rule.input.as_deref();
        let looks_up = |table| rule.action == RuleAction::ToTable && rule.table == table && input.is_none();
        let (mark, does) = match self {
            Self::Skip | Self::SkipMark => {
                let leads_on = rule.action == RuleAction::Goto && rule.goto == self.target();
                (None, leads_on && input == Some(device))
            }
            Self::Mark(bit) | Self::EarlyMark(bit) => (Some((bit, bit)), looks_up(MARK_TABLE)),
            Self::Local => (None, looks_up(LOCAL_TABLE)),
            Self::Lookup => (None, looks_up(TABLE)),
            Self::End => (None, rule.action == RuleAction::Nop && input.is_none()),
        };
        does && rule.preference == self.preference() && !rule.selective && rule.mark == mark
    }

    /// Our rule 50 or 105 with whatever bit an earlier process had.
    pub(super) fn marked(rule: &Rule) -> Option<Self> {
        let bit = rule.mark?.0;
        let ours = [Self::Mark(bit), Self::EarlyMark(bit)].into_iter().find(|ours| ours.is(rule, ""));
        ours.filter(|_| rule.protocol == PROTOCOL)
    }

    /// Where a `goto` goes.
    const fn target(self) -> Option<u32> {
        match self {
            Self::Skip => Some(200),
            Self::SkipMark => Some(60),
            Self::Mark(_) | Self::EarlyMark(_) | Self::Local | Self::Lookup | Self::End => None,
        }
    }

    /// The request that removes it.
    pub(super) fn remove(self, family: Family, device: &str) -> Change {
        (RouteNetlinkMessage::DelRule(self.message(family, device)), 0)
    }

    /// In `ip rule` words.
    pub(super) fn text(self, family: Family, device: &str) -> String {
        let words = match self {
            Self::Skip => format!("iif {device} goto 200"),
            Self::SkipMark => format!("iif {device} goto 60"),
            Self::Mark(bit) | Self::EarlyMark(bit) => {
                format!("fwmark {bit:#x}/{bit:#x} lookup {MARK_TABLE}")
            }
            Self::Local => "lookup local".to_owned(),
            Self::Lookup => format!("lookup {TABLE}"),
            Self::End => "nop".to_owned(),
        };
        format!("rule {}: {words} ({})", self.preference(), plan::family_name(family))
    }

    fn message(self, family: Family, device: &str) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family.code();
        message.attributes.push(RuleAttribute::Priority(self.preference()));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        match self {
            Self::Skip | Self::SkipMark => {
                message.header.action = RuleAction::Goto;
                message.attributes.push(RuleAttribute::Iifname(device.to_owned()));
                message.attributes.extend(self.target().map(RuleAttribute::Goto));
            }
            Self::Local => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(LOCAL_TABLE));
            }
            Self::Mark(bit) | Self::EarlyMark(bit) => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(MARK_TABLE));
                message.attributes.push(RuleAttribute::FwMark(bit));
                message.attributes.push(RuleAttribute::FwMask(bit));
            }
            Self::Lookup => {
                message.header.action = RuleAction::ToTable;
                message.attributes.push(RuleAttribute::Table(TABLE));
            }
            Self::End => message.header.action = RuleAction::Nop,
        }
        message
    }
}

/// The request that makes rule 0, as the kernel makes it.
pub(super) fn add_rule_zero(family: Family) -> Change {
    let mut message = rule_zero(family);
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Kernel));
    (RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn rule_zero(family: Family) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family.code();
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(0));
    message.attributes.push(RuleAttribute::Table(LOCAL_TABLE));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_rules_are_known_by_what_they_do() {
        let rule = Rule {
            family: Family::V4,
            preference: 100,
            action: RuleAction::Goto,
            table: 0,
            goto: Some(200),
            input: Some("tunway0".into()),
            mark: None,
            protocol: PROTOCOL,
            selective: false,
        };
        assert!(OurRule::Skip.is(&rule, "tunway0"));
        for other in [
            Rule { input: Some("tunway1".into()), ..rule.clone() },
            Rule { input: None, ..rule.clone() },
            Rule { goto: Some(300), ..rule.clone() },
            Rule { mark: Some((1, 1)), ..rule.clone() },
            Rule { selective: true, ..rule.clone() },
            Rule { preference: 101, ..rule.clone() },
        ] {
            assert!(!OurRule::Skip.is(&other, "tunway0"), "{other:?}");
        }
    }

    #[test]
    fn the_mark_rule_is_known_by_its_bit_and_an_earlier_ones_by_any() {
        let rule = Rule {
            family: Family::V6,
            preference: 105,
            action: RuleAction::ToTable,
            table: MARK_TABLE,
            goto: None,
            input: None,
            mark: Some((0x1000, 0x1000)),
            protocol: PROTOCOL,
            selective: false,
        };
        let ours = OurRule::Mark(0x1000);
        assert!(ours.is(&rule, "tunway0"));
        for other in [
            Rule { mark: None, ..rule.clone() },
            Rule { mark: Some((0x1000, u32::MAX)), ..rule.clone() },
            Rule { mark: Some((0x2000, 0x2000)), ..rule.clone() },
            Rule { table: TABLE, ..rule.clone() },
            Rule { input: Some("tunway0".into()), ..rule.clone() },
        ] {
            assert!(!ours.is(&other, "tunway0"), "{other:?}");
        }
        let earlier = Rule { mark: Some((0x20, 0x20)), ..rule.clone() };
        assert_eq!(OurRule::marked(&earlier), Some(OurRule::Mark(0x20)));
        assert_eq!(OurRule::marked(&Rule { protocol: 3, ..rule.clone() }), None, "somebody else's");
        assert_eq!(OurRule::marked(&Rule { preference: 104, ..rule }), None);
    }
}
