//! Volumes of a Pod, and where containers have them.

use std::collections::{BTreeMap, BTreeSet};

use api::{FieldError, names};
use serde_json::Value;

use super::volume_sources::{
    self as sources, Source, local_descending, local_path, mode, needs, no_backsteps, one_source,
};
use super::{Scope, containers, env, projected};
use crate::tree::{invalid_all, items, one_of, quantity, required_name, text};
use crate::{Errors, csi, meta, volume_claim};

/// The sources in upstream's order, with its slips of the pen.
const SOURCES: [Source; 29] = [
    ("emptyDir", "emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", "hostPath", sources::host_path),
    ("gitRepo", "gitRepo", "gitRepo", git_repo),
    (
        "gcePersistentDisk",
        "persistentDisk",
        "gcePersistentDisk",
        sources::gce_disk,
    ),
    (
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        "awsElasticBlockStore",
        sources::aws_disk,
    ),
    ("secret", "secret", "secret", secret),
    ("nfs", "nfs", "nfs", sources::nfs),
    ("iscsi", "iscsi", "iscsi", sources::iscsi),
    ("glusterfs", "glusterfs", "glusterfs", sources::glusterfs),
    ("flocker", "flocker", "flocker", sources::flocker),
    (
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        "persistentVolumeClaim",
        claim,
    ),
    ("rbd", "rbd", "rbd", sources::rbd),
    ("cinder", "cinder", "cinder", sources::cinder),
    ("cephfs", "cephfs", "cephFS", sources::cephfs),
    ("quobyte", "quobyte", "quobyte", sources::quobyte),
    ("downwardAPI", "downwardAPI", "downwarAPI", downward),
    ("fc", "fc", "fc", sources::fc),
    ("flexVolume", "flexVolume", "flexVolume", sources::flex),
    ("configMap", "configMap", "configMap", config_map),
    ("azureFile", "azureFile", "azureFile", sources::azure_file),
    (
        "vsphereVolume",
        "vsphereVolume",
        "vsphereVolume",
        sources::vsphere,
    ),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "photonPersistentDisk",
        sources::photon,
    ),
    (
        "portworxVolume",
        "portworxVolume",
        "portworxVolume",
        sources::portworx,
    ),
    ("azureDisk", "azureDisk", "azureDisk", sources::azure_disk),
    ("storageos", "storageos", "storageos", sources::storage_os),
    ("projected", "projected", "projected", projected::validate),
    ("scaleIO", "scaleIO", "scaleIO", sources::scale_io),
    ("csi", "csi", "csi", csi_volume),
    ("ephemeral", "ephemeral", "ephemeral", ephemeral),
];

/// Says what is wrong with the volumes; the others are there for containers.
pub(super) fn validate_volumes<'a>(
    scope: &Scope<'a>,
    path: &str,
    errors: &mut Errors,
) -> BTreeMap<&'a str, &'a Value> {
    let volumes = items(&scope.spec["volumes"]);
    let pod = scope.meta.map_or("", |m| text(&m["name"]));
    let mut valid = BTreeMap::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let before = errors.len();
        validate_source(scope, volume, &path, errors);
        let name = text(&volume["name"]);
        let at = format!("{path}.name");
        required_name(&volume["name"], &at, names::dns1123_label, errors);
        if valid.contains_key(name) {
            errors.push(FieldError::duplicate(&at, &volume["name"]));
        }
        if errors.len() == before {
            valid.insert(name, volume);
        }
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        let made = |v: &Value| {
            v["ephemeral"].is_object() && format!("{pod}-{}", text(&v["name"])) == text(claim)
        };
        if !pod.is_empty() && volumes.iter().any(made) {
            let path = format!("{path}.persistentVolumeClaim.claimName");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(path, claim, detail));
        }
    }
    valid
}

