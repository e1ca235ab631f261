//! Decides what brings a Pod's containers in line with its spec. Pure: the worker observes, asks here, and carries out.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>. The life of a Pod on its node:
//!
//! ```text
//!   Starting ──► Running ──► Finished ──┐ (stays, for its logs and status, until it is deleted)
//!      │            │                   ▼
//!      └────────────┴──────────► Terminating ──► Removing ──► Gone
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtime::{
    ContainerId, ContainerState, ContainerStatus, SandboxId, SandboxState, SandboxStatus,
};

use crate::admit;
use crate::spec::{Container, Pod, Role};

/// Where a Pod is in its life on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Volumes, sandbox or init containers are under way. Leaves to `Running`, `Finished`, or `Terminating`.
    Starting,
    /// The first of its containers was started. Leaves to `Finished` or `Terminating`.
    Running,
    /// All containers ended and none will be restarted, or its deadline is over. Leaves to `Terminating` on deletion.
    Finished,
    /// It is deleted; containers are being stopped. Leaves to `Removing` when none runs.
    Terminating,
    /// No process is left: sandbox, volumes, directories go. Leaves to `Gone`, where the object may go.
    Removing,
}

/// Whether something that takes a while is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Step {
    #[default]
    Absent,
    Busy,
    Done,
    /// It failed; to be tried again at that time.
    Failed(Timestamp),
}

/// What is being done to a container at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    Starting,
    Stopping,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    pub retry_at: Timestamp,
}

/// The wait between restarts: 10 s doubling to 5 min; forgotten after 10 min.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashBackoff {
    pub delay: Duration,
    pub since: Timestamp,
}

const FIRST_DELAY: Duration = Duration::from_secs(10);
const LAST_DELAY: Duration = Duration::from_secs(300);

impl CrashBackoff {
    /// The back-off after one more restart at `now` of a container that ended at `finished`.
    #[must_use]
    pub fn next(before: Option<Self>, finished: Timestamp, now: Timestamp) -> Self {
        let delay = match before {
            Some(b) if finished.duration_since(b.since) <= SignedDuration::from_secs(600) => {
                (b.delay * 2).min(LAST_DELAY)
            }
            _ => FIRST_DELAY,
        };
        Self { delay, since: now }
    }
}

/// What the worker remembers about a container beside what the runtime knows.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    pub busy: Option<Busy>,
    pub failure: Option<Failure>,
    /// Failed tries in a row.
    pub failures: u32,
    pub crash: Option<CrashBackoff>,
}

/// Verdicts of the probes of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// The container they are about.
    pub id: Option<ContainerId>,
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe's last word; true without one.
    pub ready: bool,
    /// The liveness or startup probe failed too often: the message, and the grace period if the probe has its own.
    pub unhealthy: Option<(String, Option<i64>)>,
}

/// A Pod's end that its deadline (or the kubelet) decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub reason: String,
    pub message: String,
}

/// Everything a plan depends on beside the Pod itself.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub volumes: Step,
    pub making_sandbox: Step,
    pub removing: Step,
    pub sandbox: Option<SandboxStatus>,
    /// Oldest first, of all the Pod's sandboxes.
    pub containers: Vec<ContainerStatus>,
    pub remembered: BTreeMap<String, Remembered>,
    pub verdicts: BTreeMap<String, Verdicts>,
    pub started_at: Option<Timestamp>,
    pub ended: Option<Ended>,
    /// The object is not in the API any more.
    pub gone: bool,
    /// The machine enforces SELinux' labels.
    pub selinux: bool,
}

