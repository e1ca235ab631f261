//! Protobuf to JSON's tree.
//!
//! Go writes plain fields even when they are empty and leaves out absent pointers; since the wire does not tell the two
//! apart, empty strings are dropped except where a pointer to one has a meaning of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use super::MAGIC;
use super::layout::{self, AnyForm, Layout, Part};
use crate::facts::{self, Field, Ty, TypeId};

/// Messages nest at most this deep.
const MAX_DEPTH: usize = 100;
/// Fields in which an empty string is not the same as none.
const MEANINGFUL_WHEN_EMPTY: [(&str, &str); 8] = [
    ("PersistentVolumeClaimSpec", "storageClassName"),
    ("PersistentVolumeClaimSpec", "volumeAttributesClassName"),
    ("PersistentVolumeSpec", "volumeAttributesClassName"),
    ("IngressSpec", "ingressClassName"),
    ("HostPathVolumeSource", "type"),
    ("GRPCAction", "service"),
    ("EndpointPort", "name"),
    ("Preconditions", "resourceVersion"),
];

/// Reads an object of type `ty` from its envelope; apiVersion and kind are the envelope's.
///
/// # Errors
/// A sentence: what is not as it should be.
pub fn decode(ty: TypeId, body: &[u8]) -> Result<Value, String> {
    let unknown = body.strip_prefix(MAGIC).ok_or(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    )?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for field in Fields(unknown) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = message(ty, raw, 0)?;
    for (field, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            object.insert(field.into(), text.into());
        }
    }
    Ok(Value::Object(object))
}

/// One value as the wire has it.
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message, in the order of the wire.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or("unexpected EOF")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("proto: integer overflow".into())
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("unexpected EOF")?;
        self.0 = rest;
        Ok(head)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>), String> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(
                self.take(8)?.try_into().map_err(|_| "unexpected EOF")?,
            )),
            2 => {
                let length =
                    usize::try_from(self.varint()?).map_err(|_| "proto: negative length found")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(
                self.take(4)?.try_into().map_err(|_| "unexpected EOF")?,
            )),
            other => return Err(format!("proto: illegal wireType {other}")),
        };
        Ok((tag >> 3, wire))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "proto: a string is not valid UTF-8".into())
}

/// Whose field a value is.
#[derive(Clone, Copy)]
struct At {
    owner: TypeId,
    name: &'static str,
    depth: usize,
}

fn message(ty: TypeId, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, String> {
    if depth > MAX_DEPTH {
        return Err("exceeded max depth".into());
    }
    let mut object = Map::new();
    read(ty, layout::of(ty), bytes, depth, &mut object)?;
    Ok(object)
}

fn read(
    owner: TypeId,
    layout: &'static Layout,
    bytes: &[u8],
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<(), String> {
    for field in Fields(bytes) {
        let (number, wire) = field?;
        // Fields of a newer version are skipped, as Go does.
        match (layout.part(number), wire) {
            (None, _) => {}
            (Some(Part::Inlined(inner)), Wire::Bytes(bytes)) => {
                read(owner, inner, bytes, depth, object)?;
            }
            (Some(Part::Inlined(_)), _) => return Err("proto: wrong wireType for a message".into()),
            (Some(Part::Field(field)), wire) => {
                let name = field.name;
                let at = At { owner, name, depth };
                set(at, field, wire, object)?;
            }
        }
    }
    Ok(())
}

/// Adds to a list or map, or sets a single value unless it says nothing.
fn set(
    at: At,
    field: &Field,
    wire: Wire<'_>,
    object: &mut Map<String, Value>,
) -> Result<(), String> {
    match field.ty {
        Ty::List(item) => {
            let list = object
                .entry(field.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                extend(at, list, *item, wire)?;
            }
        }
        Ty::Map(value) => {
            let map = object
                .entry(field.name)
                .or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(map), Wire::Bytes(entry)) = (map, wire) {
                let (key, value) = map_entry(at, *value, entry)?;
                map.insert(key, value);
            }
        }
        ty => {
            let value = single(at, ty, wire)?;
            let empty = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty() && !means_something_empty(at),
                Value::Bool(b) => field.omit_zero && !b,
                Value::Number(n) => field.omit_zero && n.as_i64() == Some(0),
                _ => false,
            };
            if !empty {
                object.insert(field.name.into(), value);
            }
        }
    }
    Ok(())
}

fn means_something_empty(at: At) -> bool {
    let owner = facts::type_of(at.owner).name;
    MEANINGFUL_WHEN_EMPTY.contains(&(owner, at.name))
}

/// Adds one item, or a packed run of numbers.
fn extend(at: At, list: &mut Vec<Value>, item: Ty, wire: Wire<'_>) -> Result<(), String> {
    if let (Ty::Int32 | Ty::Int64 | Ty::Bool, Wire::Bytes(packed)) = (item, &wire) {
        let mut packed = Fields(packed);
        while !packed.0.is_empty() {
            let number = packed.varint()?;
            list.push(single(at, item, Wire::Varint(number))?);
        }
        return Ok(());
    }
    list.push(single(at, item, wire)?);
    Ok(())
}

fn map_entry(at: At, value: Ty, entry: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut found) = (String::new(), None);
    for field in Fields(entry) {
        match field? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => {
                found = Some(match (value, wire) {
                    // A list as a map's value is wrapped in a message of its own.
                    (Ty::List(item), Wire::Bytes(wrapped)) => {
                        let mut list = Vec::new();
                        for field in Fields(wrapped) {
                            if let (1, wire) = field? {
                                extend(at, &mut list, *item, wire)?;
                            }
                        }
                        Value::Array(list)
                    }
                    (ty, wire) => single(at, ty, wire)?,
                });
            }
            _ => {}
        }
    }
    let empty = || match value {
        ty if layout::is_text(ty) => Value::String(String::new()),
        Ty::List(_) => Value::Array(Vec::new()),
        _ => Value::Object(Map::new()),
    };
    Ok((key, found.unwrap_or_else(empty)))
}

