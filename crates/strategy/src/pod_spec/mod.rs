//! The spec of a Pod, on its own and inside templates.
//!
//! Each rule stands by what it is about; here is what belongs to the Pod as a whole. Follows
//! <https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/>.

mod affinity;
mod annotations;
mod containers;
mod defaults;
mod dns;
mod env;
mod os;
mod probes;
mod projected;
mod resources;
mod scheduling;
mod security;
mod status;
mod update;
pub(crate) mod volume_sources;
mod volumes;

pub(crate) use affinity::{add_own_labels, validate_node_requirement, validate_node_selector};
pub(crate) use defaults::{
    default, default_source, default_template, pod_requests, requests_from_limits,
};
pub(crate) use probes::validate_port;
pub(crate) use resources::{
    is_hugepages, is_native, is_quota_standard, validate_amount, validate_container_resource,
    validate_resource_name, validate_resources,
};
pub(crate) use scheduling::{validate_taint_effect, validate_toleration};
pub(crate) use status::validate_status;
pub(crate) use update::{validate_ephemeral_update, validate_resize, validate_update};

use std::collections::{BTreeMap, BTreeSet};

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{invalid_all, items, labels, one_of, required_one_of, text};

/// What the parts of one spec are judged by.
pub(super) struct Scope<'a> {
    spec: &'a Value,
    /// The Pod's own metadata; a template has none.
    meta: Option<&'a Value>,
    /// The volumes that are valid, by name.
    volumes: BTreeMap<&'a str, &'a Value>,
    /// The names that containers may ask resource claims by.
    claims: BTreeSet<&'a str>,
}

impl Scope<'_> {
    fn host_users(&self) -> bool {
        self.spec["hostUsers"] != false
    }

    fn is_pod(&self) -> bool {
        self.meta.is_some()
    }
}

/// The containers of every sort, with their paths.
pub(super) fn all_containers<'a>(
    spec: &'a Value,
    path: &str,
) -> impl Iterator<Item = (&'a Value, String)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(move |key| {
            items(&spec[key])
                .iter()
                .enumerate()
                .map(move |(i, c)| (c, key, i))
        })
        .map({
            let path = path.to_owned();
            move |(c, key, i)| (c, format!("{path}.{key}[{i}]"))
        })
}

pub(super) fn is_sidecar(init: &Value) -> bool {
    init["restartPolicy"] == "Always"
}

/// A Pod, new or in a new version.
pub(crate) fn validate_pod(pod: &Value, errors: &mut Errors) {
    let (meta, spec) = (&pod["metadata"], &pod["spec"]);
    annotations::validate(&meta["annotations"], spec, "metadata.annotations", errors);
    validate_spec(spec, Some(meta), "spec", errors);
    if text(&spec["serviceAccountName"]).is_empty() {
        projected::no_tokens(spec, "spec", errors);
    }
    for key in ["containers", "initContainers"] {
        for (i, container) in items(&spec[key]).iter().enumerate() {
            containers::validate_trimmed_image(container, &format!("spec.{key}[{i}]"), errors);
        }
    }
}

/// What only a new Pod must satisfy.
pub(crate) fn validate_new_pod(pod: &Value, errors: &mut Errors) {
    let spec = &pod["spec"];
    if !items(&spec["ephemeralContainers"]).is_empty() {
        let detail = "cannot be set on create";
        errors.push(FieldError::forbidden("spec.ephemeralContainers", detail));
    }
    if !text(&spec["nodeName"]).is_empty() && !items(&spec["schedulingGates"]).is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden("spec.nodeName", detail));
    }
    annotations::match_fields(&pod["metadata"]["annotations"], spec, "spec", errors);
}

