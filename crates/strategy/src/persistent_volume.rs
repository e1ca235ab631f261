//! PersistentVolumes.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::pod_spec::validate_node_selector;
use crate::pod_spec::volume_sources::{self as sources, Source, needs, no_backsteps, one_source};
use crate::tree::{
    age, entries, immutable, invalid_all, items, name, object, one_of, quantity, remove,
    required_name, same, set, set_default, text, unset_or,
};
use crate::{AGE, Errors, NAME, Strategy, column, csi, shown, wide};

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// How a volume may be mounted: by one Pod alone, or else.
pub(crate) fn validate_modes(list: &Value, needed: &str, path: &str, errors: &mut Errors) {
    let modes = items(list);
    if modes.is_empty() {
        errors.push(FieldError::required(path, needed));
    }
    for mode in modes {
        one_of(mode, path, &MODES, errors);
    }
    let alone = |m: &Value| *m == "ReadWriteOncePod";
    let shared = |m: &Value| !alone(m) && MODES.contains(&text(m));
    if modes.iter().any(alone) && modes.iter().any(shared) {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The name of a class, if there is one.
pub(crate) fn validate_class(class: &Value, path: &str, errors: &mut Errors) {
    let class = text(class);
    if !class.is_empty() {
        invalid_all(path, class, names::dns1123_subdomain(class), errors);
    }
}

/// An amount that is no debt; says whether it is such.
pub(crate) fn validate_basic_amount(amount: &Value, path: &str, errors: &mut Errors) -> bool {
    let value = quantity(amount).map_or(0, api::Quantity::value);
    if value < 0 {
        let detail = "must be a valid resource quantity";
        errors.push(FieldError::invalid(path, &value.into(), detail));
    }
    value >= 0
}

fn unique_modes(list: &Value) -> Vec<&str> {
    let order = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(list).iter().any(|m| *m == mode);
    order
        .into_iter()
        .filter(|(m, _)| has(m))
        .map(|(_, s)| s)
        .collect()
}

pub(crate) fn show_modes(list: &Value) -> String {
    unique_modes(list).join(",")
}

pub(crate) fn show_state(o: &Value) -> Value {
    if o["metadata"]["deletionTimestamp"].is_string() {
        "Terminating".into()
    } else {
        text(&o["status"]["phase"]).into()
    }
}

/// The sources in upstream's order.
const SOURCES: [Source; 20] = [
    ("hostPath", "hostPath", "hostPath", sources::host_path),
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
    (
        "glusterfs",
        "glusterfs",
        "glusterfs",
        sources::glusterfs_persistent,
    ),
    ("flocker", "flocker", "flocker", sources::flocker),
    ("nfs", "nfs", "nfs", sources::nfs),
    ("rbd", "rbd", "rbd", sources::rbd),
    ("quobyte", "quobyte", "quobyte", sources::quobyte),
    ("cephfs", "cephfs", "cephFS", sources::cephfs),
    ("iscsi", "iscsi", "iscsi", sources::iscsi_persistent),
    ("cinder", "cinder", "cinder", sources::cinder_persistent),
    ("fc", "fc", "fc", sources::fc),
    (
        "azureFile",
        "azureFile",
        "azureFile",
        sources::azure_file_persistent,
    ),
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
    ("scaleIO", "scaleIO", "scaleIO", sources::scale_io),
    (
        "storageos",
        "storageos",
        "storageos",
        sources::storage_os_persistent,
    ),
    ("csi", "csi", "csi", csi_source),
];

fn csi_source(v: &Value, path: &str, errors: &mut Errors) {
    csi::driver_name(&v["driver"], &format!("{path}.driver"), errors);
    needs(v, &["volumeHandle"], path, errors);
    for key in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = &v[key];
        if secret.is_object() {
            let at = |part: &str| format!("{path}.{key}.{part}");
            required_name(
                &secret["name"],
                &at("name"),
                names::dns1123_subdomain,
                errors,
            );
            let namespace = &secret["namespace"];
            required_name(namespace, &at("namespace"), names::dns1123_label, errors);
        }
    }
}

fn validate_capacity(capacity: &Value, errors: &mut Errors) {
    let path = "spec.capacity";
    let resources = crate::count(capacity);
    if resources == 0 {
        errors.push(FieldError::required(path, ""));
    }
    if capacity["storage"].is_null() || resources > 1 {
        errors.push(FieldError::not_supported(path, capacity, &["storage"]));
    }
    for (resource, amount) in entries(capacity) {
        let path = format!("{path}[{resource}]");
        validate_basic_amount(amount, &path, errors);
        if quantity(amount).is_some_and(|q| q.sign() <= 0) {
            let shown = quantity(amount).unwrap_or(api::Quantity::ZERO).to_string();
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid_str(path, &shown, detail));
        }
    }
}

