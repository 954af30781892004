//! Load balancers: their addresses are served by every node itself, whoever asks there. The balancer is a router that
//! sends an address to one node.

use std::net::IpAddr;

use serde_json::{Value, json};
use tests::kubernetes::Site;

use super::BALANCED;
use super::affinity::{none, sticks, sticky};
use super::source::served_as;
use crate::client::Front;
use crate::kit::{From, Outcome, all_reach, dropped, ensure, nobodys, pairs, reaches, refused, together};
use crate::objects::{Service, all_ready, both_80, pod, port, serve, serve_all, service, with_spec};
use crate::ways::{
    Lent, at, every_node_port, health_check, healthy, ingress, lead, node_ips, node_ports, vips,
};

fn balanced(more: Value) -> Value {
    with_spec(with_spec(service("web", "web", &both_80()), json!({"type": "LoadBalancer"})), more)
}

/// From ClusterIP to node ports to a load balancer, other node ports, other ports, and all the way back, over TCP and
/// UDP: what it has is served, what it had is not.
pub(crate) fn change_type_and_ports(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "pod2"], "web")?;
    serve_all(site, &["client"], "none")?;
    let outside = site.cluster().outside()?;
    let (from, away, pods) = (From::Pod("client"), From::Outside(&outside), ["pod1", "pod2"]);
    let web = Service::simple(site, "web", "web")?;
    all_reach(site, from, &web.fronts(), &pods)?;
    let set = |spec: Value| site.merge("Service", "web", json!({"spec": spec})).map(drop);
    set(json!({"type": "NodePort"}))?;
    all_reach(site, away, &every_node_port(site, &web)?, &pods)?;
    set(json!({"type": "LoadBalancer"}))?;
    let vips = vips();
    lead(site, &vips, 0)?;
    ingress(site, "web", &vips, None)?;
    let mut ports = node_ports(site, &web, 1)?;
    let mut fronts = at(site, &web, &vips)?;
    for from in [from, From::Node(0), From::Node(1), away] {
        all_reach(site, from, &fronts, &pods)?;
    }
    all_reach(site, away, &ports, &pods)?;
    // Other node ports, at the same addresses.
    let [tcp, udp] = both_80();
    let numbered = |mut port: Value, number: u16| {
        port["nodePort"] = json!(number);
        port
    };
    set(json!({"ports": [numbered(tcp, 30_011), numbered(udp, 30_012)]}))?;
    let old = std::mem::replace(&mut ports, node_ports(site, &web, 1)?);
    all_reach(site, away, &[fronts.clone(), ports.clone()].concat(), &pods)?;
    together(&old, |front| refused(site, away, front))?;
    // Another port, at the same node ports.
    let [tcp, udp] = [port("tcp", "TCP", 81, 80), port("udp", "UDP", 81, 80)];
    set(json!({"ports": [numbered(tcp, 30_011), numbered(udp, 30_012)]}))?;
    let old = std::mem::replace(&mut fronts, at(site, &web, &vips)?);
    all_reach(site, away, &[fronts.clone(), ports.clone()].concat(), &pods)?;
    together(&old, |front| nobodys(site, away, front))?;
    // Without the balancer, and without node ports.
    set(json!({"type": "NodePort"}))?;
    together(&fronts, |front| nobodys(site, away, front))?;
    all_reach(site, away, &ports, &pods)?;
    set(json!({"type": "ClusterIP"}))?;
    together(&ports, |front| refused(site, away, front))?;
    all_reach(site, from, &web.fronts_at(81), &pods)
}

/// Without node ports it is served as well: TCP and UDP of one port, at every address it has, for everybody.
pub(crate) fn without_node_ports(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let outside = site.cluster().outside()?;
    let away = From::Outside(&outside);
    let object = balanced(json!({"allocateLoadBalancerNodePorts": false}));
    let web = BALANCED.create(site, object)?;
    ensure(node_ports(site, &web.service, 0).is_err(), || "it has node ports".to_owned())?;
    let seats =
        [From::Pod("client-1"), From::Pod("client-2"), From::Pod("pod1"), From::Node(0), From::Node(1)];
    for from in seats {
        all_reach(site, from, &[web.service.fronts(), web.fronts.clone()].concat(), &["pod1", "pod2"])?;
    }
    all_reach(site, away, &web.fronts, &["pod1", "pod2"])?;
    // It gets a second address, and loses the first.
    let (first, second) = (web.fronts, vips());
    lead(site, &second, 1)?;
    ingress(site, "web", &second, None)?;
    for from in [away, From::Pod("client-2")] {
        all_reach(site, from, &at(site, &web.service, &second)?, &["pod1", "pod2"])?;
        together(&first, |front| nobodys(site, from, front))?;
    }
    Ok(())
}

