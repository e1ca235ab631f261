//! Nodes.

use api::{FieldError, names};
use serde_json::Value;

use crate::pod_spec::{validate_amount, validate_taint_effect};
use crate::tree::{age, entries, invalid_all, items, name, none_if_empty, object, text};
use crate::{AGE, Errors, NAME, Strategy, column, ip, shown, wide};

/// What Pods are kept away by.
fn validate_taints(o: &Value, errors: &mut Errors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(&o["spec"]["taints"]).iter().enumerate() {
        // Upstream's path is in the metadata, where taints once were.
        let path = format!("metadata.taints[{i}]");
        let (key, value) = (text(&taint["key"]), text(&taint["value"]));
        invalid_all(
            &format!("{path}.key"),
            key,
            names::qualified_name(key),
            errors,
        );
        let wrong = names::label_value(value);
        if !wrong.is_empty() {
            let path = format!("{path}.value");
            errors.push(FieldError::invalid_str(path, value, wrong.join(";")));
        }
        validate_taint_effect(&taint["effect"], &format!("{path}.effect"), errors);
        let pair = (key, text(&taint["effect"]));
        if seen.contains(&pair) {
            let mut error = shown::duplicate(path, shown::show(taint, &shown::TAINT));
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
        seen.push(pair);
    }
}

fn validate_amounts(o: &Value, errors: &mut Errors) {
    for key in ["capacity", "allocatable"] {
        for (resource, amount) in entries(&o["status"][key]) {
            let path = format!("status.{key}.{resource}");
            validate_amount(resource, amount, &path, errors);
        }
    }
}

fn validate_cidrs(o: &Value, errors: &mut Errors) {
    let (path, list) = ("spec.podCIDRs", &o["spec"]["podCIDRs"]);
    let cidrs = items(list);
    let mut valid = true;
    for (i, cidr) in cidrs.iter().enumerate() {
        valid &= ip::validate_cidr(text(cidr), &format!("{path}[{i}]"), errors);
    }
    if cidrs.len() < 2 {
        return;
    }
    let addresses = cidrs
        .iter()
        .map(|c| text(c).split('/').next().unwrap_or_default());
    if valid && (cidrs.len() > 2 || !ip::both_families(addresses)) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(path, list, detail));
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        if cidrs[..i].contains(cidr) {
            errors.push(FieldError::duplicate(format!("{path}[{i}]"), cidr));
        }
    }
}

/// What holds for any change of a node, be it of the node itself or of its status.
fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    validate_amounts(new, errors);
    let addresses = items(&new["status"]["addresses"]);
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            let shown = shown::show(address, &shown::ADDRESS);
            errors.push(shown::duplicate(format!("status.addresses[{i}]"), shown));
        }
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    validate_fixed(spec, was, errors);
    if spec["configSource"].is_object() {
        validate_config(&spec["configSource"], "spec.configSource", false, errors);
    }
    for key in ["assigned", "active", "lastKnownGood"] {
        let source = &new["status"]["config"][key];
        if source.is_object() {
            validate_config(source, &format!("status.config.{key}"), true, errors);
        }
    }
    validate_taints(new, errors);
}

fn validate_fixed(spec: &Value, was: &Value, errors: &mut Errors) {
    let (now, before) = (items(&spec["podCIDRs"]), items(&was["podCIDRs"]));
    let changed = if now.len() == before.len() {
        now.iter().zip(before).filter(|(a, b)| a != b).count()
    } else {
        usize::from(!before.is_empty())
    };
    for _ in 0..changed {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
    let provider = text(&was["providerID"]);
    if !provider.is_empty() && text(&spec["providerID"]) != provider {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.providerID", detail));
    }
    if text(&spec["externalID"]) != text(&was["externalID"]) {
        let detail = "may not be updated";
        errors.push(FieldError::forbidden("spec.externalID", detail));
    }
}

/// Where a kubelet once had its configuration from. Of no use any more, but judged still.
fn validate_config(source: &Value, path: &str, in_status: bool, errors: &mut Errors) {
    let map = &source["configMap"];
    if !map.is_object() {
        let shown = shown::show(source, &shown::NODE_CONFIG);
        let detail = "exactly one reference subfield must be non-nil";
        errors.push(shown::invalid(path, shown, detail));
        return;
    }
    let at = |key: &str| format!("{path}.configMap.{key}");
    for key in ["uid", "resourceVersion"] {
        match (in_status, text(&map[key]).is_empty()) {
            (true, true) => {
                let detail = format!("{key} must be set in status");
                errors.push(FieldError::required(at(key), detail));
            }
            (false, false) => {
                let detail = format!("{key} must not be set in spec");
                errors.push(FieldError::forbidden(at(key), detail));
            }
            _ => {}
        }
    }
    type Rule = (&'static str, fn(&str) -> Vec<String>);
    let rules: [Rule; 3] = [
        ("namespace", names::dns1123_label),
        ("name", names::dns1123_subdomain),
        ("kubeletConfigKey", names::config_map_key),
    ];
    for (key, rule) in rules {
        let value = text(&map[key]);
        if value.is_empty() {
            let detail = format!("{key} must be set");
            errors.push(FieldError::required(at(key), detail));
        } else {
            invalid_all(&at(key), value, rule(value), errors);
        }
    }
}

fn address(o: &Value, kind: &str) -> Value {
    let found = items(&o["status"]["addresses"])
        .iter()
        .find(|a| a["type"] == kind);
    none_if_empty(
        found
            .map(|a| text(&a["address"]).to_owned())
            .unwrap_or_default(),
    )
}

fn row(o: &Value, now: jiff::Timestamp) -> Vec<Value> {
    let ready = items(&o["status"]["conditions"])
        .iter()
        .find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(&c["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if o["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = entries(&o["metadata"]["labels"])
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => Some(text(value)),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let info = |key: &str| -> Value {
        match text(&o["status"]["nodeInfo"][key]) {
            "" => "<unknown>".into(),
            text => text.into(),
        }
    };
    vec![
        name(o),
        status.into(),
        none_if_empty(roles.join(",")),
        age(o, now),
        text(&o["status"]["nodeInfo"]["kubeletVersion"]).into(),
        address(o, "InternalIP"),
        address(o, "ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// Allocatable is the capacity where the kubelet does not say otherwise.
fn default(o: &mut Value) {
    if let Some(status) = o
        .get_mut("status")
        .filter(|s| s["allocatable"].is_null() && s["capacity"].is_object())
    {
        let capacity = status["capacity"].clone();
        crate::tree::set(status, "allocatable", capacity);
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    status_metadata: true,
    default,
    create: |o| {
        object(o, "spec");
    },
    validate_create: |o, errors| {
        validate_taints(o, errors);
        validate_amounts(o, errors);
        validate_cidrs(o, errors);
    },
    validate_update: validate_change,
    validate_status: validate_change,
    columns: &[
        NAME,
        column("Status", "string", "Whether the node takes Pods."),
        column("Roles", "string", "The roles of the node."),
        AGE,
        column("Version", "string", "The kubelet's version."),
        wide("Internal-IP", "The node's address inside the cluster."),
        wide("External-IP", "The node's address outside the cluster."),
        wide("OS-Image", "The operating system that the node reports."),
        wide("Kernel-Version", "The kernel that the node reports."),
        wide(
            "Container-Runtime",
            "The container runtime that the node reports.",
        ),
    ],
    row,
    fields: |o, out| {
        out.push((
            "spec.unschedulable",
            (o["spec"]["unschedulable"] == true).to_string(),
        ))
    },
    ..Strategy::BASE
};
