//! One step of a path, in FieldsV1's form: `f:name` a field or a map's key, `k:{"name":"a"}` the item of a list with
//! these keys, `v:"a"` a set's value, `i:0` an index.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::facts::{Ty, Type};
use crate::field::{quote, render};

/// `f:name`.
pub(super) fn field(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push_str("f:");
    out.push_str(name);
    out
}

/// `v:"a"`.
pub(super) fn value(value: &Value) -> String {
    match value {
        Value::String(text) => with_json_text("v:", text),
        other => format!("v:{other}"),
    }
}

fn with_json_text(prefix: &str, text: &str) -> String {
    let mut out = String::with_capacity(prefix.len() + text.len() + 2);
    out.push_str(prefix);
    push_json_text(&mut out, text);
    out
}

/// Appends a JSON string.
pub(super) fn push_json_text(out: &mut String, text: &str) {
    let plain = |b: &u8| (0x20..0x7f).contains(b) && !matches!(b, b'"' | b'\\');
    if text.as_bytes().iter().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        let _ = write!(out, "{}", Value::from(text));
    }
}

/// What stands for a key that an item leaves out; `None`: the key is optional.
fn default_key(item: &Type, key: &str) -> Option<Value> {
    if key == "protocol" {
        return Some("TCP".into());
    }
    let field = item.field(key)?;
    let defaulted = item.name == "LocalObjectReference" && key == "name";
    if !(field.required || defaulted) {
        return None;
    }
    Some(match field.ty {
        Ty::Int32 | Ty::Int64 | Ty::Float => 0.into(),
        Ty::Bool => false.into(),
        _ => "".into(),
    })
}

/// `k:{"containerPort":80,"protocol":"TCP"}`; `None` if the item has none of the keys.
pub(super) fn item(ty: &'static Type, keys: &[&str], item: &Value) -> Option<String> {
    let item = item.as_object()?;
    if let [key] = keys
        && let Some(Value::String(text)) = item.get(*key)
    {
        let mut out = String::with_capacity(key.len() + text.len() + 9);
        out.push_str("k:{\"");
        out.push_str(key);
        out.push_str("\":");
        push_json_text(&mut out, text);
        out.push('}');
        return Some(out);
    }
    let mut found = Map::new();
    for key in keys {
        let value = match item.get(*key) {
            None | Some(Value::Null) => default_key(ty, key),
            Some(value) => Some(value.clone()),
        };
        if let Some(value) = value {
            found.insert((*key).to_owned(), value);
        }
    }
    (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
}

/// Whether two items have the same keys as they stand, without defaults: the quick check before [`item`].
pub(super) fn same_item(keys: &[&str], a: &Value, b: &Value) -> bool {
    keys.iter().all(|k| a.get(*k) == b.get(*k))
}

/// The element in its one form, if it is an element at all.
pub(super) fn canonical(element: &str) -> Option<String> {
    let (kind, rest) = element.split_at_checked(2)?;
    match kind {
        "f:" => Some(element.to_owned()),
        "i:" => rest.parse::<u32>().ok().map(|_| element.to_owned()),
        "v:" => Some(value(&serde_json::from_str(rest).ok()?)),
        "k:" => {
            let keys: Value = serde_json::from_str(rest).ok()?;
            let named = keys.as_object().is_some_and(|k| !k.is_empty());
            named.then(|| format!("k:{keys}"))
        }
        _ => None,
    }
}

/// Appends the element as people read it: `.spec`, `[name="a"]`, `[="a"]`, `[0]`.
pub fn show(element: &str, out: &mut String) {
    let (kind, rest) = element.split_at_checked(2).unwrap_or(("f:", element));
    match kind {
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            out.push('[');
            for (i, (key, value)) in keys.iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                let _ = write!(out, "{comma}{key}={}", render(value));
            }
            out.push(']');
        }
        "v:" => {
            let shown = match serde_json::from_str::<Value>(rest) {
                Ok(Value::String(text)) => quote(&text),
                _ => rest.to_owned(),
            };
            let _ = write!(out, "[={shown}]");
        }
        "i:" => {
            let _ = write!(out, "[{rest}]");
        }
        _ => {
            out.push('.');
            out.push_str(rest);
        }
    }
}