/// One thing to do. Actions of a plan may be carried out at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    MountVolumes,
    MakeSandbox {
        attempt: u32,
    },
    /// `crashed` is when the run before ended.
    Start {
        name: String,
        attempt: u32,
        crashed: Option<Timestamp>,
    },
    Stop {
        id: ContainerId,
        name: String,
        why: String,
        grace: Option<i64>,
    },
    /// An old dead container that nobody needs.
    Remove {
        id: ContainerId,
    },
    StopSandbox {
        id: SandboxId,
    },
    /// The Pod is over, for this reason.
    End(Ended),
    /// Nothing runs: take away what is left, then let the object go.
    TearDown,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub life: Life,
    pub actions: Vec<Action>,
    /// Why containers that don't run don't: reason and message.
    pub waiting: BTreeMap<String, (String, String)>,
    /// When to ask again though nothing happened.
    pub wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

fn after(at: Timestamp, delay: Duration) -> Timestamp {
    at.checked_add(SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX)
}

impl Observed {
    /// The latest container of that name, in the present sandbox if `current`.
    #[must_use]
    pub fn latest(&self, name: &str, current: bool) -> Option<&ContainerStatus> {
        let sandbox = self.sandbox.as_ref().map(|s| &s.id);
        self.containers
            .iter()
            .rev()
            .find(|c| c.metadata.name == name && (!current || Some(&c.sandbox_id) == sandbox))
    }

    fn busy(&self) -> bool {
        self.volumes == Step::Busy
            || self.making_sandbox == Step::Busy
            || self.remembered.values().any(|r| r.busy.is_some())
    }

    fn sandbox_ready(&self) -> bool {
        self.sandbox
            .as_ref()
            .is_some_and(|s| s.state == SandboxState::Ready)
    }

    /// Whether a running container's startup is over.
    #[must_use]
    pub fn started(&self, status: &ContainerStatus) -> bool {
        self.verdicts
            .get(&status.metadata.name)
            .is_some_and(|v| v.id.as_ref() == Some(&status.id) && v.started)
    }
}

fn alive(status: &ContainerStatus) -> bool {
    matches!(
        status.state,
        ContainerState::Running | ContainerState::Unknown
    )
}

/// Whether a container that ended with `code` is started again.
fn restarts(pod: &Pod, role: Role, code: i32) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init => code != 0 && pod.spec.restart_policy != "Never",
        Role::Main => match pod.spec.restart_policy.as_str() {
            "Never" => false,
            "OnFailure" => code != 0,
            _ => true,
        },
    }
}

/// Decides what brings the Pod in line with its spec.
#[must_use]
pub fn plan(pod: &Pod, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan {
        life: Life::Starting,
        actions: Vec::new(),
        waiting: BTreeMap::new(),
        wake: None,
    };
    let deleted = seen.gone || pod.metadata.deletion_timestamp.is_some();
    if deleted || seen.ended.is_some() {
        end(pod, seen, now, deleted, &mut plan);
        return plan;
    }
    // What runs already was taken once.
    if seen.sandbox.is_none()
        && seen.containers.is_empty()
        && let Some(refused) = admit::refusal(pod, seen.selinux)
    {
        plan.actions.push(Action::End(refused));
        return plan;
    }
    if let (Some(limit), Some(start)) = (pod.spec.active_deadline_seconds, seen.started_at) {
        let due = after(start, Duration::from_secs(limit.max(0).unsigned_abs()));
        if due <= now {
            plan.actions.push(Action::End(Ended {
                reason: "DeadlineExceeded".into(),
                message: "Pod was active on the node longer than the specified deadline".into(),
            }));
            return plan;
        }
        plan.wake_at(due);
    }
    if finished(pod, seen) {
        end(pod, seen, now, false, &mut plan);
        return plan;
    }
    match &seen.volumes {
        Step::Absent => plan.actions.push(Action::MountVolumes),
        Step::Failed(at) if *at <= now => plan.actions.push(Action::MountVolumes),
        Step::Failed(at) => plan.wake_at(*at),
        Step::Busy | Step::Done => {}
    }
    if !seen.sandbox_ready() {
        match &seen.making_sandbox {
            Step::Busy => {}
            Step::Failed(at) if *at > now => plan.wake_at(*at),
            _ => {
                let attempt = seen.sandbox.as_ref().map_or(0, |s| s.metadata.attempt + 1);
                plan.actions.push(Action::MakeSandbox { attempt });
            }
        }
        return plan;
    }
    if seen.volumes != Step::Done {
        return plan;
    }
    run(pod, seen, now, &mut plan);
    collect_dead(seen, &mut plan);
    plan
}

