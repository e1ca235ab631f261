//! Deployments.

use api::FieldError;
use serde_json::Value;

use crate::tree::{
    age, containers_and_images, immutable, int, int_or_percent, name, object, set_default,
    show_selector,
};
use crate::workload::{
    amount, at_most_all, collisions_grow, none_negative, not_above, required_selector,
    runs_for_ever, selects_template, shown_strategy,
};
use crate::{AGE, Errors, NAME, Strategy, column, pod_spec, wide};

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    set_default(spec, "replicas", 1);
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    if let Some(strategy) = object(spec, "strategy") {
        set_default(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = object(strategy, "rollingUpdate")
        {
            set_default(rolling, "maxUnavailable", "25%");
            set_default(rolling, "maxSurge", "25%");
        }
    }
    pod_spec::default_template(spec);
}

fn validate_strategy(strategy: &Value, errors: &mut Errors) {
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str() {
        Some("Recreate") => {
            if rolling.is_object() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
            }
        }
        Some("RollingUpdate") => validate_rolling(rolling, errors),
        _ => {
            let kinds = ["Recreate", "RollingUpdate"];
            let fields = [
                ("MaxUnavailable", "maxUnavailable", "0"),
                ("MaxSurge", "maxSurge", "0"),
            ];
            let error = FieldError::not_supported("spec.strategy", strategy, &kinds);
            errors.push(shown_strategy(error, strategy, &fields));
        }
    }
}

fn validate_rolling(rolling: &Value, errors: &mut Errors) {
    let path = |key: &str| format!("spec.strategy.rollingUpdate.{key}");
    let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    int_or_percent(unavailable, &path("maxUnavailable"), errors);
    int_or_percent(surge, &path("maxSurge"), errors);
    if amount(unavailable) == 0 && amount(surge) == 0 {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            path("maxUnavailable"),
            unavailable,
            detail,
        ));
    }
    at_most_all(unavailable, &path("maxUnavailable"), errors);
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    none_negative(spec, "spec", &["replicas"], errors);
    required_selector(spec, "deployment", errors);
    if selects_template(spec, "invalid label selector", errors) {
        crate::pod_spec::validate_template(&spec["template"], "spec.template", errors);
        runs_for_ever(&spec["template"], "ReplicaSet", errors);
    }
    validate_strategy(&spec["strategy"], errors);
    let counts = [
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ];
    none_negative(spec, "spec", &counts, errors);
    let deadline = &spec["progressDeadlineSeconds"];
    if deadline
        .as_i64()
        .is_some_and(|d| d <= int(&spec["minReadySeconds"]))
    {
        let detail = "must be greater than minReadySeconds";
        errors.push(FieldError::invalid(
            "spec.progressDeadlineSeconds",
            deadline,
            detail,
        ));
    }
}

fn validate_status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = &new["status"];
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    none_negative(status, "status", &counts, errors);
    let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
    not_above(status, &parts, "replicas", "status.replicas", errors);
    let available = ["availableReplicas"];
    not_above(status, &available, "readyReplicas", "readyReplicas", errors);
    collisions_grow(new, old, errors);
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    default,
    validate,
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["selector"],
            &old["spec"]["selector"],
            "spec.selector",
            errors,
        );
    },
    validate_status,
    columns: &[
        NAME,
        column("Ready", "string", "Ready Pods of those wanted."),
        column(
            "Up-to-date",
            "string",
            "Pods that have the current template.",
        ),
        column(
            "Available",
            "string",
            "Pods that have been ready long enough.",
        ),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let [containers, images] = containers_and_images(&spec["template"]["spec"]);
        vec![
            name(o),
            format!(
                "{}/{}",
                int(&status["readyReplicas"]),
                int(&spec["replicas"])
            )
            .into(),
            int(&status["updatedReplicas"]).into(),
            int(&status["availableReplicas"]).into(),
            age(o, now),
            containers,
            images,
            show_selector(&spec["selector"]),
        ]
    },
    ..Strategy::BASE
};
