//! Services and EndpointSlices that are somebody else's by their labels, and Services from other ranges.

use serde_json::{Value, json};
use tests::kubernetes::{Api, Site};

use crate::kit::{From, LAG, Outcome, all_reach, dropped, ensure, eventually, refused, together};
use crate::objects::{
    Family, Service, address, all_ready, both_80, pod, serve, serve_all, service, slice, slice_port,
    with_spec,
};

/// A Service for another proxy is not ours; with the label gone it is, and back.
pub(crate) fn service_proxy_name(site: &Site<'_>) -> Outcome {
    let label = "service.kubernetes.io/service-proxy-name";
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 0, "web"), pod("pod2", 1, "web")])?;
    let mut foreign = service("foreign", "web", &both_80());
    foreign["metadata"]["labels"] = json!({label: "another-proxy"});
    let foreign = Service::create(site, foreign)?;
    let ours = Service::simple(site, "ours", "web")?;
    let set = |name: &str, value: Value| {
        site.merge("Service", name, json!({"metadata": {"labels": {label: value}}})).map(drop)
    };
    let pods = ["pod1", "pod2"];
    // Before a proxy has seen a Service, it does not serve it either.
    site.cluster().settle(LAG)?;
    // To a proxy, what is another's has never been: its addresses are nobody's.
    for from in [From::Pod("client"), From::Node(1)] {
        all_reach(site, from, &ours.fronts(), &pods)?;
        together(&foreign.fronts(), |front| dropped(site, from, front))?;
    }
    set("foreign", json!(null))?;
    set("ours", json!(""))?;
    for from in [From::Pod("client"), From::Node(1)] {
        all_reach(site, from, &foreign.fronts(), &pods)?;
        together(&ours.fronts(), |front| dropped(site, from, front))?;
    }
    set("foreign", json!("another-proxy"))?;
    together(&foreign.fronts(), |front| dropped(site, From::Pod("client"), front))
}

/// An EndpointSlice that says it is for a headless Service is none of ours.
pub(crate) fn headless_slice(site: &Site<'_>) -> Outcome {
    let label = "service.kubernetes.io/headless";
    all_ready(site, vec![pod("client", 0, "none"), pod("pod1", 1, "web")])?;
    let mut manual = service("manual", "nobody", &both_80());
    manual["spec"]["selector"] = json!(null);
    let manual = Service::create(site, manual)?;
    let ports = [slice_port("tcp", "TCP", 80), slice_port("udp", "UDP", 80)];
    for family in Family::BOTH {
        let name = format!("manual-{}", family.name().to_lowercase());
        site.create(slice(&name, "manual", family, &[address(site, "pod1", family)?], &ports))?;
    }
    let set = |value: Value| {
        for family in Family::BOTH {
            let name = format!("manual-{}", family.name().to_lowercase());
            site.merge("EndpointSlice", &name, json!({"metadata": {"labels": {label: value}}}))?;
        }
        Outcome::Ok(())
    };
    let from = From::Pod("client");
    for _ in 0..2 {
        all_reach(site, from, &manual.fronts(), &["pod1"])?;
        set(json!(""))?;
        together(&manual.fronts(), |front| refused(site, from, front))?;
        set(json!(null))?;
    }
    all_reach(site, from, &manual.fronts(), &["pod1"])
}

/// Addresses outside the cluster's first ranges are served as well.
pub(crate) fn service_cidrs(site: &Site<'_>) -> Outcome {
    let name = format!("second-{}", site.name());
    let path = Api::path("networking.k8s.io/v1", "ServiceCIDR", None, &name);
    let range = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
        "spec": {"cidrs": ["10.97.0.0/24"]},
    });
    site.api().create(&range)?;
    let told = second_range(site, &path);
    // It goes when its addresses are free.
    site.api().delete(&path)?;
    told
}

fn second_range(site: &Site<'_>, path: &str) -> Outcome {
    eventually("the second range is ready", LAG, || {
        let range = site.api().get(path).map_err(|error| error.to_string())?;
        let conditions = range["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
        if ready { Ok(()) } else { Err(range["status"].to_string()) }
    })?;
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let far = json!({"ipFamilyPolicy": "SingleStack", "clusterIP": "10.97.0.77"});
    let far = eventually("an address of the second range", LAG, || {
        Service::create(site, with_spec(service("far", "web", &both_80()), far.clone()))
    })?;
    ensure(far.ips == [std::net::IpAddr::from([10, 97, 0, 77])], || format!("{:?}", far.ips))?;
    for from in [From::Pod("client"), From::Node(0), From::Node(1), From::Pod("pod1")] {
        all_reach(site, from, &far.fronts(), &["pod1", "pod2"])?;
    }
    refused(site, From::Pod("client"), far.tcp(Family::V4, 81))?;
    far.delete(site)?;
    // The range is still there, and the address is nobody's.
    dropped(site, From::Pod("client"), far.tcp(Family::V4, 80))
}
