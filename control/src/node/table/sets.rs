//! The sets of the table: what of this host's own addresses belongs to Services.

use std::collections::HashSet;
use std::net::IpAddr;

use dataplane::packet::tuple::Proto;
use dataplane::service::SvcPort;
use serde_json::{Value, json};

use super::super::LocalFrontends;
use super::super::rt::Family;
use super::{NAME, address_type, digit};

/// Names, types and members of the sets.
pub(super) fn of(local: &LocalFrontends) -> Vec<(String, Value, Vec<Value>)> {
    let port = |port: &SvcPort| (port.proto.to_string().to_lowercase(), port.port);
    let mut all = Vec::new();
    for family in Family::ALL {
        let of = |addr: &IpAddr| Family::of(*addr) == family;
        let node = local.node_addresses.iter().filter(|addr| of(addr)).map(|addr| json!(addr)).collect();
        all.push((format!("node{}", digit(family)), json!(address_type(family)), node));
        let kind = json!([address_type(family), "inet_proto", "inet_service"]);
        let fronts = local.frontends.iter().filter(|(addr, _)| of(addr)).map(|(addr, at)| {
            let (proto, number) = port(at);
            json!({"concat": [addr, proto, number]})
        });
        all.push((format!("front{}", digit(family)), kind, fronts.collect()));
    }
    let ports = local.node_ports.iter().map(|at| {
        let (proto, number) = port(at);
        json!({"concat": [proto, number]})
    });
    all.push(("nodeports".to_owned(), json!(["inet_proto", "inet_service"]), ports.collect()));
    all
}

/// The elements of a listing's sets, as [`apart`] gives them. What is none of ours is left out.
pub(crate) fn elements(by_set: &[(Value, Value)]) -> LocalFrontends {
    let mut found = LocalFrontends::default();
    let at = |proto: &Value, port: &Value| {
        let proto = match proto.as_str()? {
            "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            "sctp" => Proto::Sctp,
            _ => return None,
        };
        Some(SvcPort { port: u16::try_from(port.as_u64()?).ok()?, proto })
    };
    for (name, members) in by_set {
        for member in members.as_array().into_iter().flatten() {
            let parts = member.get("concat").and_then(Value::as_array).map(Vec::as_slice);
            let addr = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
            match (name.as_str(), parts) {
                (Some("node4" | "node6"), None) => found.node_addresses.extend(addr(member)),
                (Some("nodeports"), Some([proto, port])) => found.node_ports.extend(at(proto, port)),
                (Some("front4" | "front6"), Some([ip, proto, port])) => {
                    found.frontends.extend(addr(ip).zip(at(proto, port)));
                }
                _ => {}
            }
        }
    }
    found
}

/// Commands that make the sets' elements those of `to`, where they are those of `from`.
pub(crate) fn changed_elements(from: &LocalFrontends, to: &LocalFrontends) -> Vec<Value> {
    let mut commands = Vec::new();
    for ((name, _, before), (_, _, after)) in of(from).into_iter().zip(of(to)) {
        let less = |all: &[Value], others: &[Value]| {
            let others: HashSet<&Value> = others.iter().collect();
            all.iter().filter(|one| !others.contains(one)).cloned().collect::<Vec<_>>()
        };
        for (command, members) in [("delete", less(&before, &after)), ("add", less(&after, &before))] {
            if !members.is_empty() {
                let element = json!({"family": "inet", "table": NAME, "name": name, "elem": members});
                commands.push(json!({command: {"element": element}}));
            }
        }
    }
    commands
}

/// Canonical contents apart: everything but the sets' elements, which follow Services, and these by set.
pub(crate) fn apart(contents: &[Value]) -> (Vec<Value>, Vec<(Value, Value)>) {
    let mut elements = Vec::new();
    let frame = contents.iter().map(|object| {
        let mut object = object.clone();
        if let Some(set) = object.get_mut("set").and_then(Value::as_object_mut)
            && let Some(members) = set.remove("elem")
        {
            elements.push((set.get("name").cloned().unwrap_or_default(), members));
        }
        object
    });
    (frame.collect(), elements)
}
