//! The OpenAPI v2 document as protobuf, which `kubectl` before 1.28 asks for and nothing else.
//!
//! Follows gnostic's `OpenAPIv2.proto`: maps are lists of named values, extensions carry their JSON as YAML text.

use serde_json::{Map, Value};

/// The media type that clients ask for.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// What the answer calls it: `@` is no character of a media type, so upstream answers with this.
pub const ANSWERED_MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes a v2 document.
#[must_use]
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    let mut info = Message::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.nested(2, &info);
    let mut paths = Message::default();
    for (name, path) in entries(&document["paths"]) {
        paths.named(2, name, &path_item(path));
    }
    out.nested(8, &paths);
    let mut definitions = Message::default();
    for (name, definition) in entries(&document["definitions"]) {
        definitions.named(1, name, &schema(definition));
    }
    out.nested(9, &definitions);
    out.0
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn nested(&mut self, number: u64, message: &Self) {
        self.bytes(number, &message.0);
    }

    /// A string that may be absent.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.bytes(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u64, value: &Value) {
        for text in value.as_array().into_iter().flatten() {
            self.text(number, text);
        }
    }

    fn truth(&mut self, number: u64, value: &Value) {
        if value == true {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    /// A `Named…` message: a map's entry.
    fn named(&mut self, number: u64, name: &str, value: &Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.nested(2, value);
        self.nested(number, &entry);
    }

    fn extensions(&mut self, number: u64, of: &Value) {
        for (name, value) in entries(of).filter(|(name, _)| name.starts_with("x-")) {
            self.named(number, name, &any(value));
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// `Any`: JSON is YAML.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn path_item(path: &Value) -> Message {
    let mut out = Message::default();
    for (number, method) in [
        (2, "get"),
        (3, "put"),
        (4, "post"),
        (5, "delete"),
        (8, "patch"),
    ] {
        if path[method].is_object() {
            out.nested(number, &operation(&path[method]));
        }
    }
    for parameter in path["parameters"].as_array().into_iter().flatten() {
        out.nested(9, &parameters_item(parameter));
    }
    out.extensions(10, path);
    out
}

fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        out.nested(8, &parameters_item(parameter));
    }
    let mut responses = Message::default();
    for (code, response) in entries(&operation["responses"]) {
        let mut plain = Message::default();
        plain.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Message::default();
            item.nested(1, &schema(&response["schema"]));
            plain.nested(2, &item);
        }
        let mut value = Message::default();
        value.nested(1, &plain);
        responses.named(1, code, &value);
    }
    out.nested(9, &responses);
    out.texts(10, &operation["schemes"]);
    out.extensions(13, operation);
    out
}

fn parameters_item(parameter: &Value) -> Message {
    let mut out = Message::default();
    if parameter["$ref"].is_string() {
        let mut reference = Message::default();
        reference.text(1, &parameter["$ref"]);
        out.nested(2, &reference);
        return out;
    }
    let mut either = Message::default();
    if parameter["in"] == "body" {
        let mut body = Message::default();
        for (number, field) in [(1, "description"), (2, "name"), (3, "in")] {
            body.text(number, &parameter[field]);
        }
        body.truth(4, &parameter["required"]);
        body.nested(5, &schema(&parameter["schema"]));
        either.nested(1, &body);
    } else {
        // Path and query parameters have the same first fields; a query's type comes one number later.
        let query = parameter["in"] == "query";
        let mut plain = Message::default();
        plain.truth(1, &parameter["required"]);
        for (number, field) in [(2, "in"), (3, "description"), (4, "name")] {
            plain.text(number, &parameter[field]);
        }
        plain.text(if query { 6 } else { 5 }, &parameter["type"]);
        plain.text(if query { 7 } else { 6 }, &parameter["format"]);
        let mut other = Message::default();
        other.nested(if query { 3 } else { 4 }, &plain);
        either.nested(2, &other);
    }
    out.nested(1, &either);
    out
}

fn schema(of: &Value) -> Message {
    let mut out = Message::default();
    for (number, field) in [(1, "$ref"), (2, "format"), (3, "title"), (4, "description")] {
        out.text(number, &of[field]);
    }
    if let Some(default) = of.get("default") {
        out.nested(5, &any(default));
    }
    out.texts(19, &of["required"]);
    for item in of["enum"].as_array().into_iter().flatten() {
        out.nested(20, &any(item));
    }
    match &of["additionalProperties"] {
        Value::Object(_) => {
            let mut item = Message::default();
            item.nested(1, &schema(&of["additionalProperties"]));
            out.nested(21, &item);
        }
        Value::Bool(allowed) => {
            let mut item = Message::default();
            item.truth(2, &Value::Bool(*allowed));
            out.nested(21, &item);
        }
        _ => {}
    }
    if of["type"].is_string() {
        let mut item = Message::default();
        item.text(1, &of["type"]);
        out.nested(22, &item);
    }
    if of["items"].is_object() {
        let mut item = Message::default();
        item.nested(1, &schema(&of["items"]));
        out.nested(23, &item);
    }
    if of["properties"].is_object() {
        let mut properties = Message::default();
        for (name, property) in entries(&of["properties"]) {
            properties.named(1, name, &schema(property));
        }
        out.nested(25, &properties);
    }
    out.extensions(31, of);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_a_named_schema() {
        let document = json!({
            "swagger": "2.0", "info": {"title": "t", "version": "v"}, "paths": {},
            "definitions": {"A": {"type": "object", "x-y": 1}},
        });
        let bytes = encode(&document);
        let name = b"\x0a\x01A";
        assert!(
            bytes.starts_with(b"\x0a\x032.0\x12\x06\x0a\x01t\x12\x01v\x42\x00"),
            "{bytes:?}"
        );
        assert!(bytes.windows(name.len()).any(|w| w == name));
        // type: TypeItem { value: ["object"] } is field 22.
        assert!(
            bytes
                .windows(11)
                .any(|w| w == b"\xb2\x01\x08\x0a\x06object"),
            "{bytes:?}"
        );
    }
}
