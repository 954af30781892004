//! Upstream's Service suite beyond ClusterIPs: what is to come, by what it waits for.

const NODE_PORT: &str = "NodePort";
const LOAD_BALANCER: &str = "LoadBalancer";
const EXTERNAL: &str = "externalIPs";
const POLICY: &str = "policies";
const TOPOLOGY: &str = "topology";

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
    ("SCTP", "allow creating a basic SCTP service with pod and endpoints"),
];
