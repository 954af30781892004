//! Frontends that go while flows of theirs are open: these go on, and nobody new is served.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tests::netns::wait_for;

use crate::services::{self, Policy, Service, Way};
use crate::site::{PATIENCE, Party, Site, Style};
use crate::traffic::{Chat, PORT, ask_again, datagram, stream, talk};

const HERE: Party = Party::Pod(1, 1);
const BESIDE: Party = Party::Pod(1, 2);
const NODE: Party = Party::Node(1);

/// Who asks, and by which way.
const WAYS: [(Party, Way); 8] = [
    (HERE, Way::ClusterIp),
    (NODE, Way::ClusterIp),
    (HERE, Way::NodePort(1)),
    (NODE, Way::NodePort(1)),
    (Party::Outside, Way::NodePort(1)),
    (Party::Outside, Way::ExternalIp),
    (HERE, Way::Ingress),
    (Party::Outside, Way::Ingress),
];

struct Open {
    what: String,
    to: SocketAddr,
    client: Party,
    chat: Chat,
    datagrams: UdpSocket,
}

/// All ways in, both families, TCP and UDP: every Service with them is deleted at once.
pub(crate) fn open_flows_outlive_their_frontends() {
    let mut site = Site::new(Style::Bridge);
    site.offer(&services::manifests());
    for node in [1, 2] {
        site.start(node, &services::configuration(node));
        site.wait_until_ready(node);
    }
    let service = Service::of(BESIDE, PORT, Policy::Cluster);
    let mut open = Vec::new();
    for (client, way) in WAYS {
        for v6 in [false, true] {
            let to = service.at(way, v6);
            let what = format!("{client} > {way:?} {to}");
            wait_for(&what, PATIENCE, || datagram(site.space(client), to, 100, SHORT).is_ok());
            let mut chat = Chat::open(site.space(client), to, PATIENCE).unwrap();
            chat.ask().unwrap();
            let datagrams = talk(site.space(client), to, PATIENCE).unwrap();
            // A second answer makes it a stream to everybody who looks.
            ask_again(&datagrams).unwrap();
            ask_again(&datagrams).unwrap();
            open.push(Open { what, to, client, chat, datagrams });
        }
    }
    site.withdraw();
    let gone = || open.iter().all(|open| datagram(site.space(open.client), open.to, 100, SHORT).is_err());
    wait_for("nobody new is served", PATIENCE, gone);
    for open in &mut open {
        open.chat.ask().unwrap_or_else(|error| panic!("{}, TCP, after the Service went: {error}", open.what));
        ask_again(&open.datagrams)
            .unwrap_or_else(|error| panic!("{}, UDP, after the Service went: {error}", open.what));
        assert!(stream(site.space(open.client), open.to, SHORT).is_err(), "{}: a new one", open.what);
    }
    // And back: served anew, the open ones still where they were.
    site.offer_again(&services::manifests());
    for open in &mut open {
        let again = || datagram(site.space(open.client), open.to, 100, SHORT).is_ok();
        wait_for(&format!("{} is served again", open.what), PATIENCE, again);
        open.chat.ask().unwrap_or_else(|error| panic!("{}, after the Service came back: {error}", open.what));
    }
    site.assert_nothing_uncounted();
}

const SHORT: Duration = Duration::from_millis(300);
