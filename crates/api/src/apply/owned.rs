//! The fields that an applied configuration speaks of, and what of it does not fit the type.
//!
//! Only leaves, items of lists and empty structs are owned: whoever applies `spec.replicas` does not own `spec`.

use serde_json::Value;

use super::set::{Node, Set, put, with_self};
use super::shape::Shape;
use super::{Scope, element, is_system_metadata};
use crate::facts::{Ty, Type, TypeId, type_of};

/// The fields of `config`, an object of type `ty`, within `scope`.
///
/// # Errors
/// Fields that the type does not have, values of other types, items without keys or twice, with upstream's texts.
pub fn owned(ty: TypeId, config: &Value, scope: Scope) -> Result<Set, String> {
    let mut walk = Walk::default();
    let mut root = walk.value(Shape::Struct(type_of(ty)), config);
    match walk.errors.as_slice() {
        [] => {}
        [one] => return Err(one.clone()),
        many => return Err(format!("errors:\n  {}", many.join("\n  "))),
    }
    root.retain(|name, _| scope.holds(name.strip_prefix("f:").unwrap_or(name)));
    if let Some(Value::Object(metadata)) = root.get_mut("f:metadata") {
        metadata.retain(|name, _| !is_system_metadata(name.strip_prefix("f:").unwrap_or(name)));
        if metadata.is_empty() {
            root.remove("f:metadata");
        }
    }
    Ok(Set(root))
}

#[derive(Default)]
struct Walk {
    path: String,
    errors: Vec<String>,
}

impl Walk {
    fn refuse(&mut self, why: &str) -> Node {
        let at = &self.path;
        let text = if at.is_empty() {
            why.to_owned()
        } else {
            format!("{at}: {why}")
        };
        self.errors.push(text);
        Node::new()
    }

    fn at(&mut self, element: &str, work: impl FnOnce(&mut Self) -> Node) -> Node {
        let length = self.path.len();
        element::show(element, &mut self.path);
        let node = work(self);
        self.path.truncate(length);
        node
    }

    fn value(&mut self, shape: Shape, value: &Value) -> Node {
        if value.is_null() {
            return Node::new();
        }
        match shape {
            Shape::Leaf(ty) => self.leaf(ty, value),
            Shape::Struct(ty) => self.fields(ty, value),
            Shape::Map(item) => {
                let Value::Object(map) = value else {
                    return self.refuse(&format!("expected map, got {}", go(value)));
                };
                let mut out = Node::new();
                for (name, value) in map {
                    let element = element::field(name);
                    let child = self.at(&element, |walk| walk.value(Shape::of_value(item), value));
                    put(&mut out, element, with_self(child));
                }
                out
            }
            Shape::Items(ty, keys) => self.items(ty, keys, value),
            Shape::Set(item) => {
                let Value::Array(list) = value else {
                    return self.refuse(&format!("expected list, got {}", go(value)));
                };
                let mut out = Node::new();
                for (i, value) in list.iter().enumerate() {
                    let wrong = match value {
                        Value::Object(_) => {
                            Some("associative list without keys has an element that's a map type")
                        }
                        Value::Array(_) => {
                            Some("not supported: associative list with lists as elements")
                        }
                        Value::Null => Some(
                            "associative list without keys has an element that's an explicit null",
                        ),
                        _ => None,
                    };
                    if let Some(wrong) = wrong {
                        return self.refuse(&format!("element {i}: {wrong}"));
                    }
                    let element = element::value(value);
                    if out.contains_key(&element) {
                        let mut shown = String::new();
                        element::show(&element, &mut shown);
                        return self.refuse(&format!("duplicate entries for key {shown}"));
                    }
                    self.at(&element, |walk| walk.leaf(item, value));
                    put(&mut out, element, Node::new());
                }
                out
            }
        }
    }

    fn fields(&mut self, ty: &'static Type, value: &Value) -> Node {
        let Value::Object(map) = value else {
            return self.refuse(&format!("expected map, got {}", go(value)));
        };
        let mut out = Node::new();
        for (name, value) in map {
            let element = element::field(name);
            let child = self.at(&element, |walk| match ty.field(name) {
                Some(field) => walk.value(Shape::of(ty, field), value),
                None => walk.refuse("field not declared in schema"),
            });
            put(&mut out, element, child);
        }
        out
    }

    fn items(&mut self, ty: &'static Type, keys: &'static [&'static str], value: &Value) -> Node {
        let Value::Array(list) = value else {
            return self.refuse(&format!("expected list, got {}", go(value)));
        };
        let mut out = Node::new();
        for (i, item) in list.iter().enumerate() {
            if item.is_null() {
                return self.refuse(&format!(
                    "element {i}: associative list with keys may not have a null element"
                ));
            }
            if !item.is_object() {
                return self.refuse(&format!(
                    "element {i}: associative list with keys may not have non-map elements"
                ));
            }
            let Some(element) = element::item(ty, keys, item) else {
                let keys: Vec<String> = keys.iter().map(|k| format!("{k:?}")).collect();
                return self.refuse(&format!(
                    "element {i}: associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    keys.join(" ")
                ));
            };
            if out.contains_key(&element) {
                let mut shown = String::new();
                element::show(&element, &mut shown);
                return self.refuse(&format!("duplicate entries for key {shown}"));
            }
            let child = self.at(&element, |walk| walk.value(Shape::of_item(ty), item));
            put(&mut out, element, with_self(child));
        }
        out
    }

    /// A value that is owned as a whole.
    fn leaf(&mut self, ty: Ty, value: &Value) -> Node {
        let wanted = match ty {
            Ty::Any => None,
            Ty::Bool => (!value.is_boolean()).then_some("boolean"),
            Ty::Int32 | Ty::Int64 | Ty::Float => (!value.is_number()).then_some("numeric"),
            Ty::String | Ty::Bytes => (!value.is_string()).then_some("string"),
            Ty::Time | Ty::MicroTime | Ty::Quantity | Ty::IntOrString => {
                (value.is_object() || value.is_array()).then_some("scalar")
            }
            Ty::List(_) => (!value.is_array()).then_some("list"),
            Ty::Map(_) | Ty::Struct(_) => (!value.is_object()).then_some("map"),
        };
        match wanted {
            None => Node::new(),
            Some("numeric") => self.refuse(&format!(
                "expected numeric (int or float), got {}",
                go_type(value)
            )),
            Some(wanted @ ("string" | "boolean")) => self.refuse(&format!(
                "expected {wanted}, got &value.valueUnstructured{{Value:{value}}}"
            )),
            Some(wanted) => self.refuse(&format!("expected {wanted}, got {}", go(value))),
        }
    }
}

/// A value as Go prints one of upstream's wrappers.
fn go(value: &Value) -> String {
    fn plain(value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            Value::Object(map) => {
                let inner: Vec<String> = map
                    .iter()
                    .map(|(k, v)| format!("{k}:{}", plain(v)))
                    .collect();
                format!("map[{}]", inner.join(" "))
            }
            Value::Array(list) => {
                let inner: Vec<String> = list.iter().map(plain).collect();
                format!("[{}]", inner.join(" "))
            }
            other => other.to_string(),
        }
    }
    format!("&{{{}}}", plain(value))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
