//! One task per Pod: observes, asks [`crate::plan`], acts, reports, and waits for the next event.
//!
//! Slow things (images, volumes, hooks, graceful stops) run as tasks of the worker, so that it always hears what happens.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::resource::kinds;
use client::{DeleteOptions, PatchKind};
use jiff::{SignedDuration, Timestamp};
use runtime::{ContainerId, ContainerState, ContainerStatus, SandboxId};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use world::Shutdown;

use crate::container::{self, Start, StartError};
use crate::node::Node;
use crate::plan::{
    self, Action, Busy, CrashBackoff, Failure, Observed, Plan, Remembered, Step, Verdicts,
};
use crate::probe;
use crate::spec::{Pod, Role};
use crate::status::{self, Facts};
use crate::volumes::{self, Mounts};

/// The Pod as last seen in the API.
#[derive(Clone)]
pub struct Latest {
    pub pod: Arc<Pod>,
    /// It is not there any more.
    pub gone: bool,
}

/// What the worker shares with its tasks, the probes and the server.
#[derive(Default)]
pub struct Shared {
    /// Something happened: look again.
    pub nudge: Notify,
    /// A verdict changed: probes that wait for the startup probe look again.
    pub startup: Notify,
    /// The content of volumes may have changed.
    pub volumes_dirty: AtomicBool,
    pub verdicts: Mutex<BTreeMap<String, Verdicts>>,
    pub containers: Mutex<Vec<ContainerId>>,
    pub sandboxes: Mutex<Vec<SandboxId>>,
}

/// How others reach a worker.
pub struct Handle {
    pub latest: watch::Sender<Latest>,
    pub shared: Arc<Shared>,
}

enum Done {
    Sandbox(Result<SandboxId, runtime::Error>),
    Volumes(Result<Mounts, volumes::Failed>),
    Started {
        name: String,
        result: Result<(), StartError>,
    },
    Stopped {
        name: String,
        result: Result<(), runtime::Error>,
    },
    Removed(Result<(), String>),
    Nothing,
}

/// What a task does: the step that would be waited for in vain if it panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Sandbox,
    Volumes,
    Starting(String),
    Stopping(String),
    Removal,
    Other,
}

struct Worker {
    node: Arc<Node>,
    shared: Arc<Shared>,
    latest: watch::Receiver<Latest>,
    pod: Arc<Pod>,
    /// Bookkeeping that the plan reads; refreshed by `observe`.
    seen: Observed,
    /// Runs that the runtime forgot, as the API knows them.
    lost: Vec<ContainerStatus>,
    mounts: Arc<Mounts>,
    refresh_at: Option<Timestamp>,
    refreshing: bool,
    messages: BTreeMap<String, String>,
    /// Tasks of probes by container name.
    probes: BTreeMap<String, (ContainerId, Shutdown)>,
    tasks: JoinSet<Done>,
    /// What each task is to bring about, for when it ends without having told.
    doing: BTreeMap<tokio::task::Id, Doing>,
    /// Cancels starts that make no sense any more.
    starts: Shutdown,
    /// By when the containers must be gone, once the Pod ends.
    kill_by: watch::Sender<Option<Instant>>,
    reporter: Reporter,
    /// Our own part of the status as last computed, which may be newer than what the API told.
    own_status: Value,
    backed_off: BTreeMap<String, String>,
    ips: Vec<IpAddr>,
}

