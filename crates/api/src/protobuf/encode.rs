//! JSON to protobuf in one pass, without a tree in between: stored objects are JSON text.
//!
//! Numbers come in the order of the JSON's names, which readers don't mind; only inlined messages are gathered and
//! written last, so that each appears once.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize as _;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::MAGIC;
use super::layout::{self, AnyForm};
use crate::facts::{self, Ty, TypeId};

/// What could not be written: a stored object that does not fit its kind.
pub type Error = serde_json::Error;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;

/// How an object is written.
#[derive(Debug, Clone, Copy)]
enum Message {
    Object(TypeId),
    /// `PartialObjectMetadata`: of the whole object, the metadata alone.
    Metadata,
}

/// One object in its envelope, from its JSON; as `PartialObjectMetadata` where `ty` is none.
///
/// # Errors
/// When it does not fit the type's fields.
pub fn object(
    api_version: &str,
    kind: &str,
    ty: Option<TypeId>,
    json: &[u8],
) -> Result<Vec<u8>, Error> {
    let message = ty.map_or(Message::Metadata, Message::Object);
    envelope(api_version, kind, json.len(), |out| {
        write(out, message, json)
    })
}

/// A list in its envelope, from its `metadata` and the JSON of its items.
///
/// # Errors
/// When an item does not fit the type's fields.
pub fn list<'a>(
    api_version: &str,
    kind: &str,
    ty: Option<TypeId>,
    metadata: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Error> {
    let message = ty.map_or(Message::Metadata, Message::Object);
    envelope(api_version, kind, 1024, |out| {
        let list_meta = facts::type_by_definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
        if let Some(list_meta) = list_meta {
            delimited(out, 1, |out| fields(out, list_meta, metadata))?;
        }
        for item in items {
            delimited(out, 2, |out| write(out, message, item))?;
        }
        Ok(())
    })
}

/// A `metav1.Status` in its envelope.
///
/// # Errors
/// None that a status of ours can cause.
pub fn status(status: &Value) -> Result<Vec<u8>, Error> {
    let ty = facts::type_by_definition("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    envelope("v1", "Status", 256, |out| match ty {
        Some(ty) => fields(out, ty, status),
        None => Ok(()),
    })
}

/// An object that has metadata only: a bookmark.
///
/// # Errors
/// None that metadata of ours can cause.
pub fn bookmark(api_version: &str, kind: &str, object: &Value) -> Result<Vec<u8>, Error> {
    let json = object.to_string();
    envelope(api_version, kind, json.len(), |out| {
        write(out, Message::Metadata, json.as_bytes())
    })
}

/// A frame of a watch: its length, then the event with `object`, which has an envelope of its own.
#[must_use]
pub fn watch_event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(&[0; 4]);
    text(&mut out, 1, kind);
    tag(&mut out, 2, DELIMITED);
    let mut head = Vec::new();
    tag(&mut head, 1, DELIMITED);
    varint(&mut head, object.len() as u64);
    varint(&mut out, (head.len() + object.len()) as u64);
    out.extend_from_slice(&head);
    out.extend_from_slice(object);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn envelope(
    api_version: &str,
    kind: &str,
    capacity: usize,
    message: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>,
) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(capacity + 64);
    out.extend_from_slice(MAGIC);
    delimited(&mut out, 1, |out| {
        text(out, 1, api_version);
        text(out, 2, kind);
        Ok::<_, Error>(())
    })?;
    delimited(&mut out, 2, message)?;
    // Go writes these two although they are empty.
    text(&mut out, 3, "");
    text(&mut out, 4, "");
    Ok(out)
}

fn write(out: &mut Vec<u8>, message: Message, json: &[u8]) -> Result<(), Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    match message {
        Message::Object(ty) => Fields { ty, out }.deserialize(&mut reader)?,
        Message::Metadata => MetadataOnly(out).deserialize(&mut reader)?,
    }
    reader.end()
}

fn fields(out: &mut Vec<u8>, ty: TypeId, object: &Value) -> Result<(), Error> {
    Fields { ty, out }.deserialize(object)
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    bytes(out, number, text.as_bytes());
}

