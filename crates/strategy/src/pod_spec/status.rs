//! What a Pod's status may say, and how it may change.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::{annotations, is_sidecar, security};
use crate::tree::{entries, immutable, int, invalid_all, items, one_of, text};
use crate::{Errors, ip, shown};

pub(crate) fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    annotations::validate_update(new, old, errors);
    let meta = &new["metadata"];
    let (spec, status) = (&new["spec"], &new["status"]);
    annotations::validate(&meta["annotations"], spec, "metadata.annotations", errors);
    validate_conditions(status, errors);
    if text(&spec["nodeName"]) != text(&old["spec"]["nodeName"]) {
        let detail = "may not be changed directly";
        errors.push(FieldError::forbidden("status.nodeName", detail));
    }
    let (nominated, was) = (
        text(&status["nominatedNodeName"]),
        text(&old["status"]["nominatedNodeName"]),
    );
    if !nominated.is_empty() && nominated != was {
        let wrong = names::dns1123_subdomain(nominated);
        invalid_all("status.nominatedNodeName", nominated, wrong, errors);
    }
    let (class, was) = (&status["qosClass"], &old["status"]["qosClass"]);
    immutable(
        &text(class).into(),
        &text(was).into(),
        "status.qosClass",
        errors,
    );
    for key in STATUSES {
        validate_transitions(new, old, key, errors);
    }
    validate_claims(status, spec, errors);
    validate_pod_ips(status, errors);
    validate_host_ips(status, errors);
    for (key, containers) in STATUSES.iter().zip(["containers", "initContainers", ""]) {
        for (i, container) in items(&status[*key]).iter().enumerate() {
            let path = format!("status.{key}[{i}]");
            validate_user(container, spec, &path, errors);
            validate_devices(container, &spec[containers], &path, errors);
        }
    }
}

const STATUSES: [&str; 3] = [
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
];

fn validate_conditions(status: &Value, errors: &mut Errors) {
    for (i, condition) in items(&status["conditions"]).iter().enumerate() {
        let ty = text(&condition["type"]);
        if !matches!(ty, "PodScheduled" | "Ready" | "Initialized") {
            // Upstream's path.
            let path = format!("metadata.conditions[{i}].Type");
            invalid_all(&path, ty, names::qualified_name(ty), errors);
        }
    }
}

/// A container that ended stays ended, unless it may start again.
fn validate_transitions(new: &Value, old: &Value, key: &str, errors: &mut Errors) {
    let spec = &old["spec"];
    for (i, was) in items(&old["status"][key]).iter().enumerate() {
        let ended = &was["state"]["terminated"];
        let name = &was["name"];
        if !ended.is_object() || may_restart(spec, name, int(&ended["exitCode"]), key) {
            continue;
        }
        for now in items(&new["status"][key]) {
            if now["name"] == *name && !now["state"]["terminated"].is_object() {
                let path = format!("status.{key}[{i}].state");
                let detail = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(path, detail));
            }
        }
    }
}

fn may_restart(spec: &Value, name: &Value, code: i64, key: &str) -> bool {
    let list = match key {
        "ephemeralContainerStatuses" => return false,
        "initContainerStatuses" => "initContainers",
        _ => "containers",
    };
    let found = items(&spec[list]).iter().find(|c| c["name"] == *name);
    let own =
        found.filter(|c| list == "containers" || is_sidecar(c) || !c["restartPolicy"].is_null());
    let rules = found.is_some_and(|c| !items(&c["restartPolicyRules"]).is_empty());
    // A rule of any container may start all of them again.
    let all = super::all_containers(spec, "")
        .flat_map(|(c, _)| items(&c["restartPolicyRules"]))
        .any(|r| r["action"] == "RestartAllContainers");
    let policy = own.map_or(&Value::Null, |c| &c["restartPolicy"]);
    let policy = if policy.is_null() {
        &spec["restartPolicy"]
    } else {
        policy
    };
    rules || all || policy == "Always" || (policy == "OnFailure" && code != 0)
}

fn validate_claims(status: &Value, spec: &Value, errors: &mut Errors) {
    let known = items(&spec["resourceClaims"]);
    let mut seen = BTreeSet::new();
    for (i, claim) in items(&status["resourceClaimStatuses"]).iter().enumerate() {
        let path = format!("status.resourceClaimStatuses[{i}].name");
        let name = &claim["name"];
        if !known.iter().any(|c| c["name"] == *name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.push(FieldError::invalid(&path, name, detail));
        }
        if !seen.insert(text(name)) {
            errors.push(FieldError::duplicate(&path, name));
        }
        if let Some(made) = claim["resourceClaimName"].as_str() {
            invalid_all(&path, made, names::dns1123_subdomain(made), errors);
        }
    }
}

