//! The object with a configuration applied to it.
//!
//! Structs, maps, and lists with keys are merged; whatever is atomic is replaced. Items of lists come in the order of the
//! configuration, items that only the object has keep their place before the next item that both have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::element;
use super::shape::Shape;
use crate::facts::{Ty, Type, TypeId, type_of};

/// `live`, an object of type `ty`, with `config` applied, which [fits the type](super::owned::owned).
#[must_use]
pub fn merge(ty: TypeId, live: &Value, config: &Value) -> Value {
    value(Shape::Struct(type_of(ty)), Some(live), config)
}

fn value(shape: Shape, live: Option<&Value>, config: &Value) -> Value {
    match (shape, config) {
        (Shape::Struct(ty), Value::Object(config)) => {
            let of = |name: &str| {
                ty.field(name)
                    .map_or(Shape::Leaf(Ty::Any), |field| Shape::of(ty, field))
            };
            Value::Object(fields(&of, live.and_then(Value::as_object), config))
        }
        (Shape::Map(item), Value::Object(config)) => {
            let of = |_: &str| Shape::of_value(item);
            Value::Object(fields(&of, live.and_then(Value::as_object), config))
        }
        (Shape::Items(ty, keys), Value::Array(config)) => {
            let live = live
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            Value::Array(items(ty, keys, live, config))
        }
        (Shape::Set(_), Value::Array(config)) => {
            let live = live
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            Value::Array(in_order(live, config, &element::value, &|_, new| {
                new.clone()
            }))
        }
        _ => config.clone(),
    }
}

fn fields(
    shape: &dyn Fn(&str) -> Shape,
    live: Option<&Map<String, Value>>,
    config: &Map<String, Value>,
) -> Map<String, Value> {
    let mut out = live.cloned().unwrap_or_default();
    for (name, new) in config {
        if new.is_null() {
            out.remove(name);
        } else {
            let merged = value(shape(name), live.and_then(|l| l.get(name)), new);
            out.insert(name.clone(), merged);
        }
    }
    out
}

fn items(
    ty: &'static Type,
    keys: &'static [&'static str],
    live: &[Value],
    config: &[Value],
) -> Vec<Value> {
    let name = |item: &Value| element::item(ty, keys, item).unwrap_or_default();
    in_order(live, config, &name, &|old, new| {
        value(Shape::of_item(ty), old, new)
    })
}

/// Merges two lists whose items are known by `name`. An item that the object has twice is replaced, not merged.
fn in_order(
    live: &[Value],
    config: &[Value],
    name: &dyn Fn(&Value) -> String,
    merge: &dyn Fn(Option<&Value>, &Value) -> Value,
) -> Vec<Value> {
    let names: Vec<String> = live.iter().map(name).collect();
    let mut by_name: BTreeMap<&str, Option<&Value>> = BTreeMap::new();
    for (name, item) in names.iter().zip(live) {
        by_name
            .entry(name)
            .and_modify(|twice| *twice = None)
            .or_insert(Some(item));
    }
    let applied: Vec<String> = config.iter().map(name).collect();
    let shared: BTreeSet<&str> = applied.iter().map(String::as_str).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let mut rest = names.iter().zip(live).peekable();
    // Takes the object's own items up to the next one that is still to come from the configuration.
    let mut own = |done: &BTreeSet<&str>, out: &mut Vec<Value>| {
        while let Some((name, item)) =
            rest.next_if(|(n, _)| !shared.contains(n.as_str()) || done.contains(n.as_str()))
        {
            if !shared.contains(name.as_str()) {
                out.push(item.clone());
            }
        }
    };
    for (name, item) in applied.iter().zip(config) {
        own(&done, &mut out);
        let old = by_name.get(name.as_str()).copied().flatten();
        out.push(merge(old, item));
        done.insert(name);
    }
    own(&done, &mut out);
    out
}
