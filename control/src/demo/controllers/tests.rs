use super::super::manifest::{self, WALKTHROUGH};
use super::*;

fn cluster(text: &str) -> Result<Cluster, String> {
    reconcile(&manifest::parse("m", text).unwrap(), &mut Names::seeded(7))
}

/// The walkthrough with one text replaced.
fn changed(from: &str, to: &str) -> Result<Cluster, String> {
    assert!(WALKTHROUGH.contains(from), "{from}");
    cluster(&WALKTHROUGH.replace(from, to))
}

#[test]
fn the_walkthrough_becomes_pods_an_address_and_a_slice() {
    let cluster = cluster(WALKTHROUGH).unwrap();
    let names: Vec<_> = cluster.pods.iter().map(|pod| pod.name.split('-').collect::<Vec<_>>()).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0][..3], names[1][..3], "one ReplicaSet");
    assert_ne!(names[0][3], names[1][3]);
    assert_eq!(names[0][..2], ["my", "app"]);
    assert!(cluster.pods.iter().all(|pod| pod.listens == [80]));
    let service = cluster.services[0].spec.as_ref().unwrap();
    let ip: IpAddr = service.cluster_ip.as_ref().unwrap().parse().unwrap();
    assert!(crate::model::ip::contains(SERVICE_CIDR, ip));
    let slice = &cluster.slices[0];
    assert_eq!(slice.metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"], "my-service");
    let addresses: Vec<_> = slice.endpoints.iter().map(|endpoint| endpoint.addresses[0].as_str()).collect();
    assert_eq!(addresses, ["10.244.1.2", "10.244.2.2"]);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(80));
}

#[test]
fn a_target_port_is_found_by_number_and_by_name() {
    let port = |cluster: Cluster| cluster.slices[0].ports.as_ref().unwrap()[0].port;
    assert_eq!(port(changed("targetPort: 80", "targetPort: 8080").unwrap()), Some(8080));
    let named = WALKTHROUGH.replace("- containerPort: 80", "- {containerPort: 8000, name: web}");
    let cluster = cluster(&named.replace("targetPort: 80", "targetPort: web")).unwrap();
    assert!(cluster.pods.iter().all(|pod| pod.listens == [8000]));
    assert_eq!(port(cluster), Some(8000));
    assert!(changed("targetPort: 80", "targetPort: web").unwrap_err().contains("targetPort"));
}

#[test]
fn a_service_that_selects_nothing_has_an_empty_slice() {
    let cluster =
        changed("  selector:\n    app: my-app\n  ports", "  selector:\n    app: other\n  ports").unwrap();
    assert_eq!(cluster.slices[0].endpoints.len(), 0);
}

#[test]
fn what_the_demo_cannot_play_is_refused_in_words() {
    for (from, to, says) in [
        ("replicas: 2", "replicas: 9", "at most 8 pods"),
        ("type: ClusterIP", "type: NodePort", "NodePort"),
        ("type: ClusterIP", "clusterIP: None", "no address"),
        ("type: ClusterIP", "clusterIP: 10.0.0.1", "10.96.0.0/12"),
        ("      app: my-app\n  template", "      app: x\n  template", "spec.selector"),
    ] {
        let error = changed(from, to).unwrap_err();
        assert!(error.contains(says), "{error} lacks {says}");
    }
    assert_eq!(changed("replicas: 2", "replicas: 0").unwrap().pods.len(), 0);
}
