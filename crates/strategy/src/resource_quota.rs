//! ResourceQuotas: what the objects of a namespace may take together.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>.

use std::collections::BTreeSet;

use api::FieldError;
use serde_json::Value;

use crate::pod_spec::{is_quota_standard, validate_amount, validate_resource_name};
use crate::tree::{entries, items, name, text};
use crate::{Errors, NAME, Strategy, column, shown};

fn validate_amounts(amounts: &Value, path: &str, errors: &mut Errors) {
    for (resource, amount) in entries(amounts) {
        let path = format!("{path}[{resource}]");
        validate_resource_name(resource, &path, errors);
        if !resource.contains('/') && !is_quota_standard(resource) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid_str(&path, resource, detail));
        }
        validate_amount(resource, amount, &path, errors);
    }
}

/// Scopes that are about the Pod as it is, and can only be there or not.
const PLAIN_SCOPES: [&str; 5] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "CrossNamespacePodAffinity",
];

fn is_scope(scope: &str) -> bool {
    PLAIN_SCOPES.contains(&scope) || matches!(scope, "PriorityClass" | "VolumeAttributesClass")
}

/// Whether the scope says something about the resource.
fn is_about(scope: &str, resource: &str) -> bool {
    const COMPUTE: [&str; 6] = [
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "requests.cpu",
        "requests.memory",
    ];
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        scope if is_scope(scope) => resource == "pods" || COMPUTE.contains(&resource),
        _ => true,
    }
}

/// How often the scope is put on a bounded resource that it says nothing about.
fn misplaced(spec: &Value, scope: &str) -> usize {
    entries(&spec["hard"])
        .filter(|(r, _)| is_quota_standard(r) && !is_about(scope, r))
        .count()
}

/// How many pairs of scopes exclude each other.
fn conflicts(scopes: &BTreeSet<&str>) -> usize {
    [
        ("BestEffort", "NotBestEffort"),
        ("Terminating", "NotTerminating"),
    ]
    .iter()
    .filter(|(a, b)| scopes.contains(a) && scopes.contains(b))
    .count()
}

fn validate_scopes(spec: &Value, errors: &mut Errors) {
    let (path, list) = ("spec.scopes", &spec["scopes"]);
    let mut seen = BTreeSet::new();
    for scope in items(list).iter().map(text) {
        let mut refuse = |detail: &str| errors.push(FieldError::invalid(path, list, detail));
        if !is_scope(scope) {
            refuse("unsupported scope");
        }
        for _ in 0..misplaced(spec, scope) {
            refuse("unsupported scope applied to resource");
        }
        seen.insert(scope);
    }
    for _ in 0..conflicts(&seen) {
        errors.push(FieldError::invalid(path, list, "conflicting scopes"));
    }
}

fn validate_selector(spec: &Value, errors: &mut Errors) {
    // Upstream's paths do not say which requirement.
    let path = "spec.scopeSelector.matchExpressions";
    let selector = &spec["scopeSelector"];
    let mut seen = BTreeSet::new();
    for requirement in items(&selector["matchExpressions"]) {
        let scope = text(&requirement["scopeName"]);
        if !is_scope(scope) {
            let path = format!("{path}.scopeName");
            errors.push(FieldError::invalid_str(path, scope, "unsupported scope"));
        }
        for _ in 0..misplaced(spec, scope) {
            let shown = shown::show(selector, &shown::SCOPE_SELECTOR);
            let detail = "unsupported scope applied to resource";
            errors.push(shown::invalid(path, shown, detail));
        }
        validate_operator(requirement, path, errors);
        seen.insert(scope);
    }
    for _ in 0..conflicts(&seen) {
        let detail = "conflicting scopes";
        errors.push(FieldError::invalid(path, &spec["scopes"], detail));
    }
}

fn validate_operator(requirement: &Value, path: &str, errors: &mut Errors) {
    let (scope, operator) = (
        text(&requirement["scopeName"]),
        text(&requirement["operator"]),
    );
    let at = format!("{path}.operator");
    if PLAIN_SCOPES.contains(&scope) && operator != "Exists" {
        let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                      ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                      ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.push(FieldError::invalid_str(&at, operator, detail));
    }
    let values = &requirement["values"];
    let path = format!("{path}.values");
    match operator {
        "In" | "NotIn" if items(values).is_empty() => {
            let detail =
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.push(FieldError::required(path, detail));
        }
        "Exists" | "DoesNotExist" if !items(values).is_empty() => {
            let detail =
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.push(FieldError::invalid(path, values, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid_str(at, other, detail));
        }
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_amounts(&spec["hard"], "spec.hard", errors);
    validate_scopes(spec, errors);
    validate_selector(spec, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let scopes = |o: &Value| {
        let list = items(&o["spec"]["scopes"]).iter();
        list.map(|s| text(s).to_owned()).collect::<BTreeSet<_>>()
    };
    if scopes(new) != scopes(old) {
        let detail = "field is immutable";
        errors.push(FieldError::invalid(
            "spec.scopes",
            &new["spec"]["scopes"],
            detail,
        ));
    }
}

/// What is used of what may be, as it stands in a cell: the limits, or all else.
fn show(o: &Value, limits: bool) -> Value {
    let hard = entries(&o["status"]["hard"]).filter(|(k, _)| k.starts_with("limits") == limits);
    let parts = hard.map(|(k, hard)| {
        let used = o["status"]["used"][k].as_str().unwrap_or("0");
        format!("{k}: {used}/{}", text(hard))
    });
    parts.collect::<Vec<_>>().join(", ").into()
}

pub(crate) const STRATEGY: Strategy = Strategy {
    validate,
    validate_update,
    validate_status: |new, _, errors| {
        for key in ["hard", "used"] {
            validate_amounts(&new["status"][key], &format!("status.{key}"), errors);
        }
    },
    columns: &[
        NAME,
        column("Request", "string", "What is requested, of what may be."),
        column("Limit", "string", "What is used at most, of what may be."),
        column("Age", "string", "Time since the object was created."),
    ],
    row: |o, now| {
        vec![
            name(o),
            show(o, false),
            show(o, true),
            crate::tree::age(o, now),
        ]
    },
    ..Strategy::BASE
};
