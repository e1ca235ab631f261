//! Small readers and writers of object trees. None of them panics, whatever the tree.

use api::{FieldError, Quantity, names, time};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::Errors;

pub(crate) fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

pub(crate) fn items(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn entries(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
    v.as_object().into_iter().flatten()
}

pub(crate) fn name(o: &Value) -> Value {
    text(&o["metadata"]["name"]).into()
}

pub(crate) fn age(o: &Value, now: Timestamp) -> Value {
    time::age(o["metadata"]["creationTimestamp"].as_str(), now).into()
}

pub(crate) fn none_if_empty(s: String) -> Value {
    if s.is_empty() {
        "<none>".into()
    } else {
        s.into()
    }
}

/// Sets a field that is absent, null or the empty string, as Go's defaulting sees it.
pub(crate) fn set_default(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = v {
        match map.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::String(s)) if s.is_empty() => {}
            Some(_) => return,
        }
        map.insert(key.into(), value.into());
    }
}

pub(crate) fn set(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = v {
        map.insert(key.into(), value.into());
    }
}

pub(crate) fn remove(v: &mut Value, key: &str) {
    if let Value::Object(map) = v {
        map.remove(key);
    }
}

/// The object at `key`, made if it is absent.
pub(crate) fn object<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match v {
        Value::Object(map) => {
            let child = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
            child.is_object().then_some(child)
        }
        _ => None,
    }
}

/// Runs over the list at `key`, if there is one.
pub(crate) fn each(v: &mut Value, key: &str, f: impl FnMut(&mut Value)) {
    if let Some(Value::Array(list)) = v.get_mut(key) {
        list.iter_mut().for_each(f);
    }
}

/// `key` of `v` must not be below 0.
pub(crate) fn not_negative(v: &Value, path: &str, key: &str, errors: &mut Errors) {
    if v[key].as_i64().is_some_and(|n| n < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.{key}"),
            &v[key],
            "must be greater than or equal to 0",
        ));
    }
}

/// The value, if present and not empty, must be one of `allowed` (sorted).
pub(crate) fn one_of(v: &Value, path: &str, allowed: &[&str], errors: &mut Errors) {
    if !v.is_null() && !allowed.contains(&text(v)) {
        errors.push(FieldError::not_supported(path, v, allowed));
    }
}

/// As [`one_of`], but the value must be there.
pub(crate) fn required_one_of(v: &Value, path: &str, allowed: &[&str], errors: &mut Errors) {
    if text(v).is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        one_of(v, path, allowed, errors);
    }
}

pub(crate) fn invalid_all(path: &str, value: &str, wrong: Vec<String>, errors: &mut Errors) {
    errors.extend(
        wrong
            .into_iter()
            .map(|w| FieldError::invalid_str(path, value, w)),
    );
}

pub(crate) fn immutable(new: &Value, old: &Value, path: &str, errors: &mut Errors) {
    if new != old {
        errors.push(FieldError::invalid(path, new, "field is immutable"));
    }
}

/// Labels, or a selector made of them.
pub(crate) fn labels(v: &Value, path: &str, errors: &mut Errors) {
    for (key, value) in entries(v) {
        invalid_all(path, key, names::qualified_name(key), errors);
        invalid_all(path, text(value), names::label_value(text(value)), errors);
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(v: &Value, path: &str, errors: &mut Errors) {
    labels(&v["matchLabels"], &format!("{path}.matchLabels"), errors);
    for (i, e) in items(&v["matchExpressions"]).iter().enumerate() {
        let path = format!("{path}.matchExpressions[{i}]");
        let values = items(&e["values"]);
        match text(&e["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.push(FieldError::required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(FieldError::forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            _ => errors.push(FieldError::invalid(
                format!("{path}.operator"),
                &e["operator"],
                "not a valid selector operator",
            )),
        }
        invalid_all(
            &format!("{path}.key"),
            text(&e["key"]),
            names::qualified_name(text(&e["key"])),
            errors,
        );
        for (j, value) in values.iter().enumerate() {
            invalid_all(
                &format!("{path}.values[{j}]"),
                text(value),
                names::label_value(text(value)),
                errors,
            );
        }
    }
}

/// A count or a percentage, `maxUnavailable`.
pub(crate) fn int_or_percent(v: &Value, path: &str, errors: &mut Errors) {
    match v {
        Value::String(s) => {
            let wrong = names::percent(s);
            errors.extend(wrong.into_iter().map(|w| FieldError::invalid(path, v, w)));
        }
        Value::Number(n) if n.as_i64().is_some_and(|n| n < 0) => {
            errors.push(FieldError::invalid(
                path,
                v,
                "must be greater than or equal to 0",
            ));
        }
        _ => {}
    }
}

/// A selector as it stands in a cell.
pub(crate) fn show_selector(selector: &Value) -> Value {
    match api::LabelSelector::from_json(selector) {
        Ok(s) if !selector.is_null() => none_if_empty(s.to_string()),
        _ => "<none>".into(),
    }
}

pub(crate) fn show_map(map: &Value) -> Value {
    let parts: Vec<String> = entries(map)
        .map(|(k, v)| format!("{k}={}", text(v)))
        .collect();
    none_if_empty(parts.join(","))
}

/// The `Containers` and `Images` cells of a Pod's spec.
pub(crate) fn containers_and_images(spec: &Value) -> [Value; 2] {
    let list = |key: &str| {
        items(&spec["containers"])
            .iter()
            .map(|c| text(&c[key]))
            .collect::<Vec<_>>()
            .join(",")
    };
    [list("name").into(), list("image").into()]
}

pub(crate) fn int(v: &Value) -> i64 {
    v.as_i64().unwrap_or(0)
}

/// Counts a change of the desired state, where a new object has no generation yet.
pub(crate) fn bump_generation(new: &mut Value, old: &Value) {
    let next = int(&old["metadata"]["generation"]) + 1;
    if let Some(metadata) = object(new, "metadata") {
        set(metadata, "generation", next);
    }
}

/// A text that must be there, and what its own rule says about it.
pub(crate) fn required_name(
    v: &Value,
    path: &str,
    rule: fn(&str) -> Vec<String>,
    errors: &mut Errors,
) {
    let value = text(v);
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        invalid_all(path, value, rule(value), errors);
    }
}

pub(crate) fn quantity(v: &Value) -> Option<Quantity> {
    text(v).parse().ok()
}

pub(crate) fn non_negative_quantity(v: &Value, path: &str, errors: &mut Errors) {
    if quantity(v).is_some_and(|q| q.sign() < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path, v, detail));
    }
}

/// A text as it stands in a cell, `<unset>` if there is none.
pub(crate) fn unset_or(v: &Value) -> Value {
    match text(v) {
        "" => "<unset>".into(),
        shown => shown.into(),
    }
}

/// Whether two specs say the same: amounts may be written differently, and what is empty may be left out.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    fn empty(v: &Value) -> bool {
        match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::String(s) => s.is_empty(),
            Value::Number(n) => n.as_i64() == Some(0),
            _ => false,
        }
    }
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let all = x.keys().chain(y.keys());
            let of = |m: &serde_json::Map<String, Value>, k| m.get(k).cloned().unwrap_or_default();
            all.into_iter().all(|k| match (&of(x, k), &of(y, k)) {
                (a, b) if empty(a) && empty(b) => a == b || a.is_null() || b.is_null(),
                (a, b) => same(a, b),
            })
        }
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b))
        }
        (Value::String(x), Value::String(y)) if x != y => {
            matches!((quantity(a), quantity(b)), (Some(a), Some(b)) if a == b)
        }
        _ => a == b,
    }
}
