//! Which pods are endpoints: ready ones, unready ones where the Service says so, and those that end while nobody else
//! is there.

use std::net::{Ipv6Addr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};

use crate::client::{Connection, Front};
use crate::kit::{
    From, LAG, Outcome, PATIENCE, all_reach, ensure, eventually, keeps_reaching, pairs, reaches, refused,
    together,
};
use crate::objects::{
    Family, Service, all_ready, both_80, pod, ready, remove_pod, serve, serve_all, service, with_args,
    with_spec,
};
use crate::ways::{Way, every_node_port};

/// Where the readiness of [`switched`] pods is asked for.
const SWITCH: u16 = 9000;

/// A pod that is ready while somebody listens on its port 9000.
pub(crate) fn switched(name: &str, node: usize, app: &str) -> Pod {
    let mut pod = pod(name, node, app);
    pod.extra = container(json!({
        "readinessProbe": {"tcpSocket": {"port": SWITCH}, "periodSeconds": 1, "failureThreshold": 1},
    }));
    pod
}

/// More about the only container of a pod.
pub(crate) fn container(more: Value) -> Value {
    let mut container = json!({"name": "agnhost"});
    if let (Some(own), Value::Object(more)) = (container.as_object_mut(), more) {
        own.extend(more);
    }
    json!({"spec": {"containers": [container]}})
}

/// Makes a [`switched`] pod ready until it is dropped.
pub(crate) fn switch_on(site: &Site<'_>, pod: &str) -> Outcome<TcpListener> {
    Ok(site.inside(pod, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, SWITCH)))??)
}

/// Unready pods are served while the Service wants them, and only then.
pub(crate) fn unready_pods(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    site.pod(switched("unready", 1, "web"))?;
    let publish = |on: bool| site.merge("Service", "web", json!({"spec": {"publishNotReadyAddresses": on}}));
    let wanted = with_spec(service("web", "web", &both_80()), json!({"publishNotReadyAddresses": true}));
    let web = Service::create(site, wanted)?;
    let from = From::Pod("client");
    all_reach(site, from, &web.fronts(), &["unready"])?;
    publish(false)?;
    together(&web.fronts(), |front| refused(site, from, front))?;
    publish(true)?;
    all_reach(site, from, &web.fronts(), &["unready"])?;
    publish(false)?;
    refused(site, from, web.tcp(Family::V4, 80))?;
    let switch = switch_on(site, "unready")?;
    all_reach(site, from, &web.fronts(), &["unready"])?;
    drop(switch);
    together(&web.fronts(), |front| refused(site, from, front))
}

/// A pod that gets unready is passed over; connections to it go on; ready again, it is back.
pub(crate) fn readiness_flaps(site: &Site<'_>) -> Outcome {
    serve_all(site, &["client"], "none")?;
    site.pod(switched("pod1", 0, "web"))?;
    let switch = switch_on(site, "pod1")?;
    all_ready(site, vec![pod("pod2", 1, "web")])?;
    let web = Service::simple(site, "web", "web")?;
    let from = From::Pod("client");
    let front = web.tcp(Family::V4, 80);
    reaches(site, from, front, &["pod1", "pod2"])?;
    let mut stream = eventually("a connection to pod1", LAG, || {
        let mut stream = from.run(site, || Connection::open(front.at, PATIENCE))??;
        let pod = stream.get_text("/hostname", PATIENCE)?;
        if pod == "pod1" { Ok(stream) } else { Err(crate::client::Failure::Other(pod)) }
    })?;
    drop(switch);
    reaches(site, from, front, &["pod2"])?;
    keeps_reaching(site, from, front, &["pod2"], Duration::from_secs(1))?;
    let still = stream.get_text("/hostname", PATIENCE)?;
    ensure(still == "pod1", || format!("{still} answers on a connection to pod1"))?;
    let _switch = switch_on(site, "pod1")?;
    reaches(site, from, front, &["pod1", "pod2"])
}

/// A pod that goes on for a while after it was told to end.
pub(crate) fn lingering(name: &str, node: usize, app: &str) -> Pod {
    let mut pod = switched(name, node, app);
    pod.extra["spec"]["terminationGracePeriodSeconds"] = json!(100);
    with_args(pod, &["netexec", "--http-port=80", "--udp-port=80", "--delay-shutdown=100"])
}

/// Waits until the Service's endpoints of this pod (empty: all of them) say this of themselves.
pub(crate) fn conditions(site: &Site<'_>, service: &str, pod: &str, wanted: &Value) -> Outcome {
    let selector = format!("kubernetes.io/service-name={service}");
    eventually(&format!("the endpoints of {service} are {wanted}"), LAG, || {
        let slices = site.list("EndpointSlice", &selector).map_err(|error| error.to_string())?;
        let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let endpoints: Vec<&Value> =
            endpoints.filter(|one| pod.is_empty() || one["targetRef"]["name"] == pod).collect();
        let fits = |endpoint: &&Value| {
            let mut wanted = wanted.as_object().into_iter().flatten();
            wanted.all(|(name, value)| endpoint["conditions"][name] == *value)
        };
        if !endpoints.is_empty() && endpoints.iter().all(fits) {
            Ok(())
        } else {
            Err(format!("{endpoints:?}"))
        }
    })
}

