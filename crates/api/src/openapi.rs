//! OpenAPI v2 and v3 of the built-in kinds, made from the facts and upstream's descriptions.
//!
//! `kubectl explain` and `--validate` read v3, older clients v2. A document is made when it is first asked for and kept
//! compressed, since clients cache what they get by its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Map, Value, json};

use crate::facts::{self, Field, KINDS, Kind, List, Ty, TypeId};

const DESCRIPTIONS: &[u8] = include_bytes!("generated/descriptions.json.zst");
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What every document depends on besides the kinds in it: the tables, the descriptions and this file.
#[allow(
    long_running_const_eval,
    reason = "a second of compiling, for half a megabyte that the program need not hold"
)]
const SOURCE: u64 = {
    let all = fnv(FNV, include_bytes!("generated/facts.rs"));
    fnv(fnv(all, DESCRIPTIONS), include_bytes!("openapi.rs"))
};
const FNV: u64 = 0xcbf2_9ce4_8422_2325;

const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

/// A document as it is kept: compressed.
struct Packed(Vec<u8>);

impl Packed {
    fn new(document: &[u8]) -> Self {
        // Compressing into memory does not fail; if it did, an empty frame would be served.
        Self(zstd::encode_all(document, 3).unwrap_or_default())
    }

    fn unpack(&self) -> Vec<u8> {
        zstd::decode_all(&self.0[..]).unwrap_or_default()
    }
}

/// The documents of one server.
pub struct OpenApi {
    served: fn(&'static Kind) -> bool,
    v2: OnceLock<Packed>,
    v2_protobuf: OnceLock<Packed>,
    v3: Mutex<BTreeMap<(String, String), Arc<Packed>>>,
}

impl OpenApi {
    /// `served`: which kinds the server has.
    #[must_use]
    pub fn new(served: fn(&'static Kind) -> bool) -> Self {
        Self {
            served,
            v2: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
            v3: Mutex::default(),
        }
    }

    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        let served = self.served;
        KINDS.iter().filter(move |k| served(k))
    }

    /// `/openapi/v3`: the groups and versions, each with the address of its document.
    #[must_use]
    pub fn v3_index(&self) -> Vec<u8> {
        let mut paths = Map::new();
        for (group, version) in self.group_versions() {
            let path = base(group, version);
            let hash = self.hash(group, version).unwrap_or_default();
            let address = format!("/openapi/v3{path}?hash={hash}");
            paths.insert(
                path[1..].to_owned(),
                json!({ "serverRelativeURL": address }),
            );
        }
        json!({ "paths": paths }).to_string().into_bytes()
    }

    /// Every group and version that has a served kind, sorted.
    #[must_use]
    pub fn group_versions(&self) -> Vec<(&'static str, &'static str)> {
        let all: BTreeSet<_> = self.kinds().map(|k| (k.group, k.version)).collect();
        all.into_iter().collect()
    }

    /// What the v3 document of a group and version depends on, as 16 hexadecimal digits: the value of `hash` in its address and
    /// its `ETag`. `None` if nothing is served there.
    #[must_use]
    pub fn hash(&self, group: &str, version: &str) -> Option<String> {
        let kinds = self
            .kinds()
            .filter(|k| k.group == group && k.version == version);
        let mut plurals = kinds.map(|k| k.plural).peekable();
        plurals.peek()?;
        Some(fingerprint([group, version].into_iter().chain(plurals)))
    }

    /// What the v2 document depends on, in the same form.
    #[must_use]
    pub fn v2_hash(&self) -> String {
        fingerprint(self.kinds().flat_map(|k| [k.group, k.version, k.plural]))
    }

