//! ICMP errors about translated flows, in both directions (RFC 5508 section 4; the kernel's
//! `nf_nat_icmp_reply_translation`).
//!
//! An error quotes the packet it is about, as its sender saw it: after our translation if it comes from the
//! endpoint's side, before it if it comes from the client's. Either way the quoted tuple, turned round, is the
//! tuple of the opposite direction as it arrives here, so one look-up serves both.

use super::aliased::arriving;
use super::{Nat, Outcome};
use crate::flow::Key;
use crate::packet::alias;
use crate::packet::frame::Frame;
use crate::packet::give_back_hop;
use crate::packet::icmp::IcmpError;
use crate::packet::layout::Addresses;
use crate::packet::tuple::Family;
use crate::packet::tuple::{Address, Tuple};
use crate::service::World;
use crate::stats::Counter;
use crate::verdict::DropReason;

impl<const N: usize> Nat<'_, N> {
    /// Translates an ICMP error if it is about one of our flows. The flow's timer is not refreshed.
    pub(super) fn icmp_error<A: Address>(&self, frame: &mut Frame) -> Outcome
    where
        Key<N>: From<Tuple<A>>,
        Tuple<A>: From<Key<N>>,
    {
        let layout = frame.layout;
        let Addresses { src, dst } = layout.addresses::<A>(frame.packet());
        let by_alias = self.choices.alias && alias::is(dst.into());
        if by_alias
            && A::FAMILY == Family::V6
            && let Some(real) = A::from_ip(alias::of(dst.into()))
        {
            // ICMPv6 has a pseudo-header, and its checksum is that of the real destination.
            alias::set_destination(frame.packet_mut(), real);
        }
        let error = match IcmpError::<A>::parse(frame.packet(), &layout) {
            Ok(error) => error,
            Err(reason) => return self.unmatched(dst, reason),
        };
        let implied = error.embedded.reversed();
        let arriving = if by_alias { arriving(implied, dst) } else { implied };
        let known = |tuple: Tuple<A>| self.table.lookup(self.table.hash(&tuple.into()), &tuple.into());
        // By its real destination it may be known though it came by the alias: a frontend that is gone.
        let hit = known(arriving).or_else(|| (arriving != implied).then(|| known(implied)).flatten());
        let Some(hit) = hit else {
            return self.unmatched(dst, DropReason::UnmatchedIcmpError);
        };
        // The sender of the quoted packet is whom the error must be for; anything else is forged.
        if dst != arriving.dst {
            return Outcome::dropped(DropReason::UnmatchedIcmpError);
        }
        if error.redirect {
            return Outcome::dropped(DropReason::IcmpRedirect);
        }
        let out = Tuple::<A>::from(hit.out);
        // Where this direction's source is translated, the error's is too: the client must see the VIP, not a
        // router behind it. Where it is not, the router's own address stays.
        let outer_src = if out.src == arriving.src { src } else { out.src };
        error.translate(frame.packet_mut(), &layout, &out.reversed(), outer_src, out.dst);
        give_back_hop::<A>(frame.packet_mut());
        self.stats.add(Counter::IcmpErrorsTranslated, 1);
        Outcome::TRANSLATED
    }

    /// An error about no flow of ours: never answered; for us it ends here, for others it goes on untouched.
    fn unmatched<A: Address>(&self, dst: A, reason: DropReason) -> Outcome {
        let World::Ready(snapshot) = self.world else { return Outcome::dropped(DropReason::NotReady) };
        let dst = dst.into();
        if snapshot.is_cluster_ip(dst) || snapshot.is_snat(dst) {
            Outcome::dropped(reason)
        } else {
            self.pass_on(dst)
        }
    }
}