/// A pod that ends and is not ready any more is served where the Service wants unready pods.
pub(crate) fn terminating_unready_published(site: &Site<'_>, way: Way) -> Outcome {
    let fronts = terminating_unready(site, way, true)?;
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        all_reach(site, from, &fronts, &["pod1"])?;
    }
    remove_pod(site, "pod1")?;
    refused(site, From::Pod("client-1"), fronts[0])
}

/// Where a Service is asked whose only endpoint ends, and is not ready any more. By node ports: at every node.
fn terminating_unready(site: &Site<'_>, way: Way, published: bool) -> Outcome<Vec<Front>> {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")])?;
    site.pod(lingering("pod1", 0, "web"))?;
    let switch = switch_on(site, "pod1")?;
    let wanted = json!({"publishNotReadyAddresses": published});
    let web = way.create(site, with_spec(service("web", "web", &both_80()), wanted))?;
    let fronts = match way {
        Way::NodePort(_) => every_node_port(site, &web.service)?,
        Way::ClusterIp | Way::LoadBalancer(_) => web.fronts,
    };
    all_reach(site, From::Pod("client-1"), &fronts, &["pod1"])?;
    site.delete("Pod", "pod1", None)?;
    conditions(site, "web", "", &json!({"terminating": true}))?;
    drop(switch);
    conditions(site, "web", "", &json!({"terminating": true, "serving": false, "ready": published}))?;
    Ok(fronts)
}

/// Elsewhere it is refused, although the pod still answers.
pub(crate) fn terminating_unready_not_published(site: &Site<'_>, way: Way) -> Outcome {
    let fronts = terminating_unready(site, way, false)?;
    let seats = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];
    together(&pairs(&seats, &fronts), |(from, front)| refused(site, from, front))?;
    let direct = Front::tcp(crate::objects::address(site, "pod1", Family::V4)?, 80);
    reaches(site, From::Pod("client-1"), direct, &["pod1"])
}

/// When all endpoints end and still serve, they are used; as soon as another is ready, they are not.
pub(crate) fn terminating_fallback(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")])?;
    let mut held = Vec::new();
    for (name, node) in [("pod1", 0), ("pod2", 1)] {
        site.pod(lingering(name, node, "web"))?;
        held.push(switch_on(site, name)?);
    }
    let web = Service::simple(site, "web", "web")?;
    let seats = [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)];
    all_reach(site, seats[0], &web.fronts(), &["pod1", "pod2"])?;
    site.delete("Pod", "pod1", None)?;
    reaches(site, seats[0], web.tcp(Family::V4, 80), &["pod2"])?;
    keeps_reaching(site, seats[0], web.tcp(Family::V4, 80), &["pod2"], Duration::from_secs(1))?;
    site.delete("Pod", "pod2", None)?;
    conditions(site, "web", "", &json!({"terminating": true, "serving": true, "ready": false}))?;
    for from in seats {
        all_reach(site, from, &web.fronts(), &["pod1", "pod2"])?;
    }
    ready(site, pod("pod3", 0, "web"))?;
    seats.into_iter().try_for_each(|from| all_reach(site, from, &web.fronts(), &["pod3"]))
}

/// A pod that ends keeps the connections it has, and makes new ones of its own, until it is gone.
pub(crate) fn terminating_keeps_connections(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    site.pod(lingering("pod1", 1, "web"))?;
    let _switch = switch_on(site, "pod1")?;
    let web = Service::simple(site, "web", "web")?;
    serve(site, "other", 0, "other")?;
    let other = Service::simple(site, "other", "other")?;
    let from = From::Pod("client");
    let mut streams = Vec::new();
    for front in [web.tcp(Family::V4, 80), web.tcp(Family::V6, 80)] {
        reaches(site, from, front, &["pod1"])?;
        streams.push(from.run(site, || Connection::open(front.at, PATIENCE))??);
    }
    ready(site, pod("pod2", 0, "web"))?;
    site.delete("Pod", "pod1", None)?;
    all_reach(site, from, &web.fronts(), &["pod2"])?;
    for stream in &mut streams {
        let said = stream.get_text("/hostname", PATIENCE)?;
        ensure(said == "pod1", || format!("{said} answers on a connection to pod1"))?;
    }
    all_reach(site, From::Pod("pod1"), &other.fronts(), &["other"])?;
    remove_pod(site, "pod1")?;
    for stream in &mut streams {
        let said = stream.get_text("/hostname", Duration::from_secs(1));
        ensure(said.is_err(), || format!("{said:?} on a connection to a pod that is gone"))?;
    }
    all_reach(site, from, &web.fronts(), &["pod2"])
}
