//! Endpoints and EndpointSlices.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{age, each, int, invalid_all, items, name, required_one_of, set_default, text};
use crate::{AGE, Errors, NAME, Strategy, column};

fn validate_ip(ip: &Value, path: &str, errors: &mut Errors) {
    match text(ip).parse::<std::net::IpAddr>() {
        Err(_) => {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(path, ip, detail));
        }
        Ok(addr) => {
            let (unspecified, loopback) = (addr.is_unspecified(), addr.is_loopback());
            let link_local = match addr {
                std::net::IpAddr::V4(v4) => v4.is_link_local(),
                std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let detail = match (unspecified, loopback, link_local) {
                (true, ..) => format!("may not be unspecified ({})", text(ip)),
                (_, true, _) => "may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
                (_, _, true) => {
                    "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into()
                }
                _ => return,
            };
            errors.push(FieldError::invalid(path, ip, detail));
        }
    }
}

fn validate_port(port: &Value, path: &str, named: bool, errors: &mut Errors) {
    let port_name = text(&port["name"]);
    if port_name.is_empty() {
        if named {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
    } else {
        invalid_all(
            &format!("{path}.name"),
            port_name,
            names::dns1123_label(port_name),
            errors,
        );
    }
    for wrong in names::port_number(int(&port["port"])) {
        errors.push(FieldError::invalid(
            format!("{path}.port"),
            &int(&port["port"]).into(),
            wrong,
        ));
    }
    required_one_of(
        &port["protocol"],
        &format!("{path}.protocol"),
        &["SCTP", "TCP", "UDP"],
        errors,
    );
}

pub(crate) const ENDPOINTS: Strategy = Strategy {
    default: |o| {
        each(o, "subsets", |s| {
            each(s, "ports", |p| set_default(p, "protocol", "TCP"))
        })
    },
    validate: |o, errors| {
        for (i, subset) in items(&o["subsets"]).iter().enumerate() {
            let path = format!("subsets[{i}]");
            let (ready, not) = (
                items(&subset["addresses"]),
                items(&subset["notReadyAddresses"]),
            );
            if ready.is_empty() && not.is_empty() {
                errors.push(FieldError::required(
                    &path,
                    "must specify `addresses` or `notReadyAddresses`",
                ));
            }
            for (key, list) in [("addresses", ready), ("notReadyAddresses", not)] {
                for (j, address) in list.iter().enumerate() {
                    validate_ip(&address["ip"], &format!("{path}.{key}[{j}].ip"), errors);
                }
            }
            let ports = items(&subset["ports"]);
            for (j, port) in ports.iter().enumerate() {
                validate_port(port, &format!("{path}.ports[{j}]"), ports.len() > 1, errors);
            }
        }
    },
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

/// The first few of a list, and how many more there are.
fn some_of(all: &[String], most: usize) -> Value {
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
