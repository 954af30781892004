//! `nodePortAddresses`: which addresses of this host take node ports.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Family;

use super::ConfigError;
use super::rules::parse_cidr;
use crate::model::{Node, ip};

/// Which addresses of this host take node ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The Node's first address of each family.
    #[default]
    Primary,
    /// Its addresses inside these. A family without any takes none: both families are restricted, or neither is.
    Cidrs(Vec<(IpAddr, u8)>),
    /// Both.
    PrimaryAnd(Vec<(IpAddr, u8)>),
}

/// The word for [`NodePortAddresses::Primary`].
const PRIMARY: &str = "primary";

impl NodePortAddresses {
    /// CIDRs and the word `primary`.
    ///
    /// # Errors
    /// The element that is neither.
    pub(super) fn resolve(given: Option<&[String]>) -> Result<Self, ConfigError> {
        // As kube-proxy: an empty list is none.
        let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(Self::Primary) };
        if matches!(given, [only] if only == PRIMARY) {
            return Ok(Self::Primary);
        }
        let (mut cidrs, mut primary) = (Vec::with_capacity(given.len()), false);
        for (at, text) in given.iter().enumerate() {
            let field = format!("nodePortAddresses[{at}]");
            if text == PRIMARY {
                primary = true;
                continue;
            }
            let Some(cidr) = parse_cidr(text) else {
                let what = format_args!("{text:?} is no CIDR").to_string();
                return Err(ConfigError::new(field, what, "as 192.168.0.0/16, or [primary]"));
            };
            cidrs.push(ip::network(cidr));
        }
        Ok(if primary { Self::PrimaryAnd(cidrs) } else { Self::Cidrs(cidrs) })
    }

    /// The addresses that take node ports on a host with these addresses of its own, ascending. Addresses that only
    /// this host or one link has (loopback, link-local) never do.
    #[must_use]
    pub fn accepted(&self, node: &Node, own: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let taken = |addr: &IpAddr| ip::never_routed(*addr).is_none();
        let (primary, cidrs): (bool, &[_]) = match self {
            Self::Primary => (true, &[]),
            Self::Cidrs(cidrs) => (false, cidrs),
            Self::PrimaryAnd(cidrs) => (true, cidrs),
        };
        let first = |family| node.addresses.iter().find(|addr| Family::of(**addr) == family).copied();
        let first = [Family::V4, Family::V6].into_iter().filter_map(first).filter(|addr| own.contains(addr));
        let inside = |addr: &&IpAddr| cidrs.iter().any(|cidr| ip::contains(*cidr, **addr));
        let named = own.iter().filter(inside).copied();
        let accepted: BTreeSet<IpAddr> = first.filter(|_| primary).chain(named).filter(taken).collect();
        accepted.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::ip as addr;

    fn accepted(given: &[&str]) -> Vec<String> {
        let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
        let addresses = ["192.0.2.1", "192.0.2.2", "fd00::1", "203.0.113.1"].map(addr).into();
        let node = Node { addresses, ..Node::default() };
        let own =
            ["127.0.0.1", "192.0.2.1", "10.0.0.1", "::1", "fe80::1", "fd00::1", "fd00:1::1", "169.254.77.2"];
        let chosen = NodePortAddresses::resolve(Some(&given)).unwrap();
        chosen.accepted(&node, &own.map(addr).into()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_word_and_cidrs_choose_addresses() {
        assert_eq!(NodePortAddresses::resolve(None).unwrap(), NodePortAddresses::Primary);
        assert_eq!(accepted(&["primary"]), ["192.0.2.1", "fd00::1"]);
        assert_eq!(accepted(&["10.0.0.0/8", "primary"]), ["10.0.0.1", "192.0.2.1", "fd00::1"]);
        assert_eq!(accepted(&["192.0.2.0/24"]), ["192.0.2.1"], "no IPv6: both families are restricted");
        assert_eq!(accepted(&["0.0.0.0/0"]), ["10.0.0.1", "192.0.2.1"]);
        assert_eq!(accepted(&["::/0", "10.0.0.0/8"]), ["10.0.0.1", "fd00::1", "fd00:1::1"]);
        assert_eq!(accepted(&["127.0.0.0/8", "fe80::/10"]), [""; 0], "never loopback or link-local");
        assert_eq!(NodePortAddresses::resolve(Some(&[])).unwrap(), NodePortAddresses::Primary);
        assert!(NodePortAddresses::Primary.accepted(&Node::default(), &BTreeSet::new()).is_empty());
        let elsewhere = Node { addresses: vec![addr("203.0.113.1"), addr("192.0.2.1")], ..Node::default() };
        let own = [addr("192.0.2.1")].into();
        assert!(NodePortAddresses::Primary.accepted(&elsewhere, &own).is_empty(), "the first, or none");
    }

    #[test]
    fn what_is_neither_is_named() {
        let wrong = |given: &[&str]| {
            let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
            NodePortAddresses::resolve(Some(&given)).unwrap_err().field
        };
        assert_eq!(wrong(&["primary", "all"]), "nodePortAddresses[1]");
        assert_eq!(wrong(&["10.0.0.0"]), "nodePortAddresses[0]");
    }
}
