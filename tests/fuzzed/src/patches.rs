//! The three patches of `api::patch`.

use api::facts::{self, Ty, TypeId};
use api::patch::{self, PatchError};
use serde_json::{Map, Value};

use crate::halves;
use crate::made::{self, Dice};

fn parse(text: &[u8]) -> Option<Value> {
    let parsed = api::decode::parse(text, api::decode::Content::Json);
    parsed.ok().map(|(value, _)| value)
}

fn told(result: Result<Value, PatchError>) -> Option<Value> {
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// A JSON patch is its operations one after the other, and cannot blow up what it patches.
pub fn json(data: &[u8]) {
    let (object, change) = halves(data);
    let (Some(object), Some(change)) = (parse(object), parse(change)) else {
        return;
    };
    let whole = told(patch::json_patch(&object, &change));
    let Some(operations) = change.as_array() else {
        assert!(whole.is_none(), "a patch that is no list was applied");
        return;
    };
    if let Some(patched) = &whole {
        let size = object.to_string().len() + change.to_string().len() + patch::MAX_COPIED;
        assert!(
            patched.to_string().len() <= size + 1024,
            "a patch blew up its object"
        );
    }
    if operations.len() > 64 {
        return;
    }
    let one_by_one = operations.iter().try_fold(object, |object, operation| {
        told(patch::json_patch(
            &object,
            &Value::Array(vec![operation.clone()]),
        ))
    });
    match (whole, one_by_one) {
        (Some(a), Some(b)) => assert_eq!(a, b),
        // Copies add up.
        (None, _) => {}
        (Some(_), None) => panic!("operations do together what they cannot one by one"),
    }
}

/// RFC 7386, word by word.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut target = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let old = target.remove(name).unwrap_or_default();
            target.insert(name.clone(), merged(old, value));
        }
    }
    Value::Object(target)
}

/// A merge patch does what its RFC says.
pub fn merge(data: &[u8]) {
    let (object, change) = halves(data);
    let (Some(object), Some(change)) = (parse(object), parse(change)) else {
        return;
    };
    let patched = patch::merge_patch(&object, &change);
    assert_eq!(
        patch::merge_patch(&patched, &change),
        patched,
        "a merge patch is not idempotent"
    );
    assert_eq!(merged(object, &change), patched);
}

/// Whether a patch (or the value under it) has a directive. A null in an item of a list may be its key, with which nothing is
/// found again: upstream adds such an item anew each time, too.
fn has_directives(value: &Value, in_list: bool) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(k, v)| {
            k.starts_with('$') || in_list && v.is_null() || has_directives(v, in_list)
        }),
        Value::Array(list) => list.iter().any(|one| has_directives(one, true)),
        _ => false,
    }
}

fn check_strategic(ty: TypeId, object: &Value, change: &Value) {
    let Some(patched) = told(patch::strategic_merge(ty, object, change)) else {
        return;
    };
    assert!(patched.is_object());
    if !has_directives(change, false) {
        let twice = told(patch::strategic_merge(ty, &patched, change));
        assert_eq!(
            twice,
            Some(patched),
            "a strategic-merge patch is not idempotent"
        );
    }
}

/// A strategic-merge patch without directives is idempotent.
pub fn strategic(data: &[u8]) {
    let (object, change) = halves(data);
    let (Some(object), Some(change)) = (parse(object), parse(change)) else {
        return;
    };
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let ty = facts::type_by_name(text("apiVersion"), text("kind"));
    let Some(ty) = ty.or_else(|| facts::type_by_name("v1", "Pod")) else {
        return;
    };
    check_strategic(ty, &object, &change);
}

/// Puts directives into a patch.
fn direct(dice: &mut Dice<'_>, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (_, one) in map.iter_mut() {
                direct(dice, one);
            }
            let names: Vec<String> = map.keys().cloned().collect();
            match dice.byte() {
                200..=214 => {
                    let directive = dice.one(&["replace", "delete", "merge", "other"]);
                    map.insert("$patch".into(), directive.into());
                }
                215..=224 => {
                    map.insert("$retainKeys".into(), names.into());
                }
                225..=234 if !names.is_empty() => {
                    let name = &names[dice.below(names.len())];
                    let list = map[name].clone();
                    map.insert(format!("$setElementOrder/{name}"), list);
                }
                235..=244 if !names.is_empty() => {
                    let name = names[dice.below(names.len())].clone();
                    let list = map.remove(&name).unwrap_or_default();
                    map.insert(format!("$deleteFromPrimitiveList/{name}"), list);
                }
                245.. if !names.is_empty() => {
                    let name = names[dice.below(names.len())].clone();
                    map.insert(name, Value::Null);
                }
                _ => {}
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| direct(dice, one)),
        _ => {}
    }
}

/// The same for objects and patches along a kind's fields; without directives, what comes out fits the kind.
pub fn made(data: &[u8]) {
    let mut dice = Dice::new(data);
    let kind = made::kind(&mut dice);
    let object = made::object(&mut dice, kind);
    let mut change = made::value(&mut dice, Ty::Struct(kind.ty), 8);
    let mut canonical = change.clone();
    api::decode::conform(kind.ty, &mut canonical);
    check_strategic(kind.ty, &object, &canonical);
    if let Some(mut patched) = told(patch::strategic_merge(kind.ty, &object, &canonical)) {
        let found = api::decode::conform(kind.ty, &mut patched);
        assert!(
            found.errors.is_empty() && found.unknown.is_empty(),
            "{found:?}"
        );
    }
    direct(&mut dice, &mut change);
    check_strategic(kind.ty, &object, &change);
}
