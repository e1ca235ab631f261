//! Containers of each sort.

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::Value;

use super::env::validate_env;
use super::probes::validate_handler;
use super::probes::validate_probe;
use super::resources::validate_resources;
use super::security::validate_security;
use super::volumes::validate_mounts;
use crate::Errors;
use crate::tree::{int, invalid_all, items, required_one_of, text};

pub(super) fn validate_container(
    c: &Value,
    path: &str,
    init: bool,
    volumes: &HashSet<&str>,
    errors: &mut Errors,
) {
    let at = |key: &str| format!("{path}.{key}");
    let name = text(&c["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    } else {
        invalid_all(&at("name"), name, names::dns1123_label(name), errors);
    }
    let image = text(&c["image"]);
    if image.is_empty() {
        errors.push(FieldError::required(at("image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid_str(
            at("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    let pulls = ["Always", "IfNotPresent", "Never"];
    required_one_of(
        &c["imagePullPolicy"],
        &at("imagePullPolicy"),
        &pulls,
        errors,
    );
    let messages = ["FallbackToLogsOnError", "File"];
    required_one_of(
        &c["terminationMessagePolicy"],
        &at("terminationMessagePolicy"),
        &messages,
        errors,
    );
    let mut port_names: HashSet<&str> = HashSet::new();
    for (i, port) in items(&c["ports"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.ports[{i}].{key}");
        let name = text(&port["name"]);
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if wrong.is_empty() && !port_names.insert(name) {
                errors.push(FieldError::duplicate(at("name"), &port["name"]));
            }
            invalid_all(&at("name"), name, wrong, errors);
        }
        if int(&port["containerPort"]) == 0 {
            errors.push(FieldError::required(at("containerPort"), ""));
        } else {
            for wrong in names::port_number(int(&port["containerPort"])) {
                errors.push(FieldError::invalid(
                    at("containerPort"),
                    &port["containerPort"],
                    wrong,
                ));
            }
        }
        if int(&port["hostPort"]) != 0 {
            for wrong in names::port_number(int(&port["hostPort"])) {
                errors.push(FieldError::invalid(
                    at("hostPort"),
                    &port["hostPort"],
                    wrong,
                ));
            }
        }
        required_one_of(
            &port["protocol"],
            &at("protocol"),
            &["SCTP", "TCP", "UDP"],
            errors,
        );
    }
    validate_env(c, path, errors);
    validate_mounts(c, path, volumes, errors);
    validate_resources(&c["resources"], &at("resources"), errors);
    let sidecar = c["restartPolicy"] == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if !c[probe].is_object() {
            continue;
        }
        if init && !sidecar {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(at(probe), detail));
            continue;
        }
        validate_probe(&c[probe], &at(probe), probe != "readinessProbe", errors);
    }
    if init && !sidecar && c["lifecycle"].is_object() {
        let detail = "may not be set for init containers without restartPolicy=Always";
        errors.push(FieldError::forbidden(at("lifecycle"), detail));
    }
    for hook in ["postStart", "preStop"] {
        if c["lifecycle"][hook].is_object() {
            validate_handler(
                &c["lifecycle"][hook],
                &at(&format!("lifecycle.{hook}")),
                errors,
            );
        }
    }
    let context = &c["securityContext"];
    validate_security(context, &at("securityContext"), errors);
    if context["privileged"] == true && context["allowPrivilegeEscalation"] == false {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(at("securityContext"), context, detail));
    }
}
