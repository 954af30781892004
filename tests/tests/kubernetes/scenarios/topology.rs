//! Who is near: hints of EndpointSlices, for zones and for nodes, by the controllers' hand and by ours. Node 1 is in
//! zone-1, node 2 in zone-2.

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::client::Front;
use crate::kit::{From, Outcome, all_reach, reaches};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, remove_pod, serve, serve_all, service, slice_port,
    with_spec,
};
use crate::ways::node_ports;

const CLIENTS: [&str; 2] = ["client-1", "client-2"];
const ZONE: &str = "topology.kubernetes.io/zone";

fn distribute(site: &Site<'_>, how: Value) -> Outcome {
    site.merge("Service", "web", json!({"spec": {"trafficDistribution": how}}))?;
    Ok(())
}

/// What pods and processes of each node reach.
fn near(site: &Site<'_>, web: &Service, of_node_1: &[&str], of_node_2: &[&str]) -> Outcome {
    for (node, pods) in [of_node_1, of_node_2].into_iter().enumerate() {
        all_reach(site, From::Pod(CLIENTS[node]), &web.fronts(), pods)?;
        reaches(site, From::Node(node), web.tcp(Family::V6, 80), pods)?;
    }
    Ok(())
}

/// The endpoints of one's own zone, while there are any; also for who comes in by a node of that zone.
pub(crate) fn same_zone(site: &Site<'_>) -> Outcome {
    serve_all(site, &CLIENTS, "none")?;
    let all = ["pod1", "pod2", "pod3"];
    serve_all(site, &all, "web")?;
    let outside = site.cluster().outside()?;
    let more = json!({"type": "NodePort", "trafficDistribution": "PreferClose"});
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), more))?;
    near(site, &web, &["pod1", "pod3"], &["pod2"])?;
    distribute(site, Value::Null)?;
    near(site, &web, &all, &all)?;
    distribute(site, json!("PreferSameZone"))?;
    near(site, &web, &["pod1", "pod3"], &["pod2"])?;
    all_reach(site, From::Outside(&outside), &node_ports(site, &web, 0)?, &["pod1", "pod3"])?;
    all_reach(site, From::Outside(&outside), &node_ports(site, &web, 1)?, &["pod2"])?;
    remove_pod(site, "pod2")?;
    near(site, &web, &["pod1", "pod3"], &["pod1", "pod3"])?;
    serve(site, "pod4", 1, "web")?;
    near(site, &web, &["pod1", "pod3"], &["pod4"])
}

/// The endpoints of one's own node, while there are any.
pub(crate) fn same_node(site: &Site<'_>) -> Outcome {
    serve_all(site, &CLIENTS, "none")?;
    serve_all(site, &["pod1", "pod2", "pod3"], "web")?;
    let more = json!({"trafficDistribution": "PreferSameNode"});
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), more))?;
    near(site, &web, &["pod1", "pod3"], &["pod2"])?;
    remove_pod(site, "pod2")?;
    near(site, &web, &["pod1", "pod3"], &["pod1", "pod3"])?;
    serve(site, "pod4", 1, "web")?;
    near(site, &web, &["pod1", "pod3"], &["pod4"])
}

/// The controller divides endpoints among zones by what their nodes can do: as there are as many in each, everybody
/// gets one's own.
pub(crate) fn mode_auto(site: &Site<'_>) -> Outcome {
    serve_all(site, &CLIENTS, "none")?;
    let all = ["pod1", "pod2", "pod3", "pod4"];
    serve_all(site, &all, "web")?;
    let mut object = service("web", "web", &both_80());
    let mode = |mode: Value| json!({"annotations": {"service.kubernetes.io/topology-mode": mode}});
    object["metadata"]["annotations"] = mode(json!("Auto"))["annotations"].clone();
    let web = Service::create(site, object)?;
    near(site, &web, &["pod1", "pod3"], &["pod2", "pod4"])?;
    site.merge("Service", "web", json!({"metadata": mode(Value::Null)}))?;
    near(site, &web, &all, &all)
}

/// Three endpoints by hand, each with its conditions and hints.
fn by_hand(site: &Site<'_>, endpoints: [Value; 3]) -> Outcome {
    let mut list = Vec::new();
    for (name, more) in ["pod1", "pod2", "pod3"].into_iter().zip(endpoints) {
        let mut endpoint = json!({"addresses": [address(site, name, Family::V4)?]});
        if let (Some(own), Value::Object(more)) = (endpoint.as_object_mut(), more) {
            own.extend(more);
        }
        list.push(endpoint);
    }
    if site.get("EndpointSlice", "manual")?.is_some() {
        site.merge("EndpointSlice", "manual", json!({"endpoints": list}))?;
        return Ok(());
    }
    site.create(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "manual", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4", "endpoints": list, "ports": [slice_port("tcp", "TCP", 80)],
    }))?;
    Ok(())
}

