//! External addresses of a Service: somebody else's until a Service has them, and again afterwards.

use std::net::IpAddr;

use serde_json::{Value, json};
use tests::kubernetes::Site;

use super::source::served_as;
use crate::client::Front;
use crate::kit::{From, Outcome, all_reach, dropped, pairs, refused, together};
use crate::objects::{Service, all_ready, both_80, pod, port, serve_all, service, with_spec};
use crate::ways::{Entry, at, lead, node_ips, vips};

fn external(app: &str, ips: &[IpAddr], more: Value) -> Value {
    with_spec(with_spec(service("web", app, &both_80()), json!({"externalIPs": ips})), more)
}

/// An address no node has: a host beyond the nodes has it, and is taken over while a Service names its address, in the
/// cluster and for whoever is sent to a node with it.
pub(crate) fn not_of_a_node(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let (owner, outside) = (site.cluster().outside()?, site.cluster().outside()?);
    let ips = vips();
    ips.iter().try_for_each(|ip| owner.take(*ip))?;
    let _host = owner.serve(&site.cluster().options().agnhost, "owner")?;
    let web = Service::create(site, external("web", &[], json!({})))?;
    let fronts = at(site, &web, &ips)?;
    let seats = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];
    let (own, pods): (&[&str], &[&str]) = (&["owner"], &["pod1", "pod2"]);
    let set = |ips: &[IpAddr]| site.merge("Service", "web", json!({"spec": {"externalIPs": ips}})).map(drop);
    for from in seats.into_iter().chain([From::Outside(&outside)]) {
        all_reach(site, from, &fronts, own)?;
    }
    set(&ips)?;
    for from in seats {
        all_reach(site, from, &fronts, pods)?;
    }
    // Its other ports stay its own.
    let other: Vec<_> =
        fronts.iter().map(|front| Front { at: (front.at.ip(), 81).into(), ..*front }).collect();
    together(&other, |front| refused(site, From::Pod("client-1"), front))?;
    // Beyond the nodes nobody knows of it, until routers do.
    all_reach(site, From::Outside(&outside), &fronts, own)?;
    lead(site, &ips, 1)?;
    all_reach(site, From::Outside(&outside), &fronts, pods)?;
    ips.iter().try_for_each(|ip| owner.take(*ip))?;
    set(&[])?;
    seats.iter().try_for_each(|from| all_reach(site, *from, &fronts, own))
}

/// A node's own address: its port of the Service is the Service's, for everybody; its other ports are the node's.
pub(crate) fn of_a_node(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let outside = site.cluster().outside()?;
    let ips = node_ips(site, 0)?;
    let ports = [port("tcp", "TCP", 18_091, 80), port("udp", "UDP", 18_091, 80)];
    let web = Service::create(site, with_spec(service("web", "web", &ports), json!({"externalIPs": ips})))?;
    let fronts = at(site, &web, &ips)?;
    let seats = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];
    for from in seats.into_iter().chain([From::Outside(&outside)]) {
        all_reach(site, from, &fronts, &["pod1", "pod2"])?;
    }
    site.merge("Service", "web", json!({"spec": {"externalIPs": null}}))?;
    let away = pairs(&[From::Outside(&outside)], &fronts);
    together(&[pairs(&seats, &fronts), away].concat(), |(from, front)| refused(site, from, front))
}

/// With `externalTrafficPolicy: Local` it is an address of a load balancer in all but name: from off the cluster only
/// the endpoints of the node that is asked, which see who asks; from pods all of them.
pub(crate) fn local(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client-1", "client-2"], "none")?;
    all_ready(site, vec![pod("pod1", 0, "web")])?;
    let outside = site.cluster().outside()?;
    let ips = vips();
    lead(site, &ips, 0)?;
    let service = Service::create(site, external("web", &ips, json!({"externalTrafficPolicy": "Local"})))?;
    let web = Entry { fronts: at(site, &service, &ips)?, service };
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        all_reach(site, from, &web.fronts, &["pod1"])?;
    }
    served_as(site, From::Outside(&outside), &web.fronts, &outside.addresses(), &["pod1"])?;
    for client in ["client-1", "client-2"] {
        served_as(site, From::Pod(client), &web.fronts, &site.addresses(client)?, &["pod1"])?;
    }
    lead(site, &ips, 1)?;
    together(&web.fronts, |front| dropped(site, From::Outside(&outside), front))?;
    site.merge("Service", "web", json!({"spec": {"externalTrafficPolicy": "Cluster"}}))?;
    all_reach(site, From::Outside(&outside), &web.fronts, &["pod1"])
}