    /// `/openapi/v3/apis/{group}/{version}`, as JSON; `None` if nothing is served there.
    #[must_use]
    pub fn v3(&self, group: &str, version: &str) -> Option<Vec<u8>> {
        let key = (group.to_owned(), version.to_owned());
        let kept = || self.v3.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept().get(&key).cloned();
        if let Some(packed) = found {
            return Some(packed.unpack());
        }
        let kinds: Vec<&Kind> = self
            .kinds()
            .filter(|k| k.group == group && k.version == version)
            .collect();
        if kinds.is_empty() {
            return None;
        }
        let document = Document::build(&kinds, Version::V3).to_string();
        kept().insert(key, Arc::new(Packed::new(document.as_bytes())));
        Some(document.into_bytes())
    }

    /// `/openapi/v2`, as JSON.
    #[must_use]
    pub fn v2(&self) -> Vec<u8> {
        let make = || Packed::new(self.v2_document().to_string().as_bytes());
        self.v2.get_or_init(make).unpack()
    }

    /// `/openapi/v2`, as protobuf.
    #[must_use]
    pub fn v2_protobuf(&self) -> Vec<u8> {
        let make = || Packed::new(&crate::openapi_protobuf::encode(&self.v2_document()));
        self.v2_protobuf.get_or_init(make).unpack()
    }

    fn v2_document(&self) -> Value {
        Document::build(&self.kinds().collect::<Vec<_>>(), Version::V2)
    }
}

/// A hash of the schema's sources and of what is picked of them.
fn fingerprint<'a>(picked: impl Iterator<Item = &'a str>) -> String {
    // Zero bytes keep `ab`, `c` apart from `a`, `bc`.
    let hash = picked.fold(SOURCE, |hash, part| fnv(fnv(hash, part.as_bytes()), &[0]));
    format!("{hash:016X}")
}

