//! ReplicaSets.

use serde_json::Value;

use crate::tree::{
    age, containers_and_images, immutable, int, name, object, set, set_default, show_selector,
};
use crate::workload::{
    none_negative, not_above, required_selector, runs_for_ever, selects_template,
};
use crate::{AGE, Column, NAME, Strategy, column, pod_spec, wide};

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
            crate::pod_spec::validate_template(&spec["template"], "spec.template", errors);
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
