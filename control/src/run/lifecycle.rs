//! The loop: events in, snapshots out, routes after them, repairs, questions, and the stop.
//!
//! A change is published at once if the last publish is long enough ago, else when it is; meanwhile changes pile
//! up and go out together. Routes follow a publish: before there is a route for an address no packet for it comes
//! here, so a published Service without its route loses nothing, while a route without its Service would.

use std::future::pending;
use std::time::Duration;

use anyhow::{Context, bail};
use dataplane::clock::Clock;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::reload::{self, Change, Reloads, Reread};
use super::state::State;
use super::steering::Steering;
use crate::node::{NodeError, Surroundings};
use crate::publish::Pacer;
use crate::signal::Stop;
use crate::socket::Ask;
use crate::source::{Event, Kind};

/// At most one publish in this time while changes keep coming.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);
/// While replaced worlds may still be read, they are looked at this often.
const COLLECT_INTERVAL: Duration = Duration::from_millis(50);
/// Ended workers are noticed, and routes that could not be set are tried again, this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// While frontends that are gone have open flows, these are looked for this often.
const KEPT_INTERVAL: Duration = Duration::from_secs(5);
/// Events taken before something else has its turn.
const EVENTS_AT_ONCE: usize = 1024;

/// A run from the first event to the stop.
#[derive(Debug)]
pub struct Lifecycle<S> {
    state: State,
    steering: S,
    /// What this host is like, as it changes; none where that decides nothing.
    here: Option<watch::Receiver<Surroundings>>,
    reloads: Option<Reloads>,
    drain: Duration,
    pacer: Pacer,
    /// When the next publish is due.
    publish_at: Option<Instant>,
    collect_at: Option<Instant>,
    stop_at: Option<Instant>,
    /// Repair failed; it is not tried before this.
    repair_at: Option<Instant>,
    /// Services came or went since routes were last compared.
    frontends_moved: bool,
    /// When open flows of frontends that are gone are looked for again.
    kept_at: Instant,
    /// The last time routes were set, they could be.
    routed: bool,
    /// The same of what is served at addresses of this host.
    served: bool,
}

impl<S: Steering> Lifecycle<S> {
    /// A run that has not begun.
    #[must_use]
    pub fn new(state: State, steering: S, drain: Duration) -> Self {
        Self {
            state,
            steering,
            here: None,
            reloads: None,
            drain,
            pacer: Pacer::new(PUBLISH_INTERVAL),
            publish_at: None,
            collect_at: None,
            stop_at: None,
            repair_at: None,
            frontends_moved: true,
            kept_at: Instant::now(),
            routed: false,
            served: true,
        }
    }

    /// Follows what this host is like, from what it is now on.
    #[must_use]
    pub fn surrounded(mut self, mut here: watch::Receiver<Surroundings>) -> Self {
        self.state.surround(here.borrow_and_update().clone());
        self.here = Some(here);
        self
    }

    /// Follows the configuration file.
    #[must_use]
    pub fn reloading(mut self, reloads: Reloads) -> Self {
        self.reloads = Some(reloads);
        self
    }

    /// The state, when the run is over.
    #[must_use]
    pub fn into_state(self) -> State {
        self.state
    }

