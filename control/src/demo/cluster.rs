//! The cluster's machines: a namespace for each pod, one for the gateway, a veth pair from each pod to the gateway.
//!
//! Every pod has a network of its own and the gateway as its default route, as on a node without a bridge. The
//! gateway is an ordinary router but for tunway on it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::mpsc as events;

use super::controllers::{self, Pod};
use super::pod;
use super::stage::Stage;
use crate::cli::Failure;
use crate::config::file::{ConfigFile, MaxFlows, SourceFile};
use crate::config::{Config, FlowPlace, Machine};
use crate::netns::Namespace;
use crate::run;
use crate::signal::Stop;

/// The client pod's name, as in the walkthrough.
pub const CLIENT: &str = "test-client";
/// The gateway's namespace.
pub const GATEWAY: &str = "gateway";
/// The source pods see. TEST-NET-1: nobody's; the pods' default route brings replies to the gateway.
pub const SNAT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// The client pod's address.
pub const CLIENT_ADDR: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 2);
const MTU: u32 = 1500;
/// Enough for many requests, and a chunk for each of eight workers.
const FLOWS: u32 = 32_768;
/// Servers listen within milliseconds.
const SERVER_START: Duration = Duration::from_secs(10);
/// Workers stop within one turn; `run` has a deadline of its own.
const GATEWAY_STOP: Duration = Duration::from_secs(15);

/// The machines. Dropping it takes the namespaces away.
#[derive(Debug)]
pub struct Machines {
    /// The client pod.
    pub client: Namespace,
    gateway: Namespace,
    _pods: Vec<Namespace>,
}

/// tunway at work on the gateway.
#[derive(Debug)]
pub struct Gateway {
    /// Its control socket.
    pub socket: PathBuf,
    stops: events::Sender<Stop>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Machines {
    /// Makes namespaces and links, and starts a web server in every pod.
    ///
    /// # Errors
    /// The kernel refuses, or a server cannot listen.
    pub fn build(stage: &Stage, pods: &[Pod]) -> anyhow::Result<Self> {
        let gateway = Namespace::create(&stage.name_of(GATEWAY))?;
        gateway.set_sysctl("net/ipv4/ip_forward", "1")?;
        let client = Namespace::create(&stage.name_of(CLIENT))?;
        link(&gateway, &client, "client", CLIENT_ADDR)?;
        let mut homes = Vec::new();
        let (ready, started) = mpsc::channel();
        for (number, pod) in pods.iter().enumerate() {
            let home = Namespace::create(&stage.name_of(&pod.name))?;
            link(&gateway, &home, &format!("pod{}", number + 1), pod.addr)?;
            let (pod, ready) = (pod.clone(), ready.clone());
            home.spawn("pod", move || pod::serve(&pod.name, pod.addr.into(), &pod.listens, &ready))?;
            homes.push(home);
        }
        for _ in pods {
            started.recv_timeout(SERVER_START).context("a pod's server did not start")??;
        }
        Ok(Self { client, gateway, _pods: homes })
    }

    /// Starts tunway in the gateway's namespace, on manifests in `dir`.
    ///
    /// # Errors
    /// The configuration is not accepted, or there is no thread.
    pub fn start_gateway(&self, dir: &Path, manifests: &Path) -> anyhow::Result<Gateway> {
        let config = config(dir, manifests)?;
        let socket = config.socket.clone();
        let (stops, caught) = events::channel(2);
        let serve = move || -> Result<(), Failure> {
            run::runtime()?.block_on(async {
                let source = run::source(&config).await?;
                run::serve(config, source, caught, None).await
            })
        };
        let thread = self.gateway.spawn(GATEWAY, serve)?;
        Ok(Gateway { socket, stops, thread })
    }
}

/// The gateway's end is `.1`, the pod's `.2`, the rest of the world behind the gateway.
fn link(gateway: &Namespace, pod: &Namespace, device: &str, addr: Ipv4Addr) -> anyhow::Result<()> {
    let [a, b, c, _] = addr.octets();
    let router = IpAddr::from([a, b, c, 1]);
    gateway.connect(device, pod, "eth0", MTU)?;
    gateway.add_address(device, router, 24)?;
    pod.add_address("eth0", addr.into(), 24)?;
    pod.add_route((Ipv4Addr::UNSPECIFIED.into(), 0), Some(router), Some("eth0"))?;
    Ok(())
}

/// What `tunway run` would be told on this gateway.
fn config(dir: &Path, manifests: &Path) -> anyhow::Result<Config> {
    let (net, len) = controllers::SERVICE_CIDR;
    let file = ConfigFile {
        max_flows: Some(MaxFlows { ipv4: Some(FLOWS), ipv6: Some(FLOWS) }),
        service_cidrs: Some(vec![format!("{net}/{len}")]),
        snat_addresses: Some(vec![SNAT]),
        source: Some(SourceFile { manifests: Some(manifests.to_owned()), ..SourceFile::default() }),
        node_name: Some(GATEWAY.to_owned()),
        socket: Some(dir.join("tunway0.sock")),
        drain_seconds: Some(0),
        ..ConfigFile::default()
    };
    let config = Config::resolve(file, &Machine::here())?;
    Ok(Config { run_dir: dir.to_owned(), flows: FlowPlace::Memory, ..config })
}

impl Gateway {
    /// It ended on its own.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops it and waits for it, for a bounded time.
    ///
    /// # Errors
    /// It had failed, or does not end.
    pub fn stop(self) -> anyhow::Result<()> {
        // A run that ended by itself listens no more.
        let _ = self.stops.blocking_send(Stop { why: "the demo is over" });
        let (done, ended) = mpsc::channel();
        let waiter = move || done.send(self.thread.join());
        std::thread::Builder::new()
            .name("gateway-stop".into())
            .spawn(waiter)
            .context("cannot start a thread")?;
        match ended.recv_timeout(GATEWAY_STOP) {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(failure))) => Err(anyhow!("{failure}")),
            Ok(Err(_)) => Err(anyhow!("tunway panicked")),
            Err(_) => Err(anyhow!("tunway did not stop within {} s", GATEWAY_STOP.as_secs())),
        }
    }
}
