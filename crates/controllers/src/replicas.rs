//! Keeps the number of Pods of a ReplicaSet or a ReplicationController at `spec.replicas`.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>. What happens is decided in [`plan`],
//! which touches nothing; [`Controller`] carries it out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::resource::kinds;
use client::{DeleteOptions, Error, Informer, ObjectMeta, ObjectReference};
use futures::StreamExt as _;
use jiff::Timestamp;
use reconcile::{Outcome, Queue};
use serde_json::{Value, json};

use crate::awaited::Awaited;
use crate::env::{Env, Key, enqueue_changes, settled};
use crate::owned::Owned;
use crate::views::{
    Condition, PodView, ReplicaSetView, Set, SetStatus, SetView, condition, selects,
};
use crate::write::{self, Written};

/// Writes under way at once.
const CONCURRENT: usize = 64;
/// The largest batch of creates; the first is 1, then they double while nothing fails.
const LARGEST_BATCH: usize = 512;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Become the controller of a Pod that nobody controls.
    Adopt(Box<ObjectMeta>),
    /// Let go of a Pod whose labels no longer fit.
    Release(Box<ObjectMeta>),
    /// Make this many Pods.
    Create(i64),
    /// Delete a Pod, for this reason.
    Delete(Box<ObjectMeta>, String),
}

/// What one reconcile decided, and why.
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    pub status: SetStatus,
    pub because: String,
    /// When a ready Pod becomes available without anything else changing.
    pub recheck: Option<Duration>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in &self.actions {
            match action {
                Action::Adopt(pod) => writeln!(f, "adopt pod {}", pod.name)?,
                Action::Release(pod) => writeln!(f, "release pod {}", pod.name)?,
                Action::Create(n) => writeln!(f, "create {n} pods  ({})", self.because)?,
                Action::Delete(pod, why) => {
                    writeln!(f, "delete pod {}  ({}, {why})", pod.name, self.because)?
                }
            }
        }
        let s = &self.status;
        write!(
            f,
            "status replicas={} ready={} available={}",
            s.replicas, s.ready_replicas, s.available_replicas
        )?;
        match self.recheck {
            Some(after) => writeln!(f, ", again in {}s", after.as_secs()),
            None => writeln!(f),
        }
    }
}

/// How little a Pod serves: the smallest is deleted first. As upstream: unassigned, pending, not ready, cheap to delete,
/// doubled up on a node, ready for the shortest, restarted most, youngest.
fn usefulness(pod: &PodView, on_node: i64) -> impl Ord {
    use std::cmp::Reverse;
    let phase = match pod.status.phase.as_str() {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod
        .metadata
        .annotations
        .get(DELETION_COST)
        .and_then(|c| c.parse().ok())
        .unwrap_or(0_i32);
    (
        !pod.spec.node_name.is_empty(),
        phase,
        pod.is_ready(),
        cost,
        Reverse(on_node),
        Reverse(pod.ready_since()),
        Reverse(pod.restarts()),
        Reverse(pod.metadata.creation_timestamp),
        pod.metadata.name.clone(),
    )
}

fn why_least(pod: &PodView) -> &'static str {
    if pod.spec.node_name.is_empty() {
        "unassigned"
    } else if matches!(pod.status.phase.as_str(), "" | "Pending") {
        "pending"
    } else if !pod.is_ready() {
        "not ready"
    } else {
        "ready"
    }
}

