//! The part of the plan that connection marks need.

use std::io;

use super::super::plan::{self, MARK_TABLE, OurRule};
use super::super::rt::{Family, Link, Rule};
use super::super::table::Inputs;
use super::super::view::HostView;
use super::super::{HostConfig, LocalFrontends, Marks, NodeError, settings};
use super::{Host, Work};

impl Host {
    /// Table 7702, and the rule that sends marked packets there, or neither.
    pub(super) fn mark_replies(
        &mut self,
        family: Family,
        rules: &[Rule],
        view: &HostView,
        link: &Link,
        work: &mut Work,
    ) -> Result<(), NodeError> {
        let bit = self.config.marks().map(|marks| marks.packet);
        let early = !self.local.is_empty();
        let wanted = bit.map(|bit| if early { OurRule::EarlyMark(bit) } else { OurRule::Mark(bit) });
        let everything = plan::mark_destination(family, wanted.is_some());
        let stale_routes = self.add_routes(MARK_TABLE, &everything, family, view, link, work)?;
        self.place_local_table(family, rules, bit, work);
        let device = self.config.device.clone();
        let stale = rules.iter().filter_map(OurRule::marked).filter(|rule| Some(*rule) != wanted);
        let stale =
            stale.map(|rule| (format!("no {}", rule.text(family, &device)), rule.remove(family, &device)));
        self.change_all(stale.chain(stale_routes).collect(), work);
        Ok(())
    }

    /// The nftables rules, if anything they depend on has changed. That somebody else changed them is told by the
    /// firewall's hints.
    pub(super) fn steer_replies(&mut self, view: &HostView, work: &mut Work) {
        let (Some(steer), Some(marks)) = (&mut self.steer, self.config.marks()) else { return };
        let inputs = inputs(&self.config, marks, &self.local, view);
        if !steer.is_for(&inputs) {
            match steer.ensure(&inputs) {
                Ok(done) => work.done.extend(done),
                Err(error) => work.refused.push(("nft table".to_owned(), io::Error::other(error))),
            }
            // The first rule that asks for connection tracking may be what loads it.
            self.set_conntrack(work);
        }
        work.wrong = work.wrong.take().or_else(|| settings::bridges_wrong(&self.config.families(), view));
    }

    pub(super) fn set_conntrack(&mut self, work: &mut Work) {
        if !self.config.keeps_sources() {
            return;
        }
        work.done.extend(settings::set_conntrack(self.config.max_flows));
    }
}

/// What the nftables rules are made from.
pub(in super::super) fn inputs(
    config: &HostConfig,
    marks: Marks,
    local: &LocalFrontends,
    view: &HostView,
) -> Inputs {
    let families = view.families().into_iter();
    let mut bridges = view.bridges();
    // Ports tell bridges apart. Where there is one, a pod that comes or goes changes nothing.
    if let [only] = bridges.as_mut_slice() {
        only.ports.clear();
    }
    Inputs {
        device: config.device.clone(),
        marks,
        snat: config.snat.clone(),
        node: families.filter_map(|family| view.node_address(family, &config.device)).collect(),
        bridges,
        node_port_range: config.node_port_range,
        local: local.clone(),
    }
}
