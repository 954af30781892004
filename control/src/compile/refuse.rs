//! Addresses that can be neither backend nor frontend: each would be a loop or a hole. They are left out and
//! reported, never served and never fatal.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use crate::model::{Problem, Slice};

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// 0.0.0.0 or ::.
    Unspecified,
    /// 127.0.0.0/8 or ::1.
    Loopback,
    /// 169.254.0.0/16 or fe80::/10.
    LinkLocal,
    /// 224.0.0.0/4 or ff00::/8.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// ::ffff:0:0/96, which is never on the wire.
    Mapped,
    /// Inside a Service CIDR.
    ServiceCidr,
    /// The frontend of a Service.
    Frontend,
    /// One of our SNAT addresses.
    Snat,
    /// An external IP the configuration does not allow.
    NotAllowed,
    /// A node port, and replies could not be told apart.
    NoNodePorts,
    /// A node port, and no address of this host takes any in its family.
    NoNodeAddress,
}

impl Refusal {
    /// What is wrong with the address.
    pub(super) fn is(self) -> &'static str {
        match self {
            Self::Unspecified => "is the unspecified address",
            Self::Loopback => "is a loopback address",
            Self::LinkLocal => "is a link-local address",
            Self::Multicast => "is a multicast address",
            Self::Broadcast => "is the broadcast address",
            Self::Mapped => "is an IPv4 address written as IPv6",
            Self::ServiceCidr => "lies in a Service CIDR",
            Self::Frontend => "is the address of a Service",
            Self::Snat => "is one of tunway's SNAT addresses",
            Self::NotAllowed => "is an external IP that the configuration does not allow",
            Self::NoNodePorts => "needs returnPath: conntrack",
            Self::NoNodeAddress => "is at no address of this host",
        }
    }

    fn endpoint_remedy(self) -> &'static str {
        match self {
            Self::Unspecified | Self::Loopback | Self::LinkLocal | Self::Multicast | Self::Broadcast => {
                "name an address at which the pod is reached from this node"
            }
            Self::Mapped => "put it into an EndpointSlice of addressType IPv4",
            Self::ServiceCidr | Self::Frontend => {
                "name the addresses of the pods behind that Service, not the Service"
            }
            Self::Snat => "give the pod another address, or configure another snatAddress",
            // None is ever an endpoint's.
            Self::NotAllowed | Self::NoNodePorts | Self::NoNodeAddress => "name the addresses of pods",
        }
    }

    fn frontend_remedy(self) -> &'static str {
        match self {
            Self::Snat => "give the Service another address, or configure another snatAddress",
            Self::NotAllowed => {
                "add a CIDR with it to externalIPs.allow, if those who write Services are to be trusted with it"
            }
            Self::NoNodePorts => "use the ClusterIP, or run with returnPath: conntrack",
            Self::NoNodeAddress => {
                "name a CIDR in nodePortAddresses that has an address of this host, or let the Node object have one"
            }
            Self::Unspecified
            | Self::Loopback
            | Self::LinkLocal
            | Self::Multicast
            | Self::Broadcast
            | Self::Mapped
            | Self::ServiceCidr
            | Self::Frontend => "give the Service another address",
        }
    }

    /// What is told of a Service with this frontend, an address or a node port.
    pub(super) fn of_frontend(self, object: String, field: String, frontend: &dyn fmt::Display) -> Problem {
        let what = format!("{frontend} {}: not served", self.is());
        Problem { object, field, what, remedy: self.frontend_remedy().into() }
    }
}

/// Why nothing can be sent to this address whatever else is configured.
pub(crate) fn unusable(addr: IpAddr) -> Option<Refusal> {
    let (link_local, broadcast, mapped) = match addr {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast(), false),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false, v6.to_ipv4_mapped().is_some()),
    };
    match () {
        () if addr.is_unspecified() => Some(Refusal::Unspecified),
        () if addr.is_loopback() => Some(Refusal::Loopback),
        () if link_local => Some(Refusal::LinkLocal),
        () if addr.is_multicast() => Some(Refusal::Multicast),
        () if broadcast => Some(Refusal::Broadcast),
        () if mapped => Some(Refusal::Mapped),
        () => None,
    }
}

/// What is told of a slice's refused endpoints: one problem per reason, with the first address and how many more.
pub(super) fn of_endpoints(slice: &Slice, refused: impl Iterator<Item = (IpAddr, Refusal)>) -> Vec<Problem> {
    let mut by_reason: BTreeMap<Refusal, (IpAddr, usize)> = BTreeMap::new();
    for (addr, refusal) in refused {
        by_reason.entry(refusal).or_insert((addr, 0)).1 += 1;
    }
    let (object, field) = slice.origin();
    let told = |(refusal, (addr, count)): (Refusal, (IpAddr, usize))| Problem {
        object: object.clone(),
        field: field.into(),
        what: match count {
            1 => format!("{addr} {}: not used", refusal.is()),
            _ => format!("{addr} {}, and so do {} more: not used", refusal.is(), count - 1),
        },
        remedy: refusal.endpoint_remedy().into(),
    };
    by_reason.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_legacy_address_names_the_object_its_owner_wrote() {
        let legacy = serde_json::json!({
            "metadata": {"name": "dns", "namespace": "kube-system"},
            "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 53}]}],
        });
        let slices =
            crate::model::endpoints::read_legacy(&serde_json::from_value(legacy).unwrap()).value.unwrap();
        let refused = [("127.0.0.1".parse().unwrap(), Refusal::Loopback)];
        let told = of_endpoints(&slices[0], refused.into_iter());
        assert_eq!(
            told[0].to_string(),
            "Endpoints kube-system/dns: subsets[*].addresses[*].ip: 127.0.0.1 is a loopback address: not used \
             (name an address at which the pod is reached from this node)"
        );
    }

    #[test]
    fn what_nothing_can_be_sent_to() {
        let cases = [
            ("0.0.0.0", Refusal::Unspecified),
            ("::", Refusal::Unspecified),
            ("127.255.0.9", Refusal::Loopback),
            ("::1", Refusal::Loopback),
            ("169.254.1.1", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("febf::1", Refusal::LinkLocal),
            ("224.0.0.1", Refusal::Multicast),
            ("239.255.255.255", Refusal::Multicast),
            ("ff02::1", Refusal::Multicast),
            ("255.255.255.255", Refusal::Broadcast),
            ("::ffff:10.0.0.1", Refusal::Mapped),
        ];
        for (addr, expected) in cases {
            assert_eq!(unusable(addr.parse().unwrap()), Some(expected), "{addr}");
        }
        for addr in ["10.0.0.1", "169.253.255.255", "223.255.255.255", "fec0::1", "fd00::1", "2001:db8::1"] {
            assert_eq!(unusable(addr.parse().unwrap()), None, "{addr}");
        }
    }
}
