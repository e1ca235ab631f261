//! Environment variables, and what they may be taken from.

use api::{FieldError, Quantity, names};
use serde_json::Value;

use super::volume_sources::local_path;
use super::{Scope, all_containers};
use crate::Errors;
use crate::tree::{invalid_all, items, one_of, required_name, text};

pub(super) fn validate_env(list: &Value, path: &str, errors: &mut Errors) {
    for (i, env) in items(list).iter().enumerate() {
        let path = format!("{path}[{i}]");
        required_name(
            &env["name"],
            &format!("{path}.name"),
            names::env_var_name,
            errors,
        );
        validate_source(env, &format!("{path}.valueFrom"), errors);
    }
}

const SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// Fields of a Pod that a variable may be taken from.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn validate_source(env: &Value, path: &str, errors: &mut Errors) {
    let from = &env["valueFrom"];
    if !from.is_object() {
        return;
    }
    let at = |key: &str| format!("{path}.{key}");
    if from["fieldRef"].is_object() {
        validate_field_ref(&from["fieldRef"], &FIELDS, &at("fieldRef"), errors);
    }
    if from["resourceFieldRef"].is_object() {
        let resource = &from["resourceFieldRef"];
        validate_resource_ref(resource, false, &at("resourceFieldRef"), errors);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if from[key].is_object() {
            validate_key_ref(&from[key], &at(key), errors);
        }
    }
    if from["fileKeyRef"].is_object() {
        validate_file_ref(&from["fileKeyRef"], &at("fileKeyRef"), errors);
    }
    let sources = SOURCES.iter().filter(|k| from[**k].is_object()).count();
    let detail = match sources {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        }
        _ if !text(&env["value"]).is_empty() => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid_str(path, "", detail));
}

/// A path with a key in brackets after it: `metadata.labels['app']`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['")
}

/// A field of the Pod, out of `allowed`.
pub(super) fn validate_field_ref(field: &Value, allowed: &[&str], path: &str, errors: &mut Errors) {
    for key in ["apiVersion", "fieldPath"] {
        if text(&field[key]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), ""));
            return;
        }
    }
    let (version, name) = (text(&field["apiVersion"]), text(&field["fieldPath"]));
    let at = format!("{path}.fieldPath");
    if let Err(why) = known_field(version, name) {
        let detail = format!("error converting fieldPath: {why}");
        errors.push(FieldError::invalid_str(at, name, detail));
        return;
    }
    match subscript(name) {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_all(path, &key, names::qualified_name(&key), errors);
        }
        Some((_, key)) => invalid_all(path, key, names::qualified_name(key), errors),
        None if name == "spec.host" => {}
        None => one_of(&name.into(), &at, allowed, errors),
    }
}

/// Whether the Pod has the field at all.
fn known_field(version: &str, name: &str) -> Result<(), String> {
    if version != "v1" {
        return Err(format!("unsupported pod version: {version}"));
    }
    match subscript(name) {
        Some(("metadata.annotations" | "metadata.labels", _)) => return Ok(()),
        Some(_) => return Err(format!("field label does not support subscript: {name}")),
        None => {}
    }
    let more = [
        "metadata.annotations",
        "metadata.labels",
        "spec.restartPolicy",
        "spec.schedulerName",
        "status.phase",
        "spec.host",
    ];
    if FIELDS.contains(&name) || more.contains(&name) {
        Ok(())
    } else {
        Err(format!("field label not supported: {name}"))
    }
}

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// What a container asks for or may use.
pub(super) fn validate_resource_ref(
    field: &Value,
    in_volume: bool,
    path: &str,
    errors: &mut Errors,
) {
    let resource = text(&field["resource"]);
    let hugepages =
        resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && text(&field["containerName"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.containerName"), ""));
    } else if resource.is_empty() {
        errors.push(FieldError::required(format!("{path}.resource"), ""));
    } else if !hugepages {
        let path = format!("{path}.resource");
        one_of(&field["resource"], &path, &RESOURCES, errors);
    }
    validate_divisor(field, path, errors);
}

fn validate_divisor(field: &Value, path: &str, errors: &mut Errors) {
    const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let Ok(divisor) = text(&field["divisor"]).parse::<Quantity>() else {
        return;
    };
    if divisor.is_zero() {
        return;
    }
    let resource = text(&field["resource"]);
    let (allowed, what) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => ("1m, 1", "1m and 1 are supported with the cpu resource"),
        "memory" => (BYTES, "the memory resource"),
        "ephemeral-storage" => (BYTES, "the local ephemeral storage resource"),
        r if r.starts_with("hugepages-") => (BYTES, "the hugepages resource"),
        _ => return,
    };
    let shown = divisor.to_string();
    if !allowed.split(", ").any(|a| a == shown) {
        let detail = if allowed == BYTES {
            format!("only divisor's values {BYTES} are supported with {what}")
        } else {
            format!("only divisor's values {what}")
        };
        let path = format!("{path}.divisor");
        errors.push(FieldError::invalid_str(path, resource, detail));
    }
}

