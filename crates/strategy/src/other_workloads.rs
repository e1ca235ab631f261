//! DaemonSets, StatefulSets, ControllerRevisions and PodDisruptionBudgets.

use api::FieldError;
use serde_json::{Value, json};

use crate::replicas::empty_status;
use crate::tree::{
    age, containers_and_images, immutable, int, int_or_percent, label_selector, name,
    none_if_empty, object, one_of, set, set_default, show_map, show_selector, text,
};
use crate::workload::{
    amount, at_most_all, collisions_grow, conditions, mismatch, none_negative, not_above,
    not_empty, part, required_selector, runs_for_ever, selects, selects_template, shown_as,
    shown_strategy,
};
use crate::{AGE, Errors, NAME, Names, Strategy, column, pod_spec, wide};

/// Where v1 keeps how often the template of a DaemonSet changed.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(o: &Value) -> i64 {
    let kept = text(&o["metadata"]["annotations"][TEMPLATE_GENERATION]);
    kept.parse().unwrap_or(0)
}

fn set_template_generation(o: &mut Value, generation: i64) {
    let generation = generation.to_string();
    if let Some(annotations) = object(o, "metadata").and_then(|m| object(m, "annotations")) {
        set(annotations, TEMPLATE_GENERATION, generation);
    }
}

fn validate_daemons(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let selector = &spec["selector"];
    label_selector(selector, "spec.selector", errors);
    let have = &spec["template"]["metadata"]["labels"];
    if selects(selector, have) == Some(false) {
        errors.push(mismatch("spec.template", have));
    }
    if selector.is_object() {
        not_empty(selector, "daemonset", errors);
    }
    crate::pod_spec::validate_template(&spec["template"], "spec.template", errors);
    runs_for_ever(&spec["template"], "DaemonSet", errors);
    let counts = ["minReadySeconds", "revisionHistoryLimit"];
    none_negative(spec, "spec", &counts, errors);
    validate_daemon_strategy(&spec["updateStrategy"], errors);
}

fn validate_daemon_strategy(strategy: &Value, errors: &mut Errors) {
    match strategy["type"].as_str() {
        Some("OnDelete") => {}
        Some("RollingUpdate") => validate_daemon_rolling(&strategy["rollingUpdate"], errors),
        _ => {
            let kinds = ["RollingUpdate", "OnDelete"];
            let fields = [
                ("MaxUnavailable", "maxUnavailable", "0"),
                ("MaxSurge", "maxSurge", "0"),
            ];
            let error = FieldError::not_supported("spec.updateStrategy", strategy, &kinds);
            errors.push(shown_strategy(error, strategy, &fields));
        }
    }
}

/// Exactly one of the two ways of going on must be chosen.
fn validate_daemon_rolling(rolling: &Value, errors: &mut Errors) {
    let path = |key: &str| format!("spec.updateStrategy.rollingUpdate.{key}");
    for check in [int_or_percent, at_most_all] {
        for key in ["maxUnavailable", "maxSurge"] {
            check(&rolling[key], &path(key), errors);
        }
    }
    let surge = &rolling["maxSurge"];
    match (amount(&rolling["maxUnavailable"]) != 0, amount(surge) != 0) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.push(FieldError::invalid(path("maxSurge"), surge, detail));
        }
        (false, false) => {
            let detail = "cannot be 0 when maxSurge is 0";
            errors.push(FieldError::required(path("maxUnavailable"), detail));
        }
        _ => {}
    }
}

fn validate_daemon_status(new: &Value, old: &Value, errors: &mut Errors) {
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    none_negative(&new["status"], "status", &counts, errors);
    collisions_grow(new, old, errors);
}

