//! Keeps the status of PodDisruptionBudgets: how many of their Pods may be evicted now.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>. The eviction subresource spends what the
//! status allows and notes the Pod in `disruptedPods`; it counts as gone until it is, or for two minutes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Selector;
use client::resource::kinds;
use client::{Change, Client, Error, Informer, ObjectMeta, Resource, View};
use jiff::{SignedDuration, Timestamp};
use reconcile::{Outcome, Queue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::{Condition, PodView, condition, selects};
use crate::write;

/// How long an evicted Pod may take until it counts as there again.
const DELETION: SignedDuration = SignedDuration::from_secs(120);

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BudgetView {
    metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    selector: Value,
    /// A number, or a string like `25%`.
    min_available: Option<Value>,
    max_unavailable: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    observed_generation: i64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    disrupted_pods: BTreeMap<String, Timestamp>,
    disruptions_allowed: i64,
    current_healthy: i64,
    desired_healthy: i64,
    expected_pods: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Value>,
}

impl View for BudgetView {
    const RESOURCE: Resource = kinds::POD_DISRUPTION_BUDGETS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl BudgetView {
    /// Whether the budget needs to know how many Pods there should be.
    fn needs_scale(&self) -> bool {
        self.spec.max_unavailable.is_some()
            || self
                .spec
                .min_available
                .as_ref()
                .is_some_and(Value::is_string)
    }

    /// Nothing selects nothing, unlike elsewhere an empty selector selects all.
    fn selector(&self) -> Option<Selector> {
        api::LabelSelector::from_json(&self.spec.selector).ok()
    }
}

/// A number, or a share of `whole`, rounded up.
fn scaled(value: &Value, whole: i64) -> i64 {
    let percent = value.as_str().and_then(|s| s.strip_suffix('%'));
    match percent.and_then(|p| p.parse::<i64>().ok()) {
        Some(percent) => (whole * percent + 99).div_euclid(100),
        None => value.as_i64().unwrap_or(0),
    }
}

/// The status of a budget whose Pods are `pods`, of which there should be `scale` (where that is needed), and when to
/// look again.
fn plan(
    budget: &BudgetView,
    pods: &[Arc<PodView>],
    scale: Result<i64, String>,
    now: Timestamp,
) -> (Status, Option<Timestamp>) {
    let generation = budget.metadata.generation;
    let (expected, desired, failed) = match (&budget.spec, scale) {
        (spec, Ok(scale)) => {
            if let Some(most) = &spec.max_unavailable {
                (scale, (scale - scaled(most, scale)).max(0), None)
            } else if let Some(least) = &spec.min_available {
                let expected = if least.is_string() {
                    scale
                } else {
                    i64::try_from(pods.len()).unwrap_or(i64::MAX)
                };
                (expected, scaled(least, scale), None)
            } else {
                (0, 0, None)
            }
        }
        (_, Err(why)) => {
            let status = &budget.status;
            (status.expected_pods, status.desired_healthy, Some(why))
        }
    };
    let leaving = |p: &PodView| p.metadata.deletion_timestamp.is_some();
    let mut disrupted = BTreeMap::new();
    for pod in pods.iter().filter(|p| !leaving(p)) {
        let since = budget.status.disrupted_pods.get(&pod.metadata.name);
        if let Some(since) = since.filter(|since| **since + DELETION >= now) {
            disrupted.insert(pod.metadata.name.clone(), *since);
        }
    }
    let healthy = pods
        .iter()
        .filter(|p| !leaving(p) && !disrupted.contains_key(&p.metadata.name) && p.is_ready());
    let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
    let allowed = if expected <= 0 || failed.is_some() {
        0
    } else {
        (healthy - desired).max(0)
    };
    let again = disrupted.values().min().map(|since| *since + DELETION);
    let (reason, message) = match failed {
        Some(why) => ("SyncFailed", why),
        None if allowed > 0 => ("SufficientPods", String::new()),
        None => ("InsufficientPods", String::new()),
    };
    let conditions = conditions(budget, allowed > 0, reason, &message, now);
    let status = Status {
        observed_generation: generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions,
    };
    (status, again)
}

/// `DisruptionAllowed`; its time is that of the last change of its value.
fn conditions(
    budget: &BudgetView,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Value> {
    const TYPE: &str = "DisruptionAllowed";
    let value = if allowed { "True" } else { "False" };
    let before: Vec<Condition> = budget
        .status
        .conditions
        .iter()
        .filter_map(|c| serde_json::from_value(c.clone()).ok())
        .collect();
    let since = condition(&before, TYPE).filter(|c| c.status == value);
    let since = since.and_then(|c| c.last_transition_time).unwrap_or(now);
    let others = budget
        .status
        .conditions
        .iter()
        .filter(|c| c["type"] != TYPE);
    let own = json!({
        "type": TYPE, "status": value, "observedGeneration": budget.metadata.generation,
        "lastTransitionTime": api::time::seconds(since), "reason": reason, "message": message,
    });
    others.cloned().chain([own]).collect()
}

pub(crate) fn start(env: Env) {
    let budgets = env.informers.all::<BudgetView>();
    let pods = env.informers.all::<PodView>();
    let queue = env.queue("disruption");
    enqueue_changes(&budgets, &queue);
    follow_pods(&pods, &budgets, &queue);
    let ready = {
        let (budgets, pods) = (budgets.clone(), pods.clone());
        async move {
            budgets.synced().await;
            pods.synced().await;
        }
    };
    let again = queue.clone();
    let running = env.clone();
    env.run(queue, ready, move |key: Key| {
        let (budgets, pods, env, again) = (
            budgets.clone(),
            pods.clone(),
            running.clone(),
            again.clone(),
        );
        async move {
            match budgets.get(&key) {
                Some(budget) => settled(reconcile(&env, &budget, &pods, &key, &again).await),
                None => Outcome::Done,
            }
        }
    });
}

/// A Pod that comes, goes or changes its health concerns the budgets that select it.
fn follow_pods(pods: &Informer<PodView>, budgets: &Informer<BudgetView>, queue: &Queue<Key>) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    pods.on_change(move |change: &Change<PodView>| {
        let state = |p: &Option<Arc<PodView>>| {
            p.as_ref().map(|p| {
                let leaving = p.metadata.deletion_timestamp.is_some();
                (p.is_ready(), leaving, p.metadata.labels.clone())
            })
        };
        if state(&change.old) == state(&change.new) {
            return;
        }
        for pod in [&change.old, &change.new].into_iter().flatten() {
            for budget in budgets.list() {
                if budget.metadata.namespace == pod.metadata.namespace
                    && let Some(selector) = budget.selector()
                    && selects(&selector, &pod.metadata.labels)
                {
                    let (namespace, name) = (&budget.metadata.namespace, &budget.metadata.name);
                    queue.add(format!("{namespace}/{name}").into());
                }
            }
        }
    });
}

async fn reconcile(
    env: &Env,
    budget: &BudgetView,
    pods: &Informer<PodView>,
    key: &Key,
    again: &Queue<Key>,
) -> Result<Outcome, Error> {
    let Some(selector) = budget.selector() else {
        return Ok(Outcome::Done);
    };
    let mut selected = pods.list();
    selected.retain(|p| {
        p.metadata.namespace == budget.metadata.namespace && selects(&selector, &p.metadata.labels)
    });
    let scale = if budget.needs_scale() {
        expected(&env.client, &selected).await?
    } else {
        Ok(0)
    };
    let now = env.now();
    let (status, wake) = plan(budget, &selected, scale, now);
    if let Some(wake) = wake {
        let wait = wake.duration_since(now).unsigned_abs();
        again.add_after(key.clone(), wait + Duration::from_secs(1));
    }
    if status == budget.status {
        return Ok(Outcome::Done);
    }
    let value = serde_json::to_value(&status).unwrap_or_default();
    let (kind, meta) = (&kinds::POD_DISRUPTION_BUDGETS, &budget.metadata);
    let version = meta.revision().to_string();
    let put = write::put(&env.client, kind, meta, "status", |object| {
        // An eviction in between has spent something: its conflict has this looked at again.
        object["metadata"]["resourceVersion"] = version.into();
        object["status"] = value;
    });
    put.await.map(|_| Outcome::Done)
}

/// How many Pods the controllers of `pods` want, by their `scale`; says why it cannot be known.
async fn expected(client: &Client, pods: &[Arc<PodView>]) -> Result<Result<i64, String>, Error> {
    let mut wanted: BTreeMap<String, i64> = BTreeMap::new();
    for pod in pods {
        let Some(owner) = pod.metadata.controller() else {
            continue;
        };
        if wanted.contains_key(&owner.uid) {
            continue;
        }
        let name = &pod.metadata.name;
        let unknown = || Ok(Err(format!("found no controllers for pod \"{name}\"")));
        let Some(kind) = scaled_kind(&owner.api_version, &owner.kind) else {
            return unknown();
        };
        let resource = Resource::namespaced(kind.group, kind.version, kind.plural, kind.kind);
        let namespace = &pod.metadata.namespace;
        let scale = client.get_subresource::<Value>(&resource, namespace, &owner.name, "scale");
        let scale = match scale.await {
            Ok(scale) => scale,
            Err(error) if error.is_not_found() => return unknown(),
            Err(error) => return Err(error),
        };
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        wanted.insert(owner.uid.clone(), replicas);
    }
    Ok(Ok(wanted.values().sum()))
}

fn scaled_kind(api_version: &str, kind: &str) -> Option<&'static api::facts::Kind> {
    let (group, version) = api::facts::split_api_version(api_version);
    api::facts::kind_by_name(group, version, kind).filter(|k| k.subresource("scale").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn pod(name: &str, ready: bool) -> Arc<PodView> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name},
            "status": {"conditions": [{"type": "Ready", "status": status}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn budget(spec: Value) -> BudgetView {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 2}, "spec": spec}))
            .unwrap()
    }

    fn shown(status: &Status) -> String {
        format!(
            "allowed {} healthy {} of {} desired {} {}",
            status.disruptions_allowed,
            status.current_healthy,
            status.expected_pods,
            status.desired_healthy,
            status.conditions[0]["reason"].as_str().unwrap()
        )
    }

    #[test]
    fn shares_are_rounded_up() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        let status = |spec, scale| shown(&plan(&budget(spec), &pods, scale, NOW).0);
        assert_eq!(
            status(json!({"minAvailable": 1}), Ok(0)),
            "allowed 1 healthy 2 of 3 desired 1 SufficientPods"
        );
        assert_eq!(
            status(json!({"minAvailable": "50%"}), Ok(3)),
            "allowed 0 healthy 2 of 3 desired 2 InsufficientPods"
        );
        assert_eq!(
            status(json!({"maxUnavailable": "30%"}), Ok(4)),
            "allowed 0 healthy 2 of 4 desired 2 InsufficientPods"
        );
        let why = Err("found no controllers for pod \"a\"".to_owned());
        assert_eq!(
            status(json!({"maxUnavailable": 1}), why),
            "allowed 0 healthy 2 of 0 desired 0 SyncFailed"
        );
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_for_a_while() {
        let pods = [pod("a", true), pod("b", true)];
        let mut budget = budget(json!({"minAvailable": 1}));
        budget.status.disrupted_pods.insert("a".into(), NOW);
        let (status, again) = plan(&budget, &pods, Ok(0), NOW);
        assert_eq!(
            (status.disruptions_allowed, again),
            (0, Some(NOW + DELETION))
        );
        let later = NOW + DELETION + SignedDuration::from_secs(1);
        let (status, again) = plan(&budget, &pods, Ok(0), later);
        assert_eq!((status.disruptions_allowed, again), (1, None));
    }
}