/// The ranges a balancer's addresses may be asked from: they count for pods and nodes as well, for each family by
/// itself, and for these addresses alone.
pub(crate) fn source_ranges(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let (outside, other) = (site.cluster().outside()?, site.cluster().outside()?);
    let (away, elsewhere) = (From::Outside(&outside), From::Outside(&other));
    let web = BALANCED.create(site, balanced(json!({})))?;
    let everybody =
        [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1), away, elsewhere];
    // Whoever is named is served; all others get no answer.
    let only = |ranges: &[String], served: &[From<'_>]| -> Outcome {
        site.merge("Service", "web", json!({"spec": {"loadBalancerSourceRanges": ranges}}))?;
        together(&pairs(&everybody, &web.fronts), |(from, front)| {
            if served.iter().any(|one| same(*one, from)) {
                reaches(site, from, front, &["pod1", "pod2"])
            } else {
                dropped(site, from, front)
            }
        })
    };
    let hosts = |ips: &[IpAddr]| -> Vec<String> { ips.iter().map(host).collect() };
    only(&hosts(&outside.addresses()), &[away])?;
    only(&hosts(&site.addresses("client-2")?), &[From::Pod("client-2")])?;
    only(
        &hosts(&[site.addresses("client-1")?, node_ips(site, 0)?.to_vec()].concat()),
        &[From::Pod("client-1"), From::Node(0)],
    )?;
    // Nobody at all; other ways lead in nevertheless.
    only(&["192.0.2.1/32".to_owned(), " 2001:db8::1/128 ".to_owned()], &[])?;
    all_reach(site, away, &node_ports(site, &web.service, 0)?, &["pod1", "pod2"])?;
    all_reach(site, From::Pod("client-1"), &web.service.fronts(), &["pod1", "pod2"])?;
    // Everybody, in halves; and by a family that is not restricted.
    only(&["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"].map(str::to_owned), &everybody)?;
    site.merge("Service", "web", json!({"spec": {"loadBalancerSourceRanges": ["192.0.2.1/32"]}}))?;
    let (v4, v6): (Vec<_>, Vec<_>) = web.fronts.iter().copied().partition(|front| front.at.is_ipv4());
    together(&v4, |front| dropped(site, away, front))?;
    all_reach(site, away, &v6, &["pod1", "pod2"])?;
    // With nobody to serve: who is allowed is refused, who is not still hears nothing.
    let ranges = hosts(&outside.addresses());
    let spec = json!({"loadBalancerSourceRanges": ranges, "selector": {"app": "nobody"}});
    site.merge("Service", "web", json!({"spec": spec}))?;
    together(&web.fronts, |front| refused(site, away, front))?;
    together(&web.fronts, |front| dropped(site, elsewhere, front))?;
    site.merge(
        "Service",
        "web",
        json!({"spec": {"loadBalancerSourceRanges": null, "selector": {"app": "web"}}}),
    )?;
    all_reach(site, elsewhere, &web.fronts, &["pod1", "pod2"])
}

