//! What of a cluster's objects a ClusterIP serves: labels, kinds, slices, conditions, ports and families, each as
//! kube-proxy has it.

use dataplane::packet::tuple::Proto;
use dataplane::stats::Counter;
use dataplane::verdict::DropReason;

use super::served::{Reached, Served, at, client, refused, unallocated};
use super::*;

/// `web` of [`small`].
const WEB: &str = "10.96.0.2:80";
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A slice whose endpoints have conditions: ready, serving, terminating.
fn conditions(name: &str, endpoints: &[(&str, [Option<bool>; 3])]) -> Value {
    let mut slice = slice(name, "web", &endpoints.iter().map(|(addr, _)| *addr).collect::<Vec<_>>());
    for (endpoint, (_, [ready, serving, terminating])) in
        slice["endpoints"].as_array_mut().unwrap().iter_mut().zip(endpoints)
    {
        endpoint["conditions"] = json!({"ready": ready, "serving": serving, "terminating": terminating});
    }
    slice
}

const READY: [Option<bool>; 3] = [Some(true), Some(true), Some(false)];
const UNREADY: [Option<bool>; 3] = [Some(false), Some(false), Some(false)];
const DRAINING: [Option<bool>; 3] = [Some(false), Some(true), Some(true)];

#[tokio::test]
async fn labels_take_a_service_away_and_bring_it_back_and_flows_outlive_both() {
    let mut served = Served::begin(small().await).await;
    let one = at(&["10.1.0.1:8080"]);
    served.until_reached("it serves", WEB, &one).await;
    let old = client(WEB, 777);
    served.open(Proto::Tcp, &old, WEB);
    for value in ["", "other-proxy"] {
        served.story.api.put_service(labelled(service("web", 1), PROXY_NAME, value));
        served.until_reached("another proxy's", WEB, &unallocated()).await;
        assert_eq!(served.again(&old, WEB), Reached::Endpoint("10.1.0.1:8080".parse().unwrap()));
        served.story.api.put_service(service("web", 1));
        served.until_reached("ours again", WEB, &one).await;
    }
    // On a Service the other label means nothing, on a slice everything.
    served.story.api.put_service(labelled(service("web", 1), HEADLESS, ""));
    served.story.api.put_slice(labelled(slice("web-1", "web", &["10.1.0.1"]), HEADLESS, ""));
    served.until_reached("the slice is for DNS", WEB, &refused()).await;
    served.story.api.put_slice(slice("web-1", "web", &["10.1.0.1"]));
    served.until_reached("the slice is back", WEB, &one).await;
    assert_eq!(served.again(&old, WEB), Reached::Endpoint("10.1.0.1:8080".parse().unwrap()));
}

