//! Takes out of an object what its applier owned, applies no longer, and nobody else owns.

use serde_json::{Map, Value};

use super::element;
use super::set::{Node, Set, is_member};
use super::shape::Shape;
use crate::facts::{Ty, TypeId, type_of};

/// Removes from `object`, of type `ty`, the members of `last` that are not in `kept`. What hangs below a removed item or
/// map goes with it, and a struct of which nothing is left goes too.
pub fn remove(ty: TypeId, object: &mut Value, last: &Set, kept: &Set) {
    inside(Shape::Struct(type_of(ty)), object, &last.0, &kept.0);
}

fn inside(shape: Shape, value: &mut Value, last: &Node, kept: &Node) {
    match (shape, value) {
        (Shape::Struct(ty), Value::Object(map)) => {
            let of = |name: &str| {
                ty.field(name)
                    .map_or(Shape::Leaf(Ty::Any), |field| Shape::of(ty, field))
            };
            fields(&of, map, last, kept);
        }
        (Shape::Map(item), Value::Object(map)) => {
            fields(&|_| Shape::of_value(item), map, last, kept);
        }
        (Shape::Items(ty, keys), Value::Array(list)) => list.retain_mut(|item| {
            element::item(ty, keys, item)
                .is_none_or(|name| stays(Shape::of_item(ty), &name, item, last, kept))
        }),
        (Shape::Set(item), Value::Array(list)) => list.retain_mut(|value| {
            let name = element::value(value);
            stays(Shape::Leaf(item), &name, value, last, kept)
        }),
        _ => {}
    }
}

fn fields(shape: &dyn Fn(&str) -> Shape, map: &mut Map<String, Value>, last: &Node, kept: &Node) {
    map.retain(|name, value| stays(shape(name), &element::field(name), value, last, kept));
}

/// Whether the child `element` stays, after it was cleaned up itself.
fn stays(shape: Shape, element: &str, value: &mut Value, last: &Node, kept: &Node) -> bool {
    let Some(Value::Object(last)) = last.get(element) else {
        return true;
    };
    let kept = kept.get(element).and_then(Value::as_object);
    if is_member(last) && kept.is_none() {
        return false;
    }
    let nothing = Node::new();
    inside(shape, value, last, kept.unwrap_or(&nothing));
    let emptied = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    !(emptied && kept.is_none())
}
