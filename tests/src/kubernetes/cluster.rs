//! The cluster as a whole: started, used, ended.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::agent::{self, Agent, Images, Place};
use super::control_plane::ControlPlane;
use super::kubectl::Kubectl;
use super::outside::{self, World};
use super::podnet::PodNetwork;
use super::proxy::NodeProxy;
use super::{Api, Output, Outside, Site, certs, sweep};
use crate::apiserver::rbac;
use crate::netns::Namespace;

pub use dns::KUBE_DNS;

mod dns;
mod link;
mod settle;

/// How long any part of the start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What serves Services on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// `tunway run`.
    Tunway,
    /// The real kube-proxy in nftables mode.
    KubeProxy,
}

/// How a node's pods are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNet {
    /// A veth each, link-scope host routes, proxy ARP and NDP-free static neighbours.
    Routed,
    /// On the bridge cni0.
    Bridged,
}

/// How to start a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the nodes run.
    pub proxy: Proxy,
    /// The nodes n1, n2, ...
    pub nodes: Vec<PodNet>,
    /// Where certificates, data and logs go. The caller removes it.
    pub folder: PathBuf,
    /// The program that plays the agnhost image.
    pub agnhost: PathBuf,
}

/// A running cluster. Dropping it ends every process and removes every namespace.
#[derive(Debug)]
pub struct Cluster {
    // In the order they end.
    proxies: Vec<NodeProxy>,
    agents: Vec<Agent>,
    plane: ControlPlane,
    kubectl: Kubectl,
    nodes: Vec<Node>,
    world: World,
    hub: Namespace,
    options: Options,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `n1`.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its IPv4 address on the link.
    pub v4: Ipv4Addr,
    /// Its IPv6 address on the link.
    pub v6: Ipv6Addr,
    /// How its pods are attached.
    pub pods: PodNet,
}

// Scenarios run beside each other on one.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Cluster>();
};

impl Cluster {
    /// Starts everything; returns when nodes are Ready, CoreDNS answers behind kube-dns, and every proxy serves.
    ///
    /// # Errors
    /// A program is missing, or a part did not come up in a minute: with the end of its log.
    pub fn start(options: Options) -> io::Result<Self> {
        sweep::sweep();
        let mut timeline = Timeline::begin();
        let hub = Namespace::new("hub")?;
        link::hub(&hub)?;
        let world = World::set_up(&hub)?;
        let pods = options.nodes.iter().enumerate();
        let nodes: Vec<Node> =
            pods.map(|(index, pods)| link::node(&hub, index, *pods)).collect::<Result<_, _>>()?;
        timeline.reached("links");
        let plane = ControlPlane::start(&hub, &options.folder)?;
        timeline.reached("control plane");
        let kubectl = Kubectl::new(&plane.components().kubectl, plane.admin(), &options.folder);
        let mut cluster =
            Self { proxies: Vec::new(), agents: Vec::new(), plane, kubectl, nodes, world, hub, options };
        cluster.install()?;
        cluster.start_agents()?;
        timeline.reached("nodes");
        cluster.start_proxies()?;
        cluster.settle(PATIENCE).map_err(|error| cluster.told(&error))?;
        timeline.reached("proxies");
        cluster.wait("CoreDNS is available", || dns::available(cluster.api()))?;
        for node in &cluster.nodes {
            let answers = || node.namespace.enter(|| dns::answers(Duration::from_secs(1))).unwrap_or(false);
            cluster.wait(&format!("CoreDNS answers {}", node.name), answers)?;
        }
        timeline.reached("name server");
        timeline.print();
        Ok(cluster)
    }

