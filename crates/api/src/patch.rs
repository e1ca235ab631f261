//! The three patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge, which merges lists by the keys that the
//! facts name (<https://git.k8s.io/community/contributors/devel/sig-api-machinery/strategic-merge-patch.md>).

use serde_json::{Map, Value};

use crate::facts::{self, Field, Patch, Ty, TypeId};
use crate::field::{quote, render};

/// Operations that one JSON patch may hold.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// Bytes of JSON that the copies of one JSON patch may add: thirty copies of the whole into itself would fill any memory.
pub const MAX_COPIED: usize = 3 << 20;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch is well formed but cannot be applied to this object: 422.
    #[error("{0}")]
    Inapplicable(String),
    /// 413.
    #[error(
        "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {0}"
    )]
    TooLarge(usize),
}

/// Applies a JSON patch: a list of operations.
///
/// # Errors
/// Malformed operations, paths that do not exist, tests that fail.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if let Some(operations) = patch.as_array()
        && operations.len() > MAX_JSON_PATCH_OPERATIONS
    {
        return Err(PatchError::TooLarge(operations.len()));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone()).map_err(|e| {
        if patch.is_array() {
            PatchError::Malformed(format!("error decoding patch: {e}"))
        } else {
            let found = if patch.is_object() { "object" } else { "value" };
            PatchError::Malformed(format!(
                "error decoding patch: json: cannot unmarshal {found} into Go value of type jsonpatch.Patch"
            ))
        }
    })?;
    let mut out = object.clone();
    let inapplicable = PatchError::Inapplicable;
    let mut copied = 0;
    for (at, operation) in operations.iter().enumerate() {
        if let json_patch::PatchOperation::Copy(copy) = operation {
            let from = out.pointer(copy.from.as_str());
            copied += from.map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(inapplicable(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                )));
            }
        }
        let applied = json_patch::patch(&mut out, std::slice::from_ref(operation));
        applied.map_err(|e| inapplicable(refusal(&patch[at], &e.kind)))?;
    }
    Ok(out)
}

/// Why an operation does not apply, in upstream's words.
fn refusal(operation: &Value, kind: &json_patch::PatchErrorKind) -> String {
    let text = |field: &str| operation[field].as_str().unwrap_or_default();
    let (op, path) = (text("op"), text("path"));
    match (kind, op) {
        (json_patch::PatchErrorKind::TestFailed, _) => {
            format!("testing value {path} failed: test failed")
        }
        (_, "add") => {
            format!("add operation does not apply: doc is missing path: {path}: missing value")
        }
        (_, "remove") => {
            format!("remove operation does not apply: doc is missing path: {path}: missing value")
        }
        (_, "replace") => {
            format!("replace operation does not apply: doc is missing key: {path}: missing value")
        }
        (kind, _) => {
            format!("{op} operation does not apply: doc is missing path: {path}: {kind}")
        }
    }
}

/// Applies a merge patch: objects are merged, null deletes, everything else replaces.
#[must_use]
pub fn merge_patch(object: &Value, patch: &Value) -> Value {
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    out
}

/// Applies a strategic-merge patch to an object of type `ty`.
///
/// # Errors
/// Unknown directives, items without their merge key, values of the wrong JSON type, with upstream's texts.
pub fn strategic_merge(ty: TypeId, object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed("Invalid JSON document".into()));
    };
    let original = object.as_object().cloned().unwrap_or_default();
    merge_map(original, patch, &Shape::Struct(ty)).map(Value::Object)
}

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// What the facts say about the keys of a map.
enum Shape {
    Struct(TypeId),
    /// A map with values of one type.
    Map(Ty),
    /// Nothing is known: merged as JSON.
    Free,
}

impl Shape {
    fn of(ty: Ty) -> Self {
        match ty {
            Ty::Struct(id) => Self::Struct(id),
            Ty::Map(item) => Self::Map(*item),
            _ => Self::Free,
        }
    }