impl Doing {
    /// What it comes to when the task is no more.
    fn failed(self, why: String) -> Option<Done> {
        Some(match self {
            Self::Sandbox => Done::Sandbox(Err(runtime::Error::FailedPrecondition(why))),
            Self::Volumes => Done::Volumes(Err(volumes::Failed {
                volume: String::new(),
                why,
            })),
            Self::Stopping(name) => Done::Stopped {
                name,
                result: Err(runtime::Error::FailedPrecondition(why)),
            },
            Self::Starting(name) => Done::Started {
                name,
                result: Err(StartError {
                    reason: "CreateContainerError",
                    message: why,
                }),
            },
            Self::Removal => Done::Removed(Err(why)),
            Self::Other => return None,
        })
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That much from now. The API takes grace periods of billions of years; a year is for ever here.
fn deadline(after: Duration) -> Instant {
    Instant::now() + after.min(Duration::from_secs(365 * 86_400))
}

/// Starts the worker of a Pod. `sandboxes` and `containers` are those it already has, oldest first.
pub fn start(
    node: &Arc<Node>,
    pod: Arc<Pod>,
    sandboxes: Vec<SandboxId>,
    containers: Vec<ContainerId>,
) -> Handle {
    // Adopted Pods have their groups, but their share of the class is not known to us yet.
    if !sandboxes.is_empty()
        && let Err(error) = node.groups.add(&pod)
    {
        tracing::warn!(%error, pod = pod.title(), "cannot set the limits of an adopted Pod");
    }
    let lost = if sandboxes.is_empty() && containers.is_empty() {
        status::from_api(&pod, node.options.world.now())
    } else {
        Vec::new()
    };
    let shared = Arc::new(Shared {
        containers: Mutex::new(containers),
        sandboxes: Mutex::new(sandboxes),
        ..Shared::default()
    });
    let (latest, receiver) = watch::channel(Latest {
        pod: pod.clone(),
        gone: false,
    });
    let started_at = pod.status["startTime"]
        .as_str()
        .and_then(api::time::parse)
        .unwrap_or_else(|| node.options.world.now());
    let own_status = json!({"phase": pod.status["phase"], "conditions": pod.status["conditions"], "podIPs": pod.status["podIPs"]});
    let worker = Worker {
        node: node.clone(),
        shared: shared.clone(),
        latest: receiver,
        reporter: Reporter::start(node.clone(), &pod),
        seen: Observed {
            started_at: Some(started_at),
            selinux: node.machine.selinux,
            ..Observed::default()
        },
        pod,
        lost,
        mounts: Arc::default(),
        refresh_at: None,
        refreshing: false,
        messages: BTreeMap::new(),
        probes: BTreeMap::new(),
        tasks: JoinSet::new(),
        doing: BTreeMap::new(),
        starts: Shutdown::new(),
        kill_by: watch::Sender::new(None),
        own_status,
        backed_off: BTreeMap::new(),
        ips: Vec::new(),
    };
    let shutdown = node.options.shutdown.clone();
    tokio::spawn(shutdown.run_until_cancelled_owned(worker.run()));
    Handle { latest, shared }
}

impl Worker {
    async fn run(mut self) {
        loop {
            self.take_latest();
            self.observe().await;
            let now = self.node.options.world.now();
            let plan = plan::plan(&self.pod, &self.seen, now);
            self.note_end();
            tracing::trace!(pod = %self.pod.title(), %plan, "planned");
            self.report(&plan, now);
            for action in plan.actions.clone() {
                self.act(action, now);
            }
            self.refresh_volumes(now);
            if self.seen.removing == Step::Done {
                break;
            }
            let wake = [plan.wake, self.refresh_at].into_iter().flatten().min();
            self.wait(wake, now).await;
        }
        for (_, stop) in self.probes.values() {
            stop.cancel();
        }
        let uid = &self.pod.metadata.uid;
        self.node.references.release(uid);
        let mut workers = lock(&self.node.workers);
        workers.remove(uid);
    }

    /// Takes the Pod as the API has it now.
    fn take_latest(&mut self) {
        let latest = self.latest.borrow_and_update().clone();
        self.seen.gone = latest.gone;
        let changed = !Arc::ptr_eq(&latest.pod, &self.pod);
        let (new, old) = (&latest.pod.metadata, &self.pod.metadata);
        if changed && (new.labels != old.labels || new.annotations != old.annotations) {
            self.shared.volumes_dirty.store(true, Ordering::Release);
        }
        if changed {
            let mut pod = (*latest.pod).clone();
            // What others write stays; what is ours is as we computed it last.
            let theirs: Vec<Value> = pod.status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|c| !is_ours(c))
                .cloned()
                .collect();
            let ours = self.own_status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|c| is_ours(c))
                .cloned();
            pod.status["conditions"] = ours.chain(theirs).collect();
            if !self.own_status["phase"].is_null() {
                pod.status["phase"] = self.own_status["phase"].clone();
            }
            self.pod = Arc::new(pod);
        }
    }

