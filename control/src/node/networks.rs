//! Networks this host reaches other than through a default route: what a Service CIDR must not take away. Read only.

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::netlink::Netlink;
use super::plan::PROTOCOL;
use super::rt::{Family, Prefix};
use crate::model::ip::network;

/// A network somebody is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// Address and prefix length.
    pub prefix: Prefix,
    /// Its hosts are neighbours; else a gateway leads to them.
    pub on_link: bool,
    /// The link it is behind.
    pub link: String,
}

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;

/// Those of links' addresses and of the main table's unicast routes, each once. Default routes, loopback and what
/// tunway routes itself are none.
pub(super) fn read(netlink: &mut Netlink) -> io::Result<Vec<Network>> {
    let links = netlink.links()?;
    let names: HashMap<u32, &str> =
        links.iter().filter(|link| !link.loopback).map(|link| (link.index, link.name.as_str())).collect();
    let mut found = BTreeSet::new();
    for own in netlink.addresses()?.iter().filter(|own| own.prefix < Family::of(own.address).bits()) {
        let prefix = network((own.address, own.prefix));
        let link = names.get(&own.link).map(|link| (*link).to_owned());
        found.extend(link.map(|link| Network { prefix, on_link: true, link }));
    }
    for family in Family::ALL {
        let routes = netlink.routes(family, MAIN)?.into_iter();
        for route in routes.filter(|route| route.unicast && route.protocol != PROTOCOL) {
            let link = route.link.and_then(|link| names.get(&link)).map(|link| (*link).to_owned());
            let prefix = network(route.destination);
            if let Some(link) = link.filter(|_| prefix.1 > 0) {
                found.insert(Network { prefix, on_link: route.gateway.is_none(), link });
            }
        }
    }
    Ok(found.into_iter().collect())
}
