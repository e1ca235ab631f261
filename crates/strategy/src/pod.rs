//! Pods, PodTemplates and Bindings.

use api::{FieldError, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::tree::{
    age, containers_and_images, each, int, items, name, object, remove, set, set_default, show_map,
    text,
};
use crate::{AGE, Fields, NAME, Names, Strategy, column, pod_spec, wide};

fn default(o: &mut Value) {
    let Some(spec) = object(o, "spec") else {
        return;
    };
    pod_spec::default(spec);
    pod_spec::requests_from_limits(spec);
    pod_spec::pod_requests(spec);
    set_default(spec, "enableServiceLinks", true);
    if spec["hostNetwork"] == true {
        for key in ["containers", "initContainers"] {
            each(spec, key, |c| {
                each(c, "ports", |p| {
                    if int(&p["hostPort"]) == 0 {
                        let port = p["containerPort"].clone();
                        set(p, "hostPort", port);
                    }
                });
            });
        }
    }
}

fn create(o: &mut Value) {
    let qos = rules::qos_class(&o["spec"]);
    let gated = !items(&o["spec"]["schedulingGates"]).is_empty();
    let mut status = json!({ "phase": "Pending", "qosClass": qos });
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    set(o, "status", status);
    let labels = o["metadata"]["labels"].clone();
    if let Some(spec) = object(o, "spec") {
        pod_spec::add_own_labels(spec, &labels);
    }
}

/// Takes all but the names and the version from the old Pod.
fn put_back(new: &mut Value, old: &Value) {
    for key in ["spec", "status"] {
        set(new, key, old[key].clone());
    }
    if let Some(metadata) = object(new, "metadata") {
        for key in ["labels", "annotations", "ownerReferences", "finalizers"] {
            take(metadata, &old["metadata"], key);
        }
    }
}

/// Of an update of the ephemeral containers, these alone count.
pub(crate) fn only_ephemeral_containers(new: &mut Value, old: &Value) {
    let containers = new["spec"]["ephemeralContainers"].clone();
    put_back(new, old);
    if let Some(spec) = object(new, "spec") {
        if containers.is_null() {
            remove(spec, "ephemeralContainers");
        } else {
            set(spec, "ephemeralContainers", containers);
        }
    }
}

/// Of a resize, what the containers and the Pod ask for and may use counts. Containers are found by their names: such
/// as are new are left out, such as are missing stay.
pub(crate) fn only_resources(new: &mut Value, old: &Value) {
    let sent = new["spec"].clone();
    put_back(new, old);
    let Some(spec) = object(new, "spec") else {
        return;
    };
    for list in ["containers", "initContainers"] {
        each(spec, list, |container| {
            let sent = items(&sent[list]);
            if let Some(sent) = sent.iter().find(|c| c["name"] == container["name"]) {
                for key in ["resources", "resizePolicy"] {
                    take(container, sent, key);
                }
            }
        });
    }
    take(spec, &sent, "resources");
}

fn take(into: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(into, key, value.clone()),
        None => remove(into, key),
    }
}

/// The class of a Pod is fixed: a writer of its status may leave it out.
fn keep_class(new: &mut Value, old: &Value) {
    let class = text(&old["status"]["qosClass"]).to_owned();
    if let Some(status) = object(new, "status")
        && !class.is_empty()
    {
        set_default(status, "qosClass", class);
    }
}

fn ended(state: &Value) -> Option<String> {
    let terminated = state.get("terminated").filter(|t| t.is_object())?;
    Some(match text(&terminated["reason"]) {
        "" if int(&terminated["signal"]) != 0 => format!("Signal:{}", int(&terminated["signal"])),
        "" => format!("ExitCode:{}", int(&terminated["exitCode"])),
        reason => reason.to_owned(),
    })
}