    /// When the Pod is to end: no more starts, and the clock for its containers runs.
    fn note_end(&mut self) {
        let deleted = self.seen.gone || self.pod.metadata.deletion_timestamp.is_some();
        if !deleted && self.seen.ended.is_none() {
            return;
        }
        self.starts.cancel();
        let grace = Duration::from_secs(u64::try_from(self.pod.grace()).unwrap_or(30).max(1));
        // The API counts from the moment of deletion; a clock that differs must not make it longer.
        let left = match self.pod.metadata.deletion_timestamp {
            Some(at) => Duration::try_from(at.duration_since(self.node.options.world.now()))
                .unwrap_or(Duration::ZERO)
                .min(grace),
            None => grace,
        };
        let by = deadline(if self.seen.gone && self.pod.grace() == 0 {
            Duration::ZERO
        } else {
            left.max(Duration::from_millis(100))
        });
        self.kill_by.send_if_modified(|known| {
            // It is computed from two clocks at each look: what is no real change must not send TERM again.
            let slack = Duration::from_millis(500);
            let earlier = known.is_none_or(|k| k.saturating_duration_since(by) > slack);
            if earlier {
                *known = Some(by);
            }
            earlier
        });
    }

    /// Asks the runtime, and has probes run for what runs.
    async fn observe(&mut self) {
        let runtime = self.node.options.runtime.clone();
        let ids = lock(&self.shared.containers).clone();
        let mut containers: Vec<ContainerStatus> = Vec::with_capacity(ids.len());
        for id in ids {
            match runtime.container_status(&id).await {
                Ok(status) => containers.push(status),
                Err(e) if e.is_not_found() => {
                    lock(&self.shared.containers).retain(|known| *known != id)
                }
                Err(error) => {
                    tracing::warn!(%error, container = %id, "cannot ask for a container's status")
                }
            }
        }
        let sandbox = lock(&self.shared.sandboxes).last().cloned();
        self.seen.sandbox = None;
        if let Some(id) = sandbox {
            match runtime.pod_sandbox_status(&id).await {
                Ok(status) => {
                    if !status.ips.is_empty() {
                        self.ips.clone_from(&status.ips);
                    }
                    self.seen.sandbox = Some(status);
                }
                Err(e) if e.is_not_found() => {
                    lock(&self.shared.sandboxes).retain(|known| *known != id)
                }
                Err(error) => {
                    tracing::warn!(%error, sandbox = %id, "cannot ask for a sandbox's status")
                }
            }
        }
        if self.pod.spec.host_network {
            self.ips = vec![self.node.options.node_ip.into()];
        }
        for status in containers
            .iter()
            .filter(|s| s.state == ContainerState::Exited)
        {
            if !self.messages.contains_key(status.id.as_str()) {
                let message = termination_message(&self.pod, status);
                self.messages.insert(status.id.to_string(), message);
            }
        }
        self.messages
            .retain(|id, _| containers.iter().any(|c| c.id.as_str() == id));
        // Where a container ran again only once, the run before is still its last state.
        let again = |lost: &ContainerStatus| {
            containers
                .iter()
                .filter(|c| c.metadata.name == lost.metadata.name)
                .count()
        };
        let mut all: Vec<_> = self.lost.iter().filter(|l| again(l) < 2).cloned().collect();
        all.extend(containers);
        self.seen.containers = all;
        self.probe();
        self.seen.verdicts = lock(&self.shared.verdicts).clone();
    }

    fn probe(&mut self) {
        let running: BTreeMap<String, ContainerId> = self
            .seen
            .containers
            .iter()
            .filter(|s| s.state == ContainerState::Running)
            .map(|s| (s.metadata.name.clone(), s.id.clone()))
            .collect();
        self.probes.retain(|name, (id, stop)| {
            let goes_on = running.get(name) == Some(id);
            if !goes_on {
                stop.cancel();
            }
            goes_on
        });
        for (name, id) in running {
            if self.probes.contains_key(&name) {
                continue;
            }
            let Some((_, container)) = self.pod.container(&name) else {
                continue;
            };
            let mut first = probe::Watch::first_verdicts(container, &id);
            // After a restart of ours, what was ready stays so until a probe says otherwise.
            let key = format!("skiff://{id}");
            let before = self.pod.status["containerStatuses"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|s| s["containerID"] == key.as_str());
            if let Some(before) = before {
                first.started |= before["started"] == true;
                first.ready |= before["ready"] == true;
            }
            lock(&self.shared.verdicts).insert(name.clone(), first);
            let stop = self.node.options.shutdown.child_token();
            probe::Watch {
                node: self.node.clone(),
                pod: self.pod.clone(),
                shared: self.shared.clone(),
                name: name.clone(),
                id: id.clone(),
                ip: self.ips.first().copied(),
                stop: stop.clone(),
            }
            .start();
            if let Some(status) = self.seen.containers.iter().find(|s| s.id == id) {
                let rotating = crate::logs::keep_rotated(
                    self.node.clone(),
                    id.clone(),
                    status.log_path.clone(),
                );
                tokio::spawn(stop.clone().run_until_cancelled_owned(rotating));
            }
            self.probes.insert(name, (id, stop));
        }
    }

