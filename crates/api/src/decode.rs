//! From a request's body to a clean object.
//!
//! [`parse`] reads JSON or YAML into a tree, noticing duplicate keys with their paths; [`conform`] walks the tree along
//! the facts once: it drops unknown fields and nulls, checks JSON types and puts quantities and times into canonical
//! form. Errors are worded as Go's decoders word them.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::facts::{self, Ty, TypeId};
use crate::field::quote;
use crate::protobuf::layout::{self, AnyForm};
use crate::{Quantity, time};

/// How deep objects may nest.
pub const MAX_DEPTH: usize = 120;
/// How deep YAML may nest: its reader takes many kilobytes of stack a level. Schemas of custom resources, the deepest that
/// people write, have about 40 levels; programs send JSON, also where YAML is asked for.
const MAX_YAML_DEPTH: usize = 64;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Json,
    Yaml,
}

/// Reads a body. The second part lists the paths of fields that occur twice; the last occurrence wins.
///
/// # Errors
/// What is wrong and where.
pub fn parse(body: &[u8], content: Content) -> Result<(Value, Vec<String>), String> {
    let mut state = State::default();
    let value = match content {
        Content::Json => {
            let mut reader = serde_json::Deserializer::from_slice(body);
            let value = Seed(&mut state)
                .deserialize(&mut reader)
                .map_err(|e| json_error(body, &e))?;
            reader.end().map_err(|e| json_error(body, &e))?;
            value
        }
        Content::Yaml => yaml(body, &mut state)?,
    };
    Ok((value, state.duplicates))
}

fn yaml(body: &[u8], state: &mut State) -> Result<Value, String> {
    // kubectl and Go's tools send JSON as YAML often enough for the quicker path to be worth a look.
    if body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(value) = Seed(state).deserialize(&mut serde_json::Deserializer::from_slice(body))
    {
        return Ok(value);
    }
    state.duplicates.clear();
    let text = std::str::from_utf8(body)
        .map_err(|_| "error converting YAML to JSON: yaml: invalid UTF-8".to_owned())?;
    // As Go's library reads YAML: duplicate keys are the visitor's matter, `0644` is octal. What an alias stands for counts
    // each time, so the limit of nodes bounds what a small text can unfold to; that few anchors have many aliases is fine.
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: MAX_YAML_DEPTH,
            flow_nesting_limit: MAX_YAML_DEPTH,
            enforce_alias_anchor_ratio: false,
        },
    };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Seed(state).deserialize(reader)
    })
    .map_err(|e| format!("error converting YAML to JSON: yaml: {}", yaml_error(&e)))
}

fn yaml_error(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    // What is found inside an alias comes as text.
    match first.split_once("budget breached: ") {
        Some((_, breach)) if breach.starts_with("Depth") => {
            format!("exceeded max depth of {MAX_YAML_DEPTH}")
        }
        Some(_) => "document contains excessive aliasing, or too many nodes".into(),
        None => first.to_owned(),
    }
}

/// Go's texts for what `encoding/json` meets most often.
fn json_error(body: &[u8], error: &serde_json::Error) -> String {
    if body.iter().all(u8::is_ascii_whitespace) || error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    if error.is_data() {
        // Our own refusals (depth) carry a position that means little to the sender.
        let text = error.to_string();
        return text.split(" at line ").next().unwrap_or(&text).to_owned();
    }
    let line = error.line().max(1);
    let start: usize = body
        .split(|b| *b == b'\n')
        .take(line - 1)
        .map(|l| l.len() + 1)
        .sum();
    let at = (start + error.column().max(1) - 1).min(body.len() - 1);
    let found = char::from(body[at]);
    let text = error.to_string();
    if start + error.column() == 1
        || at
            == body
                .iter()
                .position(|b| !b.is_ascii_whitespace())
                .unwrap_or(0)
    {
        format!("invalid character '{found}' looking for beginning of value")
    } else {
        format!(
            "invalid character '{found}': {}",
            text.split(" at line ").next().unwrap_or(&text)
        )
    }
}

