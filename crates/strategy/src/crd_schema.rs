//! The schemas of custom resources: which OpenAPI they may use, and that they are structural.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.
//! CEL rules are looked at for being there, not compiled; values of defaults are looked at for unknown fields only.

use api::FieldError;
use serde_json::{Map, Value};

use crate::Errors;
use crate::tree::{entries, items, one_of, text};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];
const REASONS: [&str; 4] = [
    "FieldValueDuplicate",
    "FieldValueForbidden",
    "FieldValueInvalid",
    "FieldValueRequired",
];
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const LIST_TYPE: &str = "x-kubernetes-list-type";
const LIST_KEYS: &str = "x-kubernetes-list-map-keys";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const RULES: &str = "x-kubernetes-validations";
/// What the root may say when the status is a subresource: JSON's name and upstream's.
const AT_ROOT: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    (PRESERVE, "XPreserveUnknownFields"),
    (RULES, "XValidations"),
];

/// The schema of one version (`openAPIV3Schema` in `validation`, which stands at `path`).
pub(crate) fn validate(validation: &Value, path: &str, has_status: bool, errors: &mut Errors) {
    let schema = &validation["openAPIV3Schema"];
    if !schema.is_object() {
        return;
    }
    let path = format!("{path}.openAPIV3Schema");
    let mut found = Errors::new();
    if has_status {
        validate_root(schema, &path, &mut found);
    }
    if schema["nullable"] == true {
        let detail = "nullable cannot be true at the root";
        found.push(FieldError::forbidden(format!("{path}.nullable"), detail));
    }
    let unsupported = unsupported(schema);
    if unsupported.is_none() {
        let before = found.len();
        invariants(schema, Level::Root, &path, &mut found);
        value_completeness(schema, Some(schema), &path, &path, &mut found);
        if found.len() == before {
            pruned_defaults(schema, true, &path, &mut found);
        }
    }
    Openapi::ROOT.validate(schema, &path, &mut found);
    if let (true, Some(why)) = (found.is_empty(), unsupported) {
        found.push(FieldError::invalid_str(&path, "", why));
    }
    errors.extend(found);
}

/// Parts of the root that would be lost when the status is taken out.
fn validate_root(schema: &Value, path: &str, errors: &mut Errors) {
    let ty = text(&schema["type"]);
    if !matches!(ty, "" | "object") {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid_str(format!("{path}.type"), ty, detail));
    } else if entries(schema).any(|(key, v)| !is_zero(v) && !AT_ROOT.iter().any(|(k, _)| k == key))
    {
        let names = AT_ROOT.map(|(_, name)| name).join(" ");
        let detail = format!(
            "only [{names}] fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.push(FieldError::invalid(path, schema, detail));
    }
}

