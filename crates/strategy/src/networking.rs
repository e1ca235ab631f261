//! Ingresses, IngressClasses and NetworkPolicies.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::addresses::{legacy_address, legacy_network};
use crate::tree::{
    age, each, immutable, int, invalid_all, items, label_selector, name, none_if_empty, object,
    one_of, set, set_default, show_selector, text,
};
use crate::workload::domain_prefixed_path;
use crate::{AGE, Errors, NAME, Strategy, column};

fn names_all(v: &Value, path: &str, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
    invalid_all(path, text(v), check(text(v)), errors);
}

fn is_address(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
}

fn validate_backend(backend: &Value, path: &str, errors: &mut Errors) {
    let mut wrong = |detail: &str| errors.push(FieldError::invalid_str(path, "", detail));
    match (
        backend["service"].is_object(),
        backend["resource"].is_object(),
    ) {
        (true, true) => wrong("cannot set both resource and service backends"),
        (false, false) => wrong("resource or service backend is required"),
        (true, false) => validate_service_backend(&backend["service"], path, errors),
        (false, true) => {
            validate_reference(&backend["resource"], &format!("{path}.resource"), errors);
        }
    }
}

fn validate_service_backend(service: &Value, path: &str, errors: &mut Errors) {
    let name_path = format!("{path}.service.name");
    if text(&service["name"]).is_empty() {
        errors.push(FieldError::required(name_path, ""));
    } else {
        names_all(&service["name"], &name_path, names::dns1123_label, errors);
    }
    let port = &service["port"];
    let number = int(&port["number"]);
    match (!text(&port["name"]).is_empty(), number != 0) {
        (true, true) => {
            let detail = "cannot set both port name & port number";
            errors.push(FieldError::invalid_str(path, "", detail));
        }
        (true, false) => {
            let path = format!("{path}.service.port.name");
            names_all(&port["name"], &path, names::port_name, errors);
        }
        (false, true) => {
            for wrong in names::port_number(number) {
                let path = format!("{path}.service.port.number");
                errors.push(FieldError::invalid(path, &port["number"], wrong));
            }
        }
        (false, false) => {
            errors.push(FieldError::required(
                path,
                "port name or number is required",
            ));
        }
    }
}

/// A reference to an object of any kind.
fn validate_reference(reference: &Value, path: &str, errors: &mut Errors) {
    if !reference["apiGroup"].is_null() {
        let path = format!("{path}.apiGroup");
        names_all(
            &reference["apiGroup"],
            &path,
            names::dns1123_subdomain,
            errors,
        );
    }
    for key in ["kind", "name"] {
        let path = format!("{path}.{key}");
        if text(&reference[key]).is_empty() {
            errors.push(FieldError::required(path, ""));
        } else {
            names_all(&reference[key], &path, names::path_segment, errors);
        }
    }
}

fn validate_host(host: &str, path: &str, errors: &mut Errors) {
    if is_address(host) {
        let detail = "must be a DNS name, not an IP address";
        errors.push(FieldError::invalid_str(path, host, detail));
    }
    invalid_all(path, host, wrong_host(host), errors);
}

fn wrong_host(host: &str) -> Vec<String> {
    if host.contains('*') {
        names::wildcard_dns1123_subdomain(host)
    } else {
        names::dns1123_subdomain(host)
    }
}

