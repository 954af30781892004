//! The nftables table: what must go up to the device by an alias, and what comes down from it.
//!
//! The kernel sees two connections for each flow of ours: *leg 1*, client and virtual address, and *leg 2*, source and
//! endpoint. What the device emits has its original direction in a connection tracking zone of its own, so leg 2 is told
//! from a direct connection with the same tuple, which is another entry; replies are looked up in the zone of everybody.
//!
//! ```text
//!   zone    prerouting -301  from DEVICE: its original direction is in the zone; from elsewhere to an alias: dropped
//!   zoneo   output     -301  to an alias: dropped
//!   unmask  prerouting -290  from DEVICE: the destination unmasked, behind raw (-300) and before tracking (-200)
//!   up      prerouting  -90  from elsewhere: steer, behind destination NAT (-100)
//!   upo     output      -90  steer: endpoints on this host, ICMP errors it makes
//!   steer                    a reply of the zone → alias.  Original direction, not translated by others: to a node port
//!                            or to a frontend that is no ClusterIP → alias;  of a flow whose frontend is gone → alias
//!   alias                    the destination becomes its alias, which is routed to DEVICE
//!   loop    forward    -160  from DEVICE to DEVICE: dropped
//!   leave   postrouting -160 to DEVICE: a SYN gets the segment size of the way's MTU
//!   post    srcnat - 10      to DEVICE: bound to its own source;  from the SNAT address: masqueraded, no node port as its port
//!   in      input            from DEVICE with the SNAT address: the node's address
//! ```
//! `steer` asks the connection, not the packet, so ICMP errors go the way of what they are about. `post`'s identity
//! binding keeps a CNI's own masquerading away from what comes to us. What is no ClusterIP may be
//! somebody's, who has the ports that no Service has: it is not routed here, but steered port by port. No rule depends on
//! Services or endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::packet::alias::{RANGE_V4, RANGES_V6};
use dataplane::packet::tuple::Proto;

use super::super::rt::Family;
use super::super::view::HostView;
use super::super::{HostConfig, LocalFrontends, NodeError, former};
use crate::nft::{At, Chain, Expr, Field, Hook, Nft, NftError, Rule, Table, octets};

use self::sets::{read, sets};

mod sets;

/// The table's name, in the family inet.
pub(crate) const NAME: &str = "tunway_alias";
/// The zone of what the device emits.
const ZONE: u16 = 7701;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    device: String,
    snat: Vec<IpAddr>,
    /// The addresses host processes are seen with.
    node: Vec<IpAddr>,
    node_port_range: (u16, u16),
    /// The elements of the sets.
    pub(super) local: LocalFrontends,
}

impl Inputs {
    pub(super) fn of(config: &HostConfig, local: &LocalFrontends, view: &HostView) -> Self {
        let families = view.families().into_iter();
        Self {
            device: config.device.clone(),
            snat: config.snat.clone(),
            node: families.filter_map(|family| view.node_address(family, &config.device)).collect(),
            node_port_range: config.node_port_range,
            local: local.clone(),
        }
    }
}

/// The table in the kernel, and what it was when it was last written.
#[derive(Debug)]
pub(super) struct Tables {
    nft: Nft,
    written: Option<(Inputs, BTreeSet<Vec<u8>>)>,
}

impl Tables {
    pub(super) fn open() -> Result<Self, NodeError> {
        Ok(Self { nft: Nft::open().map_err(failed)?, written: None })
    }

    /// The elements that are there, which an earlier process or version may have left.
    pub(super) fn found(&mut self) -> Result<LocalFrontends, NodeError> {
        let mut found = LocalFrontends::default();
        for table in [NAME, former::NFT_TABLE] {
            for set in sets(&LocalFrontends::default()) {
                let elements = self.nft.elements(table, set.name).map_err(failed)?;
                elements.iter().for_each(|element| read(set.name, element, &mut found));
            }
        }
        Ok(found)
    }

