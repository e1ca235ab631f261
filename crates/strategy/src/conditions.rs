//! `metav1.Condition`, the same wherever it is used.

use api::{FieldError, names};
use serde_json::Value;

use crate::Errors;
use crate::tree::{int, invalid_all, items, required_one_of, text};

const REASON_LIMIT: usize = 1024;
const MESSAGE_LIMIT: usize = 32 * 1024;

/// A list of conditions: each type once, each condition complete.
pub(crate) fn validate(list: &Value, path: &str, errors: &mut Errors) {
    let mut types: Vec<&str> = Vec::new();
    for (i, condition) in items(list).iter().enumerate() {
        let path = format!("{path}[{i}]");
        let ty = text(&condition["type"]);
        if types.contains(&ty) {
            errors.push(FieldError::duplicate(&path, &ty.into()));
        }
        types.push(ty);
        validate_one(condition, &path, errors);
    }
}

fn validate_one(condition: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let ty = text(&condition["type"]);
    if ty.is_empty() {
        errors.push(FieldError::required(at("type"), "is required"));
    } else {
        invalid_all(&at("type"), ty, names::qualified_name(ty), errors);
    }
    let statuses = ["False", "True", "Unknown"];
    required_one_of(&condition["status"], &at("status"), &statuses, errors);
    let generation = &condition["observedGeneration"];
    if int(generation) < 0 {
        let detail = "must be greater than or equal to zero";
        let path = at("observedGeneration");
        errors.push(FieldError::invalid(path, generation, detail));
    }
    if text(&condition["lastTransitionTime"]).is_empty() {
        errors.push(FieldError::required(at("lastTransitionTime"), ""));
    }
    validate_reason(text(&condition["reason"]), &at("reason"), errors);
    if text(&condition["message"]).len() > MESSAGE_LIMIT {
        errors.push(FieldError::too_long(at("message"), MESSAGE_LIMIT));
    }
}

fn validate_reason(reason: &str, path: &str, errors: &mut Errors) {
    if reason.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    if !is_reason(reason) {
        let detail = "a condition reason must start with alphabetic character, optionally followed by a string of \
                      alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. \
                      'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used \
                      for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errors.push(FieldError::invalid_str(path, reason, detail));
    }
    if reason.len() > REASON_LIMIT {
        errors.push(FieldError::too_long(path, REASON_LIMIT));
    }
}

fn is_reason(reason: &str) -> bool {
    let end = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().copied().is_some_and(end)
        && bytes.iter().all(|&c| end(c) || matches!(c, b',' | b':'))
}
