//! What the operator decides: one YAML file and flags. Flags win over the file; of the environment only
//! `NODE_NAME` is read, and in a pod what Kubernetes itself puts there for its clients. [`Config::resolve`] is pure: it gets what it needs to know of the machine.
//!
//! The file's form is in [`mod@file`], the rules every value obeys are in [`rules`].

mod cluster;
pub mod detect;
mod effective;
pub mod file;
pub mod kube_proxy;
pub mod node_ports;
pub mod read;
pub mod rules;
pub mod write;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane::engine::EngineConfig;
use dataplane::flow::Ttls;
use dataplane::service::{Fabric, PortSet, ReturnPath};

use detect::DetectLocal;
use file::ConfigFile;
use node_ports::NodePortAddresses;

use crate::compile::Rules;
use crate::model::Node;

/// The device's name when none is given.
pub const DEFAULT_DEVICE: &str = "tunway0";
/// The directory for lock, socket and, where it is a tmpfs, flows.
pub const RUN_DIR: &str = "/run/tunway";
/// SNAT addresses of `conntrack` when none are given: nobody else sees them, and no pod CIDR has them.
pub const PRIVATE_SNAT: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 77, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xfffe, 0x77, 0, 0, 0, 0, 1)),
];
/// IPv4 flows when `maxFlows.ipv4` is not given.
pub const DEFAULT_FLOWS_V4: u32 = 262_144;
/// IPv6 flows when `maxFlows.ipv6` is not given.
pub const DEFAULT_FLOWS_V6: u32 = 131_072;
/// Clients session affinity remembers at most when `maxAffinity` is not given.
pub const DEFAULT_AFFINITY: u32 = 262_144;
/// Workers at most when `workers` is not given; fewer on fewer cores.
pub const DEFAULT_WORKERS_AT_MOST: usize = 8;
/// Answers (ICMP errors, RSTs) a second and worker when `repliesPerSecond` is not given.
pub const DEFAULT_REPLIES_PER_SECOND: u32 = 1000;
/// Packets that may wait in each of the device's queues when `queueLength` is not given. Of bursts of 0.3 s of small
/// datagrams 1000 lost 14 to 26 % with two workers, 2000 none; more only makes whoever is late later.
pub const DEFAULT_QUEUE_LENGTH: u32 = 2000;
/// The time between a stop signal and the stop when `drainSeconds` is not given.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(1);

/// Where Services come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceConfig {
    /// The Kubernetes API. Without a kubeconfig: the service account of the pod we run in.
    Kubernetes {
        /// A kubeconfig file; its current context is used.
        kubeconfig: Option<PathBuf>,
    },
    /// A directory of YAML or JSON manifests.
    Manifests {
        /// The directory.
        dir: PathBuf,
    },
}

/// Where the flow table lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowPlace {
    /// `/run/tunway` if `/run` is a tmpfs, else `/dev/shm/tunway`, else memory that dies with the process.
    Auto,
    /// This directory, a tmpfs.
    Dir(PathBuf),
    /// Memory that dies with the process.
    Memory,
}

/// Everything a run needs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The TUN device's name.
    pub device: String,
    /// Workers, each with a queue of its own.
    pub workers: usize,
    /// Packets that may wait in each of the device's queues.
    pub queue_length: u32,
    /// IPv4 flows; the table rounds up to a power of two.
    pub max_flows_v4: u32,
    /// IPv6 flows; the table rounds up to a power of two.
    pub max_flows_v6: u32,
    /// Clients session affinity remembers at most.
    pub max_affinity: usize,
    /// Where flows are kept.
    pub flows: FlowPlace,
    /// Service CIDRs that were given: routed to the device, unallocated addresses in them are dropped. Where there are
    /// none, nor ServiceCIDR objects, the addresses of Services are routed one by one.
    pub service_cidrs: Vec<(IpAddr, u8)>,
    /// Source addresses of masqueraded flows, at most one a family.
    pub snat: Vec<IpAddr>,
    /// How replies come back.
    pub return_path: ReturnPath,
    /// How local pods are told from everybody else.
    pub detect_local: DetectLocal,
    /// Which addresses of this host take node ports.
    pub node_port_addresses: NodePortAddresses,
    /// The API server's range of node ports, both ends inside.
    pub node_port_range: (u16, u16),
    /// What Services may have.
    pub rules: Rules,
    /// A node that is only thought of.
    pub node: Node,
    /// Masquerade every flow to a ClusterIP.
    pub masquerade_all: bool,
    /// Pick up TCP connections in the middle.
    pub tcp_loose: bool,
    /// Refuse TCP with RST instead of an ICMP error.
    pub reject_with_rst: bool,
    /// Answers (ICMP errors, RSTs) a second and worker.
    pub replies_per_second: u32,
    /// Count bytes and packets of every flow.
    pub accounting: bool,
    /// Flow timers.
    pub timeouts: Ttls,
    /// Where Services come from.
    pub source: SourceConfig,
    /// This node's name in the cluster.
    pub node_name: String,
    /// The control socket's path.
    pub socket: PathBuf,
    /// The directory of the lock.
    pub run_dir: PathBuf,
    /// Remove what is in the way: kube-proxy's leftovers, a FORWARD policy that drops.
    pub take_over: bool,
    /// Insert accept rules for the device into FORWARD.
    pub forward_accept: bool,
    /// Time between a stop signal and the stop.
    pub drain: Duration,
}

