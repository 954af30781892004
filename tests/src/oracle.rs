//! A naive model of Service NAT that judges properties, not choices.
//!
//! It does not predict which endpoint or port is picked. It writes down what was done and checks that it was
//! allowed: the endpoint was eligible at that moment; the flow keeps it until it ends, or until the UDP rule moves
//! it; a client that is remembered goes where it was; replies come back exactly inverted; no two flows share a reply tuple; a port changes only on a real clash;
//! nothing but addresses, ports and checksums is touched; a drop has a reason that holds.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use dataplane::clock::Time;
use dataplane::packet::tuple::{Proto, Tuple};
use dataplane::verdict::DropReason;

use crate::check::{L4, View, assert_valid, valid};
use crate::cluster::Cluster;
use crate::gateway::{Flow, Outcome};
use crate::packets::{Wire, chunks, flags};
use answers::{Place, portless, refused, reset, same, same_port_class, translated_to, untouched};
use history::History;
use seats::Seats;

mod answers;
mod association;
mod history;
mod seats;
mod table;

/// A flow as the model knows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Client to VIP, as it arrives.
    pub forward: Tuple<IpAddr>,
    /// Endpoint to SNAT address or client, as it arrives.
    pub reply: Tuple<IpAddr>,
    /// The service port's id.
    pub service: u32,
    history: History,
}

impl Known {
    /// Where its client's packets go.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.reply.src, self.reply.sport)
    }
}

/// What the model was told that it cannot see.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leave {
    /// Tables are small: a new flow may be refused.
    pub small: bool,
}

/// The model.
#[derive(Debug, Default)]
pub struct Oracle {
    flows: BTreeMap<Tuple<IpAddr>, Known>,
    replies: BTreeMap<Tuple<IpAddr>, Tuple<IpAddr>>,
    /// Reply tuples of flows that are over, whose they were and until when nobody else may have them.
    held: BTreeMap<Tuple<IpAddr>, (Tuple<IpAddr>, Time)>,
    leave: Leave,
    seats: Seats,
    /// Flows that had to take another source port.
    pub clashes: u64,
    /// Of these, flows that kept their client's address.
    pub kept_clashes: u64,
    /// Flows that kept their client's address.
    pub kept: u64,
    /// Packets of SCTP associations that both ends knew.
    pub associated: u64,
    /// The packet that is judged was sent in fragments.
    in_pieces: bool,
}

/// What is wrong, in words.
pub type Judgement = Result<(), String>;

impl Oracle {
    /// A model that knows no flow.
    #[must_use]
    pub fn new(leave: Leave) -> Self {
        Self { leave, ..Self::default() }
    }

    /// Flows that had to go where session affinity remembered their client, and those of clients whose time was up.
    #[must_use]
    pub fn sticky(&self) -> [u64; 2] {
        [self.seats.remembered, self.seats.expired]
    }

    /// The gateway's world is `cluster` from now on.
    pub fn published(&mut self, cluster: &Cluster) {
        self.seats.published(cluster);
    }

    /// Every flow, in the order of its forward tuple.
    pub fn flows(&self) -> impl ExactSizeIterator<Item = &Known> {
        self.flows.values()
    }

    /// Judges what became of a valid packet. `cluster` is the world it met, `None` when that was not ready.
    ///
    /// # Errors
    /// The property that was broken.
    pub fn judge(
        &mut self,
        cluster: Option<&Cluster>,
        sent: &Wire,
        outcome: &Outcome,
        now: Time,
    ) -> Judgement {
        self.in_pieces = false;
        self.judge_one(cluster, sent, outcome, now)
    }

    /// As [`Oracle::judge`], of a packet that was sent in fragments.
    ///
    /// # Errors
    /// The property that was broken.
    pub fn judge_pieces(
        &mut self,
        cluster: Option<&Cluster>,
        sent: &Wire,
        outcome: &Outcome,
        now: Time,
    ) -> Judgement {
        self.in_pieces = true;
        self.judge_one(cluster, sent, outcome, now)
    }

    fn judge_one(
        &mut self,
        cluster: Option<&Cluster>,
        sent: &Wire,
        outcome: &Outcome,
        now: Time,
    ) -> Judgement {
        let view = assert_valid(sent);
        if let Some(wire) = outcome.wire() {
            valid(wire).map_err(|what| format!("what left is invalid: {what}"))?;
        }
        match (&view.l4, tuple(&view)) {
            (L4::Tcp { flags, .. }, Some(tuple)) => self.packet(cluster, &view, tuple, *flags, outcome, now),
            (L4::Udp { .. }, Some(tuple)) => self.packet(cluster, &view, tuple, 0, outcome, now),
            (L4::Sctp { tag, chunks }, Some(tuple)) => {
                let seen = association::telling(*tag, chunks);
                self.packet(cluster, &view, tuple, seen, outcome, now)
            }
            (L4::Icmp { quoted: Some(_), .. }, _) => self.error(cluster, &view, sent, outcome),
            _ => portless(cluster, &view, sent, outcome),
        }
    }

