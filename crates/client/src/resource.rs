//! Which collection of the API a request is about.

use std::fmt::Write as _;

/// A kind's address in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
}

impl Resource {
    /// A namespaced kind.
    #[must_use]
    pub const fn namespaced(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            plural,
            kind,
            namespaced: true,
        }
    }

    /// A cluster-scoped kind.
    #[must_use]
    pub const fn cluster(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            group,
            version,
            plural,
            kind,
            namespaced: false,
        }
    }

    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the collection, or of an object, or of its subresource. `namespace` is ignored for cluster-scoped
    /// kinds; an empty one lists all namespaces.
    #[must_use]
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            let _ = write!(path, "/namespaces/{namespace}");
        }
        let _ = write!(path, "/{}", self.plural);
        for part in [name, subresource] {
            if !part.is_empty() {
                let _ = write!(path, "/{part}");
            }
        }
        path
    }
}

/// The kinds our components use.
pub mod kinds {
    use super::Resource;

    macro_rules! kinds {
        ($($name:ident = $scope:ident($group:literal, $version:literal, $plural:literal, $kind:literal);)*) => {
            $(#[allow(missing_docs)] pub const $name: Resource = Resource::$scope($group, $version, $plural, $kind);)*
        };
    }

    kinds! {
        PODS = namespaced("", "v1", "pods", "Pod");
        NODES = cluster("", "v1", "nodes", "Node");
        NAMESPACES = cluster("", "v1", "namespaces", "Namespace");
        SERVICES = namespaced("", "v1", "services", "Service");
        ENDPOINTS = namespaced("", "v1", "endpoints", "Endpoints");
        CONFIG_MAPS = namespaced("", "v1", "configmaps", "ConfigMap");
        SECRETS = namespaced("", "v1", "secrets", "Secret");
        SERVICE_ACCOUNTS = namespaced("", "v1", "serviceaccounts", "ServiceAccount");
        EVENTS = namespaced("", "v1", "events", "Event");
        REPLICATION_CONTROLLERS = namespaced("", "v1", "replicationcontrollers", "ReplicationController");
        REPLICA_SETS = namespaced("apps", "v1", "replicasets", "ReplicaSet");
        DEPLOYMENTS = namespaced("apps", "v1", "deployments", "Deployment");
        CONTROLLER_REVISIONS = namespaced("apps", "v1", "controllerrevisions", "ControllerRevision");
        ENDPOINT_SLICES = namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
        LEASES = namespaced("coordination.k8s.io", "v1", "leases", "Lease");
        RESOURCE_QUOTAS = namespaced("", "v1", "resourcequotas", "ResourceQuota");
        PERSISTENT_VOLUME_CLAIMS = namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
        PERSISTENT_VOLUMES = cluster("", "v1", "persistentvolumes", "PersistentVolume");
        POD_DISRUPTION_BUDGETS = namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
        STATEFUL_SETS = namespaced("apps", "v1", "statefulsets", "StatefulSet");
        PRIORITY_CLASSES = cluster("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass");
    }
}

#[cfg(test)]
mod tests {
    use super::kinds::*;

    #[test]
    fn paths_are_upstreams() {
        assert_eq!(
            PODS.path("a", "b", "status"),
            "/api/v1/namespaces/a/pods/b/status"
        );
        assert_eq!(PODS.path("", "", ""), "/api/v1/pods");
        assert_eq!(NODES.path("ignored", "n", ""), "/api/v1/nodes/n");
        assert_eq!(
            DEPLOYMENTS.path("a", "", ""),
            "/apis/apps/v1/namespaces/a/deployments"
        );
    }
}
