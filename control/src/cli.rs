//! The command line: what may be typed, and what each command does with it. One file a command that prints.
//!
//! Exit codes: 0 done, 1 failed, 64 (`EX_USAGE`) a flag or configuration value that cannot be used.

pub mod check;
pub mod config;
pub mod explain;
pub mod flows;
pub mod host;
pub mod services;
pub mod table;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::file::{
    ConfigFile, DetectLocalFile, KubernetesFile, MaxFlows, RejectWith, ReturnPathName, SourceFile,
};
use crate::config::{Config, ConfigError, DEFAULT_DEVICE, Machine, default_socket};
use crate::run::reload::Origin;

/// The exit code of a usage error: `EX_USAGE` of sysexits(3).
pub const EX_USAGE: u8 = 64;

/// A userspace Kubernetes Service dataplane: reads packets to Service addresses from a TUN device, translates
/// them to endpoints, and brings the replies back.
#[derive(Debug, Parser)]
#[command(name = "tunway", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve Services on this host, until SIGTERM or SIGINT
    Run(RunArgs),
    /// Show it work: a small cluster in namespaces of its own, a Service, requests through it
    Demo(DemoArgs),
    /// Look at this host and the manifests as `run` would, and say what is in the way and what is fine; changes nothing
    Check(CheckArgs),
    /// Take everything of tunway off this host: rules, routes, device, files
    Cleanup(CleanupArgs),
    /// Show the flow table of a running tunway
    Flows(FlowsArgs),
    /// Show the Services a running tunway serves, their endpoints, and what is wrong
    Services(ServicesArgs),
    /// Say what becomes of a packet, and why: asked of a running tunway, or of manifests
    Explain(explain::ExplainArgs),
    /// Check, print or translate configuration files
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Flags of `run` and `check`. Each wins over its key in the file.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take Services from this directory of YAML or JSON manifests
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Take Services from the Kubernetes API this kubeconfig names [default: the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// This node's name in the cluster [default: NODE_NAME, else the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Remove what is in the way: kube-proxy's leftovers, a FORWARD that drops
    #[arg(long)]
    pub take_over: bool,
    /// Accept the device's packets in FORWARD
    #[arg(long)]
    pub forward_accept: bool,
    /// The TUN device [default: tunway0]
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Worker threads, each with a queue of its own [default: one a core, at most 8]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// The source address endpoints see, routed to this host by everything that answers; once a family. With
    /// --manifests it chooses the return path masquerade, which needs it
    #[arg(long, value_name = "ADDRESS")]
    pub snat_address: Vec<IpAddr>,
    /// A Service CIDR of the cluster; may be repeated [default: those of ServiceCIDR objects; else none, each Service's
    /// address is routed by itself]
    #[arg(long, value_name = "CIDR")]
    pub service_cidr: Vec<String>,
    /// The pods' CIDR of the cluster, once a family: other clients of a ClusterIP are masqueraded [default: none]
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Vec<String>,
    /// How replies come back [default: auto]
    #[arg(long, value_enum, value_name = "HOW")]
    pub return_path: Option<ReturnPathName>,
    /// How a Service without endpoints refuses TCP [default: icmp]
    #[arg(long, value_enum, value_name = "HOW")]
    pub reject_with: Option<RejectWith>,
    /// Pick up TCP connections whose start was not seen
    #[arg(long)]
    pub tcp_loose: bool,
    /// IPv4 flows that fit [default: 262144]
    #[arg(long, value_name = "N")]
    pub max_flows_v4: Option<u32>,
    /// IPv6 flows that fit [default: 131072]
    #[arg(long, value_name = "N")]
    pub max_flows_v6: Option<u32>,
    /// The directory flows are kept in, a tmpfs [default: /run/tunway, else /dev/shm/tunway]
    #[arg(long, value_name = "DIR")]
    pub flow_file: Option<PathBuf>,
    /// The control socket [default: /run/tunway/DEVICE.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Seconds between SIGTERM and the stop, in which flows go on [default: 1]
    #[arg(long, value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,
    /// What to log: error, warn, info, debug, trace, or TARGET=LEVEL,… [default: info; check: warn]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// Flags of `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckArgs {
    /// What would be run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `demo`.
#[derive(Clone, Debug, Default, Args)]
pub struct DemoArgs {
    /// Leave the cluster running until Ctrl-C, and say how to explore it
    #[arg(long)]
    pub keep: bool,
    /// Deploy this manifest instead of the embedded walkthrough
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
}

/// Flags of `cleanup`.
#[derive(Clone, Debug, Default, Args)]
pub struct CleanupArgs {
    /// The configuration file `run` was given
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The TUN device [default: tunway0]
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// The directory of the flows, if `run` was given one
    #[arg(long, value_name = "DIR")]
    pub flow_file: Option<PathBuf>,
    /// The control socket, if `run` was given one
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Where the running tunway is found.
#[derive(Clone, Debug, Default, Args)]
pub struct AtArgs {
    /// The control socket [default: /run/tunway/DEVICE.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The device it serves [default: tunway0]
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
}

/// Where the running tunway is found, and how its answer is printed.
#[derive(Clone, Debug, Default, Args)]
pub struct SocketArgs {
    /// Where.
    #[command(flatten)]
    pub at: AtArgs,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `flows`.
#[derive(Clone, Debug, Default, Args)]
pub struct FlowsArgs {
    /// Where to ask.
    #[command(flatten)]
    pub at: SocketArgs,
    /// Only flows of this Service: NAMESPACE/NAME, with or without :PORT
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// At most so many flows
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: usize,
}

/// Flags of `services`.
#[derive(Clone, Debug, Default, Args)]
pub struct ServicesArgs {
    /// Where to ask.
    #[command(flatten)]
    pub at: SocketArgs,
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be done with these flags or this file: exit code 64.
    #[error(transparent)]
    Usage(#[from] ConfigError),
    /// It was tried and failed: exit code 1.
    #[error("{}", in_words(.0))]
    Failed(anyhow::Error),
}

/// An error with its causes, less those a sentence before has said already.
fn in_words(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// The process's exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EX_USAGE,
            Self::Failed(_) => 1,
        }
    }
}

impl RunArgs {
    /// The configuration these flags and their file give on this machine.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub fn config(self, machine: &Machine) -> Result<Config, ConfigError> {
        let path = self.config.clone();
        Config::load(path.as_deref(), self.into_file(), machine)
    }

    /// Where that configuration comes from, to read it again.
    #[must_use]
    pub fn origin(&self, machine: Machine) -> Origin {
        Origin { path: self.config.clone(), flags: self.clone().into_file(), machine }
    }

    fn into_file(self) -> ConfigFile {
        let source = (self.manifests.is_some() || self.kubeconfig.is_some()).then(|| SourceFile {
            kubernetes: self.kubeconfig.map(|file| KubernetesFile { kubeconfig: Some(file) }),
            manifests: self.manifests,
        });
        let some = |v4: Option<u32>, v6: Option<u32>| v4.is_some() || v6.is_some();
        ConfigFile {
            device: self.device,
            workers: self.workers,
            max_flows: some(self.max_flows_v4, self.max_flows_v6)
                .then_some(MaxFlows { ipv4: self.max_flows_v4, ipv6: self.max_flows_v6 }),
            flow_file: self.flow_file,
            service_cidrs: (!self.service_cidr.is_empty()).then_some(self.service_cidr),
            detect_local: (!self.cluster_cidr.is_empty()).then_some(DetectLocalFile {
                cluster_cidrs: Some(self.cluster_cidr),
                ..DetectLocalFile::default()
            }),
            snat_addresses: (!self.snat_address.is_empty()).then_some(self.snat_address),
            return_path: self.return_path,
            reject_with: self.reject_with,
            // A switch can only be turned on here: its absence says nothing about the file's value.
            tcp_loose: self.tcp_loose.then_some(true),
            take_over: self.take_over.then_some(true),
            forward_accept: self.forward_accept.then_some(true),
            source,
            node_name: self.node_name,
            socket: self.socket,
            drain_seconds: self.drain_seconds,
            ..ConfigFile::default()
        }
    }
}

impl CleanupArgs {
    /// The configuration these flags and their file give on this machine.
    ///
    /// # Errors
    /// A value that cannot be used.
    pub fn config(self, machine: &Machine) -> Result<Config, ConfigError> {
        let (device, flow_file, socket) = (self.device, self.flow_file, self.socket);
        let flags = ConfigFile { device, flow_file, socket, ..ConfigFile::default() };
        Config::load(self.config.as_deref(), flags, machine)
    }
}

impl AtArgs {
    /// The control socket these flags name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| default_socket(self.device.as_deref().unwrap_or(DEFAULT_DEVICE)))
    }
}

/// Writes to where a command's output goes, which is not always a terminal: a reader that left is not a failure.
fn print(out: &mut dyn std::io::Write, text: &[u8]) -> Result<(), Failure> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write the output").into())
        }
        _ => Ok(()),
    }
}

/// An answer for people: whatever text it holds is safe to print.
fn for_people<T: serde::de::DeserializeOwned>(answer: &[u8]) -> anyhow::Result<T> {
    let mut value = serde_json::from_slice(answer)?;
    crate::shown::show_all(&mut value);
    Ok(serde_json::from_value(value)?)
}

/// One line of JSON.
fn print_json(out: &mut dyn std::io::Write, mut json: Vec<u8>) -> Result<(), Failure> {
    json.push(b'\n');
    print(out, &json)
}

#[cfg(test)]
mod tests;