    /// Runs until a stop has drained.
    ///
    /// # Errors
    /// A part that must not end ended: a worker, the source. Or the first routes could not be set.
    pub async fn live(
        &mut self,
        mut events: Receiver<Event>,
        mut asks: Receiver<Ask>,
        mut stops: Receiver<Stop>,
    ) -> anyhow::Result<()> {
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                stop = stops.recv() => {
                    if self.stop(stop.unwrap_or(Stop { why: "nobody left to ask" })) {
                        return Ok(());
                    }
                }
                () = at(self.stop_at) => return Ok(()),
                () = at(self.publish_at) => self.publish().await?,
                event = events.recv() => {
                    let Some(event) = event else { bail!("the source of Services ended") };
                    self.take(event, &mut events).await?;
                }
                here = changed(&mut self.here) => {
                    self.frontends_moved |= self.state.surround(here);
                    self.publish_in_turn().await?;
                }
                reread = reread(&mut self.reloads) => {
                    self.reload(reread);
                    self.publish_in_turn().await?;
                }
                Some(ask) = asks.recv() => {
                    // Whoever asked may have gone.
                    let _ = ask.answer.send(self.state.answer(&ask.query));
                }
                repaired = repair(&mut self.steering, self.repair_at) => self.repaired(repaired),
                () = at(self.collect_at) => self.collect(),
                _ = housekeeping.tick() => self.keep_house().await?,
            }
        }
    }

    /// The configuration file says something else: what can be is in force with the next publish.
    fn reload(&mut self, reread: Reread) {
        let Some(reloads) = &mut self.reloads else { return };
        let merged = reread.outcome.and_then(|new| reload::merge(&reloads.running, &new, &reloads.machine));
        match merged {
            Ok((running, config, changes)) => {
                if reread.asked || !changes.is_empty() {
                    tracing::info!(changes = changes.len(), "the configuration file was read again");
                }
                changes.iter().for_each(Change::log);
                reloads.running = running;
                self.drain = config.drain;
                self.frontends_moved = true;
                self.state.configure(&config);
                self.state.blame_config(None);
            }
            Err(error) => self.state.blame_config(Some(error)),
        }
        self.state.tell_troubles();
    }

    /// True: at once.
    fn stop(&mut self, stop: Stop) -> bool {
        if self.stop_at.is_some() {
            tracing::info!(why = stop.why, "stopping at once");
            return true;
        }
        tracing::info!(why = stop.why, drain_seconds = self.drain.as_secs(), "stopping");
        self.state.set_stopping();
        self.stop_at = Some(Instant::now() + self.drain);
        false
    }

    async fn take(&mut self, first: Event, events: &mut Receiver<Event>) -> anyhow::Result<()> {
        let mut next = Some(first);
        let mut told = false;
        let mut taken = 0;
        while let Some(event) = next.take().or_else(|| events.try_recv().ok()) {
            self.frontends_moved |= moves_frontends(&event);
            told |= matches!(event, Event::Problems { .. } | Event::Done(_));
            taken += 1;
            // Lists that end together are one state: not one of them without the other.
            let ends_a_list = matches!(event, Event::Done(_));
            self.state.apply(event);
            if taken >= EVENTS_AT_ONCE && !ends_a_list {
                break;
            }
        }
        if told {
            self.state.tell_troubles();
        }
        self.publish_in_turn().await
    }

    /// Publishes what is due: at once, or when it may.
    async fn publish_in_turn(&mut self) -> anyhow::Result<()> {
        if !self.state.is_due() || self.publish_at.is_some() {
            return Ok(());
        }
        let delay = self.pacer.delay(Clock.now());
        if delay.is_zero() {
            return self.publish().await;
        }
        self.publish_at = Some(Instant::now() + delay);
        Ok(())
    }

    async fn publish(&mut self) -> anyhow::Result<()> {
        self.publish_at = None;
        match self.state.publish() {
            Ok(true) => tracing::debug!("published"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "this state cannot be served: the last one goes on");
                self.pacer.published(Clock.now());
                // No routes either: what they would bring here is not served.
                return Ok(());
            }
        }
        self.pacer.published(Clock.now());
        self.state.answer_health_checks();
        self.state.tell_troubles();
        self.collect();
        if self.state.has_world() {
            let moved = self.keep_open();
            self.serve_locally().await;
            if std::mem::take(&mut self.frontends_moved) || moved {
                self.route().await?;
            }
        }
        Ok(())
    }

    /// Frontends that went are kept for their open flows: workers know before packets come another way.
    /// True if what is kept has changed.
    fn keep_open(&mut self) -> bool {
        if !self.state.keep_open() {
            return false;
        }
        if let Err(error) = self.state.publish() {
            tracing::error!(%error, "this state cannot be served: the last one goes on");
        }
        true
    }

    /// What comes to addresses of this host and is a Service's leads here. Before it does, or after, the host has it:
    /// it comes to the same whether that is said before a Service is published or after.
    async fn serve_locally(&mut self) {
        match self.steering.serve(&self.state.local_frontends()).await {
            Ok(()) => self.served = true,
            Err(error) => {
                if std::mem::take(&mut self.served) {
                    tracing::warn!(%error, "node ports could not be steered here; trying again every second");
                }
            }
        }
    }

    /// Makes the routes those of the published Services; the first time done, new flows are served.
    async fn route(&mut self) -> anyhow::Result<()> {
        self.steering.set_service_cidrs(&self.state.service_cidrs());
        match self.steering.attract(&self.state.routed()).await {
            Ok(()) => {}
            // While it stops it is not ready any more, and what is served now must still drain.
            Err(error) if self.state.is_ready() || self.stop_at.is_some() => {
                if self.routed {
                    tracing::warn!(%error, "routes could not be set; trying again every second");
                }
                self.routed = false;
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot set the routes"),
        }
        self.routed = true;
        if !self.state.is_ready() && self.stop_at.is_none() {
            self.state.set_ready();
        }
        Ok(())
    }

    fn collect(&mut self) {
        let left = self.state.collect();
        self.collect_at = (left > 0).then(|| Instant::now() + COLLECT_INTERVAL);
    }

    fn repaired(&mut self, repaired: Result<Vec<String>, NodeError>) {
        self.repair_at = None;
        match repaired {
            Ok(what) if what.is_empty() => {}
            Ok(what) => tracing::warn!(repaired = ?what, "somebody removed what tunway needs; it is back"),
            Err(error) => {
                tracing::warn!(%error, "rules and routes could not be checked; trying again");
                self.repair_at = Some(Instant::now() + HOUSEKEEPING);
            }
        }
    }

    async fn keep_house(&mut self) -> anyhow::Result<()> {
        if let Some(error) = self.state.failed() {
            return Err(error.into());
        }
        self.state.keep_house();
        self.state.answer_health_checks();
        let mut moved = false;
        if self.state.keeps_open() && self.kept_at <= Instant::now() {
            self.kept_at = Instant::now() + KEPT_INTERVAL;
            moved = self.keep_open();
        }
        if !self.served || moved {
            self.serve_locally().await;
        }
        if self.state.is_ready() && (!self.routed || moved) {
            self.route().await?;
        }
        Ok(())
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// The configuration file, when it was read again.
async fn reread(reloads: &mut Option<Reloads>) -> Reread {
    if let Some(reloads) = reloads
        && let Some(reread) = reloads.rereads.recv().await
    {
        return reread;
    }
    pending().await
}

/// What this host is like, when that changes.
async fn changed(here: &mut Option<watch::Receiver<Surroundings>>) -> Surroundings {
    if let Some(here) = here
        && here.changed().await.is_ok()
    {
        return here.borrow_and_update().clone();
    }
    pending().await
}

async fn repair<S: Steering>(
    steering: &mut S,
    not_before: Option<Instant>,
) -> Result<Vec<String>, NodeError> {
    if let Some(instant) = not_before {
        sleep_until(instant).await;
    }
    steering.repair().await
}

/// The event may change which addresses or prefixes are routed to the device.
fn moves_frontends(event: &Event) -> bool {
    match event {
        Event::Service(_)
        | Event::ServiceGone(_)
        | Event::ServiceCidr(_)
        | Event::ServiceCidrGone(_)
        | Event::Done(Kind::Service | Kind::ServiceCidr) => true,
        Event::Restart(_)
        | Event::Slice(_)
        | Event::SliceGone(_)
        | Event::Unreadable(..)
        | Event::Node(_)
        | Event::Done(Kind::Slice | Kind::Node)
        | Event::Problems { .. }
        | Event::Health { .. } => false,
    }
}

#[cfg(test)]
mod tests;
