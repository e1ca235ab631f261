//! The fields of a new object, written at once: the text of what [`compare`](super::compare) would find between nothing
//! and the object, without a tree in between, since most objects are created once and changed seldom.

use serde_json::Value;

use super::element::{self, push_json_text};
use super::shape::{Shape, absent, present};
use super::{Scope, is_system_metadata};
use crate::facts::{Ty, Type, TypeId, type_of};

/// `fieldsV1` of whoever creates `new`, an object of type `ty`. `None`: nothing in it is anybody's, or a list has an item
/// twice, which takes a tree.
pub(super) fn fields(ty: TypeId, new: &Value, scope: Scope) -> Option<String> {
    let Value::Object(new) = new else { return None };
    let mut out = Writer {
        text: String::with_capacity(1024),
        twice: false,
    };
    out.text.push('{');
    let ty = type_of(ty);
    for (name, value) in new.iter().filter(|(name, _)| scope.holds(name)) {
        match ty.field(name).map(|field| Shape::of(ty, field)) {
            Some(Shape::Struct(ty)) if name == "metadata" => out.metadata(ty, value),
            _ => out.field(ty, name, value, true),
        }
    }
    out.text.push('}');
    (!out.twice && out.text.len() > 2).then_some(out.text)
}

struct Writer {
    text: String,
    twice: bool,
}

impl Writer {
    /// Starts a child; where it starts, and where its text does.
    fn key(&mut self, write: impl FnOnce(&mut String)) -> (usize, usize) {
        let start = self.text.len();
        if !self.text.ends_with('{') {
            self.text.push(',');
        }
        write(&mut self.text);
        self.text.push_str(":{");
        (start, self.text.len())
    }

    /// A field: itself too, unless it was there before (`existing`) with nothing in it.
    fn child(&mut self, shape: Shape, name: &str, value: &Value, existing: bool) {
        let plain = |b: u8| (0x20..0x7f).contains(&b) && !matches!(b, b'"' | b'\\');
        let (start, inside) = self.key(|text| {
            if name.bytes().all(plain) {
                text.push_str("\"f:");
                text.push_str(name);
                text.push('"');
            } else {
                push_json_text(text, &element::field(name));
            }
        });
        self.node(shape, value, existing);
        if existing && self.text.len() == inside {
            self.text.truncate(start);
        } else {
            self.text.push('}');
        }
    }

    fn node(&mut self, shape: Shape, value: &Value, existing: bool) {
        const SELF: &str = "\".\":{}";
        let start = self.text.len();
        if !existing {
            self.text.push_str(SELF);
        }
        let with_self = self.text.len();
        match (shape, value) {
            (Shape::Struct(ty), Value::Object(map)) => {
                for (name, value) in map {
                    self.field(ty, name, value, existing);
                }
            }
            (Shape::Map(item), Value::Object(map)) => {
                for (name, value) in map {
                    self.child(Shape::of_value(item), name, value, false);
                }
            }
            (Shape::Items(ty, keys), Value::Array(list)) => {
                let name = |item: &Value| element::item(ty, keys, item);
                self.items(list, &name, Shape::of_item(ty));
            }
            (Shape::Set(item), Value::Array(list)) => {
                let name = |item: &Value| Some(element::value(item));
                self.items(list, &name, Shape::Leaf(item));
            }
            _ => {}
        }
        if self.text.len() == with_self {
            self.text.truncate(start);
        }
    }

    /// A field of a struct, which was there before (`existing`) or is new itself.
    fn field(&mut self, ty: &'static Type, name: &str, value: &Value, existing: bool) {
        let Some(field) = ty.field(name) else {
            return self.child(Shape::Leaf(Ty::Any), name, value, false);
        };
        if let Some(value) = present(field, Some(value)) {
            let there = existing && absent(ty, field).is_some();
            self.child(Shape::of(ty, field), name, value, there);
        }
    }

    /// The object's own metadata, a part of which is the server's.
    fn metadata(&mut self, ty: &'static Type, value: &Value) {
        let (start, inside) = self.key(|text| text.push_str("\"f:metadata\""));
        for (name, value) in value.as_object().into_iter().flatten() {
            if !is_system_metadata(name) {
                self.field(ty, name, value, true);
            }
        }
        if self.text.len() == inside {
            self.text.truncate(start);
        } else {
            self.text.push('}');
        }
    }

    /// The items in the order of their names, as sets of fields are written.
    fn items(&mut self, list: &[Value], name: &dyn Fn(&Value) -> Option<String>, shape: Shape) {
        let named = list.iter().filter_map(|item| Some((name(item)?, item)));
        let mut named: Vec<(String, &Value)> = named.collect();
        if !named.is_sorted_by(|a, b| a.0 < b.0) {
            named.sort_by(|a, b| a.0.cmp(&b.0));
            self.twice |= named.windows(2).any(|pair| pair[0].0 == pair[1].0);
        }
        for (name, item) in named {
            self.key(|text| push_json_text(text, &name));
            self.node(shape, item, false);
            self.text.push('}');
        }
    }
}
