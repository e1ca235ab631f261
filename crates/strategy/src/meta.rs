//! `ObjectMeta`, the same for every kind.

use api::facts::Kind;
use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{entries, invalid_all, items, labels, text};
use crate::{Errors, Names};

/// The bytes that all annotations of an object may take.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

pub(crate) fn validate(kind: &Kind, rule: Names, object: &Value, errors: &mut Errors) {
    let meta = &object["metadata"];
    let check = |name: &str| match rule {
        Names::Subdomain => names::dns1123_subdomain(name),
        Names::Label => names::dns1123_label(name),
        Names::ServiceLabel => names::dns1035_label(name),
        Names::PathSegment => names::path_segment(name),
        Names::Definition => crate::crd::validate_name(object, name),
        Names::ApiService => crate::api_service::validate_name(object, name),
        Names::Address => crate::addresses::canonical_name(name),
        Names::Any | Names::Unchecked => Vec::new(),
    };
    let generate = text(&meta["generateName"]);
    if !generate.is_empty() {
        // A trailing dash is fine: more follows it.
        let stem = generate.strip_suffix('-').map(|s| format!("{s}a"));
        invalid_all(
            "metadata.generateName",
            generate,
            check(stem.as_deref().unwrap_or(generate)),
            errors,
        );
    }
    let name = text(&meta["name"]);
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        invalid_all("metadata.name", name, check(name), errors);
    }
    let namespace = text(&meta["namespace"]);
    if kind.namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            invalid_all(
                "metadata.namespace",
                namespace,
                names::dns1123_label(namespace),
                errors,
            );
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(
            "metadata.namespace",
            "not allowed on this type",
        ));
    }
    shared(kind, meta, errors);
}

/// Annotations: keys in any case, and not too much of them.
pub(crate) fn validate_annotations(annotations: &Value, path: &str, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(annotations) {
        let wrong = names::qualified_name(&key.to_lowercase());
        invalid_all(path, key, wrong, errors);
        size += key.len() + text(value).len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(FieldError::too_long(path, ANNOTATIONS_LIMIT));
    }
}

/// The metadata of a template: labels and annotations only.
pub(crate) fn validate_template(meta: &Value, path: &str, errors: &mut Errors) {
    let at = format!("{path}.annotations");
    validate_annotations(&meta["annotations"], &at, errors);
    labels(&meta["labels"], &format!("{path}.labels"), errors);
    for (key, value) in entries(meta) {
        let empty = value.is_null() || value == "" || *value == json!([]);
        if !matches!(key.as_str(), "annotations" | "labels") && !empty {
            let path = format!("{path}.{key}");
            errors.push(FieldError::forbidden(path, "cannot be set"));
        }
    }
}

fn shared(kind: &Kind, meta: &Value, errors: &mut Errors) {
    if meta["generation"].as_i64().is_some_and(|g| g < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(
            "metadata.generation",
            &meta["generation"],
            detail,
        ));
    }
    labels(&meta["labels"], "metadata.labels", errors);
    validate_annotations(&meta["annotations"], "metadata.annotations", errors);
    let mut controllers: Vec<&Value> = Vec::new();
    for owner in items(&meta["ownerReferences"]) {
        let path = |key: &str| format!("metadata.ownerReferences.{key}");
        if text(&owner["apiVersion"])
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .is_empty()
        {
            errors.push(FieldError::invalid_str(
                path("apiVersion"),
                text(&owner["apiVersion"]),
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if text(&owner[key]).is_empty() {
                errors.push(FieldError::invalid_str(path(key), "", "must not be empty"));
            }
        }
        if owner["controller"] == true {
            controllers.push(owner);
        }
    }
    if let [first, second, ..] = controllers[..] {
        let who = |o: &Value| format!("{}/{}", text(&o["kind"]), text(&o["name"]));
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
            who(first),
            who(second)
        );
        errors.push(FieldError::invalid(
            "metadata.ownerReferences",
            &meta["ownerReferences"],
            detail,
        ));
    }
    for (i, finalizer) in items(&meta["finalizers"]).iter().enumerate() {
        let name = text(finalizer);
        let path = "metadata.finalizers";
        invalid_all(path, name, names::qualified_name(name), errors);
        if !GENERIC.contains(&kind.group) {
            validate_standard(name, &format!("{path}[{i}]"), errors);
        }
    }
}

/// Groups that lie outside of upstream's own kinds: what these know of finalizers does not hold there.
const GENERIC: [&str; 3] = [
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
];

/// Who must do something before an object goes: a qualified name, or one of the few that are known without.
pub(crate) fn validate_finalizer(name: &str, path: &str, errors: &mut Errors) {
    invalid_all(path, name, names::qualified_name(name), errors);
    validate_standard(name, path, errors);
}

fn validate_standard(name: &str, path: &str, errors: &mut Errors) {
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        errors.push(FieldError::invalid_str(path, name, detail));
    }
}

pub(crate) fn validate_update(kind: &Kind, new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (&new["metadata"], &old["metadata"]);
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if a[key] != b[key] {
            errors.push(FieldError::invalid(
                format!("metadata.{key}"),
                &a[key],
                "field is immutable",
            ));
        }
    }
    if b["deletionTimestamp"].is_string() {
        let had = items(&b["finalizers"]);
        let added: Vec<&Value> = items(&a["finalizers"])
            .iter()
            .filter(|f| !had.contains(f))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                json!(added)
            );
            errors.push(FieldError::forbidden("metadata.finalizers", detail));
        }
    }
    shared(kind, a, errors);
}
