//! Probes and lifecycle hooks.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{int, invalid_all, items, not_negative, one_of, text};

pub(super) fn validate_handler(handler: &Value, path: &str, errors: &mut Errors) {
    let known = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = known
        .into_iter()
        .filter(|k| handler[*k].is_object())
        .collect();
    if given.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for second in given.iter().skip(1) {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{second}"), detail));
    }
    if handler["exec"].is_object() && items(&handler["exec"]["command"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.exec.command"), ""));
    }
    for which in ["httpGet", "tcpSocket", "grpc"] {
        if !handler[which].is_object() {
            continue;
        }
        let at = format!("{path}.{which}.port");
        match &handler[which]["port"] {
            Value::String(s) => invalid_all(&at, s, names::port_name(s), errors),
            v => {
                for wrong in names::port_number(int(v)) {
                    errors.push(FieldError::invalid(&at, &int(v).into(), wrong));
                }
            }
        }
    }
    if handler["httpGet"].is_object() {
        one_of(
            &handler["httpGet"]["scheme"],
            &format!("{path}.httpGet.scheme"),
            &["HTTP", "HTTPS"],
            errors,
        );
        for (i, header) in items(&handler["httpGet"]["httpHeaders"]).iter().enumerate() {
            let name = text(&header["name"]);
            invalid_all(
                &format!("{path}.httpGet.httpHeaders[{i}].name"),
                name,
                names::http_header_name(name),
                errors,
            );
        }
    }
}

pub(super) fn validate_probe(probe: &Value, path: &str, once: bool, errors: &mut Errors) {
    validate_handler(probe, path, errors);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(probe, path, key, errors);
    }
    if once && int(&probe["successThreshold"]) != 1 {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
}
