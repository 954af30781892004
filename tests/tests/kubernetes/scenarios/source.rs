//! Who asks: pods beside the endpoint and on another node, the endpoint itself, processes of hosts; and what the
//! endpoint sees of them.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use tests::kubernetes::{Pod, Site};

use crate::client::Front;
use crate::kit::{From, Outcome, all_reach, ask, ensure, reaches};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, port, remove_pod, serve_all, service, with_args,
};

/// The address of a client as an endpoint tells it.
pub(crate) fn source(said: &str) -> Outcome<IpAddr> {
    let parsed = said.parse::<SocketAddr>().map(|at| at.ip()).or_else(|_| said.parse::<IpAddr>());
    parsed.map_err(|_| format!("{said:?} is no address").into())
}

/// These pods answer, and see a client by its own address: one of these.
pub(crate) fn served_as(
    site: &Site<'_>,
    from: From<'_>,
    fronts: &[Front],
    own: &[IpAddr],
    pods: &[&str],
) -> Outcome {
    all_reach(site, from, fronts, pods)?;
    for front in fronts {
        // More than one: a source may be lost for some connections only.
        for _ in 0..5 {
            let seen = source(&ask(site, from, *front, "clientip")?)?;
            ensure(own.contains(&seen), || format!("{from} at {front} is seen as {seen}, not as {own:?}"))?;
        }
    }
    Ok(())
}

/// The endpoint sees the pod's own address, on the same node and on the other, over TCP and UDP.
pub(crate) fn pod_address_kept(site: &Site<'_>, family: Family) -> Outcome {
    all_ready(
        site,
        vec![
            pod("client-1", 0, "none"),
            pod("client-2", 1, "none"),
            pod("server-1", 0, "one"),
            pod("server-2", 1, "two"),
        ],
    )?;
    for (app, server) in [("one", "server-1"), ("two", "server-2")] {
        let service = Service::simple(site, app, app)?;
        for client in ["client-1", "client-2"] {
            let own = address(site, client, family)?;
            for front in [service.tcp(family, 80), service.udp(family, 80)] {
                reaches(site, From::Pod(client), front, &[server])?;
                // More than one: a source may be lost for some connections only.
                for _ in 0..5 {
                    let seen = source(&ask(site, From::Pod(client), front, "clientip")?)?;
                    ensure(seen == own, || format!("{server} sees {seen} for {client} at {own}, {front}"))?;
                }
            }
        }
    }
    Ok(())
}

/// A pod that is the only endpoint of its Service reaches itself.
pub(crate) fn hairpin(site: &Site<'_>, family: Family) -> Outcome {
    for (name, node) in [("routed", 0), ("bridged", 1)] {
        all_ready(site, vec![pod(name, node, name)])?;
        let service = Service::simple(site, name, name)?;
        all_reach(site, From::Pod(name), &[service.tcp(family, 80), service.udp(family, 80)], &[name])?;
    }
    Ok(())
}

/// Every endpoint, on every node, from pods on every node, over HTTP and UDP.
pub(crate) fn from_pods(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")])?;
    let names = ["pod1", "pod2", "pod3", "pod4"];
    serve_all(site, &names, "web")?;
    let web = Service::simple(site, "web", "web")?;
    for client in ["client-1", "client-2"] {
        all_reach(site, From::Pod(client), &web.fronts(), &names)?;
    }
    Ok(())
}

/// The same from processes of the nodes; a pod of the other node sees the node's own address.
pub(crate) fn from_nodes(site: &Site<'_>) -> Outcome {
    let names = ["pod1", "pod2"];
    all_ready(site, vec![pod("pod1", 0, "one"), pod("pod2", 1, "two")])?;
    let mut every = service("every", "none", &both_80());
    every["spec"]["selector"] = json!({"both": "yes"});
    for name in names {
        site.merge("Pod", name, json!({"metadata": {"labels": {"both": "yes"}}}))?;
    }
    let every = Service::create(site, every)?;
    let others = [Service::simple(site, "two", "two")?, Service::simple(site, "one", "one")?];
    for (index, node) in site.cluster().nodes().iter().enumerate() {
        let from = From::Node(index);
        all_reach(site, from, &every.fronts(), &names)?;
        for front in others[index].fronts() {
            reaches(site, from, front, &[names[1 - index]])?;
            let own = if front.at.is_ipv4() { IpAddr::from(node.v4) } else { node.v6.into() };
            let seen = source(&ask(site, from, front, "clientip")?)?;
            ensure(seen == own, || format!("{} is seen as {seen}, not as {own}: {front}", node.name))?;
        }
    }
    Ok(())
}

