//! What holds a Pod back, what it puts up with, and how its like are spread.

use std::collections::BTreeSet;

use api::{FieldError, names};
use serde_json::Value;

use super::affinity::{no_second_requirement, validate_keys};
use crate::Errors;
use crate::tree::{int, invalid_all, items, label_selector, one_of, required_one_of, text};

pub(super) fn validate_readiness_gates(spec: &Value, path: &str, errors: &mut Errors) {
    for (i, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let condition = text(&gate["conditionType"]);
        let path = format!("{path}[{i}].conditionType");
        invalid_all(&path, condition, names::qualified_name(condition), errors);
    }
}

pub(super) fn validate_gates(spec: &Value, path: &str, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let (path, name) = (format!("{path}[{i}]"), text(&gate["name"]));
        invalid_all(&path, name, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, &gate["name"]));
        }
    }
}

pub(crate) fn validate_toleration(t: &Value, path: &str, errors: &mut Errors) {
    let (key, operator, value) = (text(&t["key"]), text(&t["operator"]), text(&t["value"]));
    let at = format!("{path}.operator");
    if !key.is_empty() {
        let wrong = names::qualified_name(key);
        invalid_all(&format!("{path}.key"), key, wrong, errors);
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid_str(&at, operator, detail));
    }
    if t["tolerationSeconds"].is_number() && t["effect"] != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        let path = format!("{path}.effect");
        errors.push(FieldError::invalid_str(path, text(&t["effect"]), detail));
    }
    match operator {
        "" | "Equal" => {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(FieldError::invalid_str(at, value, wrong.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid_str(at, value, detail));
        }
        "Exists" => {}
        _ => {
            let operators = ["Equal", "Exists"];
            errors.push(FieldError::not_supported(at, &t["operator"], &operators));
        }
    }
    if !text(&t["effect"]).is_empty() {
        validate_taint_effect(&t["effect"], &format!("{path}.effect"), errors);
    }
}

/// What a taint does to Pods that do not tolerate it.
pub(crate) fn validate_taint_effect(effect: &Value, path: &str, errors: &mut Errors) {
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    required_one_of(effect, path, &effects, errors);
}

pub(super) fn validate_spread(spec: &Value, path: &str, errors: &mut Errors) {
    let constraints = items(&spec["topologySpreadConstraints"]);
    for (i, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}[{i}]");
        validate_constraint(constraint, &path, errors);
        let key = |c: &Value| {
            (
                text(&c["topologyKey"]).to_owned(),
                text(&c["whenUnsatisfiable"]).to_owned(),
            )
        };
        let own = key(constraint);
        if constraints[i + 1..].iter().any(|c| key(c) == own) {
            let path = format!("{path}.{{topologyKey, whenUnsatisfiable}}");
            let shown = format!("{{{}, {}}}", own.0, own.1);
            errors.push(FieldError::duplicate(path, &shown.into()));
        }
    }
}

fn validate_constraint(constraint: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let positive = "must be greater than zero";
    let skew = int(&constraint["maxSkew"]);
    if skew <= 0 {
        errors.push(FieldError::invalid(at("maxSkew"), &skew.into(), positive));
    }
    if text(&constraint["topologyKey"]).is_empty() {
        let detail = "can not be empty";
        errors.push(FieldError::required(at("topologyKey"), detail));
    }
    let action = text(&constraint["whenUnsatisfiable"]);
    let actions = ["DoNotSchedule", "ScheduleAnyway"];
    one_of(&action.into(), &at("whenUnsatisfiable"), &actions, errors);
    let domains = &constraint["minDomains"];
    if let Some(n) = domains.as_i64() {
        if n <= 0 {
            errors.push(FieldError::invalid(at("minDomains"), domains, positive));
        }
        if action != "DoNotSchedule" {
            let detail =
                format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.push(FieldError::invalid(at("minDomains"), domains, detail));
        }
    }
    for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        one_of(&constraint[key], &at(key), &["Honor", "Ignore"], errors);
    }
    validate_keys(constraint, "matchLabelKeys", path, errors);
    no_second_requirement(constraint, &at("matchLabelKeys"), errors);
    let selector = &constraint["labelSelector"];
    label_selector(selector, &at("labelSelector"), errors);
}
