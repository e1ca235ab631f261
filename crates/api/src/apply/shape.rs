//! How server-side apply sees a value: what it owns as a whole, and what it looks into.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::facts::{Field, List, Ty, Type, type_of};

#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// Owned as a whole.
    Leaf(Ty),
    Struct(&'static Type),
    /// Keys are owned one by one.
    Map(Ty),
    /// A list whose items are known by their keys.
    Items(&'static Type, &'static [&'static str]),
    /// A list of scalars in which each value is there once.
    Set(Ty),
}

impl Shape {
    /// The shape of a field of `owner`.
    pub(super) fn of(owner: &Type, field: &Field) -> Self {
        match field.ty {
            Ty::List(item) => match (field.list, *item) {
                (List::Map, Ty::Struct(id)) => Self::Items(type_of(id), field.keys),
                (List::Set, item) => Self::Set(item),
                _ => Self::Leaf(field.ty),
            },
            Ty::Map(_) if is_atomic_map(owner, field) => Self::Leaf(field.ty),
            // The one use of an atomic type that says it is not.
            Ty::Struct(id) if field.name == "claimRef" => Self::Struct(type_of(id)),
            other => Self::of_value(other),
        }
    }

    /// The shape of a map's value.
    pub(super) fn of_value(ty: Ty) -> Self {
        match ty {
            Ty::Struct(id) => Self::of_item(type_of(id)),
            Ty::Map(item) => Self::Map(*item),
            other => Self::Leaf(other),
        }
    }

    /// The shape of a list's item.
    pub(super) fn of_item(ty: &'static Type) -> Self {
        if ty.atomic {
            Self::Leaf(Ty::Any)
        } else {
            Self::Struct(ty)
        }
    }
}

/// Maps with `x-kubernetes-map-type: atomic`, which the generated facts lack.
fn is_atomic_map(owner: &Type, field: &Field) -> bool {
    match field.name {
        "nodeSelector" => matches!(owner.name, "PodSpec" | "Scheduling"),
        "selector" => matches!(owner.name, "ServiceSpec" | "ReplicationControllerSpec"),
        _ => false,
    }
}

/// Structs that upstream's Go types hold by value though OpenAPI does not require them: they are always there, so that
/// setting a field in one does not own the struct itself.
fn is_held_by_value(owner: &Type, field: &Field) -> bool {
    field.required
        || match field.name {
            "metadata" | "spec" | "status" | "strategy" | "updateStrategy" | "resources"
            | "loadBalancer" | "nodeInfo" | "daemonEndpoints" | "kubeletEndpoint" => true,
            "template" => owner.name == "ReplicaSetSpec",
            _ => false,
        }
}

/// What stands for a field that is absent where upstream's types always have it.
pub(super) fn absent(owner: &Type, field: &Field) -> Option<&'static Value> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    static EMPTY_LIST: Value = Value::Array(Vec::new());
    match Shape::of(owner, field) {
        Shape::Struct(_) if is_held_by_value(owner, field) => Some(&EMPTY),
        Shape::Map(_) if field.required => Some(&EMPTY),
        Shape::Items(..) | Shape::Set(_) if field.required => Some(&EMPTY_LIST),
        _ => None,
    }
}

/// The value, unless upstream's types would leave it out: nulls, and lists and maps that are empty.
pub(super) fn present<'a>(field: &Field, value: Option<&'a Value>) -> Option<&'a Value> {
    let value = value?;
    let left_out = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty() && !field.required,
        Value::Object(map) => map.is_empty() && !field.required && matches!(field.ty, Ty::Map(_)),
        _ => false,
    };
    (!left_out).then_some(value)
}