    fn remembered(&mut self, name: &str) -> &mut Remembered {
        self.seen.remembered.entry(name.to_owned()).or_default()
    }

    fn act(&mut self, action: Action, now: Timestamp) {
        let (node, pod, shared) = (self.node.clone(), self.pod.clone(), self.shared.clone());
        match action {
            Action::MountVolumes => {
                self.seen.volumes = Step::Busy;
                let before = self.mounts.clone();
                let cancel = self.starts.clone();
                self.spawn(Doing::Volumes, mount_volumes(node, pod, before, cancel));
            }
            Action::MakeSandbox { attempt } => {
                self.seen.making_sandbox = Step::Busy;
                if let Some(why) = container::unreachable_host_ports(&pod) {
                    let about = pod.reference(None);
                    node.events.warning(&about, "HostPortNotSupported", why);
                }
                let old = self.seen.sandbox.as_ref().map(|s| s.id.clone());
                self.spawn(Doing::Sandbox, async move {
                    if let Some(old) = old
                        && let Err(e) = node.options.runtime.stop_pod_sandbox(&old).await
                    {
                        return Done::Sandbox(Err(e));
                    }
                    if let Err(e) = node.groups.add(&pod) {
                        return Done::Sandbox(Err(e));
                    }
                    Done::Sandbox(
                        node.options
                            .runtime
                            .run_pod_sandbox(container::sandbox(&node, &pod, attempt))
                            .await,
                    )
                });
            }
            Action::Start {
                name,
                attempt,
                crashed,
            } => {
                let Some(sandbox) = self.seen.sandbox.as_ref().map(|s| s.id.clone()) else {
                    return;
                };
                let remembered = self.remembered(&name);
                remembered.busy = Some(Busy::Starting);
                if let Some(finished) = crashed {
                    remembered.crash = Some(CrashBackoff::next(remembered.crash, finished, now));
                }
                let start = Start {
                    node,
                    pod,
                    shared,
                    name: name.clone(),
                    attempt,
                    sandbox,
                    ips: self.ips.clone(),
                    volumes: self.mounts.clone(),
                };
                let cancel = self.starts.clone();
                self.spawn(Doing::Starting(name.clone()), async move {
                    let result = cancel.run_until_cancelled_owned(start.run()).await;
                    let stopped = || {
                        Err(StartError {
                            reason: "ContainerCreating",
                            message: "the Pod ended".into(),
                        })
                    };
                    Done::Started {
                        name,
                        result: result.unwrap_or_else(stopped),
                    }
                });
            }
            Action::Stop {
                id,
                name,
                why,
                grace,
            } => {
                self.remembered(&name).busy = Some(Busy::Stopping);
                let role = pod.container(&name).map(|(role, _)| role);
                node.events.normal(
                    &pod.reference(role.map(|r| (r, name.as_str()))),
                    "Killing",
                    why,
                );
                let seconds = u64::try_from(grace.unwrap_or_else(|| pod.grace()))
                    .unwrap_or(30)
                    .max(1);
                let by = (*self.kill_by.borrow())
                    .unwrap_or_else(|| deadline(Duration::from_secs(seconds)));
                let kill_by = self.kill_by.subscribe();
                let ip = self.ips.first().copied();
                self.spawn(Doing::Stopping(name.clone()), async move {
                    let result = stop(&node, &pod, &name, &id, by, kill_by, ip).await;
                    Done::Stopped { name, result }
                });
            }
            Action::Remove { id } => {
                self.spawn(Doing::Other, async move {
                    // One that is gone was removed by the plan before this one.
                    if let Err(error) = node.options.runtime.remove_container(&id).await
                        && !error.is_not_found()
                    {
                        tracing::warn!(%error, container = %id, "cannot remove a dead container");
                    }
                    Done::Nothing
                });
            }
            Action::StopSandbox { id } => {
                self.spawn(Doing::Other, async move {
                    if let Err(error) = node.options.runtime.stop_pod_sandbox(&id).await {
                        tracing::warn!(%error, sandbox = %id, "cannot stop the sandbox of a finished Pod");
                    }
                    if let Err(error) = node.groups.release(&pod) {
                        tracing::warn!(%error, "cannot share out what a finished Pod requested");
                    }
                    Done::Nothing
                });
            }
            Action::End(ended) => {
                self.node.events.warning(
                    &self.pod.reference(None),
                    &ended.reason,
                    ended.message.clone(),
                );
                self.seen.ended = Some(ended);
                self.note_end();
                self.shared.nudge.notify_one();
            }
            Action::TearDown => {
                if self.refreshing {
                    // It was told to stop; directories must not come back behind the one that removes them.
                    return;
                }
                self.seen.removing = Step::Busy;
                let gone = self.seen.gone;
                let reporter = self.reporter.clone();
                self.spawn(Doing::Removal, async move {
                    Done::Removed(tear_down(&node, &pod, &shared, &reporter, gone).await)
                });
            }
        }
    }