fn validate_key_ref(of: &Value, path: &str, errors: &mut Errors) {
    let name = text(&of["name"]);
    let wrong = names::dns1123_subdomain(name);
    invalid_all(&format!("{path}.name"), name, wrong, errors);
    required_name(
        &of["key"],
        &format!("{path}.key"),
        names::config_map_key,
        errors,
    );
}

/// A key of a file that another container of the Pod writes.
fn validate_file_ref(of: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    required_name(
        &of["volumeName"],
        &at("volumeName"),
        names::dns1123_label,
        errors,
    );
    let file = text(&of["path"]);
    if file.is_empty() {
        errors.push(FieldError::required(at("path"), ""));
    } else {
        local_path(file, &at("path"), errors);
    }
    required_name(&of["key"], &at("key"), names::env_var_name, errors);
}

/// The volume of a file that variables come from must be one that containers can write to.
pub(super) fn validate_file_volumes(scope: &Scope, path: &str, errors: &mut Errors) {
    for (container, path) in all_containers(scope.spec, path) {
        for (i, env) in items(&container["env"]).iter().enumerate() {
            let name = &env["valueFrom"]["fileKeyRef"]["volumeName"];
            if text(name).is_empty() {
                continue;
            }
            let path = format!("{path}.env[{i}].valueFrom.fileKeyRef.volumeName");
            match scope.volumes.get(text(name)) {
                None => errors.push(FieldError::not_found(path, name)),
                Some(volume) if !volume["emptyDir"].is_object() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errors.push(FieldError::invalid(path, name, detail));
                }
                Some(_) => {}
            }
        }
    }
}

pub(super) fn validate_env_from(list: &Value, path: &str, errors: &mut Errors) {
    for (i, from) in items(list).iter().enumerate() {
        let at = format!("{path}[{i}]");
        let prefix = text(&from["prefix"]);
        if !prefix.is_empty() {
            let wrong = names::env_var_name(prefix);
            invalid_all(&format!("{at}.prefix"), prefix, wrong, errors);
        }
        let mut sources = 0;
        for key in ["configMapRef", "secretRef"] {
            if from[key].is_object() {
                sources += 1;
                let path = format!("{at}.{key}.name");
                required_name(&from[key]["name"], &path, prefix_of_subdomain, errors);
            }
        }
        // Upstream's path is that of the whole list.
        let detail = match sources {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid_str(path, "", detail));
    }
}

/// Upstream takes these names for stems of names: a dash may end them.
fn prefix_of_subdomain(name: &str) -> Vec<String> {
    match name.strip_suffix('-') {
        Some(stem) if name.len() > 1 => names::dns1123_subdomain(&format!("{stem}a")),
        _ => names::dns1123_subdomain(name),
    }
}
