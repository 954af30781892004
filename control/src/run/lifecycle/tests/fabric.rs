//! This host, its Node and ServiceCIDRs change while it runs: what is published for it, and what routes follow.

use std::net::Ipv4Addr;

use dataplane::packet::vnet::{VNET_LEN, VnetHdr};
use dataplane::service::ReturnPath;

use super::*;
use crate::config::detect::DetectLocal;
use crate::model::{Node, ServiceCidr};
use crate::node::Network;

const POD: [u8; 4] = [10, 244, 1, 9];
const ENDPOINT: [u8; 4] = [10, 244, 1, 7];
const SNAT: [u8; 4] = [192, 0, 2, 1];

fn conntrack(detect: DetectLocal) -> impl FnOnce(&mut Config) {
    |config| {
        config.return_path = ReturnPath::ConnMark;
        config.detect_local = detect;
    }
}

fn hosts(addrs: &[&str]) -> Surroundings {
    let hosts = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    Surroundings { hosts, ..Surroundings::default() }
}

fn node(cidrs: &[&str]) -> Event {
    let pod_cidrs = cidrs.iter().map(|addr| (addr.parse().unwrap(), 24)).collect();
    Event::Node(Box::new(Node { name: "n1".into(), pod_cidrs, ..Node::default() }))
}

/// A UDP Service with one endpoint.
async fn serve(outside: &Outside) {
    let mut dns = service("dns", "10.96.0.10");
    dns.ports[0] = Port { proto: Proto::Udp, port: 53, ..dns.ports[0].clone() };
    let mut eps = slice("dns-1", "dns", &[&Ipv4Addr::from(ENDPOINT).to_string()]);
    eps.ports[0].proto = Proto::Udp;
    outside.send(Event::Restart(Kind::Service)).await;
    outside.send(Event::Service(Box::new(dns))).await;
    outside.send(Event::Done(Kind::Service)).await;
    outside.send(Event::Restart(Kind::Slice)).await;
    outside.send(Event::Slice(Box::new(eps))).await;
    outside.send(Event::Done(Kind::Slice)).await;
}

