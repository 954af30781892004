//! What a publish changes for those who use Services, in one line: counts, and names up to a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use dataplane::service::Service;

use super::troubles::named;
use crate::model::ObjectKey;

/// The ports of every Service as they were published last.
#[derive(Debug, Default)]
pub struct News {
    known: BTreeMap<ObjectKey, BTreeMap<String, Endpoints>>,
}

/// How many endpoints take new flows, and which, as a number that changes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Endpoints {
    count: usize,
    print: u64,
}

impl News {
    /// What is different of these Services, in words; none when nothing is. `ports` gives the published ports of one.
    pub fn of<'a>(
        &mut self,
        touched: &BTreeSet<ObjectKey>,
        ports: impl Fn(&ObjectKey) -> Vec<&'a Service>,
    ) -> Option<String> {
        let (mut new, mut gone, mut moved, mut empty) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for key in touched {
            let now: BTreeMap<_, _> = ports(key).into_iter().map(endpoints).collect();
            let before = self.known.remove(key).unwrap_or_default();
            gone.extend(before.keys().filter(|port| !now.contains_key(*port)).cloned());
            for (port, is) in &now {
                let was = before.get(port);
                match was {
                    None => new.push(port.clone()),
                    Some(was) if was != is => moved.push(format!("{port} {} to {}", was.count, is.count)),
                    Some(_) => {}
                }
                // A port that has none is refused: worth a name whether it is new or has lost them.
                if is.count == 0 && was.is_none_or(|was| was.count > 0) {
                    empty.push(port.clone());
                }
            }
            if !now.is_empty() {
                self.known.insert(key.clone(), now);
            }
        }
        let parts =
            [("new", new), ("gone", gone), ("with other endpoints", moved), ("without endpoints now", empty)];
        let parts = parts.into_iter().filter(|(_, ports)| !ports.is_empty());
        let said: Vec<_> =
            parts.map(|(what, ports)| format!("{} {what} ({})", ports.len(), named(&ports))).collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

/// A port of one family by its name, and its endpoints.
fn endpoints(service: &Service) -> (String, Endpoints) {
    let family = if service.cluster_ip.is_ipv6() { " over IPv6" } else { "" };
    let mut print = DefaultHasher::new();
    for set in [&service.cluster, &service.local] {
        set.len().hash(&mut print);
        let members = set.iter().filter_map(|index| service.backends.get(usize::try_from(*index).ok()?));
        members.for_each(|backend| (backend.addr, backend.port).hash(&mut print));
    }
    let count = service.cluster.len().max(service.local.len());
    (format!("{} {}{family}", service.name, service.port.proto), Endpoints { count, print: print.finish() })
}

#[cfg(test)]
mod tests {
    use dataplane::service::World;

    use super::*;
    use crate::compile::Compiler;
    use crate::desired::Desired;
    use crate::fixtures::{desired, key, says_slice, service, slice};
    use crate::source::Event;

    struct Told {
        desired: Desired,
        compiler: Compiler,
        news: News,
    }

    impl Told {
        fn next(&mut self) -> Option<String> {
            let touched = self.desired.dirty().clone();
            let world = self.compiler.compile(&mut self.desired, &mut || 1).unwrap()?;
            let World::Ready(world) = &*world else { panic!("no world") };
            self.news.of(&touched, |key| self.compiler.ports_of(key, world).collect())
        }
    }

    #[test]
    fn changes_are_counted_and_named_up_to_a_bound() {
        let names: Vec<_> = (1..=5).map(|n| format!("s{n}")).collect();
        let services: Vec<_> =
            (1..=5).map(|n| service(&format!("s{n}"), &[&format!("10.96.0.{n}")])).collect();
        let slices: Vec<_> = names.iter().map(|n| slice(n, n, &["10.1.0.1", "10.1.0.2"])).collect();
        let desired = desired(&services, &slices);
        let mut told = Told { desired, compiler: Compiler::new(Default::default()), news: News::default() };
        assert_eq!(
            told.next().unwrap(),
            "5 new (default/s1 TCP, default/s2 TCP, default/s3 TCP, and 2 more)"
        );
        told.desired.apply(says_slice(slice("s1", "s1", &["10.1.0.1", "10.1.0.3", "10.1.0.4"])));
        assert_eq!(told.next().unwrap(), "1 with other endpoints (default/s1 TCP 2 to 3)");
        told.desired.apply(says_slice(slice("s1", "s1", &[])));
        told.desired.apply(Event::ServiceGone(key("s2")));
        assert_eq!(
            told.next().unwrap(),
            "1 gone (default/s2 TCP), 1 with other endpoints (default/s1 TCP 3 to 0), \
             1 without endpoints now (default/s1 TCP)"
        );
        told.desired.apply(says_slice(slice("s1", "s1", &[])));
        assert_eq!(told.next(), None);
    }
}
