//! `externalTrafficPolicy` by node ports: which node serves whom, by what endpoints, and what its health check says of
//! it.

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};

use super::readiness::{conditions, lingering, switch_on};
use super::source::served_as;
use crate::kit::{From, Outcome, all_reach, dropped, ensure, together};
use crate::objects::{
    Service, all_ready, both_80, pod, ready, remove_pod, serve, service, with_args, with_spec,
};
use crate::ways::{
    every_node_port, health_check, healthy, ingress, lead, node_ips, node_ports, unchecked, vips,
};

fn create(site: &Site<'_>, kind: &str, policy: &str) -> Outcome<Service> {
    let more = json!({"type": kind, "externalTrafficPolicy": policy});
    Service::create(site, with_spec(service("web", "web", &both_80()), more))
}

fn set(site: &Site<'_>, policy: &str) -> Outcome {
    site.merge("Service", "web", json!({"spec": {"externalTrafficPolicy": policy}}))?;
    Ok(())
}

/// What the endpoints of a pod that ends and still serves say of themselves.
fn ending() -> Value {
    json!({"terminating": true, "serving": true, "ready": false})
}

/// Only a node with endpoints serves others, and its endpoints see who asks, be it a process of another node; pods and
/// the node's own processes are served everywhere.
pub(crate) fn local(site: &Site<'_>) -> Outcome {
    let ports = ["netexec", "--http-port=18085", "--udp-port=18085"];
    let host = Pod { host_network: true, ..with_args(pod("host", 1, "none"), &ports) };
    let pods = vec![host, pod("client-1", 0, "none"), pod("client-2", 1, "none"), pod("pod1", 0, "web")];
    all_ready(site, pods)?;
    let outside = site.cluster().outside()?;
    let web = create(site, "NodePort", "Local")?;
    let [here, there] = [node_ports(site, &web, 0)?, node_ports(site, &web, 1)?];
    served_as(site, From::Pod("host"), &here, &node_ips(site, 1)?, &["pod1"])?;
    served_as(site, From::Outside(&outside), &here, &outside.addresses(), &["pod1"])?;
    // Not a pod of node 1 by way of node 2: what answers it there does not go back that way, with its address kept.
    for (client, fronts) in [("client-1", &here), ("client-2", &here), ("client-2", &there)] {
        served_as(site, From::Pod(client), fronts, &site.addresses(client)?, &["pod1"])?;
    }
    for (from, fronts) in [(From::Node(0), &here), (From::Node(1), &there), (From::Pod("host"), &there)] {
        all_reach(site, from, fronts, &["pod1"])?;
    }
    for from in [From::Outside(&outside), From::Node(0)] {
        together(&there, |front| dropped(site, from, front))?;
    }
    Ok(())
}

/// When all endpoints end and still serve, every node goes on by them, until another is ready.
pub(crate) fn terminating_fallback(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    let outside = site.cluster().outside()?;
    let mut held = Vec::new();
    for (name, node) in [("pod1", 0), ("pod2", 1)] {
        site.pod(lingering(name, node, "web"))?;
        held.push(switch_on(site, name)?);
    }
    let web = create(site, "NodePort", "Cluster")?;
    let ports = every_node_port(site, &web)?;
    let seats = [From::Pod("client"), From::Node(1), From::Outside(&outside)];
    all_reach(site, seats[0], &ports, &["pod1", "pod2"])?;
    site.delete("Pod", "pod1", None)?;
    all_reach(site, seats[2], &ports, &["pod2"])?;
    site.delete("Pod", "pod2", None)?;
    conditions(site, "web", "", &ending())?;
    seats.into_iter().try_for_each(|from| all_reach(site, from, &ports, &["pod1", "pod2"]))?;
    ready(site, pod("pod3", 0, "web"))?;
    seats.into_iter().try_for_each(|from| all_reach(site, from, &ports, &["pod3"]))
}

/// A node's only endpoint ends: it serves whoever asks there to its end, though another node has a ready one.
pub(crate) fn local_terminating_fallback(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("pod2", 1, "web")])?;
    let outside = site.cluster().outside()?;
    site.pod(lingering("pod1", 0, "web"))?;
    let _switch = switch_on(site, "pod1")?;
    let web = create(site, "NodePort", "Local")?;
    let from = From::Outside(&outside);
    let [here, there] = [node_ports(site, &web, 0)?, node_ports(site, &web, 1)?];
    all_reach(site, from, &here, &["pod1"])?;
    site.delete("Pod", "pod1", None)?;
    conditions(site, "web", "pod1", &ending())?;
    // Its own processes are served by what every node is served by.
    all_reach(site, From::Node(0), &here, &["pod2"])?;
    served_as(site, from, &here, &outside.addresses(), &["pod1"])?;
    served_as(site, from, &there, &outside.addresses(), &["pod2"])?;
    remove_pod(site, "pod1")?;
    together(&here, |front| dropped(site, from, front))?;
    all_reach(site, from, &there, &["pod2"])
}

/// With endpoints that end and no others a node still serves, but its health check fails: balancers go elsewhere.
pub(crate) fn health_check_of_terminating(site: &Site<'_>) -> Outcome {
    let outside = site.cluster().outside()?;
    site.pod(lingering("pod1", 0, "web"))?;
    let _switch = switch_on(site, "pod1")?;
    let web = create(site, "LoadBalancer", "Local")?;
    let vips = vips();
    lead(site, &vips, 0)?;
    ingress(site, "web", &vips, None)?;
    let number = health_check(site, "web")?;
    let from = From::Outside(&outside);
    let fronts = [node_ports(site, &web, 0)?, crate::ways::at(site, &web, &vips)?].concat();
    all_reach(site, from, &fronts, &["pod1"])?;
    healthy(site, 0, number, Some(1))?;
    healthy(site, 1, number, None)?;
    site.delete("Pod", "pod1", None)?;
    conditions(site, "web", "", &ending())?;
    healthy(site, 0, number, None)?;
    served_as(site, from, &fronts, &outside.addresses(), &["pod1"])
}

/// From `Local` to `Cluster` and back: the health check closes and opens, and a node without endpoints serves and does
/// not.
pub(crate) fn policy_changes(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client", 1, "none"), pod("pod1", 0, "web")])?;
    let outside = site.cluster().outside()?;
    let web = create(site, "LoadBalancer", "Local")?;
    let from = From::Outside(&outside);
    let [here, there] = [node_ports(site, &web, 0)?, node_ports(site, &web, 1)?];
    for last in [false, true] {
        let number = health_check(site, "web")?;
        ensure(number > 0, || "no healthCheckNodePort".to_owned())?;
        healthy(site, 0, number, Some(1))?;
        healthy(site, 1, number, None)?;
        served_as(site, from, &here, &outside.addresses(), &["pod1"])?;
        together(&there, |front| dropped(site, from, front))?;
        all_reach(site, From::Node(1), &there, &["pod1"])?;
        all_reach(site, From::Pod("client"), &there, &["pod1"])?;
        if last {
            break;
        }
        set(site, "Cluster")?;
        [0, 1].into_iter().try_for_each(|node| unchecked(site, node, number))?;
        served_as(site, from, &there, &node_ips(site, 1)?, &["pod1"])?;
        all_reach(site, from, &here, &["pod1"])?;
        set(site, "Local")?;
    }
    Ok(())
}
