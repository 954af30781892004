//! By which rule a service port picks endpoints, and the hash behind those that follow the flow.

use std::fmt;
use std::net::IpAddr;

use crate::packet::tuple::Tuple;

/// The rule by which a service port picks endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// Uniform, independent for every flow: what kube-proxy's iptables and nftables modes do.
    #[default]
    Random,
    /// One after the other, over all workers together.
    RoundRobin,
    /// The endpoint with the fewest active flows, any of those with equally many; of more than
    /// [`Selector::LOOKED_AT`] endpoints as [`Selector::P2c`].
    LeastConn,
    /// Power of two choices: of two drawn at random the one with fewer active flows.
    P2c,
    /// Rendezvous hashing, also called highest random weight: the endpoint whose hash together with the flow's is the
    /// highest. When one leaves, only its flows go elsewhere.
    Hrw(HashBy),
    /// Maglev hashing (Eisenbud et al., NSDI 2016): a look into a table, whatever the number of endpoints. When one
    /// leaves, its flows go elsewhere and few others do.
    Maglev(HashBy),
}

/// What of a flow is hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashBy {
    /// Both addresses, both ports and the protocol.
    #[default]
    Tuple,
    /// The client's address: all its flows to a service port go to one endpoint.
    Client,
}

impl Selector {
    /// Every rule, by whatever can be hashed.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::RoundRobin,
        Self::LeastConn,
        Self::P2c,
        Self::Hrw(HashBy::Tuple),
        Self::Hrw(HashBy::Client),
        Self::Maglev(HashBy::Tuple),
        Self::Maglev(HashBy::Client),
    ];

    /// How many endpoints least connections looks at.
    pub const LOOKED_AT: usize = 32;

    /// The same flow gets the same endpoint of the same ones, whenever it comes: by what is hashed of it.
    #[must_use]
    pub const fn hash_by(self) -> Option<HashBy> {
        match self {
            Self::Random | Self::RoundRobin | Self::LeastConn | Self::P2c => None,
            Self::Hrw(by) | Self::Maglev(by) => Some(by),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::LeastConn => "least-connections",
            Self::P2c => "p2c",
            Self::Hrw(HashBy::Tuple) => "rendezvous",
            Self::Hrw(HashBy::Client) => "rendezvous by client",
            Self::Maglev(HashBy::Tuple) => "maglev",
            Self::Maglev(HashBy::Client) => "maglev by client",
        })
    }
}

impl HashBy {
    /// The flow's hash. The seed is the service port's and no secret: every node picks alike.
    pub(super) fn hash(self, seed: u64, flow: &Tuple<IpAddr>) -> u64 {
        let client = hash_addr(seed, flow.src);
        match self {
            Self::Client => client,
            Self::Tuple => {
                let ports = u64::from(flow.sport) << 32 | u64::from(flow.dport) << 16;
                mix(hash_addr(client, flow.dst), ports | u64::from(flow.proto as u8))
            }
        }
    }
}

/// The hash of a name.
pub(super) fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0, |hash, byte| mix(hash, u64::from(byte)))
}

/// The hash of an address and port.
pub(super) fn hash_endpoint(seed: u64, addr: IpAddr, port: u16) -> u64 {
    mix(hash_addr(seed, addr), u64::from(port))
}

fn hash_addr(seed: u64, addr: IpAddr) -> u64 {
    match addr {
        IpAddr::V4(addr) => mix(seed, u64::from(addr.to_bits())),
        IpAddr::V6(addr) => {
            let octets = addr.octets();
            let halves = octets.chunks_exact(8);
            let words = halves.map(|half| half.iter().fold(0, |word, octet| word << 8 | u64::from(*octet)));
            words.fold(seed, mix)
        }
    }
}

/// A hash with one more word in it: splitmix64's finalizer (Steele, Lea, Flood, OOPSLA 2014).
pub(super) const fn mix(hash: u64, word: u64) -> u64 {
    let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
