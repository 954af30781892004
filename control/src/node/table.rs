//! The nftables rules of the return path `connmark`, as JSON for the `nft` program. Pure.
//!
//! The kernel sees two connections for each flow of ours: *leg 1*, client and virtual address, and *leg 2*, client (or
//! SNAT address) and endpoint. M is a bit of packets and of connections, O of connections only.
//!
//! ```text
//! table inet tunway
//!   steer  new, to a node port or frontend on an address of this host → connection |= O
//!          original direction of O → packet |= M;  reply direction of M → packet |= M
//!   pre    prerouting   from DEVICE, original direction → connection |= M (leg 2);  from elsewhere → steer
//!   out    output       → steer: endpoints on this host, ICMP errors it makes
//!   clear  forward      to DEVICE → packet &= ~M
//!   leave  postrouting  the same; a SYN gets the path's MSS
//!   post   srcnat - 10  to DEVICE → source as it is;  from the SNAT address → masquerade, no node port as its port
//!   in     input        from DEVICE with the SNAT address → the node's address
//! table bridge tunway
//!   pre    prerouting   marked and not for the bridge itself → for the bridge itself
//! ```
//! Two bits, because an ICMP error about leg 1's original packet must not be steered and one about leg 2's must.
//! `post`'s identity binding keeps a CNI's own masquerading away from what comes to us. In the bridge table a reply
//! between two pods of one bridge is made to go up to the IP layer, which alone looks at the mark.

use std::net::IpAddr;

use serde_json::{Value, json};

pub(crate) use self::sets::{apart, changed_elements, elements};
use super::rt::Family;
use super::view::Bridge;
use super::{LocalFrontends, Marks};

mod sets;

/// The name of our tables; a host has one tunway.
pub(crate) const NAME: &str = "tunway";

/// One of our two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Inet,
    Bridge,
}

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inputs {
    pub(crate) device: String,
    pub(crate) marks: Marks,
    pub(crate) snat: Vec<IpAddr>,
    /// The addresses host processes are seen with.
    pub(crate) node: Vec<IpAddr>,
    pub(crate) bridges: Vec<Bridge>,
    pub(crate) node_port_range: (u16, u16),
    /// The elements of the sets.
    pub(crate) local: LocalFrontends,
}

impl Table {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Inet, Self::Bridge];

    /// nft's word for its family.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }

    /// `nft table inet tunway`.
    pub(crate) fn text(self) -> String {
        format!("nft table {} {NAME}", self.family())
    }

    /// Its sets, chains and rules; `None` when there is to be no such table.
    pub(crate) fn contents(self, inputs: &Inputs) -> Option<Vec<Value>> {
        match self {
            Self::Inet => Some(inet(inputs)),
            Self::Bridge if inputs.bridges.is_empty() => None,
            Self::Bridge => Some(bridge(inputs)),
        }
    }

    /// Commands that put exactly these contents in the table's place, whatever was there.
    pub(crate) fn replace(self, contents: &[Value]) -> Vec<Value> {
        // Deleting needs a table; adding what is there does nothing.
        let mut commands = vec![json!({"add": self.itself()}), self.delete(), json!({"add": self.itself()})];
        commands.extend(contents.iter().map(|object| json!({"add": object})));
        commands
    }

    /// The command that deletes it.
    pub(crate) fn delete(self) -> Value {
        json!({"delete": self.itself()})
    }

    fn itself(self) -> Value {
        json!({"table": {"family": self.family(), "name": NAME}})
    }

    fn chain(self, name: &str, kind: &str, hook: &str, priority: i32) -> Value {
        json!({"chain": {
            "family": self.family(), "table": NAME, "name": name, "type": kind, "hook": hook, "prio": priority,
            "policy": "accept",
        }})
    }

    fn rule(self, chain: &str, expressions: Vec<Value>) -> Value {
        json!({"rule": {"family": self.family(), "table": NAME, "chain": chain, "expr": expressions}})
    }
}

/// `{"nftables": […]}`.
pub(crate) fn document(commands: &[Value]) -> String {
    json!({"nftables": commands}).to_string()
}

/// The contents of a table in a form in which equal tables are equal, whoever wrote them: without handles, sorted
/// where order means nothing. `None` when it is not JSON as nft writes it.
pub(crate) fn canonical(listing: &str) -> Option<Vec<Value>> {
    let parsed: Value = serde_json::from_str(listing).ok()?;
    let objects = parsed.get("nftables")?.as_array()?.iter();
    let objects = objects.filter(|object| object.get("metainfo").is_none() && object.get("table").is_none());
    Some(canonical_contents(objects.cloned()))
}