/// Walks the containers in order and starts what is to run.
fn run(pod: &Pod, seen: &Observed, now: Timestamp, plan: &mut Plan) {
    let mains_began = pod
        .spec
        .containers
        .iter()
        .any(|c| seen.latest(&c.name, true).is_some());
    plan.life = if mains_began {
        Life::Running
    } else {
        Life::Starting
    };
    let mut blocked = false;
    for (role, container) in pod.all() {
        if blocked && matches!(role, Role::Init | Role::Sidecar | Role::Main) {
            break;
        }
        if role == Role::Init && mains_began {
            continue;
        }
        // In a new sandbox what is done for good is not done again, but for what prepares the others.
        let over = |s: &&ContainerStatus| {
            matches!(role, Role::Main | Role::Ephemeral)
                && s.state == ContainerState::Exited
                && !restarts(pod, role, s.exit_code)
        };
        let status = seen
            .latest(&container.name, true)
            .or_else(|| seen.latest(&container.name, false).filter(over));
        let done = match status {
            None
            | Some(ContainerStatus {
                state: ContainerState::Created,
                ..
            }) => {
                start(pod, container, seen, None, now, plan);
                false
            }
            Some(s) if alive(s) => {
                supervise(container, s, seen, plan);
                role == Role::Sidecar
                    && seen.started(s)
                    && seen
                        .remembered
                        .get(&container.name)
                        .is_none_or(|r| r.busy.is_none())
            }
            Some(s) if restarts(pod, role, s.exit_code) => {
                start(pod, container, seen, Some(s), now, plan);
                false
            }
            Some(_) => true,
        };
        blocked |= !done && matches!(role, Role::Init | Role::Sidecar) && !mains_began;
    }
}

/// A running container whose probe failed or whose image was changed is stopped; it is restarted when it has ended.
fn supervise(container: &Container, status: &ContainerStatus, seen: &Observed, plan: &mut Plan) {
    if seen
        .remembered
        .get(&container.name)
        .is_some_and(|r| r.busy.is_some())
    {
        return;
    }
    let name = &container.name;
    let verdict = seen
        .verdicts
        .get(name)
        .filter(|v| v.id.as_ref() == Some(&status.id));
    let stop = |why: String, grace| Action::Stop {
        id: status.id.clone(),
        name: name.clone(),
        why,
        grace,
    };
    if let Some((message, grace)) = verdict.and_then(|v| v.unhealthy.clone()) {
        plan.actions.push(stop(
            format!("Container {name} {message}, will be restarted"),
            grace,
        ));
    } else if status.image != container.image {
        plan.actions.push(stop(
            format!("Container {name} definition changed, will be restarted"),
            None,
        ));
    }
}

fn start(
    pod: &Pod,
    container: &Container,
    seen: &Observed,
    ended: Option<&ContainerStatus>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = &container.name;
    let remembered = seen.remembered.get(name).cloned().unwrap_or_default();
    if remembered.busy.is_some() {
        return;
    }
    let finished = ended.map(|s| s.finished_at.unwrap_or(s.created_at));
    if let Some(failure) = remembered.failure.as_ref().filter(|f| f.retry_at > now) {
        let mut shown = (failure.reason.clone(), failure.message.clone());
        let settled = after(failure.at, Duration::from_secs(1));
        if shown.0 == "ErrImagePull" && settled <= now {
            shown = (
                "ImagePullBackOff".into(),
                format!(
                    "Back-off pulling image \"{}\": {}: {}",
                    container.image, failure.reason, failure.message
                ),
            );
        } else if shown.0 == "ErrImagePull" {
            plan.wake_at(settled);
        }
        plan.waiting.insert(name.clone(), shown);
        return plan.wake_at(failure.retry_at);
    }
    if let (Some(finished), Some(crash)) = (finished, remembered.crash) {
        let forgotten = finished.duration_since(crash.since) > SignedDuration::from_secs(600);
        let due = after(finished, crash.delay);
        if due > now && !forgotten {
            let delay = go_duration(crash.delay);
            let message = format!(
                "back-off {delay} restarting failed container={name} pod={}",
                pod.title()
            );
            plan.waiting
                .insert(name.clone(), ("CrashLoopBackOff".into(), message));
            return plan.wake_at(due);
        }
    }
    let attempt = seen
        .latest(name, false)
        .map_or(0, |s| s.metadata.attempt + 1);
    plan.actions.push(Action::Start {
        name: name.clone(),
        attempt,
        crashed: finished,
    });
}

