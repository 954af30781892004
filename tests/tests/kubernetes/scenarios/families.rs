//! Services of one family, of the other, and of both.

use serde_json::{Value, json};
use tests::kubernetes::Site;

use crate::kit::{From, Outcome, all_reach, dropped, ensure, refused};
use crate::objects::{
    Family, Service, address, both_80, serve, serve_all, service, slice, slice_port, with_spec,
};

fn create(site: &Site<'_>, name: &str, families: Value) -> Outcome<Service> {
    Service::create(site, with_spec(service(name, "web", &both_80()), families))
}

/// Every way to choose the families of a ClusterIP, each served on exactly what it got.
pub(crate) fn variants(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let wanted = [
        ("only-4", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}), "4"),
        ("only-6", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}), "6"),
        ("both-46", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}), "46"),
        ("both-64", json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}), "64"),
        ("default", json!({"ipFamilyPolicy": null}), "4"),
    ];
    for (name, families, order) in wanted {
        let made = create(site, name, families)?;
        let got: String = made.ips.iter().map(|ip| if ip.is_ipv4() { '4' } else { '6' }).collect();
        ensure(got == order, || format!("{name} got {:?}", made.ips))?;
        for from in [From::Pod("client"), From::Node(1)] {
            all_reach(site, from, &made.fronts(), &["pod1", "pod2"])?;
        }
    }
    Ok(())
}

/// A Service of one family gets the other, and loses it again.
pub(crate) fn second_family_comes_and_goes(site: &Site<'_>) -> Outcome {
    serve(site, "client", 1, "none")?;
    serve_all(site, &["pod1", "pod2"], "web")?;
    let from = From::Pod("client");
    let single = create(site, "web", json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}))?;
    all_reach(site, from, &single.fronts(), &["pod1", "pod2"])?;
    let policy = |name: &str, families: Value| {
        site.merge("Service", "web", json!({"spec": {"ipFamilyPolicy": name, "ipFamilies": families}}))
    };
    policy("PreferDualStack", json!(["IPv4", "IPv6"]))?;
    let dual = Service { name: "web".to_owned(), ips: site.cluster_ips("web")? };
    ensure(dual.ips.len() == 2 && dual.ips[0] == single.ips[0], || format!("{:?}", dual.ips))?;
    all_reach(site, from, &dual.fronts(), &["pod1", "pod2"])?;
    refused(site, from, dual.tcp(Family::V6, 81))?;
    site.merge(
        "Service",
        "web",
        json!({"spec": {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"], "clusterIPs": [single.ips[0]]}}),
    )?;
    dropped(site, from, dual.tcp(Family::V6, 80))?;
    all_reach(site, from, &single.fronts(), &["pod1", "pod2"])
}

/// A client reaches an endpoint of one family only by that one.
pub(crate) fn families_are_apart(site: &Site<'_>) -> Outcome {
    serve(site, "client", 0, "none")?;
    serve_all(site, &["pod1"], "web")?;
    let mut manual = service("manual", "nobody", &both_80());
    manual["spec"]["selector"] = json!(null);
    let manual = Service::create(site, manual)?;
    let from = From::Pod("client");
    let ports = [slice_port("tcp", "TCP", 80), slice_port("udp", "UDP", 80)];
    let pod1 = address(site, "pod1", Family::V6)?;
    site.create(slice("manual-6", "manual", Family::V6, &[pod1], &ports))?;
    all_reach(site, from, &[manual.tcp(Family::V6, 80), manual.udp(Family::V6, 80)], &["pod1"])?;
    refused(site, from, manual.tcp(Family::V4, 80))?;
    refused(site, from, manual.udp(Family::V4, 80))
}
