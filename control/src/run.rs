//! `tunway run`: everything wired together, in the order in which nothing is lost.
//!
//! Preflight, then the device under its lock, then rules, then workers that serve known flows and answer nothing
//! else, then the source; with the first complete snapshot the routes that attract traffic, and only then ready. A stop
//! is the same backwards, but for what stays for the next process: device, routes, rules and flows. The loop itself is
//! in [`lifecycle`], the state it owns in [`state`].

pub mod device;
pub mod fabric;
pub mod kept;
pub mod lifecycle;
pub mod news;
pub mod overlap;
pub mod place;
pub mod reload;
pub mod state;
pub mod steering;
pub mod troubles;

use std::time::Duration;

use anyhow::Context;
use dataplane::flow::{RegionConfig, region_bytes};
use dataplane::io::DeviceConfig;
use dataplane::plane::{Plane, PlaneConfig};
use dataplane::service::ReturnPath;
use tokio::sync::{mpsc, watch};

use crate::cli::Failure;
use crate::config::file::ConfigFile;
use crate::config::{Config, ConfigError, SourceConfig, rules};
use crate::node::{self, Finding, Host, HostConfig, Lookout, NodeError, Steering, Surroundings};
use crate::signal::{self, Stop};
use crate::socket::Socket;
use crate::source::Source;
use crate::source::manifests::Manifests;
use crate::watch::{Api, ClientConfig};

use lifecycle::Lifecycle;
use reload::{Origin, Reloads};
use state::State;

/// Events that may wait between the source and the loop.
const EVENTS: usize = 1024;
/// Questions that may wait between the control socket and the loop.
const ASKS: usize = 16;
/// Workers end within one turn; longer means one hangs.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Serves until a signal, by what `origin` gave.
///
/// # Errors
/// What `run` cannot do without is missing or ends.
pub fn run(given: ConfigFile, origin: Origin) -> Result<(), Failure> {
    let config = Config::resolve(given.clone(), &origin.machine)?;
    rules::needs_snat(config.return_path, &config.snat)?;
    for said in given.obsolete() {
        tracing::info!("{said}");
    }
    let runtime = runtime()?;
    runtime.block_on(async {
        let stops = signal::catch().context("cannot catch signals")?;
        let hangups = reload::hangups().context("cannot catch SIGHUP")?;
        let source = source(&config).await?;
        let (tell, rereads) = mpsc::channel(1);
        let machine = origin.machine.clone();
        let following = tokio::spawn(reload::follow(origin, hangups, tell));
        let served = serve(config, source, stops, Some(Reloads { rereads, running: given, machine })).await;
        following.abort();
        served
    })
}

/// The one runtime of the control plane: this thread.
///
/// # Errors
/// The system gives no epoll or timer descriptor.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

/// Serves what `source` says, in the network namespace of the calling thread, until a stop. `reloads` brings what the
/// configuration file says later.
///
/// # Errors
/// The host cannot be used as it is, or a part of tunway failed.
pub async fn serve(
    config: Config,
    source: Box<dyn Source>,
    mut stops: mpsc::Receiver<Stop>,
    reloads: Option<Reloads>,
) -> Result<(), Failure> {
    crate::descriptors::raise();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        device = config.device,
        node = config.node_name,
        "starting"
    );
    let host_config = host_config(&config);
    preflight(&host_config).await?;

    let device = DeviceConfig {
        name: config.device.clone(),
        queues: config.workers,
        lock_dir: config.run_dir.clone(),
        ..DeviceConfig::default()
    };
    let opened = device::open(&device, &mut stops).await.context("cannot have the device")?;
    let Some(device) = opened else { return Ok(()) };
    // The lock is ours: whatever file a dead process left at the socket's path may go.
    let socket = Socket::bind(&config.socket)
        .with_context(|| format!("cannot open the control socket {}", config.socket.display()))?;
    let host = Host::install(host_config).await.context("cannot set up device and rules")?;
    let around = look_around(&config).context("cannot look at this host")?;
    let plane =
        Plane::start(&plane_config(&config), device.into_queues()).context("cannot start the workers")?;

    let (events, from_source) = mpsc::channel(EVENTS);
    let (asks, asked) = mpsc::channel(ASKS);
    let servers = source.reached_at();
    let reading = tokio::spawn(source.run(events));
    let answering = tokio::spawn(socket.serve(asks));
    let mut state = State::new(&config, plane);
    state.spare(servers);
    let mut lifecycle = Lifecycle::new(state, host, config.drain);
    if let Some(reloads) = reloads {
        lifecycle = lifecycle.reloading(reloads);
    }
    let (here, lookout) = around;
    lifecycle = lifecycle.surrounded(here);
    let looking = tokio::spawn(lookout);
    let ended = lifecycle.live(from_source, asked, stops).await;

    // All end by themselves when their channels close; none may keep us.
    looking.abort();
    reading.abort();
    answering.abort();
    let _ = answering.await;
    let stopped = lifecycle.into_state().stop(STOP_DEADLINE);
    ended?;
    stopped.context("cannot stop cleanly")?;
    tracing::info!(
        "stopped; device, routes and rules stay for the next start (`tunway cleanup` removes them)"
    );
    Ok(())
}

