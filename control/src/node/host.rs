//! The plan in place: everything is made by looking at what the kernel has and changing the difference, so that
//! installing, attracting, repairing and starting again are the same thing.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::firewall::Firewall;
use super::netlink::{Change, Netlink, is_absent, is_present};
use super::plan::{self, OurRule, RouteDiff, TABLE, Way};
use super::rt::{Family, Link, Prefix, Rule};
use super::steer::{self, Steer};
use super::view::HostView;
use super::watch::{Hint, Interest, Watch};
use super::{HostConfig, LocalFrontends, NodeError, device, open_forward, snat_faults};

pub(super) use self::marks::inputs;

mod local;
mod marks;

/// The plan in place: watched and repaired.
///
/// It belongs to the network namespace of the thread that installs it; poll it on threads of that namespace.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    netlink: Netlink,
    watch: Watch,
    firewall: Option<Firewall>,
    /// With connection marks.
    steer: Option<Steer>,
    /// The virtual addresses to attract; `None` until the first time.
    vips: Option<BTreeSet<IpAddr>>,
    /// They were, the last time: nothing was refused.
    attracted: bool,
    /// What is served at addresses of this host, and whether nothing of it was refused the last time.
    local: LocalFrontends,
    served: bool,
    /// Addresses of this host, as last seen.
    own: BTreeSet<IpAddr>,
    /// When to look at the host because something happened, and when at the latest.
    due: Option<Instant>,
    next_look: Instant,
    /// The same for the firewall, which costs a few processes.
    firewall_due: Option<Instant>,
    next_firewall_look: Instant,
    /// What could not be done last time, so that it is logged once.
    refused: Option<String>,
}

impl Host {
    /// Device settings, rules 200 and 100, the routes to the SNAT addresses; not yet rule 110. With connection marks
    /// also connection tracking's settings, rule 105 with its table, and the nftables rules; without, what an earlier
    /// process left of these goes. What else it left is taken over as it is. Idempotent.
    ///
    /// The device must exist. With `take_over`, what is left of kube-proxy is removed; with that or `forward_accept`, a
    /// firewall that drops forwarded packets is told to accept the device's.
    ///
    /// # Errors
    /// The device is missing, a SNAT address cannot work on this host, or the kernel refuses something.
    pub async fn install(config: HostConfig) -> Result<Self, NodeError> {
        let mut netlink = Netlink::open().map_err(refused("open a netlink socket"))?;
        let watch = Watch::open(interest(&config)).map_err(refused("watch the host's routes"))?;
        let view = read(&mut netlink, &config, None)?;
        if let Some(fault) = snat_faults(&config, &view).into_iter().next() {
            return Err(fault);
        }
        if !view.ipv6 {
            tracing::info!("this kernel does no IPv6: only IPv4 rules and routes are made");
        }
        let firewall = if config.opens_forward() { Some(open_forward(&config, &mut netlink)?) } else { None };
        let steer = if config.marks().is_some() {
            Some(Steer::find().ok_or(NodeError::NoNft)?)
        } else {
            for gone in steer::remove(&config.device)? {
                tracing::info!(gone, "left by a run with connection marks");
            }
            None
        };
        // What an earlier process served goes on until somebody says what is served now.
        let local = steer.as_ref().map(Steer::found).transpose()?.unwrap_or_default();
        let now = Instant::now();
        let mut host = Self {
            config,
            netlink,
            watch,
            firewall,
            steer,
            vips: None,
            attracted: false,
            local,
            served: false,
            own: BTreeSet::new(),
            due: None,
            next_look: now + LOOK_EVERY,
            firewall_due: None,
            next_firewall_look: now + LOOK_EVERY,
            refused: None,
        };
        let mut work = host.converge()?;
        work.fail()?;
        for done in work.done {
            tracing::debug!(done, "host plan");
        }
        Ok(host)
    }

    /// Routes for the Service CIDRs and for exactly those of `vips` that lie outside them; rule 110 last, the first
    /// time. New routes come before old ones go.
    ///
    /// A virtual address that is an address of this host gets no route, which would take all of it: with connection
    /// marks [`Host::serve`] has its ports, without it is not served from here, and the log says so.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses something; the rest is done. The next call tries again, also with the
    /// same addresses, and so does [`Host::repair`].
    pub async fn attract(&mut self, vips: &BTreeSet<IpAddr>) -> Result<(), NodeError> {
        let outside = |vips: &BTreeSet<IpAddr>| -> BTreeSet<IpAddr> {
            plan::outside_cidrs(vips, &self.config.service_cidrs).copied().collect()
        };
        let local_before = self.local_vips();
        let unchanged = self.vips.as_ref().is_some_and(|old| outside(old) == outside(vips));
        self.vips = Some(vips.clone());
        let outcome = if unchanged && self.attracted {
            Ok(())
        } else {
            self.converge().and_then(|mut work| work.fail())
        };
        self.attracted = outcome.is_ok();
        let unserved = self.local_vips().into_iter().filter(|_| !self.config.keeps_sources());
        for vip in unserved.filter(|vip| !local_before.contains(vip)) {
            tracing::warn!(
                %vip,
                "a virtual address is an address of this host, which keeps its packets: it is not served from here"
            );
        }
        outcome
    }

