//! The configuration file's form: every key optional, an unknown one an error that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `apiVersion` of the file.
pub const API_VERSION: &str = "tunway.dev/v1alpha1";
/// `kind` of the file.
pub const KIND: &str = "Config";

/// What a file, or the flags, gave. A missing key has its default; see each key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConfigFile {
    /// `tunway.dev/v1alpha1`.
    pub api_version: Option<String>,
    /// `Config`.
    pub kind: Option<String>,
    /// The TUN device. Default `tunway0`; 1 to 15 letters, digits, `-`, `_`, `.`.
    pub device: Option<String>,
    /// Worker threads, each with a queue of its own. Default: one a core, at most 8; limit 1 to 64.
    pub workers: Option<usize>,
    /// Packets that may wait in each of the device's queues (its txqueuelen); `device_queue_full` counts those that
    /// found no room. Default 2000; limit 64 to 65,536.
    pub queue_length: Option<u32>,
    /// How many flows fit.
    pub max_flows: Option<MaxFlows>,
    /// How many clients session affinity remembers, 50 to 100 bytes each. Default 262,144; limit 1,024 to 16,777,216.
    pub max_affinity: Option<u32>,
    /// The directory flows are kept in; must be a tmpfs. Default: `/run/tunway`, else `/dev/shm/tunway`.
    pub flow_file: Option<PathBuf>,
    /// The cluster's Service CIDRs: routed to the device; an unallocated address in them is dropped.
    /// Those of the ServiceCIDR objects beside them; where there are none of either, every Service's address is routed
    /// by itself. One that overlaps a network of this host is left out and told. At most 16.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Option<Vec<String>>,
    /// The SNAT addresses of masqueraded flows, at most one a family. With `masquerade` the sources endpoints see:
    /// no default, must be routed to this host by everything that answers, lie outside every on-link prefix and be
    /// assigned to no interface. With `conntrack` private to this host, default 169.254.77.1 and fd00:fffe:77::1.
    pub snat_addresses: Option<Vec<IpAddr>>,
    /// How local pods are told from everybody else, with `returnPath: conntrack`. Default: not at all, so that every
    /// client of a ClusterIP keeps its address.
    pub detect_local: Option<DetectLocalFile>,
    /// The pods' CIDR of the whole cluster, at most one a family, as a list or as one text with a comma: short for
    /// `detectLocal` with mode `clusterCIDR`. Default: none.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<OneOrMany>,
    /// The addresses of this host that take node ports: CIDRs, or the one word `primary`, the Node's first address of
    /// each family. A family without a CIDR takes none. Default `[primary]`. Node ports need `returnPath: conntrack`.
    pub node_port_addresses: Option<Vec<String>>,
    /// The API server's range of node ports, as 30000-32767, which is the default: no SNAT draws its ports from it.
    pub node_port_range: Option<String>,
    /// Which external IPs Services may have. Default: none.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<ExternalIpsFile>,
    /// How flows are spread over endpoints, of Services whose annotations do not say.
    pub load_balancing: Option<LoadBalancingFile>,
    /// Masquerade every flow to a ClusterIP, whoever the client is, with `returnPath: conntrack`. Default false.
    pub masquerade_all: Option<bool>,
    /// How replies come back. Default `auto`: `conntrack` with the Kubernetes API, `masquerade` with manifests.
    pub return_path: Option<ReturnPathName>,
    /// Means nothing any more: accepted so that files of earlier versions start.
    pub marks: Option<MarksFile>,
    /// Pick up TCP connections whose start was not seen, instead of refusing them. Default false.
    pub tcp_loose: Option<bool>,
    /// How a Service without endpoints refuses TCP. Default `icmp`, as kube-proxy.
    pub reject_with: Option<RejectWith>,
    /// ICMP errors and RSTs a second and worker. Default 1000; limit 1 to 1,000,000.
    pub replies_per_second: Option<u32>,
    /// Count packets and bytes of every flow. Default true.
    pub flow_accounting: Option<bool>,
    /// Flow timers, in seconds.
    pub timeouts: Option<Timeouts>,
    /// Where Services come from. Default: the Kubernetes API by the pod's service account.
    pub source: Option<SourceFile>,
    /// This node's name in the cluster. Default `NODE_NAME`, else the host name.
    pub node_name: Option<String>,
    /// This node as the cluster knows it, where no cluster is asked: with manifests, and for `explain` without a run.
    pub node: Option<NodeFile>,
    /// The control socket. Default `/run/tunway/DEVICE.sock`; an absolute path of at most 107 bytes.
    pub socket: Option<PathBuf>,
    /// Remove what is in the way (kube-proxy's leftovers, a FORWARD that drops). Default false.
    pub take_over: Option<bool>,
    /// Accept the device's packets in FORWARD. Default false.
    pub forward_accept: Option<bool>,
    /// Seconds between SIGTERM and the stop, in which flows go on. Default 1; limit 0 to 3600.
    pub drain_seconds: Option<u64>,
}

