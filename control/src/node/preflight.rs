//! What is wrong with this host before tunway starts: each finding with the setting, the reason and the exact remedy.
//! Looks only; nothing is changed.

use std::fs;
use std::io;

use caps::{CapSet, Capability};

use super::netlink::Netlink;
use super::plan::{MARK_TABLE, OurRule, PROTOCOL, TABLE, family_name};
use super::rt::{Family, Link, Route, Rule};
use super::view::ipv6_is_on;
use super::{Finding, HostConfig, IPVS_DEVICE, Marks, NodeError, SNAT_REMEDY, host, settings, snat_faults};

mod alias;
mod connmark;
mod ports;

/// Looks at capability, device node, sysctls, SNAT addresses, other people's rules and tables, FORWARD chains, and
/// kube-proxy leftovers. Never changes anything.
///
/// With `take_over` or `forward_accept`, what they would remove or insert is no fatal finding.
pub async fn preflight(config: &HostConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(tun_node(open_tun()));
    let capable = caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap_or(false);
    if !capable {
        findings.push(Finding::fatal(
            "CAP_NET_ADMIN",
            "this process may not configure the network",
            "run as root, or give the container the capability NET_ADMIN",
        ));
    }
    findings.extend(sysctls(config, &|path| fs::read_to_string(format!("/proc/sys/{path}")).ok()));
    match network(config, capable) {
        Ok(more) => findings.extend(more),
        Err(error) => findings.push(Finding::fatal("rtnetlink", error.to_string(), "run as root")),
    }
    if capable {
        findings.extend(firewall(config));
    }
    findings
}

impl Finding {
    fn fatal(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fatal: true, what: what.into(), why: why.into(), remedy: remedy.into() }
    }

    fn warning(what: impl Into<String>, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { fatal: false, ..Self::fatal(what, why, remedy) }
    }
}

fn open_tun() -> io::Result<()> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop)
}

fn tun_node(opened: io::Result<()>) -> Option<Finding> {
    use nix::libc::{EACCES, ENODEV, ENOENT, ENXIO, EPERM};
    let error = opened.err()?;
    let remedy = match error.raw_os_error() {
        Some(ENOENT) => "mkdir -p /dev/net && mknod -m 0600 /dev/net/tun c 10 200",
        Some(EACCES | EPERM) => "run as root; in a container: allow device 10:200 to it",
        Some(ENODEV | ENXIO) => "modprobe tun",
        _ => "ls -l /dev/net/tun should show a character device 10, 200",
    };
    Some(Finding::fatal("/dev/net/tun", error.to_string(), remedy))
}

/// Sysctls, read by `read` from their path below /proc/sys.
fn sysctls(config: &HostConfig, read: &dyn Fn(&str) -> Option<String>) -> Vec<Finding> {
    let value = |path: &str| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    let mut findings = Vec::new();
    let families = config.families();
    for (family, path) in [(Family::V4, "net/ipv4/ip_forward"), (Family::V6, "net/ipv6/conf/all/forwarding")]
    {
        if families.contains(&family) && value(path) == Some(0) {
            let why = format!("is 0: this host does not forward {} packets", family_name(family));
            // A cluster of one family has CIDRs of both by default, and its CNI turns on forwarding for one.
            let other = config.keeps_sources() && family == Family::V6 && families.contains(&Family::V4);
            findings.push(Finding { fatal: !other, ..Finding::fatal(dotted(path), why, set(path, "1")) });
        }
    }
    for (family, code) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
        for scope in ["all", "default"] {
            let path = format!("net/{code}/conf/{scope}/ignore_routes_with_linkdown");
            if families.contains(&family) && value(&path).is_some_and(|value| value != 0) {
                findings.push(Finding::fatal(
                    dotted(&path),
                    "is not 0: while tunway restarts its device has no carrier, and packets for Services would \
                     go to the default gateway",
                    set(&path, "0"),
                ));
            }
        }
    }
    // With connection marks this and more is looked at as a whole, and set where it can be.
    let most = settings::conntrack(config.max_flows).into_iter().find(|setting| setting.limits());
    if let Some(most) = most.filter(|_| !config.keeps_sources())
        && let Some(now) = value(most.path).filter(|now| !most.accepts(*now))
    {
        let why = format!("is {now}: where the kernel tracks connections {}", most.why);
        findings.push(Finding::warning(dotted(most.path), why, set(most.path, &most.value.to_string())));
    }
    findings.extend(ports::overlap(config, read));
    findings
}