fn validate_affinity(affinity: &Value, errors: &mut Errors) {
    if !affinity.is_object() {
        return;
    }
    let path = "spec.nodeAffinity.required";
    if affinity["required"].is_object() {
        validate_node_selector(&affinity["required"], path, errors);
    } else {
        let detail = "must specify required node constraints";
        errors.push(FieldError::required(path, detail));
    }
}

fn validate_source(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    // These two come in upstream's list too; one is never said to be one too many, the other needs more.
    let (flex, local) = (&spec["flexVolume"], &spec["local"]);
    if flex.is_object() {
        sources::flex(flex, "spec.flexVolume", errors);
    }
    if local.is_object() {
        validate_local(spec, errors);
    }
    let others = SOURCES.iter().any(|(k, ..)| spec[*k].is_object());
    if others || (!flex.is_object() && !local.is_object()) {
        one_source(spec, &SOURCES, "spec", errors);
    }
    let iscsi = &spec["iscsi"];
    let portal = text(&iscsi["targetPortal"]);
    let length = text(&o["metadata"]["name"]).len() + 1 + portal.len();
    if iscsi["initiatorName"].is_string() && length > sources::ISCSI_NAMES {
        let path = "spec.iscsi.targetportal";
        errors.push(FieldError::invalid_str(
            path,
            portal,
            sources::ISCSI_TOO_LONG,
        ));
    }
}

fn validate_local(spec: &Value, errors: &mut Errors) {
    let before = SOURCES.iter().take_while(|(k, ..)| *k != "storageos");
    if spec["flexVolume"].is_object() || before.into_iter().any(|(k, ..)| spec[*k].is_object()) {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden("spec.local", detail));
        return;
    }
    let path = text(&spec["local"]["path"]);
    if path.is_empty() {
        errors.push(FieldError::required("spec.local.path", ""));
    } else {
        no_backsteps(path, "spec.local.path", errors);
    }
    if !spec["nodeAffinity"].is_object() {
        let detail = "Local volume requires node affinity";
        errors.push(FieldError::required("spec.nodeAffinity", detail));
    }
}

/// Whether a path names the root, however it is written.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|p| matches!(p, "" | "." | ".."))
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    validate_modes(&spec["accessModes"], "", "spec.accessModes", errors);
    validate_capacity(&spec["capacity"], errors);
    let policy = &spec["persistentVolumeReclaimPolicy"];
    let at = "spec.persistentVolumeReclaimPolicy";
    if !text(policy).is_empty() {
        one_of(policy, at, &["Delete", "Recycle", "Retain"], errors);
    }
    validate_affinity(&spec["nodeAffinity"], errors);
    validate_source(o, errors);
    if policy == "Recycle" && is_root(text(&spec["hostPath"]["path"])) {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.push(FieldError::forbidden(at, detail));
    }
    validate_class(&spec["storageClassName"], "spec.storageClassName", errors);
    let modes = ["Block", "Filesystem"];
    one_of(&spec["volumeMode"], "spec.volumeMode", &modes, errors);
    validate_attributes(spec, errors);
}

fn validate_attributes(spec: &Value, errors: &mut Errors) {
    let path = "spec.volumeAttributesClassName";
    match spec["volumeAttributesClassName"].as_str() {
        None => return,
        Some("") => errors.push(FieldError::required(path, "an empty string is disallowed")),
        Some(class) => invalid_all(path, class, names::dns1123_subdomain(class), errors),
    }
    if !spec["csi"].is_object() {
        let detail = "has to be specified when using volumeAttributesClassName";
        errors.push(FieldError::required("spec.csi", detail));
    }
}

