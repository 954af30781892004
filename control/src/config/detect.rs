//! `detectLocal`: how local pods are told from everybody else. Only with `returnPath: conntrack` does it matter: local
//! pods keep their address on the way to a ClusterIP, everybody else is masqueraded.

use std::net::IpAddr;

use dataplane::packet::tuple::Family;

use super::file::{DetectLocalFile, DetectMode};
use super::{ConfigError, rules};
use crate::model::ip;

/// How local pods are told from everybody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DetectLocal {
    /// By the pods' CIDR of the whole cluster, at most one a family. A family without one has no detector: there
    /// every client keeps its address.
    ClusterCidr(Vec<(IpAddr, u8)>),
    /// By the first of each family in our Node's `spec.podCIDRs`.
    NodeCidr,
    /// By this link: what is routed out of it is a local pod.
    Bridge(String),
    /// By the links whose names begin so.
    InterfacePrefix(String),
}

impl Default for DetectLocal {
    /// No detector.
    fn default() -> Self {
        Self::ClusterCidr(Vec::new())
    }
}

impl DetectLocal {
    /// What was given, checked: each mode has its own key, and one that is not the mode's is refused.
    ///
    /// # Errors
    /// The key that is missing, wrong, or another mode's.
    pub(super) fn resolve(given: DetectLocalFile) -> Result<Self, ConfigError> {
        let DetectLocalFile { mode, cluster_cidrs, interface } = given;
        let mode = mode.unwrap_or_default();
        let refuse = |key: &str, what: &str, remedy: &str| {
            let what = format!("{what} mode {}", mode.name());
            Err(ConfigError::new(format!("detectLocal.{key}"), what, remedy))
        };
        match (mode, cluster_cidrs, interface) {
            (DetectMode::ClusterCidr, cidrs, None) => {
                Ok(Self::ClusterCidr(cluster_cidrs_of(&cidrs.unwrap_or_default())?))
            }
            (DetectMode::ClusterCidr | DetectMode::NodeCidr, _, Some(_)) => {
                refuse("interface", "means nothing in", "remove it, or choose mode bridge or interfacePrefix")
            }
            (DetectMode::NodeCidr | DetectMode::Bridge | DetectMode::InterfacePrefix, Some(_), _) => {
                refuse("clusterCIDRs", "mean nothing in", "remove them, or choose mode clusterCIDR")
            }
            (DetectMode::NodeCidr, None, None) => Ok(Self::NodeCidr),
            (DetectMode::Bridge, None, Some(name)) => {
                rules::link("detectLocal.interface", name).map(Self::Bridge)
            }
            (DetectMode::InterfacePrefix, None, Some(prefix)) => {
                rules::link("detectLocal.interface", prefix).map(Self::InterfacePrefix)
            }
            (DetectMode::Bridge | DetectMode::InterfacePrefix, None, None) => {
                refuse("interface", "missing, which is needed in", "give it, as cni0 or veth")
            }
        }
    }

    /// Whether the links this host routes through decide.
    #[must_use]
    pub const fn by_link(&self) -> bool {
        matches!(self, Self::Bridge(_) | Self::InterfacePrefix(_))
    }

    /// Whether what is routed out of the link of this name is a local pod.
    #[must_use]
    pub fn is_pods_link(&self, name: &str) -> bool {
        match self {
            Self::Bridge(bridge) => name == bridge,
            Self::InterfacePrefix(prefix) => name.starts_with(prefix.as_str()),
            Self::ClusterCidr(_) | Self::NodeCidr => false,
        }
    }
}

/// One CIDR, or one of each family, as kube-proxy takes them.
fn cluster_cidrs_of(given: &[String]) -> Result<Vec<(IpAddr, u8)>, ConfigError> {
    let mut cidrs: Vec<(IpAddr, u8)> = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let field = format!("detectLocal.clusterCIDRs[{at}]");
        // Leniently, as kube-proxy: with host bits, or zeros in front.
        let Some(cidr) = ip::parse_prefix(text) else {
            return Err(ConfigError::new(field, format_args!("{text:?} is no CIDR"), "as 10.244.0.0/16"));
        };
        let family = Family::of(cidr.0);
        if cidrs.iter().any(|(other, _)| Family::of(*other) == family) {
            let what = format!("a second {family} CIDR");
            return Err(ConfigError::new(field, what, "give the cluster's pod CIDR, one a family"));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(mode: DetectMode, cidrs: &[&str], interface: &str) -> DetectLocalFile {
        let cluster_cidrs =
            (!cidrs.is_empty()).then(|| cidrs.iter().map(|cidr| (*cidr).to_owned()).collect());
        let interface = (!interface.is_empty()).then(|| interface.to_owned());
        DetectLocalFile { mode: Some(mode), cluster_cidrs, interface }
    }

    #[test]
    fn every_mode_takes_its_own_key() {
        let nothing = DetectLocal::resolve(DetectLocalFile::default()).unwrap();
        assert_eq!(nothing, DetectLocal::ClusterCidr(vec![]));
        let both = given(DetectMode::ClusterCidr, &["10.244.0.0/16", "fd00:244::/48"], "");
        let cidrs = vec![("10.244.0.0".parse().unwrap(), 16), ("fd00:244::".parse().unwrap(), 48)];
        assert_eq!(DetectLocal::resolve(both).unwrap(), DetectLocal::ClusterCidr(cidrs));
        assert_eq!(
            DetectLocal::resolve(given(DetectMode::NodeCidr, &[], "")).unwrap(),
            DetectLocal::NodeCidr
        );
        let bridge = DetectLocal::resolve(given(DetectMode::Bridge, &[], "cni0")).unwrap();
        assert!(bridge.by_link() && bridge.is_pods_link("cni0") && !bridge.is_pods_link("cni01"));
        let prefix = DetectLocal::resolve(given(DetectMode::InterfacePrefix, &[], "veth")).unwrap();
        assert!(prefix.is_pods_link("veth1a2b") && !prefix.is_pods_link("eth0"));
        assert!(!DetectLocal::NodeCidr.by_link() && !DetectLocal::NodeCidr.is_pods_link("cni0"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        let rows = [
            (given(DetectMode::ClusterCidr, &["10.244.0.0"], ""), "clusterCIDRs[0]", "is no CIDR"),
            (
                given(DetectMode::ClusterCidr, &["10.0.0.0/8", "11.0.0.0/8"], ""),
                "clusterCIDRs[1]",
                "second IPv4",
            ),
            (given(DetectMode::ClusterCidr, &[], "cni0"), "interface", "mode clusterCIDR"),
            (given(DetectMode::NodeCidr, &["10.0.0.0/8"], ""), "clusterCIDRs", "mode nodeCIDR"),
            (given(DetectMode::NodeCidr, &[], "cni0"), "interface", "mode nodeCIDR"),
            (given(DetectMode::Bridge, &[], ""), "interface", "mode bridge"),
            (given(DetectMode::Bridge, &["10.0.0.0/8"], "cni0"), "clusterCIDRs", "mode bridge"),
            (given(DetectMode::InterfacePrefix, &[], ""), "interface", "mode interfacePrefix"),
            (given(DetectMode::Bridge, &[], "a/b"), "interface", "no device name"),
            (given(DetectMode::InterfacePrefix, &[], "sixteen-letters-"), "interface", "no device name"),
        ];
        for (file, field, says) in rows {
            let error = DetectLocal::resolve(file).unwrap_err();
            assert_eq!(error.field, format!("detectLocal.{field}"), "{error}");
            assert!(error.to_string().contains(says) && !error.remedy.is_empty(), "{error}");
        }
    }
}
