//! The part of the plan that serves addresses of this host: the local table's rule makes room for the mark's.
//!
//! Each step leaves a host that works, and every step is made by looking, so that the next look, or a cleanup, goes on
//! from wherever somebody was killed: a rule for the local table is always there before another one goes.

use super::super::LocalFrontends;
use super::super::plan::{self, OurRule};
use super::super::rt::{Family, Rule};
use super::super::{FirewallError, NodeError};
use super::{Host, Work};

impl Host {
    /// Serves exactly these addresses and ports of this host, as long as there are connection marks. What was steered
    /// before goes on as it was: connections carry their own mark.
    ///
    /// # Errors
    /// The kernel or `nft` refuses something; the next call tries again, also with the same ones, and so does
    /// [`Host::repair`].
    pub async fn serve(&mut self, local: &LocalFrontends) -> Result<(), NodeError> {
        if self.config.marks().is_none() || (self.local == *local && self.served) {
            return Ok(());
        }
        let moves = self.local.is_empty() != local.is_empty();
        self.local.clone_from(local);
        self.served = false;
        let outcome = match &mut self.steer {
            // Rules come before what needs them, and go after it: both are looked at.
            _ if moves => self.converge().and_then(|mut work| work.fail()),
            Some(steer) => steer.serve(local).map_err(|error: FirewallError| error.into()),
            None => Ok(()),
        };
        self.served = outcome.is_ok();
        outcome
    }

    /// Rules 40, 50 and 60 and not 0, or 0 and 105 and none of these.
    pub(super) fn place_local_table(
        &mut self,
        family: Family,
        rules: &[Rule],
        marks: Option<u32>,
        work: &mut Work,
    ) {
        let device = self.config.device.clone();
        let has = |rule: OurRule| rules.iter().any(|found| rule.is(found, &device));
        let zero = rules.iter().any(plan::is_rule_zero);
        let zero_text = |no: &str| format!("{no}rule 0: lookup local ({})", plan::family_name(family));
        let early = marks.filter(|_| !self.local.is_empty());
        if let Some(bit) = early {
            for rule in [OurRule::Local, OurRule::SkipMark, OurRule::EarlyMark(bit)] {
                self.ensure_rule(rule, family, rules, work);
            }
            let safe = work.refused.is_empty()
                && work.done_or_had(&OurRule::Local.text(family, &device), has(OurRule::Local));
            if zero && safe {
                self.change_all(vec![(zero_text("no "), plan::remove_rule_zero(family))], work);
            }
        } else {
            let others =
                rules.iter().any(|rule| plan::looks_up_local(rule) && !OurRule::Local.is(rule, &device));
            let mut safe = true;
            if has(OurRule::Local) && !others {
                let (message, flags) = plan::add_rule_zero(family);
                let outcome = self.netlink.change(message, flags);
                safe = outcome.is_ok();
                work.note(zero_text(""), outcome);
            }
            if let Some(bit) = marks {
                self.ensure_rule(OurRule::Mark(bit), family, rules, work);
            }
            // The mark's rule before the one that keeps what we emit away from it.
            let marked = rules.iter().filter_map(OurRule::marked).filter(|rule| rule.preference() < 100);
            let gone = marked.chain([OurRule::SkipMark, OurRule::Local]).filter(|rule| has(*rule) && safe);
            let gone =
                gone.map(|rule| (format!("no {}", rule.text(family, &device)), rule.remove(family, &device)));
            self.change_all(gone.collect(), work);
        }
    }
}
