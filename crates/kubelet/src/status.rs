//! Computes a Pod's status from what was observed. Pure.
//!
//! Follows upstream's `getPhase` and condition texts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::time::seconds;
use jiff::Timestamp;
use runtime::{ContainerMetadata, ContainerState, ContainerStatus, LinuxResources};
use serde_json::{Value, json};

use crate::plan::{Observed, Plan};
use crate::spec::{Container, Pod, Role};

/// What the status needs beside the observation.
pub struct Facts<'a> {
    pub host_ip: IpAddr,
    pub pod_ips: &'a [IpAddr],
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    pub now: Timestamp,
}

fn container_id(status: &ContainerStatus) -> String {
    format!("skiff://{}", status.id)
}

fn terminated(status: &ContainerStatus, facts: &Facts<'_>) -> Value {
    let mut state = json!({
        "exitCode": status.exit_code,
        "reason": if status.reason.is_empty() { "Unknown" } else { &status.reason },
        "containerID": container_id(status),
        "startedAt": status.started_at.or(Some(status.created_at)).map(seconds),
        "finishedAt": status.finished_at.map(seconds),
    });
    let message = facts
        .messages
        .get(status.id.as_str())
        .filter(|m| !m.is_empty())
        .unwrap_or(&status.message);
    if !message.is_empty() {
        state["message"] = message.clone().into();
    }
    json!({"terminated": state})
}

