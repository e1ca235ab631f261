//! Leases and PriorityClasses.

use crate::tree::{age, immutable, int, name, set_default, text};
use crate::{AGE, NAME, Strategy, column};
use api::FieldError;

pub(crate) const LEASE: Strategy = Strategy {
    validate: |o, errors| {
        let spec = &o["spec"];
        for key in ["leaseDurationSeconds", "leaseTransitions"] {
            let low = i64::from(key == "leaseDurationSeconds");
            if spec[key].as_i64().is_some_and(|n| n < low) {
                let detail = if low == 1 {
                    "must be greater than 0"
                } else {
                    "must be greater than or equal to 0"
                };
                errors.push(FieldError::invalid(
                    format!("spec.{key}"),
                    &spec[key],
                    detail,
                ));
            }
        }
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

pub(crate) const PRIORITY_CLASS: Strategy = Strategy {
    generation: true,
    default: |o| {
        set_default(o, "preemptionPolicy", "PreemptLowerPriority");
        set_default(o, "value", 0);
    },
    validate: |o, errors| {
        let (name, value) = (text(&o["metadata"]["name"]), int(&o["value"]));
        if name.starts_with("system-") {
            let known = [
                ("system-cluster-critical", 2_000_000_000),
                ("system-node-critical", 2_000_001_000),
            ];
            if !known.contains(&(name, value)) {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: \
                              invalid system priority class";
                errors.push(FieldError::forbidden("metadata.name", detail));
            }
        } else if value > HIGHEST_USER_PRIORITY {
            let detail = format!(
                "maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
            );
            errors.push(FieldError::forbidden("value", detail));
        }
        let allowed = ["Never", "PreemptLowerPriority"];
        crate::tree::one_of(&o["preemptionPolicy"], "preemptionPolicy", &allowed, errors);
    },
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
