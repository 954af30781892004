//! What happens to flows when something happens to their node.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tests::netns::{Namespace, wait_for};

use crate::site::{PATIENCE, Party, Site, Style};
use crate::state::{assert_same, state};
use crate::traffic::{Chat, PORT, connect, datagram, exchange, stream};

const HERE: Party = Party::Pod(1, 1);
const BESIDE: Party = Party::Pod(1, 2);
const THERE: Party = Party::Pod(2, 2);
/// One of each kind: same bridge, other node, this node, masqueraded.
const PAIRS: [(Party, Party); 4] =
    [(HERE, BESIDE), (HERE, THERE), (HERE, Party::Node(1)), (Party::Outside, BESIDE)];

/// A connection of each pair and family, and the source its server saw at first.
fn chats(site: &Site) -> Vec<(Chat, IpAddr)> {
    let ways = PAIRS.into_iter().flat_map(|pair| [(pair, false), (pair, true)]);
    let open = |((client, server), v6): ((Party, Party), bool)| {
        let mut chat = Chat::open(site.space(client), server.service(v6), PATIENCE).unwrap();
        let seen = chat.ask().unwrap();
        (chat, seen)
    };
    ways.map(open).collect()
}

fn go_on(chats: &mut [(Chat, IpAddr)], when: &str) {
    for (at, (chat, seen)) in chats.iter_mut().enumerate() {
        let now = chat.ask().unwrap_or_else(|error| panic!("{when}, connection {at}: {error}"));
        assert_eq!(now, *seen, "{when}, connection {at}");
    }
}

/// Killed: what is direct goes on, what is for a Service gets no answer, no wrong one either, and is served again by
/// the next process. Damaged: it comes back, and so it is with what was open before.
pub(crate) fn killed_and_repaired() {
    let mut site = Site::serving(Style::Bridge, "");
    let direct = |v6| SocketAddr::new(BESIDE.address(v6), PORT);
    let mut beside = [false, true].map(|v6| Chat::open(site.space(HERE), direct(v6), PATIENCE).unwrap());
    let kept = state(&site.nodes[0]);
    site.kill(1);
    assert!(state(&site.nodes[0]).contains("table inet tunway_alias") && kept.contains("240.0.0.0/4"));
    for (v6, chat) in [false, true].into_iter().zip(&mut beside) {
        assert_eq!(chat.ask().unwrap(), HERE.address(v6), "a direct connection goes on");
        assert_eq!(stream(site.space(HERE), direct(v6), PATIENCE).unwrap(), HERE.address(v6));
        let waits = datagram(site.space(HERE), BESIDE.service(v6), 100, Duration::from_millis(300));
        assert_eq!(waits.unwrap_err().kind(), ErrorKind::WouldBlock, "nobody serves, nobody refuses");
    }
    site.start(1, "");
    site.wait_until_ready(1);
    let mut open = chats(&site);

    let node = &site.nodes[0];
    let device = site.device(1).to_owned();
    let good = state(node);
    for damage in [
        "nft flush ruleset",
        "ip route flush table local proto 77",
        "ip -6 route flush table local proto 77",
        &format!("ip addr flush dev {device}"),
    ] {
        node.run(damage).unwrap();
        wait_for(&format!("the repair after {damage}"), PATIENCE, || state(node) == good);
        go_on(&mut open, damage);
        drop(chats(&site));
    }
    site.assert_nothing_uncounted();
}

/// A hop of this node gets narrow on the way to the server, and one on the way back, once the connection is open (the
/// segment size of new ones follows the node's routes): each end learns of it as if it talked to the Service alone.
/// And one at the other node, which knows nothing of the Service.
pub(crate) fn path_mtu() {
    for style in [Style::Routed, Style::Bridge] {
        let site = Site::serving(style, "");
        let (node, client) = (&site.nodes[0], site.space(HERE));
        let port = |pod: u8| if style == Style::Bridge { "cni0".to_owned() } else { format!("v{pod}") };
        let learned = |space: &Namespace, to: IpAddr, mtu: &str| {
            let family = if to.is_ipv6() { "-6 " } else { "" };
            let way = space.ip(&format!("{family}route get {to}")).unwrap();
            assert!(way.contains(mtu), "{style:?}, {}: not {mtu} for {to}: {way}", space.name());
        };
        for (family, v6) in [("", false), ("-6 ", true)] {
            let host = |party: Party| format!("{}/{}", party.address(v6), if v6 { 128 } else { 32 });
            let via = Party::Node(2).address(v6);
            let to = THERE.service(v6);
            let open = connect(client, to, PATIENCE).unwrap();
            node.ip(&format!("{family}route replace {} via {via} mtu 1300", host(THERE))).unwrap();
            node.ip(&format!("{family}route replace {} dev {} mtu 1400", host(HERE), port(1))).unwrap();
            let seen = exchange(open).unwrap_or_else(|error| panic!("{style:?} {to}: {error}"));
            assert_eq!(seen, HERE.address(v6));
            learned(client, to.ip(), "mtu 1300");
            learned(site.space(THERE), HERE.address(v6), "mtu 1400");

            let farther = Party::Pod(2, 1);
            site.nodes[1]
                .ip(&format!("{family}route replace {} dev {} mtu 1350", host(farther), port(1)))
                .unwrap();
            stream(client, farther.service(v6), PATIENCE).unwrap();
            learned(client, farther.service(v6).ip(), "mtu 1350");
        }
        let counters = site.counters(1).counters;
        assert!(counters["icmp_errors_translated"] >= 6, "{counters:?}");
        site.assert_nothing_uncounted();
    }
}

/// After both were killed, too.
pub(crate) fn cleanup() {
    let mut site = Site::new(Style::Bridge);
    let before: Vec<_> = site.nodes.iter().map(state).collect();
    for node in [1, 2] {
        site.start(node, "");
        site.wait_until_ready(node);
    }
    drop(chats(&site));
    for (node, before) in [1, 2].into_iter().zip(before) {
        site.kill(node);
        assert!(
            state(&site.nodes[usize::from(node) - 1]).contains("table inet tunway_alias"),
            "a kill leaves all of it"
        );
        site.cleanup(node);
        assert_same(&site.nodes[usize::from(node) - 1], &before);
    }
}
