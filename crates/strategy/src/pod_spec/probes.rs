//! Probes and lifecycle hooks.

use api::{FieldError, names};
use serde_json::Value;

use super::Scope;
use crate::Errors;
use crate::tree::{int, invalid_all, items, not_negative, one_of, text};

/// What a probe may do, and what a hook may do, in upstream's order.
const PROBE: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

pub(super) fn validate_lifecycle(
    scope: &Scope,
    container: &Value,
    path: &str,
    errors: &mut Errors,
) {
    let lifecycle = &container["lifecycle"];
    let grace = scope.spec["terminationGracePeriodSeconds"].as_i64();
    for key in ["postStart", "preStop"] {
        if lifecycle[key].is_object() {
            let path = format!("{path}.lifecycle.{key}");
            validate_handler(&lifecycle[key], &HOOK, grace, &path, errors);
        }
    }
    validate_stop_signal(scope, &lifecycle["stopSignal"], path, errors);
}

/// What Windows can be told.
const WINDOWS_SIGNALS: [&str; 2] = ["SIGKILL", "SIGTERM"];

fn validate_stop_signal(scope: &Scope, signal: &Value, path: &str, errors: &mut Errors) {
    if signal.is_null() {
        return;
    }
    let path = format!("{path}.lifecycle.stopSignal");
    match text(&scope.spec["os"]["name"]) {
        "" => {
            let detail = "may not be set for containers with empty `spec.os.name`";
            errors.push(FieldError::forbidden(path, detail));
        }
        "windows" => one_of(signal, &path, &WINDOWS_SIGNALS, errors),
        _ => {}
    }
}

pub(super) fn validate_probes(container: &Value, path: &str, errors: &mut Errors) {
    for key in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = &container[key];
        if !probe.is_object() {
            continue;
        }
        let path = format!("{path}.{key}");
        validate_probe(probe, &path, errors);
        let grace = &probe["terminationGracePeriodSeconds"];
        if key == "readinessProbe" {
            if !grace.is_null() {
                let path = format!("{path}.terminationGracePeriodSeconds");
                let detail = "must not be set for readinessProbes";
                errors.push(FieldError::invalid(path, grace, detail));
            }
        } else if int(&probe["successThreshold"]) != 1 {
            let path = format!("{path}.successThreshold");
            let threshold = int(&probe["successThreshold"]).into();
            errors.push(FieldError::invalid(path, &threshold, "must be 1"));
        }
    }
}

fn validate_probe(probe: &Value, path: &str, errors: &mut Errors) {
    validate_handler(probe, &PROBE, None, path, errors);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(probe, path, key, errors);
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    if grace.as_i64().is_some_and(|n| n <= 0) {
        let path = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(path, grace, "must be greater than 0"));
    }
}

fn validate_handler(
    handler: &Value,
    kinds: &[&str],
    grace: Option<i64>,
    path: &str,
    errors: &mut Errors,
) {
    let mut given = kinds.iter().filter(|k| handler[**k].is_object());
    let Some(first) = given.next() else {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    };
    let (action, at) = (&handler[*first], format!("{path}.{first}"));
    match *first {
        "exec" if items(&action["command"]).is_empty() => {
            errors.push(FieldError::required(format!("{at}.command"), ""));
        }
        "httpGet" => validate_http(action, &at, errors),
        "tcpSocket" | "grpc" => validate_port(&action["port"], &format!("{at}.port"), errors),
        "sleep" => validate_sleep(action, grace, &at, errors),
        _ => {}
    }
    for more in given {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(format!("{path}.{more}"), detail));
    }
}

/// The number of a port, or the name of one.
pub(crate) fn validate_port(port: &Value, path: &str, errors: &mut Errors) {
    match port {
        Value::String(name) => invalid_all(path, name, names::port_name(name), errors),
        number => {
            for wrong in names::port_number(int(number)) {
                errors.push(FieldError::invalid(path, &int(number).into(), wrong));
            }
        }
    }
}

fn validate_http(http: &Value, path: &str, errors: &mut Errors) {
    if text(&http["path"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.path"), ""));
    }
    validate_port(&http["port"], &format!("{path}.port"), errors);
    let schemes = ["HTTP", "HTTPS"];
    one_of(&http["scheme"], &format!("{path}.scheme"), &schemes, errors);
    for header in items(&http["httpHeaders"]) {
        let name = text(&header["name"]);
        let wrong = names::http_header_name(name);
        invalid_all(&format!("{path}.httpHeaders"), name, wrong, errors);
    }
}

fn validate_sleep(sleep: &Value, grace: Option<i64>, path: &str, errors: &mut Errors) {
    let seconds = int(&sleep["seconds"]);
    if let Some(grace) = grace
        && !(0..=grace).contains(&seconds)
    {
        let detail =
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(FieldError::invalid(path, &seconds.into(), detail));
    }
}