fn validate_stateful(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let policy = &spec["podManagementPolicy"];
    if !matches!(text(policy), "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        let path = "spec.podManagementPolicy";
        errors.push(FieldError::invalid_str(path, text(policy), detail));
    }
    validate_stateful_strategy(&spec["updateStrategy"], errors);
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for key in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{key}");
        one_of(&retention[key], &path, &["Retain", "Delete"], errors);
    }
    let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
    none_negative(spec, "spec", &counts, errors);
    none_negative(&spec["ordinals"], "spec.ordinals", &["start"], errors);
    let service = text(&spec["serviceName"]);
    if !service.is_empty() {
        let wrong = api::names::dns1123_label(service);
        crate::tree::invalid_all("spec.serviceName", service, wrong, errors);
    }
    required_selector(spec, "statefulset", errors);
    if selects_template(spec, "", errors) {
        crate::pod_spec::validate_template(&with_claims(spec), "spec.template", errors);
    }
    runs_for_ever(&spec["template"], "StatefulSet", errors);
}

/// The template with a volume for each claim that is made for a Pod.
fn with_claims(spec: &Value) -> Value {
    let mut template = spec["template"].clone();
    let mut volumes: Vec<Value> = crate::tree::items(&template["spec"]["volumes"]).to_vec();
    for claim in crate::tree::items(&spec["volumeClaimTemplates"]) {
        let name = &claim["metadata"]["name"];
        // A claim takes the place of a volume of the same name.
        volumes.retain(|v| v["name"] != *name);
        volumes.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
    }
    if let Some(pod) = object(&mut template, "spec").filter(|_| !volumes.is_empty()) {
        set(pod, "volumes", volumes);
    }
    template
}

fn validate_stateful_strategy(strategy: &Value, errors: &mut Errors) {
    let path = "spec.updateStrategy";
    let rolling = &strategy["rollingUpdate"];
    let rolling_path = format!("{path}.rollingUpdate");
    match text(&strategy["type"]) {
        "" => errors.push(FieldError::required(path, "")),
        "OnDelete" if rolling.is_object() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            let partition = int(&rolling["partition"]).into();
            let fields = [
                ("Partition", &partition),
                ("MaxUnavailable", &rolling["maxUnavailable"]),
            ];
            let error = FieldError::invalid(rolling_path, rolling, detail);
            errors.push(shown_as(error, &fields));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            none_negative(rolling, &rolling_path, &["partition"], errors);
            let unavailable = &rolling["maxUnavailable"];
            if !unavailable.is_null() {
                let path = format!("{rolling_path}.maxUnavailable");
                int_or_percent(unavailable, &path, errors);
                if amount(unavailable) == 0 {
                    errors.push(FieldError::invalid(&path, unavailable, "cannot be 0"));
                }
                at_most_all(unavailable, &path, errors);
            }
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            let fields = [
                ("Partition", "partition", "0"),
                ("MaxUnavailable", "maxUnavailable", "null"),
            ];
            let error = FieldError::invalid(path, strategy, detail);
            errors.push(shown_strategy(error, strategy, &fields));
        }
    }
}

fn validate_stateful_status(new: &Value, old: &Value, errors: &mut Errors) {
    let status = &new["status"];
    let counts = [
        "replicas",
        "readyReplicas",
        "currentReplicas",
        "updatedReplicas",
        "availableReplicas",
        "observedGeneration",
        "collisionCount",
    ];
    none_negative(status, "status", &counts, errors);
    not_above(status, &counts[1..5], "replicas", "status.replicas", errors);
    let (available, ready) = (["availableReplicas"], "status.readyReplicas");
    not_above(status, &available, "readyReplicas", ready, errors);
    collisions_grow(new, old, errors);
}