/// A range of one address.
fn host(ip: &IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

fn same(one: From<'_>, other: From<'_>) -> bool {
    match (one, other) {
        (From::Pod(one), From::Pod(other)) => one == other,
        (From::Node(one), From::Node(other)) => one == other,
        (From::Outside(one), From::Outside(other)) => one.addresses() == other.addresses(),
        (From::Pod(_) | From::Node(_) | From::Outside(_), _) => false,
    }
}

/// The balancer's address is an address of the node itself, too: its own processes ask from there, and are allowed
/// where the node is.
pub(crate) fn address_of_the_node(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let outside = site.cluster().outside()?;
    let web = BALANCED.create(site, balanced(json!({})))?;
    let _lent = Lent::to_node_1(site, &web.ips().into_iter().collect::<Vec<_>>())?;
    let seats = [From::Pod("client"), From::Node(0), From::Node(1), From::Outside(&outside)];
    for from in seats {
        all_reach(site, from, &web.fronts, &["pod1", "pod2"])?;
    }
    let ranges = node_ips(site, 0)?.map(|ip| host(&ip));
    site.merge("Service", "web", json!({"spec": {"loadBalancerSourceRanges": ranges}}))?;
    together(&web.fronts, |front| dropped(site, From::Outside(&outside), front))?;
    all_reach(site, From::Node(0), &web.fronts, &["pod1", "pod2"])
}

/// Affinity of clients off the cluster, turned on and off; with `Local` among the node's own endpoints.
pub(crate) fn affinity(site: &Site<'_>, policy: &str) -> Outcome {
    let pods = [("pod1", 0), ("pod2", 1), ("pod3", 0)];
    all_ready(site, pods.into_iter().map(|(name, node)| pod(name, node, "web")).collect())?;
    let served: Vec<&str> =
        pods.iter().filter(|(_, node)| policy == "Cluster" || *node == 0).map(|(name, _)| *name).collect();
    let (one, two) = (site.cluster().outside()?, site.cluster().outside()?);
    let web = BALANCED.create(site, balanced(json!({"externalTrafficPolicy": policy})))?;
    let from = From::Outside(&one);
    for round in [none(), sticky(10_800), none()] {
        let on = round["sessionAffinity"] == "ClientIP";
        site.merge("Service", "web", json!({"spec": round}))?;
        if on {
            for front in web.fronts.iter().copied() {
                sticks(site, from, front)?;
                sticks(site, From::Outside(&two), front)?;
            }
        } else {
            all_reach(site, from, &web.fronts, &served)?;
        }
    }
    Ok(())
}

/// `externalTrafficPolicy: Local`: from off the cluster only nodes with endpoints serve, and these see who asks; the
/// health check says which they are. Pods and hosts are served anywhere, as if they had gone out and come back.
pub(crate) fn local(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none"), pod("pod1", 1, "web")])?;
    let outside = site.cluster().outside()?;
    let away = From::Outside(&outside);
    let web = BALANCED.create(site, balanced(json!({"externalTrafficPolicy": "Local"})))?;
    let number = health_check(site, "web")?;
    let (vips, fronts) = (web.ips(), web.fronts.as_slice());
    // Pods keep their address, on the node with the endpoint and on the one without; processes of nodes have theirs.
    for client in ["client-1", "client-2"] {
        served_as(site, From::Pod(client), fronts, &site.addresses(client)?, &["pod1"])?;
    }
    for from in [From::Node(0), From::Node(1), From::Pod("pod1")] {
        all_reach(site, from, &web.fronts, &["pod1"])?;
    }
    together(&web.fronts, |front| dropped(site, away, front))?;
    healthy(site, 0, number, None)?;
    healthy(site, 1, number, Some(1))?;
    lead(site, &vips, 1)?;
    served_as(site, away, fronts, &outside.addresses(), &["pod1"])?;
    // With one on every node, every node serves, and only by its own.
    serve(site, "pod2", 0, "web")?;
    healthy(site, 0, number, Some(1))?;
    served_as(site, away, fronts, &outside.addresses(), &["pod1"])?;
    lead(site, &vips, 0)?;
    served_as(site, away, fronts, &outside.addresses(), &["pod2"])?;
    all_reach(site, From::Pod("client-1"), &web.fronts, &["pod1", "pod2"])?;
    // A node's port is a way in as well.
    all_reach(site, away, &node_ports(site, &web.service, 1)?, &["pod1"])?;
    all_reach(site, away, &node_ports(site, &web.service, 0)?, &["pod2"])
}

/// An address with `ipMode: Proxy` is the balancer's own business: who asks there gets there.
pub(crate) fn mode_proxy(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let balancer = site.cluster().outside()?;
    let web = Service::create(site, balanced(json!({})))?;
    let vips = vips();
    vips.iter().try_for_each(|ip| balancer.take(*ip))?;
    let _host = balancer.serve(&site.cluster().options().agnhost, "balancer")?;
    let fronts: Vec<Front> = at(site, &web, &vips)?;
    let seats = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];
    let (own, pods): (&[&str], &[&str]) = (&["balancer"], &["pod1", "pod2"]);
    for (mode, who) in [("Proxy", own), ("VIP", pods), ("Proxy", own)] {
        ingress(site, "web", &vips, Some(mode))?;
        seats.iter().try_for_each(|from| all_reach(site, *from, &fronts, who))?;
    }
    // Its node ports and ClusterIP are served all the same.
    let others = [web.fronts(), node_ports(site, &web, 0)?].concat();
    all_reach(site, From::Pod("client-1"), &others, &["pod1", "pod2"])
}
