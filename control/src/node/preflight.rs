//! What is wrong with this host before tunway starts: each finding with the setting, the reason and the exact remedy.
//! Looks only; nothing is changed.

use std::fs;
use std::io;

use caps::{CapSet, Capability};

use super::netlink::Netlink;
use super::plan::family_name;
use super::rt::{Family, Link};
use super::view::ipv6_is_on;
use super::{Finding, HostConfig, IPVS_DEVICE, NodeError, SNAT_REMEDY, host, settings, snat_faults};

mod ports;
mod steering;
mod tracking;

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
    // Where sources are kept this and more is looked at as a whole, and set where it can be.
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
    findings.extend(steering::findings(config, &mut netlink, &view, capable)?);
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

#[cfg(test)]
mod tests;
