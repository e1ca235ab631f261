//! What differs from kind to kind: defaults, validation, the split of spec and status, columns, field selectors.
//!
//! Generic code (the API server) asks the functions here; each kind answers in its own module with a [`Strategy`], which
//! fills in only what it does differently. Texts and field paths follow upstream's `pkg/apis/*/validation` and
//! `pkg/printers/internalversion`.

mod addresses;
mod admission_policy;
mod api_service;
mod autoscaling;
mod certificate;
mod cluster;
mod conditions;
mod config;
mod crd;
mod crd_schema;
mod cron_job;
mod csi;
mod deployment;
mod device_claim;
mod device_slice;
mod discovery;
mod endpoints;
mod event;
mod flow_control;
mod ip;
mod job;
mod job_status;
mod limit_range;
mod meta;
mod namespace;
mod networking;
mod node;
mod other_workloads;
mod persistent_volume;
mod pod;
mod pod_spec;
mod rbac;
pub mod rbac_bootstrap;
mod replicas;
mod replication_controller;
mod resource_quota;
mod review;
mod runtime_class;
mod service;
mod shown;
mod storage;
mod tree;
pub mod versions;
mod volume_claim;
mod webhook;
mod workload;

use api::FieldError;
use api::facts::Kind;
use jiff::Timestamp;
use serde_json::{Map, Value};

use tree::{items, text};

/// A column of the table that `kubectl get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub ty: &'static str,
    /// `name` for the column that holds the object's name.
    pub format: &'static str,
    pub description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: i32,
}

pub(crate) const NAME: Column = Column {
    name: "Name",
    ty: "string",
    format: "name",
    description: "Name must be unique within a namespace (or the cluster, for cluster-scoped kinds).",
    priority: 0,
};
pub(crate) const AGE: Column = column("Age", "string", "Time since the object was created.");

pub(crate) const fn column(
    name: &'static str,
    ty: &'static str,
    description: &'static str,
) -> Column {
    Column {
        name,
        ty,
        format: "",
        description,
        priority: 0,
    }
}

pub(crate) const fn wide(name: &'static str, description: &'static str) -> Column {
    Column {
        name,
        ty: "string",
        format: "",
        description,
        priority: 1,
    }
}

pub(crate) type Errors = Vec<FieldError>;
pub(crate) type Fields = Vec<(&'static str, String)>;

/// The form that names of a kind must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Subdomain,
    Label,
    /// DNS-1035.
    ServiceLabel,
    PathSegment,
    /// `<plural>.<group>`.
    Definition,
    /// `<version>.<group>`.
    ApiService,
    /// An address in its canonical form.
    Address,
    /// Any name at all.
    Any,
    /// Never stored: the name does not matter.
    Unchecked,
}

/// A kind's own answers. What a kind leaves out does nothing, or is the same for all.
pub(crate) struct Strategy {
    pub names: Names,
    /// Whether `metadata.generation` counts changes of the desired state.
    pub generation: bool,
    /// Whether a write to `status` may also change labels, annotations and finalizers (Pod, Node, Namespace).
    pub status_metadata: bool,
    /// Whether a replacement may leave out the version that it replaces.
    pub unconditional_update: bool,
    pub default: fn(&mut Value),
    pub create: fn(&mut Value),
    pub update: fn(&mut Value, &Value),
    /// What a write to the status takes from the old object, beside what it takes for every kind.
    pub update_status: fn(&mut Value, &Value),
    pub validate: fn(&Value, &mut Errors),
    /// What only a new object must satisfy.
    pub validate_create: fn(&Value, &mut Errors),
    pub validate_update: fn(&Value, &Value, &mut Errors),
    pub validate_status: fn(&Value, &Value, &mut Errors),
    pub validate_approval: fn(&Value, &Value, &mut Errors),
    pub columns: &'static [Column],
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
    pub fields: fn(&Value, &mut Fields),
}

