//! What a Service is: it follows its pods and its own spec, and is nobody else's business.

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};

use crate::client::{Connection, Front};
use crate::kit::{
    From, LAG, Outcome, PATIENCE, all_reach, ask, dropped, ensure, eventually, reaches, refused,
};
use crate::objects::{
    Family, Service, all_ready, both_80, pod, port, remove_pod, serve, serve_all, serve_with, service,
    with_args, with_spec,
};

/// A Service answers by the pods there are, from the first to none again.
pub(crate) fn basic_endpoint(site: &Site<'_>, family: Family) -> Outcome {
    serve(site, "client", 0, "none")?;
    let front = Service::simple(site, "web", "web")?.tcp(family, 80);
    let from = From::Pod("client");
    refused(site, from, front)?;
    serve(site, "pod1", 0, "web")?;
    reaches(site, from, front, &["pod1"])?;
    serve(site, "pod2", 1, "web")?;
    reaches(site, from, front, &["pod1", "pod2"])?;
    remove_pod(site, "pod1")?;
    reaches(site, from, front, &["pod2"])?;
    remove_pod(site, "pod2")?;
    refused(site, from, front)
}

/// Two ports of one Service lead to different pods, by the names of the pods' ports.
pub(crate) fn multiport(site: &Site<'_>, family: Family) -> Outcome {
    let named = |pod: &str, node, name: &str, number: u16| {
        let http = format!("--http-port={number}");
        with_args(pod_with_port(pod, node, "multi", name, number), &["netexec", &http, "--udp-port=80"])
    };
    let pods =
        vec![pod("client", 0, "none"), named("pod1", 0, "first", 100), named("pod2", 1, "second", 101)];
    all_ready(site, pods)?;
    let ports = [port("portname1", "TCP", 80, "first"), port("portname2", "TCP", 81, "second")];
    let multi = Service::create(site, service("multi", "multi", &ports))?;
    let from = From::Pod("client");
    reaches(site, from, multi.tcp(family, 80), &["pod1"])?;
    reaches(site, from, multi.tcp(family, 81), &["pod2"])?;
    remove_pod(site, "pod1")?;
    refused(site, from, multi.tcp(family, 80))?;
    reaches(site, from, multi.tcp(family, 81), &["pod2"])
}

/// A pod with one port that has a name.
pub(crate) fn pod_with_port(name: &str, node: usize, app: &str, port: &str, number: u16) -> Pod {
    let mut made = pod(name, node, app);
    let ports = json!([{"name": port, "containerPort": number}]);
    made.extra = json!({"spec": {"containers": [{"name": "agnhost", "ports": ports}]}});
    made
}

/// Ports of a Service come and go.
pub(crate) fn updated_ports(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    serve_with(site, "pod1", 1, "web", &["netexec", "--http-port=80", "--udp-port=90"])?;
    let web = Service::create(site, service("web", "web", &[port("p80", "TCP", 80, 80)]))?;
    let from = From::Pod("client");
    let at = |number| web.tcp(Family::V4, number);
    reaches(site, from, at(80), &["pod1"])?;
    refused(site, from, at(8080))?;
    let set = |ports: &[Value]| site.merge("Service", "web", json!({"spec": {"ports": ports}}));
    set(&[port("p80", "TCP", 80, 80), port("p8080", "TCP", 8080, 80), port("u53", "UDP", 53, 90)])?;
    all_reach(site, from, &[at(8080), at(80), web.udp(Family::V4, 53), web.udp(Family::V6, 53)], &["pod1"])?;
    set(&[port("p8080", "TCP", 8080, 80)])?;
    refused(site, from, at(80))?;
    refused(site, from, web.udp(Family::V4, 53))?;
    reaches(site, from, at(8080), &["pod1"])?;
    set(&[port("p8080", "TCP", 8081, 80)])?;
    reaches(site, from, at(8081), &["pod1"])?;
    refused(site, from, at(8080))
}

