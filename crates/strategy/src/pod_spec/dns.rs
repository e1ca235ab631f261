//! The names that a Pod has and the names that it sees.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{invalid_all, items, text};
use crate::{Errors, ip};

/// What a resolver of libc can hold.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_BYTES: usize = 2048;

pub(super) fn validate_config(spec: &Value, path: &str, errors: &mut Errors) {
    let config = &spec["dnsConfig"];
    if spec["dnsPolicy"] == "None" {
        if !config.is_object() {
            let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
            errors.push(FieldError::required(path, detail));
            return;
        }
        if items(&config["nameservers"]).is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(FieldError::required(format!("{path}.nameservers"), detail));
            return;
        }
    }
    validate_servers(
        &config["nameservers"],
        &format!("{path}.nameservers"),
        errors,
    );
    validate_searches(&config["searches"], &format!("{path}.searches"), errors);
    for (i, option) in items(&config["options"]).iter().enumerate() {
        if text(&option["name"]).is_empty() {
            let path = format!("{path}.options[{i}]");
            errors.push(FieldError::required(path, "must not be empty"));
        }
    }
}

fn validate_servers(list: &Value, path: &str, errors: &mut Errors) {
    if items(list).len() > MOST_SERVERS {
        let detail = format!("must not have more than {MOST_SERVERS} nameservers");
        errors.push(FieldError::invalid(path, list, detail));
    }
    for (i, server) in items(list).iter().enumerate() {
        ip::validate(text(server), &format!("{path}[{i}]"), errors);
    }
}

fn validate_searches(list: &Value, path: &str, errors: &mut Errors) {
    let searches = items(list);
    if searches.len() > MOST_SEARCHES {
        let detail = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.push(FieldError::invalid(path, list, detail));
    }
    let bytes: usize = searches.iter().map(|s| text(s).len() + 1).sum();
    if bytes > MOST_SEARCH_BYTES + 1 {
        let detail = format!(
            "must not have more than {MOST_SEARCH_BYTES} characters (including spaces) in the search list"
        );
        errors.push(FieldError::invalid(path, list, detail));
    }
    for (i, search) in searches.iter().enumerate() {
        let search = text(search);
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            let wrong = names::dns1123_subdomain_with_underscore(search);
            invalid_all(&format!("{path}[{i}]"), search, wrong, errors);
        }
    }
}

pub(super) fn validate_hostnames(spec: &Value, path: &str, errors: &mut Errors) {
    for key in ["hostname", "subdomain"] {
        let value = text(&spec[key]);
        if !value.is_empty() {
            let wrong = names::dns1123_label(value);
            invalid_all(&format!("{path}.{key}"), value, wrong, errors);
        }
    }
    if let Some(name) = spec["hostnameOverride"].as_str().filter(|n| !n.is_empty()) {
        validate_override(spec, name, path, errors);
    }
}

/// The host name that a process sees has room for 64 bytes.
fn validate_override(spec: &Value, name: &str, path: &str, errors: &mut Errors) {
    const MOST: usize = 64;
    let at = format!("{path}.hostnameOverride");
    if name.len() > MOST {
        errors.push(FieldError::too_long(&at, MOST));
    }
    invalid_all(&at, name, names::dns1123_subdomain(name), errors);
    if spec["setHostnameAsFQDN"] == true {
        let detail = "may not be specified when `setHostnameAsFQDN` is true";
        errors.push(FieldError::forbidden(&at, detail));
    }
    if spec["hostNetwork"] == true {
        let detail = "may not be specified when `hostNetwork` is true";
        errors.push(FieldError::forbidden(&at, detail));
    }
}

pub(super) fn validate_host_aliases(spec: &Value, path: &str, errors: &mut Errors) {
    for (i, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        ip::validate(text(&alias["ip"]), &format!("{path}[{i}].ip"), errors);
        for (j, host) in items(&alias["hostnames"]).iter().enumerate() {
            let path = format!("{path}[{i}].hostnames[{j}]");
            let wrong = names::dns1123_subdomain(text(host));
            invalid_all(&path, text(host), wrong, errors);
        }
    }
}