#[derive(Default)]
struct State {
    /// The path to where the reader is.
    path: String,
    depth: usize,
    duplicates: Vec<String>,
}

struct Seed<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let state = self.0;
        enter(state)?;
        let length = state.path.len();
        let mut out = Vec::new();
        loop {
            use fmt::Write as _;
            let _ = write!(state.path, "[{}]", out.len());
            let Some(item) = seq.next_element_seed(Seed(state))? else {
                break;
            };
            out.push(item);
            state.path.truncate(length);
        }
        state.path.truncate(length);
        state.depth -= 1;
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let state = self.0;
        enter(state)?;
        let length = state.path.len();
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if length > 0 {
                state.path.push('.');
            }
            state.path.push_str(&key);
            let value = map.next_value_seed(Seed(state))?;
            if out.insert(key, value).is_some() && !state.duplicates.contains(&state.path) {
                state.duplicates.push(state.path.clone());
            }
            state.path.truncate(length);
        }
        state.depth -= 1;
        Ok(Value::Object(out))
    }
}

fn enter<E: serde::de::Error>(state: &mut State) -> Result<(), E> {
    state.depth += 1;
    if state.depth > MAX_DEPTH {
        return Err(E::custom(format_args!("exceeded max depth of {MAX_DEPTH}")));
    }
    Ok(())
}

/// What [`conform`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conformed {
    /// Paths of fields that the type does not have; they are gone from the object.
    pub unknown: Vec<String>,
    /// Values of a wrong type, each as upstream's decoder words it. With any, the object must be refused.
    pub errors: Vec<String>,
}

impl Conformed {
    /// The refusal for values of wrong types: the text of a 400.
    #[must_use]
    pub fn type_error(&self, kind: &str, api_version: &str) -> Option<String> {
        let first = self.errors.first()?;
        let version = api_version.rsplit('/').next().unwrap_or(api_version);
        Some(format!(
            "{kind} in version {} cannot be handled as a {kind}: {first}",
            quote(version)
        ))
    }
}

/// Every strict complaint, unknown fields first, as upstream lists them: `unknown field "spec.foo"`.
#[must_use]
pub fn strict_errors(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    let duplicate = duplicates
        .iter()
        .map(|p| format!("duplicate field {}", quote(p)));
    duplicate
        .chain(
            unknown
                .iter()
                .map(|p| format!("unknown field {}", quote(p))),
        )
        .collect()
}

/// The text of the 400 under `fieldValidation=Strict`; `None` if there is nothing to complain about.
#[must_use]
pub fn strict_error(unknown: &[String], duplicates: &[String]) -> Option<String> {
    let all = strict_errors(unknown, duplicates);
    (!all.is_empty()).then(|| format!("strict decoding error: {}", all.join(", ")))
}

/// Brings an object in line with its type, in one pass.
pub fn conform(ty: TypeId, object: &mut Value) -> Conformed {
    let mut walk = Walk {
        path: String::new(),
        fields: Vec::new(),
        owner: "",
        out: Conformed::default(),
    };
    walk.value(Ty::Struct(ty), object);
    walk.out
}

struct Walk {
    path: String,
    /// The names of the fields on the way, without indices and map keys, as Go's type errors name a place.
    fields: Vec<&'static str>,
    /// The struct that the last of `fields` belongs to.
    owner: &'static str,
    out: Conformed,
}