    /// The Service CIDRs are now these: the next [`Host::attract`] routes them, and no others.
    pub fn set_service_cidrs(&mut self, cidrs: &BTreeSet<(IpAddr, u8)>) {
        let cidrs: Vec<_> = cidrs.iter().copied().collect();
        if self.config.service_cidrs != cidrs {
            self.config.service_cidrs = cidrs;
            self.attracted = false;
        }
    }

    /// Virtual addresses that this host has itself, and that therefore get no route.
    #[must_use]
    pub fn local_vips(&self) -> BTreeSet<IpAddr> {
        self.vips.iter().flatten().filter(|vip| self.own.contains(vip)).copied().collect()
    }

    /// Waits until somebody changed something of ours, puts it back, and says what was put back. What we change
    /// ourselves is no reason to return; what the kernel refuses is logged and tried again.
    ///
    /// Cancel-safe: what was noticed is kept, so the future may be dropped and made again at any time.
    ///
    /// # Errors
    /// The device is gone (the dataplane's queues with it), or the kernel cannot be asked any more.
    pub async fn repair(&mut self) -> Result<Vec<String>, NodeError> {
        loop {
            let mut done = Vec::new();
            let now = Instant::now();
            if self.due.unwrap_or(self.next_look).min(self.next_look) <= now {
                (self.due, self.next_look) = (None, now + LOOK_EVERY);
                let work = self.converge()?;
                let refused = work.refused.first().map(|(what, error)| format!("{what}: {error}"));
                if refused.is_some() {
                    self.due = Some(now + RETRY);
                }
                self.complain(refused.or(work.wrong));
                done.extend(work.done);
            }
            if self.firewall_due.unwrap_or(self.next_firewall_look).min(self.next_firewall_look) <= now {
                (self.firewall_due, self.next_firewall_look) = (None, now + self.firewall_pace());
                done.extend(self.mend_firewall());
            }
            if !done.is_empty() {
                return Ok(done);
            }
            let look = self.due.unwrap_or(self.next_look).min(self.next_look);
            let firewall = self.firewall_due.unwrap_or(self.next_firewall_look).min(self.next_firewall_look);
            tokio::select! {
                hint = self.watch.changed() => match hint.map_err(refused("watch the host's routes"))? {
                    // The first of a burst sets the time: a storm cannot put it off.
                    Hint::Network => { self.due.get_or_insert_with(|| Instant::now() + DEBOUNCE); }
                    Hint::Firewall => { self.firewall_due.get_or_insert_with(|| Instant::now() + FIREWALL_DEBOUNCE); }
                },
                () = sleep_until(look.min(firewall)) => {}
            }
        }
    }

    /// Looks and changes the difference, without waiting for anybody but the kernel.
    fn converge(&mut self) -> Result<Work, NodeError> {
        let view = read(&mut self.netlink, &self.config, self.vips.as_ref())?;
        self.own = view.addresses.iter().map(|address| address.address).collect();
        let device = self.config.device.clone();
        let Some(link) = view.link(&device).cloned() else { return Err(NodeError::NoDevice { device }) };
        let mut work = Work::default();
        for fault in device::faults(&link, &view.addresses, self.config.queue_length) {
            match fault.mend(&mut self.netlink, &link) {
                // Without these the device works; where /proc/sys is read-only there is no other way to set them.
                Err(error) if fault.is_minor() => {
                    tracing::debug!(setting = fault.text(&device), %error, "left as it is");
                }
                outcome => work.note(fault.text(&device), outcome),
            }
        }
        self.set_conntrack(&mut work);
        let mut rules = Vec::new();
        for family in view.families() {
            let found = self.netlink.rules(family).map_err(refused("read the rules"))?;
            for rule in [OurRule::End, OurRule::Skip] {
                self.ensure_rule(rule, family, &found, &mut work);
            }
            self.mark_replies(family, &found, &view, &link, &mut work)?;
            rules.push((family, found));
        }
        self.steer_replies(&view, &mut work);
        for (family, rules) in rules {
            let wanted = plan::destinations(
                family,
                &self.config.snat,
                &self.config.service_cidrs,
                self.vips.as_ref(),
                &view,
            );
            let stale = self.add_routes(TABLE, &wanted, family, &view, &link, &mut work)?;
            if self.vips.is_some() {
                self.ensure_rule(OurRule::Lookup, family, &rules, &mut work);
                self.change_all(stale, &mut work);
            }
        }
        Ok(work)
    }