fn is_zero(v: &Value) -> bool {
    match v {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// What no structural schema can express, anywhere in `schema`.
fn unsupported(schema: &Value) -> Option<String> {
    for (key, shown) in [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "ref"),
        ("additionalItems", "additionalItems"),
        ("patternProperties", "patternProperties"),
        ("definitions", "definitions"),
        ("dependencies", "dependencies"),
    ] {
        if !is_zero(&schema[key]) {
            return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
        }
    }
    if schema["items"].is_array() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    if schema[PRESERVE] == false {
        return Some("x-kubernetes-preserve-unknown-fields must be true or undefined".to_owned());
    }
    let single = ["not", "items", "additionalProperties"].map(|key| &schema[key]);
    let lists = ["allOf", "anyOf", "oneOf"].map(|key| items(&schema[key]));
    let single = single.into_iter().filter(|s| s.is_object());
    let properties = entries(&schema["properties"]).map(|(_, s)| s);
    let mut children = single.chain(lists.into_iter().flatten()).chain(properties);
    children.find_map(unsupported)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

impl Level {
    fn where_empty(self) -> &'static str {
        match self {
            Self::Root => "must not be empty at the root",
            Self::Item => "must not be empty for specified array items",
            Self::Field => "must not be empty for specified object fields",
        }
    }
}

/// What makes a schema structural, in it and below it.
fn invariants(s: &Value, level: Level, path: &str, errors: &mut Errors) {
    if !s.is_object() {
        return;
    }
    let at = |key: &str| format!("{path}.{key}");
    let ty = text(&s["type"]);
    if ty == "array" && s["items"].is_null() {
        errors.push(FieldError::required(at("items"), "must be specified"));
    }
    invariants(&s["items"], Level::Item, &at("items"), errors);
    for (key, property) in entries(&s["properties"]) {
        let path = format!("{path}.properties[{key}]");
        invariants(property, Level::Field, &path, errors);
    }
    let additional = &s["additionalProperties"];
    if !additional.is_null() {
        let path = at("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&path, "must not be used at the root"));
        }
        invariants(additional, Level::Field, &path, errors);
    }
    extension_invariants(s, path, errors);
    let skip_any = is_int_or_string(&s["anyOf"]);
    let skip_first = is_int_or_string(&s["allOf"][0]["anyOf"]);
    value_invariants(s, skip_any, skip_first, path, errors);
    type_invariants(s, level, path, errors);
    metadata_invariants(s, level, path, errors);
}

fn extension_invariants(s: &Value, path: &str, errors: &mut Errors) {
    for key in [PRESERVE, EMBEDDED] {
        if s[INT_OR_STRING] == true && s[key] == true {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            let path = format!("{path}.{key}");
            errors.push(FieldError::invalid(path, &true.into(), detail));
        }
    }
    if s[EMBEDDED] == true && s[PRESERVE] != true && crate::count(&s["properties"]) == 0 {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(format!("{path}.properties"), detail));
    }
}

fn type_invariants(s: &Value, level: Level, path: &str, errors: &mut Errors) {
    let at = format!("{path}.type");
    let ty = text(&s["type"]);
    let embedded = s[EMBEDDED] == true;
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            FieldError::required(&at, detail)
        } else {
            FieldError::invalid_str(&at, ty, detail)
        });
    } else if ty.is_empty() && s[INT_OR_STRING] != true && s[PRESERVE] != true {
        errors.push(FieldError::required(&at, level.where_empty()));
    }
    if embedded && !s["additionalProperties"].is_null() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        let path = format!("{path}.additionalProperties");
        errors.push(FieldError::forbidden(path, detail));
    }
    if level == Level::Root && !matches!(ty, "" | "object") {
        let detail = "must be object at the root";
        errors.push(FieldError::invalid_str(at, ty, detail));
    }
}

