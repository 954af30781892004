//! Stable numbers for service ports and endpoints. Flows carry them, so a number must mean the same thing for as
//! long as a flow may name it, and the same thing should keep its number when it goes and comes back.
//!
//! Numbers count up. What is retired keeps its number until 65,536 others have been retired after it, so a Service that
//! is deleted and made again, or a pod that flaps, is recognised, and memory stays bounded. Then the number of a service
//! port is given to nothing else in the life of a process (at a thousand new ones a second the 32 bits last seven weeks;
//! after that the next number nobody holds is taken); that of an endpoint is given again once none of its flows is
//! active, so that what is kept by endpoint stays bounded, too. The region of flows does not outlive the process,
//! so neither need the numbers: to let it, `(ServiceId, PortKey)` pairs would be appended to a file here, before
//! the snapshot that uses them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::flow::Loads;
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
    /// Numbers of endpoints that are forgotten, oldest first.
    spare: VecDeque<u32>,
    loads: Arc<Loads>,
}

impl Default for Ids {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}

impl Ids {
    /// No number given yet. What `loads` counts flows of is in use.
    #[must_use]
    pub fn new(loads: Arc<Loads>) -> Self {
        Self::remembering(REMEMBERED, loads)
    }

    fn remembering(retired: usize, loads: Arc<Loads>) -> Self {
        let (services, endpoints) = (Interner::new(retired), Interner::new(retired));
        Self { services, endpoints, spare: VecDeque::new(), loads }
    }

    /// The number of a service port, in use from now on.
    pub fn service(&mut self, key: &PortKey) -> ServiceId {
        ServiceId(self.services.number(key))
    }

    /// The number of an address and port as an endpoint of a service port, in use from now on.
    pub fn endpoint(&mut self, service: ServiceId, addr: IpAddr, port: u16) -> EndpointId {
        let key = (service, addr, port);
        if let Some(known) = self.endpoints.known(&key) {
            return EndpointId(known);
        }
        // One that is still busy goes to the end of the line.
        let spare = self.spare.pop_front().and_then(|spare| {
            let idle = self.loads.active(EndpointId(spare)) == 0;
            if !idle {
                self.spare.push_back(spare);
            }
            idle.then_some(spare)
        });
        let number = spare.unwrap_or_else(|| self.endpoints.fresh());
        self.endpoints.give(&key, number);
        self.loads.reserve(EndpointId(number));
        EndpointId(number)
    }

    /// No snapshot names the service port any more; flows still may.
    pub fn retire_service(&mut self, key: &PortKey) {
        // Flows hold on to it for as long as they like.
        let _ = self.services.retire(key);
    }

    /// No snapshot names the endpoint any more; flows still may.
    pub fn retire_endpoint(&mut self, service: ServiceId, addr: IpAddr, port: u16) {
        self.spare.extend(self.endpoints.retire(&(service, addr, port)));
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
        self.known(key).unwrap_or_else(|| {
            let number = self.fresh();
            self.give(key, number);
            number
        })
    }

    /// The number the name has, in use from now on.
    fn known(&mut self, key: &K) -> Option<u32> {
        let known = self.known.get_mut(key)?;
        known.retired = None;
        Some(known.number)
    }

    fn give(&mut self, key: &K, number: u32) {
        self.known.insert(key.clone(), Known { number, retired: None });
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

    /// The numbers of names that are forgotten by it.
    fn retire(&mut self, key: &K) -> Vec<u32> {
        let mut forgotten = Vec::new();
        let Some(known) = self.known.get_mut(key) else { return forgotten };
        if known.retired.is_some() {
            return forgotten;
        }
        self.retirements += 1;
        known.retired = Some(self.retirements);
        self.line.push_back((key.clone(), self.retirements));
        while self.line.len() > self.remembered {
            let Some((oldest, when)) = self.line.pop_front() else { break };
            if self.known.get(&oldest).is_some_and(|known| known.retired == Some(when)) {
                forgotten.extend(self.known.remove(&oldest).map(|known| known.number));
            }
        }
        forgotten
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
    fn an_endpoints_number_is_given_again_once_it_is_forgotten_and_idle() {
        let loads: Arc<Loads> = Arc::default();
        let mut ids = Ids::remembering(2, Arc::clone(&loads));
        let addr = |n: u8| IpAddr::from([10, 1, 0, n]);
        let all: Vec<_> = (1..=4).map(|n| ids.endpoint(ServiceId(1), addr(n), 80)).collect();
        loads.add(all[0]);
        (1..=4).for_each(|n| ids.retire_endpoint(ServiceId(1), addr(n), 80));
        // Two are remembered; of the others one is busy.
        let next: Vec<_> = (5..=7).map(|n| ids.endpoint(ServiceId(1), addr(n), 80)).collect();
        assert_eq!(next, [EndpointId(5), all[1], EndpointId(6)]);
        loads.remove(all[0]);
        assert_eq!(ids.endpoint(ServiceId(1), addr(8), 80), all[0]);
        assert_eq!(ids.endpoint(ServiceId(1), addr(4), 80), all[3], "its own, which is remembered");
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
                    let _ = ids.retire(&key);
                    in_use.remove(&key);
                }
                prop_assert!(ids.line.len() <= 4 && ids.known.len() <= in_use.len() + 4);
            }
        }
    }
}
