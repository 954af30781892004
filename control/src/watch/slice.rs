//! EndpointSlices, as kube-proxy selects them: those not labelled headless.

use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;

use super::Watch;
use crate::model::{ObjectKey, Reading, endpoints};
use crate::source::{Event, Kind};

/// EndpointSlices.
pub(super) struct Watched;

impl Watch for Watched {
    type Object = api::EndpointSlice;
    const KIND: Kind = Kind::Slice;

    fn select(config: watcher::Config, _node_name: &str) -> watcher::Config {
        config.labels(&format!("!{}", endpoints::HEADLESS_LABEL))
    }

    fn name(metadata: &ObjectMeta) -> String {
        format!("EndpointSlice {}", ObjectKey::of(metadata))
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        if !endpoints::is_ours(&object.metadata) {
            return Reading::nothing();
        }
        endpoints::read(object).map(|slice| Event::Slice(Box::new(slice)))
    }

    fn gone(metadata: &ObjectMeta) -> Option<Event> {
        Some(Event::SliceGone(ObjectKey::of(metadata)))
    }
}