/// Whole seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
fn go_duration(d: Duration) -> String {
    match d.as_secs() {
        s if s < 60 => format!("{s}s"),
        s => format!("{}m{}s", s / 60, s % 60),
    }
}

/// Whether all containers have ended for good.
#[must_use]
pub fn finished(pod: &Pod, seen: &Observed) -> bool {
    let over = |role, c: &Container| {
        let idle = seen
            .remembered
            .get(&c.name)
            .is_none_or(|r| r.busy.is_none());
        seen.latest(&c.name, false).is_some_and(|s| {
            s.state == ContainerState::Exited && !restarts(pod, role, s.exit_code) && idle
        })
    };
    let init_failed = pod.spec.restart_policy == "Never"
        && pod.all().any(|(role, c)| {
            role == Role::Init
                && over(role, c)
                && seen
                    .latest(&c.name, false)
                    .is_some_and(|s| s.exit_code != 0)
        });
    init_failed
        || !pod.spec.containers.is_empty()
            && pod.spec.containers.iter().all(|c| over(Role::Main, c))
}

/// Stops what runs; sidecars after the others, the last one first.
fn end(pod: &Pod, seen: &Observed, now: Timestamp, deleted: bool, plan: &mut Plan) {
    plan.life = if deleted {
        Life::Terminating
    } else {
        Life::Finished
    };
    let running: Vec<(Role, &ContainerStatus)> = seen
        .containers
        .iter()
        .filter(|c| alive(c))
        .map(|c| {
            (
                pod.container(&c.metadata.name)
                    .map_or(Role::Main, |(role, _)| role),
                c,
            )
        })
        .collect();
    let others = running.iter().any(|(role, _)| *role != Role::Sidecar);
    let last_sidecar = pod
        .spec
        .init_containers
        .iter()
        .rev()
        .find(|c| {
            running
                .iter()
                .any(|(role, s)| *role == Role::Sidecar && s.metadata.name == c.name)
        })
        .map(|c| c.name.as_str());
    for (role, status) in &running {
        let name = &status.metadata.name;
        let stopping = seen
            .remembered
            .get(name)
            .is_some_and(|r| r.busy == Some(Busy::Stopping));
        let turn = *role != Role::Sidecar || !others && last_sidecar == Some(name);
        if !stopping && turn {
            plan.actions.push(Action::Stop {
                id: status.id.clone(),
                name: name.clone(),
                why: format!("Stopping container {name}"),
                grace: None,
            });
        }
    }
    if !running.is_empty() || seen.busy() {
        return;
    }
    if deleted {
        plan.life = Life::Removing;
        match &seen.removing {
            Step::Absent => plan.actions.push(Action::TearDown),
            Step::Failed(at) if *at <= now => plan.actions.push(Action::TearDown),
            Step::Failed(at) => plan.wake_at(*at),
            Step::Busy | Step::Done => {}
        }
    } else if let Some(sandbox) = seen
        .sandbox
        .as_ref()
        .filter(|s| s.state == SandboxState::Ready)
    {
        plan.actions.push(Action::StopSandbox {
            id: sandbox.id.clone(),
        });
    }
}