fn validate_http_path(one: &Value, path: &str, errors: &mut Errors) {
    let kind = format!("{path}.pathType");
    if one["pathType"].is_null() {
        errors.push(FieldError::required(kind, "pathType must be specified"));
        return;
    }
    let url = text(&one["path"]);
    let mut wrong = |detail: String| {
        errors.push(FieldError::invalid_str(format!("{path}.path"), url, detail));
    };
    match text(&one["pathType"]) {
        "Exact" | "Prefix" => {
            if !url.starts_with('/') {
                wrong("must be an absolute path".into());
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if url.contains(part) {
                    wrong(format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if url.ends_with(end) {
                    wrong(format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !url.is_empty() && !url.starts_with('/') {
                wrong("must be an absolute path".into());
            }
        }
        _ => {
            let types = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.push(FieldError::not_supported(kind, &one["pathType"], &types));
        }
    }
    validate_backend(&one["backend"], &format!("{path}.backend"), errors);
}

fn validate_ingress(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let rules = items(&spec["rules"]);
    if rules.is_empty() && spec["defaultBackend"].is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", &spec["rules"], detail));
    }
    if spec["defaultBackend"].is_object() {
        validate_backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let host = text(&rule["host"]);
        if !host.is_empty() {
            validate_host(host, &format!("{path}.host"), errors);
        }
        let paths = items(&rule["http"]["paths"]);
        if rule["http"].is_object() && paths.is_empty() {
            errors.push(FieldError::required(format!("{path}.http.paths"), ""));
        }
        for (j, one) in paths.iter().enumerate() {
            validate_http_path(one, &format!("{path}.http.paths[{j}]"), errors);
        }
    }
    for (i, tls) in items(&spec["tls"]).iter().enumerate() {
        let path = format!("spec.tls[{i}]");
        for (j, host) in items(&tls["hosts"]).iter().enumerate() {
            names_all(host, &format!("{path}.hosts[{j}]"), wrong_host, errors);
        }
        if !text(&tls["secretName"]).is_empty() {
            let path = format!("{path}.secretName");
            names_all(&tls["secretName"], &path, names::dns1123_subdomain, errors);
        }
    }
    if !spec["ingressClassName"].is_null() {
        let path = "spec.ingressClassName";
        let class = &spec["ingressClassName"];
        names_all(class, path, names::dns1123_subdomain, errors);
    }
}

/// The class by its old name, the annotation, must be that of the field.
fn validate_class_annotation(o: &Value, errors: &mut Errors) {
    const CLASS: &str = "kubernetes.io/ingress.class";
    let (old, new) = (
        &o["metadata"]["annotations"][CLASS],
        &o["spec"]["ingressClassName"],
    );
    if !old.is_null() && !new.is_null() && old != new {
        let detail = "must match `ingressClassName` when both are specified";
        let path = format!("annotations.{CLASS}");
        errors.push(FieldError::invalid(path, old, detail));
    }
}

fn validate_ingress_status(new: &Value, _: &Value, errors: &mut Errors) {
    let points = items(&new["status"]["loadBalancer"]["ingress"]);
    for (i, point) in points.iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        let (ip, host) = (text(&point["ip"]), text(&point["hostname"]));
        if !ip.is_empty()
            && let Err(detail) = legacy_address(ip)
        {
            errors.push(FieldError::invalid_str(format!("{path}.ip"), ip, detail));
        }
        if !host.is_empty() {
            let path = format!("{path}.hostname");
            invalid_all(&path, host, names::dns1123_subdomain(host), errors);
            if is_address(host) {
                let detail = "must be a DNS name, not an IP address";
                errors.push(FieldError::invalid_str(path, host, detail));
            }
        }
    }
}

pub(crate) const INGRESS: Strategy = Strategy {
    generation: true,
    status_metadata: true,
    create: |o| set(o, "status", json!({ "loadBalancer": {} })),
    validate: validate_ingress,
    validate_create: validate_class_annotation,
    validate_status: validate_ingress_status,
    columns: &[
        NAME,
        column(
            "Class",
            "string",
            "The class of controllers that carry it out.",
        ),
        column("Hosts", "string", "The hosts that it serves."),
        column("Address", "string", "Where it is reached."),
        column("Ports", "string", "The ports that it is reached at."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let hosts: Vec<&str> = items(&spec["rules"])
            .iter()
            .map(|r| text(&r["host"]))
            .filter(|h| !h.is_empty())
            .collect();
        let hosts = match hosts.len() {
            0 => "*".to_owned(),
            n if n > 3 => format!("{} + {} more...", hosts[..3].join(","), n - 3),
            _ => hosts.join(","),
        };
        let class = text(&spec["ingressClassName"]);
        let address: Vec<&str> = items(&o["status"]["loadBalancer"]["ingress"])
            .iter()
            .map(|i| {
                if text(&i["ip"]).is_empty() {
                    text(&i["hostname"])
                } else {
                    text(&i["ip"])
                }
            })
            .collect();
        let ports = if items(&spec["tls"]).is_empty() {
            "80"
        } else {
            "80, 443"
        };
        vec![
            name(o),
            none_if_empty(class.into()),
            hosts.into(),
            address.join(",").into(),
            ports.into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

fn validate_class(o: &Value, errors: &mut Errors) {
    const LONGEST: usize = 250;
    let controller = text(&o["spec"]["controller"]);
    if controller.len() > LONGEST {
        errors.push(FieldError::too_long("spec.controller", LONGEST));
    }
    domain_prefixed_path(controller, "spec.controller", errors);
    let parameters = &o["spec"]["parameters"];
    if !parameters.is_object() {
        return;
    }
    let path = "spec.parameters";
    validate_reference(parameters, path, errors);
    let namespace = format!("{path}.namespace");
    match parameters["scope"].as_str() {
        None => errors.push(FieldError::required(format!("{path}.scope"), "")),
        Some("Namespace") if parameters["namespace"].is_null() => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(namespace, detail));
        }
        Some("Namespace") => {
            let given = &parameters["namespace"];
            names_all(given, &namespace, names::dns1123_label, errors);
        }
        Some("Cluster") if !parameters["namespace"].is_null() => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(namespace, detail));
        }
        Some("Cluster") => {}
        Some(_) => {
            let path = format!("{path}.scope");
            let scopes = ["Cluster", "Namespace"];
            let given = &parameters["scope"];
            errors.push(FieldError::not_supported(path, given, &scopes));
        }
    }
}

pub(crate) const INGRESS_CLASS: Strategy = Strategy {
    generation: true,
    default: |o| {
        if let Some(parameters) = o.get_mut("spec").and_then(|s| s.get_mut("parameters")) {
            set_default(parameters, "scope", "Cluster");
        }
    },
    validate: validate_class,
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["controller"],
            &old["spec"]["controller"],
            "spec.controller",
            errors,
        );
    },
    columns: &[
        NAME,
        column(
            "Controller",
            "string",
            "The controller that carries its Ingresses out.",
        ),
        column(
            "Parameters",
            "string",
            "Where the controller's settings are.",
        ),
        AGE,
    ],
    row: |o, now| {
        let p = &o["spec"]["parameters"];
        let shown = if p.is_object() {
            let group = text(&p["apiGroup"]);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(&p["kind"]), text(&p["name"]))
        } else {
            "<none>".into()
        };
        vec![
            name(o),
            text(&o["spec"]["controller"]).into(),
            shown.into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

fn validate_policy(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    label_selector(&spec["podSelector"], "spec.podSelector", errors);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in items(&spec[direction]).iter().enumerate() {
            let path = format!("spec.{direction}[{i}]");
            for (j, port) in items(&rule["ports"]).iter().enumerate() {
                validate_policy_port(port, &format!("{path}.ports[{j}]"), errors);
            }
            for (j, peer) in items(&rule[side]).iter().enumerate() {
                validate_peer(peer, &format!("{path}.{side}[{j}]"), errors);
            }
        }
    }
    let types = items(&spec["policyTypes"]);
    let allowed = ["Ingress", "Egress"];
    if types.len() > allowed.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(
            "spec.policyTypes",
            &spec["policyTypes"],
            detail,
        ));
        return;
    }
    for (i, one) in types.iter().enumerate() {
        one_of(one, &format!("spec.policyTypes[{i}]"), &allowed, errors);
    }
}

