//! Pods' networks: who reaches whom, with which names.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tests::kubernetes::Pod;
use tests::netns::wait_for;

use super::kit::{PATIENCE, Stage, get, pod, run, with};

/// Two replicas of nginx on two nodes; pods and nodes reach them, in both families, and are seen as who they are.
pub(crate) fn deployment() {
    let stage = Stage::new();
    let site = stage.cluster.site("shop").unwrap();
    let labels = json!({"app": "my-app"});
    let begun = SystemTime::now();
    let made = site.create(json!({
        "kind": "Deployment", "metadata": {"name": "my-app"},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "topologySpreadConstraints": [{
                        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": labels},
                    }],
                    "containers": [{"name": "nginx", "image": "nginx:1.25-alpine", "ports": [{"containerPort": 80}]}],
                },
            },
        },
    }));
    made.unwrap();
    wait_for("two replicas are available", PATIENCE, || {
        let deployment = site.get("Deployment", "my-app").unwrap().unwrap();
        deployment["status"]["availableReplicas"] == 2
    });
    println!("measured: two replicas {:.2} s after their Deployment", begun.elapsed().unwrap().as_secs_f64());
    let pods = site.list("Pod", "app=my-app").unwrap();
    let mut nodes: Vec<&str> = pods.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"]);

    for (client, node) in [("c1", 0), ("c2", 1)] {
        site.pod(pod(client, node)).unwrap();
    }
    let names: Vec<&str> = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    for name in &names {
        let addresses = site.addresses(name).unwrap();
        assert!(addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
        for ip in addresses {
            for client in ["c1", "c2", names[0], names[1]] {
                wait_for("nginx answers", PATIENCE, || {
                    site.inside(client, || get(ip, 80, "/")).unwrap().is_ok()
                });
                let page = site.inside(client, || get(ip, 80, "/")).unwrap().unwrap();
                assert!(page.contains("Welcome to nginx!"), "{page}");
            }
            for node in [0, 1] {
                site.on_node(node, || get(ip, 80, "/")).unwrap().unwrap();
            }
        }
    }
    // Nobody's address is changed on its way between pods.
    for (client, server) in [("c1", "c1"), ("c1", "c2"), ("c2", "c1"), ("c2", "c2")] {
        for (own, ip) in site.addresses(client).unwrap().iter().zip(site.addresses(server).unwrap()) {
            wait_for("agnhost answers", PATIENCE, || {
                site.inside(client, || get(ip, 80, "/clientip")).unwrap().is_ok()
            });
            let seen = site.inside(client, || get(ip, 80, "/clientip")).unwrap().unwrap();
            assert_eq!(seen.parse::<SocketAddr>().unwrap().ip(), *own, "{client} to {server}");
        }
    }
}

/// What runs in a pod knows the pod's name, its fields and the cluster's names, and reads what it mounts.
pub(crate) fn names() {
    let stage = Stage::new();
    let site = stage.cluster.site("names").unwrap();
    let page = "<h1>mounted</h1>";
    site.create(json!({"kind": "ConfigMap", "metadata": {"name": "pages"}, "data": {"index.html": page}}))
        .unwrap();
    let mut web = with(
        Pod { labels: vec![("app".into(), "web".into())], ..pod("web", 1) },
        json!({
            "name": "nginx", "image": "nginx", "args": null,
            "volumeMounts": [{"name": "pages", "mountPath": "/usr/share/nginx/html"}],
        }),
    );
    web.extra["spec"]["volumes"] = json!([{"name": "pages", "configMap": {"name": "pages"}}]);
    site.pod(web).unwrap();
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut client = with(
        pod("client", 0),
        json!({
            "name": "busybox", "image": "busybox:1.36", "args": null,
            "command": ["/bin/sh", "-c", "cat /etc/pages/index.html; echo; hostname; exec sleep 3600"],
            "volumeMounts": [{"name": "pages", "mountPath": "/etc/pages"}],
            "env": [{"name": "PLAIN", "value": "as it is"}, field("IP", "status.podIP"), field("NODE", "spec.nodeName")],
        }),
    );
    client.extra["spec"]["volumes"] = json!([{"name": "pages", "configMap": {"name": "pages"}}]);
    site.pod(client).unwrap();
    site.create(json!({
        "kind": "Service", "metadata": {"name": "my-service"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))
    .unwrap();

    let in_pod = |words: &[&str]| run(&site, "client", words);
    assert_eq!(in_pod(&["hostname"]), "client");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim(),
        "client",
        "the machine's stays"
    );
    let ip = site.addresses("client").unwrap()[0].to_string();
    assert_eq!(in_pod(&["sh", "-c", "echo $PLAIN $IP $NODE $HOSTNAME"]), format!("as it is {ip} n1 client"));
    assert!(
        in_pod(&["cat", "/etc/resolv.conf"]).contains("search names.svc.cluster.local svc.cluster.local")
    );
    assert!(
        in_pod(&["sh", "-c", "wget --help 2>&1; true"]).starts_with("BusyBox"),
        "the image's own programs"
    );
    // Until the proxy has the endpoint.
    let fetch = || site.exec("client", &["wget", "-qO-", "http://my-service:80"], PATIENCE).unwrap();
    let begun = SystemTime::now();
    let mut said = fetch();
    while said.stdout != page && begun.elapsed().unwrap() < PATIENCE {
        said = fetch();
    }
    assert_eq!(said.stdout, page, "{said:?}");
    assert_eq!(in_pod(&["busybox", "wget", "-qO-", "http://my-service.names.svc.cluster.local"]), page);
    let late = site.exec("client", &["sleep", "60"], Duration::from_millis(300)).unwrap();
    assert_eq!(late.code, 124);
}

/// A host has many addresses: a datagram's answer has the one that was asked, or nobody would know it.
pub(crate) fn host_process() {
    let stage = Stage::new();
    let site = stage.cluster.site("host").unwrap();
    let args = ["netexec", "--http-port=18080", "--udp-port=18080"].map(str::to_owned).to_vec();
    // On the node with a bridge, whose address is nearer to its pods than the node's own.
    site.pod(Pod { host_network: true, args, ..pod("server", 1) }).unwrap();
    site.pod(pod("client", 1)).unwrap();
    let node = &stage.cluster.nodes()[1];
    assert_eq!(site.addresses("server").unwrap(), [std::net::IpAddr::from(node.v4), node.v6.into()]);
    for ip in site.addresses("server").unwrap() {
        let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let large = vec![7; 60_000];
        wait_for("the host's process answers", PATIENCE, || {
            let answer = site.inside("client", || -> std::io::Result<Vec<u8>> {
                let socket = UdpSocket::bind(any)?;
                // Connected: an answer from anywhere else is not received.
                socket.connect((ip, 18080))?;
                socket.set_read_timeout(Some(Duration::from_secs(1)))?;
                socket.send(&[b"echo ", &large[..]].concat())?;
                let mut buffer = vec![0; 65_535];
                let length = socket.recv(&mut buffer)?;
                buffer.truncate(length);
                Ok(buffer)
            });
            answer.unwrap().is_ok_and(|answer| answer == large)
        });
        assert_eq!(site.inside("client", || get(ip, 18080, "/hostname")).unwrap().unwrap(), "server");
    }
}
