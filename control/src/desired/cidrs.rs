//! The ServiceCIDRs there are. Two may name the same CIDR; it is there until both are gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{ServiceCidr, ip};

/// Objects by name, and the list that is on its way.
#[derive(Debug, Default)]
pub(super) struct Cidrs {
    objects: BTreeMap<String, Vec<(IpAddr, u8)>>,
    list: Option<BTreeMap<String, Vec<(IpAddr, u8)>>>,
}

impl Cidrs {
    pub(super) fn restart(&mut self) {
        self.list = Some(BTreeMap::new());
    }

    pub(super) fn set(&mut self, object: ServiceCidr) {
        self.list.as_mut().unwrap_or(&mut self.objects).insert(object.name, object.cidrs);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.list.as_mut().unwrap_or(&mut self.objects).remove(name);
    }

    /// What is known of this object is in the list that is under way, if one is.
    pub(super) fn keep(&mut self, name: &str) {
        if let (Some(list), Some(known)) = (&mut self.list, self.objects.get(name)) {
            list.insert(name.to_owned(), known.clone());
        }
    }

    pub(super) fn done(&mut self) {
        if let Some(list) = self.list.take() {
            self.objects = list;
        }
    }

    /// The first object that names this CIDR.
    pub(super) fn named(&self, cidr: (IpAddr, u8)) -> Option<&str> {
        self.objects.iter().find(|(_, cidrs)| cidrs.contains(&cidr)).map(|(name, _)| name.as_str())
    }

    /// The first object with a CIDR around this address.
    pub(super) fn around(&self, addr: IpAddr) -> Option<&str> {
        let around = |cidrs: &[(IpAddr, u8)]| cidrs.iter().any(|cidr| ip::contains(*cidr, addr));
        self.objects.iter().find(|(_, cidrs)| around(cidrs)).map(|(name, _)| name.as_str())
    }

    /// Every CIDR once.
    pub(super) fn all(&self) -> BTreeSet<(IpAddr, u8)> {
        self.objects.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, cidrs: &[&str]) -> ServiceCidr {
        let cidrs = cidrs.iter().map(|addr| (addr.parse().unwrap(), 16)).collect();
        ServiceCidr { name: name.into(), cidrs }
    }

    fn all(cidrs: &Cidrs) -> Vec<String> {
        cidrs.all().iter().map(|(addr, _)| addr.to_string()).collect()
    }

    #[test]
    fn a_cidr_of_two_objects_stays_until_both_are_gone() {
        let mut cidrs = Cidrs::default();
        cidrs.set(object("a", &["10.96.0.0", "10.97.0.0"]));
        cidrs.set(object("b", &["10.96.0.0"]));
        assert_eq!(all(&cidrs), ["10.96.0.0", "10.97.0.0"]);
        cidrs.remove("a");
        assert_eq!(all(&cidrs), ["10.96.0.0"]);
        cidrs.set(object("b", &["10.98.0.0"]));
        assert_eq!(all(&cidrs), ["10.98.0.0"]);
        cidrs.remove("b");
        assert!(all(&cidrs).is_empty());
    }

    #[test]
    fn a_list_replaces_all_at_once() {
        let mut cidrs = Cidrs::default();
        cidrs.set(object("old", &["10.96.0.0"]));
        cidrs.restart();
        cidrs.set(object("new", &["10.97.0.0"]));
        cidrs.set(object("gone", &["10.98.0.0"]));
        cidrs.remove("gone");
        assert_eq!(all(&cidrs), ["10.96.0.0"]);
        cidrs.done();
        assert_eq!(all(&cidrs), ["10.97.0.0"]);
        cidrs.done();
        assert_eq!(all(&cidrs), ["10.97.0.0"]);
    }
}
