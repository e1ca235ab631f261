//! Ingresses, IngressClasses and NetworkPolicies.

use api::FieldError;
use serde_json::{Value, json};

use crate::tree::{
    age, each, invalid_all, items, label_selector, name, none_if_empty, object, required_one_of,
    set, set_default, show_selector, text,
};
use crate::{AGE, Errors, NAME, Strategy, column};

fn validate_backend(backend: &Value, path: &str, errors: &mut Errors) {
    match (
        backend["service"].is_object(),
        backend["resource"].is_object(),
    ) {
        (true, true) => errors.push(FieldError::invalid(
            path,
            backend,
            "cannot set both resource and service backends",
        )),
        (false, false) => errors.push(FieldError::required(
            path,
            "resource or service backend is required",
        )),
        (true, false) => {
            let service = &backend["service"];
            if text(&service["name"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.service.name"), ""));
            }
            let port = &service["port"];
            if text(&port["name"]).is_empty() && port["number"].as_i64().unwrap_or(0) == 0 {
                errors.push(FieldError::required(
                    format!("{path}.service.port"),
                    "port name or number is required",
                ));
            }
        }
        (false, true) => {}
    }
}

pub(crate) const INGRESS: Strategy = Strategy {
    generation: true,
    create: |o| set(o, "status", json!({ "loadBalancer": {} })),
    validate: |o, errors| {
        let spec = &o["spec"];
        let rules = items(&spec["rules"]);
        if rules.is_empty() && spec["defaultBackend"].is_null() {
            errors.push(FieldError::invalid(
                "spec",
                spec,
                "either `defaultBackend` or `rules` must be specified",
            ));
        }
        if spec["defaultBackend"].is_object() {
            validate_backend(&spec["defaultBackend"], "spec.defaultBackend", errors);
        }
        for (i, rule) in rules.iter().enumerate() {
            let host = text(&rule["host"]);
            let path = format!("spec.rules[{i}]");
            if host.contains('*') {
                invalid_all(
                    &format!("{path}.host"),
                    host,
                    api::names::wildcard_dns1123_subdomain(host),
                    errors,
                );
            } else if !host.is_empty() {
                invalid_all(
                    &format!("{path}.host"),
                    host,
                    api::names::dns1123_subdomain(host),
                    errors,
                );
            }
            if rule["http"].is_object() && items(&rule["http"]["paths"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.http.paths"), ""));
            }
            for (j, one) in items(&rule["http"]["paths"]).iter().enumerate() {
                let path = format!("{path}.http.paths[{j}]");
                if one["pathType"].is_null() {
                    errors.push(FieldError::required(
                        format!("{path}.pathType"),
                        "pathType must be specified",
                    ));
                } else {
                    let types = ["Exact", "ImplementationSpecific", "Prefix"];
                    required_one_of(
                        &one["pathType"],
                        &format!("{path}.pathType"),
                        &types,
                        errors,
                    );
                }
                let url = text(&one["path"]);
                if (one["pathType"] != "ImplementationSpecific" || !url.is_empty())
                    && !url.starts_with('/')
                {
                    errors.push(FieldError::invalid_str(
                        format!("{path}.path"),
                        url,
                        "must be an absolute path",
                    ));
                }
                validate_backend(&one["backend"], &format!("{path}.backend"), errors);
            }
        }
    },
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
        let class = match text(&spec["ingressClassName"]) {
            "" => text(&o["metadata"]["annotations"]["kubernetes.io/ingress.class"]),
            class => class,
        };
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

pub(crate) const INGRESS_CLASS: Strategy = Strategy {
    generation: true,
    default: |o| {
        if let Some(parameters) = o.get_mut("spec").and_then(|s| s.get_mut("parameters")) {
            set_default(parameters, "scope", "Cluster");
        }
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
    validate: |o, errors| {
        let spec = &o["spec"];
        label_selector(&spec["podSelector"], "spec.podSelector", errors);
        for (direction, side) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in items(&spec[direction]).iter().enumerate() {
                for (j, peer) in items(&rule[side]).iter().enumerate() {
                    let path = format!("spec.{direction}[{i}].{side}[{j}]");
                    if peer.as_object().is_none_or(serde_json::Map::is_empty) {
                        errors.push(FieldError::required(&path, "must specify a peer"));
                    }
                    if peer["ipBlock"].is_object()
                        && (peer["podSelector"].is_object()
                            || peer["namespaceSelector"].is_object())
                    {
                        let detail = "may not specify both ipBlock and another peer";
                        errors.push(FieldError::forbidden(&path, detail));
                    }
                    for key in ["podSelector", "namespaceSelector"] {
                        label_selector(&peer[key], &format!("{path}.{key}"), errors);
                    }
                }
            }
        }
        for (i, one) in items(&spec["policyTypes"]).iter().enumerate() {
            required_one_of(
                one,
                &format!("spec.policyTypes[{i}]"),
                &["Egress", "Ingress"],
                errors,
            );
        }
    },
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
