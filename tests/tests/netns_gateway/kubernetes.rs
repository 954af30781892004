//! The real binary and the Kubernetes API, as far as it can be had without a cluster.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use tests::apiserver::{FakeApi, Resource, rbac};
use tests::http;
use tests::netns::wait_for;

use crate::site::{PATIENCE, Site, WEB, at, url};

/// An API server inside the gateway's namespace, with `web` and its slices in it.
fn api(site: &Site) -> FakeApi {
    let api = FakeApi::serve(listener(site, 0));
    api.put_service(json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "clusterIP": WEB[0], "clusterIPs": WEB, "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}]
        }
    }));
    for n in 0..2 {
        api.put_slice(slice("IPv4", n, &format!("10.2.{n}.2")));
        api.put_slice(slice("IPv6", n, &format!("fd00:2:{n}::2")));
    }
    api
}

fn slice(family: &str, n: usize, address: &str) -> Value {
    json!({
        "metadata": {
            "name": format!("web-{}-{n}", family.to_lowercase()), "namespace": "default",
            "labels": {"kubernetes.io/service-name": "web"}
        },
        "addressType": family,
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]
    })
}

fn listener(site: &Site, port: u16) -> TcpListener {
    site.gateway.enter(|| TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap()
}

fn start(site: &mut Site, api: &FakeApi) {
    let kubeconfig = api.kubeconfig().to_string_lossy().into_owned();
    site.start(&["--kubeconfig", &kubeconfig, "--node-name", "n1", "--return-path", "masquerade"]);
}

/// Killed, and started while the API server is away: a SYN gets no answer at all, and is served when it is back.
pub(crate) fn killed_and_alone() {
    let mut site = Site::new(1500);
    let api = api(&site);
    start(&mut site, &api);
    site.wait_until_served();
    assert_eq!(site.end("-KILL"), None);
    let port = api.address().port();
    api.stop();
    start(&mut site, &api);
    wait_for("the new one is up", PATIENCE, || site.socket_answers());
    for vip in WEB {
        let to = at(vip, 80);
        let dial = || http::dial(http::anywhere(to, 0), to, Duration::from_millis(1_500)).map(drop);
        let error = site.client.enter(dial).unwrap().unwrap_err();
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "{vip}");
        assert_ne!(error.kind(), ErrorKind::ConnectionReset, "{vip}");
    }
    assert!(!site.services().status.ready && !site.services().status.connected);
    assert!(site.counters().drops["not_ready"] >= 2);
    // One client keeps trying while the API server comes back: its connection succeeds, it is never refused.
    let to = at(WEB[0], 80);
    let page = std::thread::scope(|scope| {
        let client = &site.client;
        let trying = scope.spawn(move || {
            client.enter(|| http::get(http::anywhere(to, 0), to, Duration::from_secs(60))).unwrap()
        });
        wait_for("it is trying", PATIENCE, || site.counters().drops["not_ready"] >= 3);
        api.resume_on(listener(&site, port));
        trying.join().unwrap()
    });
    assert!(page.unwrap().contains("backend"));
    site.wait_until_served();
    site.assert_nothing_uncounted();
}

/// Lists, watches, follows changes, survives cut and expired watches; and asks for nothing its role does not allow.
pub(crate) fn reads() {
    let mut site = Site::new(1500);
    let api = api(&site);
    start(&mut site, &api);
    site.wait_until_served();
    let only = |n: usize| {
        let page = format!("<title>backend {n}</title>\n");
        move |site: &Site| {
            (0..10).all(|_| WEB.iter().all(|vip| site.curl(&url(vip, 80)).is_ok_and(|p| p == page)))
        }
    };
    for family in ["ipv4", "ipv6"] {
        assert!(api.delete(Resource::EndpointSlices, "default", &format!("web-{family}-1")));
    }
    wait_for("only backend 0 is left", PATIENCE, || only(0)(&site));
    // The watch is cut, and while nobody listens everything moves.
    api.cut_watches();
    api.expire_watches();
    for (family, addresses) in [("IPv4", "10.2.1.2"), ("IPv6", "fd00:2:1::2")] {
        assert!(api.delete(Resource::EndpointSlices, "default", &format!("web-{}-0", family.to_lowercase())));
        api.put_slice(slice(family, 1, addresses));
    }
    wait_for("only backend 1 is left", PATIENCE, || only(1)(&site));
    // Gone for a while: what was known goes on.
    let port = api.address().port();
    api.stop();
    wait_for("the loss is noticed", PATIENCE, || !site.services().status.connected);
    assert!(only(1)(&site));
    api.resume_on(listener(&site, port));
    wait_for("the API server is back", PATIENCE, || site.services().status.connected);
    assert_eq!(rbac::used(&api.requests()), rbac::allowed(), "what was asked for, and what the role allows");
}