#[tokio::test]
async fn a_service_becomes_external_headless_and_a_service_again() {
    let mut served = Served::begin(small().await).await;
    let one = at(&["10.1.0.1:8080"]);
    let external =
        json!({"metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let kept = {
        // An address that was not cleared changes nothing.
        let mut object = service("web", 1);
        object["spec"]["type"] = json!("ExternalName");
        object["spec"]["externalName"] = json!("example.com");
        object
    };
    let headless =
        json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    for away in [external, kept, headless] {
        served.until_reached("a ClusterIP", WEB, &one).await;
        served.story.api.put_service(away);
        served.until_reached("none", WEB, &unallocated()).await;
        served.story.api.put_service(service("web", 1));
    }
    served.until_reached("back", WEB, &one).await;
    // Recreated with another address; the old one then goes to somebody else.
    assert!(served.story.api.delete(Resource::Services, "default", "web"));
    served.story.api.put_service(service("web", 50));
    served.until_reached("its new address", "10.96.0.51:80", &one).await;
    assert_eq!(served.spread(WEB), unallocated());
    served.story.api.put_service(service("db", 1));
    served.story.api.put_slice(slice("db-1", "db", &["10.1.0.9"]));
    served.until_reached("somebody else's", WEB, &at(&["10.1.0.9:8080"])).await;
    assert_eq!(served.spread("10.96.0.51:80"), one);
}

#[tokio::test]
async fn conditions_decide_who_serves() {
    let mut served = Served::begin(small().await).await;
    let two = |one, other| conditions("web-1", &[("10.1.0.1", one), ("10.1.0.2", other)]);
    let gone = |one: [Option<bool>; 3]| conditions("web-1", &[("10.1.0.1", one)]);
    let both = at(&["10.1.0.1:8080", "10.1.0.2:8080"]);
    for (what, slice, wanted) in [
        ("nothing said means ready", two([None; 3], [None; 3]), both.clone()),
        ("one is not ready", two(READY, UNREADY), at(&["10.1.0.1:8080"])),
        ("none is ready, as of a failed or evicted pod", two(UNREADY, UNREADY), refused()),
        // The controller says ready of an unready pod when the Service publishes such addresses.
        ("published though not ready", gone([Some(true), Some(false), Some(false)]), at(&["10.1.0.1:8080"])),
        ("and while it terminates", gone([Some(true), Some(false), Some(true)]), at(&["10.1.0.1:8080"])),
        ("not published any more", gone([Some(false), Some(false), Some(true)]), refused()),
        ("one drains, another is ready", two(DRAINING, READY), at(&["10.1.0.2:8080"])),
        ("all drain", two(DRAINING, DRAINING), both),
        ("one drains, the other is down", two(DRAINING, UNREADY), at(&["10.1.0.1:8080"])),
        ("serving alone is not enough", gone([Some(false), Some(true), Some(false)]), refused()),
        ("no endpoint at all", slice("web-1", "web", &[]), refused()),
    ] {
        served.story.api.put_slice(slice);
        served.until_reached(what, WEB, &wanted).await;
    }
    assert!(served.story.api.delete(Resource::EndpointSlices, "default", "web-1"));
    served.story.api.put_slice(slice("web-2", "web", &["10.1.0.3"]));
    served.until_reached("evicted and replaced", WEB, &at(&["10.1.0.3:8080"])).await;
}

#[tokio::test]
async fn slices_of_any_hand_are_one_and_a_slice_may_change_its_service() {
    let api = small().await;
    api.put_service(service("db", 2));
    api.put_slice(labelled(
        slice("web-mirrored", "web", &["10.1.0.2"]),
        "endpointslice.kubernetes.io/managed-by",
        "endpointslicemirroring-controller.k8s.io",
    ));
    let mut by_hand = slice("by-hand", "web", &["10.1.0.3"]);
    by_hand["ports"][0]["port"] = json!(9090);
    api.put_slice(by_hand);
    let mut served = Served::begin(api).await;
    let all = ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:9090"];
    served.until_reached("all three", WEB, &at(&all)).await;
    assert_eq!(served.spread("10.96.0.3:80"), refused());
    served.story.api.put_slice(slice("web-mirrored", "db", &["10.1.0.2"]));
    served.until_reached("moved", "10.96.0.3:80", &at(&["10.1.0.2:8080"])).await;
    assert_eq!(served.spread(WEB), at(&["10.1.0.1:8080", "10.1.0.3:9090"]));
    // One address twice: a running pod beats the draining one it got the address from, whoever is read last.
    for (old, new) in [("a-old", "z-new"), ("z-old", "a-new")] {
        served.story.api.put_slice(conditions(old, &[("10.1.0.5", DRAINING)]));
        served.story.api.put_slice(conditions(new, &[("10.1.0.5", READY)]));
        served.until_reached("it runs", WEB, &at(&["10.1.0.1:8080", "10.1.0.3:9090", "10.1.0.5:8080"])).await;
        assert!(served.story.api.delete(Resource::EndpointSlices, "default", old));
        assert!(served.story.api.delete(Resource::EndpointSlices, "default", new));
        served.until_reached("both are gone", WEB, &at(&["10.1.0.1:8080", "10.1.0.3:9090"])).await;
    }
}

#[tokio::test]
async fn ports_join_by_name_and_protocol() {
    let api = small().await;
    let ports = |list: Value| {
        let mut object = service("web", 1);
        object["spec"]["ports"] = list;
        object
    };
    let slice_with = |name: &str, addr: &str, list: Value| {
        let mut object = slice(name, "web", &[addr]);
        object["ports"] = list;
        object
    };
    // A named target port is another number in each pod.
    api.put_service(ports(json!([{"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 80, "protocol": "UDP"}])));
    api.put_slice(slice_with(
        "web-1",
        "10.1.0.1",
        json!([{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]),
    ));
    api.put_slice(slice_with(
        "web-2",
        "10.1.0.2",
        json!([{"name": "http", "port": 9090}, {"name": "other", "port": 1}]),
    ));
    let mut served = Served::begin(api).await;
    served.until_reached("two numbers", WEB, &at(&["10.1.0.1:8080", "10.1.0.2:9090"])).await;
    let udp = |served: &mut Served, port| served.open(Proto::Udp, &client(WEB, port), WEB);
    assert_eq!(
        udp(&mut served, 1),
        Reached::Endpoint("10.1.0.1:53".parse().unwrap()),
        "the same number over UDP"
    );
    // One protocol goes, the other stays.
    served.story.api.put_service(ports(json!([{"name": "http", "port": 80}])));
    served.until("UDP is refused", |served| served.udp(WEB) == Reached::Refused).await;
    assert_eq!(
        udp(&mut served, 1),
        Reached::Endpoint("10.1.0.1:53".parse().unwrap()),
        "the old flow goes on"
    );
    assert_eq!(served.spread(WEB), at(&["10.1.0.1:8080", "10.1.0.2:9090"]));
    served.story.api.put_service(ports(json!([{"name": "dns", "port": 80, "protocol": "UDP"}])));
    served.until_reached("TCP is refused", WEB, &refused()).await;
    assert_eq!(udp(&mut served, 3), Reached::Endpoint("10.1.0.1:53".parse().unwrap()));
    // Another number for clients, another name that nobody joins.
    served.story.api.put_service(ports(json!([{"name": "http", "port": 81}, {"name": "none", "port": 82}])));
    served.until_reached("its new number", "10.96.0.2:81", &at(&["10.1.0.1:8080", "10.1.0.2:9090"])).await;
    assert_eq!((served.spread(WEB), served.spread("10.96.0.2:82")), (refused(), refused()));
}

#[tokio::test]
async fn families_are_two_services() {
    const WEB6: &str = "[fd96::2]:80";
    let api = small().await;
    let dual = |families: Value, ips: Value| {
        let mut object = service("web", 1);
        object["spec"]["clusterIP"] = ips[0].clone();
        object["spec"]["ipFamilies"] = families;
        object["spec"]["clusterIPs"] = ips;
        object
    };
    api.put_service(dual(json!(["IPv4", "IPv6"]), json!(["10.96.0.2", "fd96::2"])));
    let mut served = Served::begin(api).await;
    served.until_reached("only IPv4 has endpoints", WEB, &at(&["10.1.0.1:8080"])).await;
    assert_eq!(served.spread(WEB6), refused());
    let mut six = slice("web-6", "web", &["fd24::1"]);
    six["addressType"] = json!("IPv6");
    served.story.api.put_slice(six);
    served.until_reached("IPv6, too", WEB6, &at(&["[fd24::1]:8080"])).await;
    assert!(served.story.api.delete(Resource::EndpointSlices, "default", "web-1"));
    served.until_reached("IPv4 has none", WEB, &refused()).await;
    assert_eq!(served.spread(WEB6), at(&["[fd24::1]:8080"]));
    served.story.api.put_service(dual(json!(["IPv6"]), json!(["fd96::2"])));
    served.until_reached("IPv4 is no more", WEB, &unallocated()).await;
    assert_eq!(served.spread(WEB6), at(&["[fd24::1]:8080"]));
}

#[tokio::test]
async fn policy_local_serves_from_here_or_says_nothing() {
    let api = small().await;
    let mut local = service("web", 1);
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    api.put_service(local);
    let on = |nodes: &[(&str, &str, [Option<bool>; 3])]| {
        let all: Vec<_> = nodes.iter().map(|(addr, _, state)| (*addr, *state)).collect();
        let mut slice = conditions("web-1", &all);
        for (endpoint, (_, node, _)) in slice["endpoints"].as_array_mut().unwrap().iter_mut().zip(nodes) {
            endpoint["nodeName"] = json!(node);
        }
        slice
    };
    let mut served = Served::begin(api).await;
    let silent = [Reached::Dropped(DropReason::NoLocalEndpoint.label())].into();
    for (what, slice, wanted) in [
        ("both", on(&[("10.1.0.1", "n1", READY), ("10.1.0.2", "n2", READY)]), at(&["10.1.0.1:8080"])),
        ("only elsewhere", on(&[("10.1.0.2", "n2", READY)]), silent),
        ("nowhere", on(&[("10.1.0.2", "n2", UNREADY)]), refused()),
        (
            "the one here drains",
            on(&[("10.1.0.1", "n1", DRAINING), ("10.1.0.2", "n2", READY)]),
            at(&["10.1.0.1:8080"]),
        ),
        (
            "one here is ready",
            on(&[("10.1.0.1", "n1", DRAINING), ("10.1.0.3", "n1", READY)]),
            at(&["10.1.0.3:8080"]),
        ),
    ] {
        served.story.api.put_slice(slice);
        served.until_reached(what, WEB, &wanted).await;
    }
}

#[tokio::test]
async fn thousands_of_endpoints_in_many_slices_are_one_set() {
    let api = small().await;
    for part in 0..12_u32 {
        let addresses: Vec<String> = (0..100).map(|n| format!("10.1.{}.{}", part + 1, n + 1)).collect();
        api.put_slice(slice(
            &format!("part-{part}"),
            "web",
            &addresses.iter().map(String::as_str).collect::<Vec<_>>(),
        ));
    }
    let mut served = Served::begin(api).await;
    let mut reached = std::collections::BTreeSet::new();
    (0..200).for_each(|_| reached.extend(served.spread(WEB)));
    // Of 6,400 picks among 1,201 all but half a percent are met.
    assert!((1_150..=1_201).contains(&reached.len()), "{}", reached.len());
    for part in 1..12 {
        assert!(served.story.api.delete(Resource::EndpointSlices, "default", &format!("part-{part}")));
    }
    served.until("a hundred and one are left", |served| served.story.endpoints("web").len() == 101).await;
    let left: std::collections::BTreeSet<_> = (0..64).flat_map(|_| served.spread(WEB)).collect();
    assert_eq!(left.len(), 101);
}

#[tokio::test]
async fn a_udp_service_made_again_under_another_name_takes_its_clients_along() {
    let api = small().await;
    let dns = |name: &str, port: &str| {
        let mut object = service(name, 9);
        object["spec"]["ports"] = json!([{"name": port, "port": 53, "protocol": "UDP"}]);
        object
    };
    let pods = |service: &str, port: &str, addresses: &[&str]| {
        let mut object = slice(&format!("{service}-1"), service, addresses);
        object["ports"] = json!([{"name": port, "port": 53, "protocol": "UDP"}]);
        object
    };
    api.put_service(dns("dns", "a"));
    api.put_slice(pods("dns", "a", &["10.1.0.1"]));
    let mut served = Served::begin(api).await;
    let vip = "10.96.0.10:53";
    let ask = |served: &mut Served| served.open(Proto::Udp, &client(vip, 4_000), vip);
    let answers = |text: &str| Reached::Endpoint(text.parse().unwrap());
    assert_eq!(ask(&mut served), answers("10.1.0.1:53"));
    // The name of the port is part of what it is; the address is what the client knows.
    served.story.api.put_service(dns("dns", "b"));
    served.story.api.put_slice(pods("dns", "b", &["10.1.0.2"]));
    served.until("another port name", |served| ask(served) == answers("10.1.0.2:53")).await;
    assert!(served.story.api.delete(Resource::Services, "default", "dns"));
    served.until("gone", |served| served.udp(vip) == Reached::Dropped("unallocated_vip")).await;
    assert_eq!(ask(&mut served), answers("10.1.0.2:53"), "with nobody there it stays");
    served.story.api.put_slice(pods("dns2", "", &["10.1.0.3"]));
    served.story.api.put_service(dns("dns2", ""));
    served.until("another name", |served| ask(served) == answers("10.1.0.3:53")).await;
    assert_eq!(served.gateway.totals().get(Counter::FlowsPurged), 2);
    // No endpoint: the flow stays, new clients are refused, and from the same port they are served later.
    served.story.api.put_slice(pods("dns2", "", &[]));
    let new = |served: &mut Served| served.open(Proto::Udp, "10.1.0.9:5", vip);
    served.until("refused", |served| served.udp(vip) == Reached::Refused).await;
    assert_eq!(new(&mut served), Reached::Refused);
    assert_eq!(ask(&mut served), answers("10.1.0.3:53"));
    served.story.api.put_slice(pods("dns2", "", &["10.1.0.4"]));
    served.until("served", |served| new(served) == answers("10.1.0.4:53")).await;
    assert_eq!(ask(&mut served), answers("10.1.0.4:53"));
}