    /// What the nodes run.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        self.options.proxy
    }

    /// The API.
    #[must_use]
    pub fn api(&self) -> &Api {
        self.plane.api()
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The namespace of the control plane.
    #[must_use]
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// The control plane: to be paused, or its history forgotten.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// How it was started.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Runs kubectl with these words and this standard input.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn kubectl(&self, words: &[&str], input: &str) -> io::Result<Output> {
        self.kubectl.run(&self.hub, words, input)
    }

    /// A Kubernetes namespace `name` of its own, removed when the site is dropped.
    ///
    /// # Errors
    /// The API server refuses the name, or does not answer.
    pub fn site(&self, name: &str) -> io::Result<Site<'_>> {
        Site::open(self, name)
    }

    /// A new client off the cluster.
    ///
    /// # Errors
    /// `ip` refuses something, or there are too many.
    pub fn outside(&self) -> io::Result<Outside<'_>> {
        self.world.host(&self.hub)
    }

    /// Has everybody beyond the nodes send what is for this address to a node, as a router in front of them would; with
    /// `None` to nobody.
    ///
    /// # Errors
    /// There is no such node, or nothing to take back.
    pub fn route(&self, ip: IpAddr, node: Option<usize>) -> io::Result<()> {
        outside::route(&self.hub, ip, node.map(|node| self.node(node)).transpose()?)
    }

    /// The proxy of a node.
    ///
    /// # Errors
    /// There is no such node.
    pub fn node_proxy(&self, node: usize) -> io::Result<&NodeProxy> {
        self.proxies.get(node).ok_or_else(|| io::Error::other(format!("there is no node {node}")))
    }

    /// Ends the proxy of a node with SIGKILL (`kill`) or SIGTERM, and starts it again.
    ///
    /// # Errors
    /// There is no such node, or it cannot be started.
    pub fn restart_proxy(&self, node: usize, kill: bool) -> io::Result<()> {
        self.node_proxy(node)?.restart(kill)
    }

    /// Ends the API server with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop_api_server(&self) -> io::Result<()> {
        self.plane.stop_api_server()
    }

    /// Starts it again and waits until it is ready.
    ///
    /// # Errors
    /// It runs, or was not ready in a minute.
    pub fn start_api_server(&self) -> io::Result<()> {
        self.plane.start_api_server()
    }

    /// Cuts a node's own processes, its proxy above all, from the API server: nothing is refused, everything is lost.
    /// Pods are not cut.
    ///
    /// # Errors
    /// There is no such node.
    pub fn cut_from_api(&self, node: usize) -> io::Result<()> {
        link::cut(self.node(node)?)
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// There is no such node, or it was not cut.
    pub fn mend(&self, node: usize) -> io::Result<()> {
        link::mend(self.node(node)?)
    }

    /// Waits until the proxy of every node has served what the API server holds now, by a Service of its own.
    ///
    /// # Errors
    /// One has not within `limit`.
    pub fn settle(&self, limit: Duration) -> io::Result<()> {
        settle::settle(self.api(), &self.nodes, limit)
    }

    /// The last `lines` lines of every log, for a failure's report.
    #[must_use]
    pub fn logs(&self, lines: usize) -> String {
        let mut all = String::new();
        for daemon in self.plane.daemons().chain(self.proxies.iter().map(NodeProxy::daemon)) {
            let _ = writeln!(all, "--- {}\n{}", daemon.name(), daemon.tail(lines));
        }
        all
    }

    /// Where a pod runs.
    pub(super) fn place(&self, namespace: &str, name: &str) -> Option<Place> {
        self.agents.iter().find_map(|agent| agent.place(namespace, name))
    }

    fn node(&self, index: usize) -> io::Result<&Node> {
        self.nodes.get(index).ok_or_else(|| io::Error::other(format!("there is no node {index}")))
    }

    /// The objects everything else needs.
    fn install(&self) -> io::Result<()> {
        let roles = serde_saphyr::from_multiple::<Value>(&rbac::rbac_yaml()).map_err(io::Error::other)?;
        for object in roles.iter().chain([&certs::tunway_binding()]) {
            self.api().create(object).map_err(io::Error::other)?;
        }
        dns::install(&self.plane, &self.options.folder)
    }

    /// Registers the nodes, lays their pods' networks, and has an agent take each.
    fn start_agents(&mut self) -> io::Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            agent::register(self.plane.api(), node, &format!("zone-{}", index + 1))
                .map_err(io::Error::other)?;
        }
        let images = Images::new(self.options.agnhost.clone(), self.plane.components().coredns.clone())?;
        for node in &self.nodes {
            let cidrs = agent::pod_cidrs(self.plane.api(), &node.name)?;
            let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
            let network = PodNetwork::set_up(node.namespace.name(), node.pods, &cidrs)?;
            let others = self.nodes.iter().filter(|other| other.name != node.name);
            for from in others.map(|other| &other.namespace).chain([&self.hub]) {
                agent::route(from, &network.ranges(), node)?;
            }
            let folder = self.options.folder.join(&node.name);
            self.agents.push(Agent::start(self.plane.api(), node, network, images.clone(), folder)?);
        }
        Ok(())
    }

    fn start_proxies(&mut self) -> io::Result<()> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        for node in &self.nodes {
            // `sweep` knows the form.
            let device = format!("tw{}c{number}{}", std::process::id(), node.name);
            let Options { proxy, folder, .. } = &self.options;
            self.proxies.push(NodeProxy::start(*proxy, node, &device, &self.plane, folder)?);
        }
        Ok(())
    }

    fn told(&self, what: &dyn std::fmt::Display) -> io::Error {
        io::Error::other(format!("{what}\n{}", self.logs(20)))
    }

    fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) -> io::Result<()> {
        let begun = SystemTime::now();
        while !condition() {
            if begun.elapsed().unwrap_or_default() > PATIENCE {
                return Err(self.told(&format_args!("{what}: not within {PATIENCE:?}")));
            }
            thread::sleep(Duration::from_millis(25));
        }
        Ok(())
    }
}

/// When each part of the start was reached.
struct Timeline {
    begun: SystemTime,
    text: String,
}

impl Timeline {
    fn begin() -> Self {
        Self { begun: SystemTime::now(), text: String::new() }
    }

    fn reached(&mut self, what: &str) {
        let seconds = self.begun.elapsed().unwrap_or_default().as_secs_f64();
        let _ = write!(self.text, "{} {what} {seconds:.1} s", if self.text.is_empty() { "" } else { "," });
    }

    fn print(&self) {
        println!("measured: cluster up:{}", self.text);
    }
}