/// The same from pods that are endpoints themselves: to each other, and back to themselves.
pub(crate) fn from_endpoints(site: &Site<'_>) -> Outcome {
    let names = ["pod1", "pod2", "pod3"];
    serve_all(site, &names, "web")?;
    let web = Service::simple(site, "web", "web")?;
    names.iter().try_for_each(|name| all_reach(site, From::Pod(name), &web.fronts(), &names))
}

/// Endpoints that live in their nodes' own network; reached from pods and from both nodes, their own included.
pub(crate) fn host_network_endpoints(site: &Site<'_>) -> Outcome {
    let on_host = |name: &str, node| {
        let ports = ["netexec", "--http-port=18080", "--udp-port=18080"];
        Pod { host_network: true, ..with_args(pod(name, node, "host"), &ports) }
    };
    all_ready(
        site,
        vec![
            on_host("host-1", 0),
            on_host("host-2", 1),
            pod("client-1", 0, "none"),
            pod("client-2", 1, "none"),
        ],
    )?;
    let ports = [port("tcp", "TCP", 80, 18080), port("udp", "UDP", 80, 18080)];
    let host = Service::create(site, service("host", "host", &ports))?;
    // What they call themselves is their nodes' business: their addresses tell them apart.
    let names: Vec<String> = ["host-1", "host-2"]
        .iter()
        .map(|name| {
            let own = Front::tcp(address(site, name, Family::V4)?, 18080);
            Ok(ask(site, From::Pod("client-1"), own, "hostname")?)
        })
        .collect::<Outcome<_>>()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    ensure(names[0] != names[1], || format!("both call themselves {}", names[0]))?;
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        all_reach(site, from, &host.fronts(), &names)?;
    }
    Ok(())
}

/// A pod in its node's network is a process of the node: it is served as well.
pub(crate) fn host_network_client(site: &Site<'_>) -> Outcome {
    let ports = ["netexec", "--http-port=18081", "--udp-port=18081"];
    let client = Pod { host_network: true, ..with_args(pod("client", 0, "none"), &ports) };
    all_ready(site, vec![client, pod("pod1", 0, "web"), pod("pod2", 1, "web")])?;
    let web = Service::simple(site, "web", "web")?;
    all_reach(site, From::Pod("client"), &web.fronts(), &["pod1", "pod2"])?;
    remove_pod(site, "pod1")?;
    all_reach(site, From::Pod("client"), &web.fronts(), &["pod2"])
}

/// Pods reach each other directly, untouched, while Services send the same pods traffic.
pub(crate) fn direct_traffic_untouched(site: &Site<'_>) -> Outcome {
    all_ready(
        site,
        vec![
            pod("client-1", 0, "none"),
            pod("client-2", 1, "none"),
            pod("pod1", 0, "web"),
            pod("pod2", 1, "web"),
        ],
    )?;
    let web = Service::simple(site, "web", "web")?;
    for client in ["client-1", "client-2"] {
        all_reach(site, From::Pod(client), &web.fronts(), &["pod1", "pod2"])?;
        for (server, family) in
            [("pod1", Family::V4), ("pod1", Family::V6), ("pod2", Family::V4), ("pod2", Family::V6)]
        {
            let (own, at) = (address(site, client, family)?, address(site, server, family)?);
            for front in [Front::tcp(at, 80), Front::udp(at, 80)] {
                let seen = source(&ask(site, From::Pod(client), front, "clientip")?)?;
                ensure(seen == own, || format!("{server} sees {seen} for {client} at {own}, {front}"))?;
            }
        }
    }
    site.merge("Service", "web", json!({"spec": {"selector": {"app": "nobody"}}}))?;
    let at = address(site, "pod2", Family::V4)?;
    reaches(site, From::Pod("client-1"), Front::tcp(at, 80), &["pod2"])
}
