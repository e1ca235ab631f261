//! The fields by which two versions of an object differ, in one walk along the facts.
//!
//! Unlike [`owned`](super::owned), a struct or list that was not there before is itself a difference (`.`), as upstream
//! records it for updates.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::set::{Node, Set, put, with_self};
use super::shape::{Shape, absent, present};
use super::{Scope, element, is_system_metadata};
use crate::facts::{Ty, Type, TypeId, type_of};

/// By what two versions differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields that were added or have another value.
    pub changed: Set,
    /// Fields that are gone.
    pub removed: Set,
}

impl Comparison {
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares two versions of an object of type `ty` within `scope`. Identity (names, UID, versions) does not count.
#[must_use]
pub fn compare(ty: TypeId, old: &Value, new: &Value, scope: Scope) -> Comparison {
    let mut out = Found::default();
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Comparison::default();
    };
    let top = |name: &str| scope.holds(name);
    each_field(type_of(ty), old, new, &top, &mut |name, shape, old, new| {
        if old == new {
            return;
        }
        let found = match shape {
            Shape::Struct(ty) if name == "metadata" => {
                let mut found = Found::default();
                let (Some(Value::Object(old)), Some(Value::Object(new))) = (old, new) else {
                    return;
                };
                let counted = |name: &str| !is_system_metadata(name);
                each_field(ty, old, new, &counted, &mut |name, shape, old, new| {
                    found.take(|| element::field(name), differ(shape, old, new));
                });
                found
            }
            _ => differ(shape, old, new),
        };
        out.take(|| element::field(name), found);
    });
    Comparison {
        changed: Set(out.changed.unwrap_or_default()),
        removed: Set(out.removed.unwrap_or_default()),
    }
}

/// What differs at and below one place. `None`: nothing.
#[derive(Default)]
struct Found {
    changed: Option<Node>,
    removed: Option<Node>,
}

impl Found {
    fn changed(node: Node) -> Self {
        Self {
            changed: Some(node),
            removed: None,
        }
    }

    fn removed(node: Node) -> Self {
        Self {
            changed: None,
            removed: Some(node),
        }
    }

    /// Takes over what was found at a child.
    fn take(&mut self, name: impl FnOnce() -> String, child: Self) {
        match (child.changed, child.removed) {
            (None, None) => {}
            (Some(changed), None) => put(self.changed.get_or_insert_default(), name(), changed),
            (None, Some(removed)) => put(self.removed.get_or_insert_default(), name(), removed),
            (Some(changed), Some(removed)) => {
                let name = name();
                put(self.changed.get_or_insert_default(), name.clone(), changed);
                put(self.removed.get_or_insert_default(), name, removed);
            }
        }
    }
}

type Visit<'a, 'v> = dyn FnMut(&str, Shape, Option<&'v Value>, Option<&'v Value>) + 'a;
type VisitKey<'a, 'v> = dyn FnMut(&str, Option<&'v Value>, Option<&'v Value>) + 'a;

/// Visits each field that is in one of two structs, with what stands for it in both.
fn each_field<'v>(
    ty: &'static Type,
    old: &'v Map<String, Value>,
    new: &'v Map<String, Value>,
    counted: &dyn Fn(&str) -> bool,
    visit: &mut Visit<'_, 'v>,
) {
    each_key(old, new, &mut |name, old, new| {
        if !counted(name) {
            return;
        }
        let Some(field) = ty.field(name) else {
            visit(name, Shape::Leaf(Ty::Any), old, new);
            return;
        };
        let default = |value: Option<&'v Value>| match present(field, value) {
            None => absent(ty, field),
            found => found,
        };
        visit(name, Shape::of(ty, field), default(old), default(new));
    });
}

/// Visits each key of two maps, in order.
fn each_key<'v>(
    old: &'v Map<String, Value>,
    new: &'v Map<String, Value>,
    visit: &mut VisitKey<'_, 'v>,
) {
    let (mut left, mut right) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let a = if order.is_le() { left.next() } else { None };
        let b = if order.is_ge() { right.next() } else { None };
        if let Some((name, _)) = a.or(b) {
            visit(name, a.map(|(_, v)| v), b.map(|(_, v)| v));
        }
    }
}

