//! The thread of the plan: looks at what the kernel has and changes the difference, so that installing, attracting,
//! repairing and starting again are the same thing.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::super::firewall::Firewall;
use super::super::netlink::{Netlink, is_absent, is_present};
use super::super::plan::{self, LOCAL_TABLE, Way};
use super::super::rt::{Family, Link};
use super::super::view::HostView;
use super::super::watch::{Hint, Interest, Watch};
use super::super::{
    HostConfig, LocalFrontends, NodeError, Steering, device, former, open_forward, settings, snat_faults,
};
use super::routes::{self, Step};
use super::table::{Inputs, Tables};
use super::{Ask, Asked, Repaired, table};
use super::{read, refused};

/// Serves `asked` until nobody asks any more.
pub(super) fn run(
    config: HostConfig,
    installed: oneshot::Sender<Result<(), NodeError>>,
    asked: mpsc::Receiver<Asked>,
    tell: &mpsc::Sender<Repaired>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = installed.send(Err(refused("start the host plan's runtime")(error)));
            return;
        }
    };
    runtime.block_on(async {
        match Worker::install(config) {
            Ok(mut worker) => {
                if installed.send(Ok(())).is_ok() {
                    worker.live(asked, tell).await;
                }
            }
            // Whoever asked may have gone.
            Err(error) => drop(installed.send(Err(error))),
        }
    });
}

struct Worker {
    config: HostConfig,
    netlink: Netlink,
    /// With aliases.
    tables: Option<Tables>,
    watch: Watch,
    firewall: Option<Firewall>,
    /// The virtual addresses to attract; `None` until the first time.
    vips: Option<BTreeSet<IpAddr>>,
    local: LocalFrontends,
    /// What this host was like at the last look.
    seen: Option<Seen>,
    due: Option<Instant>,
    next_look: Instant,
    firewall_due: Option<Instant>,
    next_firewall_look: Instant,
    /// What could not be done last time, so that it is logged once.
    refused: Option<String>,
}

/// What of this host the plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    inputs: Inputs,
    ways: Vec<Way>,
    own: BTreeSet<IpAddr>,
}

impl Worker {
    fn install(config: HostConfig) -> Result<Self, NodeError> {
        let mut netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
        let aliases = config.steering == Steering::Alias;
        let interest = match (config.opens_forward(), aliases) {
            (true, _) => Interest::Everything,
            (false, true) => Interest::OurTable,
            (false, false) => Interest::Nothing,
        };
        let watch = Watch::open(interest).map_err(refused("watch the host's routes"))?;
        let view = read(&mut netlink, &config, None)?;
        if let Some(fault) = snat_faults(&config, &view).into_iter().next() {
            return Err(fault);
        }
        if !view.ipv6 {
            tracing::info!("this kernel does no IPv6: only IPv4 routes are made");
        }
        let firewall = if config.opens_forward() { Some(open_forward(&config, &mut netlink)?) } else { None };
        let mut tables = if aliases { Some(Tables::open()?) } else { None };
        // What an earlier process served goes on until somebody says what is served now.
        let local = tables.as_mut().map(Tables::found).transpose()?.unwrap_or_default();
        let now = Instant::now();
        let mut worker = Self {
            config,
            netlink,
            tables,
            watch,
            firewall,
            vips: None,
            local,
            seen: None,
            due: None,
            next_look: now + LOOK_EVERY,
            firewall_due: None,
            next_firewall_look: now + LOOK_EVERY,
            refused: None,
        };
        worker.converge()?.fail()?;
        former::replace(&mut worker.netlink, &worker.config)?;
        if !aliases {
            for gone in table::remove()? {
                tracing::info!(gone, "left by a run with another return path");
            }
        }
        Ok(worker)
    }

