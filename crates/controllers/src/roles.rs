//! Fills ClusterRoles that aggregate others with their rules.
//!
//! Follows <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>.

use std::sync::Arc;

use client::PatchKind;
use reconcile::Outcome;
use serde_json::{Value, json};

use crate::env::{Env, Key, settled};
use crate::views::{CLUSTER_ROLES, ClusterRoleView, selects};

/// The rules that an aggregated role should have: those of the selected roles by name, each once.
pub(crate) fn plan(role: &ClusterRoleView, all: &[Arc<ClusterRoleView>]) -> Vec<Value> {
    let selectors = role
        .aggregation_rule
        .as_ref()
        .map(|r| &r["clusterRoleSelectors"]);
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors.and_then(Value::as_array).into_iter().flatten() {
        let Ok(selector) = api::LabelSelector::from_json(selector) else {
            continue;
        };
        for other in all {
            if other.metadata.name == role.metadata.name
                || !selects(&selector, &other.metadata.labels)
            {
                continue;
            }
            for rule in other.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

pub(crate) fn start(env: Env) {
    let roles = env.informers.all::<ClusterRoleView>();
    let queue = env.queue("ClusterRoleAggregator");
    let (q, known) = (queue.clone(), roles.clone());
    roles.on_change(move |change| {
        // Any role may be selected by any aggregating one, of which there are few.
        q.add(change.key.clone());
        for role in known.list() {
            if role.aggregation_rule.is_some() {
                q.add(Key::from(role.metadata.name.as_str()));
            }
        }
    });
    let ready = {
        let roles = roles.clone();
        async move { roles.synced().await }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key| {
        let (roles, client) = (roles.clone(), client.clone());
        async move {
            let Some(role) = roles.get(&key).filter(|r| r.aggregation_rule.is_some()) else {
                return Outcome::Done;
            };
            let rules = plan(&role, &roles.list());
            if role.rules.as_deref().unwrap_or_default() == rules {
                return Outcome::Done;
            }
            let version = &role.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "rules": rules});
            let done = client
                .patch::<Value>(&CLUSTER_ROLES, "", &key, "", PatchKind::Merge, &patch)
                .await;
            settled(done.map(|_| Outcome::Done))
        }
    });
}