/// `maxFlows`. Each limited to 4,096 a worker to 16,777,216 in all, rounded up to a power of two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MaxFlows {
    /// IPv4 flows, 128 bytes each. Default 262,144.
    pub ipv4: Option<u32>,
    /// IPv6 flows, 192 bytes each. Default 131,072; 4,096 a worker with more than 32 of them.
    pub ipv6: Option<u32>,
}

/// `loadBalancing`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LoadBalancingFile {
    /// random, round-robin, least-connections, p2c, maglev or rendezvous. Default random, as kube-proxy.
    pub algorithm: Option<String>,
    /// What maglev and rendezvous hash: tuple (addresses, ports, protocol) or client (its address). Default tuple.
    pub hash_by: Option<String>,
    /// Bytes that all Maglev tables take together; Services beyond get rendezvous. Default 64,000,000; limit 0 to
    /// 4,000,000,000.
    pub maglev_memory: Option<u64>,
}

/// `marks`, which earlier versions needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MarksFile {
    /// A bit of packets and connections.
    pub packet: Option<u32>,
    /// A bit of connections.
    pub original: Option<u32>,
}

/// `timeouts`, in seconds. Each limited to 1 to 524,287.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Timeouts {
    /// TCP, SYN seen. Default 120.
    pub tcp_syn_sent: Option<u32>,
    /// TCP, SYN answered. Default 60.
    pub tcp_syn_recv: Option<u32>,
    /// TCP, established. Default 86,400.
    pub tcp_established: Option<u32>,
    /// TCP, one side closed. Default 3,600.
    pub tcp_half_closed: Option<u32>,
    /// TCP, last acknowledgement outstanding. Default 30.
    pub tcp_last_ack: Option<u32>,
    /// TCP, both sides closed. Default 120.
    pub tcp_time_wait: Option<u32>,
    /// TCP, reset. Default 10.
    pub tcp_reset: Option<u32>,
    /// TCP, picked up and not answered yet. Default 300.
    pub tcp_unacknowledged: Option<u32>,
    /// UDP, not answered or young. Default 30.
    pub udp: Option<u32>,
    /// UDP, both sides talk. Default 120.
    pub udp_stream: Option<u32>,
    /// SCTP, shut down or aborted. Default 10.
    pub sctp_closed: Option<u32>,
    /// SCTP, before the COOKIE ACK. Default 3.
    pub sctp_cookie: Option<u32>,
    /// SCTP, an association; its ends ask for each other every 30 s. Default 210.
    pub sctp_established: Option<u32>,
    /// SCTP, from the first SHUTDOWN to the SHUTDOWN COMPLETE. Default 3.
    pub sctp_shutdown: Option<u32>,
    /// SCTP, begun with a HEARTBEAT nobody answered yet. Default 30.
    pub sctp_heartbeat: Option<u32>,
}

/// `source`: one of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// A directory of YAML or JSON manifests, watched.
    pub manifests: Option<PathBuf>,
    /// The Kubernetes API.
    pub kubernetes: Option<KubernetesFile>,
}

/// `source.kubernetes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesFile {
    /// A kubeconfig file. Default: the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
}

/// One text, its parts with commas between, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `a,b`
    One(String),
    /// `[a, b]`
    Many(Vec<String>),
}

impl OneOrMany {
    /// The parts.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        match self {
            Self::One(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(str::to_owned).collect()
            }
            Self::Many(parts) => parts.clone(),
        }
    }
}

/// `externalIPs`. Whoever may write a Service takes the traffic of every external IP it names (CVE-2020-8554).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalIpsFile {
    /// External IPs inside these CIDRs are served, all others refused.
    pub allow: Option<Vec<String>>,
}

/// `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Its name, as `nodeName`.
    pub name: Option<String>,
    /// Its addresses, the primary ones first.
    pub addresses: Option<Vec<String>>,
    /// Its labels; only `topology.kubernetes.io/zone` means something.
    pub labels: Option<BTreeMap<String, String>>,
}

/// `detectLocal`. Clients that are not local pods are masqueraded on their way to a ClusterIP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DetectLocalFile {
    /// How. Default `clusterCIDR`.
    pub mode: Option<DetectMode>,
    /// `clusterCIDR` only: the pods' CIDR of the whole cluster, at most one a family. Default: none.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Option<Vec<String>>,
    /// `bridge`: the bridge's name. `interfacePrefix`: what the names of the pods' links begin with. No default.
    pub interface: Option<String>,
}

/// `detectLocal.mode`: what makes a client a local pod. An address of this host is one only by a CIDR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum DetectMode {
    /// Its address is in `clusterCIDRs`; in a family without one, every client keeps its address.
    #[default]
    #[serde(rename = "clusterCIDR")]
    ClusterCidr,
    /// Its address is in this Node's `spec.podCIDRs`, the first of its family.
    #[serde(rename = "nodeCIDR")]
    NodeCidr,
    /// Its address is routed out of the link `interface`.
    #[serde(rename = "bridge")]
    Bridge,
    /// Its address is routed out of a link whose name begins with `interface`.
    #[serde(rename = "interfacePrefix")]
    InterfacePrefix,
}

