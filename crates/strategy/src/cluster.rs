//! Namespaces, Leases, PriorityClasses, LimitRanges and ResourceQuotas.

use api::{FieldError, Quantity, time};
use serde_json::{Value, json};

use crate::tree::{
    age, entries, immutable, int, items, name, object, remove, set, set_default, text,
};
use crate::{AGE, Errors, NAME, Names, Strategy, column};

pub(crate) const NAMESPACE: Strategy = Strategy {
    names: Names::Label,
    status_metadata: true,
    default: |o| {
        // Selectors of namespaces rely on this label.
        let name = o["metadata"]["name"].clone();
        if let Some(labels) = object(o, "metadata").and_then(|m| object(m, "labels"))
            && !text(&name).is_empty()
        {
            set(labels, "kubernetes.io/metadata.name", name);
        }
    },
    create: |o| {
        set(o, "status", json!({ "phase": "Active" }));
        if let Some(spec) = object(o, "spec") {
            let mut finalizers = items(&spec["finalizers"]).to_vec();
            if !finalizers.iter().any(|f| f == "kubernetes") {
                finalizers.push("kubernetes".into());
            }
            set(spec, "finalizers", finalizers);
        }
    },
    update: |new, old| {
        // Finalizers of a namespace change through `finalize` only.
        if let Some(spec) = object(new, "spec") {
            match old["spec"].get("finalizers") {
                Some(finalizers) => set(spec, "finalizers", finalizers.clone()),
                None => remove(spec, "finalizers"),
            }
        }
    },
    columns: &[
        NAME,
        column("Status", "string", "The status of the namespace"),
        AGE,
    ],
    row: |o, now| vec![name(o), o["status"]["phase"].clone(), age(o, now)],
    fields: |o, out| out.push(("status.phase", text(&o["status"]["phase"]).into())),
    ..Strategy::BASE
};

/// Leases whose holder the control plane chooses are not made here.
fn drop_coordination(o: &mut Value) {
    if let Some(spec) = o.get_mut("spec") {
        for key in ["strategy", "preferredHolder"] {
            crate::tree::remove(spec, key);
        }
    }
}

