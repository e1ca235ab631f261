//! EndpointSlices.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{
    age, each, invalid_all, items, name, remove, required_one_of, set_default, text,
};
use crate::{AGE, Errors, NAME, Strategy, column};

/// The first few of a list, and how many more there are.
pub(crate) fn some_of(all: &[String], most: usize) -> Value {
    match all.len() {
        0 => "<none>".into(),
        n if n > most => format!("{} + {} more...", all[..most].join(","), n - most).into(),
        _ => all.join(",").into(),
    }
}

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_HINTS: usize = 8;

fn validate_slice(o: &Value, errors: &mut Errors) {
    let types = ["FQDN", "IPv4", "IPv6"];
    required_one_of(&o["addressType"], "addressType", &types, errors);
    let endpoints = items(&o["endpoints"]);
    if endpoints.len() > MOST_ENDPOINTS {
        let count = endpoints.len();
        errors.push(FieldError::too_many("endpoints", count, MOST_ENDPOINTS));
    } else {
        for (i, endpoint) in endpoints.iter().enumerate() {
            let family = text(&o["addressType"]);
            validate_endpoint(endpoint, family, &format!("endpoints[{i}]"), errors);
        }
    }
    validate_slice_ports(items(&o["ports"]), errors);
}

fn validate_endpoint(endpoint: &Value, family: &str, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let addresses = items(&endpoint["addresses"]);
    if addresses.is_empty() {
        let detail = "must contain at least 1 address";
        errors.push(FieldError::required(at("addresses"), detail));
    } else if addresses.len() > MOST_ADDRESSES {
        let count = addresses.len();
        errors.push(FieldError::too_many(at("addresses"), count, MOST_ADDRESSES));
    }
    for (i, address) in addresses.iter().enumerate() {
        let path = format!("{path}.addresses[{i}]");
        match family {
            "IPv4" | "IPv6" => validate_address(text(address), family, &path, errors),
            "FQDN" => validate_domain(text(address), &path, errors),
            _ => {}
        }
    }
    let optional = |key: &str, check: fn(&str) -> Vec<String>, errors: &mut Errors| {
        if let Some(value) = endpoint[key].as_str() {
            invalid_all(&at(key), value, check(value), errors);
        }
    };
    optional("nodeName", names::dns1123_subdomain, errors);
    optional("hostname", names::dns1123_label, errors);
    validate_hints(&endpoint["hints"], &at("hints"), errors);
}

fn validate_hints(hints: &Value, path: &str, errors: &mut Errors) {
    let rules = [
        ("forZones", names::label_value as fn(&str) -> Vec<String>),
        ("forNodes", names::dns1123_subdomain),
    ];
    for (key, rule) in rules {
        let path = format!("{path}.{key}");
        let names = items(&hints[key]);
        if names.len() > MOST_HINTS {
            errors.push(FieldError::too_many(path, names.len(), MOST_HINTS));
            return;
        }
        validate_names(names, &path, rule, errors);
    }
}

/// Objects with a `name`, each of which stands there once.
fn validate_names(list: &[Value], path: &str, rule: fn(&str) -> Vec<String>, errors: &mut Errors) {
    for (i, one) in list.iter().enumerate() {
        let path = format!("{path}[{i}].name");
        let name = text(&one["name"]);
        if list[..i].iter().any(|o| o["name"] == one["name"]) {
            errors.push(FieldError::duplicate(&path, &one["name"]));
        }
        invalid_all(&path, name, rule(name), errors);
    }
}

fn validate_address(address: &str, family: &str, path: &str, errors: &mut Errors) {
    let mut wrong = |detail: String| errors.push(FieldError::invalid_str(path, address, detail));
    let ip = match crate::addresses::legacy_address(address) {
        Ok(ip) => ip,
        Err(detail) => return wrong(detail.into()),
    };
    if ip.is_ipv4() != (family == "IPv4") {
        wrong(format!("must be an {family} address"));
    }
    let (link_local, link_local_multicast) = match ip {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    if ip.is_unspecified() {
        wrong(format!("may not be unspecified ({address})"));
    }
    if ip.is_loopback() {
        wrong("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if link_local {
        wrong("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if link_local_multicast {
        wrong("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
}

/// A name of two labels at least.
fn validate_domain(domain: &str, path: &str, errors: &mut Errors) {
    if domain.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    let wrong = names::dns1123_subdomain(domain);
    let detail = if !wrong.is_empty() {
        wrong.join(",")
    } else if !domain.contains('.') {
        "should be a domain with at least two segments separated by dots".into()
    } else {
        let long = domain.split('.').find(|label| label.len() > 63);
        match long {
            Some(label) => {
                let detail = names::dns1123_label(label).join(",");
                errors.push(FieldError::invalid_str(path, label, detail));
                return;
            }
            None => return,
        }
    };
    errors.push(FieldError::invalid_str(path, domain, detail));
}

fn validate_slice_ports(ports: &[Value], errors: &mut Errors) {
    if ports.len() > MOST_PORTS {
        errors.push(FieldError::too_many("ports", ports.len(), MOST_PORTS));
        return;
    }
    for (i, port) in ports.iter().enumerate() {
        let at = |key: &str| format!("ports[{i}].{key}");
        let port_name = text(&port["name"]);
        if !port_name.is_empty() {
            let wrong = names::dns1123_label(port_name);
            invalid_all(&at("name"), port_name, wrong, errors);
        }
        if ports[..i].iter().any(|p| p["name"] == port["name"]) {
            errors.push(FieldError::duplicate(at("name"), &port["name"]));
        }
        let protocols = ["SCTP", "TCP", "UDP"];
        required_one_of(&port["protocol"], &at("protocol"), &protocols, errors);
        if let Some(protocol) = port["appProtocol"].as_str() {
            let wrong = names::qualified_name(protocol);
            invalid_all(&at("appProtocol"), protocol, wrong, errors);
        }
    }
}

/// What v1beta1 had instead of zones and node names is not written any more.
fn drop_topology(o: &mut Value) {
    each(o, "endpoints", |endpoint| {
        remove(endpoint, "deprecatedTopology")
    });
}

pub(crate) const SLICE: Strategy = Strategy {
    generation: true,
    create: drop_topology,
    update: |o, _| drop_topology(o),
    default: |o| {
        each(o, "ports", |p| {
            set_default(p, "protocol", "TCP");
            if p["name"].is_null() {
                crate::tree::set(p, "name", "");
            }
        });
    },
    validate: validate_slice,
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
            .map(|p| match (p["port"].as_i64(), p["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            })
            .collect();
        let ports = if ports.is_empty() {
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