    /// Writes volumes anew when their sources changed or a token is to be renewed.
    fn refresh_volumes(&mut self, now: Timestamp) {
        let due = self.refresh_at.is_some_and(|at| at <= now);
        if self.seen.volumes != Step::Done || self.refreshing || self.starts.is_cancelled() {
            // A change that comes while volumes are first made must not be lost, nor one after a failure.
            if matches!(self.seen.volumes, Step::Failed(_))
                && self.shared.volumes_dirty.swap(false, Ordering::AcqRel)
            {
                self.seen.volumes = Step::Absent;
                self.shared.nudge.notify_one();
            }
            return;
        }
        if self.shared.volumes_dirty.swap(false, Ordering::AcqRel) || due {
            self.refreshing = true;
            let (node, pod, before) = (self.node.clone(), self.pod.clone(), self.mounts.clone());
            let cancel = self.starts.clone();
            self.spawn(Doing::Volumes, mount_volumes(node, pod, before, cancel));
        }
    }

    async fn wait(&mut self, wake: Option<Timestamp>, now: Timestamp) {
        let delay =
            wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        let timer = async {
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            Some(done) = self.tasks.join_next_with_id() => self.joined(done),
            changed = self.latest.changed() => if changed.is_err() {
                // The node forgot us: it is shutting down.
                std::future::pending::<()>().await;
            },
            () = shared.nudge.notified() => {}
            () = timer => {}
        }
        while let Some(done) = self.tasks.try_join_next_with_id() {
            self.joined(done);
        }
    }

    fn spawn(&mut self, doing: Doing, task: impl Future<Output = Done> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.doing.insert(id, doing);
    }

