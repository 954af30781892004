//! How pods end, and what ends them not.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tests::kubernetes::{Pod, Site};
use tests::netns::wait_for;

use super::kit::{PATIENCE, Stage, condition, get, pod, processes, status, with};

fn seconds(since: SystemTime) -> f64 {
    since.elapsed().unwrap().as_secs_f64()
}

fn gone(site: &Site<'_>, name: &str) {
    wait_for("it is gone", PATIENCE, || site.get("Pod", name).unwrap().is_none());
}

/// Deleted, it serves and is probed until its time is over; a hook comes first; less patience is obeyed.
pub(crate) fn graceful() {
    let stage = Stage::new();
    let site = stage.cluster.site("graceful").unwrap();
    let lingering = |name: &str, grace: u32| {
        let args = ["netexec", "--http-port=80", "--delay-shutdown=100"].map(str::to_owned).to_vec();
        let probe =
            json!({"httpGet": {"path": "/healthz", "port": 80}, "periodSeconds": 1, "failureThreshold": 1});
        let mut pod = with(
            Pod { args, labels: vec![("app".into(), "web".into())], ..pod(name, 1) },
            json!({"readinessProbe": probe}),
        );
        pod.extra["spec"]["terminationGracePeriodSeconds"] = json!(grace);
        pod
    };
    site.create(json!({
        "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))
    .unwrap();
    site.pod(lingering("slow", 100)).unwrap();
    site.wait_ready("slow", PATIENCE).unwrap();
    let (ip, namespace) = (site.addresses("slow").unwrap()[0], site.namespace_of("slow").unwrap());
    site.delete("Pod", "slow", None).unwrap();
    wait_for("its endpoint serves and terminates", PATIENCE, || {
        let slices = site.list("EndpointSlice", "kubernetes.io/service-name=web").unwrap();
        slices.iter().any(|slice| {
            let conditions = &slice["endpoints"][0]["conditions"];
            conditions["serving"] == true && conditions["terminating"] == true && conditions["ready"] == false
        })
    });
    // For longer than its probe's period.
    let begun = SystemTime::now();
    while seconds(begun) < 2.5 {
        assert_eq!(site.on_node(0, || get(ip, 80, "/hostname")).unwrap().unwrap(), "slow");
        assert_eq!(condition(&site, "slow", "Ready"), "True", "as probed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = SystemTime::now();
    site.delete("Pod", "slow", Some(2)).unwrap();
    gone(&site, "slow");
    let took = seconds(begun);
    // A second at least: what the server makes of two that are counted from the first deletion.
    assert!((0.9..30.0).contains(&took), "killed after {took} s");
    assert!(
        !Path::new("/run/netns").join(&namespace).exists()
            && !Path::new("/etc/netns").join(&namespace).exists()
    );

    let hooked = |name: &str, hook| with(pod(name, 0), json!({"lifecycle": {"preStop": hook}}));
    for (name, hook) in
        [("sleeps", json!({"sleep": {"seconds": 2}})), ("runs", json!({"exec": {"command": ["sleep", "2"]}}))]
    {
        let mut pod = hooked(name, hook);
        pod.extra["spec"]["terminationGracePeriodSeconds"] = json!(30);
        site.pod(pod).unwrap();
        site.wait_ready(name, PATIENCE).unwrap();
        let begun = SystemTime::now();
        site.delete("Pod", name, None).unwrap();
        let ip = site.addresses(name).unwrap()[0];
        assert!(site.on_node(1, || get(ip, 80, "/hostname")).unwrap().is_ok(), "not told yet");
        gone(&site, name);
        assert!((1.9..25.0).contains(&seconds(begun)), "{name}: {}", seconds(begun));
    }

    // A name that is used again at once: the new pod has nothing to do with the old one's end.
    site.pod(lingering("again", 100)).unwrap();
    let mut before = site.namespace_of("again").unwrap();
    for _ in 0..3 {
        site.delete("Pod", "again", None).unwrap();
        site.delete("Pod", "again", Some(0)).unwrap();
        gone(&site, "again");
        site.pod(lingering("again", 100)).unwrap();
        site.wait_ready("again", PATIENCE).unwrap();
        let ip = site.addresses("again").unwrap()[1];
        assert_eq!(site.inside("again", || get(ip, 80, "/hostname")).unwrap().unwrap(), "again");
        let now = site.namespace_of("again").unwrap();
        assert_ne!(now, before);
        let old = Path::new("/run/netns").join(&before);
        wait_for("the old one's namespace is gone", PATIENCE, || !old.exists());
        before = now;
    }
}

/// The API server is killed, and comes back: pods know nothing of it, and what happened meanwhile is made up for.
pub(crate) fn survive() {
    let stage = Stage::new();
    let site = stage.cluster.site("survive").unwrap();
    let probe =
        json!({"httpGet": {"path": "/readyz", "port": 80}, "periodSeconds": 1, "failureThreshold": 1});
    site.pod(with(pod("one", 0), json!({"readinessProbe": probe}))).unwrap();
    site.pod(pod("two", 1)).unwrap();
    site.wait_ready("one", PATIENCE).unwrap();
    let places = ["one", "two"].map(|pod| site.namespace_of(pod).unwrap());
    let before = places.each_ref().map(|place| processes(place));
    let ips = ["one", "two"].map(|pod| site.addresses(pod).unwrap()[1]);

    stage.cluster.stop_api_server().unwrap();
    let ask = |pod: usize, path: &str| site.on_node(0, || get(ips[pod], 80, path)).unwrap();
    ask(0, "/readyz/off").unwrap();
    // One exits, and is started again without anybody's word.
    let _ = ask(1, "/exit?code=1");
    wait_for("it was started again", PATIENCE, || {
        let now = processes(&places[1]);
        !now.is_empty() && now != before[1] && ask(1, "/hostname").is_ok()
    });
    stage.cluster.start_api_server().unwrap();
    wait_for("it is not ready, as was found meanwhile", PATIENCE, || {
        condition(&site, "one", "Ready") == "False"
    });
    wait_for("it was restarted", PATIENCE, || {
        status(&site, "two")["containerStatuses"][0]["restartCount"] == 1
    });
    assert_eq!(status(&site, "one")["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(processes(&places[0]), before[0]);
    site.pod(pod("three", 1)).unwrap();

    // One that is there and says nothing holds nothing up either.
    stage.cluster.control_plane().pause_api_server().unwrap();
    ask(0, "/readyz/on").unwrap();
    let _ = ask(1, "/exit?code=1");
    let restarted = SystemTime::now();
    while ask(1, "/hostname").is_err() && seconds(restarted) < 20.0 {
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.cluster.control_plane().resume_api_server().unwrap();
    assert!(seconds(restarted) < 15.0, "nobody started it again");
    site.wait_ready("one", PATIENCE).unwrap();
}

/// Sixty pods at once; and the end of the cluster is the end of all of them.
pub(crate) fn many() {
    const PODS: usize = 60;
    let own = format!("tw-{}-", std::process::id());
    let left = || {
        let all = ["/run/netns", "/etc/netns"]
            .into_iter()
            .flat_map(|place| fs::read_dir(place).into_iter().flatten());
        let names = all.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&own)).collect::<Vec<_>>()
    };
    let stage = Stage::new();
    let site = stage.cluster.site("many").unwrap();
    site.pod(pod("first", 0)).unwrap();
    let begun = SystemTime::now();
    site.pod(pod("alone", 0)).unwrap();
    println!("measured: a pod runs {:.2} s after its creation", seconds(begun));
    let begun = SystemTime::now();
    let labels = json!({"app": "many"});
    site.create(json!({
        "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "agnhost"}]}},
        },
    }))
    .unwrap();
    wait_for("all are available", Duration::from_secs(60), || {
        site.get("Deployment", "many").unwrap().unwrap()["status"]["availableReplicas"] == PODS
    });
    println!("measured: {PODS} pods are available {:.2} s after their Deployment", seconds(begun));
    let pods = site.list("Pod", "app=many").unwrap();
    let mut ips: Vec<&str> = pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), PODS, "everybody has an address of its own");
    assert!(left().len() > PODS);
    drop(site);
    let begun = SystemTime::now();
    drop(stage);
    println!("measured: a cluster of {PODS} pods is gone after {:.2} s", seconds(begun));
    assert_eq!(left(), Vec::<String>::new());
}
