//! Where Services come from: the Kubernetes API or a directory of manifests, as one stream of events.

pub mod manifests;

use crate::model::{Node, ObjectKey, Problem, Service, ServiceCidr, Slice};

/// A kind that is listed and watched on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    Slice,
    /// Our own Node.
    Node,
    /// ServiceCIDRs. Not every source has them.
    ServiceCidr,
}

/// One thing a source says. `Restart(kind)` begins a full list of a kind: what follows of that kind is buffered
/// until `Done(kind)` and then replaces all that was known of it at once. Outside a list, changes apply at once.
/// Of our Node there is one at most; a list without it says nothing, and it keeps what it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full list of this kind begins.
    Restart(Kind),
    /// A Service is there, or changed.
    Service(Box<Service>),
    /// A Service is gone, or has no virtual address any more.
    ServiceGone(ObjectKey),
    /// A slice is there, or changed.
    Slice(Box<Slice>),
    /// A slice is gone, or no longer ours.
    SliceGone(ObjectKey),
    /// Our Node is there, or changed.
    Node(Box<Node>),
    /// A ServiceCIDR is there, or changed.
    ServiceCidr(ServiceCidr),
    /// The ServiceCIDR of this name is gone.
    ServiceCidrGone(String),
    /// An object of this kind is there and cannot be read just now: it stays what it last was, in a list as well. Of
    /// kinds without namespaces only the name counts.
    Unreadable(Kind, ObjectKey),
    /// The full list of this kind is complete.
    Done(Kind),
    /// What is wrong with an object just now; replaces earlier problems of the same object. Empty = all well.
    Problems {
        /// The object or document, as in [`Problem::object`].
        object: String,
        /// What is wrong with it.
        problems: Vec<Problem>,
    },
    /// The source lost touch with where it reads from, or found it again.
    Health {
        /// In touch.
        connected: bool,
        /// Why not, or what was reached.
        detail: String,
    },
}

/// A source runs until the receiver is gone. The API source retries for ever with back-off.
pub trait Source: Send {
    /// Where it is reached, as far as that is known: none of these addresses may lead to tunway itself.
    fn reached_at(&self) -> Vec<std::net::IpAddr> {
        Vec::new()
    }

    /// Sends events until the receiver is dropped.
    fn run(
        self: Box<Self>,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> futures::future::BoxFuture<'static, ()>;
}
