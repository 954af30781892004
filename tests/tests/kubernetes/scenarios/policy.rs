//! `internalTrafficPolicy: Local`: a node serves a ClusterIP by its own endpoints, or not at all.

use serde_json::json;
use tests::kubernetes::{Pod, Site};

use super::readiness::{conditions, lingering, switch_on};
use crate::client::Front;
use crate::kit::{From, LAG, Outcome, all_reach, ask, dropped, together};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, port, service, with_args, with_spec,
};

fn local() -> serde_json::Value {
    json!({"internalTrafficPolicy": "Local"})
}

fn stage(site: &Site<'_>, more: Vec<Pod>) -> Outcome {
    let clients = vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")];
    all_ready(site, clients.into_iter().chain(more).collect())
}

/// Pods and processes of the endpoint's node are served, those of the other node are not; with the policy gone they are.
pub(crate) fn respected(site: &Site<'_>) -> Outcome {
    stage(site, vec![pod("pod1", 0, "web")])?;
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), local()))?;
    for from in [From::Pod("client-1"), From::Node(0)] {
        all_reach(site, from, &web.fronts(), &["pod1"])?;
    }
    // A node that has not seen the Service yet drops as well.
    site.cluster().settle(LAG)?;
    for from in [From::Pod("client-2"), From::Node(1)] {
        together(&web.fronts(), |front| dropped(site, from, front))?;
    }
    site.merge("Service", "web", json!({"spec": {"internalTrafficPolicy": "Cluster"}}))?;
    for from in [From::Pod("client-2"), From::Node(1)] {
        all_reach(site, from, &web.fronts(), &["pod1"])?;
    }
    site.merge("Service", "web", json!({"spec": local()}))?;
    all_reach(site, From::Pod("client-1"), &web.fronts(), &["pod1"])?;
    together(&web.fronts(), |front| dropped(site, From::Pod("client-2"), front))
}

/// Each node has an endpoint: its clients never get another's.
pub(crate) fn own_endpoints_only(site: &Site<'_>) -> Outcome {
    stage(site, vec![pod("pod1", 0, "web"), pod("pod2", 1, "web")])?;
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), local()))?;
    for (from, own) in [
        (From::Pod("client-1"), "pod1"),
        (From::Node(0), "pod1"),
        (From::Pod("client-2"), "pod2"),
        (From::Node(1), "pod2"),
    ] {
        all_reach(site, from, &web.fronts(), &[own])?;
    }
    Ok(())
}

/// The endpoint lives in its node's network.
pub(crate) fn host_network_endpoint(site: &Site<'_>) -> Outcome {
    let args = ["netexec", "--http-port=18082", "--udp-port=18082"];
    let host = Pod { host_network: true, ..with_args(pod("host", 0, "host"), &args) };
    stage(site, vec![host])?;
    let name = {
        let own = Front::tcp(address(site, "host", Family::V4)?, 18082);
        ask(site, From::Pod("client-1"), own, "hostname")?
    };
    let ports = [port("tcp", "TCP", 80, 18082), port("udp", "UDP", 80, 18082)];
    let host = Service::create(site, with_spec(service("host", "host", &ports), local()))?;
    for from in [From::Pod("client-1"), From::Node(0)] {
        all_reach(site, from, &host.fronts(), &[&name])?;
    }
    // A node that has not seen the Service yet drops as well.
    site.cluster().settle(LAG)?;
    for from in [From::Pod("client-2"), From::Node(1)] {
        together(&host.fronts(), |front| dropped(site, from, front))?;
    }
    Ok(())
}

/// A node's only endpoint ends: it serves its node to its end, though another node has a ready one.
pub(crate) fn local_fallback(site: &Site<'_>) -> Outcome {
    stage(site, vec![pod("pod2", 1, "web")])?;
    site.pod(lingering("pod1", 0, "web"))?;
    let _switch = switch_on(site, "pod1")?;
    site.wait_ready("pod1", LAG)?;
    let web = Service::create(site, with_spec(service("web", "web", &both_80()), local()))?;
    all_reach(site, From::Pod("client-1"), &web.fronts(), &["pod1"])?;
    site.delete("Pod", "pod1", None)?;
    conditions(site, "web", "pod1", &json!({"terminating": true, "serving": true, "ready": false}))?;
    for (from, own) in
        [(From::Pod("client-1"), "pod1"), (From::Pod("client-2"), "pod2"), (From::Node(0), "pod1")]
    {
        all_reach(site, from, &web.fronts(), &[own])?;
    }
    crate::objects::remove_pod(site, "pod1")?;
    together(&web.fronts(), |front| dropped(site, From::Pod("client-1"), front))
}