/// Keeps one dead container beside the latest of each name, for its log and last state.
fn collect_dead(seen: &Observed, plan: &mut Plan) {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for status in seen.containers.iter().rev() {
        let n = count.entry(&status.metadata.name).or_default();
        *n += 1;
        if *n > 2 && status.state == ContainerState::Exited {
            plan.actions.push(Action::Remove {
                id: status.id.clone(),
            });
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}", self.life)?;
        for action in &self.actions {
            match action {
                Action::MountVolumes => writeln!(f, "mount volumes")?,
                Action::MakeSandbox { attempt } => writeln!(f, "make sandbox {attempt}")?,
                Action::Start { name, attempt, .. } => writeln!(f, "start {name} {attempt}")?,
                Action::Stop { id, why, .. } => writeln!(f, "stop {id}  ({why})")?,
                Action::Remove { id } => writeln!(f, "remove {id}")?,
                Action::StopSandbox { id } => writeln!(f, "stop sandbox {id}")?,
                Action::End(e) => writeln!(f, "end  ({})", e.reason)?,
                Action::TearDown => writeln!(f, "tear down")?,
            }
        }
        for (name, (reason, message)) in &self.waiting {
            writeln!(f, "{name} waits: {reason}: {message}")?;
        }
        if let Some(at) = self.wake {
            writeln!(f, "wake at {at}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use runtime::{ContainerMetadata, LinuxResources, NamespaceOptions, SandboxMetadata};
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + seconds).unwrap()
    }

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {
                "restartPolicy": policy, "terminationGracePeriodSeconds": 30,
                "initContainers": [{"name": "init", "image": "i"}],
                "containers": [{"name": "one", "image": "i"}, {"name": "two", "image": "i"}],
            },
        }))
        .unwrap()
    }

    fn sandbox() -> SandboxStatus {
        SandboxStatus {
            id: "s".into(),
            metadata: SandboxMetadata::default(),
            state: SandboxState::Ready,
            created_at: at(0),
            netns: None,
            ips: vec![],
            namespaces: NamespaceOptions::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            shim_pid: None,
        }
    }

    fn container(name: &str, attempt: u32, state: ContainerState, code: i32) -> ContainerStatus {
        ContainerStatus {
            id: format!("{name}-{attempt}").as_str().into(),
            sandbox_id: "s".into(),
            metadata: ContainerMetadata {
                name: name.into(),
                attempt,
            },
            state,
            pid: None,
            created_at: at(1),
            started_at: Some(at(1)),
            finished_at: (state == ContainerState::Exited).then(|| at(5)),
            exit_code: code,
            reason: String::new(),
            message: String::new(),
            image: "i".into(),
            image_id: String::new(),
            log_path: "".into(),
            mounts: vec![],
            resources: LinuxResources::default(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    fn running(name: &str) -> ContainerStatus {
        container(name, 0, ContainerState::Running, 0)
    }

    fn exited(name: &str, code: i32) -> ContainerStatus {
        container(name, 0, ContainerState::Exited, code)
    }

    /// With volumes and a sandbox, these containers.
    fn with(containers: &[ContainerStatus]) -> Observed {
        Observed {
            volumes: Step::Done,
            making_sandbox: Step::Done,
            sandbox: Some(sandbox()),
            containers: containers.to_vec(),
            started_at: Some(at(0)),
            ..Observed::default()
        }
    }

    #[track_caller]
    fn check(pod: &Pod, seen: &Observed, wanted: Expect) {
        wanted.assert_eq(&plan(pod, seen, at(10)).to_string());
    }

    #[test]
    fn volumes_and_sandbox_come_first_and_at_once() {
        check(
            &pod("Always"),
            &Observed::default(),
            expect![[r#"
            Starting
            mount volumes
            make sandbox 0
        "#]],
        );
    }

    #[test]
    fn what_the_node_cannot_run_ends_before_it_begins() {
        let mut pod = pod("Always");
        pod.spec.host_users = Some(false);
        check(
            &pod,
            &Observed::default(),
            expect![[r#"
            Starting
            end  (UserNamespacesNotSupported)
        "#]],
        );
        check(
            &pod,
            &with(&[running("init")]),
            expect![[r#"
            Starting
        "#]],
        );
    }

    #[test]
    fn containers_wait_for_the_init_containers() {
        check(
            &pod("Always"),
            &with(&[]),
            expect![[r#"
            Starting
            start init 0
        "#]],
        );
        check(
            &pod("Always"),
            &with(&[running("init")]),
            expect![[r#"
            Starting
        "#]],
        );
        check(
            &pod("Always"),
            &with(&[exited("init", 0)]),
            expect![[r#"
            Starting
            start one 0
            start two 0
        "#]],
        );
        check(
            &pod("Never"),
            &with(&[exited("init", 1)]),
            expect![[r#"
            Finished
            stop sandbox s
        "#]],
        );
    }

    #[test]
    fn what_ended_is_restarted_as_the_policy_says() {
        let seen = with(&[exited("init", 0), running("one"), exited("two", 1)]);
        check(
            &pod("Always"),
            &seen,
            expect![[r#"
            Running
            start two 1
        "#]],
        );
        check(
            &pod("Never"),
            &seen,
            expect![[r#"
            Running
        "#]],
        );
        let seen = with(&[exited("init", 0), exited("one", 0), exited("two", 0)]);
        check(
            &pod("OnFailure"),
            &seen,
            expect![[r#"
            Finished
            stop sandbox s
        "#]],
        );
    }

    #[test]
    fn a_crash_loop_backs_off() {
        let mut seen = with(&[exited("init", 0), running("one"), exited("two", 1)]);
        let crash = CrashBackoff::next(None, at(0), at(1));
        let crash = CrashBackoff::next(Some(crash), at(2), at(3));
        seen.remembered.insert(
            "two".into(),
            Remembered {
                crash: Some(crash),
                ..Remembered::default()
            },
        );
        check(
            &pod("Always"),
            &seen,
            expect![[r#"
            Running
            two waits: CrashLoopBackOff: back-off 20s restarting failed container=two pod=p_n(u)
            wake at 2026-01-01T00:00:25Z
        "#]],
        );
    }

    #[test]
    fn a_deleted_pod_stops_then_goes() {
        let mut pod = pod("Always");
        pod.metadata.deletion_timestamp = Some(at(40));
        check(
            &pod,
            &with(&[exited("init", 0), running("one"), running("two")]),
            expect![[r#"
                Terminating
                stop one-0  (Stopping container one)
                stop two-0  (Stopping container two)
            "#]],
        );
        check(
            &pod,
            &with(&[exited("init", 0), exited("one", 0), exited("two", 137)]),
            expect![[r#"
                Removing
                tear down
            "#]],
        );
    }

    #[test]
    fn a_failed_liveness_probe_and_a_changed_image_restart_a_container() {
        let mut seen = with(&[exited("init", 0), running("one"), running("two")]);
        let unhealthy = Some(("failed liveness probe".to_owned(), None));
        let verdict = Verdicts {
            id: Some("one-0".into()),
            started: true,
            ready: false,
            unhealthy,
        };
        seen.verdicts.insert("one".into(), verdict);
        seen.containers[2].image = "older".into();
        check(
            &pod("Always"),
            &seen,
            expect![[r#"
            Running
            stop one-0  (Container one failed liveness probe, will be restarted)
            stop two-0  (Container two definition changed, will be restarted)
        "#]],
        );
    }

    #[test]
    fn the_back_off_doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let mut crash = CrashBackoff::next(None, at(0), at(0));
        let mut delays = vec![crash.delay.as_secs()];
        for i in 1..7 {
            crash = CrashBackoff::next(Some(crash), at(i), at(i));
            delays.push(crash.delay.as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(
            CrashBackoff::next(Some(crash), at(700), at(700))
                .delay
                .as_secs(),
            10
        );
    }
}
