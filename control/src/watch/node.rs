//! Our own Node and no other.

use std::collections::BTreeSet;

use kube::runtime::watcher;

use super::Watch;
use crate::model::object as api;
use crate::model::{ObjectKey, Problem, Reading, node};
use crate::source::{Event, Kind};

/// Our Node.
pub(super) struct Watched;

impl Watch for Watched {
    type Object = api::Node;
    const KIND: Kind = Kind::Node;

    fn select(config: watcher::Config, node_name: &str) -> watcher::Config {
        config.fields(&format!("metadata.name={node_name}"))
    }

    fn name(key: &ObjectKey) -> String {
        format!("Node {}", key.name)
    }

    fn read(object: &Self::Object) -> Reading<Event> {
        node::read(object).map(|node| Event::Node(Box::new(node)))
    }

    /// A Node that is deleted under us keeps what it last said, as in kube-proxy.
    fn gone(_key: ObjectKey) -> Option<Event> {
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
