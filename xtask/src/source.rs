//! Reads types and kinds out of the sources of `k8s-openapi`, and protobuf numbers out of those of `k8s-pb`.
//!
//! Both are themselves generated, with a fixed layout, so lines and their indentation are enough; whatever does not fit
//! the layout is an error, never skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::table;

/// The Rust form of a field's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    Bool,
    Int32,
    Int64,
    Float,
    String,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    Any,
    /// Folder and name: `api/core/v1::Pod`.
    Struct(String),
    List(Box<Ty>),
    Map(Box<Ty>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    Atomic,
    Set,
    Map(Vec<String>),
}

#[derive(Debug)]
pub struct Field {
    pub name: String,
    pub ty: Ty,
    pub required: bool,
    pub list: List,
    /// Numbers of the messages that JSON inlines it from, then its own; empty if it is not in protobuf.
    pub pb: Vec<u32>,
    pub description: String,
}

#[derive(Debug)]
pub struct Type {
    /// `io.k8s.api.core.v1.Pod`.
    pub definition: String,
    pub name: String,
    pub description: String,
    pub fields: Vec<Field>,
    pub resource: Option<Resource>,
}

#[derive(Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub list_kind: String,
}

pub type Types = BTreeMap<String, Type>;

/// Where cargo keeps the two crates' sources.
pub fn crates(here: &Path) -> Result<(PathBuf, PathBuf), String> {
    let out = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--features",
            "sources",
            "--manifest-path",
        ])
        .arg(here.join("Cargo.toml"))
        .output()
        .map_err(|e| format!("cargo metadata: {e}"))?;
    if !out.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&out.stderr)
        ));
    }
    let metadata: Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
    let find = |name: &str| {
        metadata["packages"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["name"] == name)
            .and_then(|p| {
                Path::new(p["manifest_path"].as_str()?)
                    .parent()
                    .map(|d| d.join("src"))
            })
            .ok_or_else(|| format!("cargo metadata does not know {name}"))
    };
    Ok((find("k8s-openapi")?.join("v1_36"), find("k8s-pb")?))
}

/// Every type that the GA kinds reach.
pub fn read(openapi: &Path, pb: &Path) -> Result<Types, String> {
    let mut types = Types::new();
    let mut wanted: Vec<String> = table::EXTRA_TYPES.iter().map(|s| (*s).to_owned()).collect();
    for folder in table::GROUPS {
        for (name, text) in structs_in(&openapi.join(folder))? {
            if text.contains("impl crate::Resource for ") {
                wanted.push(format!("{folder}::{name}"));
            }
        }
    }
    let mut folders: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut pb_messages: BTreeMap<String, Messages> = BTreeMap::new();
    while let Some(id) = wanted.pop() {
        if types.contains_key(&id) {
            continue;
        }
        let (folder, name) = id
            .split_once("::")
            .ok_or_else(|| format!("bad type id {id}"))?;
        if !folders.contains_key(folder) {
            folders.insert(folder.to_owned(), structs_in(&openapi.join(folder))?);
        }
        let text = folders[folder]
            .get(name)
            .ok_or_else(|| format!("no type {id} in k8s-openapi"))?;
        let mut one = parse(name, text).map_err(|e| format!("{id}: {e}"))?;
        if !pb_messages.contains_key(folder) {
            pb_messages.insert(folder.to_owned(), messages(pb, folder)?);
        }
        let siblings: Vec<String> = one.fields.iter().map(|f| plain(&f.name)).collect();
        for field in &mut one.fields {
            let by_hand = table::NUMBERS
                .iter()
                .find(|(key, _)| *key == format!("{name}.{}", field.name))
                .map(|(_, number)| vec![*number]);
            let known = numbers(
                &pb_messages[folder],
                &plain(name),
                &plain(&field.name),
                &siblings,
            );
            field.pb = known.or(by_hand).unwrap_or_default();
            // apiVersion and kind are the envelope's.
            let in_envelope =
                one.resource.is_some() && matches!(field.name.as_str(), "apiVersion" | "kind");
            let of_meta = folder.starts_with("apimachinery/") || in_envelope;
            if field.pb.is_empty() && !of_meta {
                return Err(format!("no protobuf number for {id}.{}", field.name));
            }
            let mut ty = &field.ty;
            while let Ty::List(inner) | Ty::Map(inner) = ty {
                ty = inner;
            }
            if let Ty::Struct(id) = ty {
                wanted.push(id.clone());
            }
        }
        types.insert(id, one);
    }
    Ok(types)
}

