//! What CSI drivers and the parts around them say to each other: drivers, what each node has, capacities, attachments
//! and the classes of attributes.
//!
//! Follows <https://kubernetes-csi.github.io/docs/> and upstream's `pkg/apis/storage/validation`.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::storage::{validate_parameters, validate_provisioner};
use crate::tree::{
    age, bump_generation, entries, immutable, int, invalid_all, items, label_selector, name,
    non_negative_quantity, not_negative, object, one_of, set_default, text, unset_or,
};
use crate::{AGE, Errors, NAME, Strategy, column, shown};

/// The longest name of a driver, in bytes.
const DRIVER_NAME_LIMIT: usize = 63;
const NODE_ID_LIMIT: usize = 256;
/// What the attach and detach calls of a driver may leave in the status, in bytes.
const ATTACHMENT_METADATA_LIMIT: usize = 256 * 1024;
const VOLUME_ERROR_LIMIT: usize = 1024;
const SHORTEST_TOKEN_SECONDS: i64 = 600;
const LONGEST_TOKEN_SECONDS: i64 = 1 << 32;
const SHORTEST_UPDATE_PERIOD_SECONDS: i64 = 10;

/// The name of a CSI or device driver: a lower-case DNS name of at most 63 bytes.
pub(crate) fn driver_name(v: &Value, path: &str, errors: &mut Errors) {
    let driver = text(v);
    if driver.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if driver.len() > DRIVER_NAME_LIMIT {
        errors.push(FieldError::too_long(path, DRIVER_NAME_LIMIT));
    }
    let wrong = names::dns1123_subdomain(&driver.to_lowercase());
    invalid_all(path, driver, wrong, errors);
}

fn default_driver(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    set_default(spec, "attachRequired", true);
    for key in [
        "podInfoOnMount",
        "storageCapacity",
        "requiresRepublish",
        "seLinuxMount",
    ] {
        set_default(spec, key, false);
    }
    set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if items(&spec["volumeLifecycleModes"]).is_empty() {
        spec["volumeLifecycleModes"] = json!(["Persistent"]);
    }
}

