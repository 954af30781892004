//! Where endpoints come from: EndpointSlices made by hand, mirrored ones, and ports that differ from pod to pod.

use serde_json::{Value, json};
use tests::kubernetes::Site;

use super::readiness::container;
use super::services::pod_with_port;
use crate::kit::{From, Outcome, all_reach, reaches, refused};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, port, serve, serve_all, serve_with, service, slice,
    slice_port, with_args,
};

/// A Service nobody finds endpoints for.
fn manual(site: &Site<'_>, ports: &[Value]) -> Outcome<Service> {
    let mut object = service("manual", "nobody", ports);
    object["spec"]["selector"] = json!(null);
    Service::create(site, object)
}

/// Several addresses in several EndpointSlices are one set of endpoints.
pub(crate) fn several_slices(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2", "pod3"], "web")?;
    let web = manual(site, &both_80())?;
    let ports = [slice_port("tcp", "TCP", 80), slice_port("udp", "UDP", 80)];
    let from = From::Pod("client");
    let at = |pod: &str, family| address(site, pod, family);
    for family in Family::BOTH {
        let name = |number: u8| format!("manual-{}-{number}", family.name().to_lowercase());
        let fronts = [web.tcp(family, 80), web.udp(family, 80)];
        site.create(slice(&name(1), "manual", family, &[at("pod1", family)?], &ports))?;
        all_reach(site, from, &fronts, &["pod1"])?;
        let two = [at("pod2", family)?, at("pod3", family)?];
        site.create(slice(&name(2), "manual", family, &two, &ports))?;
        all_reach(site, from, &fronts, &["pod1", "pod2", "pod3"])?;
        // The same endpoint twice is one endpoint: it goes when the last of them goes.
        site.create(slice(&name(3), "manual", family, &two[..1], &ports))?;
        site.delete("EndpointSlice", &name(2), None)?;
        all_reach(site, from, &fronts, &["pod1", "pod2"])?;
        site.delete("EndpointSlice", &name(3), None)?;
        all_reach(site, from, &fronts, &["pod1"])?;
    }
    Ok(())
}

/// Several ports, each with addresses of its own, in several EndpointSlices.
pub(crate) fn several_ports(site: &Site<'_>) -> Outcome {
    serve(site, "client", 1, "none")?;
    serve_with(site, "pod1", 0, "web", &["netexec", "--http-port=3000", "--udp-port=3001"])?;
    serve_with(site, "pod2", 1, "web", &["netexec", "--http-port=3002", "--udp-port=3001"])?;
    let ports = [port("http", "TCP", 80, 80), port("more", "TCP", 81, 80), port("udp", "UDP", 80, 80)];
    let web = manual(site, &ports)?;
    let family = Family::V4;
    let (pod1, pod2) = (address(site, "pod1", family)?, address(site, "pod2", family)?);
    let first = [slice_port("http", "TCP", 3000), slice_port("udp", "UDP", 3001)];
    let second =
        [slice_port("more", "TCP", 3002), slice_port("udp", "UDP", 3001), slice_port("unused", "TCP", 9)];
    site.create(slice("manual-1", "manual", family, &[pod1], &first))?;
    site.create(slice("manual-2", "manual", family, &[pod2], &second))?;
    for from in [From::Pod("client"), From::Node(0)] {
        reaches(site, from, web.tcp(family, 80), &["pod1"])?;
        reaches(site, from, web.tcp(family, 81), &["pod2"])?;
        reaches(site, from, web.udp(family, 80), &["pod1", "pod2"])?;
        refused(site, from, web.tcp(family, 9))?;
    }
    Ok(())
}