/// The structs of one folder: name to source.
fn structs_in(folder: &Path) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.extension().is_none_or(|e| e != "rs") || path.ends_with("mod.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let name = text.lines().find_map(|l| {
            l.strip_prefix("pub struct ")
                .map(|r| r.split([' ', '(', ';', '<']).next().unwrap_or(r).to_owned())
        });
        if let Some(name) = name {
            out.insert(name, text);
        }
    }
    Ok(out)
}

/// A field's name without what differs between the two crates.
fn plain(name: &str) -> String {
    name.trim_start_matches("r#")
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase()
}

fn ty(text: &str) -> Result<Ty, String> {
    let inside = |prefix: &str| text.strip_prefix(prefix).and_then(|r| r.strip_suffix('>'));
    if let Some(inner) = inside("Option<") {
        return ty(inner);
    }
    if let Some(inner) = inside("std::boxed::Box<") {
        return ty(inner);
    }
    if let Some(inner) = inside("std::vec::Vec<") {
        return Ok(Ty::List(Box::new(ty(inner)?)));
    }
    if let Some(inner) = inside("std::collections::BTreeMap<std::string::String, ") {
        return Ok(Ty::Map(Box::new(ty(inner)?)));
    }
    Ok(match text {
        "bool" => Ty::Bool,
        "i32" => Ty::Int32,
        "i64" => Ty::Int64,
        "f64" => Ty::Float,
        "std::string::String" => Ty::String,
        "crate::ByteString" => Ty::Bytes,
        "crate::serde_json::Value" => Ty::Any,
        other => {
            let path = other
                .strip_prefix("crate::")
                .ok_or_else(|| format!("unknown type {other}"))?;
            let (folder, name) = path
                .rsplit_once("::")
                .ok_or_else(|| format!("unknown type {other}"))?;
            match name {
                "Time" => Ty::Time,
                "MicroTime" => Ty::MicroTime,
                "Quantity" => Ty::Quantity,
                "IntOrString" => Ty::IntOrString,
                "FieldsV1"
                | "RawExtension"
                | "JSON"
                | "JSONSchemaPropsOrArray"
                | "JSONSchemaPropsOrBool"
                | "JSONSchemaPropsOrStringArray" => Ty::Any,
                _ => Ty::Struct(format!("{}::{name}", folder.replace("::", "/"))),
            }
        }
    })
}

/// The text of a Rust string literal, which here is also a JSON one.
fn literal(text: &str) -> Result<String, String> {
    serde_json::from_str(text).map_err(|e| format!("{e}: {text}"))
}