fn validate_budget(o: &Value, errors: &mut Errors) {
    let spec = &o["spec"];
    let (least, most) = (&spec["minAvailable"], &spec["maxUnavailable"]);
    if !least.is_null() && !most.is_null() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        let fields = [
            ("MinAvailable", least),
            ("Selector", &spec["selector"]),
            ("MaxUnavailable", most),
            (
                "UnhealthyPodEvictionPolicy",
                &spec["unhealthyPodEvictionPolicy"],
            ),
        ];
        let error = FieldError::invalid("spec", spec, detail);
        errors.push(shown_as(error, &fields));
    }
    part(least, "spec.minAvailable", errors);
    part(most, "spec.maxUnavailable", errors);
    one_of(
        &spec["unhealthyPodEvictionPolicy"],
        "spec.unhealthyPodEvictionPolicy",
        &["AlwaysAllow", "IfHealthyBudget"],
        errors,
    );
    label_selector(&spec["selector"], "spec.selector", errors);
}

fn validate_budget_status(new: &Value, _: &Value, errors: &mut Errors) {
    let status = &new["status"];
    conditions(&status["conditions"], "status.conditions", errors);
    let counts = [
        "disruptionsAllowed",
        "currentHealthy",
        "desiredHealthy",
        "expectedPods",
    ];
    none_negative(status, "status", &counts, errors);
}

pub(crate) const DAEMON_SET: Strategy = Strategy {
    generation: true,
    status_metadata: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "revisionHistoryLimit", 10);
        if let Some(strategy) = object(spec, "updateStrategy") {
            set_default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                set_default(rolling, "maxUnavailable", 1);
                set_default(rolling, "maxSurge", 0);
            }
        }
        pod_spec::default_template(spec);
    },
    create: |o| {
        let zero = json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        });
        set(o, "status", zero);
        set_template_generation(o, template_generation(o).max(1));
    },
    update: |new, old| {
        let before = template_generation(old).max(1);
        let changed = new["spec"]["template"] != old["spec"]["template"];
        set_template_generation(new, before + i64::from(changed));
    },
    validate: validate_daemons,
    validate_update: |new, old, errors| {
        immutable(
            &new["spec"]["selector"],
            &old["spec"]["selector"],
            "spec.selector",
            errors,
        );
    },
    validate_status: validate_daemon_status,
    columns: &[
        NAME,
        column("Desired", "integer", "How many nodes should run its Pod."),
        column("Current", "integer", "How many nodes run its Pod."),
        column("Ready", "integer", "How many of its Pods are ready."),
        column(
            "Up-to-date",
            "integer",
            "How many of its Pods have the current template.",
        ),
        column(
            "Available",
            "integer",
            "How many of its Pods have been ready long enough.",
        ),
        column(
            "Node Selector",
            "string",
            "The labels of the nodes that it runs on.",
        ),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
        wide("Selector", "The labels of its Pods."),
    ],
    row: |o, now| {
        let (spec, status) = (&o["spec"], &o["status"]);
        let [containers, images] = containers_and_images(&spec["template"]["spec"]);
        let number = |key: &str| Value::from(int(&status[key]));
        vec![
            name(o),
            number("desiredNumberScheduled"),
            number("currentNumberScheduled"),
            number("numberReady"),
            number("updatedNumberScheduled"),
            number("numberAvailable"),
            show_map(&spec["template"]["spec"]["nodeSelector"]),
            age(o, now),
            containers,
            images,
            show_selector(&spec["selector"]),
        ]
    },
    ..Strategy::BASE
};

