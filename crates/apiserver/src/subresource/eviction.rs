//! `pods/eviction`: deletes a Pod if its disruption budget has something left.
//!
//! Follows <https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/> and KEP-3017 (unhealthy Pods). The
//! budget's status is spent here and renewed by the disruption controller.

use std::sync::Arc;

use api::Status;
use api::facts::Kind;
use serde_json::{Value, json};
use store::{Compare, Entry, Op, Outcome, Txn};

use crate::Core;
use crate::object::{self, is_deleting, items, text};
use crate::registry::codec::{self, ContentType};
use crate::registry::delete::DeleteOptions;
use crate::registry::{Context, key, store_status};
use crate::request::Query;

/// Tries against the disruption controller's and other evictions' writes of the same budget.
const TRIES: usize = 20;
/// Evictions of one budget that the controller has not confirmed yet.
const MOST_DISRUPTED: usize = 2000;

/// Deletes a Pod as its disruption budgets allow.
///
/// # Errors
/// 429 when a budget has nothing left, 500 when several select the Pod; else as a deletion.
pub async fn evict(
    core: &Core,
    context: &Context,
    namespace: &str,
    name: &str,
    eviction: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let kind = core.kind("", "v1", "pods")?;
    let mut options = match &eviction["deleteOptions"] {
        Value::Null => DeleteOptions::default(),
        given => {
            let body = given.to_string();
            DeleteOptions::of(body.as_bytes(), ContentType::Json, &Query::default())?
        }
    };
    options.dry_run |= dry_run;
    let pod = core.get_value(kind, namespace, name).await?;
    let phase = text(&pod, &["status", "phase"]);
    let mut spent = None;
    let insists = options.resource_version.is_some();
    if !matches!(phase, "Succeeded" | "Failed") && !is_deleting(&pod) {
        // The decision is about the Pod as it is now.
        let mut as_seen = phase == "Pending";
        if !as_seen && let Some(budget) = budget_of(core, namespace, &pod).await? {
            as_seen = is_unhealthy_and_free(&pod, &budget.1);
            if !as_seen {
                spend(core, &pod, budget.0.clone(), options.dry_run).await?;
            }
            spent = Some(object::name(&budget.1).to_owned());
        }
        if as_seen && !insists {
            options.resource_version =
                Some(text(&pod, &["metadata", "resourceVersion"]).to_owned());
        }
    }
    options
        .uid
        .get_or_insert_with(|| text(&pod, &["metadata", "uid"]).to_owned());
    match core.delete(context, kind, namespace, name, &options).await {
        Err(status) if status.code == 409 && !insists && spent.is_some() => {
            Err(still_processed(&spent.unwrap_or_default()))
        }
        done => done.map(|_| ()),
    }
}

/// The budget that selects the Pod; there may be one at most.
async fn budget_of(
    core: &Core,
    namespace: &str,
    pod: &Value,
) -> Result<Option<(Arc<Entry>, Value)>, Status> {
    let kind = budgets(core)?;
    let prefix = key(kind, namespace, "");
    let range = core.store.range(&prefix, None, None, 0).await;
    let mut found = None;
    for entry in range.map_err(store_status)?.entries {
        let budget = codec::decode(&entry)?;
        let selector = &budget["spec"]["selector"];
        let Ok(selector) = api::LabelSelector::from_json(selector) else {
            continue;
        };
        if !selector.matches_labels(&pod["metadata"]["labels"]) {
            continue;
        }
        if found.is_some() {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::internal_plain(why));
        }
        found = Some((entry, budget));
    }
    Ok(found)
}

fn budgets(core: &Core) -> Result<&'static Kind, Status> {
    core.kind("policy", "v1", "poddisruptionbudgets")
}

/// A Pod that is not ready costs nothing when the budget says so, or when enough others are healthy.
fn is_unhealthy_and_free(pod: &Value, budget: &Value) -> bool {
    let conditions = items(pod, &["status", "conditions"]).iter();
    let ready = conditions
        .clone()
        .any(|c| c["type"] == "Ready" && c["status"] == "True");
    if ready {
        return false;
    }
    if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return true;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

/// Takes one disruption from the budget, and notes for which Pod.
async fn spend(
    core: &Core,
    pod: &Value,
    mut entry: Arc<Entry>,
    dry_run: bool,
) -> Result<(), Status> {
    let path = entry.key.to_string();
    let mut name = String::new();
    for _ in 0..TRIES {
        let mut budget = codec::decode(&entry)?;
        name = object::name(&budget).to_owned();
        check(&budget)?;
        if dry_run {
            return Ok(());
        }
        let left = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) - 1;
        let now = api::time::seconds(core.world.now());
        budget["status"]["disruptionsAllowed"] = left.into();
        budget["status"]["disruptedPods"][object::name(pod)] = now.clone().into();
        if left == 0 {
            used_up(&mut budget, &now);
        }
        let (stored, offset) = codec::encode(&budget, None, &core.encodes)?;
        let txn = Txn {
            compares: vec![Compare::Revision(path.clone(), entry.revision)],
            ops: vec![Op::Put {
                key: path.clone(),
                stored,
                rv_offset: Some(offset),
                expire_after: None,
            }],
            lazy: false,
        };
        match core.store.txn(txn).await.map_err(store_status)? {
            Outcome::Committed { .. } => return Ok(()),
            Outcome::Conflict { current, .. } => match current.into_iter().next().flatten() {
                Some(newer) => entry = newer,
                // The budget is gone, and with it what it forbade.
                None => return Ok(()),
            },
        }
    }
    let why = format!("couldn't update PodDisruptionBudget \"{name}\" due to conflicts");
    Err(Status::timeout(why, 10))
}

/// Whether the budget allows one more disruption.
fn check(budget: &Value) -> Result<(), Status> {
    let name = object::name(budget);
    let status = &budget["status"];
    let number = |of: &Value| of.as_i64().unwrap_or(0);
    if number(&status["observedGeneration"]) < number(&budget["metadata"]["generation"]) {
        return Err(still_processed(name));
    }
    let forbidden = |why: &str| {
        Err(Status::forbidden(
            "policy",
            "poddisruptionbudget",
            name,
            why,
        ))
    };
    let allowed = number(&status["disruptionsAllowed"]);
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let disrupted = status["disruptedPods"].as_object().map_or(0, |d| d.len());
    if disrupted > MOST_DISRUPTED {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(&status["desiredHealthy"]),
            number(&status["currentHealthy"])
        );
        return Err(violates(0, &why));
    }
    Ok(())
}

fn still_processed(name: &str) -> Status {
    let why = format!("The disruption budget {name} is still being processed by the server.");
    violates(10, &why)
}

fn violates(retry_after_seconds: u32, why: &str) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let status = Status::too_many_requests(message, retry_after_seconds);
    status.with_cause("DisruptionBudget", why, "")
}

/// The condition says at once that nothing is left.
fn used_up(budget: &mut Value, now: &str) {
    let generation = budget["metadata"]["generation"].clone();
    let Some(Value::Array(conditions)) = budget["status"].get_mut("conditions") else {
        return;
    };
    for condition in conditions
        .iter_mut()
        .filter(|c| c["type"] == "DisruptionAllowed")
    {
        *condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "lastTransitionTime": now, "observedGeneration": generation,
        });
    }
}
