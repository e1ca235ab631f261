//! What the kinds with a Pod template share: selector and template, rolling updates, counters of the status.
//!
//! Follows upstream's `pkg/apis/apps/validation`.

use api::{ErrorKind, FieldError, LabelSelector, names};
use serde_json::Value;

use crate::Errors;
use crate::tree;
use crate::tree::{int, int_or_percent, invalid_all, items, label_selector, not_negative, text};

/// An error whose value is not shown.
pub(crate) fn without_value(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
    FieldError {
        kind: ErrorKind::Invalid,
        field: field.into(),
        bad_value: None,
        detail: detail.into(),
    }
}

/// Shows a value in an error as upstream shows its internal type: Go's field names, in their order.
pub(crate) fn shown_as(mut error: FieldError, fields: &[(&str, &Value)]) -> FieldError {
    let parts: Vec<String> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
    error.bad_value = Some(format!("{{{}}}", parts.join(",")));
    error
}

/// An update strategy as upstream's internal type shows it. `rolling`: each field's name in Go and in JSON, and what
/// stands for one that is absent.
pub(crate) fn shown_strategy(
    error: FieldError,
    strategy: &Value,
    rolling: &[(&str, &str, &str)],
) -> FieldError {
    let of = &strategy["rollingUpdate"];
    let shown = |key: &str, absent: &str| match &of[key] {
        Value::Null => absent.to_owned(),
        value => value.to_string(),
    };
    let parts: Vec<String> = rolling
        .iter()
        .map(|(go, key, absent)| format!("\"{go}\":{}", shown(key, absent)))
        .collect();
    let rolling = if of.is_object() {
        format!("{{{}}}", parts.join(","))
    } else {
        "null".to_owned()
    };
    let mut error = error;
    let ty = Value::from(text(&strategy["type"]));
    error.bad_value = Some(format!("{{\"Type\":{ty},\"RollingUpdate\":{rolling}}}"));
    error
}

/// A selector that a workload must have. `what` stands in the message about an empty one.
pub(crate) fn required_selector(spec: &Value, what: &str, errors: &mut Errors) {
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    label_selector(selector, "spec.selector", errors);
    not_empty(selector, what, errors);
}

pub(crate) fn not_empty(selector: &Value, what: &str, errors: &mut Errors) {
    let none = |key: &str| crate::count(&selector[key]) == 0;
    if none("matchLabels") && none("matchExpressions") {
        let detail = format!("empty selector is invalid for {what}");
        errors.push(FieldError::invalid("spec.selector", selector, detail));
    }
}

/// Whether the selector chooses what has these labels; none if it is not a selector. One that is absent chooses nothing.
pub(crate) fn selects(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    let parsed = LabelSelector::from_json(selector).ok()?;
    Some(parsed.matches_labels(labels))
}

pub(crate) fn mismatch(path: &str, labels: &Value) -> FieldError {
    let detail = "`selector` does not match template `labels`";
    FieldError::invalid(format!("{path}.metadata.labels"), labels, detail)
}

/// The selector must choose the template's Pods. `invalid`: what is said of one that cannot be read.
pub(crate) fn selects_template(spec: &Value, invalid: &str, errors: &mut Errors) -> bool {
    let have = &spec["template"]["metadata"]["labels"];
    match selects(&spec["selector"], have) {
        None => {
            errors.push(FieldError::invalid(
                "spec.selector",
                &spec["selector"],
                invalid,
            ));
            return false;
        }
        Some(false) => errors.push(mismatch("spec.template", have)),
        Some(true) => {}
    }
    true
}

/// Pods that are to run for ever: no other restart policy, no deadline.
pub(crate) fn runs_for_ever(template: &Value, kind: &str, errors: &mut Errors) {
    let spec = &template["spec"];
    let restart = &spec["restartPolicy"];
    if *restart != "Always" {
        let path = "spec.template.spec.restartPolicy";
        let shown = Value::from(text(restart));
        errors.push(FieldError::not_supported(path, &shown, &["Always"]));
    }
    if spec["activeDeadlineSeconds"].is_number() {
        errors.push(FieldError::forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            format!("activeDeadlineSeconds in {kind} is not Supported"),
        ));
    }
}

pub(crate) fn none_negative(v: &Value, path: &str, keys: &[&str], errors: &mut Errors) {
    for key in keys {
        not_negative(v, path, key, errors);
    }
}