    /// Takes what a task brought; one that panicked has failed, and is tried again as after any failure.
    fn joined(&mut self, done: Result<(tokio::task::Id, Done), JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, Ok(done)),
            Err(error) => (error.id(), Err(error)),
        };
        let doing = self.doing.remove(&id);
        match done {
            Ok(done) => self.take(done),
            Err(error) => {
                let why = format!("a task of the kubelet failed: {error}");
                tracing::error!(pod = %self.pod.title(), ?doing, "{why}");
                if let Some(failed) = doing.and_then(|d| d.failed(why)) {
                    self.take(failed);
                }
            }
        }
    }

    fn take(&mut self, done: Done) {
        let now = self.node.options.world.now();
        let later = |seconds: u64| {
            now.checked_add(SignedDuration::from_secs(
                i64::try_from(seconds).unwrap_or(300),
            ))
            .unwrap_or(now)
        };
        let events = self.node.events.clone();
        match done {
            Done::Sandbox(Ok(id)) => {
                lock(&self.shared.sandboxes).push(id);
                self.seen.making_sandbox = Step::Done;
            }
            Done::Sandbox(Err(e)) => {
                events.warning(
                    &self.pod.reference(None),
                    "FailedCreatePodSandBox",
                    format!("Failed to create pod sandbox: {e}"),
                );
                self.seen.making_sandbox = Step::Failed(later(2));
            }
            Done::Volumes(Ok(mounts)) => {
                self.refreshing = false;
                self.refresh_at = mounts.refresh_at();
                self.mounts = Arc::new(mounts);
                self.seen.volumes = Step::Done;
            }
            Done::Volumes(Err(failed)) => {
                if !failed.volume.is_empty() {
                    events.warning(&self.pod.reference(None), "FailedMount", failed.to_string());
                }
                if std::mem::take(&mut self.refreshing) {
                    self.refresh_at = Some(later(10));
                } else {
                    self.seen.volumes = Step::Failed(later(2));
                }
            }
            Done::Started { name, result } => {
                let role = self
                    .pod
                    .container(&name)
                    .map_or(Role::Main, |(role, _)| role);
                let about = self.pod.reference(Some((role, &name)));
                let image = self
                    .pod
                    .container(&name)
                    .map(|(_, c)| c.image.clone())
                    .unwrap_or_default();
                let remembered = self.remembered(&name);
                remembered.busy = None;
                match result {
                    Ok(()) => {
                        remembered.failure = None;
                        remembered.failures = 0;
                    }
                    // The runtime has it as a container that ended; the crash back-off counts.
                    Err(e) if matches!(e.reason, "RunContainerError" | "PostStartHookError") => {
                        remembered.failure = None
                    }
                    Err(e) => {
                        let first: u64 = if e.reason == "ErrImagePull" { 10 } else { 1 };
                        let delay = first
                            .checked_shl(remembered.failures)
                            .unwrap_or(300)
                            .min(if first == 10 { 300 } else { 60 });
                        remembered.failures = (remembered.failures + 1).min(20);
                        if e.reason == "ErrImagePull" {
                            events.normal(
                                &about,
                                "BackOff",
                                format!("Back-off pulling image \"{image}\""),
                            );
                        }
                        remembered.failure = Some(Failure {
                            reason: e.reason.into(),
                            message: e.message,
                            at: now,
                            retry_at: later(delay),
                        });
                    }
                }
            }
            Done::Stopped { name, result } => {
                self.remembered(&name).busy = None;
                if let Err(error) = result {
                    tracing::warn!(%error, pod = %self.pod.title(), container = name, "cannot stop a container");
                    let about = self.pod.reference(None);
                    events.warning(
                        &about,
                        "FailedKillPod",
                        format!("error killing pod: {error}"),
                    );
                }
            }
            Done::Removed(Ok(())) => self.seen.removing = Step::Done,
            Done::Removed(Err(error)) => {
                tracing::warn!(error, pod = %self.pod.title(), "cannot take away a Pod; trying again");
                self.seen.removing = Step::Failed(later(1));
            }
            Done::Nothing => {}
        }
    }

    fn report(&mut self, plan: &Plan, now: Timestamp) {
        for (name, (reason, _)) in &plan.waiting {
            let id = self
                .seen
                .latest(name, false)
                .map(|s| s.id.to_string())
                .unwrap_or_default();
            if reason == "CrashLoopBackOff" && self.backed_off.get(name) != Some(&id) {
                let role = self
                    .pod
                    .container(name)
                    .map_or(Role::Main, |(role, _)| role);
                let about = self.pod.reference(Some((role, name)));
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    self.pod.title()
                );
                self.node.events.warning(&about, "BackOff", message);
                self.backed_off.insert(name.clone(), id);
            }
        }
        if self.seen.gone {
            return;
        }
        let facts = Facts {
            host_ip: self.node.options.node_ip.into(),
            pod_ips: &self.ips,
            messages: &self.messages,
            now,
        };
        let status = status::compute(&self.pod, &self.seen, plan, &facts);
        self.own_status = status.clone();
        let mut pod = (*self.pod).clone();
        let theirs = pod.status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|c| !is_ours(c))
            .cloned()
            .collect::<Vec<_>>();
        pod.status["conditions"] = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned()
            .chain(theirs)
            .collect();
        pod.status["phase"] = status["phase"].clone();
        self.pod = Arc::new(pod);
        self.reporter.write(status);
    }
}

fn is_ours(condition: &Value) -> bool {
    let ours = [
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ];
    condition["type"]
        .as_str()
        .is_some_and(|t| ours.contains(&t))
}

/// Makes or refreshes a Pod's volumes, unless the Pod ends before that is done.
async fn mount_volumes(
    node: Arc<Node>,
    pod: Arc<Pod>,
    before: Arc<Mounts>,
    cancel: Shutdown,
) -> Done {
    let mounting = volumes::mount(&node, &pod, &before);
    Done::Volumes(match cancel.run_until_cancelled(mounting).await {
        Some(result) => result,
        None => Err(volumes::Failed {
            volume: String::new(),
            why: "the Pod ended".into(),
        }),
    })
}