fn differ(shape: Shape, old: Option<&Value>, new: Option<&Value>) -> Found {
    let (old, new) = match (old, new) {
        (None, None) => return Found::default(),
        (None, Some(new)) => return Found::changed(whole(shape, new)),
        (Some(old), None) => return Found::removed(whole(shape, old)),
        (Some(old), Some(new)) => (old, new),
    };
    let mut out = Found::default();
    match (shape, old, new) {
        (Shape::Struct(ty), Value::Object(old), Value::Object(new)) => {
            each_field(ty, old, new, &|_| true, &mut |name, shape, old, new| {
                out.take(|| element::field(name), differ(shape, old, new));
            });
        }
        (Shape::Map(item), Value::Object(old), Value::Object(new)) => {
            let shape = Shape::of_value(item);
            each_key(old, new, &mut |name, old, new| {
                out.take(|| element::field(name), differ(shape, old, new));
            });
        }
        (Shape::Items(ty, keys), Value::Array(old), Value::Array(new)) => {
            items(ty, keys, old, new, &mut out);
        }
        (Shape::Set(_), Value::Array(old), Value::Array(new)) => {
            if old != new {
                let (old, new) = (values(old), values(new));
                for gone in old.difference(&new) {
                    out.take(|| gone.clone(), Found::removed(Node::new()));
                }
                for added in new.difference(&old) {
                    out.take(|| added.clone(), Found::changed(Node::new()));
                }
            }
        }
        _ => {
            if old != new {
                return Found::changed(Node::new());
            }
        }
    }
    out
}

fn values(list: &[Value]) -> BTreeSet<String> {
    list.iter().map(element::value).collect()
}

fn items(
    ty: &'static Type,
    keys: &'static [&'static str],
    old: &[Value],
    new: &[Value],
    out: &mut Found,
) {
    let shape = Shape::of_item(ty);
    let name = |item: &Value| element::item(ty, keys, item);
    // Most writes leave the items where they are.
    if old.len() == new.len()
        && old
            .iter()
            .zip(new)
            .all(|(a, b)| element::same_item(keys, a, b))
    {
        for (old, new) in old.iter().zip(new) {
            let found = differ(shape, Some(old), Some(new));
            if (found.changed.is_some() || found.removed.is_some())
                && let Some(name) = name(new)
            {
                out.take(|| name, found);
            }
        }
        return;
    }
    let mut before: BTreeMap<String, &Value> = BTreeMap::new();
    for item in old {
        if let Some(name) = name(item) {
            before.entry(name).or_insert(item);
        }
    }
    let mut seen = BTreeSet::new();
    for item in new {
        let Some(name) = name(item) else { continue };
        let found = differ(shape, before.get(&name).copied(), Some(item));
        out.take(|| name.clone(), found);
        seen.insert(name);
    }
    for (name, item) in before {
        if !seen.contains(&name) {
            out.take(|| name, Found::removed(whole(shape, item)));
        }
    }
}

/// Everything at and below a value: itself too.
pub(super) fn whole(shape: Shape, value: &Value) -> Node {
    let mut out = Node::new();
    match (shape, value) {
        (Shape::Struct(ty), Value::Object(map)) => {
            for (name, value) in map {
                let Some(field) = ty.field(name) else {
                    put(&mut out, element::field(name), Node::new());
                    continue;
                };
                if let Some(value) = present(field, Some(value)) {
                    out.insert(
                        element::field(name),
                        Value::Object(whole(Shape::of(ty, field), value)),
                    );
                }
            }
        }
        (Shape::Map(item), Value::Object(map)) => {
            for (name, value) in map {
                let child = whole(Shape::of_value(item), value);
                out.insert(element::field(name), Value::Object(child));
            }
        }
        (Shape::Items(ty, keys), Value::Array(list)) => {
            for item in list {
                if let Some(name) = element::item(ty, keys, item) {
                    put(&mut out, name, whole(Shape::of_item(ty), item));
                }
            }
        }
        (Shape::Set(_), Value::Array(list)) => {
            for item in list {
                put(&mut out, element::value(item), Node::new());
            }
        }
        _ => {}
    }
    with_self(out)
}