impl Strategy {
    pub(crate) const BASE: Self = Self {
        names: Names::Subdomain,
        generation: false,
        status_metadata: false,
        unconditional_update: true,
        default: |_| {},
        create: |_| {},
        update: |_, _| {},
        update_status: |_, _| {},
        validate: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        validate_approval: |_, _, _| {},
        columns: &[
            NAME,
            column("Created At", "date", "When the object was created."),
        ],
        row: |o, _| vec![tree::name(o), o["metadata"]["creationTimestamp"].clone()],
        fields: |_, _| {},
    };
}

fn of(kind: &Kind) -> Option<&'static Strategy> {
    Some(match (kind.group, kind.kind) {
        ("", "Namespace") => &namespace::STRATEGY,
        ("", "Node") => &node::STRATEGY,
        ("", "Pod") => &pod::STRATEGY,
        ("", "PodTemplate") => &pod::TEMPLATE,
        ("", "Binding") => &pod::BINDING,
        ("", "Service") => &service::STRATEGY,
        ("", "Endpoints") => &endpoints::STRATEGY,
        ("discovery.k8s.io", "EndpointSlice") => &discovery::SLICE,
        ("", "ConfigMap") => &config::CONFIG_MAP,
        ("", "Secret") => &config::SECRET,
        ("", "ServiceAccount") => &config::SERVICE_ACCOUNT,
        ("" | "events.k8s.io", "Event") => &event::STRATEGY,
        ("", "ReplicationController") => &replication_controller::STRATEGY,
        ("apps", "ReplicaSet") => &replicas::REPLICA_SET,
        ("apps", "Deployment") => &deployment::STRATEGY,
        ("apps", "DaemonSet") => &other_workloads::DAEMON_SET,
        ("apps", "StatefulSet") => &other_workloads::STATEFUL_SET,
        ("apps", "ControllerRevision") => &other_workloads::CONTROLLER_REVISION,
        ("batch", "Job") => &job::STRATEGY,
        ("batch", "CronJob") => &cron_job::STRATEGY,
        ("autoscaling", "HorizontalPodAutoscaler") => &autoscaling::STRATEGY,
        ("coordination.k8s.io", "Lease") => &cluster::LEASE,
        ("scheduling.k8s.io", "PriorityClass") => &cluster::PRIORITY_CLASS,
        ("policy", "PodDisruptionBudget") => &other_workloads::DISRUPTION_BUDGET,
        ("", "LimitRange") => &limit_range::STRATEGY,
        ("", "ResourceQuota") => &resource_quota::STRATEGY,
        ("networking.k8s.io", "Ingress") => &networking::INGRESS,
        ("networking.k8s.io", "IngressClass") => &networking::INGRESS_CLASS,
        ("networking.k8s.io", "NetworkPolicy") => &networking::NETWORK_POLICY,
        ("", "PersistentVolume") => &persistent_volume::STRATEGY,
        ("", "PersistentVolumeClaim") => &volume_claim::STRATEGY,
        ("storage.k8s.io", "StorageClass") => &storage::CLASS,
        ("storage.k8s.io", "CSIDriver") => &csi::DRIVER,
        ("storage.k8s.io", "CSINode") => &csi::NODE,
        ("storage.k8s.io", "CSIStorageCapacity") => &csi::CAPACITY,
        ("storage.k8s.io", "VolumeAttachment") => &csi::ATTACHMENT,
        ("storage.k8s.io", "VolumeAttributesClass") => &csi::ATTRIBUTES_CLASS,
        ("node.k8s.io", "RuntimeClass") => &runtime_class::STRATEGY,
        ("networking.k8s.io", "IPAddress") => &addresses::ADDRESS,
        ("networking.k8s.io", "ServiceCIDR") => &addresses::SERVICE_CIDR,
        ("certificates.k8s.io", "CertificateSigningRequest") => &certificate::STRATEGY,
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => &flow_control::SCHEMA,
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            &flow_control::PRIORITY_LEVEL
        }
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => &webhook::VALIDATING,
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => &webhook::MUTATING,
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => {
            &admission_policy::VALIDATING
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => {
            &admission_policy::VALIDATING_BINDING
        }
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => &admission_policy::MUTATING,
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => {
            &admission_policy::MUTATING_BINDING
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => &crd::STRATEGY,
        ("apiregistration.k8s.io", "APIService") => &api_service::STRATEGY,
        ("resource.k8s.io", "DeviceClass") => &device_claim::CLASS,
        ("resource.k8s.io", "ResourceClaim") => &device_claim::CLAIM,
        ("resource.k8s.io", "ResourceClaimTemplate") => &device_claim::TEMPLATE,
        ("resource.k8s.io", "ResourceSlice") => &device_slice::STRATEGY,
        ("rbac.authorization.k8s.io", "Role") => &rbac::ROLE,
        ("rbac.authorization.k8s.io", "ClusterRole") => &rbac::CLUSTER_ROLE,
        ("rbac.authorization.k8s.io", "RoleBinding") => &rbac::ROLE_BINDING,
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => &rbac::CLUSTER_ROLE_BINDING,
        ("authentication.k8s.io", "TokenReview") => &review::TOKEN,
        ("authentication.k8s.io", "SelfSubjectReview") => &review::SELF,
        ("authorization.k8s.io", "SubjectAccessReview") => &review::ACCESS,
        ("authorization.k8s.io", "LocalSubjectAccessReview") => &review::LOCAL_ACCESS,
        ("authorization.k8s.io", "SelfSubjectAccessReview") => &review::SELF_ACCESS,
        ("authorization.k8s.io", "SelfSubjectRulesReview") => &review::RULES,
        _ => return None,
    })
}

