//! What each value must obey. Every refusal names the key and what to do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::clock::Tick;
use dataplane::flow::Ttls;
use dataplane::ids::WorkerId;
use dataplane::packet::tuple::Family;
use dataplane::service::ReturnPath;

use super::file::{ReturnPathName, SourceFile, Timeouts};
use super::{
    ConfigError, DEFAULT_AFFINITY, DEFAULT_DRAIN, DEFAULT_QUEUE_LENGTH, DEFAULT_REPLIES_PER_SECOND,
    DEFAULT_WORKERS_AT_MOST, PRIVATE_SNAT, SourceConfig,
};
use crate::model::ip;

/// Fewest flows of a family, for each worker: one chunk of the arena, which has one owner.
const MIN_FLOWS: u32 = 4096;
/// Most flows of a family: an index word has 24 bits for a record.
const MAX_FLOWS: u32 = 1 << 24;
/// `IFNAMSIZ` less the final zero.
const MAX_DEVICE: usize = 15;
/// `sizeof(sun_path)` less the final zero.
const MAX_SOCKET: usize = 107;
const MIN_QUEUE: u32 = 64;
/// Of packets of up to 64 KiB: more memory than anybody wants to wait for.
const MAX_QUEUE: u32 = 65_536;
const MIN_AFFINITY: u32 = 1024;
const MAX_AFFINITY: u32 = 1 << 24;
const MAX_CIDRS: usize = 16;
const MAX_DRAIN: u64 = 3600;
const MAX_REPLIES: u32 = 1_000_000;
/// A label of the DNS subdomain a node is named by has at most 63 bytes, the whole 253.
const MAX_NODE_NAME: usize = 253;

pub(super) type Checked<T> = Result<T, ConfigError>;

/// A name the kernel takes for a device and that is safe in a path.
pub(super) fn device(name: String) -> Checked<String> {
    link("device", name)
}

/// As [`device`], of another key.
pub(super) fn link(field: &str, name: String) -> Checked<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=MAX_DEVICE).contains(&name.len()) && name.chars().all(fine) && name != "." && name != ".." {
        return Ok(name);
    }
    Err(ConfigError::new(
        field,
        format_args!("{name:?} is no device name"),
        format_args!("1 to {MAX_DEVICE} letters, digits, `-`, `_` or `.`, as tunway0"),
    ))
}

/// 1 to 64; one a core up to 8 when not given.
pub(super) fn workers(given: Option<usize>, cores: usize) -> Checked<usize> {
    let workers = given.unwrap_or_else(|| cores.clamp(1, DEFAULT_WORKERS_AT_MOST));
    in_limits("workers", workers, 1, WorkerId::MAX)
}

/// Flows of one family: with less than a chunk for each worker, one of them could open none.
pub(super) fn max_flows(field: &'static str, flows: u32, workers: usize) -> Checked<u32> {
    let least = min_flows(workers);
    if flows >= MIN_FLOWS && flows < least {
        let what = format_args!("{flows} is too few for {workers} workers").to_string();
        return Err(ConfigError::new(field, what, format_args!("at least {least}")));
    }
    in_limits(field, flows, MIN_FLOWS, MAX_FLOWS)
}

/// Clients session affinity remembers.
pub(super) fn max_affinity(given: Option<u32>) -> Checked<usize> {
    let clients = in_limits("maxAffinity", given.unwrap_or(DEFAULT_AFFINITY), MIN_AFFINITY, MAX_AFFINITY)?;
    Ok(usize::try_from(clients).unwrap_or(usize::MAX))
}

/// Fewest flows of a family for so many workers.
pub(super) fn min_flows(workers: usize) -> u32 {
    u32::try_from(workers).map_or(MAX_FLOWS, |workers| MIN_FLOWS.saturating_mul(workers))
}

/// Answers a second and worker.
pub(super) fn replies(given: Option<u32>) -> Checked<u32> {
    in_limits("repliesPerSecond", given.unwrap_or(DEFAULT_REPLIES_PER_SECOND), 1, MAX_REPLIES)
}

/// Packets a queue of the device holds.
pub(super) fn queue_length(given: Option<u32>) -> Checked<u32> {
    in_limits("queueLength", given.unwrap_or(DEFAULT_QUEUE_LENGTH), MIN_QUEUE, MAX_QUEUE)
}

/// Seconds between a stop signal and the stop.
pub(super) fn drain(given: Option<u64>) -> Checked<Duration> {
    let secs = in_limits("drainSeconds", given.unwrap_or(DEFAULT_DRAIN.as_secs()), 0, MAX_DRAIN)?;
    Ok(Duration::from_secs(secs))
}

