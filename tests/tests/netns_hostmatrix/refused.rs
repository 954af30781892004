//! Hosts on which it cannot work: what fails, and that tunway says why.

use std::io::ErrorKind;
use std::time::Duration;

use tests::netns::wait_for;

use crate::site::{PATIENCE, Party, Site, Style};
use crate::traffic::{datagram, stream};

const SWITCHES: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];

/// On a node whose bridge hides its packets from connection tracking what needs the bridge rule fails, and nothing else
/// does; and tunway says why.
pub(crate) fn fails_and_is_named() {
    let (here, beside, there) = (Party::Pod(1, 1), Party::Pod(1, 2), Party::Pod(2, 2));
    let site = Site::serving(Style::Bridge, "");
    let switch = |value| {
        for setting in SWITCHES {
            site.nodes[0].sysctl(&format!("net.bridge.{setting}"), value).unwrap();
        }
    };
    switch("0");
    for v6 in [false, true] {
        let ask = |server: Party, limit| datagram(site.space(here), server.service(v6), 100, limit);
        let on_its_bridge = ask(beside, Duration::from_millis(500));
        assert_eq!(on_its_bridge.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(ask(there, PATIENCE).unwrap(), here.address(v6));
    }
    let told = "net.bridge.bridge-nf-call-iptables";
    wait_for("tunway says it", PATIENCE, || site.log(1).contains(told));
    switch("1");
    assert_eq!(stream(site.space(here), beside.service(false), PATIENCE).unwrap(), here.address(false));
}

/// The same on a host whose firewall checks sources strictly, as firewalld does for IPv6; with loose checks it works.
pub(crate) fn strict_firewall_fails_and_is_named() {
    let (here, there) = (Party::Pod(1, 1), Party::Pod(2, 2));
    let site = Site::serving(Style::Bridge, "");
    let check = |mode: &str| {
        let rule = format!("meta nfproto ipv6 fib saddr . mark{mode} oif missing drop");
        let neighbours = "icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept";
        let chain = format!(
            "chain pre {{ type filter hook prerouting priority filter + 10;\n{neighbours}\n{rule}\n}}"
        );
        let start = "table inet firewall\ndelete table inet firewall\n";
        site.nodes[0].nft(&format!("{start}table inet firewall {{\n{chain}\n}}\n")).unwrap();
    };
    let ask = |v6, limit| datagram(site.space(here), there.service(v6), 100, limit);
    let named = || {
        let output = site.tunway(1, "check").output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).contains("nft rule inet firewall pre")
    };
    check(" . iif");
    assert_eq!(ask(true, Duration::from_millis(500)).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(ask(false, PATIENCE).unwrap(), here.address(false), "IPv4 is not checked");
    assert!(named());
    check("");
    assert_eq!(ask(true, PATIENCE).unwrap(), here.address(true));
    assert!(!named());
}
