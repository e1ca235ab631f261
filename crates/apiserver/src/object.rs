//! Reading and writing fields of objects that are JSON trees.

use serde_json::{Map, Value};

/// The string at `path`, empty when it is absent or something else.
#[must_use]
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or("")
}

/// The value at `path`.
#[must_use]
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |v, key| v.get(key))
}

/// The array at `path`, empty when absent.
#[must_use]
pub fn items<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The object at `key` of `object`, made if absent or something else.
pub fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(map) = object else {
        unreachable!("it was just made one")
    };
    let slot = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    let Value::Object(child) = slot else {
        unreachable!("it was just made one")
    };
    child
}

/// The metadata, made if absent.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// Takes out of the metadata the lists and maps that are empty: upstream's encoders leave them out, so to set one to
/// nothing is no change.
pub fn drop_empty_metadata(object: &mut Value) {
    let metadata = metadata(object);
    for field in ["annotations", "finalizers", "labels", "ownerReferences"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

/// The strings of the array at `path`.
pub fn strings<'a>(object: &'a Value, path: &[&str]) -> impl Iterator<Item = &'a str> {
    items(object, path).iter().filter_map(Value::as_str)
}

/// `metadata.name`.
#[must_use]
pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}

/// Whether a deletion was asked for.
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some_and(|v| !v.is_null())
}
