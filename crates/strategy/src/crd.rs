//! CustomResourceDefinitions: kinds that others bring.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>. Paths are
//! those of upstream's internal form, where what all versions share stands once: a schema that they have in common is
//! at `spec.validation`.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::crd_schema;
use crate::tree::{items, object, required_one_of, set, set_default, text};
use crate::webhook::{default_service, is_absolute, validate_client, validate_versions};
use crate::{Errors, Names, Strategy};

const APPROVAL: &str = "api-approved.kubernetes.io";
const SELECTABLE_LIMIT: usize = 8;
const DEPRECATION_WARNING_LIMIT: usize = 256;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = [
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

pub(crate) fn validate_name(o: &Value, name: &str) -> Vec<String> {
    let mut wrong = names::dns1123_subdomain(name);
    let spec = &o["spec"];
    if name
        != format!(
            "{}.{}",
            text(&spec["names"]["plural"]),
            text(&spec["group"])
        )
    {
        wrong.push("must be spec.names.plural+\".\"+spec.group".to_owned());
    }
    wrong
}

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    if let Some(names) = object(spec, "names") {
        let kind = text(&names["kind"]).to_owned();
        set_default(names, "singular", kind.to_lowercase());
        if !kind.is_empty() {
            set_default(names, "listKind", format!("{kind}List"));
        }
    }
    set_default(spec, "conversion", json!({ "strategy": "None" }));
    if let Some(client) = spec.pointer_mut("/conversion/webhook/clientConfig") {
        default_service(client);
    }
}

/// Notes the version that objects are stored in.
fn note_stored_version(o: &mut Value) {
    let versions = items(&o["spec"]["versions"]);
    let Some(stored) = versions.iter().find(|v| v["storage"] == true) else {
        return;
    };
    let stored = stored["name"].clone();
    let Some(status) = object(o, "status") else {
        return;
    };
    set_default(status, "storedVersions", json!([]));
    if let Some(Value::Array(list)) = status.get_mut("storedVersions")
        && !list.contains(&stored)
    {
        list.push(stored);
    }
}

/// A part of the versions as upstream holds it: once if all have the same, or else in each.
struct Shared<'a> {
    /// Where it stands, and what.
    parts: Vec<(String, &'a Value)>,
    hoisted: bool,
}

impl<'a> Shared<'a> {
    fn of(spec: &'a Value, key: &str, top: &str) -> Self {
        let versions = items(&spec["versions"]);
        let hoisted = versions.windows(2).all(|w| w[0][key] == w[1][key]);
        let parts = match versions {
            [first, ..] if hoisted => vec![(format!("spec.{top}"), &first[key])],
            _ => {
                let each = versions.iter().enumerate();
                each.map(|(i, v)| (format!("spec.versions[{i}].{key}"), &v[key]))
                    .collect()
            }
        };
        Self { parts, hoisted }
    }
}

fn validate_group(spec: &Value, errors: &mut Errors) {
    let (path, group) = ("spec.group", text(&spec["group"]));
    let wrong = names::dns1123_subdomain(group);
    if group.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !wrong.is_empty() {
        errors.push(FieldError::invalid_str(path, group, wrong.join(",")));
    } else if !group.contains('.') {
        let detail = "should be a domain with at least one dot";
        errors.push(FieldError::invalid_str(path, group, detail));
    }
}

/// What `rule` says about a name that may be absent, as one error.
fn joined(v: &Value, path: &str, before: &str, errors: &mut Errors) {
    let value = text(v);
    let checked = if before.is_empty() {
        value.to_owned()
    } else {
        value.to_lowercase()
    };
    let wrong = names::dns1035_label(&checked);
    if !value.is_empty() && !wrong.is_empty() {
        let detail = format!("{before}{}", wrong.join(","));
        errors.push(FieldError::invalid_str(path, value, detail));
    }
}

pub(crate) fn validate_names(names: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let mixed = "may have mixed case, but should otherwise match: ";
    for (key, before) in [
        ("plural", ""),
        ("singular", ""),
        ("kind", mixed),
        ("listKind", mixed),
    ] {
        joined(&names[key], &at(key), before, errors);
    }
    for key in ["shortNames", "categories"] {
        for (i, v) in items(&names[key]).iter().enumerate() {
            let (path, wrong) = (format!("{path}.{key}[{i}]"), names::dns1035_label(text(v)));
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(path, v, wrong.join(",")));
            }
        }
    }
    let kind = text(&names["kind"]);
    if !kind.is_empty() && names["kind"] == names["listKind"] {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid_str(at("listKind"), kind, detail));
    }
}

