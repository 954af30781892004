//! Why a decision came out as it did. [`decide()`](super::decide()) and [`choose()`](super::choose()) take a
//! [`Reasons`] and note every step; the packet path passes [`NoReasons`], which is zero-sized and compiled
//! away, an explanation passes [`Recorded`]. One code path, so the explanation is what the packet gets.

use std::fmt;
use std::net::IpAddr;

use super::{Backend, FrontendKind, Policy, Service, Set};

/// One step of a decision.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Reason<'a> {
    /// The destination is a frontend of this service port.
    Frontend {
        /// What the address is to the Service.
        kind: FrontendKind,
        /// The destination address.
        addr: IpAddr,
        /// The destination port: the service port's, or its node port.
        port: u16,
        /// The service port.
        service: &'a Service,
    },
    /// The policy of the frontend.
    Policy {
        /// `externalTrafficPolicy`, and not `internalTrafficPolicy`.
        external: bool,
        /// What it says.
        policy: Policy,
    },
    /// `loadBalancerSourceRanges` do not have the client.
    SourceRange {
        /// The client.
        client: IpAddr,
    },
    /// External policy `Local`, but the client is a local pod: any endpoint, and it keeps its address.
    ShortCircuitPod,
    /// External policy `Local`, but the client is this host: any endpoint, masqueraded.
    ShortCircuitHost,
    /// External policy `Cluster`: the reply has to come back through this node.
    ExternalCluster,
    /// External policy `Local`: the client keeps its address.
    ExternalLocal,
    /// The set the flow's endpoint comes from, and how many are in it.
    Set(Set, usize),
    /// No usable endpoint anywhere in the cluster.
    NoEndpoint,
    /// The policy is `Local`; usable endpoints exist, none on this node.
    NoLocalEndpoint,
    /// The return path gives every flow a SNAT address.
    EveryFlow,
    /// `masqueradeAll`: every flow to a ClusterIP gets a SNAT address.
    MasqueradeAll,
    /// Nothing tells local pods of this family from others, so clients keep their address.
    NoDetector,
    /// The client is a local pod and keeps its address.
    LocalPod,
    /// The client is no local pod: replies would not come back by themselves.
    NotLocalPod,
    /// The client is the endpoint that was picked.
    Hairpin,
    /// The endpoint is an address of this host, and the client is not this host: it keeps its address.
    HostEndpoint,
    /// The destination is a live ClusterIP, but no service port of it.
    NoSuchPort,
    /// The destination is a SNAT address, and no flow knew the packet.
    SnatAddress,
    /// The destination lies in a Service CIDR, and no Service has it.
    Unallocated,
    /// The destination is none of ours.
    NotOurs,
    /// The service port has session affinity.
    Affinity {
        /// The flow's source address.
        client: IpAddr,
        /// How long a client is remembered after its last new flow.
        seconds: u32,
        /// It is remembered, and where it was is in the set.
        remembered: bool,
    },
    /// The endpoint that was picked.
    Picked {
        /// The endpoint.
        backend: &'a Backend,
        /// Its position in the set.
        position: usize,
        /// How many the set has.
        of: usize,
        /// The flow's source address.
        client: IpAddr,
    },
}

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend { kind, addr, port, service } => {
                write!(f, "{addr} {port}/{} is {kind} of {}", service.port.proto, service.name)
            }
            Self::Policy { external, policy } => {
                let name = if *external { "externalTrafficPolicy" } else { "internalTrafficPolicy" };
                match policy {
                    Policy::Cluster => write!(f, "{name} Cluster: endpoints of any node"),
                    Policy::Local => write!(f, "{name} Local: endpoints of this node only"),
                }
            }
            Self::SourceRange { client } => write!(f, "loadBalancerSourceRanges do not have {client}"),
            Self::ShortCircuitPod => {
                f.write_str("the client is a local pod: endpoints of any node, and it keeps its address")
            }
            Self::ShortCircuitHost => {
                f.write_str("the client is this host: endpoints of any node, masqueraded")
            }
            Self::ExternalCluster => f.write_str(
                "externalTrafficPolicy Cluster: masqueraded, so that replies come back through this node",
            ),
            Self::ExternalLocal => f.write_str("externalTrafficPolicy Local: the client keeps its address"),
            Self::Set(set, count) => {
                let name = match set {
                    Set::Cluster => "cluster",
                    Set::Local => "local",
                };
                write!(f, "{name} set, {count} endpoint{}", if *count == 1 { "" } else { "s" })
            }
            Self::NoEndpoint => f.write_str("no usable endpoint in the cluster"),
            Self::NoLocalEndpoint => f.write_str("usable endpoints on other nodes only"),
            Self::EveryFlow => f.write_str("the return path masquerades every flow"),
            Self::MasqueradeAll => f.write_str("masqueradeAll: flows to a ClusterIP are masqueraded"),
            Self::NoDetector => f.write_str("no detector of local pods: the client keeps its address"),
            Self::LocalPod => f.write_str("a local pod: it keeps its address"),
            Self::NotLocalPod => f.write_str("not a local pod: masqueraded"),
            Self::Hairpin => f.write_str("the endpoint is the client itself: masqueraded"),
            Self::HostEndpoint => f.write_str("the endpoint is this host: the client keeps its address"),
            Self::NoSuchPort => f.write_str("a live ClusterIP, but not a port of its Services"),
            Self::SnatAddress => f.write_str("a SNAT address, and no flow knows the packet"),
            Self::Unallocated => f.write_str("inside a Service CIDR, and no Service has the address"),
            Self::NotOurs => f.write_str("none of our addresses"),
            Self::Affinity { client, seconds, remembered: true } => {
                write!(f, "session affinity, {seconds} s: {client} is remembered")
            }
            Self::Affinity { client, seconds, remembered: false } => {
                write!(f, "session affinity, {seconds} s: {client} is new, or its endpoint is not in the set")
            }
            Self::Picked { backend, position, of, client } => write!(
                f,
                "{client} gets endpoint {} ({} of {of})",
                std::net::SocketAddr::new(backend.addr, backend.port),
                position + 1
            ),
        }
    }
}

/// Takes down why.
pub trait Reasons {
    /// Takes one step down.
    fn note(&mut self, reason: Reason<'_>);
}

/// Takes nothing down.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReasons;

const _: () = assert!(size_of::<NoReasons>() == 0);

impl Reasons for NoReasons {
    #[inline(always)]
    fn note(&mut self, _: Reason<'_>) {}
}

/// Takes every step down, as text, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    steps: Vec<String>,
}

impl Recorded {
    /// The steps, first to last.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

impl Reasons for Recorded {
    fn note(&mut self, reason: Reason<'_>) {
        self.steps.push(reason.to_string());
    }
}
