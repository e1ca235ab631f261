//! Environment variables.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{entries, invalid_all, items, text};

pub(super) fn validate_env(c: &Value, path: &str, errors: &mut Errors) {
    for (i, env) in items(&c["env"]).iter().enumerate() {
        let at = |key: &str| format!("{path}.env[{i}].{key}");
        let name = text(&env["name"]);
        if name.is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        } else {
            invalid_all(&at("name"), name, names::env_var_name(name), errors);
        }
        let from = &env["valueFrom"];
        if !from.is_object() {
            continue;
        }
        let sources = entries(from).count();
        if sources == 0 {
            let known = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.push(FieldError::invalid_str(at("valueFrom"), "", known));
        } else if !text(&env["value"]).is_empty() {
            errors.push(FieldError::invalid_str(
                at("valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        } else if sources > 1 {
            let detail = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid_str(at("valueFrom"), "", detail));
        }
        for source in ["configMapKeyRef", "secretKeyRef"] {
            if from[source].is_object() {
                for key in ["name", "key"] {
                    if text(&from[source][key]).is_empty() {
                        errors.push(FieldError::required(
                            at(&format!("valueFrom.{source}.{key}")),
                            "",
                        ));
                    }
                }
            }
        }
        if from["fieldRef"].is_object() && text(&from["fieldRef"]["fieldPath"]).is_empty() {
            errors.push(FieldError::required(at("valueFrom.fieldRef.fieldPath"), ""));
        }
    }
    for (i, from) in items(&c["envFrom"]).iter().enumerate() {
        let at = format!("{path}.envFrom[{i}]");
        match (
            from["configMapRef"].is_object(),
            from["secretRef"].is_object(),
        ) {
            (false, false) => errors.push(FieldError::invalid_str(
                &at,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            (true, true) => {
                errors.push(FieldError::invalid_str(
                    &at,
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
            _ => {}
        }
        for source in ["configMapRef", "secretRef"] {
            if from[source].is_object() && text(&from[source]["name"]).is_empty() {
                errors.push(FieldError::required(format!("{at}.{source}.name"), ""));
            }
        }
    }
}