    fn field(&self, name: &str) -> Option<&'static Field> {
        match self {
            Self::Struct(id) => facts::type_of(*id).field(name),
            _ => None,
        }
    }

    fn child(&self, name: &str) -> (Option<Ty>, Patch, &'static str) {
        match self {
            Self::Struct(_) => match self.field(name) {
                Some(field) => (Some(field.ty), field.patch, field.merge_key),
                None => (None, Patch::NONE, ""),
            },
            Self::Map(item) => (Some(*item), Patch::NONE, ""),
            Self::Free => (None, Patch::NONE, ""),
        }
    }
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    shape: &Shape,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => {
                let mut whole = patch.clone();
                whole.remove(DIRECTIVE);
                return Ok(whole);
            }
            "delete" => return Ok(Map::new()),
            "merge" => {}
            other => return Err(unknown_directive(other, patch)),
        },
        Some(other) => return Err(unknown_directive(&render(other), patch)),
    }
    retain_keys(&mut original, patch)?;
    // Lists of the original whose order a directive fixes, although the patch does not change them otherwise.
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            let Value::Array(gone) = value else {
                return Err(wrong_type(key, value, "list"));
            };
            if let Some(Value::Array(list)) = original.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch {
        if key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.starts_with(DELETE_FROM)
            || key.starts_with(ORDER)
        {
            continue;
        }
        if value.is_null() {
            original.remove(key);
            continue;
        }
        let (ty, strategy, merge_key) = shape.child(key);
        let merged = match (original.remove(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !strategy.replace => {
                let shape = ty.map_or(Shape::Free, Shape::of);
                Value::Object(merge_map(old, new, &shape)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if strategy.merge => {
                let item = item_type(ty);
                Value::Array(merge_list(old, new, item, merge_key)?)
            }
            (None, Value::Array(new)) if strategy.merge => {
                Value::Array(merge_list(Vec::new(), new, item_type(ty), merge_key)?)
            }
            (_, new) => cleaned_value(new, ty)?,
        };
        original.insert(key.clone(), merged);
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else {
            continue;
        };
        let Value::Array(order) = order else {
            return Err(wrong_type(key, order, "list"));
        };
        let (_, _, merge_key) = shape.child(field);
        if let Some(Value::Array(list)) = original.get_mut(field) {
            let before = std::mem::take(list);
            *list = ordered(before, order, merge_key);
        }
    }
    Ok(original)
}

fn unknown_directive(directive: &str, patch: &Map<String, Value>) -> PatchError {
    malformed(format!(
        "unknown patch type: {directive} in map: {}",
        Value::Object(patch.clone())
    ))
}

fn wrong_type(key: &str, value: &Value, want: &str) -> PatchError {
    malformed(format!("expected {want} for {key}, got {}", render(value)))
}

fn item_type(ty: Option<Ty>) -> Ty {
    match ty {
        Some(Ty::List(item)) => *item,
        _ => Ty::Any,
    }
}

/// A value that is new to the object: directives inside it are carried out against nothing.
fn cleaned_value(new: &Value, ty: Option<Ty>) -> Result<Value, PatchError> {
    match new {
        Value::Object(map) => {
            let shape = ty.map_or(Shape::Free, Shape::of);
            merge_map(Map::new(), map, &shape).map(Value::Object)
        }
        other => Ok(other.clone()),
    }
}

fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(malformed(format!(
            "expect {RETAIN_KEYS} to be a list, got {}",
            render(keys)
        )));
    };
    for key in patch.keys() {
        if !key.starts_with('$') && !patch[key].is_null() && !keys.iter().any(|k| k == key) {
            return Err(malformed(format!(
                "{RETAIN_KEYS} directive doesn't contain {key}"
            )));
        }
    }
    original.retain(|key, _| keys.iter().any(|k| k == key));
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: &[Value],
    item: Ty,
    merge_key: &str,
) -> Result<Vec<Value>, PatchError> {
    if merge_key.is_empty() || !patch.iter().chain(&original).any(Value::is_object) {
        if let Some(object) = patch
            .iter()
            .find(|v| v.is_object())
            .filter(|_| merge_key.is_empty())
        {
            return Err(malformed(format!(
                "map: {object} does not contain declared merge key: {merge_key}"
            )));
        }
        // A list of scalars is a set: new ones are added at the end.
        let mut out = original;
        for value in patch {
            if !out.contains(value) {
                out.push(value.clone());
            }
        }
        return Ok(out);
    }
    let no_key = |map: &Value| {
        malformed(format!(
            "map: {map} does not contain declared merge key: {merge_key}"
        ))
    };
    if patch
        .iter()
        .any(|p| p.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"))
    {
        // The whole list is replaced by the patch's items that are not the directive itself.
        let mut out = Vec::new();
        for one in patch {
            let mut map = one
                .as_object()
                .cloned()
                .ok_or_else(|| malformed("patch list items must be maps"))?;
            map.remove(DIRECTIVE);
            if !map.is_empty() {
                out.push(Value::Object(map));
            }
        }
        return Ok(out);
    }
    let mut out = original;
    let shape = Shape::of(item);
    for one in patch {
        let map = one
            .as_object()
            .ok_or_else(|| malformed("patch list items must be maps"))?;
        let key = map.get(merge_key).ok_or_else(|| no_key(one))?;
        let at = out.iter().position(|o| same(o.get(merge_key), key));
        match (map.get(DIRECTIVE).and_then(Value::as_str), at) {
            (Some("delete"), _) => out.retain(|o| !same(o.get(merge_key), key)),
            (Some("merge") | None, Some(at)) => {
                let old = match out[at].take() {
                    Value::Object(old) => old,
                    other => return Err(no_key(&other)),
                };
                out[at] = Value::Object(merge_map(old, map, &shape)?);
            }
            (Some("merge") | None, None) => {
                out.push(Value::Object(merge_map(Map::new(), map, &shape)?));
            }
            (Some(other), _) => return Err(unknown_directive(other, map)),
        }
    }
    Ok(out)
}

/// Keys are compared by what they print, as upstream does: `80` and `"80"` are one.
fn same(a: Option<&Value>, b: &Value) -> bool {
    match (a, b) {
        (Some(Value::String(a)), Value::String(b)) => a == b,
        (Some(a), b) => a == b || plain(a) == plain(b),
        (None, _) => false,
    }
}

fn plain(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// Puts the items that `order` names in that order; items that only the server knows keep their place relative to the
/// items before them.
fn ordered(list: Vec<Value>, order: &[Value], merge_key: &str) -> Vec<Value> {
    let rank = |item: &Value| {
        order.iter().position(|o| {
            if merge_key.is_empty() || !item.is_object() {
                item == o
            } else {
                match (item.get(merge_key), o.get(merge_key)) {
                    (Some(a), Some(b)) => same(Some(a), b),
                    _ => false,
                }
            }
        })
    };
    let mut known: Vec<(usize, Value)> = Vec::new();
    // Server-only items, each with the number of known items that stood before it.
    let mut others: Vec<(usize, Value)> = Vec::new();
    for item in list {
        match rank(&item) {
            Some(rank) => known.push((rank, item)),
            None => others.push((known.len(), item)),
        }
    }
    known.sort_by_key(|(rank, _)| *rank);
    let mut out = Vec::with_capacity(known.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (i, (_, item)) in known.into_iter().enumerate() {
        while let Some((_, other)) = others.next_if(|(before, _)| *before <= i) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others.map(|(_, other)| other));
    out
}

/// The text of the 400 for a patch that is not JSON.
#[must_use]
pub fn undecodable(why: &str) -> String {
    format!("error decoding patch: {}", quote(why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn copies_cannot_fill_the_memory() {
        let object = json!({"data": "x".repeat(1000)});
        let copies = |n: usize| -> Value {
            let copy = |i: usize| json!({"op": "copy", "from": "", "path": format!("/{i}")});
            (0..n).map(copy).collect()
        };
        assert!(json_patch(&object, &copies(10)).is_ok());
        let refused = json_patch(&object, &copies(40)).unwrap_err().to_string();
        let wanted = "Unable to complete the copy, the accumulated size increase of copy is ";
        assert!(refused.contains(wanted), "{refused}");
        assert!(
            refused.ends_with("exceeding the limit 3145728"),
            "{refused}"
        );
    }

    fn pod() -> TypeId {
        facts::kind("", "v1", "pods").unwrap().ty
    }

    fn deployment() -> TypeId {
        facts::kind("apps", "v1", "deployments").unwrap().ty
    }

    #[track_caller]
    fn check(ty: TypeId, object: Value, patch: Value, want: Value) {
        assert_eq!(strategic_merge(ty, &object, &patch).unwrap(), want);
    }

    #[test]
    fn lists_merge_by_key() {
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "z"}, {"name": "c", "image": "w"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "z"}, {"name": "c", "image": "w"}]}}),
        );
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a", "command": ["x", "y"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "command": ["z"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "command": ["z"]}]}}),
        );
    }

    #[test]
    fn directives() {
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b"}]}}),
        );
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [{"name": "c"}]}}),
        );
        check(
            pod(),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        );
        check(
            pod(),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "finalizers": ["d"], "$setElementOrder/finalizers": ["d", "c", "a"]}}),
            json!({"metadata": {"finalizers": ["d", "c", "a"]}}),
        );
        check(
            deployment(),
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        );
        check(
            pod(),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/a"}}]}}),
            json!({"spec": {"volumes": [{"$retainKeys": ["name", "emptyDir"], "name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        );
    }

    #[test]
    fn order_is_kept_or_set() {
        check(
            pod(),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "s"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a", "image": "i"}]}}),
            json!({"spec": {"containers": [{"name": "b"}, {"name": "s"}, {"name": "a", "image": "i"}]}}),
        );
    }

    #[test]
    fn nulls_delete_and_atomic_lists_replace() {
        check(
            pod(),
            json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "y"}}, "spec": {"tolerations": [{"key": "a"}]}}),
            json!({"metadata": {"labels": {"a": null}, "annotations": null}, "spec": {"tolerations": [{"key": "b"}]}}),
            json!({"metadata": {"labels": {}}, "spec": {"tolerations": [{"key": "b"}]}}),
        );
    }

    #[test]
    fn refusals() {
        let error = strategic_merge(
            pod(),
            &json!({}),
            &json!({"spec": {"containers": [{"image": "x"}]}}),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"map: {"image":"x"} does not contain declared merge key: name"#
        );
        let error =
            strategic_merge(pod(), &json!({}), &json!({"spec": {"$patch": "nope"}})).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("unknown patch type: nope in map")
        );
        let error = json_patch(
            &json!({}),
            &json!([{"op": "replace", "path": "/a", "value": 1}]),
        )
        .unwrap_err();
        assert!(
            error.to_string().contains(
                "replace operation does not apply: doc is missing key: /a: missing value"
            )
        );
        assert!(json_patch(&json!({}), &json!({})).is_err());
    }

    #[test]
    fn plain_patches() {
        assert_eq!(
            merge_patch(
                &json!({"a": {"b": 1}, "l": [1]}),
                &json!({"a": {"b": null}, "l": [2]})
            ),
            json!({"a": {}, "l": [2]})
        );
        assert_eq!(
            json_patch(
                &json!({"a": 1}),
                &json!([{"op": "add", "path": "/b", "value": 2}])
            )
            .unwrap(),
            json!({"a": 1, "b": 2})
        );
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from)
        ];
        let key = prop_oneof![
            "spec|containers|name|metadata|finalizers|ports|volumes",
            Just("$patch".to_owned()),
            Just("$retainKeys".to_owned()),
            Just("$setElementOrder/containers".to_owned()),
            Just("$deleteFromPrimitiveList/finalizers".to_owned())
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(object in tree(), patch in tree()) {
            let _ = strategic_merge(pod(), &object, &patch);
            let _ = json_patch(&object, &patch);
            let _ = merge_patch(&object, &patch);
        }
    }
}