impl Walk {
    fn wrong(&mut self, value: &Value, want: &str) {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        // Go names the number that does not fit.
        let found = match value {
            Value::Number(n) if want.starts_with("int") => format!("number {n}"),
            _ => found.to_owned(),
        };
        let text = if self.fields.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {want}")
        } else {
            let (owner, fields) = (self.owner, self.fields.join("."));
            format!(
                "json: cannot unmarshal {found} into Go struct field {owner}.{fields} of type {want}"
            )
        };
        self.out.errors.push(text);
    }

    fn complain(&mut self, text: String) {
        self.out.errors.push(text);
    }

    fn value(&mut self, ty: Ty, value: &mut Value) {
        match ty {
            Ty::Any => {}
            Ty::Bool => {
                if !value.is_boolean() {
                    self.wrong(value, "bool");
                }
            }
            Ty::Int32 => self.integer(value, "int32", i64::from(i32::MIN), i64::from(i32::MAX)),
            Ty::Int64 => self.integer(value, "int64", i64::MIN, i64::MAX),
            Ty::Float => {
                if !value.is_number() {
                    self.wrong(value, "float64");
                }
            }
            Ty::String => {
                if !value.is_string() {
                    self.wrong(value, "string");
                }
            }
            Ty::Bytes => self.bytes(value),
            Ty::Time | Ty::MicroTime => self.time(ty == Ty::MicroTime, value),
            Ty::Quantity => self.quantity(value),
            Ty::IntOrString => match value {
                Value::String(_) => {}
                Value::Number(_) => {
                    self.integer(value, "int32", i64::from(i32::MIN), i64::from(i32::MAX))
                }
                _ => self.wrong(value, "intstr.IntOrString"),
            },
            Ty::Struct(id) => self.object(id, value),
            Ty::List(item) => {
                let Value::Array(items) = value else {
                    let want = format!("[]{}", go_name(*item));
                    return self.wrong(value, &want);
                };
                let length = self.path.len();
                for (i, one) in items.iter_mut().enumerate() {
                    use fmt::Write as _;
                    let _ = write!(self.path, "[{i}]");
                    if one.is_null() {
                        // Go decodes null into the zero value of the element.
                        *one = zero(*item);
                    }
                    self.value(*item, one);
                    self.path.truncate(length);
                }
            }
            Ty::Map(item) => {
                let Value::Object(entries) = value else {
                    let want = format!("map[string]{}", go_name(*item));
                    return self.wrong(value, &want);
                };
                let length = self.path.len();
                for (key, one) in entries.iter_mut() {
                    self.path.push('.');
                    self.path.push_str(key);
                    if one.is_null() {
                        *one = zero(*item);
                    }
                    self.value(*item, one);
                    self.path.truncate(length);
                }
            }
        }
    }

    fn object(&mut self, id: TypeId, value: &mut Value) {
        let ty = facts::type_of(id);
        let Value::Object(map) = value else {
            let want = go_name(Ty::Struct(id));
            return self.wrong(value, &want);
        };
        let length = self.path.len();
        map.retain(|key, one| {
            let Some(field) = ty.field(key) else {
                let path = if length == 0 {
                    key.clone()
                } else {
                    format!("{}.{key}", self.path)
                };
                self.out.unknown.push(path);
                return false;
            };
            if one.is_null() {
                return false;
            }
            if length > 0 {
                self.path.push('.');
            }
            self.path.push_str(key);
            self.fields.push(field.name);
            let owner = std::mem::replace(&mut self.owner, ty.name);
            let form = match field.ty {
                Ty::Any | Ty::Map(Ty::Any) => layout::any_form(id, field.name),
                _ => AnyForm::Raw,
            };
            match form {
                AnyForm::Raw => self.value(field.ty, one),
                form => self.alternative(id, form, one),
            }
            self.owner = owner;
            self.fields.pop();
            self.path.truncate(length);
            // A time that was written as "" is the zero time, which is left out, as is an alternative that is neither.
            !(one.is_null() && matches!(field.ty, Ty::Time | Ty::MicroTime | Ty::Any))
        });
    }

    /// A schema of a custom resource, or what may stand in its place. Upstream reads these apart from the rest: what is
    /// unknown in them is dropped without a word, and what is neither is nothing.
    fn alternative(&mut self, schema: TypeId, form: AnyForm, value: &mut Value) {
        let unknown = self.out.unknown.len();
        match (form, &mut *value) {
            (AnyForm::SchemaOrStrings, Value::Object(entries)) => {
                for (_, one) in entries.iter_mut() {
                    self.schema_or_list(schema, one, &mut |walk, item| {
                        walk.value(Ty::String, item);
                    });
                }
                entries.retain(|_, one| !one.is_null());
            }
            (AnyForm::SchemaOrStrings, _) => self.wrong(value, "map[string]interface {}"),
            (AnyForm::SchemaOrBool, Value::Bool(_)) => {}
            (AnyForm::SchemaOrBool, Value::Object(_)) => self.object(schema, value),
            (AnyForm::SchemaOrBool, _) => self.complain("boolean or JSON schema expected".into()),
            _ => self.schema_or_list(schema, value, &mut |walk, item| walk.object(schema, item)),
        }
        self.out.unknown.truncate(unknown);
    }

    /// A schema, or a list of what `each` takes; null if it is neither.
    fn schema_or_list(
        &mut self,
        schema: TypeId,
        value: &mut Value,
        each: &mut dyn FnMut(&mut Self, &mut Value),
    ) {
        match value {
            Value::Object(_) => self.object(schema, value),
            Value::Array(items) => items.iter_mut().for_each(|item| each(self, item)),
            _ => *value = Value::Null,
        }
    }

    fn integer(&mut self, value: &mut Value, want: &str, low: i64, high: i64) {
        let number = match value {
            Value::Number(n) => n.as_i64().or_else(|| {
                // 3.0 is an integer to upstream's decoder.
                let float = n.as_f64()?;
                #[allow(clippy::cast_possible_truncation)]
                (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64)
            }),
            _ => None,
        };
        match number {
            Some(n) if (low..=high).contains(&n) => *value = n.into(),
            _ => self.wrong(value, want),
        }
    }

    fn bytes(&mut self, value: &Value) {
        use base64::Engine as _;
        let Some(text) = value.as_str() else {
            return self.wrong(value, "[]uint8");
        };
        // Go's decoder skips line breaks.
        let clean: String;
        let text = if text.contains(['\n', '\r']) {
            clean = text.replace(['\n', '\r'], "");
            &clean
        } else {
            text
        };
        if base64::engine::general_purpose::STANDARD
            .decode(text)
            .is_err()
        {
            let at = text
                .bytes()
                .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=')))
                .unwrap_or(text.len() / 4 * 4);
            self.complain(format!("illegal base64 data at input byte {at}"));
        }
    }

    fn time(&mut self, micro: bool, value: &mut Value) {
        let Some(text) = value.as_str() else {
            return self.wrong(value, if micro { "v1.MicroTime" } else { "v1.Time" });
        };
        if text.is_empty() {
            *value = Value::Null;
            return;
        }
        match time::parse(text) {
            Some(t) => {
                *value = if micro {
                    time::micros(t)
                } else {
                    time::seconds(t)
                }
                .into()
            }
            None => {
                let layout = if micro {
                    "2006-01-02T15:04:05.000000Z07:00"
                } else {
                    "2006-01-02T15:04:05Z07:00"
                };
                let text = quote(text);
                self.complain(format!(
                    "parsing time {text} as {layout:?}: cannot parse {text} as \"2006\""
                ));
            }
        }
    }

    fn quantity(&mut self, value: &mut Value) {
        let parsed = match value {
            Value::String(text) => text.trim().parse::<Quantity>(),
            Value::Number(n) => n.to_string().parse::<Quantity>(),
            _ => return self.wrong(value, "resource.Quantity"),
        };
        match parsed {
            Ok(quantity) => {
                let text = quantity.to_string();
                if value.as_str() != Some(&text) {
                    *value = text.into();
                }
            }
            Err(why) => self.complain(why.to_string()),
        }
    }
}

