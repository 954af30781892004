//! Which endpoint a new flow gets.

use std::net::IpAddr;

use super::{Backend, Reason, Reasons, Service, Set};

/// What a choice may look at beyond the snapshot.
pub trait Live {
    /// A number drawn uniformly from `0..below`. `below` is never 0.
    fn draw(&mut self, below: u32) -> u32;
}

/// Picks an endpoint of the set by the service port's selector; `None` only if the set is empty.
///
/// `client` is the flow's source address: the same client may have to get the same endpoint again.
pub fn choose<'a, L: Live, R: Reasons>(
    service: &'a Service,
    set: Set,
    live: &mut L,
    client: IpAddr,
    reasons: &mut R,
) -> Option<&'a Backend> {
    let members = service.members(set);
    let position = service.selector.pick(members.len(), live)?;
    let backend = service.backends.get(*members.get(position)? as usize)?;
    reasons.note(Reason::Picked { backend, position, of: members.len(), client });
    Some(backend)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Rng, service};
    use super::super::{NoReasons, Recorded};
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn with_backends(count: u16) -> Service {
        let mut service = service(1, "10.96.0.1", 80);
        service.backends = (0..count)
            .map(|i| Backend {
                id: crate::ids::EndpointId(u32::from(i) + 1),
                addr: format!("10.1.0.{}", i + 1).parse().unwrap(),
                port: 8080,
                local: false,
                ready_or_serving: true,
            })
            .collect();
        service.cluster = (0..u32::from(count)).collect();
        service.any = count > 0;
        service
    }

    #[test]
    fn an_empty_set_gives_none_and_draws_nothing() {
        struct Never;
        impl Live for Never {
            fn draw(&mut self, _: u32) -> u32 {
                panic!("nothing to draw from");
            }
        }
        assert_eq!(choose(&with_backends(0), Set::Cluster, &mut Never, CLIENT, &mut NoReasons), None);
        assert_eq!(choose(&with_backends(3), Set::Local, &mut Never, CLIENT, &mut NoReasons), None);
    }

    #[test]
    fn only_members_of_the_set_are_picked() {
        let mut service = with_backends(5);
        service.cluster = Box::new([1, 4]);
        service.local = Box::new([4]);
        let mut rng = Rng::new(7);
        let picked = |set, rng: &mut Rng| choose(&service, set, rng, CLIENT, &mut NoReasons).unwrap().id.0;
        for _ in 0..200 {
            assert!([2, 5].contains(&picked(Set::Cluster, &mut rng)));
            assert_eq!(picked(Set::Local, &mut rng), 5);
        }
    }

    #[test]
    fn the_pick_is_recorded_with_its_set() {
        let mut recorded = Recorded::default();
        choose(&with_backends(3), Set::Cluster, &mut Rng::new(1), CLIENT, &mut recorded).unwrap();
        assert_eq!(recorded.steps().len(), 1);
        assert!(recorded.steps()[0].contains("of 3"), "{:?}", recorded.steps());
    }

    /// Pearson's statistic of 160,000 choices among 16 endpoints.
    fn chi_square(live: &mut impl Live) -> f64 {
        let (count, draws) = (16_u16, 160_000_u32);
        let service = with_backends(count);
        let mut hits = vec![0_u32; usize::from(count)];
        for _ in 0..draws {
            let backend = choose(&service, Set::Cluster, live, CLIENT, &mut NoReasons).unwrap();
            hits[backend.id.0 as usize - 1] += 1;
        }
        let expected = f64::from(draws) / f64::from(count);
        hits.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum()
    }

    /// With 15 degrees of freedom a uniform choice exceeds 44.3 for one seed in 10,000; a choice that gives one
    /// endpoint a tenth more exceeds it always, which the twin shows.
    #[test]
    fn random_is_uniform() {
        struct Loaded(Rng);
        impl Live for Loaded {
            fn draw(&mut self, below: u32) -> u32 {
                if self.0.draw(160) == 0 { 3 } else { self.0.draw(below) }
            }
        }
        for seed in [1, 2, 3, 4, 5] {
            let fair = chi_square(&mut Rng::new(seed));
            assert!(fair < 44.3, "seed {seed}: chi-square {fair:.1}");
            let loaded = chi_square(&mut Loaded(Rng::new(seed)));
            assert!(loaded > 44.3, "seed {seed}: the loaded twin passes with {loaded:.1}");
        }
    }
}
