//! The cluster's name server: CoreDNS as a Deployment behind the Service `kube-dns`, as kubeadm sets it up.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kubernetes::api::{Api, ApiError};
use crate::kubernetes::certs;
use crate::kubernetes::control_plane::{ControlPlane, KUBERNETES};

/// The Service's addresses; pods' resolvers ask the first one.
pub const KUBE_DNS: [&str; 2] = ["10.96.0.10", "fd00:96::a"];

/// As kubeadm's, less the way out of the cluster: names of the cluster are never cached, so that a test sees at once
/// what the API server has.
const COREFILE: &str = "\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig KUBECONFIG
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
}
";

/// Creates all of it. CoreDNS reaches the API server by its ClusterIP, as every pod would.
pub(super) fn install(plane: &ControlPlane, folder: &Path) -> io::Result<()> {
    let kubeconfig = plane.kubeconfig_for_pods(certs::COREDNS)?;
    let corefile = folder.join("Corefile");
    fs::write(&corefile, COREFILE.replace("KUBECONFIG", &kubeconfig.to_string_lossy()))?;
    let objects = [role(), binding(), service(), deployment(&corefile)];
    let created: Result<Vec<Value>, ApiError> =
        objects.iter().map(|object| plane.api().create(object)).collect();
    created.map(drop).map_err(io::Error::other)
}

/// Whether its pods are there and say they are ready.
pub(super) fn available(api: &Api) -> bool {
    let path = Api::path("apps/v1", "Deployment", Some("kube-system"), "coredns");
    api.get(&path).is_ok_and(|deployment| deployment["status"]["availableReplicas"].as_u64() >= Some(1))
}

/// Whether it says, from where we are, that the API server's name is the API server's address.
pub(super) fn answers(limit: Duration) -> bool {
    let name = "kubernetes.default.svc.cluster.local";
    let Ok(wanted) = KUBERNETES.parse::<Ipv4Addr>() else { return false };
    ask(KUBE_DNS[0], name, limit).is_ok_and(|answer| {
        // The last thing in it is the address; nothing is compared that the question already held.
        answer.len() > 12 + name.len() + 6 && answer.ends_with(&wanted.octets())
    })
}

/// Asks a name server for the A records of a name; its whole answer.
fn ask(server: &str, name: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let server = SocketAddr::new(server.parse().map_err(io::Error::other)?, 53);
    // RFC 1035, 4.1: an id, recursion desired, one question.
    let mut question = vec![0x77, 0x01, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).map_err(io::Error::other)?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(limit))?;
    socket.connect(server)?;
    socket.send(&question)?;
    let mut answer = vec![0; 1500];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    if answer.starts_with(&question[..2]) { Ok(answer) } else { Err(io::Error::other("another's answer")) }
}

fn role() -> Value {
    let read = json!(["list", "watch"]);
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": read},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        ],
    })
}

fn binding() -> Value {
    let group = "rbac.authorization.k8s.io";
    json!({
        "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": certs::COREDNS.user}],
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {
            "selector": {"k8s-app": "kube-dns"}, "clusterIP": KUBE_DNS[0], "clusterIPs": KUBE_DNS,
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        },
    })
}

fn deployment(corefile: &Path) -> Value {
    let labels = json!({"k8s-app": "kube-dns"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "coredns", "namespace": "kube-system"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    // It is what resolves names; its own resolver is the machine's.
                    "dnsPolicy": "Default",
                    "containers": [{
                        "name": "coredns", "image": "coredns/coredns", "args": ["-conf", corefile],
                        "ports": [
                            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
                        ],
                        "readinessProbe": {
                            "httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1, "timeoutSeconds": 5,
                        },
                    }],
                },
            },
        },
    })
}
