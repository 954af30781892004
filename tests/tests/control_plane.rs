//! The control plane of the test cluster by itself: it starts, does its work, and survives what tests do to it.
#![cfg(feature = "control")]
#![allow(clippy::print_stdout, reason = "what was measured is read by a person")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tempfile::TempDir;
use tests::apiserver::rbac;
use tests::kubernetes::control_plane::{self, ControlPlane};
use tests::kubernetes::kubectl::Kubectl;
use tests::kubernetes::{Api, certs};
use tests::netns::{Namespace, wait_for};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    tests::runner::main(&[
        ("controllers_do_their_work", controllers),
        ("a_restarted_api_server_goes_on", restart),
        ("nobody_may_more_than_their_role", roles),
    ])
}

fn deployment(name: &str, replicas: u32) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "none"}]}
            }
        }
    })
}

/// The control plane alone, and kubectl.
struct Site {
    plane: ControlPlane,
    kubectl: Kubectl,
    hub: Namespace,
    _folder: TempDir,
}

impl Site {
    fn start() -> Self {
        let folder = tests::kubernetes::folder().unwrap();
        let hub = Namespace::new("hub").unwrap();
        for (address, length) in control_plane::ADDRESSES.into_iter().zip([24, 64]) {
            hub.ip(&format!("addr add {address}/{length} dev lo")).unwrap();
        }
        let begun = SystemTime::now();
        let plane = ControlPlane::start(&hub, folder.path()).unwrap();
        let kubectl = Kubectl::new(&plane.components().kubectl, plane.admin(), folder.path());
        println!("measured: control plane up after {:.1} s", begun.elapsed().unwrap().as_secs_f64());
        Self { plane, kubectl, hub, _folder: folder }
    }

    fn kubectl(&self, words: &str, input: &str) -> String {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = self.kubectl.run(&self.hub, &words, input).unwrap();
        assert_eq!(output.code, 0, "{output:?}");
        output.stdout
    }

    fn pods(&self, of: &str) -> usize {
        let pods = Api::path("v1", "Pod", Some("default"), "");
        let list = self.plane.api().get(&format!("{pods}?labelSelector=app%3D{of}")).unwrap();
        list["items"].as_array().unwrap().len()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for daemon in self.plane.daemons() {
                println!("--- {}\n{}", daemon.name(), daemon.tail(20));
            }
        }
    }
}

/// What a person applies, the real controllers carry out; a Service gets an address of each family.
fn controllers() {
    let site = Site::start();
    let api = site.plane.api();
    let begun = SystemTime::now();
    let said = site.kubectl("apply -f -", &deployment("web", 2).to_string());
    assert_eq!(said, "deployment.apps/web created\n");
    wait_for("the Deployment has pods", PATIENCE, || site.pods("web") == 2);
    println!("measured: two pods {:.1} s later", begun.elapsed().unwrap().as_secs_f64());
    let service = api.create(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}
    }));
    let service = service.unwrap();
    let ips = service["spec"]["clusterIPs"].as_array().unwrap();
    assert!(
        ips[0].as_str().unwrap().starts_with("10.96.") && ips[1].as_str().unwrap().starts_with("fd00:96::")
    );
    let slices = Api::path("discovery.k8s.io/v1", "EndpointSlice", Some("default"), "");
    let slices = format!("{slices}?labelSelector=kubernetes.io%2Fservice-name%3Dweb");
    wait_for("the Service has its slices", PATIENCE, || {
        api.get(&slices).unwrap()["items"].as_array().unwrap().len() == 2
    });
    assert!(site.kubectl("get svc web -o wide", "").contains("app=web"));
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    api.create(&node).unwrap();
    wait_for("the node has its ranges", PATIENCE, || {
        let node = api.get(&Api::path("v1", "Node", None, "n1")).unwrap();
        node["spec"]["podCIDRs"] == json!(["10.244.0.0/24", "fd00:244::/64"])
    });
}

/// Killed, it is gone at once; back, it knows what it knew, and the controllers go on. History that was compacted away
/// is gone for good. Stopped in mid-air it answers nobody, until it goes on.
fn restart() {
    let site = Site::start();
    let (plane, api) = (&site.plane, site.plane.api());
    let maps = Api::path("v1", "ConfigMap", Some("default"), "");
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
    let before = api.create(&map("before")).unwrap();
    let from = format!("resourceVersion={}", before["metadata"]["resourceVersion"].as_str().unwrap());
    let watch = api.watch(&maps, &from).unwrap();
    api.create(&map("during")).unwrap();
    let (event, object) = watch.next(PATIENCE).unwrap().expect("an event");
    assert_eq!((event.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("during")));

    plane.stop_api_server().unwrap();
    assert_eq!(api.get(&maps).unwrap_err().code, 0);
    watch.next(PATIENCE).expect_err("the watch ended with its server");
    assert!(plane.compact_etcd().unwrap() > 1);
    let begun = SystemTime::now();
    plane.start_api_server().unwrap();
    println!("measured: API server back after {:.1} s", begun.elapsed().unwrap().as_secs_f64());
    let gone = api.watch(&maps, &from).and_then(|watch| watch.next(PATIENCE)).expect_err("from before");
    assert_eq!(gone.code, 410, "{gone}");
    api.create(&deployment("late", 1)).unwrap();
    wait_for("the controllers are back", PATIENCE, || site.pods("late") == 1);

    plane.pause_api_server().unwrap();
    let (answer, late) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| (api.get(&maps), SystemTime::now()));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!asking.is_finished());
        let resumed = SystemTime::now();
        plane.resume_api_server().unwrap();
        let (answer, at) = asking.join().unwrap();
        (answer, at > resumed)
    });
    assert!(late && answer.unwrap()["items"].as_array().unwrap().len() >= 2);
    assert!(plane.start_api_server().is_err(), "it runs already");
}

/// The proxies' identities: each reads what it needs, tunway by the role we document, and none writes.
fn roles() {
    let site = Site::start();
    let plane = &site.plane;
    for object in serde_saphyr::from_multiple::<serde_json::Value>(&rbac::rbac_yaml()).unwrap() {
        plane.api().apply(&object).unwrap();
    }
    plane.api().apply(&certs::tunway_binding()).unwrap();
    let services = Api::path("v1", "Service", None, "");
    for identity in [certs::TUNWAY, certs::KUBE_PROXY] {
        let one = Api::connect(&site.hub, &plane.kubeconfig(identity).unwrap()).unwrap();
        wait_for("the role is known", PATIENCE, || one.get(&services).is_ok());
        one.get(&Api::path("discovery.k8s.io/v1", "EndpointSlice", None, "")).unwrap();
        one.get(&Api::path("v1", "Node", None, "")).unwrap();
        let denied = one.get(&Api::path("v1", "Secret", None, "")).unwrap_err();
        assert_eq!(denied.code, 403, "{identity:?}: {denied}");
        let denied = one.delete(&Api::path("v1", "Service", Some("default"), "kubernetes")).unwrap_err();
        assert_eq!(denied.code, 403, "{identity:?}: {denied}");
        one.close();
    }
}