fn bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    tag(out, number, DELIMITED);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    varint(out, value.cast_unsigned());
}

/// Writes what `message` writes after its length.
fn delimited<E>(
    out: &mut Vec<u8>,
    number: u32,
    message: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, number, DELIMITED);
    let start = out.len();
    // Most messages are short: room for a length of one byte, and a move for the others.
    out.push(0);
    message(out)?;
    let length = out.len() - start - 1;
    if let Ok(short @ 0..0x80) = u8::try_from(length) {
        out[start] = short;
    } else {
        let mut prefix = Vec::with_capacity(10);
        varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    Ok(())
}

/// The fields of an object of type `ty`.
struct Fields<'o> {
    ty: TypeId,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", facts::type_of(self.ty).name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let ty = facts::type_of(self.ty);
        let mut inlined = Inlined::default();
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            let Some(field) = ty.field(&name).filter(|f| !f.pb.is_empty()) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let (outer, number) = field.pb.split_at(field.pb.len() - 1);
            let one = One {
                owner: self.ty,
                name: field.name,
                ty: field.ty,
                number: number[0],
                out: if outer.is_empty() {
                    &mut *self.out
                } else {
                    inlined.buffer(outer)
                },
            };
            map.next_value_seed(one)?;
        }
        inlined.write(self.out);
        Ok(())
    }
}

/// Messages that JSON does not name: what their fields write, by number.
#[derive(Default)]
struct Inlined {
    fields: Vec<u8>,
    inner: Vec<(u32, Inlined)>,
}

impl Inlined {
    fn buffer(&mut self, path: &[u32]) -> &mut Vec<u8> {
        let Some((number, rest)) = path.split_first() else {
            return &mut self.fields;
        };
        let at = match self.inner.iter().position(|(n, _)| n == number) {
            Some(at) => at,
            None => {
                self.inner.push((*number, Self::default()));
                self.inner.len() - 1
            }
        };
        self.inner[at].1.buffer(rest)
    }

    fn write(mut self, out: &mut Vec<u8>) {
        out.append(&mut self.fields);
        for (number, inner) in self.inner {
            let mut message = Vec::new();
            inner.write(&mut message);
            bytes(out, number, &message);
        }
    }
}

/// The metadata of an object, nothing else of it.
struct MetadataOnly<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for MetadataOnly<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataOnly<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let ty = facts::type_by_definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match ty {
                Some(ty) if name == "metadata" => map.next_value_seed(One {
                    owner: ty,
                    name: "metadata",
                    ty: Ty::Struct(ty),
                    number: 1,
                    out: &mut *self.0,
                })?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// One field's value, or one item of a list, after its number.
struct One<'o> {
    /// The type whose field it is, and the field's name.
    owner: TypeId,
    name: &'static str,
    ty: Ty,
    number: u32,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.ty == Ty::Any {
            let value = Value::deserialize(from)?;
            return self.any(&value).map_err(de::Error::custom);
        }
        from.deserialize_any(self)
    }
}