/// The versions as upstream's internal type shows them.
fn show_versions(spec: &Value) -> String {
    let shared = [
        ("schema", "validation"),
        ("subresources", "subresources"),
        ("additionalPrinterColumns", "additionalPrinterColumns"),
        ("selectableFields", "selectableFields"),
    ]
    .map(|(key, top)| (key, Shared::of(spec, key, top).hoisted));
    let show = |v: &Value| {
        let [schema, subresources, columns, fields] =
            shared.map(|(key, hoisted)| if hoisted { &Value::Null } else { &v[key] });
        format!(
            "{{\"Name\":{},\"Served\":{},\"Storage\":{},\"Deprecated\":{},\"DeprecationWarning\":{},\"Schema\":{schema},\
             \"Subresources\":{subresources},\"AdditionalPrinterColumns\":{columns},\"SelectableFields\":{fields}}}",
            v["name"],
            v["served"] == true,
            v["storage"] == true,
            v["deprecated"] == true,
            v["deprecationWarning"],
        )
    };
    let shown: Vec<String> = items(&spec["versions"]).iter().map(show).collect();
    format!("[{}]", shown.join(","))
}

fn validate_deprecation(version: &Value, path: &str, errors: &mut Errors) {
    let Some(warning) = version["deprecationWarning"].as_str() else {
        return;
    };
    let path = format!("{path}.deprecationWarning");
    let mut wrong = |detail: String| {
        errors.push(FieldError::invalid_str(&path, warning, detail));
    };
    if version["deprecated"] != true {
        return wrong("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > DEPRECATION_WARNING_LIMIT {
        wrong("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

fn validate_versions_list(spec: &Value, errors: &mut Errors) {
    let versions = items(&spec["versions"]);
    for (i, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{i}]");
        let (own, wrong) = (
            text(&version["name"]),
            names::dns1035_label(text(&version["name"])),
        );
        if !wrong.is_empty() {
            let path = format!("{path}.name");
            errors.push(FieldError::invalid_str(path, own, wrong.join(",")));
        }
        validate_deprecation(version, &path, errors);
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let path = format!("{path}.schema.openAPIV3Schema");
            errors.push(FieldError::required(path, ""));
        }
    }
    let unique = (0..versions.len()).all(|i| {
        versions[..i]
            .iter()
            .all(|v| v["name"] != versions[i]["name"])
    });
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    for (right, detail) in [
        (unique, "must contain unique version names"),
        (
            stored == 1,
            "must have exactly one version marked as storage version",
        ),
    ] {
        if !right {
            let mut error = FieldError::invalid("spec.versions", &Value::Null, detail);
            error.bad_value = Some(show_versions(spec));
            errors.push(error);
        }
    }
}

fn simple_path(v: &Value, path: &str, under: &[&str], why: &str, errors: &mut Errors) {
    let value = text(v);
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !value.starts_with('.') {
        let detail = "must be a simple json path starting with .";
        errors.push(FieldError::invalid_str(path, value, detail));
    } else if !under.is_empty() && !under.iter().any(|u| value.starts_with(u)) {
        let detail = format!("should be a json path under {why}");
        errors.push(FieldError::invalid_str(path, value, detail));
    }
}

fn validate_scale(subresources: &Value, path: &str, errors: &mut Errors) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    let at = |key: &str| format!("{path}.scale.{key}");
    let key = "specReplicasPath";
    simple_path(&scale[key], &at(key), &[".spec."], ".spec", errors);
    let key = "statusReplicasPath";
    simple_path(&scale[key], &at(key), &[".status."], ".status", errors);
    let key = "labelSelectorPath";
    if !text(&scale[key]).is_empty() {
        let (under, why) = ([".spec.", ".status."], "either .spec or .status");
        simple_path(&scale[key], &at(key), &under, why, errors);
    }
}

fn validate_column(column: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    if text(&column["name"]).is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    }
    let ty = text(&column["type"]);
    let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
    if ty.is_empty() {
        errors.push(FieldError::required(at("type"), detail));
    } else if !COLUMN_TYPES.contains(&ty) {
        errors.push(FieldError::invalid_str(at("type"), ty, detail));
    }
    let format = text(&column["format"]);
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(FieldError::invalid_str(at("format"), format, detail));
    }
    simple_path(&column["jsonPath"], &at("JSONPath"), &[], "", errors);
}

