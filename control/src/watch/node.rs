//! Our own Node and no other.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher;

use super::Watch;
use crate::model::{Problem, Reading, node};
use crate::source::{Event, Kind};

/// Our Node.
pub(super) struct Watched;

impl Watch for Watched {
    type Object = api::Node;
    const KIND: Kind = Kind::Node;

    fn select(config: watcher::Config, node_name: &str) -> watcher::Config {
        config.fields(&format!("metadata.name={node_name}"))
    }

    fn name(metadata: &ObjectMeta) -> String {
        format!("Node {}", metadata.name.as_deref().unwrap_or_default())
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        node::read(object).map(|node| Event::Node(Box::new(node)))
    }

    /// A Node that is deleted under us keeps what it last said, as in kube-proxy.
    fn gone(_metadata: &ObjectMeta) -> Option<Event> {
        None
    }

    fn problems_of_list(names: &BTreeSet<String>, node_name: &str) -> Option<Vec<Problem>> {
        names.is_empty().then(|| {
            vec![Problem {
                object: format!("Node {node_name}"),
                field: "metadata.name".to_owned(),
                what: "the API knows no Node of this name; no endpoint is local and zone hints are ignored"
                    .to_owned(),
                remedy: "give this node's name with --node-name or NODE_NAME".to_owned(),
            }]
        })
    }
}