fn parse(name: &str, text: &str) -> Result<Type, String> {
    let definition = text
        .lines()
        .find_map(|l| l.strip_prefix("// Generated from definition "))
        .ok_or("no definition name")?
        .to_owned();
    let lines: Vec<&str> = text.lines().collect();

    // Rust field names and types.
    let start = lines
        .iter()
        .position(|l| l.starts_with("pub struct "))
        .ok_or("no struct")?;
    let mut rust: Vec<(String, Ty)> = Vec::new();
    if lines[start].ends_with('{') {
        for line in lines[start + 1..].iter().take_while(|l| **l != "}") {
            if let Some(rest) = line.strip_prefix("    pub ") {
                let (field, text) = rest.split_once(": ").ok_or("a field without a type")?;
                rust.push((field.to_owned(), ty(text.trim_end_matches(','))?));
            }
        }
    }

    // Rust field name to JSON name.
    let mut json: BTreeMap<String, String> = BTreeMap::new();
    for line in &lines {
        if let Some((key, field)) = line.trim().split_once("\" => Field::Key_") {
            json.insert(
                field.trim_end_matches(',').to_owned(),
                key.trim_start_matches('"').to_owned(),
            );
        }
    }

    // How lists merge.
    let mut lists: BTreeMap<String, List> = BTreeMap::new();
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i].trim();
        let field_of = |s: &str| {
            s.split("&mut self.")
                .nth(1)
                .map(|r| r.split([',', ')']).next().unwrap_or(r).to_owned())
        };
        if line.starts_with("crate::merge_strategies::list::set(") {
            lists.insert(field_of(line).ok_or("a set without a field")?, List::Set);
        } else if line.starts_with("crate::merge_strategies::list::map(") {
            let field = field_of(lines[i + 1]).ok_or("a list map without a field")?;
            let keys = lines[i + 3]
                .split("lhs.")
                .skip(1)
                .map(|r| r.split(' ').next().unwrap_or(r).to_owned())
                .collect::<Vec<_>>();
            lists.insert(field, List::Map(keys));
        }
        i += 1;
    }

    // The schema: descriptions and what is required.
    let schema = lines
        .iter()
        .position(|l| l.contains("json_schema!({"))
        .ok_or("no schema")?;
    let mut description = String::new();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let mut required: Vec<String> = Vec::new();
    let mut current: Option<String> = None;
    let mut in_required = false;
    for line in &lines[schema..] {
        let indent = line.len() - line.trim_start().len();
        let body = line.trim();
        if indent == 12 {
            in_required = body.starts_with("\"required\": [");
            if let Some(rest) = body.strip_prefix("\"description\": ") {
                description = literal(rest.trim_end_matches(','))?;
            }
        } else if indent == 16 && in_required {
            required.push(literal(body.trim_end_matches(','))?);
        } else if indent == 16 && body.starts_with('"') {
            current = Some(literal(body.split(": ").next().unwrap_or(body))?);
        } else if indent == 20 {
            let found = body
                .strip_prefix("\"description\": ")
                .map(|r| r.trim_end_matches(','))
                .or_else(|| {
                    let rest = body.split_once("insert(\"description\".into(), ")?.1;
                    rest.strip_suffix(".into());")
                });
            if let (Some(found), Some(field)) = (found, &current) {
                texts.entry(field.clone()).or_insert(literal(found)?);
            }
        }
    }

    let resource = text
        .contains("impl crate::Resource for ")
        .then(|| resource(text))
        .transpose()?;
    let mut fields = Vec::new();
    if resource.is_some() {
        for field in ["apiVersion", "kind"] {
            fields.push(Field {
                name: field.into(),
                ty: Ty::String,
                required: false,
                list: List::Atomic,
                pb: Vec::new(),
                description: texts.get(field).cloned().unwrap_or_default(),
            });
        }
    }
    for (field, ty) in rust {
        let name = json
            .get(&field)
            .ok_or_else(|| format!("no JSON name for {field}"))?
            .clone();
        let list = match lists.remove(&field) {
            Some(List::Map(keys)) => List::Map(keys.iter().map(|k| json_name(k)).collect()),
            Some(other) => other,
            None => List::Atomic,
        };
        let description = texts.get(&name).cloned().unwrap_or_default();
        let required = required.contains(&name);
        fields.push(Field {
            name,
            ty,
            required,
            list,
            pb: Vec::new(),
            description,
        });
    }
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Type {
        definition,
        name: name.to_owned(),
        description,
        fields,
        resource,
    })
}

