//! The kinds of objects tests handle, and where the API server keeps them.

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `EndpointSlice`.
    pub name: &'static str,
    /// `discovery.k8s.io/v1`; where the API has several versions, the one tests write.
    pub api_version: &'static str,
    /// `endpointslices`.
    pub plural: &'static str,
    /// Its objects live in namespaces.
    pub namespaced: bool,
}

const KINDS: &[Kind] = &[
    namespaced("ConfigMap", "v1", "configmaps"),
    namespaced("Endpoints", "v1", "endpoints"),
    namespaced("Event", "v1", "events"),
    cluster("Namespace", "v1", "namespaces"),
    cluster("Node", "v1", "nodes"),
    namespaced("Pod", "v1", "pods"),
    namespaced("ReplicationController", "v1", "replicationcontrollers"),
    namespaced("Secret", "v1", "secrets"),
    namespaced("Service", "v1", "services"),
    namespaced("ServiceAccount", "v1", "serviceaccounts"),
    namespaced("DaemonSet", "apps/v1", "daemonsets"),
    namespaced("Deployment", "apps/v1", "deployments"),
    namespaced("ReplicaSet", "apps/v1", "replicasets"),
    namespaced("StatefulSet", "apps/v1", "statefulsets"),
    namespaced("Job", "batch/v1", "jobs"),
    namespaced("Lease", "coordination.k8s.io/v1", "leases"),
    namespaced("EndpointSlice", "discovery.k8s.io/v1", "endpointslices"),
    cluster("IPAddress", "networking.k8s.io/v1", "ipaddresses"),
    cluster("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs"),
    namespaced("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    cluster("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles"),
    cluster("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    namespaced("Role", "rbac.authorization.k8s.io/v1", "roles"),
    namespaced("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings"),
    cluster("PriorityClass", "scheduling.k8s.io/v1", "priorityclasses"),
];

const fn namespaced(name: &'static str, api_version: &'static str, plural: &'static str) -> Kind {
    Kind { name, api_version, plural, namespaced: true }
}

const fn cluster(name: &'static str, api_version: &'static str, plural: &'static str) -> Kind {
    Kind { name, api_version, plural, namespaced: false }
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        KINDS.iter().copied().find(|kind| kind.name == name)
    }

    /// The path of an object in this version of the API; of the list with an empty name; over all namespaces without
    /// one. A namespace is passed over for a kind that lives in none.
    #[must_use]
    pub fn path(self, api_version: &str, namespace: Option<&str>, name: &str) -> String {
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let mut path = format!("/{root}/{api_version}");
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path = format!("{path}/namespaces/{namespace}");
        }
        path = format!("{path}/{}", self.plural);
        if name.is_empty() { path } else { format!("{path}/{name}") }
    }
}