    /// Makes the table what `inputs` want, if it is not; says so.
    pub(super) fn ensure(&mut self, inputs: &Inputs) -> Result<Vec<String>, NodeError> {
        if let Some((written, _)) = &self.written
            && written == inputs
        {
            return self.look();
        }
        self.write(inputs).map(|()| vec![format!("nft table inet {NAME}")])
    }

    /// Writes the table again where somebody changed it; says so.
    pub(super) fn look(&mut self) -> Result<Vec<String>, NodeError> {
        let Some((inputs, said)) = self.written.clone() else { return Ok(Vec::new()) };
        if self.nft.snapshot(NAME).map_err(failed)? == said && self.has_elements(&inputs)? {
            return Ok(Vec::new());
        }
        self.write(&inputs).map(|()| vec![format!("nft table inet {NAME}")])
    }

    /// Changes the elements alone, in one transaction. Where that cannot be done the table is written whole.
    pub(super) fn serve(&mut self, local: &LocalFrontends) -> Result<(), NodeError> {
        let Some((inputs, _)) = &mut self.written else { return Ok(()) };
        let changes: Vec<_> = sets(&inputs.local).into_iter().zip(sets(local)).collect();
        inputs.local.clone_from(local);
        let inputs = inputs.clone();
        match self.nft.change(NAME, &changes) {
            Ok(()) => Ok(()),
            // Somebody took a set or an element away.
            Err(_) => self.write(&inputs),
        }
    }

    fn write(&mut self, inputs: &Inputs) -> Result<(), NodeError> {
        self.written = None;
        self.nft.replace(&table(inputs)).map_err(failed)?;
        let said = self.nft.snapshot(NAME).map_err(failed)?;
        self.written = Some((inputs.clone(), said));
        Ok(())
    }

