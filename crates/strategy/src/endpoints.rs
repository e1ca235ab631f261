//! Endpoints: the older form of what EndpointSlices say.

use api::{FieldError, names};
use serde_json::Value;

use crate::discovery::some_of;
use crate::tree::{age, each, int, invalid_all, items, name, required_one_of, set_default, text};
use crate::{AGE, Errors, NAME, Strategy, column, ip};

fn validate(o: &Value, errors: &mut Errors) {
    for (i, subset) in items(&o["subsets"]).iter().enumerate() {
        let path = format!("subsets[{i}]");
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|k| items(&subset[*k]).is_empty()) {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            errors.push(FieldError::required(&path, detail));
        }
        for key in lists {
            for (j, address) in items(&subset[key]).iter().enumerate() {
                validate_address(address, &format!("{path}.{key}[{j}]"), errors);
            }
        }
        let ports = items(&subset["ports"]);
        for (j, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{j}]");
            validate_port(port, ports.len() > 1, &path, errors);
        }
    }
}

fn validate_address(address: &Value, path: &str, errors: &mut Errors) {
    let (at, ip) = (format!("{path}.ip"), text(&address["ip"]));
    ip::validate(ip, &at, errors);
    let host = text(&address["hostname"]);
    if !host.is_empty() {
        let wrong = names::dns1123_label(host);
        invalid_all(&format!("{path}.hostname"), host, wrong, errors);
    }
    if let Some(node) = address["nodeName"].as_str() {
        let wrong = names::dns1123_subdomain(node);
        invalid_all(&format!("{path}.nodeName"), node, wrong, errors);
    }
    ip::validate_non_special(ip, &at, errors);
}

fn validate_port(port: &Value, needs_name: bool, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let name = text(&port["name"]);
    if !name.is_empty() {
        invalid_all(&at("name"), name, names::dns1123_label(name), errors);
    } else if needs_name {
        errors.push(FieldError::required(at("name"), ""));
    }
    let number = int(&port["port"]);
    for wrong in names::port_number(number) {
        errors.push(FieldError::invalid(at("port"), &number.into(), wrong));
    }
    let protocols = ["SCTP", "TCP", "UDP"];
    required_one_of(&port["protocol"], &at("protocol"), &protocols, errors);
    if let Some(protocol) = port["appProtocol"].as_str() {
        let wrong = names::qualified_name(protocol);
        invalid_all(&at("appProtocol"), protocol, wrong, errors);
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    default: |o| {
        each(o, "subsets", |s| {
            each(s, "ports", |p| set_default(p, "protocol", "TCP"))
        })
    },
    validate,
    columns: &[
        NAME,
        column("Endpoints", "string", "The ready addresses, three at most."),
        AGE,
    ],
    row: |o, now| {
        let all: Vec<String> = items(&o["subsets"])
            .iter()
            .flat_map(|s| {
                let ports = items(&s["ports"]);
                items(&s["addresses"]).iter().flat_map(move |a| {
                    let ip = text(&a["ip"]);
                    if ports.is_empty() {
                        return vec![ip.to_owned()];
                    }
                    let join = |p: &Value| {
                        if ip.contains(':') {
                            format!("[{ip}]:{p}")
                        } else {
                            format!("{ip}:{p}")
                        }
                    };
                    ports.iter().map(|p| join(&p["port"])).collect()
                })
            })
            .collect();
        vec![name(o), some_of(&all, 3), age(o, now)]
    },
    ..Strategy::BASE
};