/// What a configuration is resolved against.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `NODE_NAME`, when it is set and not empty.
    pub node_name: Option<String>,
    /// The host name.
    pub host_name: String,
    /// Cores we may use.
    pub cores: usize,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        Self {
            node_name: std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()),
            host_name: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }
}

/// A value we cannot run with: which, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what} ({remedy})")]
pub struct ConfigError {
    /// The key as the file spells it.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl ConfigError {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, what: impl fmt::Display, remedy: impl fmt::Display) -> Self {
        Self { field: field.into(), what: what.to_string(), remedy: remedy.to_string() }
    }
}

impl Config {
    /// Reads `path`, lets `flags` win, applies defaults, checks everything.
    ///
    /// # Errors
    /// The first value that is wrong, or a file that cannot be read or understood.
    pub fn load(path: Option<&Path>, flags: ConfigFile, machine: &Machine) -> Result<Self, ConfigError> {
        let file = match path {
            Some(path) => read::read(path)?,
            None => ConfigFile::default(),
        };
        Self::resolve(flags.over(file), machine)
    }

    /// Applies defaults to what was given and checks everything.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn resolve(given: ConfigFile, machine: &Machine) -> Result<Self, ConfigError> {
        let device = rules::device(given.device.unwrap_or_else(|| DEFAULT_DEVICE.to_owned()))?;
        let source = rules::source(given.source)?;
        let snat = given.snat_addresses.unwrap_or_default();
        let return_path = rules::return_path(given.return_path.unwrap_or_default(), &source, &snat);
        let snat = rules::snat(snat, return_path)?;
        let service_cidrs = rules::service_cidrs(&given.service_cidrs.unwrap_or_default(), &snat)?;
        rules::snat_outside(&snat, &service_cidrs)?;
        let workers = rules::workers(given.workers, machine.cores)?;
        let max_flows = given.max_flows.unwrap_or_default();
        let max_v4 = max_flows.ipv4.unwrap_or(DEFAULT_FLOWS_V4.max(rules::min_flows(workers)));
        let max_v6 = max_flows.ipv6.unwrap_or(DEFAULT_FLOWS_V6.max(rules::min_flows(workers)));
        let detect_local = cluster::detect_local(given.detect_local, given.cluster_cidr)?;
        let node = cluster::node(given.node.unwrap_or_default(), given.node_name.as_deref())?;
        let named = Some(node.name.clone()).filter(|name| !name.is_empty());
        let node_name = given.node_name.or(named).or_else(|| machine.node_name.clone());
        Ok(Self {
            workers,
            max_flows_v4: rules::max_flows("maxFlows.ipv4", max_v4, workers)?,
            max_flows_v6: rules::max_flows("maxFlows.ipv6", max_v6, workers)?,
            max_affinity: rules::max_affinity(given.max_affinity)?,
            queue_length: rules::queue_length(given.queue_length)?,
            flows: match given.flow_file {
                Some(dir) => FlowPlace::Dir(rules::absolute("flowFile", dir)?),
                None => FlowPlace::Auto,
            },
            return_path,
            detect_local: DetectLocal::resolve(detect_local)?,
            node_port_addresses: NodePortAddresses::resolve(given.node_port_addresses.as_deref())?,
            node_port_range: cluster::node_port_range(given.node_port_range.as_deref())?,
            rules: cluster::rules(given.external_ips, given.load_balancing)?,
            node,
            masquerade_all: given.masquerade_all.unwrap_or(false),
            tcp_loose: given.tcp_loose.unwrap_or(false),
            reject_with_rst: given.reject_with.unwrap_or_default() == file::RejectWith::Rst,
            replies_per_second: rules::replies(given.replies_per_second)?,
            accounting: given.flow_accounting.unwrap_or(true),
            timeouts: rules::timeouts(&given.timeouts.unwrap_or_default())?,
            source,
            node_name: rules::node_name(node_name, &machine.host_name)?,
            socket: match given.socket {
                Some(path) => rules::socket(path)?,
                None => default_socket(&device),
            },
            run_dir: RUN_DIR.into(),
            take_over: given.take_over.unwrap_or(false),
            forward_accept: given.forward_accept.unwrap_or(false),
            drain: rules::drain(given.drain_seconds)?,
            service_cidrs,
            snat,
            device,
        })
    }

    /// The engine's part.
    #[must_use]
    pub fn engine(&self) -> EngineConfig {
        EngineConfig {
            reject_with_rst: self.reject_with_rst,
            tcp_loose: self.tcp_loose,
            replies_per_second: self.replies_per_second,
            accounting: self.accounting,
            alias: self.return_path == ReturnPath::ConnMark,
            passes: false,
        }
    }

    /// The snapshot's part, as far as it does not depend on this host and its Node.
    #[must_use]
    pub fn fabric(&self) -> Fabric {
        Fabric {
            return_path: self.return_path,
            snat: self.snat.clone(),
            service_cidrs: self.service_cidrs.clone(),
            masquerade_all: self.masquerade_all,
            reserved_ports: Arc::new(PortSet::new([self.node_port_range])),
            ..Fabric::default()
        }
    }
}

/// The control socket of a device when none is given.
#[must_use]
pub fn default_socket(device: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{device}.sock"))
}

#[cfg(test)]
mod tests;
