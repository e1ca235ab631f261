//! Between objects as trees and the bytes that the store keeps.

use api::Status;
use api::facts::{Kind, TypeId};
use bytes::Bytes;
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use store::Entry;
use world::metrics::Counter;

use super::{Context, FieldValidation};
use crate::object::{self, text};

const MANAGED: &str = "managedFields";

/// The stored form, and where in it the engine inserts the resourceVersion. `managed` is the text of the managed fields,
/// of an object that does not hold them itself. `encodes` counts: a write has one (law 2).
///
/// # Errors
/// 500 if the object has no metadata, which creation makes sure of.
pub fn encode(
    value: &Value,
    managed: Option<&str>,
    encodes: &Counter,
) -> Result<(Bytes, u32), Status> {
    encodes.inc();
    let bad = || Status::internal("an object without metadata cannot be stored");
    let Value::Object(map) = value else {
        return Err(bad());
    };
    let mut out = Vec::with_capacity(1024 + managed.map_or(0, str::len));
    let mut offset = None;
    let failed = |e: serde_json::Error| Status::internal(e);
    for (i, (name, field)) in map.iter().enumerate() {
        out.push(if i == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut out, name).map_err(failed)?;
        out.push(b':');
        if name == "metadata" {
            let Value::Object(metadata) = field else {
                return Err(bad());
            };
            offset = u32::try_from(out.len() + 1).ok();
            out.push(b'{');
            let start = out.len();
            let kept = metadata.iter().filter(|(k, _)| *k != "resourceVersion");
            // In the order of the other fields, so that the same object is always the same bytes.
            let (before, after): (Vec<_>, Vec<_>) = kept.partition(|(k, _)| k.as_str() < MANAGED);
            for (k, v) in before {
                put(&mut out, start, k, v).map_err(failed)?;
            }
            if let Some(managed) = managed {
                put_name(&mut out, start, MANAGED).map_err(failed)?;
                out.extend_from_slice(managed.as_bytes());
            }
            for (k, v) in after {
                put(&mut out, start, k, v).map_err(failed)?;
            }
            out.push(b'}');
        } else {
            serde_json::to_writer(&mut out, field).map_err(failed)?;
        }
    }
    out.push(b'}');
    Ok((out.into(), offset.ok_or_else(bad)?))
}

fn put_name(out: &mut Vec<u8>, start: usize, name: &str) -> serde_json::Result<()> {
    if out.len() > start {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    Ok(())
}

fn put(out: &mut Vec<u8>, start: usize, key: &str, value: &Value) -> serde_json::Result<()> {
    put_name(out, start, key)?;
    serde_json::to_writer(out, value)
}

/// The object of an entry without its managed fields, and these as they are stored: they are half of many objects, and
/// few writes look into them.
///
/// # Errors
/// 500 when it is not JSON.
pub fn decode_apart(entry: &Entry) -> Result<(Value, Option<&str>), Status> {
    parse_apart(&entry.wire).map_err(|e| Status::internal(format!("{} is damaged: {e}", entry.key)))
}

/// [`decode_apart`] of an object's bytes.
///
/// # Errors
/// When they are not a JSON object.
pub(super) fn parse_apart(bytes: &[u8]) -> serde_json::Result<(Value, Option<&str>)> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let mut managed = None;
    let object = Apart {
        managed: &mut managed,
        in_metadata: false,
    };
    let value = object.deserialize(&mut reader)?;
    reader.end()?;
    Ok((value, managed))
}