fn validate_source(scope: &Scope, volume: &Value, path: &str, errors: &mut Errors) {
    let name = text(&volume["name"]);
    // An image has rules of its own in a Pod.
    let image = &volume["image"];
    if image.is_object() {
        let others = SOURCES
            .iter()
            .filter(|(k, ..)| volume[*k].is_object())
            .count();
        if others == 0 {
            validate_image(scope, image, &format!("{path}.image"), errors);
            return;
        }
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{path}.image"), detail));
    }
    one_source(volume, &SOURCES, path, errors);
    let iscsi = &volume["iscsi"];
    let length = name.len() + 1 + text(&iscsi["targetPortal"]).len();
    if iscsi["initiatorName"].is_string() && length > sources::ISCSI_NAMES {
        let path = format!("{path}.name");
        errors.push(FieldError::invalid_str(path, name, sources::ISCSI_TOO_LONG));
    }
    let pod = scope.meta.map_or("", |m| text(&m["name"]));
    if volume["ephemeral"].is_object() && !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        for wrong in names::dns1123_subdomain(&claim) {
            let detail = format!("PVC name {}: {wrong}", api::field::quote(&claim));
            errors.push(FieldError::invalid_str(
                format!("{path}.name"),
                name,
                detail,
            ));
        }
    }
}

fn validate_image(scope: &Scope, image: &Value, path: &str, errors: &mut Errors) {
    if scope.is_pod() {
        needs(image, &["reference"], path, errors);
    }
    containers::validate_pull_policy(&image["pullPolicy"], &format!("{path}.pullPolicy"), errors);
}

fn empty_dir(v: &Value, path: &str, errors: &mut Errors) {
    if quantity(&v["sizeLimit"]).is_some_and(|q| q.sign() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.sizeLimit"), detail));
    }
}

fn git_repo(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["repository"], path, errors);
    let directory = text(&v["directory"]);
    local_descending(directory, &format!("{path}.directory"), errors);
}

fn secret(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["secretName"], path, errors);
    mode(&v["defaultMode"], format!("{path}.defaultMode"), errors);
    validate_keys(&v["items"], &format!("{path}.items"), errors);
}

fn config_map(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["name"], path, errors);
    mode(&v["defaultMode"], format!("{path}.defaultMode"), errors);
    validate_keys(&v["items"], &format!("{path}.items"), errors);
}

pub(super) fn validate_keys(list: &Value, path: &str, errors: &mut Errors) {
    for (i, item) in items(list).iter().enumerate() {
        let path = format!("{path}[{i}]");
        needs(item, &["key", "path"], &path, errors);
        local_path(text(&item["path"]), &format!("{path}.path"), errors);
        mode(&item["mode"], format!("{path}.mode"), errors);
    }
}

fn claim(v: &Value, path: &str, errors: &mut Errors) {
    needs(v, &["claimName"], path, errors);
}

fn downward(v: &Value, path: &str, errors: &mut Errors) {
    mode(&v["defaultMode"], format!("{path}.defaultMode"), errors);
    for item in items(&v["items"]) {
        // Upstream's path does not say which item.
        validate_downward_item(item, path, errors);
    }
}

/// Fields of a Pod that a file may hold.
const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

pub(super) fn validate_downward_item(item: &Value, path: &str, errors: &mut Errors) {
    needs(item, &["path"], path, errors);
    local_path(text(&item["path"]), &format!("{path}.path"), errors);
    let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
    if field.is_object() {
        env::validate_field_ref(field, &FIELDS, &format!("{path}.fieldRef"), errors);
        if resource.is_object() {
            let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(FieldError::invalid_str(path, "resource", detail));
        }
    } else if resource.is_object() {
        let path = format!("{path}.resourceFieldRef");
        env::validate_resource_ref(resource, true, &path, errors);
    } else {
        let detail = "one of fieldRef and resourceFieldRef is required";
        errors.push(FieldError::required(path, detail));
    }
    mode(&item["mode"], format!("{path}.mode"), errors);
}

fn csi_volume(v: &Value, path: &str, errors: &mut Errors) {
    csi::driver_name(&v["driver"], &format!("{path}.driver"), errors);
    let secret = &v["nodePublishSecretRef"];
    if secret.is_object() {
        let name = text(&secret["name"]);
        if name.is_empty() {
            let path = format!("{path}.nodePublishSecretRef.name");
            errors.push(FieldError::required(path, ""));
        } else {
            let wrong = names::dns1123_subdomain(name);
            invalid_all(&format!("{path}.name"), name, wrong, errors);
        }
    }
}

fn ephemeral(v: &Value, path: &str, errors: &mut Errors) {
    let path = format!("{path}.volumeClaimTemplate");
    let template = &v["volumeClaimTemplate"];
    if template.is_object() {
        meta::validate_template(&template["metadata"], &format!("{path}.metadata"), errors);
        volume_claim::validate_spec(&template["spec"], &format!("{path}.spec"), errors);
    } else {
        errors.push(FieldError::required(path, ""));
    }
}