    async fn live(&mut self, mut asked: mpsc::Receiver<Asked>, tell: &mpsc::Sender<Repaired>) {
        loop {
            let look = self.due.unwrap_or(self.next_look).min(self.next_look);
            let firewall = self.firewall_due.unwrap_or(self.next_firewall_look).min(self.next_firewall_look);
            tokio::select! {
                ask = asked.recv() => {
                    let Some((ask, answer)) = ask else { return };
                    let _ = answer.send(self.answer(ask));
                }
                hint = self.watch.changed() => match hint {
                    // The first of a burst sets the time: a storm cannot put it off.
                    Ok(Hint::Network) => { self.due.get_or_insert_with(|| Instant::now() + DEBOUNCE); }
                    Ok(Hint::Firewall) => {
                        self.firewall_due.get_or_insert_with(|| Instant::now() + FIREWALL_DEBOUNCE);
                    }
                    Err(error) => {
                        let error = refused("watch the host's routes")(error);
                        if tell.send(Err(error)).await.is_err() { return }
                        sleep_until(Instant::now() + RETRY).await;
                    }
                },
                () = sleep_until(look.min(firewall)) => {
                    let repaired = self.look();
                    if !repaired.as_ref().is_ok_and(Vec::is_empty) && tell.send(repaired).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<(), NodeError> {
        match ask {
            Ask::Attract { cidrs, vips } => {
                if let Some(cidrs) = cidrs {
                    self.config.service_cidrs = cidrs.into_iter().collect();
                }
                let before = self.unserved();
                self.vips = Some(vips);
                let outcome = self.converge()?.fail();
                for vip in self.unserved().difference(&before) {
                    tracing::warn!(
                        %vip,
                        "a virtual address is an address of this host, which keeps its packets: it is not served from here"
                    );
                }
                outcome
            }
            Ask::Serve(local) => {
                if let Some(tables) = self.tables.as_mut().filter(|_| self.local != local) {
                    tables.serve(&local)?;
                    if let Some(seen) = &mut self.seen {
                        seen.inputs.local.clone_from(&local);
                    }
                    self.local = local;
                }
                Ok(())
            }
        }
    }

    /// Virtual addresses of this host itself, where there is nothing to steer them by.
    fn unserved(&self) -> BTreeSet<IpAddr> {
        let own = self.seen.iter().flat_map(|seen| &seen.own).copied().collect();
        let vips = self.vips.iter().filter(|_| self.tables.is_none()).flatten().copied();
        vips.collect::<BTreeSet<_>>().intersection(&own).copied().collect()
    }

    /// Whatever is due: what was put back. What only follows a change of this host is logged and no repair.
    fn look(&mut self) -> Repaired {
        let now = Instant::now();
        let mut done = Vec::new();
        if self.due.unwrap_or(self.next_look).min(self.next_look) <= now {
            (self.due, self.next_look) = (None, now + LOOK_EVERY);
            let before = self.seen.clone();
            let work = self.converge().inspect_err(|_| self.due = Some(now + RETRY))?;
            let refused = work.refused.first().map(|(what, error)| format!("{what}: {error}"));
            if refused.is_some() {
                self.due = Some(now + RETRY);
            }
            self.complain(refused.or(work.wrong));
            if before == self.seen {
                done.extend(work.done);
            } else if !work.done.is_empty() {
                tracing::info!(changed = ?work.done, "followed a change of this host");
            }
        }
        if self.firewall_due.unwrap_or(self.next_firewall_look).min(self.next_firewall_look) <= now {
            let pace = if self.firewall.is_some() { LOOK_EVERY } else { LOOK_AT_TABLES_EVERY };
            (self.firewall_due, self.next_firewall_look) = (None, now + pace);
            done.extend(self.mend_firewall());
        }
        Ok(done)
    }

    /// Looks and changes the difference, without waiting for anybody but the kernel.
    fn converge(&mut self) -> Result<Work, NodeError> {
        let view = read(&mut self.netlink, &self.config, self.vips.as_ref())?;
        let device = self.config.device.clone();
        let Some(link) = view.link(&device).cloned() else { return Err(NodeError::NoDevice { device }) };
        let mut work = Work::default();
        for fault in device::faults(&link, &view.addresses, self.config.queue_length) {
            match fault.mend(&mut self.netlink, &link) {
                // Without these the device works; where /proc/sys is read-only there is no other way to set them.
                Err(error) if fault.is_minor() => {
                    tracing::debug!(setting = fault.text(&device), %error, "left as it is");
                }
                Err(error) => work.refused.push((fault.text(&device), error)),
                Ok(()) => work.done.push(fault.text(&device)),
            }
        }
        let inputs = Inputs::of(&self.config, &self.local, &view);
        if let Some(tables) = &mut self.tables {
            work.done.extend(settings::set_conntrack(self.config.max_flows));
            match tables.ensure(&inputs) {
                Ok(done) => work.done.extend(done),
                Err(error) => {
                    work.refused.push(("nft table".to_owned(), io::Error::other(error.to_string())));
                }
            }
            // The first rule that asks for connection tracking may be what loads it.
            work.done.extend(settings::set_conntrack(self.config.max_flows));
            work.wrong = settings::bridges_wrong(&self.config.families(), &view);
        }
        let mut ways = Vec::new();
        for family in view.families() {
            ways.push(self.route(family, &view, &link, &mut work)?);
        }
        // The device's own address is ours to keep, not the host's.
        let own = view.addresses.iter().filter(|own| own.link != link.index);
        let own = own.map(|address| address.address).collect();
        self.seen = Some(Seen { inputs, ways, own });
        Ok(work)
    }

    fn route(
        &mut self,
        family: Family,
        view: &HostView,
        link: &Link,
        work: &mut Work,
    ) -> Result<Way, NodeError> {
        let device = &self.config.device;
        let way = Way { source: view.node_address(family, device), mtu: view.route_mtu(device) };
        let config = &self.config;
        let mut wanted =
            plan::destinations(family, &config.snat, &config.service_cidrs, self.vips.as_ref(), view);
        if self.tables.is_some() {
            wanted.extend(routes::aliases(family));
        }
        let existing = self.netlink.routes(family, LOCAL_TABLE).map_err(refused("read the local table"))?;
        let mut steps = routes::diff(&existing, &wanted, way, link.index);
        if self.vips.is_none() {
            // What an earlier process attracted is attracted until somebody says what is.
            steps.retain(|step| !step.removes());
        }
        self.carry_out(&steps, link.index, work);
        Ok(way)
    }

    fn carry_out(&mut self, steps: &[Step], device: u32, work: &mut Work) {
        let changes = steps.iter().map(|step| step.change(device)).collect();
        for (step, outcome) in steps.iter().zip(self.netlink.change_all(changes)) {
            match outcome {
                Ok(()) => work.done.push(step.text(&self.config.device)),
                // Somebody else was quicker.
                Err(error) if is_present(&error) || (step.removes() && is_absent(&error)) => {}
                Err(error) => work.refused.push((step.text(&self.config.device), error)),
            }
        }
    }

    fn mend_firewall(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        let mut said = None;
        if let Some(firewall) = &self.firewall {
            match firewall.accept_device() {
                Ok(accepted) => done.extend(accepted),
                Err(error) => said = Some(error.to_string()),
            }
        }
        match self.tables.as_mut().map(Tables::look) {
            Some(Ok(written)) => done.extend(written),
            Some(Err(error)) => said = Some(error.to_string()),
            None => {}
        }
        if said.is_some() {
            self.complain(said);
        }
        done
    }

    fn complain(&mut self, refused: Option<String>) {
        if let Some(what) = refused.as_ref().filter(|_| refused != self.refused) {
            tracing::warn!(
                what,
                "the host is not as tunway needs it, and could not be put right; trying again"
            );
        }
        self.refused = refused;
    }
}

/// What a look led to.
#[derive(Debug, Default)]
struct Work {
    done: Vec<String>,
    refused: Vec<(String, io::Error)>,
    /// Something that is not ours to put right.
    wrong: Option<String>,
}

impl Work {
    fn fail(mut self) -> Result<(), NodeError> {
        match self.refused.pop() {
            Some((what, source)) => Err(NodeError::Refused { doing: format!("set {what}"), source }),
            None => Ok(()),
        }
    }
}

/// From the first sign of a change to the look at it: what comes together is put back together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The same for the firewall: looking costs processes, and CNI plugins write rules in bursts.
const FIREWALL_DEBOUNCE: Duration = Duration::from_millis(300);
/// Something the kernel refused is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Some changes are not announced (`accept_local`, legacy iptables): a look at least this often finds them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Changes of nftables' rules are announced.
const LOOK_AT_TABLES_EVERY: Duration = Duration::from_secs(60);