fn base(kind: &Kind) -> &'static Strategy {
    const BASE: Strategy = Strategy::BASE;
    of(kind).unwrap_or(&BASE)
}

/// Whether the kind's defaults and validation exist, so that it may be served.
#[must_use]
pub fn served(kind: &Kind) -> bool {
    of(kind).is_some()
}

fn has_status(kind: &Kind) -> bool {
    kind.subresource("status").is_some()
}

/// Whether a write to the status may also change labels, annotations and finalizers.
#[must_use]
pub fn status_holds_metadata(kind: &Kind) -> bool {
    base(kind).status_metadata
}

/// Whether a replacement may leave out the version that it replaces.
#[must_use]
pub fn allows_unconditional_update(kind: &Kind) -> bool {
    base(kind).unconditional_update
}

/// Fills in what the writer left out.
pub fn default(kind: &Kind, object: &mut Value) {
    if object.is_object() {
        (base(kind).default)(object);
    }
}

/// Puts a new object into its first state: no status but the kind's own, generation 1 where it counts.
pub fn prepare_create(kind: &Kind, object: &mut Value) {
    let strategy = base(kind);
    let Value::Object(map) = object else { return };
    // A kubelet registers its Node together with what it is.
    if has_status(kind) && (kind.group, kind.plural) != ("", "nodes") {
        map.insert("status".into(), Value::Object(Map::new()));
    }
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.remove("generation");
        if strategy.generation {
            metadata.insert("generation".into(), 1.into());
        }
    }
    (strategy.create)(object);
}

