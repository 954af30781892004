//! Why a key of kube-proxy's is not taken over.

/// By the key, or what it begins with; the first that fits.
const REASONS: [(&str, &str); 40] = [
    ("bindAddressHardFail", "no Service port is bound"),
    ("bindAddress", "it names no address: the Node's are used, and both families are served"),
    ("healthzBindAddress", "`tunway services` answers by the control socket; there is no health server yet"),
    ("metricsBindAddress", "there is no metrics server yet"),
    ("enableProfiling", "there is no profiling server"),
    ("showHiddenMetricsForVersion", "there are none of Kubernetes' own metrics"),
    ("logging", "`tunway run --log` says what is logged"),
    ("oomScoreAdj", "whoever starts the process sets it"),
    ("resourceContainer", "whoever starts the process sets it"),
    ("portRange", "no ports are proxied by listening"),
    ("udpIdleTimeout", "no ports are proxied by listening; timeouts.udp is the flow's"),
    ("featureGates.KubeProxyNFTablesLocalhostNodePorts", "node ports at loopback addresses are never served"),
    ("featureGates.TopologyAwareHints", "hints of EndpointSlices are always followed"),
    ("featureGates.ServiceTrafficDistribution", "hints of EndpointSlices are always followed"),
    ("featureGates.PreferSameTrafficDistribution", "hints of EndpointSlices are always followed"),
    ("featureGates", "it changes nothing of what is served"),
    ("configSyncPeriod", "changes are watched, and listed anew when the server asks for it"),
    ("clientConnection", "one connection watches; what it asks is not limited on this side"),
    ("conntrack.max", "maxFlows sizes the flow table"),
    ("conntrack.min", "maxFlows sizes the flow table"),
    ("conntrack.tcpBeLiberal", "sequence numbers are not tracked: it always is"),
    ("clusterCIDR", "detectLocalMode is another one"),
    ("detectLocal.", "detectLocalMode is another one"),
    ("iptables.masqueradeBit", "no bits of marks are used"),
    ("nftables.masqueradeBit", "no bits of marks are used"),
    ("iptables.localhostNodePorts", "node ports at loopback addresses are not served, as in mode nftables"),
    (
        "iptables.snatNodeInternalIP",
        "snatAddresses says what masqueraded clients come from: name the InternalIP there",
    ),
    ("iptables.syncPeriod", "changes are published as they come, once in 50 ms at most"),
    ("iptables.minSyncPeriod", "changes are published as they come, once in 50 ms at most"),
    ("nftables.syncPeriod", "changes are published as they come, once in 50 ms at most"),
    ("nftables.minSyncPeriod", "changes are published as they come, once in 50 ms at most"),
    ("iptables.masqueradeAll", "of a mode that is not in use"),
    ("nftables.masqueradeAll", "of a mode that is not in use"),
    ("ipvs.scheduler", "of a mode that is not in use"),
    ("ipvs.tcp", "of a mode that is not in use"),
    ("ipvs.udp", "of a mode that is not in use"),
    ("ipvs", "there is no IPVS"),
    ("winkernel", "of Windows"),
    ("windowsRunAsService", "of Windows"),
    ("nodePortAddresses", "the default is the same"),
];

/// Why the key is not taken over.
pub(super) fn why_not(key: &str) -> &'static str {
    let fits = |(known, _): &&(&str, &str)| key.starts_with(known);
    REASONS.iter().find(fits).map_or("not known", |(_, why)| why)
}