/// The preStop hook, TERM, and KILL at `by` (or earlier, when the deadline is moved).
async fn stop(
    node: &Node,
    pod: &Pod,
    name: &str,
    id: &ContainerId,
    mut by: Instant,
    mut kill_by: watch::Receiver<Option<Instant>>,
    ip: Option<IpAddr>,
) -> Result<(), runtime::Error> {
    kill_by.borrow_and_update();
    let hook = async {
        if let Some((role, container)) = pod.container(name)
            && let Some(handler) = &container.lifecycle.pre_stop
        {
            let target = probe::Target { container, id, ip };
            if let Err(why) = probe::hook(node, &target, handler).await {
                let about = pod.reference(Some((role, name)));
                node.events.warning(
                    &about,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {why}"),
                );
            }
        }
    };
    tokio::select! {
        biased;
        () = hook => {}
        () = tokio::time::sleep_until(by) => {}
        Ok(_) = kill_by.wait_for(|at| at.is_some_and(|at| at < by)) => {}
    }
    loop {
        if let Some(at) = *kill_by.borrow_and_update() {
            by = by.min(at);
        }
        let grace = by.saturating_duration_since(Instant::now());
        tokio::select! {
            biased;
            result = node.options.runtime.stop_container(id, grace) => return result,
            Ok(_) = kill_by.wait_for(|at| at.is_some_and(|at| at < by)) => {}
        }
    }
}

/// Takes away all that a Pod had, then lets its object go.
async fn tear_down(
    node: &Node,
    pod: &Pod,
    shared: &Shared,
    reporter: &Reporter,
    gone: bool,
) -> Result<(), String> {
    let runtime = &node.options.runtime;
    if !gone {
        reporter.flush().await;
    }
    let sandboxes = lock(&shared.sandboxes).clone();
    for id in &sandboxes {
        runtime
            .remove_pod_sandbox(id)
            .await
            .map_err(|e| e.to_string())?;
    }
    let containers = lock(&shared.containers).clone();
    for id in containers {
        runtime
            .remove_container(&id)
            .await
            .map_err(|e| e.to_string())?;
    }
    node.groups.remove(pod).await.map_err(|e| e.to_string())?;
    volumes::remove(&node.options.root_dir, &pod.metadata.uid)?;
    container::unlink_logs(node, pod);
    let logs = container::log_directory(node, pod);
    match fs::remove_dir_all(&logs) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {e}", logs.display()));
        }
        _ => {}
    }
    if gone {
        return Ok(());
    }
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        ..DeleteOptions::default()
    }
    .with_uid(&pod.metadata.uid);
    match node
        .options
        .client
        .delete(
            &kinds::PODS,
            &pod.metadata.namespace,
            &pod.metadata.name,
            &options,
        )
        .await
    {
        Ok(()) => Ok(()),
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// What a container left as its last words.
fn termination_message(pod: &Pod, status: &ContainerStatus) -> String {
    let file = status.annotations.get(container::MESSAGE_FILE);
    let own = file.and_then(|f| begin_of(Path::new(f)).ok());
    let own = String::from_utf8_lossy(&own.unwrap_or_default()).into_owned();
    let policy = pod
        .container(&status.metadata.name)
        .map_or("", |(_, c)| c.termination_message_policy.as_str());
    if own.is_empty() && policy == "FallbackToLogsOnError" && status.exit_code != 0 {
        return last_lines(&status.log_path);
    }
    own
}

/// As much of a termination message as is shown. The container wrote it: it may be of any length.
fn begin_of(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(file)?.take(4096).read_to_end(&mut text)?;
    Ok(text)
}

/// What of a log's end can be in its last 80 lines, as far as they are shown: 2 KiB of text, what stands before each line, and
/// the rest of a long one.
const LOG_END: u64 = 64 << 10;

fn end_of(log: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = fs::File::open(log)?;
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LOG_END);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(LOG_END).read_to_end(&mut text)?;
    if start > 0 {
        let cut = text.iter().position(|b| *b == b'\n');
        text.drain(..cut.map_or(0, |i| i + 1));
    }
    Ok(text)
}