#[allow(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a varint is two's complement"
)]
fn single(at: At, ty: Ty, wire: Wire<'_>) -> Result<Value, String> {
    Ok(match (ty, wire) {
        (Ty::Bool, Wire::Varint(n)) => Value::Bool(n != 0),
        (Ty::Int32, Wire::Varint(n)) => Value::from(n as i32),
        (Ty::Int64, Wire::Varint(n)) => Value::from(n as i64),
        (Ty::Float, Wire::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Ty::Float, Wire::Fixed32(bits)) => {
            Number::from_f64(f64::from(f32::from_bits(bits))).map_or(Value::Null, Value::Number)
        }
        (Ty::String, Wire::Bytes(text)) => Value::String(utf8(text)?),
        (Ty::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Ty::Time | Ty::MicroTime, Wire::Bytes(bytes)) => time(ty, bytes)?,
        (Ty::Quantity, Wire::Bytes(bytes)) => Value::String(text_of(bytes, 1)?),
        (Ty::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Ty::Any, Wire::Bytes(bytes)) => any_json(at, bytes)?,
        (Ty::Struct(ty), Wire::Bytes(bytes)) => Value::Object(message(ty, bytes, at.depth + 1)?),
        // A list within a list has no wire form of its own in Kubernetes' messages.
        (ty, _) => return Err(format!("proto: wrong wireType for a {ty:?}")),
    })
}

fn text_of(bytes: &[u8], wanted: u64) -> Result<String, String> {
    let mut text = String::new();
    for field in Fields(bytes) {
        if let (number, Wire::Bytes(bytes)) = field?
            && number == wanted
        {
            text = utf8(bytes)?;
        }
    }
    Ok(text)
}

#[allow(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a varint is two's complement"
)]
fn time(ty: Ty, bytes: &[u8]) -> Result<Value, String> {
    let (mut seconds, mut nanos) = (0_i64, 0_i32);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    let micro = matches!(ty, Ty::MicroTime);
    Ok(Value::String(if micro {
        crate::time::micros(at)
    } else {
        crate::time::seconds(at)
    }))
}

#[allow(
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "a varint is two's complement"
)]
fn int_or_string(bytes: &[u8]) -> Result<Value, String> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Varint(n)) => is_text = n == 1,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(bytes)) => text = utf8(bytes)?,
            _ => {}
        }
    }
    Ok(if is_text {
        Value::String(text)
    } else {
        Value::from(number)
    })
}

/// Any JSON, in the form that its field has.
fn any_json(at: At, bytes: &[u8]) -> Result<Value, String> {
    let form = layout::any_form(at.owner, at.name);
    let schema = |bytes| message(at.owner, bytes, at.depth + 1).map(Value::Object);
    let (mut single, mut list) = (Value::Null, None::<Vec<Value>>);
    for field in Fields(bytes) {
        match (form, field?) {
            (AnyForm::Raw, (1, Wire::Bytes(json))) => {
                single = serde_json::from_slice(json).map_err(|e| e.to_string())?;
            }
            (AnyForm::SchemaOrBool, (1, Wire::Varint(allows))) if single.is_null() => {
                single = Value::Bool(allows != 0);
            }
            (AnyForm::SchemaOrArray | AnyForm::SchemaOrStrings, (1, Wire::Bytes(bytes)))
            | (AnyForm::SchemaOrBool, (2, Wire::Bytes(bytes))) => single = schema(bytes)?,
            (AnyForm::SchemaOrArray, (2, Wire::Bytes(bytes))) => {
                list.get_or_insert_default().push(schema(bytes)?);
            }
            (AnyForm::SchemaOrStrings, (2, Wire::Bytes(name))) => {
                list.get_or_insert_default().push(utf8(name)?.into());
            }
            _ => {}
        }
    }
    Ok(list.map_or(single, Value::Array))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn bytes(number: u8, body: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(body.len()).unwrap()];
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_secret_as_kubectl_sends_it() {
        let secret = facts::kind("", "v1", "secrets").unwrap();
        let metadata = [bytes(1, b"login"), bytes(2, b""), bytes(3, b"demo")].concat();
        let data = [bytes(1, b"key"), bytes(2, b"value")].concat();
        let object = [bytes(1, &metadata), bytes(2, &data), bytes(3, b"Opaque")].concat();
        let type_meta = [bytes(1, b"v1"), bytes(2, b"Secret")].concat();
        let body = [MAGIC.to_vec(), bytes(1, &type_meta), bytes(2, &object)].concat();
        assert_eq!(
            decode(secret.ty, &body).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"key": "dmFsdWU="},
                "metadata": {"name": "login", "namespace": "demo"},
            })
        );
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        let pods = facts::kind("", "v1", "pods").unwrap().ty;
        for body in [&b"{}"[..], b"", b"k8s\0\x0a\xff", b"k8s\0\x12\x02\x0a\x05"] {
            assert!(decode(pods, body).is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let pods = facts::kind("", "v1", "pods").unwrap().ty;
            let mut enveloped = MAGIC.to_vec();
            enveloped.extend_from_slice(&body);
            let _ = decode(pods, &enveloped);
            let _ = message(pods, &body, 0);
            let _ = message(layout::schema_props().unwrap(), &body, 0);
        }
    }
}
