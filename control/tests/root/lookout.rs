//! What this host is like, as far as it tells local pods from others: read, and read again when it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use control::config::detect::DetectLocal;
use control::node::{Lookout, Surroundings};
use tokio::sync::watch;

use crate::host::{REPAIRED, addr, block_on, config, enter, enter_with_device, installed, ip, state};

/// Routes by destination.
fn routes(here: &Surroundings) -> BTreeMap<(IpAddr, u8), bool> {
    let routes: BTreeMap<_, _> = here.routes.iter().copied().collect();
    assert_eq!(routes.len(), here.routes.len(), "a destination twice: {:?}", here.routes);
    routes
}

pub(crate) fn addresses_are_told_when_they_change() {
    enter();
    block_on(async {
        let mut lookout = Lookout::open(DetectLocal::NodeCidr).unwrap();
        let first = lookout.look().unwrap();
        assert!(first.hosts.contains(&addr("192.168.77.1")) && first.hosts.contains(&addr("fd00:77::1")));
        assert!(first.routes.is_empty(), "no link decides here");
        let (tell, mut here) = watch::channel(first.clone());
        let following = tokio::spawn(lookout.run(tell));
        let mut slowest = Duration::ZERO;
        for (command, own, there) in [
            ("addr add 10.9.8.7/32 dev lo", "10.9.8.7", true),
            ("addr add fd00:9::7/128 dev lo nodad", "fd00:9::7", true),
            ("addr del 10.9.8.7/32 dev lo", "10.9.8.7", false),
            ("addr del fd00:9::7/128 dev lo", "fd00:9::7", false),
        ] {
            ip(command);
            let start = SystemTime::now();
            tokio::time::timeout(REPAIRED, here.changed()).await.expect(command).unwrap();
            slowest = slowest.max(start.elapsed().unwrap_or_default());
            assert_eq!(here.borrow_and_update().hosts.contains(&addr(own)), there, "{command}");
        }
        assert_eq!(*here.borrow(), first);
        // Neither a route nor what changes nothing is news here.
        ip("route add 10.1.0.0/16 via 192.168.77.254");
        ip("addr change 192.168.77.1/24 dev eth0 valid_lft 5000 preferred_lft 5000");
        let news = tokio::time::timeout(Duration::from_millis(300), here.changed()).await;
        assert!(news.is_err(), "{:?}", here.borrow());
        println!("measured: a changed address is told after {slowest:?} at most");
        drop(here);
        tokio::time::timeout(REPAIRED, following).await.expect("it ends with its listener").unwrap();
    });
}

pub(crate) fn a_bridge_has_what_is_routed_out_of_it_and_more_specific_routes_elsewhere_win() {
    enter();
    for command in [
        "link add cni0 type bridge",
        "link set cni0 up",
        "addr add 10.244.1.1/24 dev cni0",
        "addr add fd00:244:1::1/64 dev cni0 nodad",
        "route add 10.244.1.64/26 via 192.168.77.254",
        "route add blackhole 10.244.1.128/26",
        // To one prefix by two ways: the lower metric counts, whichever was made first.
        "route add 10.244.9.0/24 dev cni0 metric 200",
        "route add 10.244.9.0/24 dev eth0 metric 100",
        "-6 route add fd00:244:9::/64 dev cni0 metric 50",
        "-6 route add fd00:244:9::/64 dev eth0 metric 100",
        "route add 10.244.10.0/24 nexthop dev eth0 nexthop dev cni0",
    ] {
        ip(command);
    }
    block_on(async {
        let here = Lookout::open(DetectLocal::Bridge("cni0".into())).unwrap().look().unwrap();
        let routes = routes(&here);
        for (net, length, to_pods) in [
            ("10.244.1.0", 24, true),
            ("10.244.1.64", 26, false),
            ("10.244.1.128", 26, false),
            ("10.244.9.0", 24, false),
            ("10.244.10.0", 24, false),
            ("192.168.77.0", 24, false),
            ("0.0.0.0", 0, false),
            ("fd00:244:1::", 64, true),
            ("fd00:244:9::", 64, true),
            ("fd00:77::", 64, false),
        ] {
            assert_eq!(routes.get(&(addr(net), length)), Some(&to_pods), "{net}/{length}: {routes:?}");
        }
        assert!(here.hosts.contains(&addr("10.244.1.1")));
    });
}

pub(crate) fn pods_behind_links_of_their_own_are_told_as_they_come_and_go() {
    enter();
    block_on(async {
        let mut lookout = Lookout::open(DetectLocal::InterfacePrefix("pod".into())).unwrap();
        let (tell, mut here) = watch::channel(lookout.look().unwrap());
        let following = tokio::spawn(lookout.run(tell));
        let pod = (addr("10.244.1.11"), 32);
        ip("link add pod1 type veth peer name in1");
        ip("link set pod1 up");
        ip("route add 10.244.1.11/32 dev pod1");
        let start = SystemTime::now();
        let told = |wanted: Option<bool>| {
            move |here: &Surroundings| here.routes.iter().find(|route| route.0 == pod).map(|r| r.1) == wanted
        };
        tokio::time::timeout(REPAIRED, here.wait_for(told(Some(true)))).await.expect("it came").unwrap();
        println!("measured: a pod's route is told after {:?}", start.elapsed().unwrap_or_default());
        // A burst is told in the end, whatever was told on the way.
        let many: String =
            (0..500).map(|n| format!("route add 10.245.{}.{}/32 dev pod1\n", n / 250, n % 250 + 1)).collect();
        batch(&many);
        let all = |here: &Surroundings| here.routes.iter().filter(|route| route.1).count() == 501;
        tokio::time::timeout(REPAIRED, here.wait_for(all)).await.expect("all came").unwrap();
        ip("link set pod1 down");
        ip("link set pod1 name far1");
        ip("link set far1 up");
        ip("route add 10.244.1.11/32 dev far1");
        tokio::time::timeout(REPAIRED, here.wait_for(told(Some(false)))).await.expect("renamed").unwrap();
        ip("link del far1");
        tokio::time::timeout(REPAIRED, here.wait_for(told(None))).await.expect("it went").unwrap();
        following.abort();
    });
}

pub(crate) fn service_cidrs_that_come_are_routed_and_those_that_go_are_not() {
    enter_with_device();
    block_on(async {
        let vips = ["10.200.7.1", "fd00:203::10"];
        let mut host = installed(config(), &vips).await;
        let vips: BTreeSet<IpAddr> = vips.into_iter().map(addr).collect();
        let before = state();
        assert!(before.contains("10.200.7.1 dev tunway0"), "{before}");
        let mut cidrs: BTreeSet<_> = config().service_cidrs.into_iter().collect();
        cidrs.insert((addr("10.200.0.0"), 16));
        host.set_service_cidrs(&cidrs);
        host.attract(&vips).await.unwrap();
        let with = state();
        assert!(with.contains("10.200.0.0/16 dev tunway0") && !with.contains("10.200.7.1 dev"), "{with}");
        cidrs.remove(&(addr("10.200.0.0"), 16));
        host.set_service_cidrs(&cidrs);
        host.attract(&vips).await.unwrap();
        assert_eq!(state(), before);
    });
}

/// `ip -batch` with these lines.
fn batch(lines: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    ip(&format!("-batch {}", file.path().display()));
}
