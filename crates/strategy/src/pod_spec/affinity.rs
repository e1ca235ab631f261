//! Affinity to nodes and to other Pods.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::Errors;
use crate::tree::{each, entries, int, invalid_all, items, label_selector, set, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn validate_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    let node = &affinity["nodeAffinity"];
    if node[REQUIRED].is_object() {
        let path = format!("{path}.nodeAffinity.{REQUIRED}");
        validate_node_selector(&node[REQUIRED], &path, errors);
    }
    for (i, term) in items(&node[PREFERRED]).iter().enumerate() {
        let path = format!("{path}.nodeAffinity.{PREFERRED}[{i}]");
        validate_weight(term, &path, errors);
        // Values that no label can have are harmless here, and always were let in.
        validate_term(
            &term["preference"],
            false,
            &format!("{path}.preference"),
            errors,
        );
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in items(&affinity[side][REQUIRED]).iter().enumerate() {
            validate_pod_term(term, &format!("{path}.{side}.{REQUIRED}[{i}]"), errors);
        }
        for (i, weighted) in items(&affinity[side][PREFERRED]).iter().enumerate() {
            let path = format!("{path}.{side}.{PREFERRED}[{i}]");
            validate_weight(weighted, &path, errors);
            let term = &weighted["podAffinityTerm"];
            validate_pod_term(term, &format!("{path}.podAffinityTerm"), errors);
        }
    }
}

/// Puts what the label keys of terms and constraints stand for into their selectors: the Pod's own labels.
pub(crate) fn add_own_labels(spec: &mut Value, labels: &Value) {
    let add = |term: &mut Value| {
        for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            let keys = items(&term[keys]).to_vec();
            let Some(selector) = term.get_mut("labelSelector").filter(|s| s.is_object()) else {
                return;
            };
            let own = keys.iter().filter_map(|k| Some((k, labels.get(text(k))?)));
            let own = own
                .map(|(key, value)| json!({"key": key, "operator": operator, "values": [value]}));
            let mut list = items(&selector["matchExpressions"]).to_vec();
            let before = list.len();
            list.extend(own);
            if list.len() > before {
                set(selector, "matchExpressions", list);
            }
        }
    };
    each(spec, "topologySpreadConstraints", add);
    for side in ["podAffinity", "podAntiAffinity"] {
        if let Some(side) = spec.get_mut("affinity").and_then(|a| a.get_mut(side)) {
            each(side, REQUIRED, add);
            each(side, PREFERRED, |weighted| {
                if let Some(term) = weighted.get_mut("podAffinityTerm") {
                    add(term);
                }
            });
        }
    }
}

fn validate_weight(term: &Value, path: &str, errors: &mut Errors) {
    let weight = int(&term["weight"]);
    if !(1..=100).contains(&weight) {
        let path = format!("{path}.weight");
        let detail = "must be in the range 1-100";
        errors.push(FieldError::invalid(path, &weight.into(), detail));
    }
}

/// A `core.NodeSelector`.
pub(crate) fn validate_node_selector(selector: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.nodeSelectorTerms");
    let terms = items(&selector["nodeSelectorTerms"]);
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(path, detail));
        return;
    }
    for (i, term) in terms.iter().enumerate() {
        validate_term(term, true, &format!("{path}[{i}]"), errors);
    }
}

