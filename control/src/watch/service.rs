//! Services, as kube-proxy selects them: those without the label of another proxy, and not headless.

use kube::runtime::watcher;

use super::Watch;
use crate::model::object as api;
use crate::model::{ObjectKey, Reading, service};
use crate::source::{Event, Kind};

/// Services.
pub(super) struct Watched;

impl Watch for Watched {
    type Object = api::Service;
    const KIND: Kind = Kind::Service;

    fn select(config: watcher::Config, _node_name: &str) -> watcher::Config {
        config.labels(&format!("!{}", service::PROXY_NAME_LABEL)).fields("spec.clusterIP!=None")
    }

    fn name(key: &ObjectKey) -> String {
        format!("Service {key}")
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        // Servers before 1.36 do not know the field selector's every use; the rules are ours to keep.
        if !service::is_ours(&object.metadata) {
            return Reading::nothing();
        }
        service::read(object).map(|service| Event::Service(Box::new(service)))
    }

    fn gone(key: ObjectKey) -> Option<Event> {
        Some(Event::ServiceGone(key))
    }
}
