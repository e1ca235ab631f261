//! DaemonSets, StatefulSets, ControllerRevisions and PodDisruptionBudgets.

use api::FieldError;
use serde_json::{Value, json};

use crate::replicas::{empty_status, validate_selector, validate_template};
use crate::tree::{
    age, containers_and_images, immutable, int, int_or_percent, label_selector, name,
    none_if_empty, not_negative, object, required_one_of, set, set_default, show_map,
    show_selector, text,
};
use crate::{AGE, NAME, Strategy, column, pod_spec, wide};

pub(crate) const DAEMON_SET: Strategy = Strategy {
    generation: true,
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
    },
    validate: |o, errors| {
        validate_selector(o, "daemonset", errors);
        validate_template(o, errors);
        for key in ["minReadySeconds", "revisionHistoryLimit"] {
            not_negative(&o["spec"], "spec", key, errors);
        }
        let strategy = &o["spec"]["updateStrategy"];
        required_one_of(
            &strategy["type"],
            "spec.updateStrategy.type",
            &["OnDelete", "RollingUpdate"],
            errors,
        );
        for key in ["maxUnavailable", "maxSurge"] {
            let path = format!("spec.updateStrategy.rollingUpdate.{key}");
            int_or_percent(&strategy["rollingUpdate"][key], &path, errors);
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

pub(crate) const STATEFUL_SET: Strategy = Strategy {
    generation: true,
    default: |o| {
        let Some(spec) = object(o, "spec") else {
            return;
        };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = object(spec, "updateStrategy") {
            set_default(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                set_default(rolling, "partition", 0);
            }
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
    validate: |o, errors| {
        for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            not_negative(&o["spec"], "spec", key, errors);
        }
        validate_selector(o, "statefulset", errors);
        validate_template(o, errors);
        let policies = ["OrderedReady", "Parallel"];
        required_one_of(
            &o["spec"]["podManagementPolicy"],
            "spec.podManagementPolicy",
            &policies,
            errors,
        );
    },
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
        not_negative(o, "", "revision", errors);
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
    generation: true,
    create: |o| {
        let zero = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0 });
        set(o, "status", zero);
    },
    validate: |o, errors| {
        let spec = &o["spec"];
        if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
            errors.push(FieldError::invalid(
                "spec",
                spec,
                "minAvailable and maxUnavailable cannot be both set",
            ));
        }
        int_or_percent(&spec["minAvailable"], "spec.minAvailable", errors);
        int_or_percent(&spec["maxUnavailable"], "spec.maxUnavailable", errors);
        label_selector(&spec["selector"], "spec.selector", errors);
    },
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
