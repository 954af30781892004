//! What is not served: told at once where somebody could serve it, silent where nobody ever did.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::client::{Failure, Front, icmp};
use crate::kit::{From, LAG, Outcome, PATIENCE, all_reach, dropped, ensure, eventually, refused, together};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, serve, serve_all, service, with_spec,
};

/// Without endpoints: refused, from pods and from nodes, TCP and UDP, both families.
pub(crate) fn no_endpoints(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "none")])?;
    let empty = Service::simple(site, "empty", "nobody")?;
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        together(&empty.fronts(), |front| refused(site, from, front))?;
    }
    Ok(())
}

/// Pods that were evicted are no endpoints, not even where unready ones are.
pub(crate) fn evicted_pods(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    let mut evicted = pod("evicted", 1, "web");
    evicted.extra = json!({"spec": {"restartPolicy": "Never"}});
    all_ready(site, vec![evicted])?;
    let web = Service::simple(site, "web", "web")?;
    site.merge("Service", "web", json!({"spec": {"publishNotReadyAddresses": true}}))?;
    let from = From::Pod("client");
    all_reach(site, from, &web.fronts(), &["evicted"])?;
    // What a kubelet writes when it evicts; it has stopped the pod by then, or does so at once.
    let failed = json!({"status": {"phase": "Failed", "reason": "Evicted"}});
    site.merge("Pod/status", "evicted", failed)?;
    // The kernel of a stopped pod refuses as well: only while somebody listens there does a refusal come from the proxy.
    let anywhere = (Ipv6Addr::UNSPECIFIED, 80);
    let _listens = eventually("the evicted pod's ports are free", LAG, || {
        let bind = || Ok::<_, std::io::Error>((TcpListener::bind(anywhere)?, UdpSocket::bind(anywhere)?));
        site.inside("evicted", bind)?
    })?;
    for family in Family::BOTH {
        let own = address(site, "evicted", family)?;
        for front in [Front::tcp(own, 80), Front::udp(own, 80)] {
            // Connected to or not, it is never answered; what counts is that nobody refuses.
            let said = from.run(site, || front.ask("hostname", Duration::from_millis(500)))?;
            ensure(said == Err(Failure::TimedOut), || format!("{front} of the pod itself: {said:?}"))?;
        }
    }
    eventually("no EndpointSlice has an endpoint", LAG, || {
        let slices = site.list("EndpointSlice", "kubernetes.io/service-name=web");
        let slices = slices.map_err(|error| error.to_string())?;
        let endpoints = |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len);
        if slices.iter().all(|slice| endpoints(slice) == 0) { Ok(()) } else { Err(format!("{slices:?}")) }
    })?;
    together(&web.fronts(), |front| refused(site, from, front))
}

/// A ClusterIP on a port nobody asked for is refused, one that is nobody's is dropped, for new and for old ones.
pub(crate) fn wrong_port_and_nobody(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let web = Service::simple(site, "web", "web")?;
    // Nobody else gets these while this runs: of a range's first 256 addresses the API server gives out none by itself
    // until it has no others.
    let chosen = json!({"clusterIP": "10.96.0.200", "clusterIPs": ["10.96.0.200", "fd00:96::c8"]});
    let gone = Service::create(site, with_spec(service("gone", "web", &both_80()), chosen))?;
    for from in [From::Pod("client"), From::Node(0), From::Node(1)] {
        all_reach(site, from, &web.fronts(), &["pod1", "pod2"])?;
        all_reach(site, from, &gone.fronts(), &["pod1", "pod2"])?;
        together(&web.fronts_at(81), |front| refused(site, from, front))?;
    }
    gone.delete(site)?;
    for from in [From::Pod("client"), From::Node(0), From::Node(1)] {
        together(&gone.fronts(), |front| dropped(site, from, front))?;
        all_reach(site, from, &web.fronts(), &["pod1", "pod2"])?;
    }
    Ok(())
}

/// Ping is no protocol of a Service: port unreachable, and silence from an address nobody has.
pub(crate) fn ping(site: &Site<'_>) -> Outcome {
    serve(site, "client", 1, "none")?;
    serve(site, "pod1", 0, "web")?;
    let web = Service::simple(site, "web", "web")?;
    let from = From::Pod("client");
    all_reach(site, from, &web.fronts(), &["pod1"])?;
    let says = |wanted: Failure| {
        for ip in &web.ips {
            eventually(&format!("a ping of {ip} ends with {wanted:?}"), LAG, || {
                let said = from.run(site, || icmp::ping(*ip, PATIENCE)).map_err(|error| error.to_string())?;
                if said == Err(wanted.clone()) { Ok(()) } else { Err(format!("{said:?}")) }
            })?;
        }
        Outcome::Ok(())
    };
    says(Failure::Refused)?;
    web.delete(site)?;
    says(Failure::TimedOut)
}
