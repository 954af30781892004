//! The socket: transactions and dumps.

use std::collections::BTreeSet;
use std::io;

use nix::libc::{EEXIST, ENOENT, EOPNOTSUPP, EPERM};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use super::message::{Answer, Attributes, BATCH_BEGIN, BATCH_END, Bytes, DONE, Kind, flag};
use super::part::{Part, contents, del_table, elements, new_table};
use super::{Set, Table, TableFamily};

/// Why a table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// Another process that runs owns the table.
    #[error("table inet {0} belongs to another process that is still running")]
    Owned(&'static str),
    /// The kernel refused something.
    #[error("cannot {doing}: {source}")]
    Refused {
        /// What.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
}

/// A socket of the network namespace it was opened in. While it is open, what it owns is its.
pub(crate) struct Nft {
    socket: Socket,
    sequence: u32,
    family: TableFamily,
    /// Tables get an owner; `None` until one was asked for.
    owns: Option<bool>,
}

impl Nft {
    /// Opens a socket for tables of the family inet.
    pub(crate) fn open() -> Result<Self, NftError> {
        Self::open_for(TableFamily::Inet)
    }

    /// Opens a socket for tables of this family.
    pub(crate) fn open_for(family: TableFamily) -> Result<Self, NftError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            // The kernel always answers; a bug that made us wait for more than it says must not hang the plan.
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_LIMIT, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(refused("open a netfilter socket"))?;
        Ok(Self { socket, sequence: 0, family, owns: None })
    }

    /// Whether what was written has an owner: others cannot change it.
    pub(crate) fn owns(&self) -> bool {
        self.owns == Some(true)
    }

    /// Makes the table exactly this, whatever is there of that name, in one transaction.
    pub(crate) fn replace(&mut self, table: &Table) -> Result<(), NftError> {
        if self.owns.is_none() {
            self.owns = Some(self.can_own()?);
        }
        let flags = if self.owns() { OWNER | PERSIST } else { 0 };
        let mut parts = Vec::new();
        // Deleting needs a table; making what is there does nothing, or takes over what has no owner.
        parts.push(new_table(table.name, flags));
        parts.push(del_table(table.name));
        parts.push(new_table(table.name, flags));
        parts.extend(contents(table));
        let outcome = self.transact(parts);
        match outcome {
            // One that is there without an owner, or with one that ended, and cannot be made ours by naming it.
            Err(NftError::Refused { source, .. }) if source.raw_os_error() == Some(EOPNOTSUPP) => {
                let mut parts = vec![del_table(table.name), new_table(table.name, flags)];
                parts.extend(contents(table));
                self.transact(parts)
            }
            other => other,
        }
        .map_err(|error| owned(error, table.name))
    }

    /// Takes the table away; false when there was none.
    pub(crate) fn delete(&mut self, name: &'static str) -> Result<bool, NftError> {
        match self.transact(vec![del_table(name)]) {
            Ok(()) => Ok(true),
            Err(NftError::Refused { source, .. }) if source.raw_os_error() == Some(ENOENT) => Ok(false),
            Err(error) => Err(owned(error, name)),
        }
    }

    /// Whether the kernel would take the table; nothing is changed, since the last part of the transaction must fail.
    pub(crate) fn check(&mut self, table: &Table) -> Result<(), NftError> {
        let mut parts = vec![new_table(CHECKED, 0)];
        parts.extend(contents(&Table { name: CHECKED, ..table.clone() }));
        // The last one cannot be carried out: all of it is undone.
        parts.push(del_table(NEVER));
        match self.transact(parts) {
            Err(NftError::Refused { doing, source })
                if source.raw_os_error() == Some(ENOENT) && doing.contains(NEVER) =>
            {
                Ok(())
            }
            other => other,
        }
    }

    /// Changes elements of sets, all or none.
    pub(crate) fn change(&mut self, table: &'static str, changes: &[(Set, Set)]) -> Result<(), NftError> {
        let mut parts = Vec::new();
        for (before, after) in changes {
            let gone = before.elements.difference(&after.elements);
            parts.extend(elements(Kind::DelElements, table, before.name, gone));
            let new = after.elements.difference(&before.elements);
            parts.extend(elements(Kind::NewElements, table, after.name, new));
        }
        if parts.is_empty() { Ok(()) } else { self.transact(parts) }
    }

    /// The elements of a set; none where there is no such set.
    pub(crate) fn elements(&mut self, table: &str, set: &str) -> Result<BTreeSet<Vec<u8>>, NftError> {
        let mut found = BTreeSet::new();
        self.dump(Kind::GetElements, (table, Some((2, set))), |answer| {
            for (_, element) in answer.attributes().within(3) {
                found.extend(Attributes(element).within(1).get(1).map(<[u8]>::to_vec));
            }
        })?;
        Ok(found)
    }

    /// The names of a table's chains; none where there is no such table.
    pub(crate) fn chains(&mut self, table: &str) -> Result<BTreeSet<String>, NftError> {
        let text =
            |value: &[u8]| String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        let mut found = BTreeSet::new();
        self.dump(Kind::GetChain, (table, None), |answer| {
            // A kernel that does not filter gives those of all tables.
            if answer.attributes().get(1).map(text).as_deref() == Some(table) {
                found.extend(answer.attributes().get(3).map(text));
            }
        })?;
        Ok(found)
    }

    /// What the kernel says of a table's chains, rules and sets, elements aside. Equal as long as nobody changed it.
    pub(crate) fn snapshot(&mut self, table: &str) -> Result<BTreeSet<Vec<u8>>, NftError> {
        let mut said = BTreeSet::new();
        for kind in [Kind::GetChain, Kind::GetRule, Kind::GetSet] {
            self.dump(kind, (table, None), |answer| {
                // A kernel that does not filter gives those of all tables.
                let of = answer.attributes().get(TABLE).unwrap_or_default();
                if of.strip_suffix(&[0]) == Some(table.as_bytes()) {
                    let fields = answer.attributes().filter(|(field, _)| !counts(kind, *field));
                    let mut one = vec![kind as u8];
                    fields.for_each(|(field, value)| {
                        one.extend(field.to_be_bytes());
                        one.extend(value);
                    });
                    said.insert(one);
                }
            })?;
        }
        Ok(said)
    }

    /// Whether this kernel knows owners that are outlived by their tables: it makes such a table.
    fn can_own(&mut self) -> Result<bool, NftError> {
        match self.transact(vec![new_table(PROBED, OWNER | PERSIST)]) {
            Ok(()) => self.transact(vec![del_table(PROBED)]).map(|()| true),
            Err(NftError::Refused { source, .. })
                if matches!(source.raw_os_error(), Some(EOPNOTSUPP | EEXIST | nix::libc::EINVAL)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Carries out all of it or nothing.
    fn transact(&mut self, parts: Vec<Part>) -> Result<(), NftError> {
        let (mut bytes, family) = (Bytes::default(), self.family as u8);
        let first = self.sequence.wrapping_add(1);
        bytes.message(BATCH_BEGIN, 0, first, (0, NFTABLES), |_| {});
        let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        for (at, part) in (1..).zip(&parts) {
            let flags = part.flags | if at == count { flag::ACK } else { 0 };
            bytes.message(part.kind.number(), flags, first.wrapping_add(at), (family, 0), |out| {
                out.0.extend(&part.attributes.0);
            });
        }
        bytes.message(BATCH_END, 0, first.wrapping_add(count + 1), (0, NFTABLES), |_| {});
        self.sequence = first.wrapping_add(count + 1);
        let room = bytes.0.len().max(MOST);
        // Beyond the usual limit: a transaction is one datagram.
        let forced = setsockopt(&self.socket, sockopt::SndBufForce, &(2 * room));
        if forced.is_err() {
            let _ = setsockopt(&self.socket, sockopt::SndBuf, &(2 * room));
        }
        self.socket.send(&bytes.0, 0).map_err(refused("send to netfilter"))?;
        loop {
            let (answer, _) = self.socket.recv_from_full().map_err(refused("hear from netfilter"))?;
            for answer in Answer::all(&answer) {
                let turn = answer.sequence.wrapping_sub(first);
                let Some(code) = answer.error().filter(|_| turn <= count + 1) else { continue };
                let doing = || match (turn as usize).checked_sub(1).and_then(|at| parts.get(at)) {
                    Some(part) => part.doing.clone(),
                    None => "change nftables".to_owned(),
                };
                if code != 0 {
                    self.drain();
                    return Err(NftError::Refused {
                        doing: doing(),
                        source: io::Error::from_raw_os_error(-code),
                    });
                }
                if turn == count {
                    return Ok(());
                }
            }
        }
    }

    /// Takes what else was said about a transaction that failed.
    fn drain(&mut self) {
        let quickly = TimeVal::new(0, 1);
        let slowly = TimeVal::new(ANSWER_LIMIT, 0);
        if setsockopt(&self.socket, sockopt::ReceiveTimeout, &quickly).is_ok() {
            while self.socket.recv_from_full().is_ok() {}
            let _ = setsockopt(&self.socket, sockopt::ReceiveTimeout, &slowly);
        }
    }

    fn dump(
        &mut self,
        kind: Kind,
        (table, more): (&str, Option<(u16, &str)>),
        mut each: impl FnMut(&Answer<'_>),
    ) -> Result<(), NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let (mut bytes, family) = (Bytes::default(), self.family as u8);
        bytes.message(kind.number(), flag::DUMP, self.sequence, (family, 0), |out| {
            out.text(1, table);
            if let Some((attribute, name)) = more {
                out.text(attribute, name);
            }
        });
        self.socket.send(&bytes.0, 0).map_err(refused("ask netfilter"))?;
        loop {
            let (answer, _) = self.socket.recv_from_full().map_err(refused("hear from netfilter"))?;
            for answer in Answer::all(&answer).iter().filter(|answer| answer.sequence == self.sequence) {
                match answer.error() {
                    None => each(answer),
                    Some(0) if answer.number == DONE => return Ok(()),
                    Some(code) if -code == ENOENT => return Ok(()),
                    Some(0) => {}
                    Some(code) => {
                        return Err(refused("read nftables")(io::Error::from_raw_os_error(-code)));
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft").field("owns", &self.owns).finish_non_exhaustive()
    }
}

/// Fields that follow what is ours to change: uses of a chain; the backend of a set (`NFTA_SET_TYPE`) and how many elements it
/// has (`NFTA_SET_COUNT`).
const fn counts(kind: Kind, field: u16) -> bool {
    matches!((kind, field), (Kind::GetChain, 6) | (Kind::GetSet, 19 | 20))
}

fn owned(error: NftError, name: &'static str) -> NftError {
    match error {
        NftError::Refused { source, .. } if source.raw_os_error() == Some(EPERM) => NftError::Owned(name),
        other @ (NftError::Owned(_) | NftError::Refused { .. }) => other,
    }
}

fn refused(doing: &str) -> impl FnOnce(io::Error) -> NftError {
    let doing = doing.to_owned();
    move |source| NftError::Refused { doing, source }
}

/// The attribute of a chain, a rule and a set that names its table.
const TABLE: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_TABLE_F_OWNER`, `NFT_TABLE_F_PERSIST`.
const OWNER: u32 = 2;
const PERSIST: u32 = 4;
/// Seconds.
const ANSWER_LIMIT: i64 = 5;
/// Bytes of send buffer at least.
const MOST: usize = 1 << 18;
/// Names of tables that never stay.
const PROBED: &str = "tunway_probe";
const CHECKED: &str = "tunway_check";
const NEVER: &str = "tunway_never";