/// Decides what brings `pods` in line with `set`.
///
/// `pods` are those that the set controls, and those of its namespace that nobody controls. `neighbours` are the active
/// Pods that count as doubled up with ours (all of the same Deployment). Never deletes more Pods than are surplus.
pub(crate) fn plan(
    set: &Set,
    selector: &api::Selector,
    pods: &[Arc<PodView>],
    neighbours: &[Arc<PodView>],
    now: Timestamp,
) -> Plan {
    let deleting = set.metadata.deletion_timestamp.is_some();
    let mut actions = Vec::new();
    let mut ours: Vec<&PodView> = Vec::new();
    for pod in pods.iter().map(|p| &**p) {
        let fits = selects(selector, &pod.metadata.labels);
        match pod.metadata.controller() {
            Some(owner) if owner.uid != set.metadata.uid => {}
            Some(_) if fits => ours.push(pod),
            Some(_) if !deleting => actions.push(Action::Release(Box::new(pod.metadata.clone()))),
            None if fits && !deleting && pod.is_active() => {
                actions.push(Action::Adopt(Box::new(pod.metadata.clone())));
                ours.push(pod);
            }
            _ => {}
        }
    }
    ours.retain(|p| p.is_active());
    let (status, recheck) = status_of(set, &ours, now);
    let (have, wanted) = (i64::try_from(ours.len()).unwrap_or(i64::MAX), set.wanted());
    let because = match have - wanted {
        _ if deleting => "being deleted".to_owned(),
        0 => format!("{wanted} of {wanted}"),
        n if n < 0 => format!("missing: {have} of {wanted}"),
        _ => format!("surplus: {have} of {wanted}"),
    };
    if !deleting && have < wanted {
        actions.push(Action::Create(wanted - have));
    } else if !deleting && have > wanted {
        let mut per_node: BTreeMap<&str, i64> = BTreeMap::new();
        for pod in neighbours.iter().filter(|p| p.is_active()) {
            *per_node.entry(&pod.spec.node_name).or_default() += 1;
        }
        let doubled = |p: &PodView| {
            per_node
                .get(p.spec.node_name.as_str())
                .copied()
                .unwrap_or(0)
        };
        ours.sort_by_cached_key(|p| usefulness(p, doubled(p)));
        let surplus = usize::try_from(have - wanted).unwrap_or(0);
        for pod in ours.iter().take(surplus) {
            actions.push(Action::Delete(
                Box::new(pod.metadata.clone()),
                why_least(pod).to_owned(),
            ));
        }
    }
    Plan {
        actions,
        status,
        because,
        recheck,
    }
}

/// Counts the active Pods; tells when the next ready one becomes available.
fn status_of(set: &Set, pods: &[&PodView], now: Timestamp) -> (SetStatus, Option<Duration>) {
    let template = set.spec.template["metadata"]["labels"].as_object();
    let mut status = SetStatus {
        replicas: i64::try_from(pods.len()).unwrap_or(i64::MAX),
        observed_generation: set.metadata.generation,
        conditions: set.status.conditions.clone(),
        ..SetStatus::default()
    };
    let mut recheck: Option<Duration> = None;
    for pod in pods {
        let labelled = template
            .into_iter()
            .flatten()
            .all(|(k, v)| pod.metadata.labels.get(k).map(String::as_str) == v.as_str());
        status.fully_labeled_replicas += i64::from(labelled);
        let Some(since) = pod.ready_since() else {
            continue;
        };
        status.ready_replicas += 1;
        let left = set.spec.min_ready_seconds - now.duration_since(since).as_secs();
        if set.spec.min_ready_seconds == 0 || left <= 0 {
            status.available_replicas += 1;
        } else {
            let left = Duration::from_secs(left.unsigned_abs());
            recheck = Some(recheck.map_or(left, |r| r.min(left)));
        }
    }
    (status, recheck)
}

/// Notes (or forgets) that Pods could not be made or deleted.
fn note_failure(status: &mut SetStatus, failure: Option<(&str, String)>, now: Timestamp) {
    match failure {
        Some((reason, message)) => {
            if condition(&status.conditions, "ReplicaFailure").is_none() {
                status.conditions.push(Condition {
                    kind: "ReplicaFailure".into(),
                    status: "True".into(),
                    last_transition_time: Some(now),
                    reason: reason.into(),
                    message,
                    ..Condition::default()
                });
            }
        }
        None => status.conditions.retain(|c| c.kind != "ReplicaFailure"),
    }
}