fn validate_policy_port(port: &Value, path: &str, errors: &mut Errors) {
    let protocols = ["TCP", "UDP", "SCTP"];
    one_of(
        &port["protocol"],
        &format!("{path}.protocol"),
        &protocols,
        errors,
    );
    let (first, last) = (&port["port"], &port["endPort"]);
    let at = format!("{path}.port");
    let end = format!("{path}.endPort");
    let mut wrong = |path: &str, bad: &Value, detail: String| {
        errors.push(FieldError::invalid(path, bad, detail));
    };
    match first {
        Value::Number(_) => {
            for detail in names::port_number(int(first)) {
                wrong(&at, first, detail);
            }
            if !last.is_null() {
                if int(last) < int(first) {
                    wrong(&end, last, "must be greater than or equal to `port`".into());
                }
                for detail in names::port_number(int(last)) {
                    wrong(&end, last, detail);
                }
            }
        }
        Value::String(name) => {
            if !last.is_null() {
                let detail = "may not be specified when `port` is non-numeric";
                wrong(&end, last, detail.into());
            }
            for detail in names::port_name(name) {
                wrong(&at, first, detail);
            }
        }
        _ if !last.is_null() => {
            let detail = "may not be specified when `port` is not specified";
            wrong(&end, last, detail.into());
        }
        _ => {}
    }
}

fn validate_peer(peer: &Value, path: &str, errors: &mut Errors) {
    for key in ["podSelector", "namespaceSelector"] {
        label_selector(&peer[key], &format!("{path}.{key}"), errors);
    }
    let block = &peer["ipBlock"];
    let others = peer["podSelector"].is_object() || peer["namespaceSelector"].is_object();
    if block.is_object() {
        validate_block(block, &format!("{path}.ipBlock"), errors);
    }
    match (block.is_object(), others) {
        (false, false) => errors.push(FieldError::required(path, "must specify a peer")),
        (true, true) => {
            let detail = "may not specify both ipBlock and another peer";
            errors.push(FieldError::forbidden(path, detail));
        }
        _ => {}
    }
}

fn validate_block(ip_block: &Value, path: &str, errors: &mut Errors) {
    let cidr = text(&ip_block["cidr"]);
    let at = format!("{path}.cidr");
    if cidr.is_empty() {
        errors.push(FieldError::required(at, ""));
        return;
    }
    let outer = match legacy_network(cidr) {
        Ok(outer) => outer,
        Err(detail) => return errors.push(FieldError::invalid_str(at, cidr, detail)),
    };
    for (i, except) in items(&ip_block["except"]).iter().enumerate() {
        let detail = match legacy_network(text(except)) {
            Ok(inner) if outer.has_strictly(&inner) => continue,
            Ok(_) => "must be a strict subset of `cidr`",
            Err(detail) => detail,
        };
        errors.push(FieldError::invalid(
            format!("{path}.except[{i}]"),
            except,
            detail,
        ));
    }
}

pub(crate) const NETWORK_POLICY: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        object(spec, "podSelector");
        for direction in ["ingress", "egress"] {
            each(spec, direction, |rule| {
                each(rule, "ports", |port| set_default(port, "protocol", "TCP"))
            });
        }
        if items(&spec["policyTypes"]).is_empty() {
            let types = if items(&spec["egress"]).is_empty() {
                json!(["Ingress"])
            } else {
                json!(["Ingress", "Egress"])
            };
            set(spec, "policyTypes", types);
        }
    },
    validate: validate_policy,
    columns: &[
        NAME,
        column("Pod-Selector", "string", "The Pods that it applies to."),
        AGE,
    ],
    row: |o, now| {
        vec![
            name(o),
            show_selector(&o["spec"]["podSelector"]),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