/// Reads an object, or with `in_metadata` its metadata.
struct Apart<'a, 'de> {
    managed: &'a mut Option<&'de str>,
    in_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for Apart<'_, 'de> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Apart<'_, 'de> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if self.in_metadata && key == MANAGED {
                *self.managed = Some(map.next_value::<&RawValue>()?.get());
                continue;
            }
            let value = if !self.in_metadata && key == "metadata" {
                map.next_value_seed(Apart {
                    managed: &mut *self.managed,
                    in_metadata: true,
                })?
            } else {
                map.next_value()?
            };
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

/// The object of an entry.
///
/// # Errors
/// 500 when it is not JSON: the disk or another program damaged it.
pub fn decode(entry: &Entry) -> Result<Value, Status> {
    serde_json::from_slice(&entry.wire)
        .map_err(|e| Status::internal(format!("{} is damaged: {e}", entry.key)))
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentType {
    Json,
    Yaml,
    Protobuf,
}

/// Parses a body into a tree, along the fields of `ty` where it is protobuf. The second value names duplicate fields.
///
/// # Errors
/// 400 for what cannot be read.
pub fn parse(
    body: &[u8],
    content: ContentType,
    ty: TypeId,
) -> Result<(Value, Vec<String>), Status> {
    let parsed = match content {
        ContentType::Json => api::decode::parse(body, api::decode::Content::Json),
        ContentType::Yaml => api::decode::parse(body, api::decode::Content::Yaml),
        ContentType::Protobuf => api::protobuf::decode(ty, body).map(|value| (value, Vec::new())),
    };
    parsed.map_err(Status::bad_request)
}

/// What a request's body is, by its header.
///
/// # Errors
/// 415 for what is not read.
pub fn content_type(headers: &http::HeaderMap) -> Result<ContentType, Status> {
    let header = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("");
    match header.split(';').next().unwrap_or("").trim() {
        "" | "application/json" | "*/*" => Ok(ContentType::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(ContentType::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(ContentType::Protobuf),
        _ => Err(Status::unsupported_media_type(&[
            "application/json",
            "application/yaml",
            "application/vnd.kubernetes.protobuf",
        ])),
    }
}

/// Parses a body and makes it fit the kind's fields, as upstream's decoder does.
///
/// # Errors
/// 400 for what cannot be read, for another kind's object and, in strict mode, for unknown or duplicate fields.
pub fn read(
    body: &[u8],
    content: ContentType,
    kind: &Kind,
    validation: FieldValidation,
    context: &Context,
) -> Result<Value, Status> {
    let (mut value, duplicates) = parse(body, content, kind.ty)?;
    if !value.is_object() {
        let message = format!(
            "{} in version \"{}\" cannot be handled as a {}: json: cannot unmarshal {} into Go value of type {}.{}",
            kind.kind,
            kind.version,
            kind.kind,
            json_type(&value),
            kind.version,
            kind.kind,
        );
        return Err(Status::bad_request(message));
    }
    identify(&mut value, kind)?;
    conform(&mut value, duplicates, kind, validation, context)?;
    Ok(value)
}

/// A value's type as Go's errors name it.
pub(super) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks apiVersion and kind, filling in what is missing.
fn identify(value: &mut Value, kind: &Kind) -> Result<(), Status> {
    let expected = kind.api_version();
    let (version, name) = (text(value, &["apiVersion"]), text(value, &["kind"]));
    if !name.is_empty() && name != kind.kind || !version.is_empty() && version != expected {
        if name == kind.kind && version.rsplit_once('/').map_or("", |(g, _)| g) == kind.group {
            return Err(Status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({expected})"
            )));
        }
        let (group, v) = version.rsplit_once('/').unwrap_or(("", version));
        let shown = if group.is_empty() {
            format!("{v}, Kind={name}")
        } else {
            format!("{group}/{v}, Kind={name}")
        };
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error or unexpected kind: {shown}",
            kind.kind
        )));
    }
    value["apiVersion"] = expected.into();
    value["kind"] = kind.kind.into();
    Ok(())
}

/// Prunes what the kind does not know, reports it as asked.
///
/// # Errors
/// 400 for wrong types, and in strict mode for unknown or duplicate fields.
pub fn conform(
    value: &mut Value,
    duplicates: Vec<String>,
    kind: &Kind,
    validation: FieldValidation,
    context: &Context,
) -> Result<(), Status> {
    let conformed = api::decode::conform(kind.ty, value);
    if let Some(error) = conformed.type_error(kind.kind, kind.version) {
        return Err(Status::bad_request(error));
    }
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => {
            for finding in api::decode::strict_errors(&conformed.unknown, &duplicates) {
                context.warn(finding);
            }
        }
        FieldValidation::Strict => {
            if let Some(error) = api::decode::strict_error(&conformed.unknown, &duplicates) {
                let (kind, version) = (kind.kind, kind.version);
                return Err(Status::bad_request(format!(
                    "{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"
                )));
            }
        }
    }
    Ok(())
}

/// Checks the namespace of an object against the URL's, filling it in.
///
/// # Errors
/// 400 when they differ.
pub fn settle_namespace(value: &mut Value, kind: &Kind, namespace: &str) -> Result<(), Status> {
    let given = text(value, &["metadata", "namespace"]).to_owned();
    if !kind.namespaced {
        object::metadata(value).remove("namespace");
        return Ok(());
    }
    if !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    object::metadata(value).insert("namespace".into(), namespace.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_goes_to_the_start_of_the_metadata() {
        let value = json!({"kind": "Pod", "data": {"metadata": {}}, "metadata": {"name": "a", "resourceVersion": "7"}});
        let (bytes, offset) = encode(&value, None, &Counter::default()).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text[offset as usize..].starts_with("\"name\":\"a\"}"),
            "{text}"
        );
        assert!(!text.contains("resourceVersion"));
    }

    #[test]
    fn managed_fields_are_kept_apart() {
        let value = json!({"kind": "Pod", "metadata": {"labels": {}, "managedFields": [{"a": 1}], "name": "a"}, "spec": {"metadata": {"managedFields": 1}}});
        let (whole, _) = encode(&value, None, &Counter::default()).unwrap();
        let entry = Entry {
            key: "k".into(),
            wire: whole.clone(),
            revision: 1,
            created: 1,
            rv_span: (0, 0),
            beside: std::sync::Arc::new(()),
        };
        let (object, managed) = decode_apart(&entry).unwrap();
        assert_eq!(managed, Some(r#"[{"a":1}]"#));
        assert_eq!(object["metadata"], json!({"labels": {}, "name": "a"}));
        assert_eq!(object["spec"], value["spec"]);
        assert_eq!(
            encode(&object, managed, &Counter::default()).unwrap().0,
            whole
        );
    }
}