/// Whose address the endpoint sees when `client` asks from this port.
fn seen_by_the_endpoint(outside: &Outside, client: [u8; 4], port: u16) -> [u8; 4] {
    let mut packet = vec![0_u8; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&client);
    packet[16..20].copy_from_slice(&[10, 96, 0, 10]);
    let words = packet[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[23] = 53;
    packet[25] = 8;
    outside.device.send(VnetHdr::default(), &packet);
    let frame = outside.device.await_frame(Duration::from_secs(10)).expect("it is translated");
    let out = &frame[VNET_LEN..];
    // Masked, as the host's rules undo it.
    assert_eq!([out[16] ^ 0x80, out[17], out[18], out[19]], ENDPOINT, "it goes to the endpoint");
    out[12..16].try_into().unwrap()
}

#[test]
fn addresses_of_this_host_are_published_when_they_change_and_only_then() {
    let pods = DetectLocal::ClusterCidr(vec![("10.244.0.0".parse().unwrap(), 16)]);
    let (ended, _) = play_as(conntrack(pods), async |outside| {
        outside.here.send_replace(hosts(&["192.168.0.7"]));
        serve(outside).await;
        let first = outside.until(|status| status.ready).await.generation;
        assert_eq!(seen_by_the_endpoint(outside, POD, 1_000), POD);
        assert_eq!(seen_by_the_endpoint(outside, [203, 0, 113, 9], 1_000), SNAT);
        // The pod's address turns out to be this host's, as a bridge's is: by the CIDR it is a pod's all the same.
        outside.here.send_replace(hosts(&["192.168.0.7", "10.244.1.9"]));
        let second = outside.until(|status| status.generation > first).await.generation;
        assert_eq!((second, seen_by_the_endpoint(outside, POD, 1_001)), (first + 1, POD));
        // The endpoint's, too: whoever is not this host keeps its address.
        outside.here.send_replace(hosts(&["10.244.1.9", "10.244.1.7"]));
        outside.until(|status| status.generation > second).await;
        assert_eq!(seen_by_the_endpoint(outside, [203, 0, 113, 9], 1_002), [203, 0, 113, 9]);
        outside.here.send_replace(hosts(&["10.244.1.7", "10.244.1.9"]));
        tokio::time::sleep(PUBLISH_INTERVAL * 2).await;
        assert_eq!(outside.status().await.generation, second + 1, "the same again is no news");
    });
    ended.unwrap();
}

#[test]
fn new_flows_wait_for_the_nodes_cidrs_and_a_change_of_them_is_followed() {
    let (ended, _) = play_as(conntrack(DetectLocal::NodeCidr), async |outside| {
        serve(outside).await;
        outside.send(Event::Done(Kind::Node)).await;
        let waiting = outside.until_services(|services| !services.problems.is_empty()).await;
        assert_eq!((waiting.status.ready, waiting.status.generation), (false, 0));
        assert_eq!(waiting.problems[0].field, "spec.podCIDRs");
        outside.send(node(&["10.244.1.0"])).await;
        outside.until(|status| status.ready).await;
        assert!(outside.services().await.problems.is_empty());
        assert_eq!(seen_by_the_endpoint(outside, POD, 1_000), POD);
        outside.send(node(&["10.244.2.0"])).await;
        outside.until(|status| status.generation == 2).await;
        assert_eq!(seen_by_the_endpoint(outside, POD, 1_001), SNAT);
    });
    ended.unwrap();
}

#[test]
fn service_cidrs_come_and_go_with_their_routes() {
    let (ended, _) = play(async |outside| {
        outside.list(vec![]).await;
        let first = outside.until(|status| status.ready).await.generation;
        let routed = || {
            let cidrs = outside.host.0.borrow().cidrs.clone();
            cidrs.iter().map(|(addr, len)| format!("{addr}/{len}")).collect::<Vec<_>>()
        };
        let configured: [&str; 0] = [];
        assert_eq!(routed(), configured, "nobody names one");
        let extra = |name: &str| {
            Event::ServiceCidr(ServiceCidr {
                name: name.into(),
                cidrs: vec![("10.200.0.0".parse().unwrap(), 16)],
            })
        };
        outside.send(extra("a")).await;
        outside.send(extra("b")).await;
        outside.until(|status| status.generation == first + 1).await;
        outside.send(Event::ServiceCidrGone("a".into())).await;
        tokio::time::sleep(PUBLISH_INTERVAL * 2).await;
        assert_eq!(outside.status().await.generation, first + 1, "the other one still names it");
        assert_eq!(routed(), ["10.200.0.0/16"], "it is routed");
        outside.send(Event::ServiceCidrGone("b".into())).await;
        outside.until(|status| status.generation == first + 2).await;
        let deadline = Instant::now() + Duration::from_secs(10);
        while routed() != configured {
            assert!(Instant::now() < deadline, "still {:?}", routed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ended.unwrap();
}

#[test]
fn a_service_cidr_with_neighbours_in_it_is_left_out_and_told_until_they_go() {
    let cidr = |config: &mut Config| config.service_cidrs = vec![("10.96.0.0".parse().unwrap(), 12)];
    let (ended, _) = play_as(cidr, async |outside| {
        outside.list(vec![]).await;
        outside.until(|status| status.ready).await;
        let routed = || outside.host.0.borrow().cidrs.len();
        assert_eq!(routed(), 1);
        let prefix = ("10.100.0.0".parse().unwrap(), 24);
        let neighbours = Network { prefix, on_link: true, link: "eth1".into() };
        for (networks, left) in [(vec![neighbours], 0), (vec![], 1)] {
            outside.here.send_replace(Surroundings { networks, ..Surroundings::default() });
            let told = outside.until_services(|services| services.problems.len() == 1 - left).await;
            assert!(told.problems.iter().all(|problem| problem.what.contains("eth1")), "{told:?}");
            let deadline = Instant::now() + Duration::from_secs(10);
            while routed() != left {
                assert!(Instant::now() < deadline, "still {}", routed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    ended.unwrap();
}