/// TCP and UDP of one port are two things.
pub(crate) fn same_port_two_protocols(site: &Site<'_>) -> Outcome {
    serve_all(site, &["pod1", "client"], "web")?;
    remove_label(site, "client")?;
    let web = Service::create(site, service("web", "web", &both_80()))?;
    let from = From::Pod("client");
    all_reach(site, from, &web.fronts(), &["pod1"])?;
    let set = |ports: &[Value]| site.merge("Service", "web", json!({"spec": {"ports": ports}}));
    let [tcp, udp] = both_80();
    set(std::slice::from_ref(&tcp))?;
    refused(site, from, web.udp(Family::V4, 80))?;
    reaches(site, from, web.tcp(Family::V4, 80), &["pod1"])?;
    set(&[udp.clone(), tcp])?;
    all_reach(site, from, &web.fronts(), &["pod1"])?;
    set(&[udp])?;
    refused(site, from, web.tcp(Family::V4, 80))?;
    reaches(site, from, web.udp(Family::V4, 80), &["pod1"])
}

fn remove_label(site: &Site<'_>, name: &str) -> Outcome {
    site.merge("Pod", name, json!({"metadata": {"labels": {"app": null}}}))?;
    Ok(())
}

/// A Service that is deleted is gone; made again, it serves, at another address and at the old one.
pub(crate) fn recreated(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client", "pod1"], "web")?;
    remove_label(site, "client")?;
    let from = From::Pod("client");
    let first = Service::simple(site, "web", "web")?;
    all_reach(site, from, &first.fronts(), &["pod1"])?;
    first.delete(site)?;
    dropped(site, from, first.tcp(Family::V4, 80))?;
    let second = Service::simple(site, "web", "web")?;
    all_reach(site, from, &second.fronts(), &["pod1"])?;
    second.delete(site)?;
    eventually("the address is free again", LAG, || {
        let addresses = json!({"clusterIP": first.ips[0], "clusterIPs": first.ips});
        site.create(with_spec(service("web", "web", &both_80()), addresses))
    })?;
    all_reach(site, from, &first.fronts(), &["pod1"])?;
    if !second.ips.contains(&first.ips[0]) {
        dropped(site, from, second.tcp(Family::V4, 80))?;
    }
    Ok(())
}

/// Services come and go beside others, seen from pods and from hosts.
pub(crate) fn up_and_down(site: &Site<'_>) -> Outcome {
    let apps = ["one", "two", "three"];
    let names: Vec<[String; 2]> = apps.iter().map(|app| [format!("{app}-1"), format!("{app}-2")]).collect();
    let mut pods = vec![pod("client", 1, "none")];
    for (app, names) in apps.iter().zip(&names) {
        pods.extend(names.iter().enumerate().map(|(node, name)| pod(name, node, app)));
    }
    all_ready(site, pods)?;
    let members = |at: usize| [names[at][0].as_str(), names[at][1].as_str()];
    let seats = [From::Pod("client"), From::Node(0), From::Node(1)];
    let up = |service: &Service, at: usize| {
        seats.iter().try_for_each(|from| all_reach(site, *from, &service.fronts(), &members(at)))
    };
    let one = Service::simple(site, "one", "one")?;
    let two = Service::simple(site, "two", "two")?;
    up(&one, 0)?;
    up(&two, 1)?;
    one.delete(site)?;
    seats.iter().try_for_each(|from| dropped(site, *from, one.tcp(Family::V4, 80)))?;
    up(&two, 1)?;
    let three = Service::simple(site, "three", "three")?;
    up(&two, 1)?;
    up(&three, 2)
}

/// Two Services with one selector are two; one may go.
pub(crate) fn one_selector_twice(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let from = From::Pod("client");
    let one = Service::simple(site, "one", "web")?;
    let two = Service::simple(site, "two", "web")?;
    all_reach(site, from, &one.fronts(), &["pod1", "pod2"])?;
    all_reach(site, from, &two.fronts(), &["pod1", "pod2"])?;
    one.delete(site)?;
    dropped(site, from, one.tcp(Family::V4, 80))?;
    all_reach(site, from, &two.fronts(), &["pod1", "pod2"])
}

