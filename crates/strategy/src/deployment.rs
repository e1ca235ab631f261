//! Deployments.

use api::FieldError;
use serde_json::Value;

use crate::replicas::{validate_selector, validate_template};
use crate::tree::{
    age, containers_and_images, immutable, int, int_or_percent, name, not_negative, object,
    required_one_of, set_default, show_selector,
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

fn is_zero(v: &Value) -> bool {
    *v == 0 || *v == "0%"
}

fn validate(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    for key in [
        "replicas",
        "minReadySeconds",
        "revisionHistoryLimit",
        "progressDeadlineSeconds",
    ] {
        not_negative(spec, "spec", key, errors);
    }
    validate_selector(o, "deployment", errors);
    validate_template(o, errors);
    let strategy = &spec["strategy"];
    required_one_of(
        &strategy["type"],
        "spec.strategy.type",
        &["Recreate", "RollingUpdate"],
        errors,
    );
    let rolling = &strategy["rollingUpdate"];
    if strategy["type"] == "Recreate" && rolling.is_object() {
        let detail = "may not be specified when strategy `type` is 'Recreate'";
        errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", detail));
    } else if strategy["type"] == "RollingUpdate" {
        let path = |key: &str| format!("spec.strategy.rollingUpdate.{key}");
        for key in ["maxUnavailable", "maxSurge"] {
            int_or_percent(&rolling[key], &path(key), errors);
        }
        if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
            let detail = "may not be 0 when `maxSurge` is 0";
            errors.push(FieldError::invalid(
                path("maxUnavailable"),
                &rolling["maxUnavailable"],
                detail,
            ));
        }
        let percent = rolling["maxUnavailable"]
            .as_str()
            .and_then(|s| s.strip_suffix('%')?.parse::<i64>().ok());
        if percent.is_some_and(|p| p > 100) {
            let bad = &rolling["maxUnavailable"];
            errors.push(FieldError::invalid(
                path("maxUnavailable"),
                bad,
                "must not be greater than 100%",
            ));
        }
    }
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
