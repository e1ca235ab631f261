//! Annotations of a Pod that are older than the fields for what they say.

use api::FieldError;
use serde_json::Value;

use super::all_containers;
use super::volume_sources::local_descending;
use crate::Errors;
use crate::tree::{entries, items, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

pub(super) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

pub(super) fn validate(annotations: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    if let Some(value) = annotations.get(MIRROR)
        && text(&spec["nodeName"]).is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errors.push(FieldError::invalid(
            format!("{path}[{MIRROR}]"),
            value,
            detail,
        ));
    }
    validate_tolerations(text(&annotations[TOLERATIONS]), path, errors);
    if let Some(cost) = annotations.get(DELETION_COST)
        && !is_cost(text(cost))
    {
        let path = format!("{path}[{DELETION_COST}]");
        errors.push(FieldError::invalid(path, cost, "must be a 32bit integer"));
    }
    for (key, value) in entries(annotations) {
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            validate_seccomp(text(value), &format!("{path}.{key}"), errors);
        }
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            validate_app_armor(
                text(value),
                container,
                spec,
                &format!("{path}[{key}]"),
                errors,
            );
        }
    }
}

/// A number that does not start with a plus or, unless it is one, a zero.
fn is_cost(text: &str) -> bool {
    match text.bytes().next() {
        Some(b'0') => text == "0",
        Some(b'-' | b'1'..=b'9') => text.parse::<i32>().is_ok(),
        _ => false,
    }
}

fn validate_tolerations(json: &str, path: &str, errors: &mut Errors) {
    if json.is_empty() {
        return;
    }
    match serde_json::from_str::<Value>(json) {
        Err(why) => errors.push(FieldError::invalid_str(path, TOLERATIONS, why.to_string())),
        Ok(list) => {
            for (i, toleration) in items(&list).iter().enumerate() {
                let path = format!("{path}.{TOLERATIONS}[{i}]");
                super::validate_toleration(toleration, &path, errors);
            }
        }
    }
}

fn validate_seccomp(profile: &str, path: &str, errors: &mut Errors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(local) => local_descending(local, path, errors),
            None => {
                let detail = "must be a valid seccomp profile";
                errors.push(FieldError::invalid_str(path, profile, detail));
            }
        },
    }
}

fn validate_app_armor(
    profile: &str,
    container: &str,
    spec: &Value,
    path: &str,
    errors: &mut Errors,
) {
    if !all_containers(spec, "").any(|(c, _)| c["name"] == container) {
        let detail = "container not found";
        errors.push(FieldError::invalid_str(path, container, detail));
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined");
    if !known && !profile.starts_with("localhost/") {
        let quoted = api::field::quote(profile);
        let detail = format!("invalid AppArmor profile name: {quoted}");
        errors.push(FieldError::invalid_str(path, profile, detail));
    }
}

/// Where a profile is named by an annotation and by a field, both must say the same.
pub(super) fn match_fields(annotations: &Value, spec: &Value, path: &str, errors: &mut Errors) {
    let whole = &spec["securityContext"];
    let at = format!("{path}.securityContext.seccompProfile");
    let field = &whole["seccompProfile"];
    match_profile("seccomp", annotations.get(SECCOMP_POD), field, &at, errors);
    for (container, path) in all_containers(spec, path) {
        let name = text(&container["name"]);
        let own = &container["securityContext"];
        let annotation = annotations.get(format!("{SECCOMP_CONTAINER}{name}"));
        let at = format!("{path}.securityContext.seccompProfile");
        match_profile("seccomp", annotation, &own["seccompProfile"], &at, errors);
        if spec["os"]["name"] == "windows" {
            continue;
        }
        let field = match &own["appArmorProfile"] {
            Value::Null => &whole["appArmorProfile"],
            own => own,
        };
        let annotation = annotations.get(format!("{APP_ARMOR}{name}"));
        let at = format!("{path}.securityContext.appArmorProfile");
        match_profile("apparmor", annotation, field, &at, errors);
    }
}

fn match_profile(
    what: &str,
    annotation: Option<&Value>,
    field: &Value,
    path: &str,
    errors: &mut Errors,
) {
    let (Some(annotation), true) = (annotation.map(text), field.is_object()) else {
        return;
    };
    let same_type = match text(&field["type"]) {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => annotation.starts_with("localhost/"),
        _ => true,
    };
    if !same_type {
        let detail = format!("{what} type in annotation and field must match");
        errors.push(FieldError::forbidden(format!("{path}.type"), detail));
    } else if field["type"] == "Localhost"
        && annotation.strip_prefix("localhost/") != field["localhostProfile"].as_str()
    {
        let detail = format!("{what} profile in annotation and field must match");
        let path = format!("{path}.localhostProfile");
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Some annotations are as fixed as the spec.
pub(super) fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let of = |pod: &Value| pod["metadata"]["annotations"].clone();
    let (new, old) = (of(new), of(old));
    let mut forbid = |key: &str, verb: &str| {
        let what = if key.starts_with(APP_ARMOR) {
            "AppArmor annotations"
        } else if key == MIRROR {
            "mirror pod annotation"
        } else {
            return;
        };
        let path = format!("metadata.annotations[{key}]");
        errors.push(FieldError::forbidden(
            path,
            format!("may not {verb} {what}"),
        ));
    };
    for (key, value) in entries(&old) {
        if new.get(key) != Some(value) {
            forbid(key, "remove or update");
        }
    }
    for (key, _) in entries(&new) {
        if old.get(key).is_none() {
            forbid(key, "add");
        }
    }
}
