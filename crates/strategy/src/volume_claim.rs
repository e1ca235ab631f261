//! Claims to PersistentVolumes.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::persistent_volume::{show_modes, show_state, validate_class, validate_modes};
use crate::pod_spec::{is_native, validate_amount};
use crate::tree::{
    age, entries, immutable, invalid_all, items, label_selector, name, object, one_of, quantity,
    remove, same, set, set_default, text, unset_or,
};
use crate::{AGE, Errors, NAME, Strategy, column, wide};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// What fills the volume, in the older field, may only be a claim or a snapshot; the newer field says the same.
fn normalize_sources(spec: &mut Value) {
    let source = &spec["dataSource"];
    let group = text(&source["apiGroup"]);
    let claim = group.is_empty() && source["kind"] == "PersistentVolumeClaim";
    let snapshot = group == "snapshot.storage.k8s.io" && source["kind"] == "VolumeSnapshot";
    if source.is_object() && !claim && !snapshot {
        remove(spec, "dataSource");
    }
    let (source, reference) = (spec["dataSource"].clone(), spec["dataSourceRef"].clone());
    if source.is_object() && reference.is_null() {
        set(spec, "dataSourceRef", source);
    } else if reference.is_object() && source.is_null() && text(&reference["namespace"]).is_empty()
    {
        let mut source = reference;
        remove(&mut source, "namespace");
        set(spec, "dataSource", source);
    }
}

fn validate_source(source: &Value, path: &str, errors: &mut Errors) {
    for key in ["name", "kind"] {
        if text(&source[key]).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), ""));
        }
    }
    let (group, kind) = (text(&source["apiGroup"]), text(&source["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid_str(path, kind, detail));
    }
    if !group.is_empty() {
        let wrong = names::dns1123_subdomain(group);
        invalid_all(&format!("{path}.apiGroup"), group, wrong, errors);
    }
    let namespace = text(&source["namespace"]);
    if !namespace.is_empty() {
        let wrong = names::dns1123_label(namespace);
        invalid_all(&format!("{path}.namespace"), namespace, wrong, errors);
    }
}

fn validate_sources(spec: &Value, path: &str, errors: &mut Errors) {
    for key in ["dataSource", "dataSourceRef"] {
        if spec[key].is_object() {
            validate_source(&spec[key], &format!("{path}.{key}"), errors);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if !source.is_object() || !reference.is_object() {
        return;
    }
    let differs = ["apiGroup", "kind", "name"]
        .iter()
        .any(|k| source[*k] != reference[*k]);
    let detail = if !text(&reference["namespace"]).is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if differs {
        "must match dataSourceRef"
    } else {
        return;
    };
    // Upstream shows a path as if it were a value, which comes out empty.
    errors.push(FieldError::invalid(path, &json!({}), detail));
}

/// The spec of a claim, on its own and inside templates.
pub(crate) fn validate_spec(spec: &Value, path: &str, errors: &mut Errors) {
    let at = |key: &str| format!("{path}.{key}");
    let modes = at("accessModes");
    let needed = "at least 1 access mode is required";
    validate_modes(&spec["accessModes"], needed, &modes, errors);
    label_selector(&spec["selector"], &at("selector"), errors);
    let (amount, at_amount) = (
        &spec["resources"]["requests"]["storage"],
        at("resources[storage]"),
    );
    match quantity(amount) {
        None => errors.push(FieldError::required(at_amount, "")),
        Some(size) if size.sign() <= 0 => {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid_str(
                at_amount,
                &size.to_string(),
                detail,
            ));
        }
        Some(_) => {}
    }
    validate_class(&spec["storageClassName"], &at("storageClassName"), errors);
    let modes = ["Block", "Filesystem"];
    one_of(&spec["volumeMode"], &at("volumeMode"), &modes, errors);
    validate_sources(spec, path, errors);
    let class = &spec["volumeAttributesClassName"];
    validate_class(class, &at("volumeAttributesClassName"), errors);
}

/// Whether the class, once an annotation, has moved to its field.
fn class_moved(new: &Value, old: &Value) -> bool {
    let annotation = |o: &Value| o["metadata"]["annotations"].get(BETA_CLASS).cloned();
    let (was, class) = (annotation(old), &new["spec"]["storageClassName"]);
    was.is_some()
        && old["spec"]["storageClassName"].is_null()
        && was.as_ref() == Some(class)
        && annotation(new).is_none_or(|now| Some(now) == was)
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (mut spec, mut was) = (new["spec"].clone(), old["spec"].clone());
    normalize_sources(&mut was);
    if text(&was["volumeName"]).is_empty() {
        let volume = spec["volumeName"].clone();
        set(&mut was, "volumeName", volume);
    }
    if class_moved(new, old) {
        remove(&mut spec, "storageClassName");
    } else {
        let annotation = |o: &Value| text(&o["metadata"]["annotations"][BETA_CLASS]).to_owned();
        let (now, before) = (annotation(new), annotation(old));
        let path = format!("metadata.annotations.{BETA_CLASS}");
        immutable(&now.as_str().into(), &before.as_str().into(), &path, errors);
        let from_nil = was["storageClassName"].is_null() && spec["storageClassName"].is_string();
        if from_nil && (before.is_empty() || spec["storageClassName"] == before) {
            remove(&mut spec, "storageClassName");
        }
    }
    if old["status"]["phase"] == "Bound" {
        let size = was["resources"]["requests"]["storage"].clone();
        if let Some(requests) = object(&mut spec, "resources").and_then(|r| object(r, "requests")) {
            set(requests, "storage", size);
        }
        let class = was["volumeAttributesClassName"].clone();
        if spec["volumeAttributesClassName"].is_string() {
            set(&mut spec, "volumeAttributesClassName", class);
        }
    }
    if !same(&spec, &was) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims\n";
        errors.push(FieldError::forbidden("spec", detail));
    }
    validate_size(new, old, errors);
    let (mode, before) = (&new["spec"]["volumeMode"], &old["spec"]["volumeMode"]);
    immutable(mode, before, "volumeMode", errors);
    validate_attributes(new, old, errors);
}

/// A claim may become smaller again only while its volume has not grown.
fn validate_size(new: &Value, old: &Value, errors: &mut Errors) {
    let size = |o: &Value| {
        quantity(&o["spec"]["resources"]["requests"]["storage"]).unwrap_or(api::Quantity::ZERO)
    };
    let has = quantity(&old["status"]["capacity"]["storage"]).unwrap_or(api::Quantity::ZERO);
    if size(new) < size(old) && size(new) <= has {
        let detail = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden(
            "spec.resources.requests.storage",
            detail,
        ));
    }
}