/// One container's status.
fn container(
    pod: &Pod,
    role: Role,
    c: &Container,
    seen: &Observed,
    plan: &Plan,
    facts: &Facts<'_>,
    initialized: bool,
) -> Value {
    let all: Vec<&ContainerStatus> = seen
        .containers
        .iter()
        .filter(|s| s.metadata.name == c.name)
        .collect();
    let latest = all.last().copied();
    let previous = all
        .len()
        .checked_sub(2)
        .and_then(|i| all.get(i))
        .filter(|s| s.state == ContainerState::Exited);
    let over = seen.gone || pod.metadata.deletion_timestamp.is_some() || seen.ended.is_some();
    let (mut state, mut last) = (json!({}), previous.map(|s| terminated(s, facts)));
    let (mut ready, mut started) = (false, false);
    match latest {
        Some(s) if matches!(s.state, ContainerState::Running | ContainerState::Unknown) => {
            state = json!({"running": {"startedAt": s.started_at.map(seconds)}});
            started = seen.started(s);
            let verdict = seen
                .verdicts
                .get(&c.name)
                .filter(|v| v.id.as_ref() == Some(&s.id));
            ready = started && verdict.is_some_and(|v| v.ready) && role != Role::Ephemeral;
        }
        Some(s) if s.state == ContainerState::Exited => match plan.waiting.get(&c.name) {
            Some((reason, message)) => {
                state = json!({"waiting": {"reason": reason, "message": message}});
                last = Some(terminated(s, facts));
            }
            None => {
                state = terminated(s, facts);
                ready = role == Role::Init && s.exit_code == 0;
            }
        },
        _ => {
            let mut waiting = json!({"reason": if initialized || matches!(role, Role::Init | Role::Sidecar) && pod.spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" }});
            if let Some((reason, message)) = plan.waiting.get(&c.name) {
                waiting = json!({"reason": reason, "message": message});
            }
            state["waiting"] = waiting;
            if over {
                state = json!({"terminated": {
                    "exitCode": 137, "reason": "ContainerStatusUnknown",
                    "message": "The container could not be located when the pod was terminated",
                    "startedAt": null, "finishedAt": null,
                }});
            }
        }
    }
    let mut out = json!({
        "name": c.name,
        "image": latest.map_or(&c.image, |s| &s.image),
        "imageID": latest.map_or("", |s| &s.image_id),
        "ready": ready,
        "restartCount": latest.map_or(0, |s| s.metadata.attempt),
        "state": state,
        "lastState": last.unwrap_or_else(|| json!({})),
        "started": started,
    });
    if let Some(s) = latest.filter(|s| s.state != ContainerState::Created) {
        out["containerID"] = container_id(s).into();
    }
    out
}

/// The latest runs of a Pod's containers as the API has them, for when the runtime knows nothing of the Pod any more: its state
/// does not outlive a reboot of the machine.
///
/// What ran then has ended, nobody knows how. Names of sandboxes and times of creation are made up.
#[must_use]
pub fn from_api(pod: &Pod, now: Timestamp) -> Vec<ContainerStatus> {
    let lists = [
        "initContainerStatuses",
        "containerStatuses",
        "ephemeralContainerStatuses",
    ];
    lists
        .iter()
        .filter_map(|list| pod.status[*list].as_array())
        .flatten()
        .filter_map(|status| last_run(status, now))
        .collect()
}

fn last_run(status: &Value, now: Timestamp) -> Option<ContainerStatus> {
    let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
    let id = status["containerID"].as_str()?.strip_prefix("skiff://")?;
    let (state, last) = (&status["state"], &status["lastState"]["terminated"]);
    let ended = match &state["terminated"] {
        // Waits to be started again.
        Value::Null if state["running"].is_null() => last,
        ended => ended,
    };
    let known = ended.is_object();
    let time = |of: &Value| of.as_str().and_then(api::time::parse);
    let started_at = time(&ended["startedAt"]).or(time(&state["running"]["startedAt"]));
    let exit_code = ended["exitCode"]
        .as_i64()
        .and_then(|c| i32::try_from(c).ok());
    Some(ContainerStatus {
        id: id.into(),
        sandbox_id: "".into(),
        metadata: ContainerMetadata {
            name: text(&status["name"]),
            attempt: status["restartCount"]
                .as_u64()
                .and_then(|n| n.try_into().ok())
                .unwrap_or(0),
        },
        state: ContainerState::Exited,
        pid: None,
        created_at: started_at.unwrap_or(now),
        started_at,
        finished_at: time(&ended["finishedAt"]).or(Some(now)),
        exit_code: exit_code.unwrap_or(137),
        reason: if known {
            text(&ended["reason"])
        } else {
            "ContainerStatusUnknown".into()
        },
        message: if known {
            text(&ended["message"])
        } else {
            "The container could not be located after the node was started again".into()
        },
        image: text(&status["image"]),
        image_id: text(&status["imageID"]),
        log_path: "".into(),
        mounts: Vec::new(),
        resources: LinuxResources::default(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    })
}

/// Init containers that have not done their part.
fn incomplete(pod: &Pod, seen: &Observed) -> Vec<String> {
    let began = pod
        .spec
        .containers
        .iter()
        .any(|c| seen.latest(&c.name, false).is_some());
    pod.all()
        .filter(|(role, c)| match (role, seen.latest(&c.name, false)) {
            (Role::Init, Some(s)) => {
                !(began || s.state == ContainerState::Exited && s.exit_code == 0)
            }
            (Role::Init, None) => !began,
            (Role::Sidecar, s) => {
                !began && !s.is_some_and(|s| s.state == ContainerState::Running && seen.started(s))
            }
            _ => false,
        })
        .map(|(_, c)| c.name.clone())
        .collect()
}

/// `Pending`, `Running`, `Succeeded` or `Failed`.
fn phase(pod: &Pod, seen: &Observed, initialized: bool) -> &'static str {
    let before = pod.status["phase"].as_str().unwrap_or("Pending");
    match before {
        "Succeeded" => return "Succeeded",
        "Failed" => return "Failed",
        _ => {}
    }
    if seen.ended.is_some() {
        return "Failed";
    }
    if !initialized {
        let failed = pod.spec.restart_policy == "Never"
            && pod.spec.init_containers.iter().any(|c| {
                c.restart_policy != "Always"
                    && seen
                        .latest(&c.name, false)
                        .is_some_and(|s| s.state == ContainerState::Exited && s.exit_code != 0)
            });
        return if failed { "Failed" } else { "Pending" };
    }
    let (mut running, mut failed, mut never) = (0, 0, 0);
    for c in &pod.spec.containers {
        match seen.latest(&c.name, false) {
            None => never += 1,
            Some(s) => match s.state {
                ContainerState::Created if s.metadata.attempt == 0 => never += 1,
                ContainerState::Created | ContainerState::Exited if s.exit_code != 0 => failed += 1,
                ContainerState::Created | ContainerState::Exited => {}
                ContainerState::Running | ContainerState::Unknown => running += 1,
            },
        }
    }
    let deleted = pod.metadata.deletion_timestamp.is_some();
    match pod.spec.restart_policy.as_str() {
        _ if never > 0 => "Pending",
        _ if running > 0 => "Running",
        "Always" | "" if !deleted => "Running",
        "OnFailure" if failed > 0 && !deleted => "Running",
        _ if failed > 0 => "Failed",
        _ => "Succeeded",
    }
}

struct Conditions<'a> {
    old: &'a [Value],
    new: Vec<Value>,
    now: String,
    generation: i64,
}

impl Conditions<'_> {
    fn set(&mut self, kind: &str, truth: bool, why: Option<(&str, String)>) {
        let status = if truth { "True" } else { "False" };
        let old = self.old.iter().find(|c| c["type"] == kind);
        let since = old
            .filter(|c| c["status"] == status)
            .and_then(|c| c["lastTransitionTime"].as_str());
        let mut condition = json!({
            "type": kind, "status": status, "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or(&self.now),
            // A merge keeps what is not named.
            "reason": null, "message": null,
        });
        if let Some((reason, message)) = why {
            condition["reason"] = reason.into();
            if !message.is_empty() {
                condition["message"] = message.into();
            }
        }
        if self.generation > 0 {
            condition["observedGeneration"] = self.generation.into();
        }
        self.new.push(condition);
    }
}

