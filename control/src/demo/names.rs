//! Names and addresses as a cluster makes them up: random, but short and without letters that make words.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::Ipv4Addr;

use std::collections::BTreeSet;

/// A source of names and addresses, none given twice.
#[derive(Debug)]
pub struct Names {
    state: u64,
    used: BTreeSet<Ipv4Addr>,
}

/// The letters Kubernetes uses: no vowels, none that look alike.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl Names {
    /// Other names in every run.
    #[must_use]
    pub fn random() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// The same names for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed, used: BTreeSet::new() }
    }

    /// Five letters that tell a ReplicaSet's pods apart.
    pub fn suffix(&mut self) -> String {
        (0..5).map(|_| letter(self.next())).collect()
    }

    /// What tells a Deployment's ReplicaSets apart: the same for the same template.
    #[must_use]
    pub fn template_hash(&self, template: &str) -> String {
        // FNV-1a, 32 bits, its decimal digits as letters: nine or ten of them.
        let hash = template
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        hash.to_string().bytes().map(|digit| letter(u64::from(digit))).collect()
    }

    /// An address of 10.96.0.0/12, and not one of its first 256: a cluster's own Services live there.
    pub fn cluster_ip(&mut self) -> Ipv4Addr {
        loop {
            let host = u32::try_from(self.next() % ((1 << 20) - 512)).unwrap_or(0) + 256;
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + host);
            // .0 and .255 are fine, but look as if they were not.
            if !matches!(ip.octets()[3], 0 | 255) && self.used.insert(ip) {
                return ip;
            }
        }
    }

    /// `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn letter(n: u64) -> char {
    let count = LETTERS.len() as u64;
    let at = usize::try_from(n % count).unwrap_or(0);
    char::from(LETTERS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_look_like_kubernetes_names_and_differ() {
        let mut names = Names::seeded(1);
        let suffixes: BTreeSet<_> = (0..100).map(|_| names.suffix()).collect();
        assert_eq!(suffixes.len(), 100);
        assert!(suffixes.iter().all(|s| s.len() == 5 && s.bytes().all(|b| LETTERS.contains(&b))));
        let hash = names.template_hash("a");
        assert!((8..=10).contains(&hash.len()) && hash == names.template_hash("a"), "{hash}");
        assert_ne!(hash, names.template_hash("b"));
    }

    #[test]
    fn cluster_ips_are_in_the_range_and_differ() {
        let mut names = Names::random();
        let ips: BTreeSet<_> = (0..1000).map(|_| names.cluster_ip()).collect();
        assert_eq!(ips.len(), 1000);
        for ip in ips {
            assert!(crate::model::ip::contains(super::super::controllers::SERVICE_CIDR, ip.into()), "{ip}");
        }
    }
}