fn zero(ty: Ty) -> Value {
    match ty {
        Ty::Bool => false.into(),
        Ty::Int32 | Ty::Int64 | Ty::IntOrString => 0.into(),
        Ty::Float => 0.0.into(),
        Ty::String | Ty::Bytes | Ty::Time | Ty::MicroTime => "".into(),
        Ty::Quantity => "0".into(),
        Ty::Any => Value::Null,
        Ty::Struct(_) | Ty::Map(_) => Value::Object(Map::new()),
        Ty::List(_) => Value::Array(Vec::new()),
    }
}

/// The Go name of a type, as it stands in upstream's messages.
fn go_name(ty: Ty) -> String {
    match ty {
        Ty::Bool => "bool".into(),
        Ty::Int32 => "int32".into(),
        Ty::Int64 => "int64".into(),
        Ty::Float => "float64".into(),
        Ty::String => "string".into(),
        Ty::Bytes => "[]uint8".into(),
        Ty::Time => "v1.Time".into(),
        Ty::MicroTime => "v1.MicroTime".into(),
        Ty::Quantity => "resource.Quantity".into(),
        Ty::IntOrString => "intstr.IntOrString".into(),
        Ty::Any => "interface {}".into(),
        Ty::Struct(id) => {
            let ty = facts::type_of(id);
            let version = ty.definition.rsplit('.').nth(1).unwrap_or("v1");
            format!("{version}.{}", ty.name)
        }
        Ty::List(item) => format!("[]{}", go_name(*item)),
        Ty::Map(item) => format!("map[string]{}", go_name(*item)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ty(plural: &str) -> TypeId {
        facts::KINDS.iter().find(|k| k.plural == plural).unwrap().ty
    }

    #[test]
    fn duplicates_have_paths() {
        let (value, twice) = parse(
            br#"{"spec":{"a":1,"l":[{"x":1,"x":2}],"a":2}}"#,
            Content::Json,
        )
        .unwrap();
        assert_eq!(value["spec"]["a"], 2);
        assert_eq!(twice, ["spec.l[0].x", "spec.a"]);
    }

    #[test]
    fn floats_are_read_exactly() {
        let digits =
            "855555555555555555555555555555555555555555555555555555555555555555555555555555555555";
        let (value, _) = parse(digits.as_bytes(), Content::Json).unwrap();
        assert_eq!(value.as_f64(), digits.parse().ok());
        let (again, _) = parse(value.to_string().as_bytes(), Content::Json).unwrap();
        assert_eq!(again, value);
    }

    #[test]
    fn bad_bodies_are_told() {
        assert_eq!(
            parse(b"", Content::Json).unwrap_err(),
            "unexpected end of JSON input"
        );
        assert_eq!(
            parse(b"{\"a\":", Content::Json).unwrap_err(),
            "unexpected end of JSON input"
        );
        assert_eq!(
            parse(b"xyz", Content::Json).unwrap_err(),
            "invalid character 'x' looking for beginning of value"
        );
        assert!(
            parse(b"a: [1\nb: }", Content::Yaml)
                .unwrap_err()
                .starts_with("error converting YAML to JSON: yaml: ")
        );
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert_eq!(
            parse(deep.as_bytes(), Content::Json).unwrap_err(),
            "exceeded max depth of 120"
        );
        let deep: String = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert_eq!(
            parse(deep.as_bytes(), Content::Yaml).unwrap_err(),
            "error converting YAML to JSON: yaml: exceeded max depth of 64"
        );
        let schema: String = (0..60).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(parse(schema.as_bytes(), Content::Yaml).is_ok());
        let list = format!("a: &a [x]\nb: [{}]", vec!["*a"; 5000].join(","));
        assert!(parse(list.as_bytes(), Content::Yaml).is_ok());
        let bomb: String = (1..12)
            .map(|i| {
                format!(
                    "a{i}: &a{i} [{}]\n",
                    vec![format!("*a{}", i - 1); 9].join(",")
                )
            })
            .collect();
        assert_eq!(
            parse(format!("a0: &a0 [x]\n{bomb}").as_bytes(), Content::Yaml).unwrap_err(),
            "error converting YAML to JSON: yaml: document contains excessive aliasing, or too many nodes"
        );
        assert_eq!(
            parse(b"a: 1\nb: {c: [x]}", Content::Yaml).unwrap().0,
            json!({"a": 1, "b": {"c": ["x"]}})
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60), text in "[a-c:{}\\[\\] \n&*\"',0-9.-]{0,60}") {
            for content in [Content::Json, Content::Yaml] {
                for bytes in [&body[..], text.as_bytes()] {
                    if let Ok((mut value, _)) = parse(bytes, content) {
                        conform(ty("pods"), &mut value);
                    }
                }
            }
        }
    }

    #[test]
    fn objects_are_brought_in_line() {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "creationTimestamp": null, "foo": 1},
            "spec": {"containers": [{"name": "c", "bar": {}, "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]},
        });
        let found = conform(ty("pods"), &mut pod);
        assert_eq!(found.unknown, ["metadata.foo", "spec.containers[0].bar"]);
        assert!(found.errors.is_empty(), "{:?}", found.errors);
        assert_eq!(
            pod["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
        assert!(pod["metadata"].get("creationTimestamp").is_none());
        assert_eq!(
            strict_error(&found.unknown, &["spec.x".into()]).unwrap(),
            r#"strict decoding error: duplicate field "spec.x", unknown field "metadata.foo", unknown field "spec.containers[0].bar""#
        );
    }

    #[test]
    fn schemas_may_have_alternatives() {
        let crd = |schema: Value| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let read = |schema: Value| {
            let mut object = crd(schema);
            let found = conform(ty("customresourcedefinitions"), &mut object);
            assert_eq!(found.unknown, Vec::<String>::new());
            let schema = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            (schema.clone(), found.errors)
        };
        let fine = json!({
            "items": [{"type": "string"}], "additionalProperties": false, "additionalItems": {"type": "object"},
            "dependencies": {"a": ["b"], "c": {"items": {"type": "string"}}},
        });
        assert_eq!(read(fine.clone()), (fine, vec![]));
        let odd =
            json!({"items": true, "additionalProperties": {"foo": 1}, "dependencies": {"a": 1}});
        let kept = json!({"additionalProperties": {}, "dependencies": {}});
        assert_eq!(read(odd), (kept, vec![]));
        for (wrong, why) in [
            (
                json!({"additionalProperties": 1}),
                "boolean or JSON schema expected",
            ),
            (json!({"items": [true]}), "cannot unmarshal bool"),
            (
                json!({"items": {"items": {"type": 1}}}),
                "cannot unmarshal number",
            ),
            (
                json!({"dependencies": {"a": [1]}}),
                "cannot unmarshal number",
            ),
        ] {
            let (_, errors) = read(wrong);
            assert!(errors[0].contains(why), "{errors:?}");
        }
    }

    #[test]
    fn wrong_types_are_told() {
        let mut d = json!({"spec": {"replicas": "3"}});
        let found = conform(ty("deployments"), &mut d);
        assert_eq!(
            found.type_error("Deployment", "apps/v1").unwrap(),
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#
        );
        let mut pod = json!({"metadata": {"labels": {"a": 1}}, "spec": {"containers": [{"env": [{"name": "x", "value": true}]}]}});
        assert_eq!(
            conform(ty("pods"), &mut pod).errors,
            [
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
                "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
            ]
        );
        let mut secret = json!({"data": {"a": "%%"}});
        assert_eq!(
            conform(ty("secrets"), &mut secret).errors,
            ["illegal base64 data at input byte 0"]
        );
    }
}
