//! ServiceCIDRs. Servers before 1.33 have none: then the configured CIDRs are all there is.

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;

use super::Watch;
use crate::model::{Reading, cidr};
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

    fn name(metadata: &ObjectMeta) -> String {
        format!("ServiceCIDR {}", metadata.name.as_deref().unwrap_or_default())
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        cidr::read(object).map(Event::ServiceCidr)
    }

    fn gone(metadata: &ObjectMeta) -> Option<Event> {
        Some(Event::ServiceCidrGone(metadata.name.clone().unwrap_or_default()))
    }
}