/// The index of v3 for a set of kinds, made anew; see [`OpenApi::v3_index`].
#[must_use]
pub fn v3_index(served: fn(&'static Kind) -> bool) -> Vec<u8> {
    OpenApi::new(served).v3_index()
}

/// The v3 document of one group and version, made anew; see [`OpenApi::v3`].
#[must_use]
pub fn v3(group: &str, version: &str, served: fn(&'static Kind) -> bool) -> Option<Vec<u8>> {
    OpenApi::new(served).v3(group, version)
}

/// The v2 document, made anew; see [`OpenApi::v2`].
#[must_use]
pub fn v2(served: fn(&'static Kind) -> bool) -> Vec<u8> {
    OpenApi::new(served).v2()
}

/// The type of a part of a CRD's schema that is no struct, and what it holds. A schema without any type is any JSON.
fn any_of_schema(field: &str) -> (&'static str, &'static str) {
    match field {
        "items" => (
            "JSONSchemaPropsOrArray",
            "A JSONSchemaProps, or a list of them.",
        ),
        "additionalItems" | "additionalProperties" => (
            "JSONSchemaPropsOrBool",
            "A JSONSchemaProps, or a boolean, which is true by default.",
        ),
        "dependencies" => (
            "JSONSchemaPropsOrStringArray",
            "A JSONSchemaProps, or a list of strings.",
        ),
        _ => ("JSON", "Any valid JSON value."),
    }
}

fn base(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

/// `[description of the type, {field: description}]` by definition.
struct Descriptions(Value);

impl Descriptions {
    fn load() -> Self {
        let plain = zstd::decode_all(DESCRIPTIONS).unwrap_or_default();
        Self(serde_json::from_slice(&plain).unwrap_or_default())
    }

    fn of(&self, definition: &str) -> &Value {
        &self.0[definition][0]
    }

    fn field(&self, definition: &str, field: &str) -> &Value {
        &self.0[definition][1][field]
    }
}

struct Document {
    version: Version,
    texts: Descriptions,
    schemas: Map<String, Value>,
    paths: Map<String, Value>,
    wanted: Vec<TypeId>,
}

impl Document {
    fn build(kinds: &[&'static Kind], version: Version) -> Value {
        let mut document = Self {
            version,
            texts: Descriptions::load(),
            schemas: Map::new(),
            paths: Map::new(),
            wanted: Vec::new(),
        };
        for name in ["DeleteOptions", "ListMeta", "Status"] {
            document
                .wanted
                .extend(facts::type_by_definition(&format!("{META}.{name}")));
        }
        for kind in kinds {
            document.kind(kind);
        }
        document.shared();
        while let Some(id) = document.wanted.pop() {
            document.schema(id);
        }
        document.kinds_of(kinds);
        let info =
            json!({ "title": "Kubernetes", "version": format!("v{}", crate::KUBERNETES_VERSION) });
        let (paths, schemas) = (document.paths, document.schemas);
        match version {
            Version::V2 => json!({
                "swagger": "2.0", "info": info, "paths": paths, "definitions": schemas,
                "securityDefinitions": {
                    "BearerToken": { "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header" },
                },
                "security": [{ "BearerToken": [] }],
            }),
            Version::V3 => json!({
                "openapi": "3.0.0", "info": info, "paths": paths,
                "components": {
                    "schemas": schemas,
                    "securitySchemes": {
                        "BearerToken": { "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header" },
                    },
                },
            }),
        }
    }

    fn reference(&self, definition: &str) -> Value {
        let folder = if self.version == Version::V2 {
            "definitions"
        } else {
            "components/schemas"
        };
        json!({ "$ref": format!("#/{folder}/{definition}") })
    }

    /// Types that are not structs, and those that the facts leave out.
    fn shared(&mut self) {
        let v3 = self.version == Version::V3;
        let mut put = |name: String, schema: Value| {
            self.schemas.insert(name, schema);
        };
        let time = "Time is a moment in RFC 3339 form, to the second.";
        let micro = "MicroTime is a moment in RFC 3339 form, to the microsecond.";
        put(
            format!("{META}.Time"),
            json!({ "description": time, "type": "string", "format": "date-time" }),
        );
        put(
            format!("{META}.MicroTime"),
            json!({ "description": micro, "type": "string", "format": "date-time" }),
        );
        put(
            format!("{META}.Patch"),
            json!({ "description": "A patch of any of the supported forms.", "type": "object" }),
        );
        put(
            format!("{META}.WatchEvent"),
            json!({
                "description": "Event represents a single event to a watched resource.", "type": "object",
                "required": ["type", "object"],
                "properties": { "type": { "type": "string" }, "object": { "type": "object" } },
            }),
        );
        let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned();
        let either = "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned();
        let amount = "Quantity is an exact amount: a number with an optional suffix such as m, k, Ki, M or Mi.";
        let number = "IntOrString is a number or a string.";
        if v3 {
            put(
                quantity,
                json!({ "description": amount, "oneOf": [{ "type": "string" }, { "type": "number" }] }),
            );
            let types = json!([{ "type": "integer" }, { "type": "string" }]);
            put(
                either,
                json!({ "description": number, "format": "int-or-string", "oneOf": types }),
            );
        } else {
            put(quantity, json!({ "description": amount, "type": "string" }));
            put(
                either,
                json!({ "description": number, "type": "string", "format": "int-or-string" }),
            );
        }
    }

    /// `free`: the field's name, where `Any` is not an object.
    fn ty(&mut self, ty: Ty, free: Option<&str>) -> Value {
        match ty {
            Ty::Bool => json!({ "type": "boolean" }),
            Ty::Int32 => json!({ "type": "integer", "format": "int32" }),
            Ty::Int64 => json!({ "type": "integer", "format": "int64" }),
            Ty::Float => json!({ "type": "number", "format": "double" }),
            Ty::String => json!({ "type": "string" }),
            Ty::Bytes => json!({ "type": "string", "format": "byte" }),
            Ty::Time => self.reference(&format!("{META}.Time")),
            Ty::MicroTime => self.reference(&format!("{META}.MicroTime")),
            Ty::Quantity => self.reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
            Ty::IntOrString => self.reference("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
            Ty::Any if free.is_some() => {
                let (name, description) = any_of_schema(free.unwrap_or_default());
                let definition = format!("{APIEXTENSIONS}.{name}");
                let schema = json!({ "description": description });
                self.schemas.entry(definition.clone()).or_insert(schema);
                self.reference(&definition)
            }
            Ty::Any => json!({ "type": "object" }),
            Ty::Struct(id) => {
                self.wanted.push(id);
                self.reference(facts::type_of(id).definition)
            }
            Ty::List(item) => json!({ "type": "array", "items": self.ty(*item, free) }),
            Ty::Map(item) => {
                json!({ "type": "object", "additionalProperties": self.ty(*item, free) })
            }
        }
    }

    fn field(&mut self, definition: &str, field: &Field) -> Value {
        // The parts of a CRD's schema may be any JSON, elsewhere `Any` is an object.
        let free = definition
            .ends_with("JSONSchemaProps")
            .then_some(field.name);
        let mut out = self.ty(field.ty, free);
        // A reference allows no neighbours in v3.
        if self.version == Version::V3 && out.get("$ref").is_some() {
            out = json!({ "allOf": [out] });
        }
        let text = self.texts.field(definition, field.name);
        if text.is_string() {
            out["description"] = text.clone();
        }
        if matches!(field.ty, Ty::List(_)) {
            match field.list {
                List::Atomic if field.patch.merge => {
                    out["x-kubernetes-list-type"] = "atomic".into()
                }
                List::Atomic => out["x-kubernetes-list-type"] = "atomic".into(),
                List::Set => out["x-kubernetes-list-type"] = "set".into(),
                List::Map => {
                    out["x-kubernetes-list-type"] = "map".into();
                    out["x-kubernetes-list-map-keys"] = field.keys.into();
                }
            }
        }
        let patch = field.patch;
        let strategies = [
            (patch.merge, "merge"),
            (patch.replace, "replace"),
            (patch.retain_keys, "retainKeys"),
        ];
        let strategies: Vec<&str> = strategies
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, s)| *s)
            .collect();
        if !strategies.is_empty() {
            out["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if !field.merge_key.is_empty() {
            out["x-kubernetes-patch-merge-key"] = field.merge_key.into();
        }
        out
    }

    fn schema(&mut self, id: TypeId) {
        let ty = facts::type_of(id);
        if self.schemas.contains_key(ty.definition) {
            return;
        }
        // Taken before its fields are, so that a type that holds itself ends.
        self.schemas.insert(ty.definition.into(), Value::Null);
        let mut properties = Map::new();
        for field in ty.fields {
            properties.insert(field.name.into(), self.field(ty.definition, field));
        }
        let mut out = json!({ "type": "object" });
        let text = self.texts.of(ty.definition);
        if text.is_string() {
            out["description"] = text.clone();
        }
        if !properties.is_empty() {
            out["properties"] = properties.into();
        }
        let required: Vec<&str> = ty
            .fields
            .iter()
            .filter(|f| f.required)
            .map(|f| f.name)
            .collect();
        if !required.is_empty() {
            out["required"] = required.into();
        }
        if ty.atomic {
            out["x-kubernetes-map-type"] = "atomic".into();
        }
        self.schemas.insert(ty.definition.into(), out);
    }

    /// Says at each schema of a kind which kind it is.
    fn kinds_of(&mut self, kinds: &[&'static Kind]) {
        let mut mark = |definition: &str, group: &str, version: &str, kind: &str| {
            if let Some(schema) = self.schemas.get_mut(definition) {
                let gvk = json!({ "group": group, "version": version, "kind": kind });
                match schema.get_mut("x-kubernetes-group-version-kind") {
                    Some(Value::Array(list)) if list.contains(&gvk) => {}
                    Some(Value::Array(list)) => list.push(gvk),
                    _ => schema["x-kubernetes-group-version-kind"] = json!([gvk]),
                }
            }
        };
        let options = format!("{META}.DeleteOptions");
        for kind in kinds {
            let definition = facts::type_of(kind.ty).definition;
            mark(definition, kind.group, kind.version, kind.kind);
            if kind.stored() {
                mark(
                    &format!("{definition}List"),
                    kind.group,
                    kind.version,
                    kind.list_kind,
                );
            }
            mark(&options, kind.group, kind.version, "DeleteOptions");
            for sub in kind.subresources {
                if let Some(id) = facts::subresource_type(sub) {
                    mark(
                        facts::type_of(id).definition,
                        sub.group,
                        sub.version,
                        sub.kind,
                    );
                }
            }
        }
        mark(&format!("{META}.Status"), "", "v1", "Status");
    }

    fn kind(&mut self, kind: &'static Kind) {
        self.wanted.push(kind.ty);
        let definition = facts::type_of(kind.ty).definition;
        if kind.stored() {
            let list = format!("{definition}List");
            let meta = self.reference(&format!("{META}.ListMeta"));
            let meta = if self.version == Version::V3 {
                json!({ "allOf": [meta] })
            } else {
                meta
            };
            let schema = json!({
                "description": format!("{} is a list of {} objects.", kind.list_kind, kind.kind),
                "type": "object", "required": ["items"],
                "properties": {
                    "apiVersion": { "type": "string" }, "kind": { "type": "string" }, "metadata": meta,
                    "items": { "type": "array", "items": self.reference(definition) },
                },
            });
            self.schemas.insert(list, schema);
        }
        let base = base(kind.group, kind.version);
        let scope = if kind.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{base}{scope}/{}", kind.plural);
        let item = format!("{collection}/{{name}}");
        let has = |verb: &str| kind.verbs.contains(&verb);
        let gvk = (kind.group, kind.version, kind.kind);
        let list = format!("{definition}List");
        let status = format!("{META}.Status");
        let options = format!("{META}.DeleteOptions");
        let mut add = |path: &str,
                       method: &str,
                       verb: &str,
                       action: &str,
                       takes: Option<&str>,
                       gives: &str| {
            if has(verb) {
                self.operation(path, method, action, kind, gvk, takes, gives, "");
            }
        };
        add(&collection, "get", "list", "list", None, &list);
        add(
            &collection,
            "post",
            "create",
            "post",
            Some(definition),
            definition,
        );
        add(
            &collection,
            "delete",
            "deletecollection",
            "deletecollection",
            Some(&options),
            &status,
        );
        add(&item, "get", "get", "get", None, definition);
        add(&item, "put", "update", "put", Some(definition), definition);
        add(&item, "patch", "patch", "patch", Some("patch"), definition);
        add(&item, "delete", "delete", "delete", Some(&options), &status);
        if kind.namespaced {
            add(
                &format!("{base}/{}", kind.plural),
                "get",
                "list",
                "list",
                None,
                &list,
            );
        }
        for sub in kind.subresources {
            let path = format!("{item}/{}", sub.name);
            let gvk = (sub.group, sub.version, sub.kind);
            let id = facts::subresource_type(sub);
            self.wanted.extend(id);
            for verb in sub.verbs {
                let (method, action) = match *verb {
                    "get" => ("get", "get"),
                    "create" => ("post", "post"),
                    "update" => ("put", "put"),
                    "patch" => ("patch", "patch"),
                    _ => ("delete", "delete"),
                };
                match id {
                    // Connections and logs carry no object.
                    None => self.operation(&path, method, "connect", kind, gvk, None, "", sub.name),
                    Some(_) if sub.name == "log" => {
                        self.operation(&path, method, action, kind, gvk, None, "", sub.name)
                    }
                    Some(id) => {
                        let definition = facts::type_of(id).definition;
                        let takes = match method {
                            "get" => None,
                            "patch" => Some("patch"),
                            _ => Some(definition),
                        };
                        self.operation(
                            &path, method, action, kind, gvk, takes, definition, sub.name,
                        );
                    }
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn operation(
        &mut self,
        path: &str,
        method: &str,
        action: &str,
        kind: &Kind,
        (group, version, name): (&str, &str, &str),
        takes: Option<&str>,
        gives: &str,
        sub: &str,
    ) {
        let parameter = |name: &str, place: &str, ty: &str, text: &str| {
            let mut out = json!({ "name": name, "in": place, "description": text });
            if self.version == Version::V2 {
                out["type"] = ty.into();
            } else {
                out["schema"] = json!({ "type": ty });
            }
            if place == "path" {
                out["required"] = true.into();
            } else if self.version == Version::V2 {
                out["uniqueItems"] = true.into();
            }
            out
        };
        let mut parameters = Vec::new();
        let mut query: Vec<(&str, &str, &str)> = Vec::new();
        let pretty = ("pretty", "string", "If 'true', the answer is indented.");
        let dry = (
            "dryRun",
            "string",
            "All: everything is done but the write itself.",
        );
        let manager = ("fieldManager", "string", "The name of the one who writes.");
        let strict = (
            "fieldValidation",
            "string",
            "Ignore, Warn or Strict: what happens to unknown and duplicate fields.",
        );
        match action {
            "list" => query.extend([
                (
                    "allowWatchBookmarks",
                    "boolean",
                    "Whether a watch may send bookmarks.",
                ),
                (
                    "continue",
                    "string",
                    "Where an earlier, limited list ended.",
                ),
                ("fieldSelector", "string", "Only objects with these fields."),
                ("labelSelector", "string", "Only objects with these labels."),
                ("limit", "integer", "How many objects to send at most."),
                ("resourceVersion", "string", "How fresh the answer must be."),
                (
                    "resourceVersionMatch",
                    "string",
                    "How resourceVersion is meant.",
                ),
                (
                    "sendInitialEvents",
                    "boolean",
                    "Whether a watch starts with what there is.",
                ),
                ("timeoutSeconds", "integer", "How long a watch may last."),
                ("watch", "boolean", "Send changes as they happen."),
            ]),
            "post" | "put" => query.extend([dry, manager, strict]),
            "patch" => {
                query.extend([
                    dry,
                    manager,
                    strict,
                    (
                        "force",
                        "boolean",
                        "Whether apply takes fields from others.",
                    ),
                ]);
            }
            "delete" | "deletecollection" => query.extend([
                dry,
                (
                    "gracePeriodSeconds",
                    "integer",
                    "How long the object may take to end.",
                ),
                (
                    "orphanDependents",
                    "boolean",
                    "Deprecated: use propagationPolicy.",
                ),
                (
                    "propagationPolicy",
                    "string",
                    "Orphan, Background or Foreground: what happens to what it owns.",
                ),
            ]),
            _ => {}
        }
        if action != "connect" {
            query.push(pretty);
        }
        for (name, ty, text) in query {
            parameters.push(parameter(name, "query", ty, text));
        }
        if path.contains("{name}") {
            parameters.push(parameter(
                "name",
                "path",
                "string",
                &format!("name of the {}", kind.kind),
            ));
        }
        if path.contains("{namespace}") {
            let text = "object name and auth scope, such as for teams and projects";
            parameters.push(parameter("namespace", "path", "string", text));
        }
        let body = takes.map(|definition| match definition {
            "patch" => self.reference(&format!("{META}.Patch")),
            other => self.reference(other),
        });
        let answer = (!gives.is_empty()).then(|| self.reference(gives));
        let id = operation_id(path, action, kind, sub);
        let tag = tag(kind);
        let mut out = json!({
            "operationId": id, "tags": [tag], "description": format!("{action} {}{}{sub}", kind.plural, if sub.is_empty() { "" } else { "/" }),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": { "group": group, "version": version, "kind": name },
        });
        let patches = [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ];
        let sends = ["application/json", "application/yaml"];
        match self.version {
            Version::V2 => {
                if let Some(schema) = body {
                    parameters.push(json!({ "name": "body", "in": "body", "required": method != "delete", "schema": schema }));
                }
                out["consumes"] = if method == "patch" {
                    json!(patches)
                } else {
                    json!(["*/*"])
                };
                out["produces"] = json!(sends);
                out["schemes"] = json!(["https"]);
                let ok = match answer {
                    Some(schema) => json!({ "description": "OK", "schema": schema }),
                    None => json!({ "description": "OK", "schema": { "type": "string" } }),
                };
                out["responses"] = json!({ "200": ok, "401": { "description": "Unauthorized" } });
            }
            Version::V3 => {
                if let Some(schema) = body {
                    let types: &[&str] = if method == "patch" {
                        &patches
                    } else {
                        &["*/*"]
                    };
                    let content: Map<String, Value> = types
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({ "schema": schema })))
                        .collect();
                    out["requestBody"] =
                        json!({ "content": content, "required": method != "delete" });
                }
                let schema = answer.unwrap_or_else(|| json!({ "type": "string" }));
                let content: Map<String, Value> = sends
                    .iter()
                    .map(|t| ((*t).to_owned(), json!({ "schema": schema })))
                    .collect();
                let ok = json!({ "description": "OK", "content": content });
                out["responses"] = json!({ "200": ok, "401": { "description": "Unauthorized" } });
            }
        }
        out["parameters"] = parameters.into();
        let entry = self
            .paths
            .entry(path)
            .or_insert_with(|| Value::Object(Map::new()));
        entry[method] = out;
    }
}

/// `core_v1`, `apps_v1`, `rbacAuthorization_v1`.
fn tag(kind: &Kind) -> String {
    let mut out = String::new();
    let group = kind.group.trim_end_matches(".k8s.io");
    for (i, part) in (if group.is_empty() { "core" } else { group })
        .split('.')
        .enumerate()
    {
        if i == 0 {
            out.push_str(part)
        } else {
            out.push_str(&capital(part))
        }
    }
    let _ = write!(out, "_{}", kind.version);
    out
}

fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn operation_id(path: &str, action: &str, kind: &Kind, sub: &str) -> String {
    let verb = match action {
        "post" => "create",
        "get" => "read",
        "put" => "replace",
        "deletecollection" => "deleteCollection",
        other => other,
    };
    let group: String = tag(kind).split('_').map(capital).collect();
    let namespaced = if path.contains("{namespace}") {
        "Namespaced"
    } else {
        ""
    };
    let everywhere = if kind.namespaced && namespaced.is_empty() {
        "ForAllNamespaces"
    } else {
        ""
    };
    format!(
        "{verb}{group}{namespaced}{}{}{everywhere}",
        kind.kind,
        capital(sub)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references<'a>(v: &'a Value, out: &mut Vec<&'a str>) {
        match v {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }

    #[test]
    fn documents_are_whole() {
        let api = OpenApi::new(|_| true);
        for (group, version) in api.group_versions() {
            let document: Value = serde_json::from_slice(&api.v3(group, version).unwrap()).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(
                    document["components"]["schemas"][name].is_object(),
                    "{group}/{version}: {name}"
                );
            }
        }
        let document: Value = serde_json::from_slice(&api.v2()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/definitions/").unwrap();
            assert!(document["definitions"][name].is_object(), "{name}");
        }
        assert!(api.v3("nope", "v1").is_none());
    }

    #[test]
    fn what_kubectl_looks_for_is_there() {
        let api = OpenApi::new(|k| k.group.is_empty());
        let index: Value = serde_json::from_slice(&api.v3_index()).unwrap();
        let address = index["paths"]["api/v1"]["serverRelativeURL"]
            .as_str()
            .unwrap();
        assert!(address.starts_with("/openapi/v3/api/v1?hash="));
        assert!(index["paths"].get("apis/apps/v1").is_none());
        let document: Value = serde_json::from_slice(&api.v3("", "v1").unwrap()).unwrap();
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
        assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
        let schemas = &document["components"]["schemas"];
        let pod = &schemas["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["x-kubernetes-group-version-kind"],
            json!([{"group": "", "version": "v1", "kind": "Pod"}])
        );
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(
            containers["description"]
                .as_str()
                .unwrap()
                .starts_with("List of containers")
        );
    }
}