/// Everything rtnetlink knows.
fn network(config: &HostConfig, capable: bool) -> Result<Vec<Finding>, NodeError> {
    let mut netlink = Netlink::open().map_err(host::refused("open a netlink socket"))?;
    let view = host::read(&mut netlink, config, None)?;
    let mut findings: Vec<Finding> = snat_faults(config, &view).into_iter().filter_map(snat).collect();
    findings.extend(view.links.iter().filter_map(|link| forwarding_off(link, config)));
    if config.families().contains(&Family::V6) && !ipv6_is_on() {
        findings.push(Finding::warning(
            "IPv6",
            "is configured here, and this kernel does none: only IPv4 is served",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or boot without ipv6.disable=1",
        ));
    }
    let device = view.link(&config.device).map(|link| link.index);
    let by_rules = config.marks().is_some();
    if !by_rules {
        findings.extend(alias::findings(config, &mut netlink, &view, capable)?);
    }
    // Where nothing is steered by rules, others' are their own affair.
    for family in view.families().into_iter().filter(|_| by_rules) {
        let rules = netlink.rules(family).map_err(host::refused("read the rules"))?;
        findings.extend(foreign_rules(&rules, config));
        for table in [TABLE, MARK_TABLE] {
            let routes = netlink.routes(family, table).map_err(host::refused("read our tables"))?;
            findings.extend(foreign_routes(&routes, family, device));
        }
    }
    if let Some(marks) = config.marks() {
        findings.extend(connmark::findings(config, marks, &view, capable));
    }
    if view.link(IPVS_DEVICE).is_some() {
        findings.push(leftover(
            format!("device {IPVS_DEVICE}"),
            format!("ip link del {IPVS_DEVICE}; ipvsadm -C"),
            config,
        ));
    }
    Ok(findings)
}

fn snat(fault: NodeError) -> Option<Finding> {
    let NodeError::Snat { address, why } = fault else { return None };
    Some(Finding::fatal(format!("SNAT address {address}"), why, SNAT_REMEDY))
}

/// A device that does not forward although the host does: somebody turned it off there.
fn forwarding_off(link: &Link, config: &HostConfig) -> Option<Finding> {
    let off = link.up && !link.loopback && link.name != config.device && link.ipv4?.forwarding == 0;
    let host_forwards =
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() != "0");
    (off && host_forwards && config.families().contains(&Family::V4)).then(|| {
        let path = format!("net/ipv4/conf/{}/forwarding", link.name);
        Finding::warning(
            dotted(&path),
            "is 0: what comes in there is not forwarded to Services",
            set(&path, "1"),
        )
    })
}

fn foreign_rules(rules: &[Rule], config: &HostConfig) -> Vec<Finding> {
    let device = config.device.as_str();
    let mut ours = vec![OurRule::Skip, OurRule::Lookup, OurRule::End];
    if let Some(Marks { packet, .. }) = config.marks() {
        ours.extend([OurRule::Mark(packet), OurRule::EarlyMark(packet), OurRule::SkipMark, OurRule::Local]);
    }
    let mut findings = Vec::new();
    for rule in rules {
        let family = rule.family.ip_option();
        let what = format!("ip {family} rule {}", rule.preference);
        let remedy = format!("ip {family} rule del preference {}", rule.preference);
        let is_ours = rule.protocol == PROTOCOL && ours.iter().any(|own| own.is(rule, device));
        // One left by a process with another return path or another bit: the start removes it.
        let left = |own: OurRule| rule.protocol == PROTOCOL && own.is(rule, device);
        if is_ours || OurRule::marked(rule).is_some() || left(OurRule::SkipMark) || left(OurRule::Local) {
            continue;
        }
        if ours.iter().any(|own| own.preference() == rule.preference) {
            findings.push(match &rule.input {
                Some(other) if rule.protocol == PROTOCOL => {
                    let why = format!("belongs to a tunway on device {other}: one host has one");
                    // Cleanup takes only what is exactly as tunway makes it.
                    let whole = ours.iter().any(|own| own.is(rule, other));
                    let cleanup = format!("tunway cleanup --device {other}");
                    Finding::fatal(what, why, if whole { cleanup } else { remedy })
                }
                _ => {
                    let why = "is somebody else's rule at a preference tunway needs (40, 50, 60, 100, 105, 110 and 200)";
                    Finding::fatal(what, why, remedy)
                }
            });
        } else if [TABLE, MARK_TABLE].contains(&rule.table) {
            let why = format!("looks up table {}, which tunway uses", rule.table);
            findings.push(Finding::fatal(what, why, remedy));
        } else if let Some((mark, mask)) = rule.mark {
            findings.extend(marked_rule((mark, mask), config, what, remedy));
        }
    }
    findings
}

