//! PersistentVolumes, their claims and StorageClasses: defaults, the rules most often met, and columns.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{
    age, entries, immutable, invalid_all, items, name, object, one_of, set, set_default, text,
};
use crate::{AGE, Errors, NAME, Strategy, column, wide};

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

fn validate_modes(spec: &Value, errors: &mut Errors) {
    if items(&spec["accessModes"]).is_empty() {
        errors.push(FieldError::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    for mode in items(&spec["accessModes"]) {
        one_of(mode, "spec.accessModes", &MODES, errors);
    }
    one_of(
        &spec["volumeMode"],
        "spec.volumeMode",
        &["Block", "Filesystem"],
        errors,
    );
}

fn modes(list: &Value) -> String {
    let short = items(list).iter().map(|m| match text(m) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    });
    short.collect::<Vec<_>>().join(",")
}

fn state(o: &Value) -> Value {
    if o["metadata"]["deletionTimestamp"].is_string() {
        "Terminating".into()
    } else {
        text(&o["status"]["phase"]).into()
    }
}

fn mode(o: &Value) -> Value {
    match text(&o["spec"]["volumeMode"]) {
        "" => "<unset>".into(),
        mode => mode.into(),
    }
}

pub(crate) const VOLUME: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
            set_default(spec, "volumeMode", "Filesystem");
            if let Some(host) = spec.get_mut("hostPath") {
                set_default(host, "type", "");
            }
        }
    },
    create: |o| set(o, "status", json!({ "phase": "Pending" })),
    validate: |o, errors| {
        let spec = &o["spec"];
        validate_modes(spec, errors);
        if spec["capacity"]["storage"].is_null() {
            errors.push(FieldError::required("spec.capacity", ""));
        }
        let policies = ["Delete", "Recycle", "Retain"];
        one_of(
            &spec["persistentVolumeReclaimPolicy"],
            "spec.persistentVolumeReclaimPolicy",
            &policies,
            errors,
        );
    },
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
        let or = |v: &Value, none: &str| {
            if text(v).is_empty() {
                none.to_owned()
            } else {
                text(v).to_owned()
            }
        };
        vec![
            name(o),
            text(&spec["capacity"]["storage"]).into(),
            modes(&spec["accessModes"]).into(),
            text(&spec["persistentVolumeReclaimPolicy"]).into(),
            state(o),
            claim.into(),
            text(&spec["storageClassName"]).into(),
            or(&spec["volumeAttributesClassName"], "<unset>").into(),
            text(&o["status"]["reason"]).into(),
            age(o, now),
            mode(o),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const CLAIM: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            set_default(spec, "volumeMode", "Filesystem");
            object(spec, "resources");
        }
    },
    create: |o| set(o, "status", json!({ "phase": "Pending" })),
    validate: |o, errors| {
        let spec = &o["spec"];
        validate_modes(spec, errors);
        if spec["resources"]["requests"]["storage"].is_null() {
            errors.push(FieldError::required("spec.resources[storage]", ""));
        }
    },
    validate_update: |new, old, errors| {
        let (a, b) = (&new["spec"], &old["spec"]);
        for key in ["accessModes", "selector", "storageClassName", "volumeMode"] {
            let binding = b[key].is_null();
            if a[key] != b[key] && !binding {
                let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
                              for bound claims";
                errors.push(FieldError::forbidden("spec", detail));
                break;
            }
        }
    },
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
        let attributes = text(&spec["volumeAttributesClassName"]);
        vec![
            name(o),
            state(o),
            text(&spec["volumeName"]).into(),
            if bound {
                text(&status["capacity"]["storage"]).into()
            } else {
                "".into()
            },
            if bound {
                modes(&status["accessModes"]).into()
            } else {
                "".into()
            },
            text(&spec["storageClassName"]).into(),
            if attributes.is_empty() {
                "<unset>".into()
            } else {
                attributes.into()
            },
            age(o, now),
            mode(o),
        ]
    },
    ..Strategy::BASE
};

/// The name of what makes volumes: a qualified name in any case.
pub(crate) fn validate_provisioner(v: &Value, path: &str, errors: &mut Errors) {
    let provisioner = text(v).to_lowercase();
    if provisioner.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        let wrong = names::qualified_name(&provisioner);
        invalid_all(path, &provisioner, wrong, errors);
    }
}

