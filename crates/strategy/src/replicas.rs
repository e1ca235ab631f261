//! ReplicaSets.

use api::{FieldError, LabelSelector};
use serde_json::Value;

use crate::tree::{
    age, containers_and_images, immutable, int, label_selector, labels, name, not_negative, object,
    set, set_default, show_selector,
};
use crate::{AGE, Column, Errors, NAME, Strategy, column, pod_spec, wide};

pub(crate) const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "How many Pods there should be."),
    column("Current", "integer", "How many Pods there are."),
    column("Ready", "integer", "How many Pods are ready."),
    AGE,
    wide("Containers", "The names of the template's containers."),
    wide("Images", "The images of the template's containers."),
    wide("Selector", "The labels of its Pods."),
];

pub(crate) fn row(o: &Value, now: jiff::Timestamp, selector: Value) -> Vec<Value> {
    let [containers, images] = containers_and_images(&o["spec"]["template"]["spec"]);
    let (spec, status) = (&o["spec"], &o["status"]);
    vec![
        name(o),
        int(&spec["replicas"]).into(),
        int(&status["replicas"]).into(),
        int(&status["readyReplicas"]).into(),
        age(o, now),
        containers,
        images,
        selector,
    ]
}

/// Upstream writes this number even when it is 0.
pub(crate) fn empty_status(o: &mut Value) {
    if let Some(status) = object(o, "status") {
        set(status, "replicas", 0);
    }
}

/// A selector that every workload with a template must have, and that must select the template's Pods.
pub(crate) fn validate_selector(o: &Value, what: &str, errors: &mut Errors) {
    let spec = &o["spec"];
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    label_selector(selector, "spec.selector", errors);
    match LabelSelector::from_json(selector) {
        Err(_) => errors.push(FieldError::invalid(
            "spec.selector",
            selector,
            "invalid label selector",
        )),
        Ok(parsed) if parsed.is_everything() => {
            let detail = format!("empty selector is invalid for {what}");
            errors.push(FieldError::invalid("spec.selector", selector, detail));
        }
        Ok(parsed) => {
            let have = &spec["template"]["metadata"]["labels"];
            if !parsed.matches_labels(have) {
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid(
                    "spec.template.metadata.labels",
                    have,
                    detail,
                ));
            }
        }
    }
}

pub(crate) fn validate_template(o: &Value, errors: &mut Errors) {
    let template = &o["spec"]["template"];
    labels(
        &template["metadata"]["labels"],
        "spec.template.metadata.labels",
        errors,
    );
    pod_spec::validate(&template["spec"], "spec.template.spec", errors);
    let restart = &template["spec"]["restartPolicy"];
    if !restart.is_null() && *restart != "Always" {
        errors.push(FieldError::not_supported(
            "spec.template.spec.restartPolicy",
            restart,
            &["Always"],
        ));
    }
    if template["spec"]["activeDeadlineSeconds"].is_number() {
        let path = "spec.template.spec.activeDeadlineSeconds";
        errors.push(FieldError::forbidden(
            path,
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        ));
    }
}

pub(crate) const REPLICA_SET: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        pod_spec::default_template(spec);
        let template = spec["template"]["metadata"]["labels"].clone();
        if template.as_object().is_some_and(|l| !l.is_empty())
            && let Some(meta) = object(o, "metadata")
        {
            set_default(meta, "labels", template);
        }
    },
    create: empty_status,
    validate: |o, errors| {
        for key in ["replicas", "minReadySeconds"] {
            not_negative(&o["spec"], "spec", key, errors);
        }
        validate_selector(o, "deployment", errors);
        validate_template(o, errors);
    },
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["selector"],
            &old["spec"]["selector"],
            "spec.selector",
            errors,
        );
    },
    columns: COLUMNS,
    row: |o, now| row(o, now, show_selector(&o["spec"]["selector"])),
    fields: |o, out| out.push(("status.replicas", int(&o["status"]["replicas"]).to_string())),
    ..Strategy::BASE
};