/// Of what every object has, a schema may only restrict the name.
fn metadata_invariants(s: &Value, level: Level, path: &str, errors: &mut Errors) {
    let check = level == Level::Root || s[EMBEDDED] == true;
    let properties = &s["properties"];
    let mut unless = |key: &str, wanted: &str, detail: &str| {
        let property = &properties[key];
        let ty = text(&property["type"]);
        if check && property.is_object() && ty != wanted {
            let path = format!("{path}.properties[{key}].type");
            errors.push(FieldError::invalid_str(path, ty, detail));
        }
    };
    unless("kind", "string", "must be string");
    unless("apiVersion", "string", "must be string");
    unless("metadata", "object", "must be object");
    let metadata = &properties["metadata"];
    if level != Level::Root || !metadata.is_object() {
        return;
    }
    let names = |properties: &Value| {
        let known = ["name", "generateName"];
        entries(properties).all(|(key, _)| known.contains(&key.as_str()))
    };
    let others = entries(metadata)
        .any(|(key, v)| !is_zero(v) && !matches!(key.as_str(), "type" | "default" | "properties"));
    if others || !names(&metadata["properties"]) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        let path = format!("{path}.properties[metadata]");
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn is_int_or_string(any_of: &Value) -> bool {
    *any_of == serde_json::json!([{"type": "integer"}, {"type": "string"}])
}

/// What stands under `anyOf` and its like says nothing about structure.
fn value_invariants(v: &Value, skip_any: bool, skip_first: bool, path: &str, errors: &mut Errors) {
    if !skip_any {
        for (i, nested) in items(&v["anyOf"]).iter().enumerate() {
            nested_invariants(nested, false, &format!("{path}.anyOf[{i}]"), errors);
        }
    }
    for (i, nested) in items(&v["allOf"]).iter().enumerate() {
        let skip = skip_first && i == 0;
        nested_invariants(nested, skip, &format!("{path}.allOf[{i}]"), errors);
    }
    for (i, nested) in items(&v["oneOf"]).iter().enumerate() {
        nested_invariants(nested, false, &format!("{path}.oneOf[{i}]"), errors);
    }
    nested_invariants(&v["not"], false, &format!("{path}.not"), errors);
    let pattern = text(&v["pattern"]);
    if let Err(why) = regex_syntax::parse(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        let path = format!("{path}.pattern");
        errors.push(FieldError::invalid_str(path, pattern, detail));
    }
}

fn nested_invariants(v: &Value, skip_any: bool, path: &str, errors: &mut Errors) {
    if !v.is_object() {
        return;
    }
    value_invariants(v, skip_any, false, path, errors);
    nested_invariants(&v["items"], false, &format!("{path}.items"), errors);
    for (key, property) in entries(&v["properties"]) {
        let path = format!("{path}.properties[{key}]");
        nested_invariants(property, false, &path, errors);
    }
    for (key, what) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        (PRESERVE, "false"),
        (EMBEDDED, "false"),
        (INT_OR_STRING, "false"),
        (LIST_KEYS, "empty"),
        (LIST_TYPE, "undefined"),
        (MAP_TYPE, "undefined"),
        (RULES, "empty"),
    ] {
        let there = match what {
            "undefined" => !v[key].is_null(),
            _ => !is_zero(&v[key]),
        };
        if there {
            let detail = format!("must be {what} to be structural");
            errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
        }
    }
    if !v["properties"]["metadata"].is_null() {
        let path = format!("{path}.properties[metadata]");
        let detail = "must not be specified in a nested context";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// What is said under `anyOf` and its like about a field must have that field outside as well.
fn value_completeness(
    v: &Value,
    s: Option<&Value>,
    schema_path: &str,
    value_path: &str,
    errors: &mut Errors,
) {
    nested_completeness(
        &v["not"],
        s,
        schema_path,
        &format!("{value_path}.not"),
        errors,
    );
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, nested) in items(&v[key]).iter().enumerate() {
            let value_path = format!("{value_path}.{key}[{i}]");
            nested_completeness(nested, s, schema_path, &value_path, errors);
        }
    }
}

fn nested_completeness(
    v: &Value,
    s: Option<&Value>,
    schema_path: &str,
    value_path: &str,
    errors: &mut Errors,
) {
    if !v.is_object() {
        return;
    }
    let Some(s) = s.filter(|s| s.is_object()) else {
        let detail = format!("because it is defined in {value_path}");
        return errors.push(FieldError::required(schema_path, detail));
    };
    value_completeness(v, Some(s), schema_path, value_path, errors);
    let paths = [schema_path, value_path].map(|p| format!("{p}.items"));
    nested_completeness(&v["items"], s.get("items"), &paths[0], &paths[1], errors);
    for (key, nested) in entries(&v["properties"]) {
        let [schema_path, value_path] =
            [schema_path, value_path].map(|p| format!("{p}.properties[{key}]"));
        match s["properties"].get(key) {
            None => {
                let detail = format!("because it is defined in {value_path}");
                errors.push(FieldError::required(schema_path, detail));
            }
            property => nested_completeness(nested, property, &schema_path, &value_path, errors),
        }
    }
}

