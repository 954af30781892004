//! ServiceCIDRs. Servers before 1.33 have none: then the configured CIDRs are all there is.

use kube::runtime::watcher;

use super::Watch;
use crate::model::object as api;
use crate::model::{ObjectKey, Reading, cidr};
use crate::source::{Event, Kind};

/// ServiceCIDRs.
pub(super) struct Watched;

impl Watch for Watched {
    type Object = api::ServiceCIDR;
    const KIND: Kind = Kind::ServiceCidr;
    const MAY_BE_UNKNOWN: bool = true;

    fn select(config: watcher::Config, _node_name: &str) -> watcher::Config {
        config
    }

    fn name(key: &ObjectKey) -> String {
        format!("ServiceCIDR {}", key.name)
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        cidr::read(object).map(Event::ServiceCidr)
    }

    fn gone(key: ObjectKey) -> Option<Event> {
        Some(Event::ServiceCidrGone(key.name))
    }
}
