//! EndpointSlices.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{age, each, int, invalid_all, items, name, required_one_of, set_default, text};
use crate::{AGE, NAME, Strategy, column};

/// The first few of a list, and how many more there are.
pub(crate) fn some_of(all: &[String], most: usize) -> Value {
    match all.len() {
        0 => "<none>".into(),
        n if n > most => format!("{} + {} more...", all[..most].join(","), n - most).into(),
        _ => all.join(",").into(),
    }
}

pub(crate) const SLICE: Strategy = Strategy {
    generation: true,
    default: |o| {
        each(o, "ports", |p| {
            set_default(p, "protocol", "TCP");
            if p["name"].is_null() {
                crate::tree::set(p, "name", "");
            }
        });
    },
    validate: |o, errors| {
        required_one_of(
            &o["addressType"],
            "addressType",
            &["FQDN", "IPv4", "IPv6"],
            errors,
        );
        let endpoints = items(&o["endpoints"]);
        if endpoints.len() > 1000 {
            errors.push(FieldError::too_many("endpoints", endpoints.len(), 1000));
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            let path = format!("endpoints[{i}].addresses");
            let addresses = items(&endpoint["addresses"]);
            if addresses.is_empty() {
                errors.push(FieldError::required(
                    &path,
                    "must contain at least 1 address",
                ));
            }
            for (j, address) in addresses.iter().enumerate() {
                let path = format!("{path}[{j}]");
                match text(&o["addressType"]) {
                    "IPv4" if text(address).parse::<std::net::Ipv4Addr>().is_err() => {
                        errors.push(FieldError::invalid(
                            path,
                            address,
                            "must be an IPv4 address",
                        ));
                    }
                    "IPv6" if text(address).parse::<std::net::Ipv6Addr>().is_err() => {
                        errors.push(FieldError::invalid(
                            path,
                            address,
                            "must be an IPv6 address",
                        ));
                    }
                    "FQDN" => invalid_all(
                        &path,
                        text(address),
                        names::dns1123_subdomain(text(address)),
                        errors,
                    ),
                    _ => {}
                }
            }
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, port) in items(&o["ports"]).iter().enumerate() {
            let path = format!("ports[{i}]");
            let port_name = text(&port["name"]);
            if seen.contains(&port_name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &port["name"]));
            }
            seen.push(port_name);
            if !port_name.is_empty() {
                invalid_all(
                    &format!("{path}.name"),
                    port_name,
                    names::dns1123_label(port_name),
                    errors,
                );
            }
            if port["port"].is_i64() {
                for wrong in names::port_number(int(&port["port"])) {
                    errors.push(FieldError::invalid(
                        format!("{path}.port"),
                        &port["port"],
                        wrong,
                    ));
                }
            }
            required_one_of(
                &port["protocol"],
                &format!("{path}.protocol"),
                &["SCTP", "TCP", "UDP"],
                errors,
            );
        }
    },
    validate_update: |new, old, errors| {
        crate::tree::immutable(
            &new["addressType"],
            &old["addressType"],
            "addressType",
            errors,
        );
    },
    columns: &[
        NAME,
        column("AddressType", "string", "The family of its addresses."),
        column("Ports", "string", "Its ports."),
        column("Endpoints", "string", "Its addresses, three at most."),
        AGE,
    ],
    row: |o, now| {
        let ports: Vec<String> = items(&o["ports"])
            .iter()
            .map(|p| {
                let protocol = text(&p["protocol"]);
                let number = p["port"]
                    .as_i64()
                    .map_or_else(|| "*".into(), |n| n.to_string());
                if protocol.is_empty() || protocol == "TCP" {
                    number
                } else {
                    format!("{number}/{protocol}")
                }
            })
            .collect();
        let ports = if o["ports"].is_null() {
            "<unset>".into()
        } else {
            some_of(&ports, 3)
        };
        let addresses: Vec<String> = items(&o["endpoints"])
            .iter()
            .flat_map(|e| items(&e["addresses"]))
            .map(|a| text(a).to_owned())
            .collect();
        let addresses = if addresses.is_empty() {
            "<unset>".into()
        } else {
            some_of(&addresses, 3)
        };
        vec![
            name(o),
            text(&o["addressType"]).into(),
            ports,
            addresses,
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