/// The percentage that a value is, if it is one.
fn percentage(v: &Value) -> Option<i64> {
    v.as_str()?.strip_suffix('%')?.parse().ok()
}

/// The number in a count or percentage; 0 if there is none.
pub(crate) fn amount(v: &Value) -> i64 {
    let number = || v.as_str().and_then(|s| s.parse().ok());
    percentage(v)
        .or_else(|| v.as_i64())
        .or_else(number)
        .unwrap_or(0)
}

/// A percentage of what there is cannot be above all of it.
pub(crate) fn at_most_all(v: &Value, path: &str, errors: &mut Errors) {
    if percentage(v).is_some_and(|p| p > 100) {
        let detail = "must not be greater than 100%";
        errors.push(FieldError::invalid(path, v, detail));
    }
}

/// A count or percentage that must not be above all.
pub(crate) fn part(v: &Value, path: &str, errors: &mut Errors) {
    int_or_percent(v, path, errors);
    at_most_all(v, path, errors);
}

/// Counters of a status that cannot be above another.
pub(crate) fn not_above(
    status: &Value,
    keys: &[&str],
    limit: &str,
    limit_shown: &str,
    errors: &mut Errors,
) {
    for key in keys {
        if int(&status[*key]) > int(&status[limit]) {
            let detail = format!("cannot be greater than {limit_shown}");
            let path = format!("status.{key}");
            errors.push(FieldError::invalid(path, &status[*key], detail));
        }
    }
}

/// The counter of hash collisions only grows.
pub(crate) fn collisions_grow(new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (
        &new["status"]["collisionCount"],
        &old["status"]["collisionCount"],
    );
    if !b.is_null() && int(a) < int(b) {
        let detail = "cannot be decremented";
        let path = "status.collisionCount";
        errors.push(FieldError::invalid(path, &int(a).into(), detail));
    }
}

fn is_reason(reason: &str) -> bool {
    let bytes = reason.as_bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| word(*b))
        && bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'))
}

/// A list of `metav1.Condition`.
pub(crate) fn conditions(list: &Value, path: &str, errors: &mut Errors) {
    const MOST_REASON: usize = 1024;
    const MOST_MESSAGE: usize = 32 * 1024;
    let mut seen: Vec<&str> = Vec::new();
    for (i, c) in items(list).iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        let ty = text(&c["type"]);
        if seen.contains(&ty) {
            errors.push(FieldError::duplicate(at("type"), &c["type"]));
        }
        seen.push(ty);
        if ty.is_empty() {
            errors.push(FieldError::required(at("type"), "is required"));
        } else {
            invalid_all(&at("type"), ty, names::qualified_name(ty), errors);
        }
        let statuses = ["False", "True", "Unknown"];
        tree::required_one_of(&c["status"], &at("status"), &statuses, errors);
        if int(&c["observedGeneration"]) < 0 {
            let detail = "must be greater than or equal to zero";
            let bad = &c["observedGeneration"];
            errors.push(FieldError::invalid(at("observedGeneration"), bad, detail));
        }
        if text(&c["lastTransitionTime"]).is_empty() {
            errors.push(FieldError::required(at("lastTransitionTime"), ""));
        }
        let reason = text(&c["reason"]);
        if reason.is_empty() {
            errors.push(FieldError::required(at("reason"), ""));
        } else if !is_reason(reason) {
            let detail = "a condition reason must start with alphabetic character, optionally followed by a string of \
                          alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                          'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex \
                          used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
            errors.push(FieldError::invalid_str(at("reason"), reason, detail));
        }
        if reason.len() > MOST_REASON {
            errors.push(FieldError::too_long(at("reason"), MOST_REASON));
        }
        if text(&c["message"]).len() > MOST_MESSAGE {
            errors.push(FieldError::too_long(at("message"), MOST_MESSAGE));
        }
    }
}

/// A name such as `acme.io/foo`: a domain and a path.
pub(crate) fn domain_prefixed_path(value: &str, path: &str, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let Some((host, rest)) = value
        .split_once('/')
        .filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid_str(path, value, detail));
        return;
    };
    invalid_all(path, host, names::dns1123_subdomain(host), errors);
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(fine) {
        let detail =
            "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid_str(path, rest, detail));
    }
}