fn validate_selectable(list: &Value, schema: &Value, path: &str, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, field) in items(list).iter().enumerate() {
        let path = format!("{path}[{i}].jsonPath");
        let own = text(&field["jsonPath"]);
        if own.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let mut wrong = |detail: &str| errors.push(FieldError::invalid_str(&path, own, detail));
        let Some(target) = crd_schema::follow(schema, own) else {
            wrong("is an invalid path: does not refer to a valid field");
            continue;
        };
        if own == ".metadata" || own.starts_with(".metadata.") {
            wrong("must not point to fields in metadata");
        }
        if !matches!(text(&target["type"]), "string" | "boolean" | "integer") {
            wrong(
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
                 are allowed.",
            );
        }
        if seen.contains(&own) {
            errors.push(FieldError::duplicate(path, &own.into()));
        } else {
            seen.push(own);
        }
    }
    if seen.len() > SELECTABLE_LIMIT {
        errors.push(FieldError::too_many(path, seen.len(), SELECTABLE_LIMIT));
    }
}

/// What each version says, where upstream holds it.
fn validate_parts(spec: &Value, errors: &mut Errors) {
    let subresources = Shared::of(spec, "subresources", "subresources");
    for (path, part) in &subresources.parts {
        validate_scale(part, path, errors);
    }
    let with_status = |i: usize| {
        let parts = &subresources.parts;
        let part = if subresources.hoisted {
            parts.first()
        } else {
            parts.get(i)
        };
        part.is_some_and(|(_, part)| part["status"].is_object())
    };
    let schemas = Shared::of(spec, "schema", "validation");
    for (i, (path, schema)) in schemas.parts.iter().enumerate() {
        let has_status = if schemas.hoisted {
            (0..items(&spec["versions"]).len()).any(with_status)
        } else {
            with_status(i)
        };
        crd_schema::validate(schema, path, has_status, errors);
    }
    let key = "additionalPrinterColumns";
    for (path, columns) in Shared::of(spec, key, key).parts {
        for (i, column) in items(columns).iter().enumerate() {
            validate_column(column, &format!("{path}[{i}]"), errors);
        }
    }
    let key = "selectableFields";
    let fields = Shared::of(spec, key, key);
    for (i, (path, list)) in fields.parts.iter().enumerate() {
        let schema = &items(&spec["versions"])[i]["schema"]["openAPIV3Schema"];
        validate_selectable(list, schema, path, errors);
    }
}

fn validate_conversion(spec: &Value, established: bool, errors: &mut Errors) {
    let (path, conversion) = ("spec.conversion", &spec["conversion"]);
    let strategies = ["None", "Webhook"];
    let strategy = &conversion["strategy"];
    required_one_of(strategy, "spec.conversion.strategy", &strategies, errors);
    let webhook = &conversion["webhook"];
    let (client, versions) = (
        &webhook["clientConfig"],
        &webhook["conversionReviewVersions"],
    );
    let at = |key: &str| format!("{path}.{key}");
    if *strategy != "Webhook" {
        for (there, key) in [
            (client.is_object(), "webhookClientConfig"),
            (!items(versions).is_empty(), "conversionReviewVersions"),
        ] {
            if there {
                let detail = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(at(key), detail));
            }
        }
        return;
    }
    if client.is_object() {
        validate_client(client, &at("webhookClientConfig"), errors);
        let bundle = &client["caBundle"];
        if established && !text(bundle).is_empty() {
            validate_bundle(bundle, &at("webhookClientConfig.caBundle"), errors);
        }
    } else {
        let detail = "required when strategy is set to Webhook";
        errors.push(FieldError::required(at("webhookClientConfig"), detail));
    }
    let path = at("conversionReviewVersions");
    validate_versions(versions, &path, true, "", errors);
}

fn is_bundle(bundle: &Value) -> bool {
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(text(bundle));
    pem.is_ok_and(|pem| !pem.is_empty() && pki::csr::check_certificates(&pem).is_ok())
}

fn validate_bundle(bundle: &Value, path: &str, errors: &mut Errors) {
    if !is_bundle(bundle) {
        let detail = "unable to load root certificates: unable to parse bytes as PEM block";
        errors.push(FieldError::invalid(path, bundle, detail));
    }
}

