//! The model compared with the tables as a whole: nothing lost, nothing kept too long, nothing invented.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::clock::Time;

use super::{Flow, Judgement, Oracle, is_stale};
use crate::cluster::Cluster;
use crate::gateway::Gateway;

impl Oracle {
    /// Compares every flow of the tables with the model, and takes flows that were rightly ended out of the model.
    ///
    /// `swept` is the time up to which one whole cycle of the clock hand has judged every flow since.
    ///
    /// # Errors
    /// The flow that is wrong.
    pub fn compare(
        &mut self,
        gateway: &Gateway,
        cluster: Option<&Cluster>,
        swept: Option<Time>,
    ) -> Judgement {
        let (held, table): (Vec<_>, Vec<_>) = gateway.flows().into_iter().partition(holds);
        for flow in &held {
            if self.held.get(&flow.reply).is_none_or(|(by, _)| *by != flow.forward) {
                return Err(format!(
                    "{} holds a reply tuple that nobody left behind: {flow:?}",
                    flow.forward
                ));
            }
        }
        let mut seen = BTreeSet::new();
        for flow in &table {
            if !seen.insert(flow.forward) {
                return Err(format!("{} is there twice", flow.forward));
            }
            self.one(flow, gateway.now)?;
        }
        if gateway.tables.v4.live() + gateway.tables.v6.live() != table.len() + held.len() {
            return Err("live flows are not counted right".into());
        }
        counted(gateway, &table)?;
        let known: Vec<_> = self.flows.keys().copied().collect();
        for forward in known {
            let flow = &self.flows[&forward];
            let (idle, ttl) = (flow.history.idle(gateway.now), flow.history.ttl());
            let stale = cluster.is_some_and(|cluster| {
                forward.proto == dataplane::packet::tuple::Proto::Udp
                    && is_stale(cluster, &forward, flow.endpoint())
            });
            if !seen.contains(&forward) {
                if idle <= ttl && !stale {
                    return Err(format!("{forward} is gone after {idle} of {ttl} s: {:?}", flow.history));
                }
                self.forget(&forward);
            } else if let Some(swept) = swept {
                let idle = flow.history.idle(swept);
                if idle > ttl + 1 {
                    return Err(format!("{forward} is still there, {idle} s idle, {ttl} s allowed"));
                }
                if stale {
                    return Err(format!("{forward} is still there, its endpoint was withdrawn"));
                }
            }
        }
        Ok(())
    }

    /// Takes out of the model what was evicted just now to make room.
    ///
    /// # Errors
    /// A flow is gone that must never be evicted.
    pub fn lose(&mut self, gateway: &Gateway) -> Judgement {
        let table = gateway.flows();
        let there: BTreeSet<_> = table.iter().filter(|flow| !holds(flow)).map(|flow| flow.forward).collect();
        let gone: Vec<_> = self.flows.keys().filter(|forward| !there.contains(*forward)).copied().collect();
        for forward in gone {
            if self.flows[&forward].history.protected() {
                return Err(format!("{forward} was evicted, though it is established"));
            }
            self.forget(&forward);
        }
        Ok(())
    }

    fn one(&self, flow: &Flow, now: Time) -> Judgement {
        let Some(known) = self.flows.get(&flow.forward) else {
            return Err(format!("{} should not be there: {flow:?}", flow.forward));
        };
        if (known.reply, known.service) != (flow.reply, flow.service.0) {
            return Err(format!("{known:?} is {flow:?}"));
        }
        let left = known.history.ttl().saturating_sub(known.history.idle(now));
        if left.abs_diff(flow.expires) > 1 {
            return Err(format!(
                "expires in {} s, should {left}: {} {:?}",
                flow.expires, flow.state, known.history
            ));
        }
        Ok(())
    }
}

/// It is over, and keeps its reply tuple from others for a while.
fn holds(flow: &Flow) -> bool {
    flow.state == "HELD"
}

/// Every endpoint's counter is the number of its active flows, and those are the ones that are not closing.
fn counted(gateway: &Gateway, table: &[Flow]) -> Judgement {
    const CLOSING: [&str; 8] = [
        "HALF_CLOSED",
        "LAST_ACK",
        "TIME_WAIT",
        "RESET",
        "SHUTDOWN_SENT",
        "SHUTDOWN_RECD",
        "SHUTDOWN_ACK_SENT",
        "CLOSED",
    ];
    let mut active = BTreeMap::new();
    for flow in table {
        if flow.active == CLOSING.contains(&flow.state) {
            return Err(format!("{} is {}, and active: {}", flow.forward, flow.state, flow.active));
        }
        *active.entry(flow.endpoint).or_insert(0) += u32::from(flow.active);
    }
    for (endpoint, flows) in active {
        let counter = gateway.region.loads().active(endpoint);
        if counter != flows {
            return Err(format!("{endpoint:?} has {flows} active flows, and its counter says {counter}"));
        }
    }
    Ok(())
}
