//! APIServices: which server answers for a group and version.
//!
//! Follows <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/>.

use api::{FieldError, names};
use serde_json::{Value, json};

use crate::tree::{age, int, invalid_all, items, name, object, one_of, set, set_default, text};
use crate::{AGE, Errors, NAME, Names, Strategy, column};

const GROUP_PRIORITY_LIMIT: i64 = 20_000;
const VERSION_PRIORITY_LIMIT: i64 = 1000;

pub(crate) fn validate_name(o: &Value, name: &str) -> Vec<String> {
    let wrong = names::path_segment(name);
    let spec = &o["spec"];
    let required = format!("{}.{}", text(&spec["version"]), text(&spec["group"]));
    if wrong.is_empty() && name != required {
        let required = api::field::quote(&required);
        return vec![format!(
            "must be `spec.version+\".\"+spec.group`: {required}"
        )];
    }
    wrong
}

fn validate_group_and_version(spec: &Value, errors: &mut Errors) {
    let (group, version) = (text(&spec["group"]), text(&spec["version"]));
    if !group.is_empty() {
        let wrong = names::dns1123_subdomain(group);
        invalid_all("spec.group", group, wrong, errors);
    } else if version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required("spec.group", detail));
    }
    invalid_all(
        "spec.version",
        version,
        names::dns1035_label(version),
        errors,
    );
}

fn validate_priorities(spec: &Value, errors: &mut Errors) {
    for (key, limit) in [
        ("groupPriorityMinimum", GROUP_PRIORITY_LIMIT),
        ("versionPriority", VERSION_PRIORITY_LIMIT),
    ] {
        let priority = int(&spec[key]);
        if !(1..=limit).contains(&priority) {
            let detail = format!("must be positive and less than {limit}");
            let path = format!("spec.{key}");
            errors.push(FieldError::invalid(path, &priority.into(), detail));
        }
    }
}

/// How the server is reached, and trusted.
fn validate_server(spec: &Value, errors: &mut Errors) {
    let (service, bundle) = (&spec["service"], text(&spec["caBundle"]));
    let insecure = spec["insecureSkipTLSVerify"] == true;
    let path = "spec.insecureSkipTLSVerify";
    if !service.is_object() {
        if !bundle.is_empty() {
            let shown = format!("{} bytes", decoded_length(bundle));
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid_str("spec.caBundle", &shown, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(path, &true.into(), detail));
        }
        return;
    }
    for key in ["namespace", "name"] {
        if text(&service[key]).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{key}"), ""));
        }
    }
    if insecure && !bundle.is_empty() {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid(path, &true.into(), detail));
    }
}

/// How many bytes base64 stands for.
fn decoded_length(base64: &str) -> usize {
    base64.trim_end_matches('=').len() * 3 / 4
}

/// What this API server answers itself is there from the start.
fn available_if_local(o: &mut Value) {
    if o["spec"]["service"].is_object() {
        return;
    }
    let condition = json!({
        "type": "Available",
        "status": "True",
        "lastTransitionTime": o["metadata"]["creationTimestamp"],
        "reason": "Local",
        "message": "Local APIServices are always available",
    });
    set(o, "status", json!({ "conditions": [condition] }));
}

fn show_availability(o: &Value) -> String {
    let conditions = items(&o["status"]["conditions"]);
    let Some(available) = conditions.iter().find(|c| c["type"] == "Available") else {
        return "Unknown".to_owned();
    };
    let (status, reason) = (text(&available["status"]), text(&available["reason"]));
    if status == "True" {
        status.to_owned()
    } else {
        format!("{status} ({reason})")
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    unconditional_update: false,
    names: Names::ApiService,
    default: |o| {
        if let Some(spec) = object(o, "spec")
            && spec["service"].is_object()
            && let Some(service) = object(spec, "service")
        {
            set_default(service, "port", 443);
        }
    },
    create: available_if_local,
    validate: |o, errors| {
        let spec = &o["spec"];
        validate_group_and_version(spec, errors);
        validate_priorities(spec, errors);
        validate_server(spec, errors);
    },
    validate_update: |new, _, errors| {
        let own = text(&new["metadata"]["name"]);
        invalid_all("metadata.name", own, validate_name(new, own), errors);
    },
    validate_status: |new, _, errors| {
        for (i, condition) in items(&new["status"]["conditions"]).iter().enumerate() {
            let path = format!("status.conditions[{i}].status");
            let statuses = ["True", "False", "Unknown"];
            one_of(&condition["status"], &path, &statuses, errors);
        }
    },
    columns: &[
        NAME,
        column(
            "Service",
            "string",
            "The reference to the service that hosts this API endpoint.",
        ),
        column("Available", "string", "Whether this service is available."),
        AGE,
    ],
    row: |o, now| {
        let service = &o["spec"]["service"];
        let service = if service.is_object() {
            format!("{}/{}", text(&service["namespace"]), text(&service["name"]))
        } else {
            "Local".to_owned()
        };
        vec![
            name(o),
            service.into(),
            show_availability(o).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