/// The same, of [`Table::contents`].
pub(crate) fn canonical_contents(objects: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let mut objects: Vec<Value> = objects.into_iter().map(canonical_value).collect();
    // Stable: the rules of a chain keep their order.
    objects.sort_by_cached_key(|object| {
        let of_rule = object.pointer("/rule/chain");
        let named = object.as_object().and_then(|object| object.iter().next());
        let kind = named.map(|(kind, _)| kind.clone()).unwrap_or_default();
        let name = of_rule.or_else(|| named.and_then(|(_, body)| body.get("name")));
        (kind, name.and_then(Value::as_str).unwrap_or_default().to_owned())
    });
    objects
}

fn canonical_value(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(canonical_value).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(key, _)| key != "handle");
            let mut fields: serde_json::Map<String, Value> =
                fields.map(|(key, value)| (key, canonical_value(value))).collect();
            for key in ["set", "elem"] {
                if let Some(Value::Array(members)) = fields.get_mut(key) {
                    members.sort_by_cached_key(Value::to_string);
                }
            }
            if fields.get("elem").and_then(Value::as_array).is_some_and(Vec::is_empty) {
                fields.remove("elem");
            }
            // Newer versions write a set of one as the one.
            match fields.get("set").and_then(Value::as_array).map(Vec::as_slice) {
                Some([only]) => only.clone(),
                _ => Value::Object(fields),
            }
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain,
    }
}

fn inet(inputs: &Inputs) -> Vec<Value> {
    let table = Table::Inet;
    let Marks { packet: m, original: o } = inputs.marks;
    let device = inputs.device.as_str();
    let new = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}});
    let direction = |way: &str| equal(&json!({"ct": {"key": "direction"}}), &json!(way));
    let (packet, connection) = (json!({"meta": {"key": "mark"}}), json!({"ct": {"key": "mark"}}));
    let (to_device, from_device) =
        (equal(&meta("oifname"), &json!(device)), equal(&meta("iifname"), &json!(device)));
    let elsewhere = json!({"match": {"op": "!=", "left": meta("iifname"), "right": device}});
    let steer = json!({"jump": {"target": "steer"}});

    let mut all = Vec::new();
    for (name, kind, members) in sets::of(&inputs.local) {
        all.push(set(&name, &kind, &members));
    }

    all.push(json!({"chain": {"family": "inet", "table": NAME, "name": "steer"}}));
    for (name, kind, hook, priority) in [
        ("pre", "filter", "prerouting", MANGLE + 10),
        ("out", "route", "output", MANGLE + 10),
        ("clear", "filter", "forward", MANGLE - 10),
        ("leave", "filter", "postrouting", MANGLE - 10),
        ("post", "nat", "postrouting", SOURCE_NAT - 10),
        ("in", "nat", "input", SOURCE_NAT - 10),
    ] {
        all.push(table.chain(name, kind, hook, priority));
    }

    let port = [meta("l4proto"), payload("th", "dport")];
    for family in Family::ALL {
        let to = payload(protocol(family), "daddr");
        let node = equal(&to, &json!(format!("@node{}", digit(family))));
        let node_port = equal(&json!({"concat": port}), &json!("@nodeports"));
        let frontend = json!({"concat": [to, port[0], port[1]]});
        let frontend = equal(&frontend, &json!(format!("@front{}", digit(family))));
        all.push(table.rule("steer", vec![new.clone(), node, node_port, or(&connection, o)]));
        all.push(table.rule("steer", vec![new.clone(), frontend, or(&connection, o)]));
    }
    all.push(table.rule("steer", vec![direction("original"), has(&connection, o), or(&packet, m)]));
    all.push(table.rule("steer", vec![direction("reply"), has(&connection, m), or(&packet, m)]));
    all.push(table.rule("pre", vec![from_device.clone(), direction("original"), or(&connection, m)]));
    all.push(table.rule("pre", vec![elsewhere, steer.clone()]));
    all.push(table.rule("out", vec![steer]));
    let clear = json!({"mangle": {"key": packet, "value": {"&": [packet, !m]}}});
    all.push(table.rule("clear", vec![to_device.clone(), clear.clone()]));
    all.push(table.rule("leave", vec![to_device.clone(), clear]));
    let flags = json!({"&": [payload("tcp", "flags"), ["syn", "rst"]]});
    let segment = json!({"mangle": {
        "key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}},
    }});
    all.push(table.rule("leave", vec![to_device.clone(), equal(&flags, &json!("syn")), segment]));
    for family in Family::ALL {
        let itself =
            json!({"snat": {"family": protocol(family), "addr": payload(protocol(family), "saddr")}});
        all.push(table.rule("post", vec![to_device.clone(), itself]));
    }
    for snat in &inputs.snat {
        let family = Family::of(*snat);
        let from_snat = equal(&payload(protocol(family), "saddr"), &json!(snat));
        for masquerade in masquerades(inputs.node_port_range) {
            all.push(table.rule("post", [vec![from_snat.clone()], masquerade].concat()));
        }
        if let Some(node) = inputs.node.iter().find(|node| Family::of(**node) == family) {
            let to_node = json!({"snat": {"family": protocol(family), "addr": node}});
            all.push(table.rule("in", vec![from_device.clone(), from_snat, to_node]));
        }
    }
    all
}