/// The `Status`, `Ready` and `Restarts` cells.
struct Summary {
    status: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

fn summary(o: &Value) -> Summary {
    let (spec, status) = (&o["spec"], &o["status"]);
    let condition = |kind: &str| {
        items(&status["conditions"])
            .iter()
            .find(|c| c["type"] == kind)
    };
    let mut reason = match text(&status["reason"]) {
        "" => text(&status["phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    if condition("PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let inits = items(&spec["initContainers"]);
    let is_sidecar = |n: &Value| {
        inits
            .iter()
            .any(|c| c["name"] == *n && c["restartPolicy"] == "Always")
    };
    let mut out = Summary {
        status: String::new(),
        ready: 0,
        total: items(&spec["containers"]).len()
            + inits
                .iter()
                .filter(|c| c["restartPolicy"] == "Always")
                .count(),
        restarts: 0,
        last_restart: None,
    };
    let later = |a: Option<Timestamp>, c: &Value| {
        a.max(
            c["lastState"]["terminated"]["finishedAt"]
                .as_str()
                .and_then(time::parse),
        )
    };
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (i, c) in items(&status["initContainerStatuses"]).iter().enumerate() {
        out.restarts += int(&c["restartCount"]);
        out.last_restart = later(out.last_restart, c);
        let sidecar = is_sidecar(&c["name"]);
        if sidecar {
            sidecar_restarts += int(&c["restartCount"]);
            sidecar_last = later(sidecar_last, c);
        }
        let state = &c["state"];
        if state["terminated"].is_object() && int(&state["terminated"]["exitCode"]) == 0 {
            continue;
        }
        if sidecar && c["started"] == true {
            if c["ready"] == true {
                out.ready += 1;
            }
            continue;
        }
        let waiting = text(&state["waiting"]["reason"]);
        reason = match ended(state) {
            Some(why) => format!("Init:{why}"),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{i}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || condition("Initialized").is_some_and(|c| c["status"] == "True") {
        out.restarts = sidecar_restarts;
        out.last_restart = sidecar_last;
        let mut running = false;
        for c in items(&status["containerStatuses"]).iter().rev() {
            out.restarts += int(&c["restartCount"]);
            out.last_restart = later(out.last_restart, c);
            let state = &c["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if let Some(why) = ended(state) {
                reason = why;
            } else if c["ready"] == true && state["running"].is_object() {
                running = true;
                out.ready += 1;
            }
        }
        if reason == "Completed" && running {
            let ready = condition("Ready").is_some_and(|c| c["status"] == "True");
            reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if o["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            "Unknown".clone_into(&mut reason);
        } else if !matches!(text(&status["phase"]), "Failed" | "Succeeded") {
            "Terminating".clone_into(&mut reason);
        }
    }
    out.status = reason;
    out
}

fn row(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let sum = summary(o);
    let restarts = match sum.last_restart {
        Some(at) if sum.restarts != 0 => {
            format!(
                "{} ({} ago)",
                sum.restarts,
                time::human_duration(now.as_second() - at.as_second())
            )
        }
        _ => sum.restarts.to_string(),
    };
    let or_none = |s: &str| Value::from(if s.is_empty() { "<none>" } else { s });
    let ip = items(&status["podIPs"])
        .first()
        .map_or_else(|| text(&status["podIP"]), |p| text(&p["ip"]));
    let gates = items(&spec["readinessGates"]);
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        let met = |g: &&Value| {
            items(&status["conditions"])
                .iter()
                .any(|c| c["type"] == g["conditionType"] && c["status"] == "True")
        };
        format!("{}/{}", gates.iter().filter(met).count(), gates.len())
    };
    vec![
        name(o),
        format!("{}/{}", sum.ready, sum.total).into(),
        sum.status.into(),
        restarts.into(),
        age(o, now),
        or_none(ip),
        or_none(text(&spec["nodeName"])),
        or_none(text(&status["nominatedNodeName"])),
        gates.into(),
    ]
}

fn fields(o: &Value, out: &mut Fields) {
    let (spec, status) = (&o["spec"], &o["status"]);
    out.extend([
        ("spec.nodeName", text(&spec["nodeName"]).to_owned()),
        (
            "spec.restartPolicy",
            text(&spec["restartPolicy"]).to_owned(),
        ),
        (
            "spec.schedulerName",
            text(&spec["schedulerName"]).to_owned(),
        ),
        (
            "spec.serviceAccountName",
            text(&spec["serviceAccountName"]).to_owned(),
        ),
        (
            "spec.hostNetwork",
            (spec["hostNetwork"] == true).to_string(),
        ),
        ("status.phase", text(&status["phase"]).to_owned()),
        ("status.podIP", text(&status["podIP"]).to_owned()),
        (
            "status.nominatedNodeName",
            text(&status["nominatedNodeName"]).to_owned(),
        ),
    ]);
}

pub(crate) const STRATEGY: Strategy = Strategy {
    generation: true,
    status_metadata: true,
    default,
    create,
    validate: pod_spec::validate_pod,
    validate_create: pod_spec::validate_new_pod,
    validate_update: pod_spec::validate_update,
    update_status: keep_class,
    validate_status: pod_spec::validate_status,
    columns: &[
        NAME,
        column("Ready", "string", "Ready containers of all."),
        column("Status", "string", "Where the Pod stands."),
        column(
            "Restarts",
            "string",
            "How often its containers were restarted, and when last.",
        ),
        AGE,
        wide("IP", "The Pod's address."),
        wide("Node", "The node that it runs on."),
        wide("Nominated Node", "The node that room is made on for it."),
        wide(
            "Readiness Gates",
            "Further conditions that make it ready, met of all.",
        ),
    ],
    row,
    fields,
    ..Strategy::BASE
};

pub(crate) const TEMPLATE: Strategy = Strategy {
    generation: true,
    default: pod_spec::default_template,
    validate: |o, errors| pod_spec::validate_template(&o["template"], "template", errors),
    columns: &[
        NAME,
        column(
            "Containers",
            "string",
            "The names of the template's containers.",
        ),
        column(
            "Images",
            "string",
            "The images of the template's containers.",
        ),
        column("Pod Labels", "string", "The labels of the template."),
    ],
    row: |o, _| {
        let [containers, images] = containers_and_images(&o["template"]["spec"]);
        vec![
            name(o),
            containers,
            images,
            show_map(&o["template"]["metadata"]["labels"]),
        ]
    },
    ..Strategy::BASE
};

pub(crate) const BINDING: Strategy = Strategy {
    names: Names::Unchecked,
    validate: |o, errors| {
        let target = &o["target"];
        if !matches!(text(&target["kind"]), "" | "Node") {
            errors.push(FieldError::not_supported(
                "target.kind",
                &target["kind"],
                &["Node", "<empty>"],
            ));
        }
        if text(&target["name"]).is_empty() {
            errors.push(FieldError::required("target.name", ""));
        }
    },
    ..Strategy::BASE
};