fn validate_preserving(spec: &Value, errors: &mut Errors) {
    if spec["preserveUnknownFields"] != true {
        return;
    }
    let path = "spec.preserveUnknownFields";
    let bad = true.into();
    let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    errors.push(FieldError::invalid(path, &bad, detail));
    if crd_schema::any(&spec["versions"], |map| map.contains_key("default")) {
        let detail = "must be false in order to use defaults in the schema";
        errors.push(FieldError::invalid(path, &bad, detail));
    }
    let strategy = &spec["conversion"]["strategy"];
    if *strategy != "None" {
        let detail = "must be None if spec.preserveUnknownFields is true";
        let path = "spec.conversion.strategy";
        errors.push(FieldError::invalid(path, strategy, detail));
    }
}

/// What someone says about a group that is Kubernetes' own.
#[derive(PartialEq, Eq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

impl Approval {
    fn of(o: &Value) -> Self {
        match text(&o["metadata"]["annotations"][APPROVAL]) {
            "" => Self::Missing,
            a if a.starts_with("unapproved") => Self::Bypassed,
            a if is_absolute(a) => Self::Approved,
            _ => Self::Invalid,
        }
    }
}

fn validate_approval(o: &Value, errors: &mut Errors) {
    let group = text(&o["spec"]["group"]);
    let own = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if !own("k8s.io") && !own("kubernetes.io") {
        return;
    }
    let path = format!("metadata.annotations[{APPROVAL}]");
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    let must = format!("protected groups must have approval annotation \"{APPROVAL}\"");
    match Approval::of(o) {
        Approval::Missing => {
            errors.push(FieldError::required(path, format!("{must}, {see}")));
        }
        Approval::Invalid => {
            let detail =
                format!("{must} with either a URL or a reason starting with \"unapproved\", {see}");
            let given = &o["metadata"]["annotations"][APPROVAL];
            errors.push(FieldError::invalid(path, given, detail));
        }
        Approval::Bypassed | Approval::Approved => {}
    }
}

fn validate_stored_versions(o: &Value, errors: &mut Errors) {
    let (path, stored) = ("status.storedVersions", &o["status"]["storedVersions"]);
    if items(stored).is_empty() {
        let detail = "must have at least one stored version";
        return errors.push(FieldError::invalid(path, stored, detail));
    }
    let versions = items(&o["spec"]["versions"]);
    for (i, version) in items(stored).iter().enumerate() {
        if !versions.iter().any(|v| v["name"] == *version) {
            let v = text(version);
            let detail = format!(
                "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a \
                 storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{path}[{i}]"), version, detail));
        }
    }
}

fn is_established(o: &Value) -> bool {
    items(&o["status"]["conditions"])
        .iter()
        .any(|c| c["type"] == "Established" && c["status"] == "True")
}

fn validate_spec(o: &Value, strict_bundle: bool, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_group(spec, errors);
    let scopes = ["Cluster", "Namespaced"];
    required_one_of(&spec["scope"], "spec.scope", &scopes, errors);
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"][key]).is_empty() {
            errors.push(FieldError::required(format!("spec.names.{key}"), ""));
        }
    }
    validate_names(&spec["names"], "spec.names", errors);
    validate_versions_list(spec, errors);
    validate_parts(spec, errors);
    validate_conversion(spec, strict_bundle, errors);
    validate_preserving(spec, errors);
    validate_stored_versions(o, errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let established = is_established(old);
    let old_bundle = &old["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"];
    let strict = established && (text(old_bundle).is_empty() || is_bundle(old_bundle));
    validate_spec(new, strict, errors);
    if Approval::of(new) != Approval::of(old) {
        validate_approval(new, errors);
    }
    let always = [("/spec/group", "spec.group")];
    let named = [("/spec/names/plural", "spec.names.plural")];
    let when_established: &[(&str, &str)] = if established {
        &[
            ("/spec/scope", "spec.scope"),
            ("/spec/names/kind", "spec.names.kind"),
        ]
    } else {
        &[]
    };
    for (pointer, path) in always.iter().chain(&named).chain(when_established) {
        let value = |o: &Value| o.pointer(pointer).cloned().unwrap_or_default();
        crate::tree::immutable(&value(new), &value(old), path, errors);
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    names: Names::Definition,
    generation: true,
    status_metadata: true,
    default,
    create: |o| {
        let empty = json!({ "acceptedNames": { "plural": "", "kind": "" } });
        set(o, "status", empty);
        note_stored_version(o);
    },
    update: |new, _| note_stored_version(new),
    validate_create: |o, errors| {
        validate_spec(o, false, errors);
        validate_approval(o, errors);
    },
    validate_update,
    validate_status: |new, _, errors| {
        let names = &new["status"]["acceptedNames"];
        validate_names(names, "status.acceptedNames", errors);
    },
    ..Strategy::BASE
};
