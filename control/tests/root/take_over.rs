//! Taking a host over from kube-proxy, and a firewall that drops what is forwarded.

use std::path::Path;
use std::time::Duration;

use control::node::{Host, cleanup, preflight};

use crate::host::{QUIET, addr, block_on, config, enter_with_device, ip, repair, run, shell};

pub(crate) fn leftovers_go_and_forward_opens() {
    enter_with_device();
    shell(
        "nft add table ip kube-proxy; nft add table ip6 kube-proxy; nft add table inet mine
         nft add table inet fw; nft 'add chain inet fw pass { type filter hook forward priority 5; policy drop; }'
         iptables -t nat -N KUBE-SERVICES; iptables -t nat -N KUBE-SVC-A; iptables -t nat -N KUBE-MARK-MASQ
         iptables -t nat -A PREROUTING -m comment --comment 'kubernetes service portals' -j KUBE-SERVICES
         iptables -t nat -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A
         iptables -t nat -A KUBE-SVC-A -j KUBE-MARK-MASQ
         iptables -t nat -A PREROUTING -d 192.0.2.1/32 -j ACCEPT
         ip6tables -t nat -N KUBE-NODEPORTS; iptables -t filter -N KUBE-FORWARD; iptables -t filter -N KUBE-FIREWALL
         iptables -A FORWARD -j KUBE-FORWARD; iptables -P FORWARD DROP; ip6tables -A FORWARD -j REJECT
         ip link add kube-ipvs0 type bridge; ip addr add 10.96.0.10/32 dev kube-ipvs0",
    );
    let mut config = config();
    let found = block_on(preflight(&config));
    assert!(found.iter().filter(|finding| finding.fatal).count() >= 8, "{found:?}");
    config.take_over = true;
    let found = block_on(preflight(&config));
    assert!(found.iter().all(|finding| !finding.fatal), "taking over deals with all of it: {found:?}");

    block_on(async {
        let mut host = Host::install(config.clone()).await.unwrap();
        host.attract(&[addr("10.96.0.10")].into()).await.unwrap();
        let rules = run("nft", &["list", "ruleset"]);
        for gone in ["kube-proxy", "KUBE-SERVICES", "KUBE-SVC-A", "KUBE-NODEPORTS", "KUBE-FORWARD"] {
            assert!(!rules.contains(gone), "{gone} is still there: {rules}");
        }
        for stays in ["table inet mine", "KUBE-FIREWALL", "KUBE-MARK-MASQ", "192.0.2.1"] {
            assert!(rules.contains(stays), "{stays} is gone: {rules}");
        }
        assert!(!ip("link").contains("kube-ipvs0"));
        assert_eq!(accepts(), OPEN);
        assert!(block_on_thread(&config).is_empty(), "nothing left to find");
        while repair(&mut host, QUIET).await.is_some() {}

        // Somebody reloads a firewall: the accepts come back.
        shell("iptables -F FORWARD; nft flush chain inet fw pass");
        let mut done = Vec::new();
        while accepts() != OPEN {
            done.extend(repair(&mut host, Duration::from_secs(3)).await.expect("a repair"));
        }
        assert!(done.iter().any(|text| text.starts_with("nft chain inet fw pass")), "{done:?}");
        assert_eq!(repair(&mut host, Duration::from_millis(700)).await, None, "and it does not fight itself");
        drop(host);

        let removed = cleanup(&config).await.unwrap();
        assert!(removed.iter().any(|text| text.contains("FORWARD")), "{removed:?}");
        assert_eq!(accepts(), [0, 0, 0]);
        assert!(
            run("nft", &["list", "chain", "inet", "fw", "pass"]).contains("policy drop"),
            "the rest is theirs"
        );
        assert!(run("ip6tables", &["-S", "FORWARD"]).contains("REJECT"));
    });
}

pub(crate) fn legacy_iptables_too() {
    enter_with_device();
    if !Path::new("/usr/sbin/iptables-legacy").exists() || !legacy_works() {
        println!("iptables-legacy does not work on this machine: only its absence is tested");
        let found = block_on(preflight(&config()));
        assert!(found.iter().all(|finding| !finding.fatal), "{found:?}");
        return;
    }
    shell(
        "iptables-legacy -t nat -N KUBE-SERVICES; iptables-legacy -t nat -A OUTPUT -j KUBE-SERVICES
         iptables-legacy -P FORWARD DROP",
    );
    let mut config = config();
    let found = block_on(preflight(&config));
    assert!(
        found.iter().any(|finding| finding.fatal && finding.what.contains("iptables-legacy FORWARD")),
        "{found:?}"
    );
    config.forward_accept = true;
    let found = block_on(preflight(&config));
    assert!(!found.iter().any(|finding| finding.fatal && finding.what.contains("FORWARD")), "{found:?}");
    assert!(
        found.iter().any(|finding| finding.fatal),
        "what is left of kube-proxy still is in the way: {found:?}"
    );
    block_on(async {
        drop(Host::install(config.clone()).await.unwrap());
        assert_eq!(shell("iptables-legacy -S FORWARD").matches("tunway0").count(), 2);
        assert!(shell("iptables-legacy -t nat -S").contains("KUBE"), "only a take-over removes that");
    });
    config.take_over = true;
    block_on(async {
        let host = Host::install(config.clone()).await.unwrap();
        assert!(!shell("iptables-legacy -t nat -S").contains("KUBE"));
        assert_eq!(shell("iptables-legacy -S FORWARD").matches("tunway0").count(), 2);
        drop(host);
        cleanup(&config).await.unwrap();
        assert_eq!(shell("iptables-legacy -S FORWARD").trim(), "-P FORWARD DROP");
    });
}

/// Accept rules for the device: iptables, ip6tables, the host's own nft chain.
fn accepts() -> [usize; 3] {
    [
        run("iptables", &["-S", "FORWARD"]).matches("tunway0").count(),
        run("ip6tables", &["-S", "FORWARD"]).matches("tunway0").count(),
        run("nft", &["list", "chain", "inet", "fw", "pass"]).matches("\"tunway0\"").count(),
    ]
}

fn legacy_works() -> bool {
    std::process::Command::new("iptables-legacy")
        .args(["-t", "nat", "-S"])
        .output()
        .is_ok_and(|out| out.status.success())
}

/// Preflight without take-over, on a thread of this host (a runtime cannot be entered twice on one).
fn block_on_thread(config: &control::node::HostConfig) -> Vec<control::node::Finding> {
    let mut config = config.clone();
    config.take_over = false;
    let found = std::thread::spawn(move || block_on(preflight(&config)));
    crate::runner::join(found).into_iter().filter(|finding| finding.fatal).collect()
}

const OPEN: [usize; 3] = [2, 2, 2];
