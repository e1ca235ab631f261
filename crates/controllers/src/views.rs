//! The fields that controllers use, by kind (law 3).

use std::borrow::Cow;
use std::collections::BTreeMap;

use client::resource::kinds;
use client::{ObjectMeta, Resource, View};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! view {
    ($view:ty, $resource:expr) => {
        impl View for $view {
            const RESOURCE: Resource = $resource;
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    };
}

/// A condition of any kind's status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The condition of a type, if it is there.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodView {
    pub metadata: ObjectMeta,
    pub spec: PodSpec,
    pub status: PodStatus,
}
view!(PodView, kinds::PODS);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    pub node_name: String,
    pub hostname: String,
    pub subdomain: String,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub tolerations: Value,
    pub volumes: Vec<Volume>,
}

/// A volume, as far as it is a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    name: String,
    persistent_volume_claim: Option<ClaimVolume>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClaimVolume {
    claim_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub ports: Vec<ContainerPort>,
    pub restart_policy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    pub name: String,
    pub container_port: i64,
    pub protocol: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    pub conditions: Vec<Condition>,
    pub container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    pub restart_count: i64,
}

impl PodView {
    /// Neither ended nor going away.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.is_ended() && self.metadata.deletion_timestamp.is_none()
    }

    /// The claims of its namespace that it uses, those of its ephemeral volumes among them.
    pub fn claims(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let volumes = self.spec.volumes.iter();
        volumes.filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(claim), _) => Some(Cow::Borrowed(claim.claim_name.as_str())),
                (None, Some(_)) => Some(Cow::Owned(format!(
                    "{}-{}",
                    self.metadata.name, volume.name
                ))),
                (None, None) => None,
            },
        )
    }

    /// Succeeded or failed.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Since when it is ready, if it is.
    #[must_use]
    pub fn ready_since(&self) -> Option<Timestamp> {
        let ready = condition(&self.status.conditions, "Ready").filter(|c| c.status == "True")?;
        Some(ready.last_transition_time.unwrap_or(Timestamp::UNIX_EPOCH))
    }

    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready_since().is_some()
    }

    /// The most restarts of a container.
    #[must_use]
    pub fn restarts(&self) -> i64 {
        self.status
            .container_statuses
            .iter()
            .map(|c| c.restart_count)
            .max()
            .unwrap_or(0)
    }
}

/// What ReplicaSets and ReplicationControllers have in common.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Set {
    pub metadata: ObjectMeta,
    pub spec: SetSpec,
    pub status: SetStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SetSpec {
    pub replicas: Option<i64>,
    pub selector: Value,
    pub template: Value,
    pub min_ready_seconds: i64,
}

impl Set {
    /// How many Pods there should be.
    #[must_use]
    pub fn wanted(&self) -> i64 {
        self.spec.replicas.unwrap_or(1)
    }
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SetStatus {
    pub replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub fully_labeled_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A kind that keeps a number of Pods.
pub trait SetView: View {
    /// Names its queue.
    const QUEUE: &'static str;
    fn set(&self) -> &Set;
    /// Which Pods it may own.
    ///
    /// # Errors
    /// When the selector is malformed.
    fn selector(&self) -> Result<api::Selector, String>;
}

macro_rules! set_view {
    ($view:ident, $resource:expr, $queue:literal, $parse:path) => {
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(transparent)]
        pub struct $view(pub Set);
        impl View for $view {
            const RESOURCE: Resource = $resource;
            fn meta(&self) -> &ObjectMeta {
                &self.0.metadata
            }
        }
        impl SetView for $view {
            const QUEUE: &'static str = $queue;
            fn set(&self) -> &Set {
                &self.0
            }
            fn selector(&self) -> Result<api::Selector, String> {
                $parse(&self.0.spec.selector)
            }
        }
    };
}

set_view!(
    ReplicaSetView,
    kinds::REPLICA_SETS,
    "replicaset",
    api::LabelSelector::from_json
);
set_view!(
    ReplicationControllerView,
    kinds::REPLICATION_CONTROLLERS,
    "replicationmanager",
    api::LabelSelector::from_map
);

/// Whether a selector fits a view's labels.
#[must_use]
pub fn selects(selector: &api::Selector, labels: &BTreeMap<String, String>) -> bool {
    selector.matches(&|key| labels.get(key).map(String::as_str))
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentView {
    pub metadata: ObjectMeta,
    pub spec: DeploymentSpec,
    pub status: DeploymentStatus,
}
view!(DeploymentView, kinds::DEPLOYMENTS);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentSpec {
    pub replicas: Option<i64>,
    pub selector: Value,
    pub template: Value,
    pub strategy: DeploymentStrategy,
    pub min_ready_seconds: i64,
    pub revision_history_limit: Option<i64>,
    pub progress_deadline_seconds: Option<i64>,
    pub paused: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentStrategy {
    #[serde(rename = "type")]
    pub kind: String,
    pub rolling_update: Option<RollingUpdate>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RollingUpdate {
    /// A number, or a string like `25%`.
    pub max_surge: Value,
    pub max_unavailable: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeploymentStatus {
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub unavailable_replicas: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceView {
    pub metadata: ObjectMeta,
    pub spec: ServiceSpec,
}
view!(ServiceView, kinds::SERVICES);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    pub selector: BTreeMap<String, String>,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    pub name: String,
    pub port: i64,
    pub protocol: String,
    /// A number or a container port's name.
    pub target_port: Value,
    pub app_protocol: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSliceView {
    pub metadata: ObjectMeta,
    pub endpoints: Vec<Value>,
    pub ports: Vec<Value>,
}
view!(EndpointSliceView, kinds::ENDPOINT_SLICES);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointsView {
    pub metadata: ObjectMeta,
    pub subsets: Vec<Value>,
}
view!(EndpointsView, kinds::ENDPOINTS);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespaceView {
    pub metadata: ObjectMeta,
    pub spec: NamespaceSpec,
    pub status: PhaseStatus,
}
view!(NamespaceView, kinds::NAMESPACES);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NamespaceSpec {
    pub finalizers: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PhaseStatus {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeView {
    pub metadata: ObjectMeta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}
view!(NodeView, kinds::NODES);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub unschedulable: bool,
    pub taints: Vec<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    pub conditions: Vec<NodeCondition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeCondition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseView {
    pub metadata: ObjectMeta,
    pub spec: LeaseSpec,
}
view!(LeaseView, kinds::LEASES);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseSpec {
    pub renew_time: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceAccountView {
    pub metadata: ObjectMeta,
}
view!(ServiceAccountView, kinds::SERVICE_ACCOUNTS);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConfigMapView {
    pub metadata: ObjectMeta,
    pub data: BTreeMap<String, String>,
}
view!(ConfigMapView, kinds::CONFIG_MAPS);

/// The kind of cluster-wide roles.
pub const CLUSTER_ROLES: Resource = Resource::cluster(
    "rbac.authorization.k8s.io",
    "v1",
    "clusterroles",
    "ClusterRole",
);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClusterRoleView {
    pub metadata: ObjectMeta,
    pub rules: Option<Vec<Value>>,
    pub aggregation_rule: Option<Value>,
}
view!(ClusterRoleView, CLUSTER_ROLES);