/// Defaults hold nothing that would be pruned.
fn pruned_defaults(s: &Value, is_root: bool, path: &str, errors: &mut Errors) {
    if !s.is_object() {
        return;
    }
    let default = &s["default"];
    if !default.is_null() && !is_pruned(default, s) {
        let detail = "must not have unknown fields";
        errors.push(FieldError::invalid(
            format!("{path}.default"),
            default,
            detail,
        ));
    }
    pruned_defaults(&s["items"], false, &format!("{path}.items"), errors);
    let additional = &s["additionalProperties"];
    let at = format!("{path}.additionalProperties");
    pruned_defaults(additional, false, &at, errors);
    for (key, property) in entries(&s["properties"]) {
        if !(is_root && META_FIELDS.contains(&key.as_str())) {
            let path = format!("{path}.properties[{key}]");
            pruned_defaults(property, false, &path, errors);
        }
    }
}

fn is_pruned(value: &Value, s: &Value) -> bool {
    if s[PRESERVE] == true {
        return true;
    }
    let additional = &s["additionalProperties"];
    match value {
        Value::Object(map) => map.iter().all(|(key, v)| match s["properties"].get(key) {
            Some(property) => is_pruned(v, property),
            None if additional.is_object() => is_pruned(v, additional),
            None => {
                *additional == true || s[EMBEDDED] == true && META_FIELDS.contains(&key.as_str())
            }
        }),
        Value::Array(list) => list.iter().all(|v| is_pruned(v, &s["items"])),
        _ => true,
    }
}

/// Which OpenAPI may be used, depending on where.
#[derive(Clone, Copy)]
struct Openapi<'a> {
    is_root: bool,
    /// Inside `apiVersion`, `kind` or `metadata`.
    inside_meta: bool,
    /// Why no default may stand here.
    no_default: Option<&'a str>,
}

impl Openapi<'static> {
    const ROOT: Self = Self {
        is_root: true,
        inside_meta: false,
        no_default: None,
    };
}

impl Openapi<'_> {
    fn validate(self, s: &Value, path: &str, errors: &mut Errors) {
        if !s.is_object() {
            return;
        }
        self.validate_standard(s, path, errors);
        validate_lists_and_maps(s, path, errors);
        validate_rules(s, path, errors);
        let below = Self {
            is_root: false,
            ..self
        };
        below.validate_additional(s, path, errors);
        self.validate_properties(s, path, errors);
        below.validate(&s["not"], &format!("{path}.not"), errors);
        for key in ["allOf", "oneOf", "anyOf", "items"] {
            for (i, nested) in items(&s[key]).iter().enumerate() {
                below.validate(nested, &format!("{path}.{key}[{i}]"), errors);
            }
        }
        below.validate(&s["items"], &format!("{path}.items"), errors);
        for key in ["definitions", "dependencies"] {
            for (name, nested) in entries(&s[key]) {
                below.validate(nested, &format!("{path}.{key}[{name}]"), errors);
            }
        }
    }

    /// What upstream has left out of OpenAPI.
    fn validate_standard(self, s: &Value, path: &str, errors: &mut Errors) {
        let at = |key: &str| format!("{path}.{key}");
        let ty = text(&s["type"]);
        if !ty.is_empty() {
            one_of(&s["type"], &at("type"), &TYPES, errors);
        }
        if let (Some(why), false) = (self.no_default, s["default"].is_null()) {
            let detail = format!("must not be set {why}");
            errors.push(FieldError::forbidden(at("default"), detail));
        }
        for key in [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ] {
            if !is_zero(&s[key]) {
                let detail = format!("{key} is not supported");
                errors.push(FieldError::forbidden(at(key), detail));
            }
        }
        for (wrong, key, detail) in [
            (
                ty == "null",
                "type",
                "type cannot be set to null, use nullable as an alternative",
            ),
            (
                s["items"].is_array(),
                "items",
                "items must be a schema object and not an array",
            ),
            (
                self.inside_meta && s[EMBEDDED] == true,
                EMBEDDED,
                "must not be used inside of resource meta",
            ),
            (
                s["uniqueItems"] == true,
                "uniqueItems",
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
        ] {
            if wrong {
                errors.push(FieldError::forbidden(at(key), detail));
            }
        }
        if s[PRESERVE] == false {
            let detail = "must be true or undefined";
            errors.push(FieldError::invalid(at(PRESERVE), &s[PRESERVE], detail));
        }
    }

    fn validate_additional(self, s: &Value, path: &str, errors: &mut Errors) {
        let additional = &s["additionalProperties"];
        let path = format!("{path}.additionalProperties");
        let properties = crate::count(&s["properties"]) > 0;
        if properties && (additional.is_object() || *additional == false) {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.push(FieldError::forbidden(&path, detail));
        }
        let below = if self.inside_meta {
            // What would be pruned cannot be told without a value.
            Self {
                no_default: Some("inside additionalProperties applying to object metadata"),
                ..self
            }
        } else {
            self
        };
        below.validate(additional, &path, errors);
    }

    fn validate_properties(self, s: &Value, path: &str, errors: &mut Errors) {
        for (key, property) in entries(&s["properties"]) {
            let is_meta = META_FIELDS.contains(&key.as_str());
            let why = format!("in top-level {key}");
            let below = Openapi {
                is_root: false,
                inside_meta: self.inside_meta || is_meta && (self.is_root || s[EMBEDDED] == true),
                no_default: if is_meta && self.is_root {
                    Some(&why)
                } else {
                    self.no_default
                },
            };
            below.validate(property, &format!("{path}.properties[{key}]"), errors);
        }
    }
}

