//! Containers: what starts when, what is ready, what is started again, and what cannot be.

use serde_json::{Value, json};
use tests::kubernetes::{Pod, Site};
use tests::netns::wait_for;

use super::kit::{PATIENCE, Stage, condition, get, pod, run, status, with};

fn is_ready(site: &Site<'_>, pod: &str) -> bool {
    condition(site, pod, "Ready") == "True"
}

/// By HTTP, by a command, and only while everybody's gates are open; a Service follows.
pub(crate) fn readiness() {
    let stage = Stage::new();
    let site = stage.cluster.site("readiness").unwrap();
    let probe = |what: Value| {
        let mut probe = json!({"periodSeconds": 1, "failureThreshold": 1});
        probe.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        json!({"readinessProbe": probe})
    };
    let http = probe(json!({"httpGet": {"path": "/readyz", "port": 80}}));
    let mut asked = with(pod("asked", 0), http);
    asked.labels = vec![("app".into(), "asked".into())];
    site.pod(asked).unwrap();
    let exec = probe(
        json!({"exec": {"command": ["sh", "-c", "test \"$WORD\" = said && test -e /tmp/ready-$HOSTNAME-$IP"]}}),
    );
    let mut exec = with(pod("told", 1), exec);
    exec.extra["spec"]["containers"][0]["env"] = json!([{"name": "WORD", "value": "said"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    site.pod(exec).unwrap();
    let mut gated = pod("gated", 0);
    gated.extra = json!({"spec": {"readinessGates": [{"conditionType": "example.com/gate"}]}});
    site.pod(gated).unwrap();
    site.create(json!({
        "kind": "Service", "metadata": {"name": "asked"}, "spec": {"selector": {"app": "asked"}, "ports": [{"port": 80}]},
    }))
    .unwrap();

    site.wait_ready("asked", PATIENCE).unwrap();
    let ready_slices = || {
        let slices = site.list("EndpointSlice", "kubernetes.io/service-name=asked").unwrap();
        slices.iter().filter(|slice| slice["endpoints"][0]["conditions"]["ready"] == true).count()
    };
    wait_for("the endpoint is ready", PATIENCE, || ready_slices() == 1);
    let ip = site.addresses("asked").unwrap()[1];
    site.on_node(0, || get(ip, 80, "/readyz/off")).unwrap().unwrap();
    wait_for("it is not ready", PATIENCE, || !is_ready(&site, "asked") && ready_slices() == 0);
    site.on_node(0, || get(ip, 80, "/readyz/on")).unwrap().unwrap();
    wait_for("it is ready again", PATIENCE, || is_ready(&site, "asked") && ready_slices() == 1);

    let file = format!("/tmp/ready-told-{}", site.addresses("told").unwrap()[0]);
    assert!(!is_ready(&site, "told"));
    run(&site, "told", &["touch", &file]);
    let told = site.wait_ready("told", PATIENCE);
    run(&site, "told", &["rm", &file]);
    told.unwrap();
    wait_for("its command says no", PATIENCE, || !is_ready(&site, "told"));

    wait_for("its containers are ready", PATIENCE, || condition(&site, "gated", "ContainersReady") == "True");
    assert!(!is_ready(&site, "gated"));
    // Whoever opens the gate may write all conditions, and takes the others away; and does so again and again.
    for (word, ready) in [("True", true), ("False", false), ("True", true)] {
        let gate = json!([{"type": "example.com/gate", "status": word}]);
        site.merge("Pod/status", "gated", json!({"status": {"conditions": gate}})).unwrap();
        wait_for("the gate is obeyed", PATIENCE, || is_ready(&site, "gated") == ready);
        wait_for("all conditions are back", PATIENCE, || {
            let of = |kind: &str| condition(&site, "gated", kind);
            of("PodScheduled") == "True" && of("Initialized") == "True" && of("example.com/gate") == word
        });
    }
}

/// Init containers first and in order, sidecars beside the others; what exits is started again, as its policy has it.
pub(crate) fn containers() {
    let stage = Stage::new();
    let site = stage.cluster.site("containers").unwrap();
    let shell =
        |name: &str, text: &str| json!({"name": name, "image": "busybox", "command": ["sh", "-c", text]});
    let share = json!([{"name": "share", "mountPath": "/share"}]);
    let mut first = shell("first", "echo one >>/share/story");
    // It fails the first time.
    let mut second = shell("second", "echo two >>/share/story; test $(grep -c two /share/story) = 2");
    for container in [&mut first, &mut second] {
        container["volumeMounts"] = share.clone();
    }
    let sidecar = json!({
        "name": "sidecar", "image": "agnhost", "restartPolicy": "Always", "args": ["netexec", "--http-port=8090"],
        "ports": [{"name": "side", "containerPort": 8090}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "side"}, "periodSeconds": 1},
    });
    let mut whole = with(pod("whole", 1), json!({"volumeMounts": share}));
    whole.extra["spec"]["initContainers"] = json!([first, second, sidecar]);
    whole.extra["spec"]["volumes"] = json!([{"name": "share", "emptyDir": {}}]);
    let mut crier = shell("crier", "cat /share/story; exec sleep 3600");
    crier["volumeMounts"] = share;
    whole.extra["spec"]["containers"].as_array_mut().unwrap().push(crier);
    site.pod(whole).unwrap();
    site.wait_ready("whole", PATIENCE).unwrap();
    let of = status(&site, "whole");
    let names: Vec<&Value> =
        of["initContainerStatuses"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["first", "second", "sidecar"]);
    assert_eq!(of["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "{of}");
    assert_eq!(of["initContainerStatuses"][1]["restartCount"], 1, "{of}");
    assert!(!of["initContainerStatuses"][2]["state"]["running"].is_null(), "{of}");
    let ip = site.addresses("whole").unwrap()[0];
    for port in [80, 8090] {
        wait_for("both answer", PATIENCE, || site.on_node(0, || get(ip, port, "/hostname")).unwrap().is_ok());
    }

    let restarts = |kind: &str| {
        status(&site, "whole")[kind][if kind.starts_with('i') { 2 } else { 0 }]["restartCount"].clone()
    };
    for (port, kind) in [(80, "containerStatuses"), (8090, "initContainerStatuses")] {
        assert_eq!(restarts(kind), 0);
        // It ends before it can answer.
        let _ = site.on_node(0, || get(ip, port, "/exit?code=3")).unwrap();
        wait_for("it was started again", PATIENCE, || restarts(kind) == 1);
        wait_for("it answers again", PATIENCE, || {
            site.on_node(0, || get(ip, port, "/hostname")).unwrap().is_ok()
        });
    }
    site.wait_ready("whole", PATIENCE).unwrap();

    for (name, text, phase) in [("good", "exit 0", "Succeeded"), ("bad", "sleep 1000 & exit 4", "Failed")] {
        let mut once =
            with(pod(name, 0), json!({"image": "busybox", "command": ["sh", "-c", text], "args": null}));
        once.extra["spec"]["restartPolicy"] = json!("Never");
        // It may be over before anybody sees it run.
        site.create(once.object("containers", Some("n1"))).unwrap();
        wait_for("it is over", PATIENCE, || status(&site, name)["phase"] == phase);
        let terminated =
            status(&site, name)["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
        assert_eq!(terminated, if phase == "Failed" { 4 } else { 0 });
        assert_eq!(condition(&site, name, "Ready"), "False");
    }
    wait_for("what a container left behind is gone", PATIENCE, || {
        super::kit::processes(&site.namespace_of("bad").unwrap()).is_empty()
    });
}

/// No program for the image; a volume that is not there yet.
pub(crate) fn refused() {
    let stage = Stage::new();
    let site = stage.cluster.site("refused").unwrap();
    let waiting = |name: &str| status(&site, name)["containerStatuses"][0]["state"]["waiting"].clone();
    let unknown = with(pod("unknown", 0), json!({"image": "example.com/teapot:9"}));
    site.create(unknown.object("refused", Some("n1"))).unwrap();
    wait_for("it says why", PATIENCE, || waiting("unknown")["reason"] == "ErrImagePull");
    assert!(waiting("unknown")["message"].as_str().unwrap().contains("example.com/teapot:9"));
    assert_eq!(status(&site, "unknown")["phase"], "Pending");

    let mounting = || {
        let container = json!({"volumeMounts": [{"name": "later", "mountPath": "/later"}]});
        let mut pod: Pod = with(pod("later", 1), container);
        pod.extra["spec"]["volumes"] = json!([{"name": "later", "configMap": {"name": "later"}}]);
        pod
    };
    site.create(mounting().object("refused", Some("n2"))).unwrap();
    wait_for("it says why", PATIENCE, || waiting("later")["reason"] == "CreateContainerConfigError");
    assert!(waiting("later")["message"].as_str().unwrap().contains("refused/later"));
    site.create(json!({"kind": "ConfigMap", "metadata": {"name": "later"}, "data": {}})).unwrap();
    site.wait_ready("later", PATIENCE).unwrap();
    for name in ["unknown", "later"] {
        site.delete("Pod", name, None).unwrap();
        wait_for("it is gone", PATIENCE, || site.get("Pod", name).unwrap().is_none());
    }
}
