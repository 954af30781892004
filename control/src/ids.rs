//! Stable numbers for service ports and endpoints. Flows carry them, so a number must mean the same thing for as
//! long as a flow may name it, and the same thing should keep its number when it goes and comes back.
//!
//! Numbers count up and are not given to anything else in the life of a process (at a thousand new ones a
//! second the 32 bits last seven weeks; after that the next number nobody holds is taken). What is retired keeps
//! its number until 65,536 others have been retired after it, so a Service that is deleted and made again, or
//! a pod that flaps, is recognised, and memory stays bounded. The region of flows does not outlive the process,
//! so neither need the numbers: to let it, `(ServiceId, PortKey)` pairs would be appended to a file here, before
//! the snapshot that uses them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::ids::{EndpointId, ServiceId};
use dataplane::packet::tuple::{Family, Proto};

use crate::model::ObjectKey;

/// How many retired names keep their number.
const REMEMBERED: usize = 65_536;

/// What a [`ServiceId`] stands for: one port of one Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// The Service.
    pub object: Arc<ObjectKey>,
    /// The port's name, "" when it has none.
    pub port: Arc<str>,
    /// Its protocol.
    pub proto: Proto,
    /// The family of the ClusterIP.
    pub family: Family,
}

/// The numbers given so far.
#[derive(Debug)]
pub struct Ids {
    services: Interner<PortKey>,
    endpoints: Interner<(ServiceId, IpAddr, u16)>,
}

impl Default for Ids {
    fn default() -> Self {
        Self { services: Interner::new(REMEMBERED), endpoints: Interner::new(REMEMBERED) }
    }
}

impl Ids {
    /// The number of a service port, in use from now on.
    pub fn service(&mut self, key: &PortKey) -> ServiceId {
        ServiceId(self.services.number(key))
    }

    /// The number of an address and port as an endpoint of a service port, in use from now on.
    pub fn endpoint(&mut self, service: ServiceId, addr: IpAddr, port: u16) -> EndpointId {
        EndpointId(self.endpoints.number(&(service, addr, port)))
    }

    /// No snapshot names the service port any more; flows still may.
    pub fn retire_service(&mut self, key: &PortKey) {
        self.services.retire(key);
    }

    /// No snapshot names the endpoint any more; flows still may.
    pub fn retire_endpoint(&mut self, service: ServiceId, addr: IpAddr, port: u16) {
        self.endpoints.retire(&(service, addr, port));
    }
}

#[derive(Debug)]
struct Interner<K> {
    known: HashMap<K, Known>,
    last: u32,
    wrapped: bool,
    /// Retirements, oldest first. One that was undone stays in line and is skipped when its turn comes.
    line: VecDeque<(K, u64)>,
    retirements: u64,
    remembered: usize,
}

#[derive(Debug)]
struct Known {
    number: u32,
    retired: Option<u64>,
}

impl<K: Clone + Eq + Hash> Interner<K> {
    fn new(remembered: usize) -> Self {
        let (known, line) = (HashMap::new(), VecDeque::new());
        Self { known, last: 0, wrapped: false, line, retirements: 0, remembered }
    }

    fn number(&mut self, key: &K) -> u32 {
        if let Some(known) = self.known.get_mut(key) {
            known.retired = None;
            return known.number;
        }
        let number = self.fresh();
        self.known.insert(key.clone(), Known { number, retired: None });
        number
    }

    fn fresh(&mut self) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or_else(|| {
                self.wrapped = true;
                1
            });
            if !self.wrapped || self.known.values().all(|known| known.number != self.last) {
                return self.last;
            }
        }
    }

    fn retire(&mut self, key: &K) {
        let Some(known) = self.known.get_mut(key) else { return };
        if known.retired.is_some() {
            return;
        }
        self.retirements += 1;
        known.retired = Some(self.retirements);
        self.line.push_back((key.clone(), self.retirements));
        while self.line.len() > self.remembered {
            let Some((oldest, when)) = self.line.pop_front() else { return };
            if self.known.get(&oldest).is_some_and(|known| known.retired == Some(when)) {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_name_one_number_and_families_and_protocols_are_names() {
        let key = |port: &str, proto, family| PortKey {
            object: Arc::new(ObjectKey { namespace: "a".into(), name: "b".into() }),
            port: port.into(),
            proto,
            family,
        };
        let mut ids = Ids::default();
        let first = ids.service(&key("", Proto::Tcp, Family::V4));
        assert_eq!(first, ServiceId(1), "0 is none");
        let others = [
            key("x", Proto::Tcp, Family::V4),
            key("", Proto::Udp, Family::V4),
            key("", Proto::Tcp, Family::V6),
        ];
        let others: std::collections::BTreeSet<_> = others.iter().map(|key| ids.service(key)).collect();
        assert_eq!(others.len(), 3);
        assert!(!others.contains(&first));
        assert_eq!(ids.service(&key("", Proto::Tcp, Family::V4)), first);
        let addr = "10.1.0.1".parse().unwrap();
        let endpoint = ids.endpoint(first, addr, 80);
        assert_ne!(endpoint, ids.endpoint(first, addr, 81));
        assert_ne!(endpoint, ids.endpoint(ServiceId(2), addr, 80));
        ids.retire_endpoint(first, addr, 80);
        assert_eq!(endpoint, ids.endpoint(first, addr, 80), "back before it was forgotten");
    }

    #[test]
    fn past_the_last_number_those_in_use_are_skipped() {
        let mut ids = Interner::new(4);
        assert_eq!((ids.number(&'a'), ids.number(&'b')), (1, 2));
        ids.last = u32::MAX - 1;
        assert_eq!(ids.number(&'c'), u32::MAX);
        assert_eq!(ids.number(&'d'), 3);
    }

    proptest! {
        /// No number ever changes hands, a retired name that is still remembered gets its own back, and what is
        /// kept beyond the names in use is bounded.
        #[test]
        fn numbers_never_change_hands(steps in prop::collection::vec((any::<bool>(), 0_u8..24), 0..400)) {
            let mut ids = Interner::new(4);
            let (mut owner, mut in_use) = (HashMap::new(), HashMap::new());
            for (take, key) in steps {
                if take {
                    let number = ids.number(&key);
                    prop_assert_eq!(*owner.entry(number).or_insert(key), key);
                    prop_assert_eq!(*in_use.entry(key).or_insert(number), number);
                } else {
                    ids.retire(&key);
                    in_use.remove(&key);
                }
                prop_assert!(ids.line.len() <= 4 && ids.known.len() <= in_use.len() + 4);
            }
        }
    }
}
