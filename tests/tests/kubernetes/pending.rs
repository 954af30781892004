//! What the table leaves out of upstream's Service and kube-proxy suites: what is to come, by what it waits for, and
//! what never will, by whose it is.

const NODE_PORT: &str = "NodePort";
const LOAD_BALANCER: &str = "LoadBalancer";
const EXTERNAL: &str = "externalIPs";
const POLICY: &str = "policies";
const TOPOLOGY: &str = "topology";
const SCTP: &str = "SCTP";
/// The API server decides it; a proxy has no part in it.
const API_ONLY: &str = "API only";
/// Shown by other tests of this repository.
const ELSEWHERE: &str = "elsewhere";
/// How kube-proxy does it, not what a client sees.
const KUBE_PROXY: &str = "kube-proxy's";

/// What it waits for, and upstream's words, shortened.
pub(crate) const PENDING: &[(&str, &str)] = &[
    (NODE_PORT, "be able to create a functioning NodePort service"),
    (NODE_PORT, "update service type to NodePort listening on same port number but different protocols"),
    (NODE_PORT, "change the type from ExternalName to NodePort"),
    (NODE_PORT, "change the type from NodePort to ExternalName"),
    (NODE_PORT, "terminating and unready endpoints by NodePort, publishNotReadyAddresses true and false"),
    (NODE_PORT, "session affinity, its timeout and its switching by NodePort"),
    (NODE_PORT, "connectivity by NodePort: pod, node and endpoint to NodePort, http and udp"),
    (NODE_PORT, "update nodePort, http and udp"),
    (NODE_PORT, "preserve UDP traffic when server pod cycles for a NodePort service"),
    (NODE_PORT, "clean up UDP flows when the target port of a NodePort service changes"),
    (NODE_PORT, "dual-stack: the same by NodePort on the secondary family"),
    (LOAD_BALANCER, "be able to change the type and ports of a TCP or UDP service"),
    (LOAD_BALANCER, "only allow access from service loadbalancer source ranges"),
    (LOAD_BALANCER, "session affinity and its switching, externalTrafficPolicy Cluster and Local"),
    (LOAD_BALANCER, "handle load balancers without NodePorts"),
    (LOAD_BALANCER, "preserve UDP traffic when server pod cycles, on the same and on different nodes"),
    (
        LOAD_BALANCER,
        "no connectivity disruption during rolling update, externalTrafficPolicy Cluster and Local",
    ),
    (LOAD_BALANCER, "same port and different protocol for internal traffic"),
    (
        LOAD_BALANCER,
        "ExternalTrafficPolicy Local: work for type=LoadBalancer, target nodes with endpoints, from pods",
    ),
    (EXTERNAL, "connect to an ExternalIP not assigned to a node"),
    (POLICY, "fall back to terminating endpoints, externalTrafficPolicy Cluster and Local"),
    (POLICY, "support externalTrafficPolicy=Local for type=NodePort"),
    (POLICY, "fail health check node port if there are only terminating endpoints"),
    (POLICY, "implement NodePort and HealthCheckNodePort correctly when externalTrafficPolicy changes"),
    (TOPOLOGY, "PreferClose and PreferSameZone, single-node and multi-node"),
    (TOPOLOGY, "PreferSameNode, with its fall-backs to the zone and beyond"),
    (TOPOLOGY, "topology-mode Auto distributes endpoints evenly"),
    (SCTP, "allow creating a basic SCTP service with pod and endpoints"),
    (SCTP, "connectivity over SCTP: pod-Service, node-Service and endpoint-Service"),
    (API_ONLY, "prevent NodePort collisions"),
    (API_ONLY, "check NodePort out-of-range"),
    (API_ONLY, "release NodePorts on delete"),
    (
        API_ONLY,
        "find a service from listing all namespaces, status lifecycle, delete a collection of services",
    ),
    (
        API_ONLY,
        "no conflict between pods with same hostPort but different hostIP and protocol: the scheduler's and the node's",
    ),
    (
        ELSEWHERE,
        "recreate its rules if they are deleted: shown in the host plan's tests, control/tests/root/repair.rs",
    ),
    (KUBE_PROXY, "check kube-proxy urls, /healthz and /proxyMode"),
    (KUBE_PROXY, "set TCP CLOSE_WAIT timeout: a setting of the kernel's connection tracking"),
    (
        KUBE_PROXY,
        "update metric for tracking accepted packets destined for localhost nodeports: iptables mode only",
    ),
];