/// The source alone.
fn source(spec: &Value) -> Value {
    let more = ["flexVolume", "local"];
    let keys = SOURCES.iter().map(|(k, ..)| *k).chain(more);
    let given = keys.filter(|k| spec[*k].is_object());
    given.map(|k| (k.to_owned(), spec[k].clone())).collect()
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    let (mut now, before) = (source(spec), source(was));
    let secret = "controllerExpandSecretRef";
    if before["csi"].is_object()
        && before["csi"][secret].is_null()
        && let Some(csi) = now.get_mut("csi")
    {
        remove(csi, secret);
    }
    if !same(&now, &before) {
        let detail = "spec.persistentvolumesource is immutable after creation\n";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", detail));
    }
    immutable(
        &spec["volumeMode"],
        &was["volumeMode"],
        "volumeMode",
        errors,
    );
    let (affinity, before) = (&spec["nodeAffinity"], &was["nodeAffinity"]);
    if before.is_object() && !same(&with_stable_labels(before, affinity), affinity) {
        let shown = if affinity.is_null() {
            "null".to_owned()
        } else {
            shown::show(affinity, &shown::VOLUME_AFFINITY)
        };
        let detail = "field is immutable, except for updating from beta label to GA";
        errors.push(shown::invalid("nodeAffinity", shown, detail));
    }
    let key = "volumeAttributesClassName";
    if was[key].is_string() && spec[key].is_null() {
        let detail = "update from non-nil value to nil is forbidden";
        errors.push(FieldError::forbidden(format!("spec.{key}"), detail));
    }
}

/// Labels of nodes that have got a stable name.
const STABLE: [(&str, &str); 5] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    (
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
    ),
];

/// The old affinity with the stable names of labels where the new one has them.
fn with_stable_labels(old: &Value, new: &Value) -> Value {
    let mut old = old.clone();
    let Some(Value::Array(terms)) = old
        .get_mut("required")
        .and_then(|r| r.get_mut("nodeSelectorTerms"))
    else {
        return old;
    };
    let new = items(&new["required"]["nodeSelectorTerms"]);
    for (term, new) in terms.iter_mut().zip(new) {
        let Some(Value::Array(list)) = term.get_mut("matchExpressions") else {
            continue;
        };
        for (was, now) in list.iter_mut().zip(items(&new["matchExpressions"])) {
            let renamed = (text(&was["key"]), text(&now["key"]));
            if STABLE.contains(&renamed) {
                let key = now["key"].clone();
                set(was, "key", key);
            }
        }
    }
    old
}

/// A volume says since when it is in its phase.
pub(crate) fn stamp_phase(new: &mut Value, old: Option<&Value>, now: jiff::Timestamp) {
    let key = "lastPhaseTransitionTime";
    let was = old.map_or(&Value::Null, |o| &o["status"]);
    let status = &new["status"];
    let own = !status[key].is_null() && status[key] != was[key];
    if status["phase"] != was["phase"]
        && !own
        && let Some(status) = object(new, "status")
    {
        set(status, key, api::time::seconds(now));
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
            set_default(spec, "volumeMode", "Filesystem");
            crate::pod_spec::default_source(spec);
        }
    },
    create: |o| set(o, "status", json!({ "phase": "Pending" })),
    validate,
    validate_update,
    columns: &[
        NAME,
        column("Capacity", "string", "Its size."),
        column("Access Modes", "string", "How it may be mounted."),
        column(
            "Reclaim Policy",
            "string",
            "What happens to it after its claim.",
        ),
        column("Status", "string", "Where it stands."),
        column("Claim", "string", "The claim that has it."),
        column("StorageClass", "string", "Its class."),
        column("VolumeAttributesClass", "string", "Its attributes' class."),
        column("Reason", "string", "Why it stands there."),
        AGE,
        wide("VolumeMode", "A file system or a block device."),
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        vec![
            name(o),
            text(&spec["capacity"]["storage"]).into(),
            show_modes(&spec["accessModes"]).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            show_state(o),
            claim.into(),
            text(&spec["storageClassName"]).into(),
            unset_or(&spec["volumeAttributesClassName"]),
            text(&o["status"]["reason"]).into(),
            age(o, now),
            unset_or(&spec["volumeMode"]),
        ]
    },
    ..Strategy::BASE
};
