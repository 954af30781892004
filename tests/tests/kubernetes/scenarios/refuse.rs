//! What is not served: told at once where somebody could serve it, silent where nobody ever did.

use serde_json::json;
use tests::kubernetes::Site;

use crate::client::{Failure, icmp};
use crate::kit::{From, LAG, Outcome, PATIENCE, all_reach, dropped, eventually, refused, together};
use crate::objects::{Service, all_ready, pod, serve, serve_all};

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
    together(&web.fronts(), |front| refused(site, from, front))
}

/// A ClusterIP on a port nobody asked for is refused, one that is nobody's is dropped, for new and for old ones.
pub(crate) fn wrong_port_and_nobody(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let web = Service::simple(site, "web", "web")?;
    // An address nobody has for as long as this takes: it was the last one given out.
    let gone = Service::simple(site, "gone", "web")?;
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