pub(super) fn validate_mounts(scope: &Scope, c: &Value, path: &str, errors: &mut Errors) {
    let devices = items(&c["volumeDevices"]);
    let mut points = BTreeSet::new();
    for (i, mount) in items(&c["volumeMounts"]).iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        let (name, point) = (&mount["name"], &mount["mountPath"]);
        needs(mount, &["name"], &format!("{path}[{i}]"), errors);
        if !scope.volumes.contains_key(text(name)) {
            errors.push(FieldError::not_found(at("name"), &text(name).into()));
        }
        needs(mount, &["mountPath"], &format!("{path}[{i}]"), errors);
        if !points.insert(text(point)) {
            let detail = "must be unique";
            errors.push(FieldError::invalid_str(
                at("mountPath"),
                text(point),
                detail,
            ));
        }
        if devices.iter().any(|d| d["name"] == *name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(at("name"), name, detail));
        }
        if devices.iter().any(|d| d["devicePath"] == *point) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(at("mountPath"), point, detail));
        }
        validate_sub_paths(mount, &at("subPathExpr"), path, errors);
        validate_propagation(mount, c, path, errors);
    }
}

/// What of the volume is mounted. Upstream's paths here do not say which mount, but for one.
fn validate_sub_paths(mount: &Value, exact: &str, path: &str, errors: &mut Errors) {
    let (sub, expression) = (text(&mount["subPath"]), text(&mount["subPathExpr"]));
    local_descending(sub, &format!("{path}.subPath"), errors);
    if !expression.is_empty() && !sub.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid_str(exact, expression, detail));
    }
    local_descending(expression, &format!("{path}.subPathExpr"), errors);
}

fn validate_propagation(mount: &Value, container: &Value, path: &str, errors: &mut Errors) {
    let propagation = &mount["mountPropagation"];
    let at = format!("{path}.mountPropagation");
    let modes = ["Bidirectional", "HostToContainer", "None"];
    one_of(propagation, &at, &modes, errors);
    if propagation == "Bidirectional" && container["securityContext"]["privileged"] != true {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(at, detail));
    }
    let at = format!("{path}.recursiveReadOnly");
    match &mount["recursiveReadOnly"] {
        Value::Null => {}
        mode if matches!(text(mode), "Enabled" | "IfPossible") => {
            if mount["readOnly"] != true {
                let detail = "may only be specified when readOnly is true";
                errors.push(FieldError::forbidden(&at, detail));
            }
            if !propagation.is_null() && propagation != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.push(FieldError::forbidden(&at, detail));
            }
        }
        mode => one_of(mode, &at, &["Disabled", "Enabled", "IfPossible"], errors),
    }
}

pub(super) fn validate_devices(scope: &Scope, c: &Value, path: &str, errors: &mut Errors) {
    let mounts = items(&c["volumeMounts"]);
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in items(&c["volumeDevices"]).iter().enumerate() {
        let at = |key: &str| format!("{path}[{i}].{key}");
        let (name, target) = (text(&device["name"]), text(&device["devicePath"]));
        needs(device, &["name"], &format!("{path}[{i}]"), errors);
        let mut refuse = |key: &str, value: &str, detail: &str| {
            errors.push(FieldError::invalid_str(at(key), value, detail));
        };
        if !name.is_empty() && !names.insert(name) {
            refuse("name", name, "must be unique");
        }
        match scope.volumes.get(name) {
            None => errors.push(FieldError::not_found(at("name"), &name.into())),
            Some(v) if v["persistentVolumeClaim"].is_object() || v["ephemeral"].is_object() => {}
            Some(_) => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                refuse("name", name, detail);
            }
        }
        needs(device, &["devicePath"], &format!("{path}[{i}]"), errors);
        let mut refuse = |key: &str, value: &str, detail: &str| {
            errors.push(FieldError::invalid_str(at(key), value, detail));
        };
        if paths.contains(target) {
            refuse("devicePath", target, "must be unique");
        }
        let mut backsteps = Vec::new();
        no_backsteps(target, "", &mut backsteps);
        if backsteps.is_empty() {
            paths.insert(target);
        } else {
            refuse("devicePath", target, "can not contain backsteps ('..')");
        }
        if mounts.iter().any(|m| text(&m["name"]) == name) {
            refuse("name", name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| text(&m["mountPath"]) == target) {
            let detail = "must not already exist as a path in volumeMounts";
            refuse("devicePath", target, detail);
        }
    }
}
