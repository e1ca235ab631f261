//! ReplicationControllers and ReplicaSets.

use api::{FieldError, LabelSelector};
use serde_json::Value;

use crate::tree::{
    age, containers_and_images, immutable, int, labels, name, not_negative, object, set,
    set_default, show_map, show_selector,
};
use crate::workload::{
    none_negative, not_above, required_selector, runs_for_ever, selects_template, template,
};
use crate::{AGE, Column, Errors, NAME, Strategy, column, pod_spec, wide};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", "integer", "How many Pods there should be."),
    column("Current", "integer", "How many Pods there are."),
    column("Ready", "integer", "How many Pods are ready."),
    AGE,
    wide("Containers", "The names of the template's containers."),
    wide("Images", "The images of the template's containers."),
    wide("Selector", "The labels of its Pods."),
];

fn row(o: &Value, now: jiff::Timestamp, selector: Value) -> Vec<Value> {
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

fn validate_template(o: &Value, errors: &mut Errors) {
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
    status_metadata: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        pod_spec::default_template(spec);
    },
    create: empty_status,
    validate: |o, errors| {
        let spec = &o["spec"];
        none_negative(spec, "spec", &["replicas", "minReadySeconds"], errors);
        required_selector(spec, "deployment", errors);
        if selects_template(spec, "invalid label selector", errors) {
            template(&spec["template"], "spec.template", errors);
            runs_for_ever(&spec["template"], "ReplicaSet", errors);
        }
    },
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["selector"],
            &old["spec"]["selector"],
            "spec.selector",
            errors,
        );
    },
    validate_status: |new, _, errors| {
        let status = &new["status"];
        let counts = [
            "replicas",
            "fullyLabeledReplicas",
            "readyReplicas",
            "availableReplicas",
            "terminatingReplicas",
            "observedGeneration",
        ];
        none_negative(status, "status", &counts, errors);
        let parts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        not_above(status, &parts, "replicas", "status.replicas", errors);
        let available = ["availableReplicas"];
        not_above(status, &available, "readyReplicas", "readyReplicas", errors);
    },
    columns: COLUMNS,
    row: |o, now| row(o, now, show_selector(&o["spec"]["selector"])),
    fields: |o, out| out.push(("status.replicas", int(&o["status"]["replicas"]).to_string())),
    ..Strategy::BASE
};

pub(crate) const REPLICATION_CONTROLLER: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        pod_spec::default_template(spec);
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
    validate: |o, errors| {
        let spec = &o["spec"];
        for key in ["replicas", "minReadySeconds"] {
            not_negative(spec, "spec", key, errors);
        }
        let selector = &spec["selector"];
        if selector.as_object().is_none_or(serde_json::Map::is_empty) {
            errors.push(FieldError::required("spec.selector", ""));
        }
        if spec["template"].is_null() {
            errors.push(FieldError::required("spec.template", ""));
            return;
        }
        let have = &spec["template"]["metadata"]["labels"];
        if LabelSelector::from_map(selector).is_ok_and(|s| !s.matches_labels(have)) {
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid(
                "spec.template.metadata.labels",
                have,
                detail,
            ));
        }
        validate_template(o, errors);
    },
    columns: COLUMNS,
    row: |o, now| row(o, now, show_map(&o["spec"]["selector"])),
    fields: |o, out| out.push(("status.replicas", int(&o["status"]["replicas"]).to_string())),
    ..Strategy::BASE
};