fn in_limits<T: PartialOrd + std::fmt::Display + Copy>(field: &str, value: T, low: T, high: T) -> Checked<T> {
    if value >= low && value <= high {
        return Ok(value);
    }
    let what = format_args!("{value} is out of limits").to_string();
    Err(ConfigError::new(field, what, format_args!("{low} to {high}")))
}

/// Sources of masqueraded flows: unicast, routable, at most one a family. Where sources are kept they need not be
/// routable, and a family that has none gets the default.
pub(super) fn snat(mut given: Vec<IpAddr>, path: ReturnPath) -> Checked<Vec<IpAddr>> {
    let private = path == ReturnPath::ConnMark;
    for (at, addr) in given.iter().enumerate() {
        let field = format!("snatAddresses[{at}]");
        let mapped = (addr.to_canonical() != *addr).then_some("an IPv4-mapped address");
        let link_local = matches!(addr, IpAddr::V4(v4) if v4.is_link_local());
        if let Some(kind) = ip::never_routed(*addr).filter(|_| !(private && link_local)).or(mapped) {
            let what = format_args!("{addr} is {kind}: replies to it do not come back").to_string();
            return Err(ConfigError::new(field, what, SNAT_REMEDY));
        }
        let family = Family::of(*addr);
        if given[..at].iter().any(|other| Family::of(*other) == family) {
            let what = format_args!("a second {family} address").to_string();
            return Err(ConfigError::new(field, what, "keep one address a family"));
        }
    }
    let missing = PRIVATE_SNAT.into_iter().filter(|_| private);
    let missing: Vec<IpAddr> =
        missing.filter(|own| !given.iter().any(|addr| addr.is_ipv4() == own.is_ipv4())).collect();
    given.extend(missing);
    Ok(given)
}

const SNAT_REMEDY: &str = "give an address that everything that answers routes to this host, outside every \
on-link prefix and assigned to no interface, as snatAddresses: [192.0.2.1] or --snat-address 192.0.2.1";

/// A run cannot do without: `check` and `cleanup` can.
///
/// # Errors
/// There is no SNAT address.
pub fn needs_snat(path: ReturnPath, snat: &[IpAddr]) -> Result<(), ConfigError> {
    if path == ReturnPath::Masquerade && snat.is_empty() {
        return Err(ConfigError::new("snatAddresses", "returnPath masquerade needs one", SNAT_REMEDY));
    }
    Ok(())
}

/// No SNAT address lies in a Service CIDR.
pub(super) fn snat_outside(snat: &[IpAddr], cidrs: &[(IpAddr, u8)]) -> Checked<()> {
    for (at, addr) in snat.iter().enumerate() {
        if let Some((net, len)) = cidrs.iter().find(|cidr| ip::contains(**cidr, *addr)) {
            let what = format_args!("{addr} lies in the Service CIDR {net}/{len}").to_string();
            return Err(ConfigError::new(format!("snatAddresses[{at}]"), what, "take one outside"));
        }
    }
    Ok(())
}

