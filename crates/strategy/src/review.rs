//! Questions that are answered and not kept: access, tokens, oneself.

use api::{FieldError, names};
use serde_json::Value;

use crate::tree::{invalid_all, items, remove, text};
use crate::{Errors, Names, Strategy, shown};

const REVIEW: Strategy = Strategy {
    names: Names::Unchecked,
    ..Strategy::BASE
};

/// What is missing is told by who answers it, as a bad request.
pub(crate) const TOKEN: Strategy = Strategy { ..REVIEW };

pub(crate) const SELF: Strategy = Strategy { ..REVIEW };

pub(crate) const RULES: Strategy = Strategy { ..REVIEW };

fn attributes(spec: &Value, errors: &mut Errors) {
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), other.is_object()) {
        (true, true) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            let shown = shown::show(other, &shown::NON_RESOURCE_ATTRIBUTES);
            errors.push(shown::invalid("spec.nonResourceAttributes", shown, detail));
        }
        (false, false) => {
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid(
                "spec.resourceAttributes",
                &Value::Null,
                detail,
            ));
        }
        _ => {}
    }
    for key in ["fieldSelector", "labelSelector"] {
        if resource[key].is_object() {
            selector(
                &resource[key],
                &format!("spec.resourceAttributes.{key}"),
                errors,
            );
        }
    }
}

/// What the asker narrows the request to. Operators that are not known are let in: a newer asker may know more.
fn selector(selector: &Value, path: &str, errors: &mut Errors) {
    let (raw, requirements) = (&selector["rawSelector"], items(&selector["requirements"]));
    if !text(raw).is_empty() && !requirements.is_empty() {
        let detail = "may not specified at the same time as requirements";
        errors.push(FieldError::invalid(
            format!("{path}.rawSelector"),
            raw,
            detail,
        ));
    }
    if text(raw).is_empty() && requirements.is_empty() {
        let detail = format!("when {path} is specified, requirements or rawSelector is required");
        errors.push(FieldError::required(format!("{path}.requirements"), detail));
    }
    let of_labels = path.ends_with("labelSelector");
    for (i, requirement) in requirements.iter().enumerate() {
        let path = format!("{path}.requirements[{i}]");
        let (key, values) = (text(&requirement["key"]), items(&requirement["values"]));
        if of_labels {
            invalid_all(
                &format!("{path}.key"),
                key,
                names::qualified_name(key),
                errors,
            );
            for (j, value) in values.iter().enumerate() {
                let wrong = names::label_value(text(value));
                invalid_all(&format!("{path}.values[{j}]"), text(value), wrong, errors);
            }
        } else if key.is_empty() {
            errors.push(FieldError::required(
                format!("{path}.key"),
                "must be specified",
            ));
        }
        let path = format!("{path}.values");
        match text(&requirement["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(path, detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(path, detail));
            }
            _ => {}
        }
    }
}

/// A question has no name and no labels; that of one namespace has that.
fn no_metadata(o: &Value, with_namespace: bool, errors: &mut Errors) {
    let mut meta = o["metadata"].clone();
    for key in ["managedFields", "creationTimestamp"] {
        remove(&mut meta, key);
    }
    let shown = meta.clone();
    let detail = if with_namespace {
        remove(&mut meta, "namespace");
        "must be empty except for namespace"
    } else {
        "must be empty"
    };
    if crate::count(&meta) > 0 {
        errors.push(FieldError::invalid("metadata", &shown, detail));
    }
}

fn someone(spec: &Value, errors: &mut Errors) {
    if text(&spec["user"]).is_empty() && items(&spec["groups"]).is_empty() {
        let detail = "at least one of user or group must be specified";
        errors.push(FieldError::invalid_str("spec.user", "", detail));
    }
}

pub(crate) const ACCESS: Strategy = Strategy {
    validate: |o, errors| {
        attributes(&o["spec"], errors);
        someone(&o["spec"], errors);
        no_metadata(o, false, errors);
    },
    ..REVIEW
};

pub(crate) const SELF_ACCESS: Strategy = Strategy {
    validate: |o, errors| {
        attributes(&o["spec"], errors);
        no_metadata(o, false, errors);
    },
    ..REVIEW
};

pub(crate) const LOCAL_ACCESS: Strategy = Strategy {
    validate: |o, errors| {
        let spec = &o["spec"];
        attributes(spec, errors);
        someone(spec, errors);
        no_metadata(o, true, errors);
        let resource = &spec["resourceAttributes"];
        let asked = text(&resource["namespace"]);
        if resource.is_object() && asked != text(&o["metadata"]["namespace"]) {
            let detail = "must match metadata.namespace";
            let path = "spec.resourceAttributes.namespace";
            errors.push(FieldError::invalid_str(path, asked, detail));
        }
        let other = &spec["nonResourceAttributes"];
        if other.is_object() {
            let detail = "disallowed on this kind of request";
            let shown = shown::show(other, &shown::NON_RESOURCE_ATTRIBUTES);
            errors.push(shown::invalid("spec.nonResourceAttributes", shown, detail));
        }
    },
    ..REVIEW
};