/// Hints: of zones, and of nodes.
fn hints(zones: &[&str], nodes: &[&str]) -> Value {
    let named = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
    json!({"hints": {"forZones": named(zones), "forNodes": named(nodes)}})
}

/// The same of an endpoint that ends: still serving, or not ready.
fn but(mut endpoint: Value, conditions: Value) -> Value {
    endpoint["conditions"] = conditions;
    endpoint
}

/// What is shown, the endpoints, and which of them are used on each node.
type Case<'a> = (&'a str, [Value; 3], &'a [&'a str], &'a [&'a str]);

fn manual(site: &Site<'_>) -> Outcome<Front> {
    serve_all(site, &CLIENTS, "none")?;
    all_ready(site, ["pod1", "pod2", "pod3"].iter().map(|name| pod(name, 0, "web")).collect())?;
    let mut object = service("manual", "nobody", &both_80());
    object["spec"]["selector"] = Value::Null;
    Ok(Service::create(site, object)?.tcp(Family::V4, 80))
}

/// Hints by hand count as the controllers' do, wherever the endpoints are: a node's before a zone's, and none when one
/// ready endpoint has none or none is for this zone.
pub(crate) fn hints_by_hand(site: &Site<'_>) -> Outcome {
    let front = manual(site)?;
    let (z1, z2, both) =
        (hints(&["zone-1"], &[]), hints(&["zone-2"], &[]), hints(&["zone-1", "zone-2"], &[]));
    let (ended, unready) =
        (json!({"ready": false, "serving": true, "terminating": true}), json!({"ready": false}));
    let all: &[&str] = &["pod1", "pod2", "pod3"];
    let node = |zone: &str, node: &str| hints(&[zone], &[node]);
    let cases: [Case<'_>; 9] = [
        ("zones", [z1.clone(), z2.clone(), both.clone()], &["pod1", "pod3"], &["pod2", "pod3"]),
        ("one without", [z1.clone(), z2.clone(), json!({})], all, all),
        ("none of zone-2", [z1.clone(), z1.clone(), hints(&["zone-1", "zone-3"], &[])], all, all),
        ("zone-1 has one", [z1.clone(), hints(&["zone-3"], &[]), hints(&["zone-3"], &[])], &["pod1"], all),
        (
            "nodes, and a zone where no node is meant",
            [node("zone-1", "n1"), node("zone-2", "n9"), node("zone-1", "n8")],
            &["pod1"],
            &["pod2"],
        ),
        (
            "one without a node: zones",
            [node("zone-1", "n1"), z1.clone(), node("zone-2", "n2")],
            &["pod1", "pod2"],
            &["pod3"],
        ),
        (
            "nodes, and no zones",
            [hints(&[], &["n2"]), hints(&[], &["n2"]), hints(&[], &["n9"])],
            all,
            &["pod1", "pod2"],
        ),
        (
            "unready ones are nobody's",
            [z1.clone(), z2.clone(), but(json!({}), unready)],
            &["pod1"],
            &["pod2"],
        ),
        (
            "none ready: whoever serves, wherever",
            [but(z1.clone(), ended.clone()), but(z1, ended.clone()), but(z2, ended)],
            all,
            all,
        ),
    ];
    for (what, endpoints, of_node_1, of_node_2) in cases {
        by_hand(site, endpoints)?;
        for (from, pods) in [(From::Pod("client-1"), of_node_1), (From::Pod("client-2"), of_node_2)] {
            reaches(site, from, front, pods).map_err(|why| format!("{what}: {why}"))?;
        }
    }
    Ok(())
}

/// The zone of a node, put back when it is dropped.
struct Moved<'a>(&'a Site<'a>);

impl Moved<'_> {
    fn to(&self, zone: Value) -> Outcome {
        self.0.merge("Node", "n2", json!({"metadata": {"labels": {ZONE: zone}}}))?;
        Ok(())
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        let _ = self.to(json!("zone-2"));
    }
}

/// A node moves to another zone, and to none, while it serves: hints count for where it is now.
pub(crate) fn zone_changes(site: &Site<'_>) -> Outcome {
    let front = manual(site)?;
    by_hand(site, ["zone-1", "zone-2", "zone-2"].map(|zone| hints(&[zone], &[])))?;
    let [here, there] = CLIENTS.map(From::Pod);
    let node = Moved(site);
    for (zone, pods) in [
        (json!("zone-2"), ["pod2", "pod3"].as_slice()),
        (json!("zone-1"), &["pod1"]),
        (Value::Null, &["pod1", "pod2", "pod3"]),
        (json!("zone-2"), &["pod2", "pod3"]),
    ] {
        node.to(zone)?;
        reaches(site, there, front, pods)?;
        reaches(site, here, front, &["pod1"])?;
    }
    Ok(())
}