    fn packet(
        &mut self,
        cluster: Option<&Cluster>,
        view: &View,
        tuple: Tuple<IpAddr>,
        seen: u8,
        outcome: &Outcome,
        now: Time,
    ) -> Judgement {
        let (forward, is_reply) = match self.replies.get(&tuple) {
            Some(forward) => (*forward, true),
            None => (tuple, false),
        };
        if let Some(flow) = self.flows.get_mut(&forward) {
            let stale = tuple.proto == Proto::Udp
                && cluster.is_some_and(|cluster| is_stale(cluster, &flow.forward, flow.endpoint()));
            let reopens = !is_reply && begins(tuple.proto, seen) && flow.history.reopenable();
            if !stale && !reopens {
                let out = if is_reply { flow.forward.reversed() } else { flow.reply.reversed() };
                let ports_stay = (out.sport, out.dport) == (tuple.sport, tuple.dport);
                if self.in_pieces && tuple.proto == Proto::Sctp && !ports_stay {
                    return same(outcome, &Outcome::Dropped(DropReason::SctpFragment));
                }
                self.associated += u64::from(flow.history.is_associated());
                let ended = flow.history.observe(is_reply, seen, now);
                if ended {
                    self.forget(&forward);
                }
                return translated_to(view, outcome, out);
            }
            self.forget(&forward);
            if is_reply {
                return same(outcome, &Outcome::Dropped(DropReason::StaleEndpoint));
            }
        }
        self.first(cluster, view, tuple, seen, outcome, now)
    }

    /// The first packet of a flow, or one that will never have a flow.
    fn first(
        &mut self,
        cluster: Option<&Cluster>,
        view: &View,
        tuple: Tuple<IpAddr>,
        seen: u8,
        outcome: &Outcome,
        now: Time,
    ) -> Judgement {
        let dropped = |reason| same(outcome, &Outcome::Dropped(reason));
        let Some(cluster) = cluster else { return dropped(DropReason::NotReady) };
        let place = Place::of(cluster, view.dst.ip());
        let svc = cluster.frontend(view.dst, tuple.proto);
        if svc.is_some() || place == Place::LiveVip {
            if matches!(Place::of(cluster, view.src.ip()), Place::LiveVip | Place::Snat) {
                return dropped(DropReason::Martian);
            }
            if tuple.proto == Proto::Sctp && !association::opens(seen) {
                return dropped(DropReason::OutOfTheBlue);
            }
            if tuple.proto == Proto::Sctp && self.in_pieces {
                return dropped(DropReason::SctpFragment);
            }
            if tuple.proto == Proto::Tcp && !begins(tuple.proto, seen) {
                return if seen & flags::RST != 0 {
                    dropped(DropReason::NotAnswerable)
                } else {
                    reset(view, outcome)
                };
            }
        }
        let Some(svc) = svc else { return place.not_served(view, outcome) };
        if svc.usable().next().is_none() {
            return refused(view, outcome);
        }
        if self.leave.small
            && matches!(outcome, Outcome::Dropped(DropReason::TableFull | DropReason::BucketFull))
        {
            return self.seats.take(svc, tuple.src, None, now);
        }
        let Outcome::Translated(wire) = outcome else {
            return Err(format!("a new flow ended as {outcome:?}"));
        };
        let out = assert_valid(wire);
        untouched(view, &out)?;
        if !svc.usable().any(|endpoint| endpoint == out.dst) {
            return Err(format!("{} is not an eligible endpoint", out.dst));
        }
        self.seats.take(svc, tuple.src, Some(out.dst), now)?;
        let masquerade = cluster.sources.masquerades(tuple.src, out.dst.ip());
        if masquerade && Place::of(cluster, out.src.ip()) != Place::Snat {
            return Err(format!("{} is not a SNAT address", out.src));
        }
        if !masquerade && out.src.ip() != tuple.src {
            return Err(format!("{} is not the client, whose address must be kept", out.src));
        }
        self.kept += u64::from(!masquerade);
        let reply = Tuple {
            src: out.dst.ip(),
            dst: out.src.ip(),
            sport: out.dst.port(),
            dport: out.src.port(),
            proto: tuple.proto,
        };
        // A flow whose time is up but whom no hand met yet makes room.
        if let Some(other) = self.replies.get(&reply).copied() {
            let history = &self.flows[&other].history;
            if history.idle(now) >= history.ttl() {
                self.forget(&other);
            }
        }
        if self.replies.contains_key(&reply) {
            return Err(format!("{reply} is another flow's already"));
        }
        if let Some((by, until)) = self.held.get(&reply)
            && *by != tuple
            && now < *until
        {
            return Err(format!("{reply} is still remembered by the server as of {by}"));
        }
        let own = Tuple { dport: tuple.sport, ..reply };
        if reply != own {
            // The hand may be a cycle late.
            let held = self.held.get(&own);
            let held =
                held.is_some_and(|(by, until)| *by != tuple && now <= until.plus_nanos(10_000_000_000));
            if !self.replies.contains_key(&own) && !held {
                return Err(format!("the port changed to {} without a clash", reply.dport));
            }
            self.clashes += 1;
            self.kept_clashes += u64::from(!masquerade);
            same_port_class(tuple.sport, reply.dport)?;
        }
        let history = History::start(tuple.proto, masquerade, seen, now);
        // The same client took its own tuple back; from here on it is the new connection's.
        self.held.remove(&reply);
        self.replies.insert(reply, tuple);
        self.flows.insert(tuple, Known { forward: tuple, reply, service: svc.id.0, history });
        Ok(())
    }