/// The last 80 lines, at most 2 KiB, of a log.
fn last_lines(log: &Path) -> String {
    let text = end_of(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<&str> = text
        .lines()
        .rev()
        .take(80)
        .filter_map(|l| l.splitn(4, ' ').nth(3))
        .collect();
    lines.reverse();
    let all = lines.join("\n") + "\n";
    let mut from = all.len().saturating_sub(2048);
    while !all.is_char_boundary(from) {
        from += 1;
    }
    all[from..].to_owned()
}

/// Writes a Pod's status: the latest wins, one request at a time, and the worker never waits for it.
#[derive(Clone)]
struct Reporter {
    wanted: watch::Sender<(u64, Value)>,
    written: watch::Receiver<u64>,
}

impl Reporter {
    fn start(node: Arc<Node>, pod: &Pod) -> Self {
        let (wanted, mut todo) = watch::channel((0, Value::Null));
        let (tell, written) = watch::channel(0);
        let (namespace, name, uid) = (
            pod.metadata.namespace.clone(),
            pod.metadata.name.clone(),
            pod.metadata.uid.clone(),
        );
        let shutdown = node.options.shutdown.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            let mut failures = 0_u32;
            while todo.changed().await.is_ok() {
                loop {
                    let (version, status) = todo.borrow_and_update().clone();
                    let patch = json!({"metadata": {"uid": uid}, "status": status});
                    let done = node.options.client.patch::<serde::de::IgnoredAny>(&kinds::PODS, &namespace, &name, "status", PatchKind::Strategic, &patch).await;
                    match done {
                        Err(error) if !error.is_not_found() && error.code() != 422 && !error.is_conflict() => {
                            failures += 1;
                            tracing::warn!(%error, namespace, name, "a Pod's status was not written");
                            let wait = Duration::from_millis(50 << failures.min(8));
                            // A newer status is worth a try at once.
                            let _ = tokio::time::timeout(wait, todo.changed()).await;
                            continue;
                        }
                        Err(error) if !error.is_not_found() => {
                            tracing::warn!(%error, namespace, name, "a Pod's status was refused");
                        }
                        _ => failures = 0,
                    }
                    tell.send_replace(version);
                    break;
                }
            }
        }));
        Self { wanted, written }
    }

    fn write(&self, status: Value) {
        self.wanted.send_if_modified(|(version, known)| {
            let new = *known != status;
            if new {
                *version += 1;
                *known = status;
            }
            new
        });
    }

    /// Waits until what was wanted last is written, for at most five seconds.
    async fn flush(&self) {
        let version = self.wanted.borrow().0;
        let mut written = self.written.clone();
        if tokio::time::timeout(Duration::from_secs(5), written.wait_for(|v| *v >= version))
            .await
            .is_err()
        {
            tracing::warn!("a Pod goes without its last status");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_may_be_far_away() {
        let now = Instant::now();
        assert!(deadline(Duration::MAX) > now + Duration::from_secs(1 << 20));
        assert!(deadline(Duration::from_secs(5)) < now + Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_task_that_panics_has_failed() {
        let mut tasks: JoinSet<Done> = JoinSet::new();
        let id = tasks.spawn(async { panic!("on purpose") }).id();
        let error = tasks.join_next_with_id().await.unwrap().err().unwrap();
        assert_eq!(error.id(), id);
        let failed = |doing: Doing| doing.failed(error.to_string());
        assert!(matches!(
            failed(Doing::Sandbox),
            Some(Done::Sandbox(Err(_)))
        ));
        assert!(matches!(
            failed(Doing::Volumes),
            Some(Done::Volumes(Err(_)))
        ));
        assert!(matches!(
            failed(Doing::Removal),
            Some(Done::Removed(Err(_)))
        ));
        assert!(failed(Doing::Other).is_none());
        match failed(Doing::Stopping("c".into())) {
            Some(Done::Stopped { name, result }) => assert!(name == "c" && result.is_err()),
            _ => panic!("nothing for the container"),
        }
        match failed(Doing::Starting("c".into())) {
            Some(Done::Started { name, result }) => assert!(name == "c" && result.is_err()),
            _ => panic!("nothing for the container"),
        }
    }

    #[test]
    fn last_words_are_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        // A hole: it would fill all memory.
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(begin_of(&file).unwrap().len(), 4096);
        assert_eq!(end_of(&file).unwrap().len() as u64, LOG_END);
        let line = |n: usize| format!("2026-01-01T00:00:00.000000000Z stdout F line {n}\n");
        fs::write(&file, (0..100_000).map(line).collect::<String>()).unwrap();
        let shown = last_lines(&file);
        assert!(shown.starts_with("line 99920\n") && shown.ends_with("line 99999\n"));
        assert_eq!(shown.lines().count(), 80);
        fs::write(&file, line(1)).unwrap();
        assert_eq!(last_lines(&file), "line 1\n");
    }
}