impl DetectMode {
    /// As the file spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterCidr => "clusterCIDR",
            Self::NodeCidr => "nodeCIDR",
            Self::Bridge => "bridge",
            Self::InterfacePrefix => "interfacePrefix",
        }
    }
}

/// `returnPath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ReturnPathName {
    /// What suits the host: conntrack on a node, which the Kubernetes API tells of Services; with manifests masquerade
    /// where there are `snatAddresses` for it, else conntrack.
    #[default]
    Auto,
    /// By connection tracking and alias destinations: endpoints see the source kube-proxy would show them.
    Conntrack,
    /// The old name of conntrack.
    Connmark,
    /// Every flow gets a SNAT address that is routed to this host.
    Masquerade,
}

/// `rejectWith`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RejectWith {
    /// ICMP port unreachable.
    #[default]
    Icmp,
    /// A TCP RST; other protocols still get ICMP.
    Rst,
}

impl fmt::Display for ReturnPathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Connmark => "connmark",
            Self::Conntrack => "conntrack",
            Self::Masquerade => "masquerade",
        })
    }
}

impl ConfigFile {
    /// What is said in an old way, or means nothing any more: a sentence each.
    #[must_use]
    pub fn obsolete(&self) -> Vec<&'static str> {
        let renamed = (self.return_path == Some(ReturnPathName::Connmark))
            .then_some("returnPath: connmark is the old name of conntrack, and means the same");
        let marks =
            self.marks.as_ref().map(|_| "marks means nothing any more: tunway uses no marks (take it out)");
        renamed.into_iter().chain(marks).collect()
    }

    /// These keys where given, else `below`'s. Of `clusterCIDR` and `detectLocal`, which say the same, one is enough.
    #[must_use]
    pub fn over(self, mut below: Self) -> Self {
        if self.detect_local.is_some() {
            below.cluster_cidr = None;
        }
        if self.cluster_cidr.is_some() {
            below.detect_local = None;
        }
        Self {
            load_balancing: self.load_balancing.or(below.load_balancing),
            api_version: self.api_version.or(below.api_version),
            kind: self.kind.or(below.kind),
            device: self.device.or(below.device),
            workers: self.workers.or(below.workers),
            queue_length: self.queue_length.or(below.queue_length),
            max_flows: over_max_flows(self.max_flows, below.max_flows),
            max_affinity: self.max_affinity.or(below.max_affinity),
            flow_file: self.flow_file.or(below.flow_file),
            service_cidrs: self.service_cidrs.or(below.service_cidrs),
            snat_addresses: self.snat_addresses.or(below.snat_addresses),
            detect_local: over_detect_local(self.detect_local, below.detect_local),
            cluster_cidr: self.cluster_cidr.or(below.cluster_cidr),
            node_port_addresses: self.node_port_addresses.or(below.node_port_addresses),
            node_port_range: self.node_port_range.or(below.node_port_range),
            external_ips: self.external_ips.or(below.external_ips),
            masquerade_all: self.masquerade_all.or(below.masquerade_all),
            return_path: self.return_path.or(below.return_path),
            marks: over_marks(self.marks, below.marks),
            tcp_loose: self.tcp_loose.or(below.tcp_loose),
            reject_with: self.reject_with.or(below.reject_with),
            replies_per_second: self.replies_per_second.or(below.replies_per_second),
            flow_accounting: self.flow_accounting.or(below.flow_accounting),
            timeouts: self.timeouts.or(below.timeouts),
            source: self.source.or(below.source),
            node_name: self.node_name.or(below.node_name),
            node: self.node.or(below.node),
            socket: self.socket.or(below.socket),
            take_over: self.take_over.or(below.take_over),
            forward_accept: self.forward_accept.or(below.forward_accept),
            drain_seconds: self.drain_seconds.or(below.drain_seconds),
        }
    }
}

fn over_max_flows(above: Option<MaxFlows>, below: Option<MaxFlows>) -> Option<MaxFlows> {
    match (above, below) {
        (Some(above), Some(below)) => {
            Some(MaxFlows { ipv4: above.ipv4.or(below.ipv4), ipv6: above.ipv6.or(below.ipv6) })
        }
        (above, below) => above.or(below),
    }
}

fn over_marks(above: Option<MarksFile>, below: Option<MarksFile>) -> Option<MarksFile> {
    match (above, below) {
        (Some(above), Some(below)) => Some(MarksFile {
            packet: above.packet.or(below.packet),
            original: above.original.or(below.original),
        }),
        (above, below) => above.or(below),
    }
}

fn over_detect_local(
    above: Option<DetectLocalFile>,
    below: Option<DetectLocalFile>,
) -> Option<DetectLocalFile> {
    match (above, below) {
        (Some(above), Some(below)) => Some(DetectLocalFile {
            mode: above.mode.or(below.mode),
            cluster_cidrs: above.cluster_cidrs.or(below.cluster_cidrs),
            interface: above.interface.or(below.interface),
        }),
        (above, below) => above.or(below),
    }
}