/// What the server keeps of an object's metadata whatever a writer sends, where the writer sent nothing.
const SYSTEM: [&str; 6] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Takes from `old` what this write may not change: the status in a write to the object, everything else in a write to
/// the status. Counts the generation up when the desired state changes. `sub`: the subresource written to.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, sub: Option<&str>) {
    let strategy = base(kind);
    let Value::Object(map) = new else { return };
    let metadata = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        for key in SYSTEM {
            if let (None, Some(value)) = (metadata.get(key), old["metadata"].get(key)) {
                metadata.insert(key.into(), value.clone());
            }
        }
        metadata.remove("generation");
        if let Some(generation) = old["metadata"].get("generation") {
            metadata.insert("generation".into(), generation.clone());
        }
    }
    let keep = |map: &mut Map<String, Value>, key: &str| match old.get(key) {
        Some(value) => {
            map.insert(key.into(), value.clone());
        }
        None => {
            map.remove(key);
        }
    };
    match sub {
        Some("status" | "approval") => {
            let keys: Vec<String> = map
                .keys()
                .chain(old.as_object().into_iter().flat_map(Map::keys))
                .cloned()
                .collect();
            for key in keys {
                if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
                    keep(map, &key);
                }
            }
            if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
                let kept: &[&str] = if strategy.status_metadata {
                    &["ownerReferences"]
                } else {
                    &["labels", "annotations", "ownerReferences", "finalizers"]
                };
                for key in kept {
                    match old["metadata"].get(*key) {
                        Some(value) => metadata.insert((*key).into(), value.clone()),
                        None => metadata.remove(*key),
                    };
                }
            }
            if sub == Some("status") {
                (strategy.update_status)(new, old);
            } else {
                approval_sets_conditions(new, old);
            }
        }
        Some(part @ ("ephemeralcontainers" | "resize")) => {
            narrow(new, old, part);
            count_generation(kind, new, old);
        }
        // Ends a namespace: nothing but its finalizers changes.
        Some("finalize") => {
            let finalizers = map
                .get("spec")
                .map(|s| s["finalizers"].clone())
                .unwrap_or_default();
            keep(map, "spec");
            keep(map, "status");
            if let Some(spec) = map.get_mut("spec") {
                tree::set(
                    spec,
                    "finalizers",
                    if finalizers.is_null() {
                        Value::Array(Vec::new())
                    } else {
                        finalizers
                    },
                );
            }
        }
        _ => {
            if has_status(kind) {
                keep(map, "status");
            }
            (strategy.update)(new, old);
            count_generation(kind, new, old);
        }
    }
}

/// Leaves of a write to a part of a Pod what the part holds, and takes all else from `old`. Before ownership is settled:
/// nobody owns what is not written.
pub fn narrow(new: &mut Value, old: &Value, subresource: &str) {
    match subresource {
        "ephemeralcontainers" => pod::only_ephemeral_containers(new, old),
        "resize" => pod::only_resources(new, old),
        _ => {}
    }
}

fn count_generation(kind: &Kind, new: &mut Value, old: &Value) {
    if base(kind).generation && desired_state_differs(kind, new, old) {
        tree::bump_generation(new, old);
    }
}

/// A decision about a request changes nothing but the conditions.
fn approval_sets_conditions(new: &mut Value, old: &Value) {
    let conditions = new["status"]["conditions"].take();
    tree::set(new, "status", old["status"].clone());
    match (tree::object(new, "status"), conditions) {
        (Some(status), Value::Null) => tree::remove(status, "conditions"),
        (Some(status), conditions) => tree::set(status, "conditions", conditions),
        (None, _) => {}
    }
}

fn desired_state_differs(kind: &Kind, new: &Value, old: &Value) -> bool {
    let (Some(a), Some(b)) = (new.as_object(), old.as_object()) else {
        return true;
    };
    let own = |k: &&String| !matches!(k.as_str(), "apiVersion" | "kind" | "metadata" | "status");
    let same = a.keys().filter(own).all(|k| b.get(k) == a.get(k))
        && b.keys().filter(own).all(|k| a.contains_key(k));
    // Annotations of a Deployment are copied to its ReplicaSets, so a change of them is one to be observed.
    let annotations = kind.kind == "Deployment"
        && new["metadata"]["annotations"] != old["metadata"]["annotations"];
    // What reads slices finds them by their labels.
    let labels =
        kind.kind == "EndpointSlice" && new["metadata"]["labels"] != old["metadata"]["labels"];
    !same || annotations || labels
}

/// Notes when a new object (prepared; `old` is absent) or a new version of one came to where it stands.
pub fn stamp(kind: &Kind, new: &mut Value, old: Option<&Value>, now: Timestamp) {
    if (kind.group, kind.kind) == ("", "PersistentVolume") {
        persistent_volume::stamp_phase(new, old, now);
    }
}

