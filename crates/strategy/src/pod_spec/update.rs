//! What of a Pod may change after it was made.

use std::collections::BTreeMap;

use api::{FieldError, names};
use serde_json::Value;

use super::{annotations, is_sidecar};
use crate::tree::{entries, int, items, remove, same, set, text};
use crate::{Errors, shown};

const MOST_DEADLINE: i64 = i32::MAX as i64;

/// An update of the Pod itself.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    annotations::validate_update(new, old, errors);
    for key in ["containers", "initContainers"] {
        if !validate_images(&new["spec"][key], &old["spec"][key], key, errors) {
            return;
        }
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    if !validate_deadline(spec, was, errors) {
        return;
    }
    only_added_tolerations(spec, was, errors);
    only_removed_gates(spec, was, errors);
    let mut spec = mutable_put_back(spec, was);
    if !items(&was["schedulingGates"]).is_empty() {
        narrowed_selector(&mut spec, was, errors);
        narrowed_affinity(&mut spec, was, errors);
    }
    if !same(&spec, was) {
        // Upstream shows a difference after this, whose form changes from build to build.
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
                      `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
                      existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                      previously negative)\n";
        errors.push(FieldError::forbidden("spec", detail));
    }
}

/// Says whether the containers are as many as before.
fn validate_images(new: &Value, old: &Value, key: &str, errors: &mut Errors) -> bool {
    if items(new).len() != items(old).len() {
        let detail = "pod updates may not add or remove containers";
        errors.push(FieldError::forbidden(format!("spec.{key}"), detail));
        return false;
    }
    for (i, container) in items(new).iter().enumerate() {
        let (path, image) = (format!("spec.{key}[{i}]"), text(&container["image"]));
        if image.is_empty() {
            errors.push(FieldError::required(format!("{path}.image"), ""));
        }
        super::containers::validate_trimmed_image(container, &path, errors);
    }
    true
}

/// A deadline may be set, and come nearer. Says whether it is such.
fn validate_deadline(new: &Value, old: &Value, errors: &mut Errors) -> bool {
    let path = "spec.activeDeadlineSeconds";
    let deadline = &new["activeDeadlineSeconds"];
    let (now, was) = (deadline.as_i64(), old["activeDeadlineSeconds"].as_i64());
    let detail = match (now, was) {
        (Some(now), _) if !(0..=MOST_DEADLINE).contains(&now) => {
            names::inclusive_range(0, MOST_DEADLINE)
        }
        (Some(now), Some(was)) if was < now => {
            "must be less than or equal to previous value".to_owned()
        }
        (None, Some(_)) => "must not update from a positive integer to nil value".to_owned(),
        _ => return true,
    };
    errors.push(FieldError::invalid(path, deadline, detail));
    now.is_none()
}

fn only_added_tolerations(new: &Value, old: &Value, errors: &mut Errors) {
    let same = |a: &Value, b: &Value| {
        let keys = ["key", "operator", "value", "effect"];
        keys.iter().all(|k| text(&a[*k]) == text(&b[*k]))
    };
    let new = items(&new["tolerations"]);
    let kept = |t: &Value| new.iter().any(|n| same(n, t));
    if !items(&old["tolerations"]).iter().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
        return;
    }
    // Upstream says what is wrong with them here too.
    for (i, toleration) in new.iter().enumerate() {
        super::validate_toleration(toleration, &format!("spec.tolerations[{i}]"), errors);
    }
}

fn only_removed_gates(new: &Value, old: &Value, errors: &mut Errors) {
    let had = items(&old["schedulingGates"]);
    let gates = items(&new["schedulingGates"]).iter().enumerate();
    let mut added: BTreeMap<&str, usize> = gates.map(|(i, g)| (text(&g["name"]), i)).collect();
    added.retain(|name, _| !had.iter().any(|g| g["name"] == *name));
    for (name, i) in added {
        let path = format!("spec.schedulingGates[{i}].name");
        let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn put_back(spec: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => set(spec, key, value.clone()),
        None => remove(spec, key),
    }
}

/// The new spec with what may change as it was before.
fn mutable_put_back(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    for key in ["containers", "initContainers"] {
        let was = items(&old[key]);
        if let Some(Value::Array(list)) = spec.get_mut(key) {
            for (container, was) in list.iter_mut().zip(was) {
                put_back(container, was, "image");
            }
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put_back(&mut spec, old, key);
    }
    let key = "terminationGracePeriodSeconds";
    if int(&old[key]) < 0 && int(&spec[key]) == 1 {
        put_back(&mut spec, old, key);
    }
    spec
}

/// A Pod that is held back may be sent to fewer nodes, not to more.
fn narrowed_selector(spec: &mut Value, old: &Value, errors: &mut Errors) {
    let new = &spec["nodeSelector"];
    if entries(&old["nodeSelector"]).any(|(k, v)| new.get(k) != Some(v)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.push(FieldError::invalid("spec.nodeSelector", new, detail));
    }
    put_back(spec, old, "nodeSelector");
}

fn narrowed_affinity(spec: &mut Value, old: &Value, errors: &mut Errors) {
    let terms = |spec: &Value| {
        let node = &spec["affinity"]["nodeAffinity"];
        node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"].clone()
    };
    let (new, was) = (terms(spec), terms(old));
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    if !items(&was).is_empty() && items(&new).len() != items(&was).len() {
        let shown = shown::show_list(&new, &shown::NODE_TERM);
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(shown::invalid(path, shown, detail));
    } else {
        for (i, (new, was)) in items(&new).iter().zip(items(&was)).enumerate() {
            if !only_adds(new, was) {
                let shown = shown::show(new, &shown::NODE_TERM);
                let detail = "only additions are allowed (no mutations or deletions)";
                errors.push(shown::invalid(format!("{path}[{i}]"), shown, detail));
            }
        }
    }
    if let Some(affinity) = spec.get_mut("affinity") {
        match old["affinity"].get("nodeAffinity") {
            Some(node) => set(affinity, "nodeAffinity", node.clone()),
            None => remove(affinity, "nodeAffinity"),
        }
        if old.get("affinity").is_none() && affinity.as_object().is_some_and(|a| a.is_empty()) {
            remove(spec, "affinity");
        }
    } else if old["affinity"]["nodeAffinity"].is_object() {
        let node = old["affinity"]["nodeAffinity"].clone();
        set(
            spec,
            "affinity",
            serde_json::json!({ "nodeAffinity": node }),
        );
    }
}

/// Whether a term of node affinity is the old one with more required. An empty one selects nothing, and must stay so.
fn only_adds(new: &Value, old: &Value) -> bool {
    let keys = ["matchExpressions", "matchFields"];
    if keys.iter().all(|k| items(&old[*k]).is_empty()) {
        return keys.iter().all(|k| items(&new[*k]).is_empty());
    }
    keys.iter()
        .all(|k| items(&new[*k]).starts_with(items(&old[*k])))
}

/// An update of the ephemeral containers: more may come, none goes or changes.
pub(crate) fn validate_ephemeral_update(new: &Value, old: &Value, errors: &mut Errors) {
    if annotations::is_mirror(old) {
        let detail = "static pods do not support ephemeral containers";
        *errors = vec![FieldError::forbidden("", detail)];
        return;
    }
    annotations::validate_update(new, old, errors);
    let path = "spec.ephemeralContainers";
    let list = items(&new["spec"]["ephemeralContainers"]);
    for was in items(&old["spec"]["ephemeralContainers"]) {
        let name = api::field::quote(text(&was["name"]));
        let detail = match list.iter().find(|c| c["name"] == was["name"]) {
            None => format!("existing ephemeral containers {name} may not be removed\n"),
            Some(new) if !same(new, was) => {
                format!("existing ephemeral containers {name} may not be changed\n")
            }
            Some(_) => continue,
        };
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// An update of what a Pod's containers ask for and may use.
pub(crate) fn validate_resize(new: &Value, old: &Value, errors: &mut Errors) {
    let refusal = if annotations::is_mirror(old) {
        Some("static pods cannot be resized")
    } else if old["spec"]["os"]["name"] == "windows" {
        Some("windows pods cannot be resized")
    } else {
        None
    };
    if let Some(detail) = refusal {
        *errors = vec![FieldError::forbidden("", detail)];
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    let class = text(&old["status"]["qosClass"]);
    if class != rules::resources::qos_class(spec) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid_str("spec", class, detail));
    }
    let running = items(&old["status"]["containerStatuses"])
        .iter()
        .find(|c| c["state"]["running"].is_object());
    if running.is_some_and(|c| !c["resources"].is_object()) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden("spec", detail));
    }
    nothing_removed(spec, was, errors);
    only_resources_differ(spec, was, errors);
}

fn nothing_removed(new: &Value, old: &Value, errors: &mut Errors) {
    for key in ["initContainers", "containers"] {
        for (i, (now, was)) in items(&new[key]).iter().zip(items(&old[key])).enumerate() {
            if key == "initContainers" && !is_sidecar(was) {
                continue;
            }
            for which in ["requests", "limits"] {
                let (now, was) = (&now["resources"][which], &was["resources"][which]);
                if entries(was).any(|(name, _)| now.get(name).is_none()) {
                    let path = format!("spec.{key}[{i}].resources.{which}");
                    let detail = format!("resource {which} cannot be removed");
                    errors.push(FieldError::forbidden(path, detail));
                }
            }
        }
    }
}

/// Takes cpu and memory from the old container, so that what else differs is seen.
fn compute_put_back(container: &mut Value, old: &Value) {
    for which in ["requests", "limits"] {
        let was = &old["resources"][which];
        let Some(resources) = crate::tree::object(container, "resources") else {
            return;
        };
        if was.is_null() {
            remove(resources, which);
        } else if let Some(list) = crate::tree::object(resources, which) {
            for name in ["cpu", "memory"] {
                put_back(list, was, name);
            }
        }
    }
}

fn only_resources_differ(new: &Value, old: &Value, errors: &mut Errors) {
    let before = errors.len();
    let mut spec = new.clone();
    for (key, detail) in [
        ("containers", "only cpu and memory resources are mutable"),
        (
            "initContainers",
            "only cpu and memory resources for sidecar containers are mutable",
        ),
    ] {
        let Some(Value::Array(list)) = spec.get_mut(key) else {
            continue;
        };
        for (container, was) in list.iter_mut().zip(items(&old[key])) {
            let fixed = key == "initContainers" && !is_sidecar(container);
            if !fixed {
                compute_put_back(container, was);
            }
            if !same(container, was) {
                let detail = if fixed {
                    "resources for non-sidecar init containers are immutable"
                } else {
                    detail
                };
                errors.push(FieldError::forbidden("spec", detail));
            }
        }
    }
    compute_put_back(&mut spec, old);
    if old.get("resources").is_none() {
        remove(&mut spec, "resources");
    }
    if errors.len() == before && !same(&spec, old) {
        let detail = "only cpu and memory resources are mutable";
        errors.push(FieldError::forbidden("spec", detail));
    }
}