impl One<'_> {
    fn misfit<E: de::Error>(&self, found: &str) -> E {
        E::custom(format_args!("{}: {found} for a {:?}", self.name, self.ty))
    }

    fn any(self, value: &Value) -> Result<(), Error> {
        let Self { owner, number, .. } = self;
        let schema = |out: &mut Vec<u8>, number, value: &Value| {
            delimited(out, number, |out| fields(out, owner, value))
        };
        // A null among the values of a schema's `enum` is one of them.
        let field = facts::type_of(owner).field(self.name);
        let item = field.is_some_and(|f| matches!(f.ty, Ty::List(_)));
        if value.is_null() && !item {
            return Ok(());
        }
        delimited(self.out, number, |out| {
            match (layout::any_form(owner, self.name), value) {
                (AnyForm::SchemaOrArray, Value::Array(items)) => {
                    items.iter().try_for_each(|item| schema(out, 2, item))
                }
                (AnyForm::SchemaOrArray, value) => schema(out, 1, value),
                (AnyForm::SchemaOrBool, Value::Bool(allows)) => {
                    integer(out, 1, i64::from(*allows));
                    Ok(())
                }
                (AnyForm::SchemaOrBool, value) => {
                    // Upstream's reader sets this for every schema.
                    integer(out, 1, 1);
                    schema(out, 2, value)
                }
                (AnyForm::SchemaOrStrings, Value::Array(names)) => {
                    for name in names {
                        text(out, 2, name.as_str().unwrap_or_default());
                    }
                    Ok(())
                }
                (AnyForm::SchemaOrStrings, value) => schema(out, 1, value),
                (AnyForm::Raw, value) => {
                    text(out, 1, &value.to_string());
                    Ok(())
                }
            }
        })
    }

    fn int<E: de::Error>(self, value: i64) -> Result<(), E> {
        match self.ty {
            Ty::Int32 | Ty::Int64 => integer(self.out, self.number, value),
            Ty::IntOrString => delimited(self.out, self.number, |out| {
                integer(out, 1, 0);
                integer(out, 2, value);
                text(out, 3, "");
                Ok::<_, E>(())
            })?,
            _ => return self.double(value as f64),
        }
        Ok(())
    }

    fn double<E: de::Error>(self, value: f64) -> Result<(), E> {
        match self.ty {
            Ty::Float => {
                tag(self.out, self.number, FIXED64);
                self.out.extend_from_slice(&value.to_bits().to_le_bytes());
                Ok(())
            }
            Ty::Quantity => self.visit_str(&value.to_string()),
            #[allow(clippy::cast_possible_truncation, reason = "1.0 is an integer in JSON")]
            Ty::Int32 | Ty::Int64 => self.int(value as i64),
            _ => Err(self.misfit("a number")),
        }
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {:?} for {}", self.ty, self.name)
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        if self.ty != Ty::Bool {
            return Err(self.misfit("a bool"));
        }
        integer(self.out, self.number, i64::from(value));
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        self.int(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        self.int(value.cast_signed())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        self.double(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        let Self { number, out, .. } = self;
        match self.ty {
            Ty::String => text(out, number, value),
            Ty::Bytes => {
                let data = STANDARD.decode(value).map_err(E::custom)?;
                bytes(out, number, &data);
            }
            Ty::Quantity => delimited(out, number, |out| {
                text(out, 1, value);
                Ok::<_, E>(())
            })?,
            Ty::IntOrString => delimited(out, number, |out| {
                integer(out, 1, 1);
                integer(out, 2, 0);
                text(out, 3, value);
                Ok::<_, E>(())
            })?,
            Ty::Time | Ty::MicroTime => {
                let time = crate::time::parse(value)
                    .ok_or_else(|| E::custom(format_args!("{value} is not a time")))?;
                delimited(out, number, |out| {
                    integer(out, 1, time.as_second());
                    integer(out, 2, i64::from(time.subsec_nanosecond()));
                    Ok::<_, E>(())
                })?;
            }
            _ => {
                return Err(E::custom(format_args!(
                    "{}: a string for a {:?}",
                    self.name, self.ty
                )));
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Ty::List(item) = self.ty else {
            return Err(self.misfit("a list"));
        };
        loop {
            let one = One {
                ty: *item,
                out: &mut *self.out,
                ..self
            };
            if items.next_element_seed(one)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self.ty {
            Ty::Struct(ty) => delimited(self.out, self.number, |out| {
                Fields { ty, out }.visit_map(map)
            }),
            Ty::Map(value) => {
                while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    delimited(self.out, self.number, |out| {
                        text(out, 1, &key);
                        entry(self.owner, self.name, *value, out, &mut map)
                    })?;
                }
                Ok(())
            }
            _ => Err(self.misfit("an object")),
        }
    }
}

/// The value of a map's entry, under the number 2; a list there is a message of its own (`ExtraValue`).
fn entry<'de, A: MapAccess<'de>>(
    owner: TypeId,
    name: &'static str,
    ty: Ty,
    out: &mut Vec<u8>,
    map: &mut A,
) -> Result<(), A::Error> {
    let mut one = |number, out: &mut Vec<u8>| {
        map.next_value_seed(One {
            owner,
            name,
            ty,
            number,
            out,
        })
    };
    if matches!(ty, Ty::List(_)) {
        return delimited(out, 2, |out| one(1, out));
    }
    one(2, out)
}
