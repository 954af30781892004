//! Connection tracking, bridges and others' checks of sources, as keeping sources needs them.

use super::super::firewall::sources::SourceCheck;
use super::super::settings::{self, Setting};
use super::super::view::HostView;
use super::super::{Finding, HostConfig};

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

/// Others' checks of sources. No reason not to start: they may be meant for
/// one family, in which there may be no Service.
pub(super) fn source_checks(config: &HostConfig) -> Vec<Finding> {
    // That the firewall cannot be looked at is said with its chains.
    let mut checks = config.firewall().source_checks().unwrap_or_default();
    checks.truncate(MOST_RULES);
    let finding = |check: SourceCheck| {
        let why = format!(
            "drops what does not come in by the way back to its source: packets from {}, whose sources are kept, and \
             replies by aliases of their destinations, whose way back leads there",
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