/// One of four endpoints goes: nobody is sent there any more, over HTTP and UDP.
pub(crate) fn update_endpoints(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    let names = ["pod1", "pod2", "pod3", "pod4"];
    serve_all(site, &names, "web")?;
    let web = Service::simple(site, "web", "web")?;
    all_reach(site, From::Pod("client"), &web.fronts(), &names)?;
    remove_pod(site, "pod3")?;
    all_reach(site, From::Pod("client"), &web.fronts(), &["pod1", "pod2", "pod4"])
}

/// A connection outlives everything that is decided for new ones: its endpoint leaves the Service, its Service goes.
pub(crate) fn connections_outlive_changes(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let web = Service::simple(site, "web", "web")?;
    let from = From::Pod("client");
    all_reach(site, from, &web.fronts(), &["pod1", "pod2"])?;
    let open = |family| from.run(site, || Connection::open(web.tcp(family, 80).at, PATIENCE));
    let mut streams = Vec::new();
    for family in [Family::V4, Family::V6, Family::V4, Family::V6] {
        let mut stream = open(family)??;
        streams.push((stream.get_text("/hostname", PATIENCE)?, stream));
    }
    let mut all_go_on = |after: &str| -> Outcome {
        for (pod, stream) in &mut streams {
            let said =
                stream.get_text("/hostname", PATIENCE).map_err(|why| format!("{after}: {pod}: {why}"))?;
            ensure(said == *pod, || format!("{after}: {said} answers on a connection to {pod}"))?;
        }
        Ok(())
    };
    remove_label(site, "pod1")?;
    reaches(site, from, web.tcp(Family::V4, 80), &["pod2"])?;
    all_go_on("pod1 is no endpoint any more")?;
    remove_label(site, "pod2")?;
    refused(site, from, web.tcp(Family::V4, 80))?;
    all_go_on("there are no endpoints")?;
    web.delete(site)?;
    dropped(site, from, web.tcp(Family::V4, 80))?;
    all_go_on("the Service is deleted")
}

/// The API server is a Service too.
pub(crate) fn api_server(site: &Site<'_>) -> Outcome {
    serve_all(site, &["one", "two"], "none")?;
    for pod in ["one", "two"] {
        let limit = std::time::Duration::from_secs(10);
        let said = site.exec(pod, &["curl", "-sk", "https://10.96.0.1/version"], limit)?;
        ensure(said.stdout.contains("gitVersion"), || format!("from pod {pod}: {said:?}"))?;
    }
    Ok(())
}

/// A Service with a port of SCTP has endpoints for it, and its ports of TCP and UDP are served.
pub(crate) fn sctp(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve(site, "pod1", 1, "web")?;
    let [tcp, udp] = both_80();
    let ports = [port("sctp", "SCTP", 80, 5060), tcp, udp];
    let web = Service::create(site, service("web", "web", &ports))?;
    all_reach(site, From::Pod("client"), &web.fronts(), &["pod1"])?;
    let slices = site.list("EndpointSlice", "kubernetes.io/service-name=web")?;
    ensure(slices.len() == 2, || format!("{slices:?}"))?;
    slices.iter().try_for_each(|slice| {
        let ports = slice["ports"].as_array();
        let mut ports = ports.into_iter().flatten();
        let found = ports.any(|port| port["protocol"] == "SCTP" && port["port"] == 5060);
        ensure(found, || slice["ports"].to_string())
    })
}

/// A ClusterIP is one of the addresses asked for, and nobody else's answers come from it.
pub(crate) fn chosen_address(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client", "pod1"], "web")?;
    remove_label(site, "client")?;
    let probe = Service::simple(site, "probe", "web")?;
    probe.delete(site)?;
    let asked = eventually("the address can be had", LAG, || {
        let addresses = json!({"clusterIP": probe.ips[0], "clusterIPs": probe.ips});
        site.create(with_spec(service("asked", "web", &both_80()), addresses))
    })?;
    ensure(asked["spec"]["clusterIP"] == json!(probe.ips[0]), || format!("{}", asked["spec"]))?;
    let front = Front::tcp(probe.ips[0], 80);
    reaches(site, From::Pod("client"), front, &["pod1"])?;
    let said = ask(site, From::Pod("client"), front, "hostname")?;
    ensure(said == "pod1", || said.clone())
}