fn validate_attributes(new: &Value, old: &Value, errors: &mut Errors) {
    let key = "volumeAttributesClassName";
    if old["spec"][key].is_null() || new["spec"][key] == old["spec"][key] {
        return;
    }
    let detail = match new["spec"][key].as_str() {
        None => "update from non-nil value to nil is forbidden",
        Some("") => "update from non-nil value to an empty string is forbidden",
        Some(_) => return,
    };
    errors.push(FieldError::forbidden(format!("spec.{key}"), detail));
}

/// A resource of a claim's status; says whether it is one.
fn validate_resource(resource: &str, path: &str, errors: &mut Errors) -> bool {
    let wrong = names::qualified_name(resource);
    if !wrong.is_empty() {
        invalid_all(path, resource, wrong, errors);
        return false;
    }
    if is_native(resource) && resource != "storage" {
        let storage = ["storage"];
        errors.push(FieldError::not_supported(path, &resource.into(), &storage));
        return false;
    }
    true
}

/// How a volume's growth stands.
const RESIZES: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

fn validate_status(new: &Value, errors: &mut Errors) {
    if items(&new["spec"]["accessModes"]).is_empty() {
        errors.push(FieldError::required("Spec.accessModes", ""));
    }
    let status = &new["status"];
    for (resource, amount) in entries(&status["capacity"]) {
        let path = format!("status.capacity[{resource}]");
        crate::persistent_volume::validate_basic_amount(amount, &path, errors);
    }
    let path = "status.allocatedResourceStatus";
    for (resource, resize) in entries(&status["allocatedResourceStatuses"]) {
        validate_resource(resource, path, errors);
        if !RESIZES.contains(&text(resize)) {
            let mut known = RESIZES;
            known.sort_unstable();
            let shown = resource.as_str().into();
            errors.push(FieldError::not_supported(path, &shown, &known));
        }
    }
    for (resource, amount) in entries(&status["allocatedResources"]) {
        let path = "status.allocatedResources";
        if !validate_resource(resource, path, errors) {
            continue;
        }
        let path = format!("{path}[{resource}]");
        if crate::persistent_volume::validate_basic_amount(amount, &path, errors) {
            validate_amount("storage", amount, &path, errors);
        }
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            set_default(spec, "volumeMode", "Filesystem");
            object(spec, "resources");
        }
    },
    create: |o| {
        set(o, "status", json!({ "phase": "Pending" }));
        if let Some(spec) = object(o, "spec") {
            normalize_sources(spec);
        }
    },
    update: |new, _| {
        if let Some(spec) = object(new, "spec") {
            normalize_sources(spec);
        }
    },
    validate: |o, errors| validate_spec(&o["spec"], "spec", errors),
    validate_update,
    validate_status: |new, _, errors| validate_status(new, errors),
    columns: &[
        NAME,
        column("Status", "string", "Where it stands."),
        column("Volume", "string", "The volume that it has."),
        column("Capacity", "string", "The size of the volume."),
        column("Access Modes", "string", "How the volume may be mounted."),
        column("StorageClass", "string", "The class that it asks for."),
        column("VolumeAttributesClass", "string", "Its attributes' class."),
        AGE,
        wide("VolumeMode", "A file system or a block device."),
    ],
    row: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let bound = !text(&spec["volumeName"]).is_empty();
        let of_volume = |shown: String| Value::from(if bound { shown } else { String::new() });
        let class = match o["metadata"]["annotations"].get(BETA_CLASS) {
            Some(class) => text(class),
            None => text(&spec["storageClassName"]),
        };
        vec![
            name(o),
            show_state(o),
            text(&spec["volumeName"]).into(),
            of_volume(text(&status["capacity"]["storage"]).to_owned()),
            of_volume(show_modes(&status["accessModes"])),
            class.into(),
            unset_or(&spec["volumeAttributesClassName"]),
            age(o, now),
            unset_or(&spec["volumeMode"]),
        ]
    },
    ..Strategy::BASE
};