/// `x-kubernetes-map-type`, `x-kubernetes-list-type` and the keys of lists that are maps.
fn validate_lists_and_maps(s: &Value, path: &str, errors: &mut Errors) {
    for (key, wanted, allowed) in [
        (MAP_TYPE, "object", &["atomic", "granular"][..]),
        (LIST_TYPE, "array", &["atomic", "set", "map"]),
    ] {
        one_of(&s[key], &format!("{path}.{key}"), allowed, errors);
        let ty = text(&s["type"]);
        if !s[key].is_null() && ty != wanted {
            let (path, detail) = (
                format!("{path}.type"),
                format!("must be {wanted} if {key} is specified"),
            );
            errors.push(if ty.is_empty() {
                FieldError::required(path, detail)
            } else {
                FieldError::invalid_str(path, ty, detail)
            });
        }
    }
    let list_type = text(&s[LIST_TYPE]);
    if list_type == "set" && s["type"] == "array" {
        validate_set_items(&s["items"], path, errors);
    }
    if !items(&s[LIST_KEYS]).is_empty() && list_type != "map" {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        let path = format!("{path}.{LIST_TYPE}");
        errors.push(if s[LIST_TYPE].is_null() {
            FieldError::required(path, detail)
        } else {
            FieldError::invalid_str(path, list_type, detail)
        });
    }
    if list_type == "map" {
        validate_list_map(s, path, errors);
    }
    if matches!(list_type, "set" | "map") && s["items"]["nullable"] == true {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        let path = format!("{path}.items.nullable");
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The items of a set are compared as a whole.
fn validate_set_items(item: &Value, path: &str, errors: &mut Errors) {
    let key = match text(&item["type"]) {
        "array" if !item[LIST_TYPE].is_null() && item[LIST_TYPE] != "atomic" => LIST_TYPE,
        "object" if item[MAP_TYPE] != "atomic" => MAP_TYPE,
        _ => return,
    };
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let path = format!("{path}.items.{key}");
    // Upstream shows the type of the list in both cases.
    errors.push(FieldError::invalid(path, &item[LIST_TYPE], detail));
}

fn validate_list_map(s: &Value, path: &str, errors: &mut Errors) {
    let (keys, item) = (&s[LIST_KEYS], &s["items"]);
    if items(keys).is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        let path = format!("{path}.{LIST_KEYS}");
        errors.push(FieldError::required(path, detail));
    }
    let at = format!("{path}.items");
    if item.is_null() {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        return errors.push(FieldError::required(at, detail));
    }
    if item.is_array() {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        return errors.push(FieldError::invalid(at, item, detail));
    }
    let ty = text(&item["type"]);
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid_str(format!("{at}.type"), ty, detail));
    }
    for (i, key) in items(keys).iter().enumerate() {
        let wrong = |detail: &str| FieldError::invalid(format!("{path}.{LIST_KEYS}"), keys, detail);
        let property = &item["properties"][text(key)];
        if ty == "object" {
            if property.is_null() {
                errors.push(wrong("entries must all be names of item properties"));
            }
            if items(keys)[..i].contains(key) {
                errors.push(wrong("must not contain duplicate entries"));
            }
        }
        validate_map_key(item, text(key), &at, errors);
    }
}