/// The status to be merged (strategically) into the Pod's.
#[must_use]
pub fn compute(pod: &Pod, seen: &Observed, plan: &Plan, facts: &Facts<'_>) -> Value {
    let incomplete = incomplete(pod, seen);
    let initialized = incomplete.is_empty();
    let phase = phase(pod, seen, initialized);
    let over = matches!(phase, "Succeeded" | "Failed");
    let of = |want: &[Role]| -> Vec<Value> {
        pod.all()
            .filter(|(role, _)| want.contains(role))
            .map(|(role, c)| container(pod, role, c, seen, plan, facts, initialized))
            .collect()
    };
    let (init, mains, ephemeral) = (
        of(&[Role::Init, Role::Sidecar]),
        of(&[Role::Main]),
        of(&[Role::Ephemeral]),
    );
    let unready: Vec<&str> = mains
        .iter()
        .chain(init.iter().filter(|s| {
            pod.container(s["name"].as_str().unwrap_or_default())
                .is_some_and(|(r, _)| r == Role::Sidecar)
        }))
        .filter(|s| s["ready"] != true)
        .filter_map(|s| s["name"].as_str())
        .collect();
    let old = pod.status["conditions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut conditions = Conditions {
        old,
        new: Vec::new(),
        now: seconds(facts.now),
        generation: pod.metadata.generation,
    };
    let network = seen
        .sandbox
        .as_ref()
        .is_some_and(|s| s.state == runtime::SandboxState::Ready);
    conditions.set("PodReadyToStartContainers", network, None);
    let completed = (phase == "Succeeded").then(|| ("PodCompleted", String::new()));
    let why = (!initialized).then(|| {
        (
            "ContainersNotInitialized",
            format!(
                "containers with incomplete status: [{}]",
                incomplete.join(" ")
            ),
        )
    });
    conditions.set("Initialized", initialized, completed.clone().or(why));
    let not_ready = || match phase {
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ => (
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let containers_ready = unready.is_empty() && !over;
    conditions.set(
        "ContainersReady",
        containers_ready,
        (!containers_ready).then(not_ready),
    );
    let closed = pod.spec.readiness_gates.iter().find_map(|gate| {
        let kind = &gate.condition_type;
        match old.iter().find(|c| c["type"] == kind.as_str()) {
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{kind}\" does not exist."
            )),
            Some(c) if c["status"] != "True" => Some(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                c["status"].as_str().unwrap_or_default()
            )),
            Some(_) => None,
        }
    });
    match closed {
        Some(message) if containers_ready => {
            conditions.set("Ready", false, Some(("ReadinessGatesNotReady", message)))
        }
        _ => conditions.set(
            "Ready",
            containers_ready,
            (!containers_ready).then(not_ready),
        ),
    }
    let mut status = json!({
        "phase": phase,
        "conditions": conditions.new,
        "containerStatuses": mains,
        "hostIP": facts.host_ip.to_string(),
        "hostIPs": [{"ip": facts.host_ip.to_string()}],
        "startTime": seen.started_at.map(seconds),
        "qosClass": pod.qos(),
    });
    if pod.metadata.generation > 0 {
        status["observedGeneration"] = pod.metadata.generation.into();
    }
    for (key, list) in [
        ("initContainerStatuses", init),
        ("ephemeralContainerStatuses", ephemeral),
    ] {
        if !list.is_empty() {
            status[key] = list.into();
        }
    }
    if seen.ended.is_some() && seen.sandbox.is_none() && seen.containers.is_empty() {
        // Nothing of it ever was here: its own reason is all there is to tell. A merge keeps what is not named.
        for list in [
            "containerStatuses",
            "initContainerStatuses",
            "ephemeralContainerStatuses",
        ] {
            status[list] = Value::Null;
        }
    }
    if let Some(first) = facts.pod_ips.first() {
        status["podIP"] = first.to_string().into();
        // The list is merged by address: the ones it had before must be named to go.
        let gone = pod.status["podIPs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["ip"].as_str());
        let gone = gone
            .filter(|ip| !facts.pod_ips.iter().any(|n| n.to_string() == *ip))
            .map(|ip| json!({"ip": ip, "$patch": "delete"}));
        status["podIPs"] = facts
            .pod_ips
            .iter()
            .map(|ip| json!({"ip": ip.to_string()}))
            .chain(gone)
            .collect();
    }
    if let Some(ended) = &seen.ended {
        status["reason"] = ended.reason.clone().into();
        status["message"] = ended.message.clone().into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pod_tells_nothing_but_why() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"hostUsers": false, "containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let seen = Observed {
            ended: crate::admit::refusal(&pod, false),
            ..Observed::default()
        };
        let facts = Facts {
            host_ip: [10, 0, 0, 1].into(),
            pod_ips: &[],
            messages: &BTreeMap::new(),
            now,
        };
        let plan = crate::plan::plan(&pod, &seen, now);
        let status = compute(&pod, &seen, &plan, &facts);
        assert_eq!(status["phase"], "Failed");
        assert_eq!(status["reason"], "UserNamespacesNotSupported");
        assert!(status["containerStatuses"].is_null());
    }

    #[test]
    fn what_the_api_knows_outlives_the_runtime() {
        let now = Timestamp::from_second(1_767_225_600).unwrap();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"restartPolicy": "OnFailure", "containers": [
                {"name": "done", "image": "i"}, {"name": "ran", "image": "i"},
                {"name": "waited", "image": "i"}, {"name": "fresh", "image": "i"},
            ]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "done", "image": "i", "restartCount": 1, "containerID": "skiff://d", "state": {"terminated": {
                    "exitCode": 0, "reason": "Completed", "message": "bye",
                    "startedAt": "2025-12-31T00:00:00Z", "finishedAt": "2025-12-31T00:01:00Z",
                }}},
                {"name": "ran", "image": "i", "restartCount": 4, "containerID": "skiff://r",
                    "state": {"running": {"startedAt": "2025-12-31T00:00:00Z"}},
                    "lastState": {"terminated": {"exitCode": 0}}},
                {"name": "waited", "image": "i", "restartCount": 7, "containerID": "skiff://w",
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}},
                {"name": "fresh", "image": "i", "restartCount": 0, "state": {"waiting": {}}},
            ]},
        }))
        .unwrap();
        let lost = from_api(&pod, now);
        let shown: Vec<String> = lost
            .iter()
            .map(|s| {
                let m = &s.metadata;
                format!(
                    "{} {} {} {} {}",
                    s.id, m.name, m.attempt, s.exit_code, s.reason
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                "d done 1 0 Completed",
                "r ran 4 137 ContainerStatusUnknown",
                "w waited 7 3 Error",
            ]
        );
        // The plan goes on from there: what is done stays done, the others are counted on.
        let mut seen = Observed {
            volumes: crate::plan::Step::Done,
            containers: lost,
            ..Observed::default()
        };
        let plan = |seen: &Observed| crate::plan::plan(&pod, seen, now);
        assert_eq!(plan(&seen).to_string(), "Starting\nmake sandbox 0\n");
        seen.sandbox = Some(runtime::SandboxStatus {
            id: "new".into(),
            metadata: runtime::SandboxMetadata::default(),
            state: runtime::SandboxState::Ready,
            created_at: now,
            netns: None,
            ips: vec![],
            namespaces: runtime::NamespaceOptions::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            shim_pid: None,
        });
        let plan = plan(&seen);
        assert_eq!(
            plan.to_string(),
            "Starting\nstart ran 5\nstart waited 8\nstart fresh 0\n"
        );
        let facts = Facts {
            host_ip: [10, 0, 0, 1].into(),
            pod_ips: &[],
            messages: &BTreeMap::new(),
            now,
        };
        let status = compute(&pod, &seen, &plan, &facts);
        let of = |i: usize| &status["containerStatuses"][i];
        assert_eq!(of(0)["state"]["terminated"]["message"], "bye");
        assert_eq!(
            (&of(0)["restartCount"], &of(1)["restartCount"]),
            (&json!(1), &json!(4))
        );
    }
}