/// `container_port` to `containerPort`; the keys of lists have no odder names than that.
fn json_name(rust: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in rust.trim_end_matches('_').chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn resource(text: &str) -> Result<Resource, String> {
    let constant = |name: &str| {
        text.lines()
            .find_map(|l| {
                l.trim()
                    .strip_prefix(&format!("const {name}: &'static str = \""))?
                    .strip_suffix("\";")
            })
            .map(str::to_owned)
            .ok_or_else(|| format!("no {name}"))
    };
    let kind = constant("KIND")?;
    let plural = constant("URL_PATH_SEGMENT")?;
    let plural = table::PLURALS
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or(plural, |(_, p)| (*p).to_owned());
    Ok(Resource {
        group: constant("GROUP")?,
        version: constant("VERSION")?,
        plural,
        namespaced: text.contains("type Scope = crate::NamespaceResourceScope;"),
        list_kind: constant("LIST_KIND").unwrap_or_default(),
        kind,
    })
}

/// A field of a protobuf message: its number, and its message's name if it has one in the same folder.
#[derive(Debug)]
struct PbField {
    number: u32,
    message: Option<String>,
}

/// The messages of one folder, by names without what differs between the two crates.
type Messages = BTreeMap<String, BTreeMap<String, PbField>>;

/// Reads the messages of a folder; of a newer one, if the crate has not got this version yet.
fn messages(pb: &Path, folder: &str) -> Result<Messages, String> {
    let mut out = Messages::new();
    let older = table::SAME_MESSAGES
        .iter()
        .find(|(f, _)| *f == folder)
        .map(|(_, older)| *older);
    for folder in older.into_iter().chain([folder]) {
        if let Ok(text) = std::fs::read_to_string(pb.join(folder).join("mod.rs")) {
            read_messages(&text, &mut out)?;
        }
    }
    Ok(out)
}

fn read_messages(text: &str, out: &mut Messages) -> Result<(), String> {
    let (mut inside, mut tag) = (None, None);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            // prost writes acronyms as words: `CSINode` is `CsiNode`.
            inside = rest.split([' ', '{']).next().map(plain);
            out.extend(inside.clone().map(|name| (name, BTreeMap::new())));
        } else if line == "}" {
            inside = None;
        } else if let Some(message) = inside.as_ref().and_then(|name| out.get_mut(name)) {
            if let Some((_, rest)) = line.split_once("tag = \"") {
                let digits = rest.split('"').next().unwrap_or_default();
                let number: u32 = digits.parse().map_err(|e| format!("tag {digits}: {e}"))?;
                tag = Some(number);
            } else if let (Some(rest), Some(number)) = (line.trim().strip_prefix("pub "), tag) {
                let (name, ty) = rest.split_once(':').ok_or_else(|| format!("a field without a type: {line}"))?;
                let inner = ty.trim_start().strip_prefix("::core::option::Option<");
                let inner = inner.and_then(|t| t.strip_suffix(">,"));
                let inner = inner.filter(|t| t.chars().all(char::is_alphanumeric));
                let message_name = inner.map(plain);
                message.insert(
                    plain(name),
                    PbField {
                        number,
                        message: message_name,
                    },
                );
                tag = None;
            }
        }
    }
    Ok(())
}

/// The numbers that lead to a field: those of the messages it is inlined from in JSON, then its own.
fn numbers(messages: &Messages, message: &str, field: &str, siblings: &[String]) -> Option<Vec<u32>> {
    let fields = messages.get(message)?;
    if let Some(found) = fields.get(field) {
        return Some(vec![found.number]);
    }
    // What JSON does not name is inlined there.
    let inlined = fields.iter().filter(|(name, _)| !siblings.contains(name));
    for (_, outer) in inlined {
        let Some(inner) = outer.message.as_deref() else {
            continue;
        };
        if let Some(rest) = numbers(messages, inner, field, siblings) {
            return Some([vec![outer.number], rest].concat());
        }
    }
    None
}
