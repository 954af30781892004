//! What a transaction is made of: a message for each table, set, chain, rule, and for elements. Pure.

use super::message::{Bytes, Kind, LIST_ELEM, flag};
use super::{Chain, Set, Table};

/// One message of a transaction, for its error's sake.
pub(super) struct Part {
    pub(super) doing: String,
    pub(super) kind: Kind,
    pub(super) flags: u16,
    pub(super) attributes: Bytes,
}

pub(super) fn new_table(name: &'static str, flags: u32) -> Part {
    part(format!("make table {name}"), Kind::NewTable, flag::CREATE, |out| {
        out.text(1, name);
        out.be32(2, flags);
    })
}

pub(super) fn del_table(name: &'static str) -> Part {
    part(format!("delete table {name}"), Kind::DelTable, 0, |out| out.text(1, name))
}

pub(super) fn contents(table: &Table) -> Vec<Part> {
    let mut parts = Vec::new();
    for (id, set) in (1..).zip(&table.sets) {
        parts.push(new_set(table.name, set, id));
        parts.extend(elements(Kind::NewElements, table.name, set.name, set.elements.iter()));
    }
    parts.extend(table.chains.iter().map(|chain| new_chain(table.name, chain)));
    for chain in &table.chains {
        parts.extend((1..).zip(&chain.rules).map(|(number, rule)| {
            let doing = format!("make rule {number} of chain {}", chain.name);
            part(doing, Kind::NewRule, flag::CREATE | flag::APPEND, |out| {
                out.text(1, table.name);
                out.text(2, chain.name);
                out.nested(4, |list| rule.encode(list));
            })
        }));
    }
    parts
}

fn new_chain(table: &str, chain: &Chain) -> Part {
    part(format!("make chain {}", chain.name), Kind::NewChain, flag::CREATE, |out| {
        out.text(1, table);
        out.text(3, chain.name);
        if let Some(hook) = chain.hook {
            out.nested(4, |nested| {
                nested.be32(1, hook.at as u32);
                nested.be32(2, hook.priority.cast_unsigned());
            });
            // Whatever falls through goes on.
            out.be32(5, 1);
            out.text(7, hook.kind);
        }
    })
}

fn new_set(table: &str, set: &Set, id: u32) -> Part {
    part(format!("make set {}", set.name), Kind::NewSet, flag::CREATE, |out| {
        let number = set.key.iter().fold(0, |number, part| number << 6 | part.number());
        let len: usize = set.key.iter().map(|part| part.len()).sum();
        out.text(1, table);
        out.text(2, set.name);
        out.be32(3, 0);
        out.be32(4, number);
        out.be32(5, if set.key.len() == 1 { set.key[0].size() } else { u32::try_from(len).unwrap_or(0) });
        out.be32(10, id);
    })
}

/// Messages for elements, each of a bounded size.
pub(super) fn elements<'a>(
    kind: Kind,
    table: &'static str,
    set: &'static str,
    elements: impl Iterator<Item = &'a Vec<u8>>,
) -> Vec<Part> {
    let elements: Vec<_> = elements.collect();
    let change = if kind == Kind::NewElements { "add to" } else { "delete from" };
    let flags = if kind == Kind::NewElements { flag::CREATE } else { 0 };
    let part_of = |some: &[&Vec<u8>]| {
        part(format!("{change} set {set}"), kind, flags, |out| {
            out.text(1, table);
            out.text(2, set);
            out.nested(3, |list| {
                for element in some {
                    list.nested(LIST_ELEM, |one| one.nested(1, |key| key.bytes(1, element)));
                }
            });
        })
    };
    elements.chunks(ELEMENTS).map(part_of).collect()
}

fn part(doing: String, kind: Kind, flags: u16, fill: impl FnOnce(&mut Bytes)) -> Part {
    let mut attributes = Bytes::default();
    fill(&mut attributes);
    Part { doing, kind, flags, attributes }
}

/// Elements in one message: attributes are shorter than 64 KiB.
const ELEMENTS: usize = 1024;