/// Given Service CIDRs: parsed, without host bits, not too wide, not twice, each of a family we can masquerade.
pub(super) fn service_cidrs(given: &[String], snat: &[IpAddr]) -> Checked<Vec<(IpAddr, u8)>> {
    if given.len() > MAX_CIDRS {
        let what = format_args!("{} of them", given.len()).to_string();
        return Err(ConfigError::new("serviceCIDRs", what, format_args!("at most {MAX_CIDRS}")));
    }
    let mut cidrs = Vec::with_capacity(given.len());
    for (at, text) in given.iter().enumerate() {
        let field = format!("serviceCIDRs[{at}]");
        let cidr = parse_cidr(text).ok_or_else(|| {
            ConfigError::new(&field, format_args!("{text:?} is no CIDR"), "as 10.96.0.0/12")
        })?;
        let (addr, len) = cidr;
        let (network, _) = ip::network(cidr);
        if network != addr {
            let what = format_args!("{text} has host bits").to_string();
            return Err(ConfigError::new(field, what, format_args!("write {network}/{len}")));
        }
        let shortest = ip::shortest_service_range(addr);
        if len < shortest {
            let what = format_args!("{text} is wider than any Service range").to_string();
            return Err(ConfigError::new(field, what, format_args!("a prefix of at least /{shortest}")));
        }
        if cidrs.contains(&cidr) {
            return Err(ConfigError::new(field, format_args!("{text} twice"), "remove one"));
        }
        let family = Family::of(addr);
        if !snat.is_empty() && !snat.iter().any(|a| Family::of(*a) == family) {
            let what = format_args!("{text}, but no {family} address in snatAddresses").to_string();
            return Err(ConfigError::new(field, what, "add one, or remove this CIDR"));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

/// The return path: on a node, which has the Kubernetes API, the one that keeps sources; with manifests the one that
/// the SNAT addresses are for, if any are given.
pub(super) fn return_path(name: ReturnPathName, source: &SourceConfig, snat: &[IpAddr]) -> ReturnPath {
    match (name, source) {
        (ReturnPathName::Connmark | ReturnPathName::Conntrack, _)
        | (ReturnPathName::Auto, SourceConfig::Kubernetes { .. }) => ReturnPath::ConnMark,
        (ReturnPathName::Auto, SourceConfig::Manifests { .. }) if snat.is_empty() => ReturnPath::ConnMark,
        (ReturnPathName::Masquerade, _) | (ReturnPathName::Auto, SourceConfig::Manifests { .. }) => {
            ReturnPath::Masquerade
        }
    }
}

/// Exactly one source.
pub(super) fn source(given: Option<SourceFile>) -> Checked<SourceConfig> {
    let given = given.unwrap_or_default();
    match (given.manifests, given.kubernetes) {
        (Some(_), Some(_)) => Err(ConfigError::new(
            "source",
            "both manifests and kubernetes",
            "keep one of them: Services come from one place",
        )),
        (Some(dir), None) => Ok(SourceConfig::Manifests { dir }),
        (None, kubernetes) => {
            Ok(SourceConfig::Kubernetes { kubeconfig: kubernetes.and_then(|k| k.kubeconfig) })
        }
    }
}

/// The given name, else the host's.
pub(super) fn node_name(given: Option<String>, host: &str) -> Checked<String> {
    let name = given.unwrap_or_else(|| host.to_owned());
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    if (1..=MAX_NODE_NAME).contains(&name.len()) && name.chars().all(fine) {
        return Ok(name);
    }
    // The kubelet lowers a host name before it registers the node.
    let lowered = name.to_ascii_lowercase();
    if lowered != name {
        return node_name(Some(lowered), host);
    }
    Err(ConfigError::new(
        "nodeName",
        format_args!("{name:?} is no node name"),
        "lower-case letters, digits, `-` and `.`; as `kubectl get nodes` shows it, in --node-name or NODE_NAME",
    ))
}

/// A path `bind` takes.
pub(super) fn socket(path: PathBuf) -> Checked<PathBuf> {
    let path = absolute("socket", path)?;
    if path.as_os_str().len() > MAX_SOCKET {
        let what = format_args!("{} is too long", path.display()).to_string();
        return Err(ConfigError::new("socket", what, format_args!("at most {MAX_SOCKET} bytes")));
    }
    Ok(path)
}

/// A path that means the same wherever we are started.
pub(super) fn absolute(field: &str, path: PathBuf) -> Checked<PathBuf> {
    if path.is_absolute() {
        return Ok(path);
    }
    let what = format_args!("{:?} is not absolute", path.display().to_string()).to_string();
    Err(ConfigError::new(field, what, "begin it with /"))
}

/// Flow timers over their defaults.
pub(super) fn timeouts(given: &Timeouts) -> Checked<Ttls> {
    let mut ttls = Ttls::default();
    let keys = [
        ("tcpSynSent", given.tcp_syn_sent, &mut ttls.tcp_syn_sent),
        ("tcpSynRecv", given.tcp_syn_recv, &mut ttls.tcp_syn_recv),
        ("tcpEstablished", given.tcp_established, &mut ttls.tcp_established),
        ("tcpHalfClosed", given.tcp_half_closed, &mut ttls.tcp_half_closed),
        ("tcpLastAck", given.tcp_last_ack, &mut ttls.tcp_last_ack),
        ("tcpTimeWait", given.tcp_time_wait, &mut ttls.tcp_time_wait),
        ("tcpReset", given.tcp_reset, &mut ttls.tcp_reset),
        ("tcpUnacknowledged", given.tcp_unacknowledged, &mut ttls.tcp_unacknowledged),
        ("udp", given.udp, &mut ttls.udp),
        ("udpStream", given.udp_stream, &mut ttls.udp_stream),
        ("sctpClosed", given.sctp_closed, &mut ttls.sctp_closed),
        ("sctpCookie", given.sctp_cookie, &mut ttls.sctp_cookie),
        ("sctpEstablished", given.sctp_established, &mut ttls.sctp_established),
        ("sctpShutdown", given.sctp_shutdown, &mut ttls.sctp_shutdown),
        ("sctpHeartbeat", given.sctp_heartbeat, &mut ttls.sctp_heartbeat),
    ];
    for (key, given, ttl) in keys {
        if let Some(secs) = given {
            *ttl = in_limits(&format!("timeouts.{key}"), secs, 1, Tick::MAX_TTL)?;
        }
    }
    Ok(ttls)
}

/// `address/length`.
#[must_use]
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (addr, len) = text.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
    let len: u8 = if digits { len.parse().ok()? } else { return None };
    (len <= if addr.is_ipv4() { 32 } else { 128 }).then_some((addr, len))
}