/// A `PodTemplateSpec` at `path`.
pub(crate) fn validate_template(template: &Value, path: &str, errors: &mut Errors) {
    let (meta, spec) = (&template["metadata"], &template["spec"]);
    labels(&meta["labels"], &format!("{path}.labels"), errors);
    let at = format!("{path}.annotations");
    crate::meta::validate_annotations(&meta["annotations"], &at, errors);
    annotations::validate(&meta["annotations"], spec, &at, errors);
    let at = format!("{path}.spec");
    validate(spec, &at, errors);
    annotations::match_fields(&meta["annotations"], spec, &at, errors);
    if !items(&spec["ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        let path = format!("{at}.ephemeralContainers");
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The spec inside a template.
pub(crate) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    validate_spec(spec, None, path, errors);
}

fn validate_spec(spec: &Value, meta: Option<&Value>, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    if spec["terminationGracePeriodSeconds"].is_null() {
        let path = at("terminationGracePeriodSeconds");
        errors.push(FieldError::required(path, ""));
    }
    let mut scope = Scope {
        spec,
        meta,
        volumes: BTreeMap::new(),
        claims: resources::claim_names(spec),
    };
    scope.volumes = volumes::validate_volumes(&scope, &at("volumes"), errors);
    resources::validate_pod_claims(&spec["resourceClaims"], &at("resourceClaims"), errors);
    containers::validate_containers(&scope, &at("containers"), errors);
    containers::validate_init_containers(&scope, &at("initContainers"), errors);
    containers::validate_ephemeral_containers(&scope, &at("ephemeralContainers"), errors);
    resources::validate_pod_resources(&scope, &at("resources"), errors);
    validate_host_ports(&scope, path, errors);
    env::validate_file_volumes(&scope, path, errors);
    let policies = ["Always", "OnFailure", "Never"];
    required_one_of(
        &spec["restartPolicy"],
        &at("restartPolicy"),
        &policies,
        errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&spec["dnsPolicy"], &at("dnsPolicy"), &policies, errors);
    labels(&spec["nodeSelector"], &at("nodeSelector"), errors);
    security::validate_pod_context(spec, &at("securityContext"), errors);
    affinity::validate_affinity(&spec["affinity"], &at("affinity"), errors);
    dns::validate_config(spec, &at("dnsConfig"), errors);
    scheduling::validate_readiness_gates(spec, &at("readinessGates"), errors);
    scheduling::validate_gates(spec, &at("schedulingGates"), errors);
    scheduling::validate_spread(spec, &at("topologySpreadConstraints"), errors);
    os::validate_host_process(spec, path, errors);
    security::validate_host_users(spec, path, errors);
    validate_names(spec, path, errors);
    validate_deadline(spec, path, errors);
    dns::validate_hostnames(spec, path, errors);
    for (i, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{i}]"), errors);
    }
    dns::validate_host_aliases(spec, &at("hostAliases"), errors);
    validate_preemption(spec, &at("preemptionPolicy"), errors);
    if spec["overhead"].is_object() {
        let overhead = serde_json::json!({ "limits": spec["overhead"] });
        validate_resources(&overhead, &at("overhead"), errors);
    }
    os::validate_os(spec, path, errors);
}

/// On the host's network a port of a container is a port of the host.
fn validate_host_ports(scope: &Scope, path: &str, errors: &mut Errors) {
    if scope.spec["hostNetwork"] != true {
        return;
    }
    for (i, container) in items(&scope.spec["containers"]).iter().enumerate() {
        for (j, port) in items(&container["ports"]).iter().enumerate() {
            let (host, own) = (
                crate::tree::int(&port["hostPort"]),
                crate::tree::int(&port["containerPort"]),
            );
            // What a template leaves open is filled in once the Pod is made.
            if (scope.is_pod() || host != 0) && host != own {
                let path = format!("{path}.containers[{i}].ports[{j}].hostPort");
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path, &host.into(), detail));
            }
        }
    }
}

fn validate_names(spec: &Value, path: &str, errors: &mut Errors) {
    for key in ["serviceAccountName", "nodeName", "priorityClassName"] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            let wrong = names::dns1123_subdomain(value);
            invalid_all(&format!("{path}.{key}"), value, wrong, errors);
        }
    }
    if let Some(class) = spec["runtimeClassName"].as_str() {
        let wrong = names::dns1123_subdomain(class);
        invalid_all(&format!("{path}.runtimeClassName"), class, wrong, errors);
    }
}

fn validate_deadline(spec: &Value, path: &str, errors: &mut Errors) {
    const MOST: i64 = i32::MAX as i64;
    let deadline = &spec["activeDeadlineSeconds"];
    if deadline.as_i64().is_some_and(|n| !(1..=MOST).contains(&n)) {
        let detail = names::inclusive_range(1, MOST);
        let path = format!("{path}.activeDeadlineSeconds");
        errors.push(FieldError::invalid(path, deadline, detail));
    }
}

fn validate_preemption(spec: &Value, path: &str, errors: &mut Errors) {
    match &spec["preemptionPolicy"] {
        Value::Null => {}
        policy if text(policy).is_empty() => errors.push(FieldError::required(path, "")),
        policy => one_of(policy, path, &["PreemptLowerPriority", "Never"], errors),
    }
}
