//! A destination by its Service's name, as `tunway services` lists it.

use std::net::{IpAddr, SocketAddr};

use crate::nearest;
use crate::socket::wire;

/// A Service port that can be asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `namespace/name:port`, or `namespace/name` when the port has no name.
    pub name: String,
    /// `TCP`, `UDP`.
    pub proto: String,
    /// Its ClusterIP and port.
    pub at: SocketAddr,
}

/// Whether a destination is a name: no address has a slash.
#[must_use]
pub fn is_name(dst: &str) -> bool {
    dst.contains('/')
}

/// Where `asked` is, NAMESPACE/NAME with or without the port's name or number: the ClusterIP of the client's family.
///
/// # Errors
/// Nothing or more than one thing has this name, in words.
pub fn resolve(asked: &str, src: Option<IpAddr>, proto: &str, known: &[Named]) -> Result<SocketAddr, String> {
    let (object, port) = asked.split_once(':').map_or((asked, None), |(object, port)| (object, Some(port)));
    let is_of = |named: &&Named| wire::names(object, &named.name);
    if !known.iter().any(|named| is_of(&named)) {
        let objects = known.iter().map(|named| named.name.split(':').next().unwrap_or_default());
        let otherwise = "`tunway services` lists what is served";
        return Err(format!(
            "no Service {object} is served: {}",
            nearest::or_else(object, objects, otherwise)
        ));
    }
    let asks = |named: &&Named| {
        port.is_none_or(|port| wire::names(asked, &named.name) || named.at.port().to_string() == port)
    };
    let fits = |named: &&Named| {
        src.is_none_or(|src| src.is_ipv4() == named.at.is_ipv4()) && named.proto.eq_ignore_ascii_case(proto)
    };
    let of_it = || known.iter().filter(is_of);
    let mut found: Vec<_> = of_it().filter(asks).filter(fits).map(|named| named.at).collect();
    found.dedup();
    if let [one] = found.as_slice() {
        return Ok(*one);
    }
    let mut all: Vec<_> =
        of_it().map(|named| format!("{} {} ({})", named.at, named.proto, named.name)).collect();
    all.dedup();
    let what =
        if found.is_empty() { "has no such port for this client and protocol" } else { "has several ports" };
    Err(format!("{asked} {what}; it has {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::ip;

    fn known() -> Vec<Named> {
        let named = |name: &str, proto: &str, at: &str| Named {
            name: name.into(),
            proto: proto.into(),
            at: at.parse().unwrap(),
        };
        vec![
            named("shop/web:http", "TCP", "10.96.0.1:80"),
            named("shop/web:http", "TCP", "[fd00::1]:80"),
            named("shop/web:admin", "TCP", "10.96.0.1:81"),
            named("shop/dns", "UDP", "10.96.0.2:53"),
        ]
    }

    #[test]
    fn a_name_leads_to_the_cluster_ip_of_the_clients_family() {
        let at = |asked: &str, src: &str, proto: &str| {
            resolve(asked, Some(ip(src)), proto, &known()).map(|at| at.to_string())
        };
        assert_eq!(at("shop/web:http", "10.0.0.1", "tcp").unwrap(), "10.96.0.1:80");
        assert_eq!(at("shop/web:80", "fd00::9", "tcp").unwrap(), "[fd00::1]:80");
        assert_eq!(at("shop/web:81", "10.0.0.1", "TCP").unwrap(), "10.96.0.1:81");
        assert_eq!(at("shop/dns", "10.0.0.1", "udp").unwrap(), "10.96.0.2:53");
        assert_eq!(at("shop/web", "fd00::9", "tcp").unwrap(), "[fd00::1]:80", "the only one of the family");
        assert!(
            at("shop/web", "10.0.0.1", "tcp").unwrap_err().contains("several ports; it has 10.96.0.1:80")
        );
        assert!(at("shop/dns", "10.0.0.1", "tcp").unwrap_err().contains("10.96.0.2:53 UDP"));
        assert!(at("shop/wbe", "10.0.0.1", "tcp").unwrap_err().contains("did you mean `shop/web`?"));
        assert!(is_name("a/b") && !is_name("10.0.0.1:80") && !is_name("[fd00::1]:80"));
    }
}
