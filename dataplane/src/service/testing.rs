//! Small worlds for this module's tests.

use std::net::IpAddr;

use super::{Backend, Live, Policy, Selector, Service, SvcPort};
use crate::ids::{EndpointId, ServiceId};
use crate::packet::tuple::Proto;

/// A TCP service port without endpoints.
pub(super) fn service(id: u32, cluster_ip: &str, port: u16) -> Service {
    Service {
        id: ServiceId(id),
        name: format!("default/s{id}").into(),
        cluster_ip: cluster_ip.parse().unwrap(),
        port: SvcPort { port, proto: Proto::Tcp },
        internal: Policy::Cluster,
        purge_epoch: 1,
        backends: Box::default(),
        cluster: Box::default(),
        local: Box::default(),
        any: false,
        selector: Selector::Random,
    }
}

/// A backend that serves, on another node.
pub(super) fn backend(id: u32, addr: &str, port: u16) -> Backend {
    Backend {
        id: EndpointId(id),
        addr: addr.parse::<IpAddr>().unwrap(),
        port,
        local: false,
        ready_or_serving: true,
    }
}

/// splitmix64, reproducible by its seed.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Live for Rng {
    fn draw(&mut self, below: u32) -> u32 {
        u32::try_from((u128::from(self.next()) * u128::from(below)) >> 64).unwrap()
    }
}