/// What makes an entry the one that it is must always be there.
fn validate_map_key(item: &Value, key: &str, path: &str, errors: &mut Errors) {
    let property = &item["properties"][key];
    if property.is_null() {
        return;
    }
    let path = format!("{path}.properties[{key}]");
    if item["type"] == "object" && matches!(text(&property["type"]), "array" | "object") {
        // Upstream shows the type of the item.
        let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
        let path = format!("{path}.type");
        errors.push(FieldError::invalid(path, &item["type"], detail));
    }
    let required = items(&item["required"]).iter().any(|r| r == key);
    if !required && property["default"].is_null() {
        let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
        errors.push(FieldError::required(format!("{path}.default"), detail));
    }
    if property["nullable"] == true {
        let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
        errors.push(FieldError::forbidden(format!("{path}.nullable"), detail));
    }
}

/// `x-kubernetes-validations`.
fn validate_rules(s: &Value, path: &str, errors: &mut Errors) {
    for (i, rule) in items(&s[RULES]).iter().enumerate() {
        validate_rule(rule, &format!("{path}.{RULES}[{i}]"), errors);
    }
}

fn validate_rule(rule: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let breaks = |s: &str| s.contains(['\n', '\r']);
    let [own, message, expression, field] =
        ["rule", "message", "messageExpression", "fieldPath"].map(|key| text(&rule[key]));
    let blank = |s: &str| !s.is_empty() && s.trim().is_empty();
    if own.trim().is_empty() {
        errors.push(FieldError::required(at("rule"), "rule is not specified"));
    } else if blank(message) {
        let detail = "must be non-empty if specified";
        errors.push(FieldError::invalid_str(at("message"), message, detail));
    } else if breaks(message.trim()) {
        let detail = "must not contain line breaks";
        errors.push(FieldError::invalid_str(at("message"), message, detail));
    } else if breaks(own.trim()) && message.is_empty() {
        let detail = "message must be specified if rule contains line breaks";
        errors.push(FieldError::required(at("message"), detail));
    }
    if blank(expression) {
        let detail = "messageExpression must be non-empty if specified";
        errors.push(FieldError::required(at("messageExpression"), detail));
    }
    one_of(&rule["reason"], &at("reason"), &REASONS, errors);
    for (wrong, detail) in [
        (blank(field), "must be non-empty if specified"),
        (breaks(field), "must not contain line breaks"),
    ] {
        if wrong {
            errors.push(FieldError::invalid_str(at("fieldPath"), field, detail));
        }
    }
}

/// The schema that a simple path (`.spec.size`) leads to, through properties only.
pub(crate) fn follow<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    let path = path.strip_prefix('.')?;
    path.split('.')
        .try_fold(schema, |s, part| s["properties"].get(part))
}

/// Whether a schema anywhere says what `holds`.
pub(crate) fn any(schema: &Value, holds: fn(&Map<String, Value>) -> bool) -> bool {
    match schema {
        Value::Object(map) => holds(map) || map.values().any(|v| any(v, holds)),
        Value::Array(list) => list.iter().any(|v| any(v, holds)),
        _ => false,
    }
}