fn validate_token_requests(requests: &Value, errors: &mut Errors) {
    let mut audiences: Vec<&str> = Vec::new();
    for (i, request) in items(requests).iter().enumerate() {
        let path = format!("spec.tokenRequests[{i}]");
        let audience = text(&request["audience"]);
        if audiences.contains(&audience) {
            let bad = audience.into();
            errors.push(FieldError::duplicate(format!("{path}.audience"), &bad));
            continue;
        }
        audiences.push(audience);
        let seconds = &request["expirationSeconds"];
        let detail = match seconds.as_i64() {
            Some(n) if n < SHORTEST_TOKEN_SECONDS => {
                "may not specify a duration less than 10 minutes"
            }
            Some(n) if n > LONGEST_TOKEN_SECONDS => {
                "may not specify a duration larger than 2^32 seconds"
            }
            _ => continue,
        };
        let path = format!("{path}.expirationSeconds");
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

fn validate_driver(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    let path = "spec.fsGroupPolicy";
    one_of(&spec["fsGroupPolicy"], path, &policies, errors);
    validate_token_requests(&spec["tokenRequests"], errors);
    for mode in items(&spec["volumeLifecycleModes"]) {
        let modes = ["Persistent", "Ephemeral"];
        one_of(mode, "spec.volumeLifecycleModes", &modes, errors);
    }
    let period = &spec["nodeAllocatableUpdatePeriodSeconds"];
    if period
        .as_i64()
        .is_some_and(|n| n < SHORTEST_UPDATE_PERIOD_SECONDS)
    {
        let path = "spec.nodeAllocatableUpdatePeriodSeconds";
        let detail = "must be greater than or equal to 10 seconds";
        errors.push(FieldError::invalid(path, period, detail));
    }
}

pub(crate) const DRIVER: Strategy = Strategy {
    unconditional_update: false,
    default: default_driver,
    update: |new, old| {
        if new["spec"] != old["spec"] {
            bump_generation(new, old);
        }
    },
    validate: validate_driver,
    validate_update: |new, old, errors| {
        let (a, b) = (&new["spec"], &old["spec"]);
        // Upstream's path has this typing error.
        let path = "spec.attachedRequired";
        immutable(&a["attachRequired"], &b["attachRequired"], path, errors);
        let key = "volumeLifecycleModes";
        immutable(&a[key], &b[key], "spec.volumeLifecycleModes", errors);
    },
    columns: &[
        NAME,
        column(
            "AttachRequired",
            "boolean",
            "Whether its volumes are attached.",
        ),
        column(
            "PodInfoOnMount",
            "boolean",
            "Whether mounting it tells which Pod it is for.",
        ),
        column(
            "StorageCapacity",
            "boolean",
            "Whether Pods wait for room in its storage.",
        ),
        column(
            "TokenRequests",
            "string",
            "The tokens it wants to be given.",
        ),
        column(
            "RequiresRepublish",
            "boolean",
            "Whether its volumes are published again and again.",
        ),
        column("Modes", "string", "The lives its volumes may have."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let flag = |key: &str| Value::from(spec[key] == true);
        let list = |v: &Value, key: Option<&str>| {
            let shown = items(v).iter().map(|i| text(key.map_or(i, |k| &i[k])));
            shown.collect::<Vec<_>>().join(",")
        };
        let tokens = if spec["tokenRequests"].is_array() {
            list(&spec["tokenRequests"], Some("audience"))
        } else {
            "<unset>".to_owned()
        };
        vec![
            name(o),
            (spec["attachRequired"] != false).into(),
            flag("podInfoOnMount"),
            flag("storageCapacity"),
            tokens.into(),
            flag("requiresRepublish"),
            crate::tree::none_if_empty(list(&spec["volumeLifecycleModes"], None)),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

fn validate_topology_keys(keys: &Value, path: &str, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for key in items(keys).iter().map(text) {
        if key.is_empty() {
            errors.push(FieldError::required(path, ""));
        }
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(path, &key.into()));
        }
        seen.push(key);
        invalid_all(path, key, names::qualified_name(key), errors);
    }
}

fn validate_node(o: &Value, errors: &mut Errors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in items(&o["spec"]["drivers"]).iter().enumerate() {
        let path = format!("spec.drivers[{i}]");
        let at = |key: &str| format!("{path}.{key}");
        driver_name(&driver["name"], &at("name"), errors);
        let id = text(&driver["nodeID"]);
        if id.is_empty() {
            errors.push(FieldError::required(at("nodeID"), ""));
        } else if id.len() > NODE_ID_LIMIT {
            let detail = format!("must be {NODE_ID_LIMIT} characters or less");
            errors.push(FieldError::invalid_str(at("nodeID"), id, detail));
        }
        let allocatable = at("allocatable");
        not_negative(&driver["allocatable"], &allocatable, "count", errors);
        if seen.contains(&text(&driver["name"])) {
            errors.push(FieldError::duplicate(at("name"), &driver["name"]));
        }
        seen.push(text(&driver["name"]));
        validate_topology_keys(&driver["topologyKeys"], &path, errors);
    }
}

/// A registered driver stays as it is but for how many volumes it can take.
fn validate_node_update(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        crate::tree::remove(&mut driver, "allocatable");
        driver
    };
    for before in items(&old["spec"]["drivers"]) {
        let same = items(&new["spec"]["drivers"])
            .iter()
            .filter(|d| d["name"] == before["name"]);
        for after in same {
            let after = fixed(after);
            if after != fixed(before) {
                let shown = shown::show(&after, &shown::NODE_DRIVER);
                errors.push(shown::invalid("spec.drivers", shown, "field is immutable"));
            }
        }
    }
}

pub(crate) const NODE: Strategy = Strategy {
    unconditional_update: false,
    validate: validate_node,
    validate_update: validate_node_update,
    columns: &[
        NAME,
        column(
            "Drivers",
            "integer",
            "How many CSI drivers are registered on the node.",
        ),
        AGE,
    ],
    row: |o, now| {
        let drivers = items(&o["spec"]["drivers"]).len();
        vec![name(o), drivers.into(), age(o, now)]
    },
    ..Strategy::BASE
};

pub(crate) const CAPACITY: Strategy = Strategy {
    unconditional_update: false,
    validate_create: |o, errors| {
        label_selector(&o["nodeTopology"], "nodeTopology", errors);
        let class = text(&o["storageClassName"]);
        let wrong = names::dns1123_subdomain(class);
        invalid_all("storageClassName", class, wrong, errors);
        non_negative_quantity(&o["capacity"], "capacity", errors);
    },
    validate_update: |new, old, errors| {
        for key in ["nodeTopology", "storageClassName"] {
            immutable(&new[key], &old[key], key, errors);
        }
    },
    columns: &[
        NAME,
        column("StorageClassName", "string", "The class it counts for."),
        column("Capacity", "string", "How much room there is."),
    ],
    row: |o, _| {
        vec![
            name(o),
            text(&o["storageClassName"]).into(),
            unset_or(&o["capacity"]),
        ]
    },
    ..Strategy::BASE
};

/// What only a volume that stands in an attachment itself must satisfy.
fn validate_inline(spec: &Value, path: &str, errors: &mut Errors) {
    let inline = "in the context of inline volumes";
    for key in ["claimRef", "capacity"] {
        if crate::count(&spec[key]) > 0 {
            let detail = format!("may not be specified {inline}");
            errors.push(FieldError::forbidden(format!("{path}.{key}"), detail));
        }
    }
    if !spec["csi"].is_object() {
        let detail = format!("has to be specified {inline}");
        errors.push(FieldError::required(format!("{path}.csi"), detail));
    }
    if items(&spec["accessModes"]).is_empty() {
        errors.push(FieldError::required(format!("{path}.accessModes"), ""));
    }
}

fn validate_attachment_source(source: &Value, errors: &mut Errors) {
    let path = "spec.source";
    let both = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, volume) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
    match (inline.is_object(), volume.as_str()) {
        (false, None) => errors.push(FieldError::required(path, both)),
        (true, Some(_)) => errors.push(FieldError::forbidden(path, both)),
        (false, Some("")) => errors.push(FieldError::required(
            "spec.source.persistentVolumeName",
            "must specify non empty persistentVolumeName",
        )),
        (false, Some(_)) => {}
        (true, None) => validate_inline(inline, "spec.source.inlineVolumeSpec", errors),
    }
}

fn validate_volume_error(error: &Value, path: &str, errors: &mut Errors) {
    if text(&error["message"]).len() > VOLUME_ERROR_LIMIT {
        // Upstream names the other limit here.
        let path = format!("{path}.message");
        errors.push(FieldError::too_long(path, ATTACHMENT_METADATA_LIMIT));
    }
    if int(&error["errorCode"]) < 0 {
        let detail = names::inclusive_range(0, i64::from(i32::MAX));
        let path = format!("{path}.errorCode");
        errors.push(FieldError::invalid(path, &error["errorCode"], detail));
    }
}

fn validate_attachment(o: &Value, errors: &mut Errors) {
    let (spec, status) = (&o["spec"], &o["status"]);
    if text(&spec["attacher"]).is_empty() {
        errors.push(FieldError::required("spec.attacher", ""));
    }
    validate_attachment_source(&spec["source"], errors);
    let node = text(&spec["nodeName"]);
    let wrong = names::dns1123_subdomain(node);
    invalid_all("spec.nodeName", node, wrong, errors);
    let size: usize = entries(&status["attachmentMetadata"])
        .map(|(k, v)| k.len() + text(v).len())
        .sum();
    if size > ATTACHMENT_METADATA_LIMIT {
        let path = "status.attachmentMetadata";
        errors.push(FieldError::too_long(path, ATTACHMENT_METADATA_LIMIT));
    }
    for key in ["attachError", "detachError"] {
        validate_volume_error(&status[key], &format!("status.{key}"), errors);
    }
}

fn validate_attachment_change(new: &Value, old: &Value, errors: &mut Errors) {
    if new["spec"] != old["spec"] {
        let shown = shown::show(&new["spec"], &shown::ATTACHMENT);
        errors.push(shown::invalid("spec", shown, "field is immutable"));
    }
}

pub(crate) const ATTACHMENT: Strategy = Strategy {
    unconditional_update: false,
    default: |o| {
        if let Some(inline) = o.pointer_mut("/spec/source/inlineVolumeSpec") {
            set_default(inline, "volumeMode", "Filesystem");
        }
    },
    validate: validate_attachment,
    validate_create: |o, errors| {
        driver_name(&o["spec"]["attacher"], "spec.attacher", errors);
        if let Some(volume) = o["spec"]["source"]["persistentVolumeName"].as_str() {
            let wrong = names::dns1123_subdomain(volume);
            invalid_all("spec.source.persistentVolumeName", volume, wrong, errors);
        }
    },
    validate_update: validate_attachment_change,
    validate_status: |new, old, errors| {
        validate_attachment(new, errors);
        validate_attachment_change(new, old, errors);
    },
    columns: &[
        NAME,
        crate::Column {
            format: "name",
            ..column("Attacher", "string", "The driver that attaches it.")
        },
        column("PV", "string", "The volume."),
        column("Node", "string", "The node it is attached to."),
        column("Attached", "boolean", "Whether it is attached."),
        AGE,
    ],
    row: |o, now| {
        let spec = &o["spec"];
        vec![
            name(o),
            text(&spec["attacher"]).into(),
            text(&spec["source"]["persistentVolumeName"]).into(),
            text(&spec["nodeName"]).into(),
            (o["status"]["attached"] == true).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const ATTRIBUTES_CLASS: Strategy = Strategy {
    validate: |o, errors| {
        validate_provisioner(&o["driverName"], "driverName", errors);
        validate_parameters(&o["parameters"], errors);
        if crate::count(&o["parameters"]) == 0 {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required("parameters", detail));
        }
    },
    validate_update: |new, old, errors| {
        for key in ["driverName", "parameters"] {
            if new[key] != old[key] {
                let detail = format!("updates to {key} are forbidden.");
                errors.push(FieldError::forbidden(key, detail));
            }
        }
    },
    columns: &[
        NAME,
        column(
            "DriverName",
            "string",
            "The driver that knows its attributes.",
        ),
        AGE,
    ],
    row: |o, now| vec![name(o), text(&o["driverName"]).into(), age(o, now)],
    ..Strategy::BASE
};
