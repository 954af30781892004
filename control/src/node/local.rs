//! Where addresses are, seen from this host: its own addresses, and where it looks for local pods by links, the links
//! its routes lead out of. Watched on a socket of its own: other routes matter here than to the host plan.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rtnetlink::MulticastGroup;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocketExt, TokioSocket};
use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep, timeout};

use super::NodeError;
use super::host::refused;
use super::netlink::Netlink;
use super::networks::{self, Network};
use super::rt::{Family, Prefix};
use super::watch::subscribe;
use crate::config::detect::DetectLocal;

/// What of this host says where an address is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Addresses of this host, on whatever link.
    pub hosts: BTreeSet<IpAddr>,
    /// Routes of the main table: destination, and whether they lead to local pods. None unless links decide that.
    pub routes: Vec<((IpAddr, u8), bool)>,
    /// Networks of its links and routes.
    pub networks: Vec<Network>,
}

/// Looks at this host, again whenever something changed.
pub struct Lookout {
    detect: DetectLocal,
    netlink: Netlink,
    changes: TokioSocket,
    /// As last read, and when to read them again: a host may have very many routes.
    networks: Vec<Network>,
    networks_due: Option<Instant>,
}

impl Lookout {
    /// Subscribes, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn open(detect: DetectLocal) -> Result<Self, NodeError> {
        let netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
        let changes = listen(&detect).map_err(refused("watch this host's addresses"))?;
        Ok(Self { detect, netlink, changes, networks: Vec::new(), networks_due: None })
    }

    /// This host as it is now.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn look(&mut self) -> Result<Surroundings, NodeError> {
        self.read().map_err(refused("read this host's addresses and routes"))
    }

    /// Tells what changed, for as long as somebody listens.
    pub async fn run(mut self, tell: Sender<Surroundings>) {
        let mut complained = false;
        loop {
            let mut message = Vec::with_capacity(LARGEST_MESSAGE);
            let heard = tokio::select! {
                () = tell.closed() => return,
                heard = timeout(LOOK_EVERY, self.changes.recv(&mut message)) => heard,
            };
            // Lost messages are a change too; a socket that fails otherwise leaves the look every so often.
            if let Ok(Err(error)) = heard
                && error.raw_os_error() != Some(nix::libc::ENOBUFS)
            {
                sleep(LOOK_EVERY).await;
            }
            sleep(DEBOUNCE).await;
            self.forget_messages();
            let began = Instant::now();
            match self.read() {
                Ok(now) => {
                    complained = false;
                    tell.send_if_modified(|known| {
                        let news = *known != now;
                        *known = now;
                        news
                    });
                }
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "this host's addresses cannot be read: what was last known stays");
                }
                Err(_) => {}
            }
            // On a host with very many routes a look takes time, which others should have too.
            sleep(began.elapsed() * SHARE).await;
        }
    }

    /// What came before a look is in it: a burst is one look, not one for each message.
    fn forget_messages(&mut self) {
        use futures::FutureExt;
        let mut message = Vec::with_capacity(LARGEST_MESSAGE);
        // At most a receive buffer full.
        for _ in 0..MOST_MESSAGES {
            if !matches!(self.changes.recv(&mut message).now_or_never(), Some(Ok(()))) {
                return;
            }
            message.clear();
        }
    }

    fn read(&mut self) -> io::Result<Surroundings> {
        let hosts = self.netlink.addresses()?.into_iter().map(|own| own.address).collect();
        let mut routes = Vec::new();
        if self.detect.by_link() {
            let links = self.netlink.links()?;
            let pods: HashMap<u32, bool> =
                links.iter().map(|link| (link.index, self.detect.is_pods_link(&link.name))).collect();
            for family in Family::ALL {
                let found = self.netlink.routes(family, MAIN)?;
                let via = |link: Option<u32>| link.and_then(|link| pods.get(&link).copied()).unwrap_or(false);
                let found = found.iter().map(|route| (route.destination, route.unicast && via(route.link)));
                routes.extend(first_of_each(found));
            }
        }
        let now = Instant::now();
        if self.networks_due.is_none_or(|due| due <= now) {
            self.networks = networks::read(&mut self.netlink)?;
            self.networks_due = Some(now + NETWORKS_EVERY);
        }
        Ok(Surroundings { hosts, routes, networks: self.networks.clone() })
    }
}

impl std::fmt::Debug for Lookout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookout").field("detect", &self.detect).finish_non_exhaustive()
    }
}

/// The kernel lists routes to one destination by ascending metric: the first is the one it takes.
fn first_of_each(routes: impl Iterator<Item = (Prefix, bool)>) -> Vec<(Prefix, bool)> {
    let mut seen = HashSet::new();
    routes.filter(|(destination, _)| seen.insert(*destination)).collect()
}

fn listen(detect: &DetectLocal) -> io::Result<TokioSocket> {
    let addresses = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let by_link = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
    let by_link = by_link.into_iter().filter(|_| detect.by_link());
    subscribe(NETLINK_ROUTE, addresses.into_iter().chain(by_link).map(|group| group as u32))
}

/// `RT_TABLE_MAIN`.
const MAIN: u32 = 254;
/// From the first sign of a change to the look at it. A pod's first packet may follow its route closely.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Between looks, so many times as long as the last one took.
const SHARE: u32 = 4;
/// A look at least this often finds what was not announced.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Networks are compared with Service CIDRs only: nothing hangs on seeing a new one at once.
const NETWORKS_EVERY: Duration = Duration::from_secs(10);
/// `NLMSG_GOODSIZE` is 8 KiB at most.
const LARGEST_MESSAGE: usize = 32 * 1024;
/// More than a receive buffer holds.
const MOST_MESSAGES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_routes_to_one_destination_the_first_counts() {
        let to = |text: &str, len| (text.parse::<IpAddr>().unwrap(), len);
        let routes = [
            (to("10.1.0.0", 24), true),
            (to("10.1.0.0", 24), false),
            (to("10.1.0.0", 25), false),
            (to("::", 0), false),
        ];
        let kept = first_of_each(routes.into_iter());
        assert_eq!(kept, [routes[0], routes[2], routes[3]]);
    }
}
