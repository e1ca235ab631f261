//! LimitRanges: what a Pod, a container or a claim may ask for in a namespace.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/limit-range/>.

use std::collections::BTreeSet;

use api::{FieldError, Quantity, names};
use serde_json::Value;

use crate::pod_spec::{
    is_hugepages, is_native, validate_container_resource, validate_resource_name,
};
use crate::tree::{each, entries, invalid_all, items, object, quantity, set_default, text};
use crate::{Errors, Strategy};

/// A maximum is also the default limit; a default limit, or else the minimum, the default request.
fn default(o: &mut Value) {
    if let Some(spec) = o.get_mut("spec") {
        each(spec, "limits", |limit| {
            if limit["type"] == "Container" {
                fill(limit, "default", "max");
                fill(limit, "defaultRequest", "default");
                fill(limit, "defaultRequest", "min");
            }
        });
    }
}

fn fill(limit: &mut Value, to: &str, from: &str) {
    let source: Vec<(String, Value)> = entries(&limit[from])
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let (false, Some(target)) = (source.is_empty(), object(limit, to)) {
        for (key, value) in source {
            set_default(target, &key, value);
        }
    }
}

fn validate(o: &Value, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, limit) in items(&o["spec"]["limits"]).iter().enumerate() {
        let path = format!("spec.limits[{i}]");
        let ty = text(&limit["type"]);
        validate_type(ty, &format!("{path}.type"), errors);
        if seen.contains(&ty) {
            errors.push(FieldError::duplicate(
                format!("{path}.type"),
                &limit["type"],
            ));
        }
        seen.push(ty);
        validate_limit(limit, &path, errors);
    }
}

fn validate_type(ty: &str, path: &str, errors: &mut Errors) {
    let wrong = names::qualified_name(ty);
    let known = matches!(ty, "Pod" | "Container" | "PersistentVolumeClaim");
    if wrong.is_empty() && !ty.contains('/') && !known {
        let detail = "must be a standard limit type or fully qualified";
        errors.push(FieldError::invalid_str(path, ty, detail));
    }
    invalid_all(path, ty, wrong, errors);
}

fn validate_limit(limit: &Value, path: &str, errors: &mut Errors) {
    let ty = text(&limit["type"]);
    let mut resources = BTreeSet::new();
    for key in [
        "max",
        "min",
        "default",
        "defaultRequest",
        "maxLimitRequestRatio",
    ] {
        let amounts = &limit[key];
        if ty == "Pod" && key.starts_with("default") {
            if crate::count(amounts) > 0 {
                let detail = "may not be specified when `type` is 'Pod'";
                errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
            }
            continue;
        }
        for (resource, _) in entries(amounts) {
            let path = format!("{path}.{key}[{resource}]");
            if matches!(ty, "Pod" | "Container") {
                validate_container_resource(resource, &path, errors);
            } else {
                validate_resource_name(resource, &path, errors);
            }
            resources.insert(resource.as_str());
        }
    }
    let storage = |key: &str| limit[key].get("storage").is_some();
    if ty == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{path}.limits"), detail));
    }
    for resource in resources {
        validate_order(limit, resource, path, errors);
    }
}

/// The amounts of one resource must be in order: minimum, default request, default limit, maximum.
fn validate_order(limit: &Value, resource: &str, path: &str, errors: &mut Errors) {
    let of_pod = limit["type"] == "Pod";
    let get = |key: &str| {
        let skipped = of_pod && key.starts_with("default");
        quantity(&limit[key][resource]).filter(|_| !skipped)
    };
    // Which must not be above which, where that is told and with which of the two, and what they are called.
    let rules = [
        ("min", "max", "min", "min", "min value", "max value"),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            "defaultRequest",
            "min value",
            "default request value",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            "defaultRequest",
            "default request value",
            "max value",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
            "default request value",
            "default limit value",
        ),
        (
            "min",
            "default",
            "default",
            "min",
            "min value",
            "default value",
        ),
        (
            "default",
            "max",
            "default",
            "max",
            "default value",
            "max value",
        ),
    ];
    for (low, high, at, shown, low_words, high_words) in rules {
        if let (Some(a), Some(b)) = (get(low), get(high))
            && a > b
        {
            let detail = format!("{low_words} {a} is greater than {high_words} {b}");
            let shown = get(shown).unwrap_or(Quantity::ZERO).to_string();
            let path = format!("{path}.{at}[{resource}]");
            errors.push(FieldError::invalid_str(path, &shown, detail));
        }
    }
    validate_ratio(
        get("maxLimitRequestRatio"),
        get("min"),
        get("max"),
        &format!("{path}.maxLimitRequestRatio[{resource}]"),
        errors,
    );
    if let (Some(default), Some(request)) = (get("default"), get("defaultRequest"))
        && (!is_native(resource) || is_hugepages(resource))
        && default != request
    {
        let detail = format!(
            "default value {default} must equal to defaultRequest value {request} in {resource}"
        );
        let path = format!("{path}.defaultRequest[{resource}]");
        errors.push(FieldError::invalid_str(path, &request.to_string(), detail));
    }
}

fn validate_ratio(
    ratio: Option<Quantity>,
    min: Option<Quantity>,
    max: Option<Quantity>,
    path: &str,
    errors: &mut Errors,
) {
    let Some(ratio) = ratio else {
        return;
    };
    let shown = ratio.to_string();
    if ratio < Quantity::from_milli(1000) {
        let detail = format!("ratio {shown} is less than 1");
        errors.push(FieldError::invalid_str(path, &shown, detail));
    }
    if let (Some(min), Some(max)) = (min, max) {
        #[expect(clippy::cast_precision_loss, reason = "upstream compares floats too")]
        let milli = |q: Quantity| q.milli_value() as f64;
        let most = milli(max) / milli(min);
        if milli(ratio) / 1000.0 > most {
            let detail = format!("ratio {shown} is greater than max/min = {most:.6}");
            errors.push(FieldError::invalid_str(path, &shown, detail));
        }
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    default,
    validate,
    ..Strategy::BASE
};
