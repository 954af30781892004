//! What the return path `connmark` needs of a host besides.

use super::super::firewall::sources::SourceCheck;
use super::super::host::inputs;
use super::super::settings::{self, Setting};
use super::super::steer::Steer;
use super::super::view::HostView;
use super::super::{Finding, HostConfig, LocalFrontends, Marks, NFT_REMEDY};

/// The program `nft` and a kernel that takes our rules, connection tracking as it must be, bridges whose packets pass
/// it, and nobody else on our bits.
pub(super) fn findings(config: &HostConfig, marks: Marks, view: &HostView, capable: bool) -> Vec<Finding> {
    let mut findings = tracking(config, view);
    match Steer::find() {
        None => findings.push(Finding::fatal(
            "nft",
            "is not installed: connection marks are set by its rules",
            NFT_REMEDY,
        )),
        Some(steer) if capable => {
            findings.extend(tables(&steer, config, marks, view));
            findings.extend(foreign_marks(config, marks));
            let replies = format!("with mark {:#x}", marks.packet);
            findings.extend(source_checks(config, &replies));
        }
        Some(_) => {}
    }
    findings
}

/// Connection tracking as it must be, and bridges whose packets pass it.
pub(super) fn tracking(config: &HostConfig, view: &HostView) -> Vec<Finding> {
    let mut findings = Vec::new();
    for setting in settings::conntrack(config.max_flows) {
        findings.extend(setting.read().and_then(|now| conntrack(&setting, now)));
    }
    if let Some(bridge) = view.bridges().first() {
        let off = config.families().into_iter().map(settings::bridges);
        findings.extend(off.filter_map(|setting| bridged(&setting, &bridge.name)));
    }
    findings
}

/// A setting that is not right and that the start will not be able to put right either.
fn conntrack(setting: &Setting, now: u64) -> Option<Finding> {
    if setting.accepts(now) || setting.is_writable() {
        return None;
    }
    let why = format!("is {now} and cannot be set from here: {}", setting.why);
    let mut remedy = format!("on the host: sysctl -w {}", setting.text());
    if setting.limits() {
        remedy = format!("{remedy}; or fewer flows: maxFlows, together at most {}", now / 2);
    }
    let finding = Finding::fatal(super::dotted(setting.path), why, remedy);
    Some(Finding { fatal: setting.is_vital(), ..finding })
}

fn bridged(setting: &Setting, bridge: &str) -> Option<Finding> {
    let now = setting.read();
    if now.is_some_and(|now| setting.accepts(now)) {
        return None;
    }
    let state = now.map_or("is not there (br_netfilter is not loaded)".to_owned(), |now| format!("is {now}"));
    let load = if now.is_none() { "modprobe br_netfilter; " } else { "" };
    Some(Finding::fatal(
        super::dotted(setting.path),
        format!("{state}, and there is a bridge, {bridge}: {}", setting.why),
        format!("{load}sysctl -w {}", setting.text()),
    ))
}

/// Our tables: nobody else's, and such that nft and the kernel take them.
fn tables(steer: &Steer, config: &HostConfig, marks: Marks, view: &HostView) -> Option<Finding> {
    match steer.owner() {
        Ok(Some(owner)) if owner != config.device => {
            let why = format!("belongs to a tunway on device {owner}: one host has one");
            let remedy = format!("tunway cleanup --device {owner}");
            return Some(Finding::fatal("nft table inet tunway", why, remedy));
        }
        Ok(_) | Err(_) => {}
    }
    let refused = steer.check(&inputs(config, marks, &LocalFrontends::default(), view)).err()?;
    let why = format!("cannot be written: {}", refused.why);
    let remedy = "use an nft of version 1.0 or later with JSON, and a kernel with nf_tables, nft_ct, nft_nat and \
                  nft_masq; or take returnPath: masquerade with snatAddresses";
    Some(Finding::fatal("nft table inet tunway", why, remedy))
}

fn foreign_marks(config: &HostConfig, marks: Marks) -> Vec<Finding> {
    let Marks { packet, original } = marks;
    let uses = match config.firewall().mark_uses() {
        Ok(uses) => uses,
        Err(error) => {
            let why = format!("could not be looked through for marks: {error}");
            let remedy =
                format!("look yourself: no rule may test or set bits {:#x} of marks", packet | original);
            return vec![Finding::warning("firewall", why, remedy)];
        }
    };
    let mut findings = Vec::new();
    for found in uses {
        let other = "or choose other bits: marks: {packet: …, original: …}";
        if found.packet & packet != 0 || found.connection & (packet | original) != 0 {
            let why = format!(
                "tests or sets bits of marks that tunway uses ({packet:#x} of packets and connections, {original:#x} of \
                 connections): replies would miss their way"
            );
            findings.push(Finding::fatal(found.rule, why, format!("{}; {other}", found.remedy)));
        } else if found.wipes {
            let why =
                format!("overwrites the marks of packets as a whole, tunway's bit {packet:#x} with them");
            let remedy = "nothing to do where it comes before priority -140 (mangle + 10) or after routing; else let \
                          it set its own bits only";
            findings.push(Finding::warning(found.rule, why, remedy));
        }
    }
    findings.truncate(MOST_RULES);
    findings
}

/// Others' checks of sources, to which replies come back as `replies` says. No reason not to start: they may be meant for
/// one family, in which there may be no Service.
pub(super) fn source_checks(config: &HostConfig, replies: &str) -> Vec<Finding> {
    // That the firewall cannot be looked at was said with its marks.
    let mut checks = config.firewall().source_checks().unwrap_or_default();
    checks.truncate(MOST_RULES);
    let finding = |check: SourceCheck| {
        let why = format!(
            "drops what does not come in by the way back to its source: packets from {}, whose sources are kept, and \
             replies {replies}, whose way back leads there",
            config.device
        );
        let remedy = format!(
            "{}; with firewalld: IPv6_rpfilter=loose in /etc/firewalld/firewalld.conf, then firewall-cmd \
             --complete-reload",
            check.remedy
        );
        Finding::warning(check.rule, why, remedy)
    };
    checks.into_iter().map(finding).collect()
}

/// Foreign rules named one by one.
const MOST_RULES: usize = 10;