/// What this host is like now, before the first flow: who is local decides about its source, and who is there about the
/// Service CIDRs. And what follows it.
fn look_around(
    config: &Config,
) -> Result<(watch::Receiver<Surroundings>, impl Future<Output = ()> + use<>), NodeError> {
    let mut lookout = Lookout::open(config.detect_local.clone())?;
    let (tell, here) = watch::channel(lookout.look()?);
    Ok((here, lookout.run(tell)))
}

/// Refuses to start where it cannot work; logs what is only worth knowing.
async fn preflight(host: &HostConfig) -> anyhow::Result<()> {
    let findings = node::preflight(host).await;
    let (fatal, notes): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.fatal);
    for note in notes {
        tracing::warn!(remedy = note.remedy, "{}: {}; the start goes on", note.what, note.why);
    }
    if fatal.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("this host is not ready:{}", list(&fatal)))
}

/// One finding a paragraph: what, why, remedy.
fn list(findings: &[Finding]) -> String {
    let line =
        |finding: &Finding| format!("\n  {}: {}\n    remedy: {}", finding.what, finding.why, finding.remedy);
    findings.iter().map(line).collect()
}

/// What the host plan needs of a configuration.
#[must_use]
pub fn host_config(config: &Config) -> HostConfig {
    HostConfig {
        device: config.device.clone(),
        steering: match config.return_path {
            ReturnPath::Masquerade => Steering::Snat,
            ReturnPath::ConnMark => Steering::Alias,
        },
        queue_length: config.queue_length,
        snat: config.snat.clone(),
        service_cidrs: config.service_cidrs.clone(),
        take_over: config.take_over,
        forward_accept: config.forward_accept,
        max_flows: u64::from(config.max_flows_v4) + u64::from(config.max_flows_v6),
        node_port_range: config.node_port_range,
    }
}

fn plane_config(config: &Config) -> PlaneConfig {
    let region = RegionConfig {
        dir: None,
        name: config.device.clone(),
        max_flows_v4: config.max_flows_v4,
        max_flows_v6: config.max_flows_v6,
    };
    let dir = place::region_dir(&config.flows, &region.name, region_bytes(&region) as u64);
    PlaneConfig {
        region: RegionConfig { dir, ..region },
        ttls: config.timeouts.clone(),
        engine: config.engine(),
        max_affinity: config.max_affinity,
    }
}

/// The source a configuration names. An API that does not answer is no error: the source waits for it.
///
/// # Errors
/// The kubeconfig cannot be used, or none is given and this is no pod.
pub async fn source(config: &Config) -> Result<Box<dyn Source>, ConfigError> {
    match &config.source {
        SourceConfig::Manifests { dir } => Ok(Box::new(Manifests::new(dir, &config.node_name))),
        SourceConfig::Kubernetes { kubeconfig } => {
            let client = ClientConfig {
                kubeconfig: kubeconfig.clone(),
                node_name: config.node_name.clone(),
                service_cidrs: config.service_cidrs.clone(),
                ..ClientConfig::default()
            };
            let api = Api::new(&client).await.map_err(|error| {
                let remedy = error.remedy();
                ConfigError::new("source.kubernetes", error, remedy)
            })?;
            Ok(Box::new(api))
        }
    }
}