/// Somebody else's rule that selects by a mark, if that is one of ours too.
fn marked_rule(
    (mark, mask): (u32, u32),
    config: &HostConfig,
    what: String,
    remedy: String,
) -> Option<Finding> {
    let Marks { packet, original } = config.marks().unwrap_or_default();
    if config.marks().is_some() {
        // A rule that compares the whole mark has the bits of its value.
        let bits = if mask == u32::MAX { mark } else { mask };
        let why = format!(
            "selects by mark {mark:#x}/{mask:#x}, which overlaps tunway's bit {packet:#x}: one takes the other's packets"
        );
        let remedy = format!("{remedy}; or choose another bit: marks: {{packet: …}}");
        return (bits & packet != 0).then(|| Finding::fatal(what, why, remedy));
    }
    (mask & (packet | original) != 0 && mask != u32::MAX).then(|| {
        let why = format!(
            "selects by mark {mark:#x}/{mask:#x}, which overlaps tunway's bits {packet:#x} and {original:#x}"
        );
        let remedy = "nothing to do as long as tunway marks no packets, and now it marks none (masquerade)";
        Finding::warning(what, why, remedy)
    })
}

fn foreign_routes(routes: &[Route], family: Family, device: Option<u32>) -> Vec<Finding> {
    let foreign = routes
        .iter()
        .filter(|route| route.protocol != PROTOCOL || (route.link.is_some() && route.link != device));
    let show = |route: &Route| format!("{}/{}", route.destination.0, route.destination.1);
    foreign
        .map(|route| {
            let (family, table) = (family.ip_option(), route.table);
            let what = format!("ip {family} route {} table {table}", show(route));
            if route.protocol == PROTOCOL {
                let why = "belongs to a tunway on another device: one host has one";
                let remedy = format!(
                    "tunway cleanup --device NAME, as `ip {family} route show table {table}` names it"
                );
                return Finding::fatal(what, why, remedy);
            }
            let why =
                format!("is somebody else's route in a table tunway uses (protocol {})", route.protocol);
            Finding::fatal(what, why, format!("ip {family} route del {} table {table}", show(route)))
        })
        .take(MOST_ROUTES)
        .collect()
}

fn firewall(config: &HostConfig) -> Vec<Finding> {
    let firewall = config.firewall();
    let mut findings = Vec::new();
    let unreadable = |error: &dyn std::fmt::Display| {
        let remedy = "look yourself: nothing named KUBE-SVC-* or kube-proxy, and no chain that drops forwarded packets";
        Finding::warning("firewall", format!("could not be looked at: {error}"), remedy)
    };
    match firewall.forward_chains() {
        Ok(chains) => {
            for chain in chains.iter().filter(|chain| chain.stops_device()) {
                let why = format!("drops forwarded packets of {}", config.device);
                let remedy = format!("{}; or start with --forward-accept", chain.remedy(&config.device));
                findings.push(Finding {
                    fatal: !config.opens_forward(),
                    ..Finding::fatal(chain.text(), why, remedy)
                });
            }
        }
        Err(error) => findings.push(unreadable(&error)),
    }
    match firewall.leftovers() {
        Ok(left) => {
            let remedy = "kube-proxy --cleanup (after stopping it for good)";
            findings.extend(left.texts().into_iter().map(|what| leftover(what, remedy.to_owned(), config)));
            // Taking over cannot remove these.
            let orphans = !left.orphan_chains.is_empty();
            findings.extend(orphans.then(|| {
                let remedy = "apt-get install iptables, then start with --take-over";
                Finding::fatal(
                    "kube-proxy's iptables chains",
                    "there is no iptables here to remove them",
                    remedy,
                )
            }));
        }
        Err(error) => findings.push(unreadable(&error)),
    }
    for tool in firewall.blind_spots() {
        findings.push(Finding::warning(
            tool,
            "is not installed: whether its rules drop forwarded packets, or kube-proxy left some, was not looked at",
            format!("nothing to do where {tool} is not used; else install it here"),
        ));
    }
    findings
}

fn leftover(what: String, remedy: String, config: &HostConfig) -> Finding {
    let why =
        "is left of kube-proxy (or it still runs): it takes packets for Services before routing sees them";
    let remedy = format!("{remedy}; or start with --take-over");
    Finding { fatal: !config.take_over, ..Finding::fatal(what, why, remedy) }
}

/// `net/ipv4/ip_forward` → `net.ipv4.ip_forward`; a device's own dots are written as slashes by sysctl(8).
fn dotted(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

fn set(path: &str, value: &str) -> String {
    format!("sysctl -w {}={value}", dotted(path))
}

/// Foreign routes named one by one.
const MOST_ROUTES: usize = 5;

#[cfg(test)]
mod tests;
