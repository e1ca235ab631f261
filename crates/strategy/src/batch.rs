//! Jobs and CronJobs.

use api::{FieldError, time};
use serde_json::{Value, json};

use crate::tree::{
    age, containers_and_images, immutable, int, items, label_selector, name, not_negative, object,
    one_of, remove, set, set_default, show_selector, text,
};
use crate::{AGE, Errors, NAME, Strategy, column, pod_spec, wide};

fn default_job_spec(spec: &mut Value) {
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    if spec["backoffLimitPerIndex"].is_null() {
        set_default(spec, "backoffLimit", 6);
    } else {
        set_default(spec, "backoffLimit", i32::MAX);
    }
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    if spec["manualSelector"] == false {
        remove(spec, "manualSelector");
    }
    let replacement = if spec["podFailurePolicy"].is_null() {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    set_default(spec, "podReplacementPolicy", replacement);
    pod_spec::default_template(spec);
}

fn validate_job_spec(spec: &Value, path: &str, errors: &mut Errors) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        not_negative(spec, path, key, errors);
    }
    let template = format!("{path}.template.spec");
    pod_spec::validate(&spec["template"]["spec"], &template, errors);
    let restart = &spec["template"]["spec"]["restartPolicy"];
    if !matches!(text(restart), "OnFailure" | "Never") {
        // Also for a wrong value, as upstream.
        let detail = "valid values: \"OnFailure\", \"Never\"";
        errors.push(FieldError::required(
            format!("{template}.restartPolicy"),
            detail,
        ));
    }
    one_of(
        &spec["completionMode"],
        &format!("{path}.completionMode"),
        &["Indexed", "NonIndexed"],
        errors,
    );
}

pub(crate) const JOB: Strategy = Strategy {
    generation: true,
    default: |o| {
        if let Some(spec) = object(o, "spec") {
            default_job_spec(spec);
        }
    },
    create: |o| {
        // Without a selector of its own, a Job selects its Pods by its UID.
        let uid = o["metadata"]["uid"].clone();
        let owner = o["metadata"]["name"].clone();
        let Some(spec) = object(o, "spec") else {
            return;
        };
        if spec["manualSelector"] == true || uid.is_null() {
            return;
        }
        if let Some(labels) = object(spec, "template")
            .and_then(|t| object(t, "metadata"))
            .and_then(|m| object(m, "labels"))
        {
            for (key, value) in [
                ("batch.kubernetes.io/controller-uid", &uid),
                ("batch.kubernetes.io/job-name", &owner),
                ("controller-uid", &uid),
                ("job-name", &owner),
            ] {
                set(labels, key, value.clone());
            }
        }
        set(
            spec,
            "selector",
            json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } }),
        );
    },
    validate: |o, errors| {
        validate_job_spec(&o["spec"], "spec", errors);
        label_selector(&o["spec"]["selector"], "spec.selector", errors);
    },
    validate_update: |new, old, errors| {
        for key in ["completions", "selector", "template", "completionMode"] {
            immutable(
                &new["spec"][key],
                &old["spec"][key],
                &format!("spec.{key}"),
                errors,
            );
        }
    },
    columns: &[
        NAME,
        column("Status", "string", "Where it stands."),
        column(
            "Completions",
            "string",
            "Pods that succeeded of those wanted.",
        ),
        column("Duration", "string", "How long it took, or takes so far."),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let has = |kind: &str| {
            items(&status["conditions"])
                .iter()
                .any(|c| c["type"] == kind && c["status"] == "True")
        };
        let state = if has("Complete") {
            "Complete"
        } else if has("Failed") {
            "Failed"
        } else if o["metadata"]["deletionTimestamp"].is_string() {
            "Terminating"
        } else if has("Suspended") {
            "Suspended"
        } else if has("FailureTarget") {
            "FailureTarget"
        } else if has("SuccessCriteriaMet") {
            "SuccessCriteriaMet"
        } else {
            "Running"
        };
        let done = int(&status["succeeded"]);
        let completions = match (spec["completions"].as_i64(), int(&spec["parallelism"])) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, n) if n > 1 => format!("{done}/1 of {n}"),
            _ => format!("{done}/1"),
        };
        let start = status["startTime"].as_str().and_then(time::parse);
        let end = status["completionTime"]
            .as_str()
            .and_then(time::parse)
            .unwrap_or(now);
        let duration = start.map_or_else(String::new, |s| {
            time::human_duration(end.as_second() - s.as_second())
        });
        let [containers, images] = containers_and_images(&spec["template"]["spec"]);
        let selector = show_selector(&spec["selector"]);
        vec![
            name(o),
            state.into(),
            completions.into(),
            duration.into(),
            age(o, now),
            containers,
            images,
            selector,
        ]
    },
    fields: |o, out| {
        out.push((
            "status.successful",
            int(&o["status"]["succeeded"]).to_string(),
        ))
    },
    ..Strategy::BASE
};

pub(crate) const CRON_JOB: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        // Only the Pod template is defaulted: the rest of the Job's spec is when the Job is made.
        if let Some(job) = object(spec, "jobTemplate").and_then(|t| object(t, "spec")) {
            pod_spec::default_template(job);
        }
    },
    validate: |o, errors| {
        let spec = &o["spec"];
        let schedule = text(&spec["schedule"]);
        if schedule.is_empty() {
            errors.push(FieldError::required("spec.schedule", ""));
        } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
            let found = schedule.split_whitespace().count();
            let detail = format!(
                "expected exactly 5 fields, found {found}: {}",
                json!(schedule.split_whitespace().collect::<Vec<_>>())
            );
            errors.push(FieldError::invalid_str("spec.schedule", schedule, detail));
        }
        one_of(
            &spec["concurrencyPolicy"],
            "spec.concurrencyPolicy",
            &["Allow", "Forbid", "Replace"],
            errors,
        );
        for key in [
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "failedJobsHistoryLimit",
        ] {
            not_negative(spec, "spec", key, errors);
        }
        validate_job_spec(
            &spec["jobTemplate"]["spec"],
            "spec.jobTemplate.spec",
            errors,
        );
        // A Job's name is made from this one with a suffix.
        if text(&o["metadata"]["name"]).len() > 52 {
            let bad = text(&o["metadata"]["name"]);
            errors.push(FieldError::invalid_str(
                "metadata.name",
                bad,
                "must be no more than 52 characters",
            ));
        }
    },
    columns: &[
        NAME,
        column("Schedule", "string", "When it runs."),
        column("Timezone", "string", "The time zone of the schedule."),
        column("Suspend", "boolean", "Whether it is paused."),
        column("Active", "integer", "How many of its Jobs run."),
        column("Last Schedule", "string", "Time since it ran last."),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let spec = &o["spec"];
        let last = o["status"]["lastScheduleTime"].as_str();
        let job = &spec["jobTemplate"]["spec"];
        let [containers, images] = containers_and_images(&job["template"]["spec"]);
        vec![
            name(o),
            text(&spec["schedule"]).into(),
            spec["timeZone"].as_str().unwrap_or("<none>").into(),
            if spec["suspend"] == true {
                "True".into()
            } else {
                "False".into()
            },
            items(&o["status"]["active"]).len().into(),
            last.map_or_else(|| "<none>".to_owned(), |t| time::age(Some(t), now))
                .into(),
            age(o, now),
            containers,
            images,
            show_selector(&job["selector"]),
        ]
    },
    ..Strategy::BASE
};