fn validate_pod_ips(status: &Value, errors: &mut Errors) {
    let (path, list) = ("status.podIPs", &status["podIPs"]);
    for (i, address) in items(list).iter().enumerate() {
        ip::validate(text(&address["ip"]), &format!("{path}[{i}]"), errors);
    }
    one_of_each_family(list, path, errors);
}

fn validate_host_ips(status: &Value, errors: &mut Errors) {
    let (path, list) = ("status.hostIPs", &status["hostIPs"]);
    let Some(first) = items(list).first() else {
        return;
    };
    if text(&first["ip"]) != text(&status["hostIP"]) {
        let path = format!("{path}[0].ip");
        errors.push(FieldError::invalid(
            path,
            &first["ip"],
            "must be equal to `hostIP`",
        ));
    }
    for (i, address) in items(list).iter().enumerate() {
        ip::validate(text(&address["ip"]), &format!("{path}[{i}]"), errors);
    }
    one_of_each_family(list, path, errors);
}

fn one_of_each_family(list: &Value, path: &str, errors: &mut Errors) {
    let addresses = items(list);
    if addresses.len() < 2 {
        return;
    }
    let texts = addresses.iter().map(|a| text(&a["ip"]));
    if let Some(bad) = texts.clone().find(|a| ip::parse_sloppy(a).is_none()) {
        let detail = format!("failed to check for dual stack with error:invalid IP: {bad}");
        errors.push(FieldError::internal(path, detail));
    }
    if addresses.len() > 2 || !ip::both_families(texts) {
        let shown = shown::show_list(list, &shown::IP);
        let detail = "may specify no more than one IP for each IP family";
        errors.push(shown::invalid(path, shown, detail));
    }
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].iter().any(|a| a["ip"] == address["ip"]) {
            let shown = shown::show(address, &shown::IP);
            errors.push(shown::duplicate(format!("{path}[{i}]"), shown));
        }
    }
}

fn validate_user(container: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let linux = &container["user"]["linux"];
    if !linux.is_object() {
        return;
    }
    let path = format!("{path}.linux");
    if spec["os"]["name"] == "windows" {
        let detail = "cannot be set for a windows pod";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    for key in ["uid", "gid"] {
        security::validate_id(&linux[key], format!("{path}.{key}"), errors);
    }
    let groups = &linux["supplementalGroups"];
    security::validate_ids(groups, &format!("{path}.supplementalGroups"), errors);
}

/// The health of what a container was given. `containers`: those of its sort, null for such as are given nothing.
fn validate_devices(status: &Value, containers: &Value, path: &str, errors: &mut Errors) {
    let list = items(&status["allocatedResourcesStatus"]);
    let path = format!("{path}.allocatedResourcesStatus");
    if path.contains("ephemeralContainerStatuses") {
        if !list.is_empty() {
            let detail = "must not be specified in container status";
            errors.push(FieldError::forbidden(path, detail));
        }
        return;
    }
    let container = items(containers)
        .iter()
        .find(|c| c["name"] == status["name"]);
    for (i, resource) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if let Some(container) = container {
            must_be_given(text(&resource["name"]), container, &path, errors);
        }
        let mut seen = BTreeSet::new();
        for (j, device) in items(&resource["resources"]).iter().enumerate() {
            let path = format!("{path}.resources[{j}]");
            let health = Value::from(text(&device["health"]));
            let known = ["Healthy", "Unhealthy", "Unknown"];
            one_of(&health, &format!("{path}.health"), &known, errors);
            if !seen.insert(text(&device["resourceID"])) {
                let path = format!("{path}.resourceID");
                errors.push(FieldError::duplicate(path, &device["resourceID"]));
            }
        }
    }
}

fn must_be_given(name: &str, container: &Value, path: &str, errors: &mut Errors) {
    let resources = &container["resources"];
    let (given, detail) = match name.strip_prefix("claim:") {
        Some(claim) => (
            items(&resources["claims"]).iter().any(|c| {
                let (name, request) = (text(&c["name"]), text(&c["request"]));
                claim == name && request.is_empty() || claim == format!("{name}/{request}")
            }),
            "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
        ),
        None => (
            entries(&resources["requests"]).any(|(k, _)| k == name),
            "must match one of the container's resource requests",
        ),
    };
    if !given {
        errors.push(FieldError::invalid_str(
            format!("{path}.name"),
            name,
            detail,
        ));
    }
}