/// Only one who names no strategy gets its settings; who names it and leaves them out has none.
fn default_stateful_strategy(strategy: &mut Value) {
    if text(&strategy["type"]).is_empty() {
        set(strategy, "type", "RollingUpdate");
        object(strategy, "rollingUpdate");
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate")
    {
        set_default(rolling, "partition", 0);
        set_default(rolling, "maxUnavailable", 1);
    }
}

pub(crate) const STATEFUL_SET: Strategy = Strategy {
    // Its name is part of its Pods' host names.
    names: Names::Label,
    generation: true,
    status_metadata: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = object(spec, "updateStrategy") {
            default_stateful_strategy(strategy);
        }
        if let Some(retention) = object(spec, "persistentVolumeClaimRetentionPolicy") {
            set_default(retention, "whenDeleted", "Retain");
            set_default(retention, "whenScaled", "Retain");
        }
        crate::tree::each(spec, "volumeClaimTemplates", |claim| {
            set_default(claim, "apiVersion", "v1");
            set_default(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = object(claim, "spec") {
                set_default(spec, "volumeMode", "Filesystem");
            }
            if let Some(status) = object(claim, "status") {
                set_default(status, "phase", "Pending");
            }
        });
        pod_spec::default_template(spec);
    },
    create: |o| {
        empty_status(o);
        if let Some(status) = object(o, "status") {
            set(status, "availableReplicas", 0);
        }
    },
    validate: validate_stateful,
    validate_update: |new, old, errors| {
        let free = [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ];
        let fixed = |o: &Value| {
            let mut spec = o["spec"].as_object().cloned().unwrap_or_default();
            spec.retain(|k, _| !free.contains(&k.as_str()));
            spec
        };
        if fixed(new) != fixed(old) {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                          'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                          'minReadySeconds' are forbidden";
            errors.push(FieldError::forbidden("spec", detail));
        }
    },
    validate_status: validate_stateful_status,
    columns: &[
        NAME,
        column("Ready", "string", "Ready Pods of those wanted."),
        AGE,
        wide("Containers", "The names of the template's containers."),
        wide("Images", "The images of the template's containers."),
    ],
    row: |o, now| {
        let [containers, images] = containers_and_images(&o["spec"]["template"]["spec"]);
        let ready = format!(
            "{}/{}",
            int(&o["status"]["readyReplicas"]),
            int(&o["spec"]["replicas"])
        );
        vec![name(o), ready.into(), age(o, now), containers, images]
    },
    ..Strategy::BASE
};

pub(crate) const CONTROLLER_REVISION: Strategy = Strategy {
    validate: |o, errors| {
        if o["data"].is_null() {
            errors.push(FieldError::required("data", "data is mandatory"));
        }
        if int(&o["revision"]) < 0 {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("revision", &o["revision"], detail));
        }
    },
    validate_update: |new, old, errors| immutable(&new["data"], &old["data"], "data", errors),
    columns: &[
        NAME,
        column("Controller", "string", "What it is a revision of."),
        column("Revision", "string", "Its number."),
        AGE,
    ],
    row: |o, now| {
        let owner = rules::controller_of(o).map_or_else(String::new, |r| {
            let (group, _) = api::facts::split_api_version(text(&r["apiVersion"]));
            let kind = text(&r["kind"]).to_lowercase();
            let kind = if group.is_empty() {
                kind
            } else {
                format!("{kind}.{group}")
            };
            format!("{kind}/{}", text(&r["name"]))
        });
        vec![
            name(o),
            none_if_empty(owner),
            int(&o["revision"]).into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const DISRUPTION_BUDGET: Strategy = Strategy {
    unconditional_update: false,
    names: Names::PathSegment,
    generation: true,
    status_metadata: true,
    create: |o| {
        let zero = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0 });
        set(o, "status", zero);
    },
    validate: validate_budget,
    validate_status: validate_budget_status,
    columns: &[
        NAME,
        column("Min Available", "string", "How many Pods must stay."),
        column("Max Unavailable", "string", "How many Pods may be missing."),
        column(
            "Allowed Disruptions",
            "integer",
            "How many Pods may go now.",
        ),
        AGE,
    ],
    row: |o, now| {
        let show = |v: &Value| match v {
            Value::Null => "N/A".into(),
            Value::String(s) => Value::from(s.as_str()),
            v => v.to_string().into(),
        };
        let spec = &o["spec"];
        let allowed = int(&o["status"]["disruptionsAllowed"]);
        vec![
            name(o),
            show(&spec["minAvailable"]),
            show(&spec["maxUnavailable"]),
            allowed.into(),
            age(o, now),
        ]
    },
    ..Strategy::BASE
};
