//! Affinity to nodes and to other Pods.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{int, invalid_all, items, text};

pub(super) fn validate_affinity(affinity: &Value, path: &str, errors: &mut Errors) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    if node[required].is_object() {
        let at = format!("{path}.nodeAffinity.{required}.nodeSelectorTerms");
        let terms = items(&node[required]["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.push(FieldError::required(
                &at,
                "must have at least one node selector term",
            ));
        }
        for (i, term) in terms.iter().enumerate() {
            for (j, e) in items(&term["matchExpressions"]).iter().enumerate() {
                validate_node_requirement(e, &format!("{at}[{i}].matchExpressions[{j}]"), errors);
            }
        }
    }
    for (i, term) in items(&node[preferred]).iter().enumerate() {
        let at = format!("{path}.nodeAffinity.{preferred}[{i}]");
        validate_weight(term, &at, errors);
        for (j, e) in items(&term["preference"]["matchExpressions"])
            .iter()
            .enumerate()
        {
            validate_node_requirement(e, &format!("{at}.preference.matchExpressions[{j}]"), errors);
        }
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        for (i, term) in items(&affinity[side][required]).iter().enumerate() {
            validate_pod_term(term, &format!("{path}.{side}.{required}[{i}]"), errors);
        }
        for (i, weighted) in items(&affinity[side][preferred]).iter().enumerate() {
            let at = format!("{path}.{side}.{preferred}[{i}]");
            validate_weight(weighted, &at, errors);
            validate_pod_term(
                &weighted["podAffinityTerm"],
                &format!("{at}.podAffinityTerm"),
                errors,
            );
        }
    }
}

fn validate_weight(term: &Value, path: &str, errors: &mut Errors) {
    if !(1..=100).contains(&int(&term["weight"])) {
        errors.push(FieldError::invalid(
            format!("{path}.weight"),
            &int(&term["weight"]).into(),
            "must be in the range 1-100",
        ));
    }
}

fn validate_pod_term(term: &Value, path: &str, errors: &mut Errors) {
    crate::tree::label_selector(
        &term["labelSelector"],
        &format!("{path}.labelSelector"),
        errors,
    );
    if text(&term["topologyKey"]).is_empty() {
        errors.push(FieldError::required(
            format!("{path}.topologyKey"),
            "can not be empty",
        ));
    }
}

pub(crate) fn validate_node_requirement(e: &Value, path: &str, errors: &mut Errors) {
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
        _ => errors.push(FieldError::invalid(
            at("operator"),
            &e["operator"],
            "not a valid selector operator",
        )),
    }
    invalid_all(
        &at("key"),
        text(&e["key"]),
        names::qualified_name(text(&e["key"])),
        errors,
    );
}
