//! What a Deployment says about itself. `kubectl rollout status` and `kubectl wait` read it, hence upstream's words.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::plan::Limits;
use crate::views::{Condition, DeploymentStatus, DeploymentView, Set, condition};

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Sets a condition unless it says the same already; the time of transition moves only with the status.
fn set(status: &mut DeploymentStatus, mut new: Condition) {
    if let Some(old) = condition(&status.conditions, &new.kind) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time;
        }
    }
    status.conditions.retain(|c| c.kind != new.kind);
    status.conditions.push(new);
}

fn made(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> Condition {
    Condition {
        kind: kind.into(),
        status: status.into(),
        last_update_time: Some(now),
        last_transition_time: Some(now),
        reason: reason.into(),
        message: message.into(),
    }
}

/// Sets the `Progressing` condition.
pub(crate) fn progressing(
    to: &mut DeploymentStatus,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(to, made("Progressing", status, reason, message, now));
}

fn sum(sets: &[&Set], count: impl Fn(&Set) -> i64) -> i64 {
    sets.iter().map(|s| count(s)).sum()
}

/// Whether all Pods are of the new template, available, and no others are left.
pub(crate) fn is_complete(deployment: &DeploymentView, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Adds up what the ReplicaSets report.
pub(crate) fn counted(
    deployment: &DeploymentView,
    all: &[&Set],
    new: Option<&Set>,
    now: Timestamp,
) -> DeploymentStatus {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let available = sum(all, |s| s.status.available_replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: sum(all, |s| s.status.replicas),
        updated_replicas: new.map_or(0, |s| s.status.replicas),
        ready_replicas: sum(all, |s| s.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(all, Set::wanted) - available).max(0),
        conditions: deployment.status.conditions.clone(),
        collision_count: deployment.status.collision_count,
    };
    let enough = available >= wanted - Limits::of(deployment).max_unavailable;
    let condition = if enough {
        let message = "Deployment has minimum availability.";
        made(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            message,
            now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        made(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            message,
            now,
        )
    };
    set(&mut status, condition);
    status
}

/// Marks a paused Deployment's progress as such, and a resumed one's: the deadline does not run while it is paused.
pub(crate) fn note_pause(
    deployment: &DeploymentView,
    status: &mut DeploymentStatus,
    now: Timestamp,
) {
    if deployment.spec.progress_deadline_seconds.is_none() {
        return;
    }
    let reason = condition(&status.conditions, "Progressing").map_or("", |c| c.reason.as_str());
    if reason == TIMED_OUT {
        return;
    }
    let was_paused = reason == "DeploymentPaused";
    if deployment.spec.paused && !was_paused {
        progressing(
            status,
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".into(),
            now,
        );
    } else if !deployment.spec.paused && was_paused {
        progressing(
            status,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed".into(),
            now,
        );
    }
}

/// Judges the progress of a rollout; returns when the deadline is to be checked again.
pub(crate) fn judge(
    deployment: &DeploymentView,
    status: &mut DeploymentStatus,
    all: &[&Set],
    new: Option<&Set>,
    now: Timestamp,
) -> Option<Duration> {
    let Some(deadline) = deployment
        .spec
        .progress_deadline_seconds
        .filter(|d| *d != i64::from(i32::MAX))
    else {
        status.conditions.retain(|c| c.kind != "Progressing");
        note_replica_failure(status, all, new);
        return None;
    };
    let current = condition(&status.conditions, "Progressing").cloned();
    let was_complete = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason == COMPLETE);
    let subject = match new {
        Some(set) => format!("ReplicaSet \"{}\"", set.metadata.name),
        None => format!("Deployment \"{}\"", deployment.metadata.name),
    };
    let mut again = None;
    if !was_complete {
        if is_complete(deployment, status) {
            let message = format!("{subject} has successfully progressed.");
            progressing(status, "True", COMPLETE, message, now);
        } else if has_progressed(&deployment.status, status) {
            let mut condition = made(
                "Progressing",
                "True",
                "ReplicaSetUpdated",
                format!("{subject} is progressing."),
                now,
            );
            if let Some(old) = current.filter(|c| c.status == "True") {
                condition.last_transition_time = old.last_transition_time;
            }
            // The time of update moves with every step: it is what the deadline counts from.
            status.conditions.retain(|c| c.kind != "Progressing");
            status.conditions.push(condition);
        } else if let Some(current) = current.filter(|c| c.reason != COMPLETE) {
            let since = current.last_update_time.unwrap_or(now);
            let due = since
                .saturating_add(SignedDuration::from_secs(deadline))
                .unwrap_or(now);
            if now > due && current.reason != TIMED_OUT {
                let message = format!("{subject} has timed out progressing.");
                progressing(status, "False", TIMED_OUT, message, now);
            }
        }
        if !is_complete(deployment, status)
            && let Some(now_is) = condition(&status.conditions, "Progressing")
            && now_is.reason != TIMED_OUT
        {
            let since = now_is.last_update_time.unwrap_or(now);
            let left = deadline + 1 - now.duration_since(since).as_secs();
            again = Some(Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)));
        }
    }
    note_replica_failure(status, all, new);
    again
}

/// Whether the counts moved on from what was reported before.
fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    new.updated_replicas > old.updated_replicas
        || new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// Passes on that a ReplicaSet, the new one first, cannot make its Pods.
fn note_replica_failure(status: &mut DeploymentStatus, all: &[&Set], new: Option<&Set>) {
    let failure = new.into_iter().chain(all.iter().copied()).find_map(|s| {
        condition(&s.status.conditions, "ReplicaFailure").filter(|c| c.status == "True")
    });
    match failure.cloned() {
        Some(mut failure) => {
            failure.last_update_time = failure.last_update_time.or(failure.last_transition_time);
            set(status, failure);
        }
        None => status.conditions.retain(|c| c.kind != "ReplicaFailure"),
    }
}
