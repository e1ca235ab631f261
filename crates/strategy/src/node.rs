//! Nodes.

use api::FieldError;
use serde_json::Value;

use crate::tree::{age, entries, invalid_all, items, name, none_if_empty, object, one_of, text};
use crate::{AGE, Errors, NAME, Strategy, column, wide};

fn validate(o: &Value, errors: &mut Errors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, taint) in items(&o["spec"]["taints"]).iter().enumerate() {
        let path = format!("spec.taints[{i}]");
        let (key, value) = (text(&taint["key"]), text(&taint["value"]));
        invalid_all(
            &format!("{path}.key"),
            key,
            api::names::qualified_name(key),
            errors,
        );
        invalid_all(
            &format!("{path}.value"),
            value,
            api::names::label_value(value),
            errors,
        );
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        if text(&taint["effect"]).is_empty() {
            errors.push(FieldError::required(format!("{path}.effect"), ""));
        } else {
            one_of(
                &taint["effect"],
                &format!("{path}.effect"),
                &effects,
                errors,
            );
        }
        let pair = (key, text(&taint["effect"]));
        if seen.contains(&pair) {
            let mut error = FieldError::duplicate(&path, taint);
            error.detail = "taints must be unique by key and effect pair".into();
            errors.push(error);
        }
        seen.push(pair);
    }
    for (i, cidr) in items(&o["spec"]["podCIDRs"]).iter().enumerate() {
        let valid = text(cidr).split_once('/').is_some_and(|(ip, bits)| {
            ip.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= 128)
        });
        if !valid {
            let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.push(FieldError::invalid(
                format!("spec.podCIDRs[{i}]"),
                cidr,
                detail,
            ));
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let (a, b) = (&new["spec"], &old["spec"]);
    if !items(&b["podCIDRs"]).is_empty() && a["podCIDRs"] != b["podCIDRs"] {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden("spec.podCIDRs", detail));
    }
    if !text(&b["providerID"]).is_empty() && a["providerID"] != b["providerID"] {
        errors.push(FieldError::forbidden(
            "spec.providerID",
            "node updates may not change providerID except from \"\" to valid",
        ));
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
    validate,
    validate_update,
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