/// What gives a source port outside the range of node ports: where there is room on both sides of it, either side every
/// other time. A side with less than a quarter of all ports counts for none.
fn masquerades((first, last): (u16, u16)) -> Vec<Vec<Value>> {
    let has_ports = equal(&meta("l4proto"), &json!({"set": ["tcp", "udp", "sctp"]}));
    let within = |(first, last): (u16, u16)| json!({"masquerade": {"port": {"range": [first, last]}, "flags": "fully-random"}});
    let sides = [(FIRST_PORT, first.saturating_sub(1)), (last.saturating_add(1), u16::MAX)];
    let wide = |(first, last): &(u16, u16)| last.saturating_sub(*first) > u16::MAX / 4;
    let wide: Vec<_> = sides.into_iter().filter(wide).collect();
    let half = equal(&json!({"numgen": {"mode": "random", "mod": 2, "offset": 0}}), &json!(0));
    let mut all: Vec<_> = wide.iter().map(|side| vec![has_ports.clone(), within(*side)]).collect();
    if let [below, _] = all.as_mut_slice() {
        below.insert(1, half);
    }
    // What has no ports; and all, where the range leaves no room.
    all.push(vec![json!({"masquerade": {"flags": "fully-random"}})]);
    all
}

fn bridge(inputs: &Inputs) -> Vec<Value> {
    let table = Table::Bridge;
    let mut all = vec![table.chain("pre", "filter", "prerouting", AFTER_BR_NETFILTER)];
    // Which bridge a frame came in by is asked by its port (`meta ibrname` is a module many kernels lack), and only
    // where there is more than one to tell apart.
    let only_one = inputs.bridges.len() == 1;
    for bridge in inputs.bridges.iter().filter(|bridge| only_one || !bridge.ports.is_empty()) {
        let to = payload("ether", "daddr");
        let by_port = (!only_one).then(|| equal(&meta("iifname"), &json!({"set": bridge.ports})));
        let mut expressions: Vec<Value> = by_port.into_iter().collect();
        expressions.extend([
            has(&meta("mark"), inputs.marks.packet),
            json!({"match": {"op": "!=", "left": to, "right": bridge.mac}}),
            json!({"mangle": {"key": meta("pkttype"), "value": "host"}}),
            json!({"mangle": {"key": to, "value": bridge.mac}}),
        ]);
        all.push(table.rule("pre", expressions));
    }
    all
}

fn set(name: &str, kind: &Value, members: &[Value]) -> Value {
    let mut set = json!({"family": "inet", "table": NAME, "name": name, "type": kind});
    if !members.is_empty() {
        set["elem"] = json!(members);
    }
    json!({"set": set})
}

fn equal(left: &Value, right: &Value) -> Value {
    json!({"match": {"op": "==", "left": left, "right": right}})
}

/// The bit is set in a mark.
fn has(mark: &Value, bit: u32) -> Value {
    equal(&json!({"&": [mark, bit]}), &json!(bit))
}

/// Sets the bit in a mark and leaves the others.
fn or(mark: &Value, bit: u32) -> Value {
    json!({"mangle": {"key": mark, "value": {"|": [mark, bit]}}})
}

fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// The first port that needs no privilege: a source port is replaced by one of these.
const FIRST_PORT: u16 = 1024;
/// `NF_IP_PRI_MANGLE`: after connection tracking.
const MANGLE: i32 = -150;
/// `NF_IP_PRI_NAT_SRC`.
const SOURCE_NAT: i32 = 100;
/// br_netfilter's own hook, which runs the IP hooks for bridged packets, has priority 0.
const AFTER_BR_NETFILTER: i32 = 1;

#[cfg(test)]
mod tests;
