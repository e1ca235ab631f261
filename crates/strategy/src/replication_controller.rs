//! ReplicationControllers: what ReplicaSets were before they had selectors with expressions.

use api::{FieldError, LabelSelector};
use serde_json::Value;

use crate::replicas::{COLUMNS, empty_status, row};
use crate::tree::{int, not_negative, object, set, set_default, show_map};
use crate::workload::{mismatch, none_negative, runs_for_ever};
use crate::{Errors, Strategy, pod_spec};

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    none_negative(spec, "spec", &["minReadySeconds", "replicas"], errors);
    if crate::count(&spec["selector"]) == 0 {
        errors.push(FieldError::required("spec.selector", ""));
    }
    let (path, template) = ("spec.template", &spec["template"]);
    if !template.is_object() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let labels = &template["metadata"]["labels"];
    let selector = LabelSelector::from_map(&spec["selector"]);
    if selector.is_ok_and(|s| !s.matches_labels(labels)) {
        errors.push(mismatch(path, labels));
    }
    pod_spec::validate_template(template, path, errors);
    runs_for_ever(template, "ReplicationController", errors);
}

fn validate_status(status: &Value, errors: &mut Errors) {
    let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    for key in ["replicas", "observedGeneration"].iter().chain(&parts) {
        not_negative(status, "status", key, errors);
    }
    for key in parts {
        if int(&status[key]) > int(&status["replicas"]) {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(
                format!("status.{key}"),
                &int(&status[key]).into(),
                detail,
            ));
        }
    }
    let available = int(&status["availableReplicas"]);
    if available > int(&status["readyReplicas"]) {
        let detail = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid(
            "status.availableReplicas",
            &available.into(),
            detail,
        ));
    }
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        if spec["template"].is_object() {
            pod_spec::default_template(spec);
        }
        let template = spec["template"]["metadata"]["labels"].clone();
        if template.as_object().is_some_and(|l| !l.is_empty()) {
            if spec["selector"]
                .as_object()
                .is_none_or(serde_json::Map::is_empty)
            {
                set(spec, "selector", template.clone());
            }
            if let Some(meta) = object(o, "metadata") {
                set_default(meta, "labels", template);
            }
        }
    },
    create: empty_status,
    validate,
    validate_status: |new, _, errors| validate_status(&new["status"], errors),
    columns: COLUMNS,
    row: |o, now| row(o, now, show_map(&o["spec"]["selector"])),
    fields: |o, out| out.push(("status.replicas", int(&o["status"]["replicas"]).to_string())),
    ..Strategy::BASE
};
