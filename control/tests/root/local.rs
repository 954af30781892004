//! Serving addresses of this host: the sets follow, and an earlier process's go on.

use std::time::Duration;

use control::node::{Host, LocalFrontends};
use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::service::SvcPort;

use crate::host::{
    addr, assert_same, block_on, config, conntrack, enter_with_device, installed, ip, repair, run, state,
};

/// Node ports at the node's own addresses, and a frontend at one of them.
pub(crate) fn served(ports: &[u16]) -> LocalFrontends {
    let port = |port: u16| SvcPort { port, proto: Proto::Tcp };
    let kept = Tuple {
        src: addr("fd00:77::9"),
        dst: addr("fd00:77::1"),
        sport: 40_000,
        dport: 8443,
        proto: Proto::Tcp,
    };
    LocalFrontends {
        kept: [kept].into(),
        node_addresses: [addr("192.168.77.1"), addr("fd00:77::1")].into(),
        node_ports: ports.iter().map(|number| port(*number)).collect(),
        frontends: [(addr("192.168.77.1"), port(443))].into(),
    }
}

async fn settle(host: &mut Host) {
    while repair(host, Duration::from_millis(700)).await.is_some() {}
}

pub(crate) fn served_and_given_back() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &["203.0.113.10"]).await;
        host.serve(&LocalFrontends::default()).await.unwrap();
        settle(&mut host).await;
        let (before, rules) = (state(), ip("rule"));
        host.serve(&served(&[30_080, 30_081])).await.unwrap();
        assert_eq!(ip("rule"), rules, "no rule moves");
        let sets = run("nft", &["list", "table", "inet", "tunway_alias"]);
        for line in [
            "elements = { tcp . 30080,",
            "elements = { 192.168.77.1 }",
            "elements = { fd00:77::1 }",
            "elements = { 192.168.77.1 . tcp . 443 }",
            "elements = { fd00:77::9 . 40000 . fd00:77::1 . tcp . 8443 }",
        ] {
            assert!(sets.contains(line), "{line} is not in\n{sets}");
        }
        // The host is still itself; the alias of its address leads to the device.
        assert!(ip("route get 192.168.77.1").contains("dev lo"));
        assert!(ip("route get 240.168.77.1").contains("dev tunway0"));
        let table = run("nft", &["-a", "list", "table", "inet", "tunway_alias"]);
        host.serve(&served(&[30_081, 31_000])).await.unwrap();
        let now = run("nft", &["-a", "list", "table", "inet", "tunway_alias"]);
        let rules = |text: &str| -> Vec<String> {
            text.lines().filter(|line| line.contains("# handle")).map(str::to_owned).collect()
        };
        assert_eq!(rules(&now), rules(&table), "only elements were changed");
        assert!(
            now.contains("tcp . 31000") && now.contains("tcp . 30081") && !now.contains("tcp . 30080"),
            "{now}"
        );
        assert_eq!(repair(&mut host, Duration::from_millis(700)).await, None, "and left alone");
        assert_eq!(run("nft", &["-a", "list", "table", "inet", "tunway_alias"]), now);
        host.serve(&LocalFrontends::default()).await.unwrap();
        settle(&mut host).await;
        assert_same(&state(), &before, "nothing is served any more");
    });
}

pub(crate) fn restart_goes_on() {
    enter_with_device();
    block_on(async {
        let mut host = installed(conntrack(), &["203.0.113.10"]).await;
        host.serve(&served(&[30_080])).await.unwrap();
        settle(&mut host).await;
        let before = state();
        drop(host);
        assert_same(&state(), &before, "the table outlives its owner");
        let mut host = installed(conntrack(), &["203.0.113.10"]).await;
        settle(&mut host).await;
        assert_same(&state(), &before, "nobody said yet what is served now");
        host.serve(&served(&[30_080])).await.unwrap();
        assert_same(&state(), &before, "the same is");
        drop(host);
        // Masquerading serves no address of this host.
        let mut host = installed(config(), &["203.0.113.10"]).await;
        settle(&mut host).await;
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        assert!(!state().contains("240.0.0.0/4"), "{}", state());
    });
}