/// What is wrong with a new object (defaulted and prepared).
#[must_use]
pub fn validate_create(kind: &Kind, object: &Value) -> Vec<FieldError> {
    let strategy = base(kind);
    let mut errors = Vec::new();
    if strategy.names != Names::Unchecked {
        meta::validate(kind, strategy.names, object, &mut errors);
    }
    (strategy.validate)(object, &mut errors);
    (strategy.validate_create)(object, &mut errors);
    errors
}

/// What is wrong with a new version of an object (defaulted and prepared).
#[must_use]
pub fn validate_update(
    kind: &Kind,
    new: &Value,
    old: &Value,
    sub: Option<&str>,
) -> Vec<FieldError> {
    let strategy = base(kind);
    let mut errors = Vec::new();
    meta::validate_update(kind, new, old, &mut errors);
    match sub {
        Some("status") => (strategy.validate_status)(new, old, &mut errors),
        Some("approval") => (strategy.validate_approval)(new, old, &mut errors),
        Some("finalize") => namespace::validate_finalize(new, &mut errors),
        Some(sub @ ("ephemeralcontainers" | "resize")) => {
            (strategy.validate)(new, &mut errors);
            if sub == "resize" {
                pod_spec::validate_resize(new, old, &mut errors);
            } else {
                pod_spec::validate_ephemeral_update(new, old, &mut errors);
            }
        }
        _ => {
            (strategy.validate)(new, &mut errors);
            (strategy.validate_update)(new, old, &mut errors);
        }
    }
    errors
}

/// The columns of the kind's table.
#[must_use]
pub fn columns(kind: &Kind) -> &'static [Column] {
    base(kind).columns
}

/// The cells of one object, as many as there are columns.
#[must_use]
pub fn row(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    (base(kind).row)(object, now)
}

/// The fields that a field selector may name, with their values in this object.
#[must_use]
pub fn index_fields(kind: &Kind, object: &Value) -> Vec<(&'static str, String)> {
    let mut out = vec![(
        "metadata.name",
        text(&object["metadata"]["name"]).to_owned(),
    )];
    if kind.namespaced {
        out.push((
            "metadata.namespace",
            text(&object["metadata"]["namespace"]).to_owned(),
        ));
    }
    (base(kind).fields)(object, &mut out);
    out
}

/// The columns of a Scale's table.
pub const SCALE_COLUMNS: [Column; 4] = [
    Column { format: "", ..NAME },
    column("Desired", "integer", "The wished number of replicas."),
    column("Available", "integer", "The number of replicas there are."),
    AGE,
];

/// The cells of a Scale.
#[must_use]
pub fn scale_row(scale: &Value, now: Timestamp) -> Vec<Value> {
    let count = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0).into();
    vec![
        tree::name(scale),
        count("spec"),
        count("status"),
        tree::age(scale, now),
    ]
}

/// The `Scale` of a workload (its `scale` subresource).
#[must_use]
pub fn scale_of(kind: &Kind, object: &Value) -> Value {
    let metadata = &object["metadata"];
    let selector = if kind.kind == "ReplicationController" {
        api::LabelSelector::from_map(&object["spec"]["selector"])
    } else {
        api::LabelSelector::from_json(&object["spec"]["selector"])
    };
    let mut kept = Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(value) = metadata.get(key) {
            kept.insert(key.into(), value.clone());
        }
    }
    let mut status = Map::new();
    status.insert(
        "replicas".into(),
        object["status"]["replicas"].as_i64().unwrap_or(0).into(),
    );
    if let Ok(selector) = selector {
        status.insert("selector".into(), selector.to_string().into());
    }
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(0);
    let spec = if replicas == 0 {
        serde_json::json!({})
    } else {
        serde_json::json!({ "replicas": replicas })
    };
    serde_json::json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": spec, "status": status,
    })
}

/// What is wrong with a `Scale` that was sent.
#[must_use]
pub fn validate_scale(scale: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    tree::not_negative(&scale["spec"], "spec", "replicas", &mut errors);
    errors
}

/// How many entries a map or list has.
pub(crate) fn count(list: &Value) -> usize {
    match list {
        Value::Object(map) => map.len(),
        other => items(other).len(),
    }
}

#[cfg(test)]
mod tests;
