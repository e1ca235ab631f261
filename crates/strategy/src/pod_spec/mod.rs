//! The spec of a Pod, on its own and inside templates.

mod affinity;
mod containers;
mod defaults;
mod env;
mod probes;
mod resources;
mod scheduling;
mod security;
mod volumes;

pub(crate) use affinity::validate_node_requirement;
pub(crate) use defaults::{default, default_template, requests_from_limits};
pub(crate) use resources::validate_resources;
pub(crate) use scheduling::validate_toleration;

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{int, invalid_all, items, labels, not_negative, required_one_of, text};
use affinity::validate_affinity;
use containers::validate_container;
use security::validate_security;
use volumes::validate_volumes;

pub(crate) fn validate(spec: &Value, path: &str, errors: &mut Errors) {
    let volumes = validate_volumes(spec, path, errors);
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut seen: HashSet<&str> = HashSet::new();
    let mut host_ports: HashSet<(i64, &str, &str)> = HashSet::new();
    for (key, init) in [("containers", false), ("initContainers", true)] {
        for (i, container) in items(&spec[key]).iter().enumerate() {
            let at = format!("{path}.{key}[{i}]");
            validate_container(container, &at, init, &volumes, errors);
            let name = text(&container["name"]);
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(
                    format!("{at}.name"),
                    &container["name"],
                ));
            }
            for (j, port) in items(&container["ports"]).iter().enumerate() {
                let host = int(&port["hostPort"]);
                let taken = (host, text(&port["hostIP"]), text(&port["protocol"]));
                if host != 0 && !init && !host_ports.insert(taken) {
                    let shown = format!("{}/{}/{host}", taken.2, taken.1);
                    errors.push(FieldError::duplicate(
                        format!("{at}.ports[{j}].hostPort"),
                        &shown.into(),
                    ));
                }
                if spec["hostNetwork"] == true && host != 0 && host != int(&port["containerPort"]) {
                    let detail = "must match `hostPort` when `hostNetwork` is true";
                    errors.push(FieldError::invalid(
                        format!("{at}.ports[{j}].containerPort"),
                        &port["containerPort"],
                        detail,
                    ));
                }
            }
        }
    }
    let at = |key: &str| format!("{path}.{key}");
    required_one_of(
        &spec["restartPolicy"],
        &at("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    let policies = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_one_of(&spec["dnsPolicy"], &at("dnsPolicy"), &policies, errors);
    if spec["dnsPolicy"] == "None" && items(&spec["dnsConfig"]["nameservers"]).is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(at("dnsConfig.nameservers"), detail));
    }
    labels(&spec["nodeSelector"], &at("nodeSelector"), errors);
    not_negative(spec, path, "terminationGracePeriodSeconds", errors);
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|n| !(1..=i64::from(i32::MAX)).contains(&n))
    {
        let detail = names::inclusive_range(1, i64::from(i32::MAX));
        errors.push(FieldError::invalid(
            at("activeDeadlineSeconds"),
            &spec["activeDeadlineSeconds"],
            detail,
        ));
    }
    for key in ["hostname", "subdomain"] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            invalid_all(&at(key), value, names::dns1123_label(value), errors);
        }
    }
    for key in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            invalid_all(&at(key), value, names::dns1123_subdomain(value), errors);
        }
    }
    for (i, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(&secret["name"]).is_empty() {
            errors.push(FieldError::required(
                format!("{path}.imagePullSecrets[{i}].name"),
                "",
            ));
        }
    }
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        if text(&alias["ip"]).parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(
                format!("{path}.hostAliases[{i}].ip"),
                &alias["ip"],
                detail,
            ));
        }
        for (j, host) in items(&alias["hostnames"]).iter().enumerate() {
            let path = format!("{path}.hostAliases[{i}].hostnames[{j}]");
            invalid_all(
                &path,
                text(host),
                names::dns1123_subdomain(text(host)),
                errors,
            );
        }
    }
    for (i, toleration) in items(&spec["tolerations"]).iter().enumerate() {
        validate_toleration(toleration, &format!("{path}.tolerations[{i}]"), errors);
    }
    for (i, spread) in items(&spec["topologySpreadConstraints"]).iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{i}]");
        if int(&spread["maxSkew"]) <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(
                format!("{path}.maxSkew"),
                &int(&spread["maxSkew"]).into(),
                detail,
            ));
        }
        if text(&spread["topologyKey"]).is_empty() {
            errors.push(FieldError::required(
                format!("{path}.topologyKey"),
                "can not be empty",
            ));
        }
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&text(&spread["whenUnsatisfiable"])) {
            let bad = Value::from(text(&spread["whenUnsatisfiable"]));
            errors.push(FieldError::not_supported(
                format!("{path}.whenUnsatisfiable"),
                &bad,
                &actions,
            ));
        }
    }
    validate_affinity(&spec["affinity"], &at("affinity"), errors);
    validate_security(&spec["securityContext"], &at("securityContext"), errors);
}
