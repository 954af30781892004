//! Names: CoreDNS behind its own ClusterIP, and Services that change what their name stands for.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::client::Proto;
use crate::client::dns::{self, Answer, Kind};
use crate::kit::{From, LAG, Outcome, PATIENCE, all_reach, dropped, ensure, eventually, together};
use crate::objects::{Family, Service, address, all_ready, both_80, pod, service};

/// The addresses of the Service `kube-dns`.
const KUBE_DNS: [[u16; 8]; 1] = [[0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa]];

fn kube_dns() -> [IpAddr; 2] {
    [IpAddr::from([10, 96, 0, 10]), IpAddr::from(KUBE_DNS[0])]
}

fn whole(site: &Site<'_>, service: &str) -> String {
    format!("{service}.{}.svc.cluster.local", site.name())
}

/// Waits until a name stands for exactly this.
fn resolves(
    site: &Site<'_>,
    from: From<'_>,
    name: &str,
    what: &str,
    fits: impl Fn(&Answer) -> bool,
) -> Outcome {
    eventually(&format!("{name} from {from} is {what}"), LAG, || {
        let asking = from.run(site, || dns::ask(kube_dns()[0], Proto::Udp, name, Kind::A, PATIENCE));
        let answer = asking.map_err(|error| error.to_string())?.map_err(|why| why.to_string())?;
        if fits(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
}

/// Names resolve over UDP and TCP, both families of the name server and of the answer, from every node.
pub(crate) fn resolve(site: &Site<'_>) -> Outcome {
    all_ready(site, vec![pod("client-1", 0, "none"), pod("client-2", 1, "web")])?;
    let web = Service::simple(site, "web", "web")?;
    let name = whole(site, "web");
    resolves(site, From::Pod("client-1"), &name, "known", |answer| !answer.addresses.is_empty())?;
    for from in [From::Pod("client-1"), From::Pod("client-2"), From::Node(0), From::Node(1)] {
        for server in kube_dns() {
            for over in [Proto::Udp, Proto::Tcp] {
                for (kind, family) in [(Kind::A, Family::V4), (Kind::Aaaa, Family::V6)] {
                    let answer = from.run(site, || dns::ask(server, over, &name, kind, PATIENCE))??;
                    ensure(answer.addresses == [web.ip(family)], || {
                        format!("{kind:?} of {name} from {server} over {over:?} for {from}: {answer:?}")
                    })?;
                }
                let nobody = whole(site, "nobody");
                let answer = from.run(site, || dns::ask(server, over, &nobody, Kind::A, PATIENCE))??;
                ensure(answer.code == 3, || format!("{nobody}: {answer:?}"))?;
            }
        }
    }
    by_short_name(site)
}

/// As programs in pods do it.
fn by_short_name(site: &Site<'_>) -> Outcome {
    for pod in ["client-1", "client-2"] {
        let limit = Duration::from_secs(10);
        let said = site.exec(pod, &["curl", "-s", "--max-time", "8", "http://web/hostname"], limit)?;
        ensure(said.stdout.trim() == "client-2", || format!("http://web/hostname in {pod}: {said:?}"))?;
    }
    Ok(())
}

fn external(target: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "changing"},
        "spec": {"type": "ExternalName", "externalName": target},
    })
}

/// What turns an ExternalName into a ClusterIP Service.
fn to_cluster_ip() -> Value {
    json!({"spec": {
        "type": "ClusterIP", "externalName": null, "selector": {"app": "web"},
        "ipFamilyPolicy": "RequireDualStack", "ports": both_80(),
    }})
}

fn is_alias<'a>(target: &'a str) -> impl Fn(&Answer) -> bool + 'a {
    move |answer| answer.aliases == [target.to_owned()]
}

fn stage(site: &Site<'_>) -> Outcome<String> {
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 1, "web"), pod("other", 1, "other")])?;
    Service::simple(site, "other", "other")?;
    Ok(whole(site, "other"))
}

fn current(site: &Site<'_>) -> Outcome<Service> {
    Ok(Service { name: "changing".to_owned(), ips: site.cluster_ips("changing")? })
}

/// An alias becomes a Service with an address of its own.
pub(crate) fn external_name_to_cluster_ip(site: &Site<'_>) -> Outcome {
    let target = stage(site)?;
    site.create(external(&target))?;
    let (from, name) = (From::Pod("client"), whole(site, "changing"));
    resolves(site, from, &name, "an alias", is_alias(&target))?;
    site.merge("Service", "changing", to_cluster_ip())?;
    let changing = current(site)?;
    let own = changing.ip(Family::V4);
    resolves(site, from, &name, "an address of its own", |answer| answer.addresses == [own])?;
    all_reach(site, from, &changing.fronts(), &["pod1"])
}

/// A Service becomes an alias: its addresses are nobody's.
pub(crate) fn cluster_ip_to_external_name(site: &Site<'_>) -> Outcome {
    let target = stage(site)?;
    let changing = Service::create(site, service("changing", "web", &both_80()))?;
    let (from, name) = (From::Pod("client"), whole(site, "changing"));
    all_reach(site, from, &changing.fronts(), &["pod1"])?;
    let spec = json!({
        "type": "ExternalName", "externalName": target, "selector": null, "ports": null, "clusterIP": null,
        "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
    });
    site.merge("Service", "changing", json!({"spec": spec}))?;
    resolves(site, from, &name, "an alias", is_alias(&target))?;
    together(&changing.fronts(), |front| dropped(site, from, front))
}

/// Without an address a Service is a list of pods, for the name server alone; it gets one by way of an alias.
pub(crate) fn headless_and_back(site: &Site<'_>) -> Outcome {
    let target = stage(site)?;
    let mut headless = service("changing", "web", &both_80());
    headless["spec"]["clusterIP"] = json!("None");
    site.create(headless)?;
    let (from, name) = (From::Pod("client"), whole(site, "changing"));
    let pod1 = address(site, "pod1", Family::V4)?;
    resolves(site, from, &name, "the pod", |answer| answer.addresses == [pod1])?;
    let spec = json!({
        "type": "ExternalName", "externalName": target, "selector": null, "ports": null, "clusterIP": null,
        "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
    });
    site.merge("Service", "changing", json!({"spec": spec}))?;
    resolves(site, from, &name, "an alias", is_alias(&target))?;
    site.merge("Service", "changing", to_cluster_ip())?;
    let changing = current(site)?;
    let own = changing.ip(Family::V4);
    resolves(site, from, &name, "an address of its own", |answer| answer.addresses == [own])?;
    // Its EndpointSlices go on saying that it is headless, whatever their controller writes into them, until they are
    // made anew.
    for slice in site.list("EndpointSlice", "kubernetes.io/service-name=changing")? {
        site.delete("EndpointSlice", slice["metadata"]["name"].as_str().unwrap_or_default(), None)?;
    }
    all_reach(site, from, &changing.fronts(), &["pod1"])
}
