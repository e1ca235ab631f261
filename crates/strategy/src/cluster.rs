//! Leases and PriorityClasses.

use api::FieldError;
use serde_json::Value;

use crate::tree::{age, immutable, int, name, object, set, set_default, text};
use crate::{AGE, Errors, NAME, Strategy, column};

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