/// A Pod as the template wants it.
fn pod_of(resource: &client::Resource, set: &Set) -> Value {
    let template = &set.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", set.metadata.name),
        "namespace": set.metadata.namespace,
        "ownerReferences": [owner_of(resource, &set.metadata)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

fn owner_of(resource: &client::Resource, meta: &ObjectMeta) -> Value {
    rules::owner_reference(
        &resource.api_version(),
        resource.kind,
        &meta.name,
        &meta.uid,
    )
}

struct Controller<V> {
    env: Env,
    sets: Informer<V>,
    by_deployment: Option<Arc<Owned<ReplicaSetView>>>,
    owned: Arc<Owned<PodView>>,
    awaited: Awaited,
}

pub(crate) fn start<V: SetView>(env: Env) {
    let (sets, pods) = (env.informers.all::<V>(), env.informers.all::<PodView>());
    let owned = Owned::follow(&pods);
    let is_replica_set = V::RESOURCE == kinds::REPLICA_SETS;
    let by_deployment =
        is_replica_set.then(|| Owned::follow(&env.informers.all::<ReplicaSetView>()));
    let queue = env.queue(V::QUEUE);
    enqueue_changes(&sets, &queue);
    follow_pods::<V>(&pods, &sets, &queue);
    let ready = {
        let (sets, pods) = (sets.clone(), pods.clone());
        async move {
            sets.synced().await;
            pods.synced().await;
        }
    };
    let controller = Arc::new(Controller {
        env: env.clone(),
        sets,
        by_deployment,
        owned,
        awaited: Awaited::default(),
    });
    env.run(queue, ready, move |key| {
        let controller = controller.clone();
        async move { settled(controller.reconcile(&key).await) }
    });
}

/// A changed Pod concerns its controller, before and after; one without concerns all sets that select it.
fn follow_pods<V: SetView>(pods: &Informer<PodView>, sets: &Informer<V>, queue: &Queue<Key>) {
    let (sets, queue) = (sets.clone(), queue.clone());
    pods.on_change(move |change| {
        let mut last: Option<String> = None;
        for pod in [&change.old, &change.new].into_iter().flatten() {
            let meta = &pod.metadata;
            match meta.controller() {
                Some(owner) if owner.kind == V::RESOURCE.kind => {
                    let key = client::meta::key(&meta.namespace, &owner.name);
                    if last.as_deref() != Some(&key) {
                        queue.add(Arc::from(key.as_str()));
                        last = Some(key);
                    }
                }
                Some(_) => {}
                None => {
                    for set in sets.in_namespace(&meta.namespace) {
                        if set.selector().is_ok_and(|s| selects(&s, &meta.labels)) {
                            queue.add(Arc::from(set.meta().key()));
                        }
                    }
                }
            }
        }
    });
}

impl<V: SetView> Controller<V> {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        if let Some(left) = self.awaited.wait(key, self.owned.seen()) {
            return Ok(Outcome::After(left));
        }
        let Some(view) = self.sets.get(key) else {
            return Ok(Outcome::Done);
        };
        let set = view.set();
        let Ok(selector) = view.selector() else {
            return Ok(Outcome::Done);
        };
        let mut pods = self.owned.by(&set.metadata.uid);
        let gone = self.awaited.gone(key);
        pods.retain(|p| !gone.contains(&p.metadata.uid));
        let surplus = i64::try_from(pods.len()).is_ok_and(|n| n > set.wanted());
        let neighbours = if surplus {
            self.neighbours(set, &pods)
        } else {
            Vec::new()
        };
        pods.extend(self.owned.orphans(&set.metadata.namespace));
        let now = self.env.now();
        let plan = plan(set, &selector, &pods, &neighbours, now);
        let mut status = plan.status;
        let failure = self.carry_out(key, set, plan.actions).await;
        note_failure(
            &mut status,
            failure.as_ref().map(|(r, e)| (*r, e.to_string())),
            now,
        );
        if status != set.status {
            let wanted = json!(status);
            write::put(
                &self.env.client,
                &V::RESOURCE,
                &set.metadata,
                "status",
                |o| o["status"] = wanted,
            )
            .await?;
        }
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(plan.recheck.map_or(Outcome::Done, Outcome::After)),
        }
    }

    /// The Pods of all sets with the same controller as ours.
    fn neighbours(&self, set: &Set, own: &[Arc<PodView>]) -> Vec<Arc<PodView>> {
        match (&self.by_deployment, set.metadata.controller()) {
            (Some(sets), Some(owner)) => sets
                .by(&owner.uid)
                .iter()
                .flat_map(|s| self.owned.by(&s.0.metadata.uid))
                .collect(),
            _ => own.to_vec(),
        }
    }

    /// Does it; stops at the first kind of failure and returns it with its reason.
    async fn carry_out(
        &self,
        key: &Key,
        set: &Set,
        actions: Vec<Action>,
    ) -> Option<(&'static str, Error)> {
        let (client, mut deletes) = (&self.env.client, Vec::new());
        for action in actions {
            let done = match action {
                Action::Adopt(pod) => {
                    let owner = owner_of(&V::RESOURCE, &set.metadata);
                    write::adopt(client, &kinds::PODS, &pod, &owner).await
                }
                Action::Release(pod) => {
                    write::release(client, &kinds::PODS, &pod, &set.metadata.uid).await
                }
                Action::Create(count) => match self.create(key, set, count).await {
                    Ok(()) => Ok(0),
                    Err(error) => return Some(("FailedCreate", error)),
                },
                Action::Delete(pod, _) => {
                    deletes.push(*pod);
                    Ok(0)
                }
            };
            match done {
                Ok(revision) => self.awaited.wrote(key, revision),
                Err(e) if e.is_not_found() => {}
                Err(error) => return Some(("FailedAdopt", error)),
            }
        }
        self.delete(key, set, deletes)
            .await
            .err()
            .map(|e| ("FailedDelete", e))
    }

    /// Makes Pods in batches that double while all goes well, so that a template which is refused costs one request.
    async fn create(&self, key: &Key, set: &Set, count: i64) -> Result<(), Error> {
        let about = ObjectReference::to(&V::RESOURCE, &set.metadata);
        let pod = pod_of(&V::RESOURCE, set);
        let mut left = usize::try_from(count).unwrap_or(0);
        let mut batch = 1;
        while left > 0 {
            let now = batch.min(left);
            let mut creates = futures::stream::iter(0..now)
                .map(|_| {
                    self.env
                        .client
                        .create::<Written>(&kinds::PODS, &set.metadata.namespace, &pod)
                })
                .buffer_unordered(CONCURRENT);
            let mut failed = None;
            while let Some(created) = creates.next().await {
                match created {
                    Ok(written) => {
                        self.awaited.wrote(key, written.metadata.revision());
                        let message = format!("Created pod: {}", written.metadata.name);
                        self.env.events.normal(&about, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        if !error.is_namespace_terminating() {
                            self.env.events.warning(
                                &about,
                                "FailedCreate",
                                format!("Error creating: {error}"),
                            );
                        }
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            left -= now;
            batch = (batch * 2).min(LARGEST_BATCH);
        }
        Ok(())
    }

    async fn delete(&self, key: &Key, set: &Set, pods: Vec<ObjectMeta>) -> Result<(), Error> {
        let about = ObjectReference::to(&V::RESOURCE, &set.metadata);
        let mut deletes = futures::stream::iter(pods)
            .map(|pod| async move {
                let options = DeleteOptions::default().with_uid(&pod.uid);
                let done = self
                    .env
                    .client
                    .delete(&kinds::PODS, &pod.namespace, &pod.name, &options)
                    .await;
                (pod, done)
            })
            .buffer_unordered(CONCURRENT);
        let mut failed = None;
        while let Some((pod, done)) = deletes.next().await {
            match done {
                Ok(()) => {
                    self.awaited.deleted(key, &pod.uid);
                    let message = format!("Deleted pod: {}", pod.name);
                    self.env.events.normal(&about, "SuccessfulDelete", message);
                }
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(error) => {
                    self.env.events.warning(
                        &about,
                        "FailedDelete",
                        format!("Error deleting: {error}"),
                    );
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const T0: Timestamp = Timestamp::constant(1_767_225_600, 0);

    fn set(replicas: i64, min_ready: i64) -> Set {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "set", "generation": 2},
            "spec": {
                "replicas": replicas, "minReadySeconds": min_ready, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}},
            },
        }))
        .unwrap()
    }

    fn pod(name: &str, change: impl FnOnce(&mut PodView)) -> Arc<PodView> {
        let mut pod: PodView = serde_json::from_value(json!({
            "metadata": {
                "name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "set", "controller": true}],
            },
            "spec": {"nodeName": "n1"},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]},
        }))
        .unwrap();
        change(&mut pod);
        Arc::new(pod)
    }

    fn decide(set: &Set, pods: &[Arc<PodView>]) -> String {
        let selector = api::LabelSelector::from_json(&set.spec.selector).unwrap();
        plan(set, &selector, pods, pods, T0).to_string()
    }

    #[test]
    fn surplus_pods_go_least_useful_first() {
        let pending = |p: &mut PodView| {
            p.status.phase = "Pending".into();
            p.status.conditions.clear();
        };
        let unassigned = |p: &mut PodView| {
            pending(p);
            p.spec.node_name.clear();
        };
        let alone = |p: &mut PodView| p.spec.node_name = "n2".into();
        let cheap = |p: &mut PodView| {
            p.metadata
                .annotations
                .insert(DELETION_COST.into(), "-1".into());
        };
        let pods = [
            pod("alone", alone),
            pod("pending", pending),
            pod("crowded", |_| {}),
            pod("unassigned", unassigned),
            pod("cheap", cheap),
        ];
        expect![[r#"
            delete pod unassigned  (surplus: 5 of 1, unassigned)
            delete pod pending  (surplus: 5 of 1, pending)
            delete pod cheap  (surplus: 5 of 1, ready)
            delete pod crowded  (surplus: 5 of 1, ready)
            status replicas=5 ready=3 available=3
        "#]]
        .assert_eq(&decide(&set(1, 0), &pods));
    }

    #[test]
    fn ended_and_deleted_pods_are_replaced_and_orphans_adopted() {
        let pods = [
            pod("failed", |p| p.status.phase = "Failed".into()),
            pod("leaving", |p| p.metadata.deletion_timestamp = Some(T0)),
            pod("orphan", |p| p.metadata.owner_references.clear()),
            pod("renamed", |p| p.metadata.labels.clear()),
            pod("others", |p| {
                p.metadata.owner_references[0].uid = "other".into()
            }),
        ];
        expect![[r#"
            adopt pod orphan
            release pod renamed
            create 2 pods  (missing: 1 of 3)
            status replicas=1 ready=1 available=1
        "#]]
        .assert_eq(&decide(&set(3, 0), &pods));
    }

    #[test]
    fn a_ready_pod_becomes_available_later() {
        expect![[r#"
            status replicas=1 ready=1 available=0, again in 30s
        "#]]
        .assert_eq(&decide(&set(1, 30), &[pod("a", |_| {})]));
    }

    #[test]
    fn a_set_that_goes_away_does_nothing() {
        let mut set = set(3, 0);
        set.metadata.deletion_timestamp = Some(T0);
        expect![[r#"
            status replicas=1 ready=1 available=1
        "#]]
        .assert_eq(&decide(&set, &[pod("a", |_| {})]));
    }
}