/// An Endpoints object of the old kind is mirrored, and served.
pub(crate) fn mirrored(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let web = manual(site, &both_80())?;
    let from = From::Pod("client");
    let fronts = [web.tcp(Family::V4, 80), web.udp(Family::V4, 80)];
    let endpoints = |pods: &[&str]| {
        let addresses = pods
            .iter()
            .map(|pod| Ok(json!({"ip": address(site, pod, Family::V4)?})))
            .collect::<Outcome<Vec<_>>>()?;
        Outcome::Ok(json!([{
            "addresses": addresses,
            "ports": [slice_port("tcp", "TCP", 80), slice_port("udp", "UDP", 80)],
        }]))
    };
    site.create(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "manual"}, "subsets": endpoints(&["pod1"])?,
    }))?;
    all_reach(site, from, &fronts, &["pod1"])?;
    site.merge("Endpoints", "manual", json!({"subsets": endpoints(&["pod1", "pod2"])?}))?;
    all_reach(site, from, &fronts, &["pod1", "pod2"])?;
    site.delete("Endpoints", "manual", None)?;
    fronts.into_iter().try_for_each(|front| refused(site, from, front))
}

/// An Endpoints object whose subsets have the same address: one with each port of the Service.
pub(crate) fn mirrored_subsets(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_with(site, "pod1", 1, "web", &["netexec", "--http-port=8090,9090", "--udp-port=0"])?;
    let web = manual(site, &[port("one", "TCP", 80, 80), port("two", "TCP", 81, 81)])?;
    let own = address(site, "pod1", Family::V4)?;
    let subset =
        |name, number| json!({"addresses": [{"ip": own}], "ports": [slice_port(name, "TCP", number)]});
    let both = json!([subset("one", 8090), subset("two", 9090)]);
    site.create(json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "manual"}, "subsets": both,
    }))?;
    let fronts = [web.tcp(Family::V4, 80), web.tcp(Family::V4, 81)];
    let seats = [From::Pod("client"), From::Node(1)];
    for from in seats {
        all_reach(site, from, &fronts, &["pod1"])?;
    }
    // Each port is of its own subset: one goes, the other stays.
    site.merge("Endpoints", "manual", json!({"subsets": [subset("two", 9090)]}))?;
    for from in seats {
        refused(site, from, fronts[0])?;
        reaches(site, from, fronts[1], &["pod1"])?;
    }
    Ok(())
}

/// One name of a port, another number in every pod.
pub(crate) fn named_ports_differ(site: &Site<'_>) -> Outcome {
    let named = |name: &str, node, number: u16| {
        let words = [format!("--http-port={number}"), "--udp-port=80".to_owned()];
        with_args(pod_with_port(name, node, "web", "http", number), &["netexec", &words[0], &words[1]])
    };
    let pods = vec![
        pod("client", 0, "none"),
        named("pod1", 0, 8001),
        named("pod2", 1, 8002),
        named("pod3", 1, 8003),
    ];
    all_ready(site, pods)?;
    let web = Service::create(site, service("web", "web", &[port("http", "TCP", 80, "http")]))?;
    for from in [From::Pod("client"), From::Node(1)] {
        for family in Family::BOTH {
            reaches(site, from, web.tcp(family, 80), &["pod1", "pod2", "pod3"])?;
        }
    }
    Ok(())
}

/// The ports of a container that starts before the others and goes on, by number and by name.
pub(crate) fn sidecar_ports(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    let mut pod = with_args(pod("pod1", 1, "web"), &["netexec", "--http-port=80", "--udp-port=80"]);
    pod.extra = container(json!({}));
    pod.extra["spec"]["initContainers"] = json!([{
        "name": "sidecar", "image": "registry.k8s.io/e2e-test-images/agnhost:2.55", "restartPolicy": "Always",
        "args": ["netexec", "--http-port=8090", "--udp-port=8091"],
        "ports": [{"name": "sidecar", "containerPort": 8090}],
    }]);
    all_ready(site, vec![pod])?;
    let ports =
        [port("number", "TCP", 80, 8090), port("name", "TCP", 81, "sidecar"), port("udp", "UDP", 80, 8091)];
    let web = Service::create(site, service("web", "web", &ports))?;
    let from = From::Pod("client");
    let fronts = [web.tcp(Family::V4, 80), web.tcp(Family::V4, 81), web.udp(Family::V6, 80)];
    all_reach(site, from, &fronts, &["pod1"])
}
