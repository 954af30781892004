//! What the cluster is like and what its Services may have: the values that are not about this process.

use dataplane::service::{HashBy, Prefixes};

use super::ConfigError;
use super::file::{DetectLocalFile, ExternalIpsFile, LoadBalancingFile, NodeFile, OneOrMany};
use super::rules::{Checked, parse_cidr};
use crate::compile::{DEFAULT_MAGLEV_MEMORY, Rules};
use crate::model::node::ZONE_LABEL;
use crate::model::service::balance::{self, Algorithm};
use crate::model::{Node, ip};

/// The most `loadBalancing.maglevMemory` may be, in bytes.
const MAX_MAGLEV_MEMORY: u64 = 4_000_000_000;

/// `clusterCIDR` is short for a `detectLocal`.
pub(super) fn detect_local(
    given: Option<DetectLocalFile>,
    short: Option<OneOrMany>,
) -> Checked<DetectLocalFile> {
    match (given, short) {
        (Some(_), Some(_)) => Err(ConfigError::new(
            "clusterCIDR",
            "beside detectLocal, for which it is short",
            "keep one of them: detectLocal.clusterCIDRs says the same",
        )),
        (Some(given), None) => Ok(given),
        (None, Some(short)) => {
            Ok(DetectLocalFile { cluster_cidrs: Some(short.parts()), ..DetectLocalFile::default() })
        }
        (None, None) => Ok(DetectLocalFile::default()),
    }
}

/// The API server's default.
const NODE_PORT_RANGE: (u16, u16) = (30_000, 32_767);

/// `first-last`.
pub(super) fn node_port_range(given: Option<&str>) -> Checked<(u16, u16)> {
    let Some(text) = given else { return Ok(NODE_PORT_RANGE) };
    let parsed = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    parsed.filter(|(first, last)| *first > 0 && first <= last).ok_or_else(|| {
        ConfigError::new("nodePortRange", format_args!("{text:?} is no range of ports"), "as 30000-32767")
    })
}

/// What Services may have, and get by default.
pub(super) fn rules(
    external_ips: Option<ExternalIpsFile>,
    load_balancing: Option<LoadBalancingFile>,
) -> Checked<Rules> {
    let given = load_balancing.unwrap_or_default();
    let algorithm = match given.algorithm.as_deref() {
        None => Algorithm::default(),
        Some(name) => Algorithm::named(name).ok_or_else(|| {
            let names = Algorithm::NAMES.map(|(name, _)| name).join(", ");
            let what = format_args!("{name:?} is no algorithm").to_string();
            ConfigError::new("loadBalancing.algorithm", what, format!("write one of {names}"))
        })?,
    };
    let hash_by = match given.hash_by.as_deref() {
        None => HashBy::default(),
        Some(name) => balance::hash_by(name).ok_or_else(|| {
            let what = format_args!("{name:?} cannot be hashed by").to_string();
            ConfigError::new("loadBalancing.hashBy", what, "write tuple or client")
        })?,
    };
    let maglev_memory = match given.maglev_memory {
        None => DEFAULT_MAGLEV_MEMORY,
        Some(bytes) => {
            usize::try_from(bytes).ok().filter(|_| bytes <= MAX_MAGLEV_MEMORY).ok_or_else(|| {
                let what = format_args!("{bytes} bytes are too many").to_string();
                ConfigError::new("loadBalancing.maglevMemory", what, "at most 4000000000")
            })?
        }
    };
    Ok(Rules { external_ips: allowed(external_ips.unwrap_or_default())?, algorithm, hash_by, maglev_memory })
}

/// External IPs that Services may have.
fn allowed(given: ExternalIpsFile) -> Checked<Prefixes> {
    let mut allowed = Vec::new();
    for (at, text) in given.allow.unwrap_or_default().iter().enumerate() {
        let cidr = parse_cidr(text).ok_or_else(|| {
            let field = format!("externalIPs.allow[{at}]");
            ConfigError::new(
                field,
                format_args!("{text:?} is no CIDR"),
                "as 203.0.113.0/24, or 0.0.0.0/0 for all",
            )
        })?;
        allowed.push(cidr);
    }
    // Each was checked just now.
    Ok(Prefixes::new(&allowed).unwrap_or_default())
}

/// A node that is only thought of. `name` is what `nodeName` says, if that was given.
pub(super) fn node(given: NodeFile, name: Option<&str>) -> Checked<Node> {
    if let (Some(own), Some(name)) = (given.name.as_deref(), name)
        && own != name
    {
        let what = format_args!("{own:?}, but nodeName is {name:?}").to_string();
        return Err(ConfigError::new("node.name", what, "give one of them, or the same"));
    }
    let mut addresses = Vec::new();
    for (at, text) in given.addresses.unwrap_or_default().iter().enumerate() {
        let addr = ip::parse(text).ok_or_else(|| {
            let field = format!("node.addresses[{at}]");
            ConfigError::new(field, format_args!("{text:?} is no address"), "as 192.168.0.2")
        })?;
        addresses.push(addr);
    }
    let zone = given.labels.unwrap_or_default().remove(ZONE_LABEL).filter(|zone| !zone.is_empty());
    let name = given.name.as_deref().or(name).unwrap_or_default().to_owned();
    Ok(Node { name, zone, addresses, pod_cidrs: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::parse;

    fn rules_of(lines: &str) -> Checked<Rules> {
        let file = parse(&format!("apiVersion: tunway.dev/v1alpha1\nkind: Config\n{lines}"))?;
        rules(file.external_ips, file.load_balancing)
    }

    #[test]
    fn load_balancing_has_defaults_and_limits() {
        let rules = rules_of("").unwrap();
        assert_eq!(
            (rules.algorithm, rules.hash_by, rules.maglev_memory),
            (Algorithm::Random, HashBy::Tuple, 64_000_000)
        );
        let given = "loadBalancing: {algorithm: maglev, hashBy: client, maglevMemory: 1000}\n";
        let rules = rules_of(given).unwrap();
        assert_eq!(
            (rules.algorithm, rules.hash_by, rules.maglev_memory),
            (Algorithm::Maglev, HashBy::Client, 1000)
        );
        for (key, value, says) in [
            ("algorithm", "fastest", "random, round-robin"),
            ("hashBy", "port", "tuple or client"),
            ("maglevMemory", "4000000001", "at most"),
        ] {
            let error = rules_of(&format!("loadBalancing: {{{key}: {value}}}\n")).unwrap_err().to_string();
            assert!(error.contains(&format!("loadBalancing.{key}")) && error.contains(says), "{error}");
        }
    }
}