    fn ensure_rule(&mut self, rule: OurRule, family: Family, rules: &[Rule], work: &mut Work) {
        let device = &self.config.device;
        if !rules.iter().any(|found| rule.is(found, device)) {
            let (message, flags) = rule.add(family, device);
            let outcome = self.netlink.change(message, flags);
            work.note(rule.text(family, device), outcome);
        }
    }

    /// Adds and corrects; gives back what is to be removed.
    fn add_routes(
        &mut self,
        table: u32,
        wanted: &BTreeSet<Prefix>,
        family: Family,
        view: &HostView,
        link: &Link,
        work: &mut Work,
    ) -> Result<Vec<(String, Change)>, NodeError> {
        let device = self.config.device.clone();
        let way = Way { source: view.node_address(family, &device), mtu: view.route_mtu(&device) };
        let existing = self.netlink.routes(family, table).map_err(refused(&format!("read table {table}")))?;
        let RouteDiff { add, remove } = plan::diff(&existing, wanted, way, link.index);
        let text = |prefix| plan::route_text(prefix, table, &device);
        let add = add.into_iter().map(|route| (text(route.0), plan::add_route(route, table, link.index)));
        self.change_all(add.collect(), work);
        let remove = remove.into_iter();
        Ok(remove.map(|to| (format!("no {}", text(to)), plan::remove_route(to, table))).collect())
    }

    fn change_all(&mut self, changes: Vec<(String, Change)>, work: &mut Work) {
        let (texts, changes): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        for (text, outcome) in texts.into_iter().zip(self.netlink.change_all(changes)) {
            work.note(text, outcome);
        }
    }

    /// How often to look at the firewall without a hint: legacy iptables gives none.
    fn firewall_pace(&self) -> Duration {
        if self.firewall.is_some() { LOOK_EVERY } else { LOOK_AT_TABLES_EVERY }
    }

    fn mend_firewall(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        let mut said = None;
        if let Some(firewall) = &self.firewall {
            firewall
                .accept_device()
                .map_or_else(|error| said = Some(error), |accepted| done.extend(accepted));
        }
        if let Some(steer) = &mut self.steer {
            steer.look().map_or_else(|error| said = Some(error), |written| done.extend(written));
        }
        if let Some(error) = said {
            self.complain(Some(error.to_string()));
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
    /// It was made just now, or was there before.
    fn done_or_had(&self, what: &str, had: bool) -> bool {
        had || self.done.iter().any(|done| done == what)
    }

    fn note(&mut self, what: String, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.done.push(what),
            // Somebody else was quicker.
            Err(error) if is_present(&error) || (what.starts_with("no ") && is_absent(&error)) => {}
            Err(error) => self.refused.push((what, error)),
        }
    }

    fn fail(&mut self) -> Result<(), NodeError> {
        match self.refused.pop() {
            Some((what, source)) => Err(NodeError::Refused { doing: format!("set {what}"), source }),
            None => Ok(()),
        }
    }
}

/// Which firewall changes there is something to do about.
fn interest(config: &HostConfig) -> Interest {
    match (config.opens_forward(), config.marks()) {
        (true, _) => Interest::Everything,
        (false, Some(_)) => Interest::OurTables,
        (false, None) => Interest::Nothing,
    }
}

/// The host as it is now.
pub(super) fn read(
    netlink: &mut Netlink,
    config: &HostConfig,
    vips: Option<&BTreeSet<IpAddr>>,
) -> Result<HostView, NodeError> {
    let mut ours = config.service_cidrs.clone();
    let hosts = config.snat.iter().chain(vips.into_iter().flatten());
    ours.extend(hosts.map(|address| (*address, Family::of(*address).bits())));
    HostView::read(netlink, &config.device, &ours).map_err(refused("read links and addresses"))
}

/// Turns the kernel's word into an error that says what was being done.
pub(super) fn refused(doing: &str) -> impl FnOnce(io::Error) -> NodeError {
    let doing = doing.to_owned();
    move |source| NodeError::Refused { doing, source }
}

/// From the first sign of a change to the look at it: what comes together is put back together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// The same for the firewall: looking costs processes, and CNI plugins write rules in bursts.
const FIREWALL_DEBOUNCE: Duration = Duration::from_millis(300);
/// Something the kernel refused is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Some changes are not announced (`accept_local`, legacy iptables): a look at least this often finds them.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Changes of nftables' rules are announced, and a look at them costs processes.
const LOOK_AT_TABLES_EVERY: Duration = Duration::from_secs(60);