pub(crate) const LEASE: Strategy = Strategy {
    unconditional_update: false,
    create: drop_coordination,
    update: |o, _| drop_coordination(o),
    validate: |o, errors| {
        let spec = &o["spec"];
        let mut at_least = |key: &str, low: i64, detail: &str| {
            if spec[key].as_i64().is_some_and(|n| n < low) {
                let path = format!("spec.{key}");
                errors.push(FieldError::invalid(path, &spec[key], detail));
            }
        };
        at_least("leaseDurationSeconds", 1, "must be greater than 0");
        at_least("leaseTransitions", 0, "must be greater than or equal to 0");
    },
    columns: &[
        NAME,
        column("Holder", "string", "The current holder of the lease."),
        AGE,
    ],
    row: |o, now| {
        vec![
            name(o),
            text(&o["spec"]["holderIdentity"]).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

/// Priorities above this are for the system's own classes.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// Why this is not one of the classes that the system has.
fn not_a_system_class(o: &Value) -> Option<String> {
    let known = [
        ("system-node-critical", 2_000_001_000),
        ("system-cluster-critical", 2_000_000_000),
    ];
    let (name, value) = (text(&o["metadata"]["name"]), int(&o["value"]));
    match known.iter().find(|(known, _)| *known == name) {
        None => Some(format!("{name} is not a known system priority class")),
        Some((_, wanted)) if *wanted != value => {
            Some(format!("value of {name} PriorityClass must be {wanted}"))
        }
        Some(_) if o["globalDefault"] == true => Some(format!(
            "globalDefault of {name} PriorityClass must be false"
        )),
        Some(_) => None,
    }
}

fn validate_priority(o: &Value, errors: &mut Errors) {
    if text(&o["metadata"]["name"]).starts_with("system-") {
        if let Some(why) = not_a_system_class(o) {
            let detail = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
            );
            errors.push(FieldError::forbidden("metadata.name", detail));
        }
    } else if int(&o["value"]) > HIGHEST_USER_PRIORITY {
        let detail =
            format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        errors.push(FieldError::forbidden("value", detail));
    }
    let policies = ["PreemptLowerPriority", "Never"];
    crate::tree::one_of(
        &o["preemptionPolicy"],
        "preemptionPolicy",
        &policies,
        errors,
    );
}

pub(crate) const PRIORITY_CLASS: Strategy = Strategy {
    // It is numbered, but what may still change of it does not count.
    create: |o| {
        if let Some(metadata) = object(o, "metadata") {
            set(metadata, "generation", 1);
        }
    },
    default: |o| {
        set_default(o, "preemptionPolicy", "PreemptLowerPriority");
        set_default(o, "value", 0);
    },
    validate_create: validate_priority,
    validate_update: |new, old, errors| {
        if int(&new["value"]) != int(&old["value"]) {
            errors.push(FieldError::forbidden(
                "value",
                "may not be changed in an update.",
            ));
        }
        immutable(
            &new["preemptionPolicy"],
            &old["preemptionPolicy"],
            "preemptionPolicy",
            errors,
        );
    },
    columns: &[
        NAME,
        column(
            "Value",
            "integer",
            "The priority that Pods of this class get.",
        ),
        column(
            "Global-Default",
            "boolean",
            "Whether Pods without a class get this one.",
        ),
        AGE,
        column(
            "PreemptionPolicy",
            "string",
            "Whether Pods of this class evict others.",
        ),
    ],
    row: |o, now| {
        let global = o["globalDefault"] == true;
        vec![
            name(o),
            int(&o["value"]).into(),
            global.into(),
            age(o, now),
            text(&o["preemptionPolicy"]).into(),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const LIMIT_RANGE: Strategy = Strategy {
    default: |o| {
        if let Some(spec) = o.get_mut("spec") {
            crate::tree::each(spec, "limits", |limit| {
                if limit["type"] != "Container" {
                    return;
                }
                // A maximum is also the default limit; a default limit, or else the minimum, the default request.
                fill(limit, "default", "max");
                fill(limit, "defaultRequest", "default");
                fill(limit, "defaultRequest", "min");
            });
        }
    },
    validate: |o, errors| {
        for (i, limit) in items(&o["spec"]["limits"]).iter().enumerate() {
            let path = format!("spec.limits[{i}]");
            if text(&limit["type"]).is_empty() {
                errors.push(FieldError::required(format!("{path}.type"), ""));
            }
            for (resource, low) in entries(&limit["min"]) {
                let (low, high) = (quantity(low), quantity(&limit["max"][resource]));
                if let (Some(low), Some(high)) = (low, high)
                    && low > high
                {
                    let detail = format!("min value {low} is greater than max value {high}");
                    errors.push(FieldError::invalid_str(
                        format!("{path}.min[{resource}]"),
                        &low.to_string(),
                        detail,
                    ));
                }
            }
        }
    },
    ..Strategy::BASE
};

fn fill(limit: &mut Value, to: &str, from: &str) {
    let source: Vec<(String, Value)> = entries(&limit[from])
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let (false, Some(target)) = (source.is_empty(), object(limit, to)) {
        for (key, value) in source {
            set_default(target, &key, value);
        }
    }
}

fn quantity(v: &Value) -> Option<Quantity> {
    v.as_str()?.parse().ok()
}

pub(crate) const RESOURCE_QUOTA: Strategy = Strategy {
    validate: |o, errors: &mut Errors| {
        for (resource, amount) in entries(&o["spec"]["hard"]) {
            if quantity(amount).is_some_and(|q| q.sign() < 0) {
                let path = format!("spec.hard[{resource}]");
                errors.push(FieldError::invalid(
                    path,
                    amount,
                    "must be greater than or equal to 0",
                ));
            }
        }
    },
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["scopes"],
            &old["spec"]["scopes"],
            "spec.scopes",
            errors,
        )
    },
    columns: &[
        NAME,
        column("Request", "string", "What is requested, of what may be."),
        column("Limit", "string", "What is used at most, of what may be."),
        column("Age", "string", "Time since the object was created."),
    ],
    row: |o, now| {
        let show = |limits: bool| {
            let parts: Vec<String> = entries(&o["status"]["hard"])
                .filter(|(k, _)| k.starts_with("limits") == limits)
                .map(|(k, hard)| {
                    let used = o["status"]["used"][k].as_str().unwrap_or("0");
                    format!("{k}: {used}/{}", text(hard))
                })
                .collect();
            Value::from(parts.join(", "))
        };
        vec![
            name(o),
            show(false),
            show(true),
            time::age(o["metadata"]["creationTimestamp"].as_str(), now).into(),
        ]
    },
    ..Strategy::BASE
};
