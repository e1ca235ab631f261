//! Namespaces.

use api::FieldError;
use serde_json::{Value, json};

use crate::tree::{age, items, name, object, remove, set, text};
use crate::{AGE, Errors, NAME, Names, Strategy, column, meta};

/// What of the namespace waits for others.
pub(crate) fn validate_finalize(new: &Value, errors: &mut Errors) {
    for (i, finalizer) in items(&new["spec"]["finalizers"]).iter().enumerate() {
        meta::validate_finalizer(text(finalizer), &format!("spec.finalizers[{i}]"), errors);
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
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
    validate_create: |o, errors| {
        for finalizer in items(&o["spec"]["finalizers"]) {
            meta::validate_finalizer(text(finalizer), "spec.finalizers", errors);
        }
    },
    validate_status: |new, _, errors| {
        let phase = text(&new["status"]["phase"]);
        let (wanted, whether) = if new["metadata"]["deletionTimestamp"].is_string() {
            ("Terminating", "not empty")
        } else {
            ("Active", "empty")
        };
        if phase != wanted {
            let detail = format!("may only be '{wanted}' if `deletionTimestamp` is {whether}");
            errors.push(FieldError::invalid_str("status.Phase", phase, detail));
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
