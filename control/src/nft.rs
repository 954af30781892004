//! nftables over netlink (`linux/netfilter/nf_tables.h`): what a table of ours is made of, and a socket that writes it.
//!
//! A [`Table`] is described by [`expr`]'s rules, written whole in one transaction by [`Nft::replace`], and told from what
//! somebody made of it by [`Nft::snapshot`]: what the kernel says of it, compared with what it said right after it was
//! written.
//!
//! On kernels that can (6.9 and newer) a table has its socket for an owner: nobody else can change it, nor does `nft
//! flush ruleset` touch it, and it stays when the owner ends; the next process adopts it. The `nft` program is not needed.

mod expr;
mod message;
mod part;
mod socket;

pub(crate) use expr::{Expr, Field, Rule, octets};
pub(crate) use socket::{Nft, NftError};

/// `NFPROTO_*` of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableFamily {
    Inet = 1,
    Bridge = 7,
}

/// A table of the family inet: everything in it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) sets: Vec<Set>,
    /// Those that others jump to first.
    pub(crate) chains: Vec<Chain>,
}

/// A set of exact keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: Vec<KeyType>,
    /// Each of the key's length: parts in network order, each filled up to four bytes.
    pub(crate) elements: std::collections::BTreeSet<Vec<u8>>,
}

/// What a part of a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    Ipv4Addr,
    Ipv6Addr,
    InetProto,
    InetService,
}

/// A chain; without a hook, others jump to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Option<Hook>,
    pub(crate) rules: Vec<Rule>,
}

/// Where packets come to a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) at: At,
    pub(crate) priority: i32,
}

/// `NF_INET_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl TableFamily {
    /// As `nft` writes it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        }
    }
}

impl KeyType {
    /// Bytes in a key.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Ipv6Addr => 16,
            Self::Ipv4Addr | Self::InetProto | Self::InetService => 4,
        }
    }

    /// Bytes of the value itself.
    const fn size(self) -> u32 {
        match self {
            Self::Ipv4Addr => 4,
            Self::Ipv6Addr => 16,
            Self::InetProto => 1,
            Self::InetService => 2,
        }
    }

    /// The number by which `nft` knows it, to list the set.
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4Addr => 7,
            Self::Ipv6Addr => 8,
            Self::InetProto => 12,
            Self::InetService => 13,
        }
    }
}