fn validate_term(term: &Value, with_values: bool, path: &str, errors: &mut Errors) {
    for (i, e) in items(&term["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        validate_requirement(e, &path, errors);
        if with_values {
            validate_values(e, &path, errors);
        }
    }
    for (i, e) in items(&term["matchFields"]).iter().enumerate() {
        validate_field_requirement(e, &format!("{path}.matchFields[{i}]"), errors);
    }
}

/// A requirement of a node's labels.
pub(crate) fn validate_node_requirement(e: &Value, path: &str, errors: &mut Errors) {
    validate_requirement(e, path, errors);
    validate_values(e, path, errors);
}

fn validate_values(e: &Value, path: &str, errors: &mut Errors) {
    for (i, value) in items(&e["values"]).iter().enumerate() {
        let wrong = names::label_value(text(value));
        invalid_all(&format!("{path}.values[{i}]"), text(value), wrong, errors);
    }
}

fn validate_requirement(e: &Value, path: &str, errors: &mut Errors) {
    let values = items(&e["values"]);
    let at = |key: &str| format!("{path}.{key}");
    match text(&e["operator"]) {
        "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
            at("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
            at("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "Gt" | "Lt" if values.len() != 1 => errors.push(FieldError::required(
            at("values"),
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errors.push(FieldError::invalid_str(
            at("operator"),
            other,
            "not a valid selector operator",
        )),
    }
    let key = text(&e["key"]);
    invalid_all(&at("key"), key, names::qualified_name(key), errors);
}

/// A requirement of a node's fields: only its name is one.
fn validate_field_requirement(e: &Value, path: &str, errors: &mut Errors) {
    let values = items(&e["values"]);
    let (operator, key) = (text(&e["operator"]), text(&e["key"]));
    if !matches!(operator, "In" | "NotIn") {
        let detail = "not a valid selector operator";
        let path = format!("{path}.operator");
        errors.push(FieldError::invalid_str(path, operator, detail));
    } else if values.len() != 1 {
        let detail =
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
        errors.push(FieldError::required(format!("{path}.values"), detail));
    }
    if key != "metadata.name" {
        let detail = "not a valid field selector key";
        errors.push(FieldError::invalid_str(format!("{path}.key"), key, detail));
        return;
    }
    for (i, value) in values.iter().enumerate() {
        let wrong = names::dns1123_subdomain(text(value));
        invalid_all(&format!("{path}.values[{i}]"), text(value), wrong, errors);
    }
}

fn validate_pod_term(term: &Value, path: &str, errors: &mut Errors) {
    for key in ["labelSelector", "namespaceSelector"] {
        label_selector(&term[key], &format!("{path}.{key}"), errors);
    }
    for namespace in items(&term["namespaces"]) {
        let wrong = names::dns1123_label(text(namespace));
        invalid_all(&format!("{path}.namespace"), text(namespace), wrong, errors);
    }
    validate_label_keys(term, path, errors);
    let (at, key) = (format!("{path}.topologyKey"), text(&term["topologyKey"]));
    if key.is_empty() {
        errors.push(FieldError::required(&at, "can not be empty"));
    }
    invalid_all(&at, key, names::qualified_name(key), errors);
}

/// Keys of the Pod's own labels, whose values are added to the term's selector.
fn validate_label_keys(term: &Value, path: &str, errors: &mut Errors) {
    for key in ["matchLabelKeys", "mismatchLabelKeys"] {
        validate_keys(term, key, path, errors);
    }
    // Upstream's path lacks the field's name.
    no_second_requirement(term, path, errors);
    let mismatching = items(&term["mismatchLabelKeys"]);
    for (i, key) in items(&term["matchLabelKeys"]).iter().enumerate() {
        if mismatching.contains(key) {
            let path = format!("{path}.matchLabelKeys[{i}]");
            let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.push(FieldError::invalid(path, key, detail));
        }
    }
}

/// Keys of labels need a selector to be added to.
pub(super) fn validate_keys(term: &Value, key: &str, path: &str, errors: &mut Errors) {
    let (keys, path) = (items(&term[key]), format!("{path}.{key}"));
    if !keys.is_empty() && !term["labelSelector"].is_object() {
        let detail = "must not be specified when labelSelector is not set";
        errors.push(FieldError::forbidden(path, detail));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        let wrong = names::qualified_name(text(key));
        invalid_all(&format!("{path}[{i}]"), text(key), wrong, errors);
    }
}

/// The server has added what the keys stand for: a second requirement of such a key is the writer's.
pub(super) fn no_second_requirement(term: &Value, path: &str, errors: &mut Errors) {
    let selector = &term["labelSelector"];
    let matching = items(&term["matchLabelKeys"]);
    let mut seen: Vec<&str> = entries(&selector["matchLabels"])
        .map(|(k, _)| k.as_str())
        .collect();
    for expression in items(&selector["matchExpressions"]) {
        let key = text(&expression["key"]);
        let at = matching.iter().position(|k| k == key);
        if let (Some(i), true) = (at, seen.contains(&key)) {
            let detail = "exists in both matchLabelKeys and labelSelector";
            errors.push(FieldError::invalid_str(format!("{path}[{i}]"), key, detail));
        }
        seen.push(key);
    }
}
