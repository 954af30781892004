//! What the table leaves out of upstream's Service and kube-proxy suites: what is to come, by what it waits for, and
//! what never will, by whose it is.

/// The kernel has no sockets of it, so that no client can ask.
const SCTP: &str = "no SCTP sockets";
/// The API server decides it; a proxy has no part in it.
const API_ONLY: &str = "API only";
/// Shown by other tests of this repository.
const ELSEWHERE: &str = "elsewhere";
/// How kube-proxy does it, not what a client sees.
const KUBE_PROXY: &str = "kube-proxy's";

/// What it waits for, and upstream's words, shortened.
pub(crate) const PENDING: &[(&str, &str)] = &[
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