    /// An ICMP error, about a flow of ours or of somebody else's.
    fn error(&self, cluster: Option<&Cluster>, view: &View, sent: &Wire, outcome: &Outcome) -> Judgement {
        let L4::Icmp { kind, quoted: Some(quoted), rest, code } = &view.l4 else {
            return Err("no error".into());
        };
        let dropped = |reason| same(outcome, &Outcome::Dropped(reason));
        let proto = Proto::from_number(quoted.number).ok_or("a quoted protocol without ports")?;
        let (src, dst) = (quoted.dst, quoted.src);
        let arriving = Tuple { src: src.ip(), dst: dst.ip(), sport: src.port(), dport: dst.port(), proto };
        let out = match self.replies.get(&arriving) {
            Some(forward) => Some(forward.reversed()),
            None => self.flows.get(&arriving).map(|flow| flow.reply.reversed()),
        };
        let Some(out) = out else {
            let Some(cluster) = cluster else { return dropped(DropReason::NotReady) };
            return match Place::of(cluster, view.dst.ip()) {
                Place::LiveVip | Place::Snat => dropped(DropReason::UnmatchedIcmpError),
                Place::LinkLocal => dropped(DropReason::NotUnicast),
                Place::Unallocated | Place::Elsewhere => same(outcome, &Outcome::Passed(sent.clone())),
            };
        };
        if view.dst.ip() != arriving.dst {
            return dropped(DropReason::UnmatchedIcmpError);
        }
        if view.dst.is_ipv4() && *kind == 5 {
            return dropped(DropReason::IcmpRedirect);
        }
        let Outcome::Translated(wire) = outcome else {
            return Err(format!("an ICMP error ended as {outcome:?}"));
        };
        let left = assert_valid(wire);
        untouched(view, &left)?;
        let L4::Icmp { quoted: Some(inner), kind: k, code: c, rest: r } = left.l4 else {
            return Err("the quoted packet cannot be read any more".into());
        };
        if (k, c, r) != (*kind, *code, *rest) {
            return Err("type, code or MTU changed".into());
        }
        let want = (SocketAddr::new(out.dst, out.dport), SocketAddr::new(out.src, out.sport));
        if (inner.src, inner.dst) != want {
            return Err(format!("quotes {} > {}, should be {} > {}", inner.src, inner.dst, want.0, want.1));
        }
        // A router's own address stays where the direction's source stays.
        let from = if out.src == arriving.src { view.src.ip() } else { out.src };
        if (left.src.ip(), left.dst.ip()) != (from, out.dst) {
            return Err(format!("goes {} > {}, should {from} > {}", left.src, left.dst, out.dst));
        }
        Ok(())
    }

    fn forget(&mut self, forward: &Tuple<IpAddr>) {
        if let Some(flow) = self.flows.remove(forward) {
            self.replies.remove(&flow.reply);
            if let Some(until) = flow.history.held_until() {
                self.held.insert(flow.reply, (flow.forward, until));
            }
        }
    }
}

/// The UDP rule, asked of whoever has the flow's frontend now.
fn is_stale(cluster: &Cluster, forward: &Tuple<IpAddr>, endpoint: SocketAddr) -> bool {
    let svc = cluster.frontend(SocketAddr::new(forward.dst, forward.dport), forward.proto);
    svc.is_some_and(|svc| !svc.keeps(endpoint))
}

/// Whether a client's packet opens a closed flow anew.
fn begins(proto: Proto, seen: u8) -> bool {
    match proto {
        Proto::Tcp => seen & (flags::SYN | flags::ACK | flags::FIN | flags::RST) == flags::SYN,
        Proto::Udp => false,
        Proto::Sctp => seen == chunks::INIT,
    }
}

fn tuple(view: &View) -> Option<Tuple<IpAddr>> {
    let proto = match view.l4 {
        L4::Tcp { .. } => Proto::Tcp,
        L4::Udp { .. } => Proto::Udp,
        L4::Sctp { .. } => Proto::Sctp,
        L4::Icmp { .. } | L4::Other(_) => return None,
    };
    let (src, dst) = (view.src, view.dst);
    Some(Tuple { src: src.ip(), dst: dst.ip(), sport: src.port(), dport: dst.port(), proto })
}
