//! EndpointSlices, as kube-proxy selects them: those not labelled headless.

use kube::runtime::watcher;

use super::Watch;
use crate::model::object as api;
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

    fn name(key: &ObjectKey) -> String {
        format!("EndpointSlice {key}")
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        if !endpoints::is_ours(&object.metadata) {
            return Reading::nothing();
        }
        endpoints::read(object).map(|slice| Event::Slice(Box::new(slice)))
    }

    fn gone(key: ObjectKey) -> Option<Event> {
        Some(Event::SliceGone(key))
    }
}