/// What a class passes to its provisioner.
pub(crate) fn validate_parameters(parameters: &Value, errors: &mut Errors) {
    const MOST: usize = 512;
    const MOST_BYTES: usize = 256 * 1024;
    if crate::count(parameters) > MOST {
        errors.push(FieldError::too_long("parameters", MOST));
        return;
    }
    let size: usize = entries(parameters)
        .map(|(k, v)| k.len() + text(v).len())
        .sum();
    if parameters.get("").is_some() {
        let detail = "field can not be empty.";
        errors.push(FieldError::invalid_str("parameters", "", detail));
    }
    if size > MOST_BYTES {
        errors.push(FieldError::too_long("parameters", MOST_BYTES));
    }
}

fn validate_topologies(topologies: &Value, errors: &mut Errors) {
    let mut seen: Vec<&Value> = Vec::new();
    for (i, term) in items(topologies).iter().enumerate() {
        let path = format!("allowedTopologies[{i}].matchLabelExpressions");
        let expressions = &term["matchLabelExpressions"];
        let mut keys: Vec<&str> = Vec::new();
        for (j, expression) in items(expressions).iter().enumerate() {
            let path = format!("{path}[{j}]");
            let key = text(&expression["key"]);
            if items(&expression["values"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.values"), ""));
            }
            let mut values: Vec<&str> = Vec::new();
            for (k, value) in items(&expression["values"]).iter().enumerate() {
                if values.contains(&text(value)) {
                    errors.push(FieldError::duplicate(format!("{path}.values[{k}]"), value));
                }
                values.push(text(value));
            }
            invalid_all(
                &format!("{path}.key"),
                key,
                names::qualified_name(key),
                errors,
            );
            if keys.contains(&key) {
                let key = &expression["key"];
                errors.push(FieldError::duplicate(format!("{path}.key"), key));
            }
            keys.push(key);
        }
        if seen.contains(&expressions) {
            errors.push(FieldError::duplicate(path, &"".into()));
        }
        seen.push(expressions);
    }
}

pub(crate) const CLASS: Strategy = Strategy {
    default: |o| {
        set_default(o, "reclaimPolicy", "Delete");
        set_default(o, "volumeBindingMode", "Immediate");
    },
    validate: |o, errors| {
        validate_provisioner(&o["provisioner"], "provisioner", errors);
        validate_parameters(&o["parameters"], errors);
        validate_topologies(&o["allowedTopologies"], errors);
        one_of(
            &o["reclaimPolicy"],
            "reclaimPolicy",
            &["Delete", "Retain"],
            errors,
        );
        one_of(
            &o["volumeBindingMode"],
            "volumeBindingMode",
            &["Immediate", "WaitForFirstConsumer"],
            errors,
        );
    },
    validate_update: |new, old, errors| {
        if new["parameters"] != old["parameters"] {
            errors.push(FieldError::forbidden(
                "parameters",
                "updates to parameters are forbidden.",
            ));
        }
        if new["provisioner"] != old["provisioner"] {
            errors.push(FieldError::forbidden(
                "provisioner",
                "updates to provisioner are forbidden.",
            ));
        }
        if new["reclaimPolicy"] != old["reclaimPolicy"] {
            errors.push(FieldError::forbidden(
                "reclaimPolicy",
                "updates to reclaimPolicy are forbidden.",
            ));
        }
        immutable(
            &new["volumeBindingMode"],
            &old["volumeBindingMode"],
            "volumeBindingMode",
            errors,
        );
    },
    columns: &[
        NAME,
        column("Provisioner", "string", "What makes its volumes."),
        column(
            "ReclaimPolicy",
            "string",
            "What happens to its volumes after their claims.",
        ),
        column("VolumeBindingMode", "string", "When its volumes are made."),
        column(
            "AllowVolumeExpansion",
            "boolean",
            "Whether its volumes may grow.",
        ),
        AGE,
    ],
    row: |o, now| {
        let default =
            o["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let shown = if default {
            format!("{} (default)", text(&name(o)))
        } else {
            text(&name(o)).to_owned()
        };
        vec![
            shown.into(),
            text(&o["provisioner"]).into(),
            text(&o["reclaimPolicy"]).into(),
            text(&o["volumeBindingMode"]).into(),
            (o["allowVolumeExpansion"] == true).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