    /// Nobody can change what has an owner.
    fn has_elements(&mut self, inputs: &Inputs) -> Result<bool, NodeError> {
        if self.nft.owns() {
            return Ok(true);
        }
        for set in sets(&inputs.local) {
            if self.nft.elements(NAME, set.name).map_err(failed)? != set.elements {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Takes the table away; says so if there was one.
pub(in super::super) fn remove() -> Result<Vec<String>, NodeError> {
    let mut nft = Nft::open().map_err(failed)?;
    let there = match nft.delete(NAME) {
        Ok(there) => there,
        // A kernel without nftables holds none.
        Err(NftError::Refused { source, .. }) if source.raw_os_error() == Some(nix::libc::EINVAL) => false,
        Err(error) => return Err(failed(error)),
    };
    Ok(if there { vec![format!("nft table inet {NAME}")] } else { Vec::new() })
}

/// Whether the kernel would take the table; changes nothing.
pub(in super::super) fn check(config: &HostConfig, view: &HostView) -> Result<(), NftError> {
    Nft::open()?.check(&table(&Inputs::of(config, &LocalFrontends::default(), view)))
}

fn failed(error: NftError) -> NodeError {
    match error {
        NftError::Refused { doing, source } => NodeError::Refused { doing, source },
        owned @ NftError::Owned(_) => NodeError::Other(owned.to_string()),
    }
}

fn table(inputs: &Inputs) -> Table {
    let (from_device, to_device) =
        (name(Field::InputName, &inputs.device, false), name(Field::OutputName, &inputs.device, false));
    let elsewhere = name(Field::InputName, &inputs.device, true);
    let mut zone = vec![rule([from_device.clone(), Expr::SetZone(ZONE)])];
    let mut zone_out = Vec::new();
    for to_alias in aliases() {
        zone.push(rule([vec![elsewhere.clone()], to_alias.clone(), vec![Expr::Drop]].concat()));
        zone_out.push(rule([to_alias, vec![Expr::Drop]].concat()));
    }
    let unmask = [false, true].map(|v6| rule([from_device.clone(), family(v6), mask(v6)]));
    let alias = [false, true].map(|v6| rule([family(v6), to_alias(v6)]));
    let syn = Expr::Masked { field: Field::TcpFlags, mask: vec![6], value: vec![2] };
    let tcp = is(Field::L4Proto, &[Proto::Tcp as u8]);
    let up = || rule([Expr::Jump("steer")]);
    let hook = |kind, at, priority| Some(Hook { kind, at, priority });
    let chain = |name, hook, rules| Chain { name, hook, rules };
    Table {
        name: NAME,
        sets: sets(&inputs.local),
        chains: vec![
            chain("alias", None, alias.to_vec()),
            chain("steer", None, steer()),
            chain("zone", hook("filter", At::Prerouting, RAW - 1), zone),
            chain("zoneo", hook("filter", At::Output, RAW - 1), zone_out),
            chain("unmask", hook("filter", At::Prerouting, RAW + 10), unmask.to_vec()),
            chain(
                "up",
                hook("filter", At::Prerouting, DESTINATION_NAT + 10),
                vec![rule([elsewhere, Expr::Jump("steer")])],
            ),
            chain("upo", hook("route", At::Output, DESTINATION_NAT + 10), vec![up()]),
            chain(
                "loop",
                hook("filter", At::Forward, MANGLE - 10),
                vec![rule([from_device.clone(), to_device.clone(), Expr::Drop])],
            ),
            chain(
                "leave",
                hook("filter", At::Postrouting, MANGLE - 10),
                vec![rule([to_device.clone(), tcp, syn, Expr::ClampMss])],
            ),
            chain("post", hook("nat", At::Postrouting, SOURCE_NAT - 10), post(inputs, &to_device)),
            chain("in", hook("nat", At::Input, SOURCE_NAT - 10), seen_as_node(inputs, &from_device)),
        ],
    }
}

/// What goes up.
fn steer() -> Vec<Rule> {
    let direction = |original: bool| is(Field::CtDirection, &[u8::from(!original)]);
    let to_alias = Expr::Jump("alias");
    let mut rules = vec![rule([direction(false), is(Field::CtZone, &ZONE.to_ne_bytes()), to_alias.clone()])];
    let port = [Field::CtProtocol, Field::CtDestinationPort];
    for (v6, [node, front, kept]) in
        [(false, ["node4", "front4", "kept4"]), (true, ["node6", "front6", "kept6"])]
    {
        let to = if v6 { Field::CtDaddr6 } else { Field::CtDaddr4 };
        // What somebody else translates is theirs.
        let ours = [family(v6), direction(true), Expr::HasNone { field: Field::CtStatus, mask: DST_NAT }];
        let at = |set| Expr::In { fields: [&[to], &port[..]].concat(), set };
        let node_port =
            [Expr::In { fields: vec![to], set: node }, Expr::In { fields: port.to_vec(), set: "nodeports" }];
        rules.push(rule([&ours[..], &node_port, std::slice::from_ref(&to_alias)].concat()));
        rules.push(rule([&ours[..], &[at(front), to_alias.clone()]].concat()));
        let from = [if v6 { Field::CtSaddr6 } else { Field::CtSaddr4 }, Field::CtSourcePort];
        let flow = Expr::In { fields: [&from[..], &[to], &port[..]].concat(), set: kept };
        rules.push(rule([&ours[..], &[flow, to_alias.clone()]].concat()));
    }
    rules
}

/// Sources of what leaves.
fn post(inputs: &Inputs, to_device: &Expr) -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        [false, true].map(|v6| rule([to_device.clone(), family(v6), Expr::SnatItself { v6 }])).into();
    for snat in &inputs.snat {
        for masquerade in masquerades(inputs.node_port_range) {
            rules.push(rule([from(*snat), masquerade].concat()));
        }
    }
    rules
}

/// A host process that is its own endpoint sees the node's address.
fn seen_as_node(inputs: &Inputs, from_device: &Expr) -> Vec<Rule> {
    let node = |snat: &IpAddr| inputs.node.iter().find(|node| Family::of(**node) == Family::of(*snat));
    let pairs = inputs.snat.iter().filter_map(|snat| Some((*snat, *node(snat)?)));
    pairs
        .map(|(snat, node)| rule([vec![from_device.clone()], from(snat), vec![Expr::Snat(node)]].concat()))
        .collect()
}

/// What gives a source port outside the range of node ports: where there is room on both sides of it, either side every
/// other time. A side with less than a quarter of all ports counts for none.
fn masquerades((first, last): (u16, u16)) -> Vec<Vec<Expr>> {
    let sides = [(FIRST_PORT, first.saturating_sub(1)), (last.saturating_add(1), u16::MAX)];
    let wide = |(first, last): &(u16, u16)| last.saturating_sub(*first) > u16::MAX / 4;
    let wide: Vec<_> = sides.into_iter().filter(wide).collect();
    let mut all = Vec::new();
    for (at, side) in wide.iter().enumerate() {
        for proto in [Proto::Tcp, Proto::Udp, Proto::Sctp] {
            let mut expressions = vec![is(Field::L4Proto, &[proto as u8])];
            if wide.len() == 2 && at == 0 {
                expressions.push(Expr::Half);
            }
            expressions.push(Expr::Masquerade(Some(*side)));
            all.push(expressions);
        }
    }
    // What has no ports; and all, where the range leaves no room.
    all.push(vec![Expr::Masquerade(None)]);
    all
}

fn rule(expressions: impl IntoIterator<Item = Expr>) -> Rule {
    Rule(expressions.into_iter().collect())
}

fn is(field: Field, value: &[u8]) -> Expr {
    Expr::Is { field, value: value.to_vec(), not: false }
}

/// An interface's name, as the kernel compares it.
fn name(field: Field, device: &str, not: bool) -> Expr {
    let mut value = device.as_bytes().to_vec();
    value.resize(16, 0);
    Expr::Is { field, value, not }
}

fn family(v6: bool) -> Expr {
    is(Field::Family, &[if v6 { 10 } else { 2 }])
}

fn from(source: IpAddr) -> Vec<Expr> {
    let v6 = source.is_ipv6();
    vec![family(v6), is(if v6 { Field::Saddr6 } else { Field::Saddr4 }, &octets(source))]
}

/// Destinations that are aliases.
fn aliases() -> Vec<Vec<Expr>> {
    let range = |addr: IpAddr, len: u8| {
        let v6 = addr.is_ipv6();
        let value = octets(addr);
        let mask = (0..value.len()).map(|at| if at == 0 { u8::MAX << (8 - len) } else { 0 }).collect();
        let field = if v6 { Field::Daddr6 } else { Field::Daddr4 };
        vec![family(v6), Expr::Masked { field, mask, value }]
    };
    let v6 = RANGES_V6.iter().map(|(addr, len)| range(IpAddr::V6(*addr), *len));
    std::iter::once(range(IpAddr::V4(RANGE_V4.0), RANGE_V4.1)).chain(v6).collect()
}

/// Turns the destination's top bit round.
fn mask(v6: bool) -> Expr {
    let mut xor = vec![0; if v6 { 16 } else { 4 }];
    let clear = xor.clone();
    xor[0] = 0x80;
    Expr::SetDaddr { v6, clear, xor }
}

/// Makes the destination its alias.
fn to_alias(v6: bool) -> Expr {
    if v6 {
        return mask(true);
    }
    let top = octets(IpAddr::V4(RANGE_V4.0));
    Expr::SetDaddr { v6, clear: top.clone(), xor: top }
}

/// The first port that needs no privilege: a source port is replaced by one of these.
const FIRST_PORT: u16 = 1024;
/// `NF_IP_PRI_RAW`, `NF_IP_PRI_MANGLE`, `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`.
const RAW: i32 = -300;
const MANGLE: i32 = -150;
const DESTINATION_NAT: i32 = -100;
const SOURCE_NAT: i32 = 100;
/// `IPS_DST_NAT`.
const DST_NAT: u32 = 1 << 5;
