//! Removes Pods that nobody else will: too many ended ones, those of nodes that are gone, and those whose deletion
//! began before they were scheduled.
//!
//! Follows <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::resource::kinds;
use client::{Client, DeleteOptions, Error, PatchKind};
use reconcile::Outcome;
use serde_json::{Value, json};

use crate::env::{Env, Key, settled};
use crate::views::{NodeView, PodView};

/// Ended Pods that may stay, as upstream's default.
const KEPT: usize = 12_500;
/// How long after the last change the Pods are looked through.
const DELAY: Duration = Duration::from_secs(20);
/// How long a node must be missing until its Pods go.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Why a Pod goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Ended,
    NodeGone,
    NeverScheduled,
}

/// Which Pods go, and why. `pods` in any order, `nodes` are the names of those there are.
pub(crate) fn plan(
    pods: &[Arc<PodView>],
    nodes: &BTreeSet<String>,
    keep: usize,
) -> Vec<(Arc<PodView>, Why)> {
    let mut out = Vec::new();
    let mut ended: Vec<&Arc<PodView>> = Vec::new();
    for pod in pods {
        let deleting = pod.metadata.deletion_timestamp.is_some();
        if pod.spec.node_name.is_empty() {
            if deleting {
                out.push((pod.clone(), Why::NeverScheduled));
                continue;
            }
        } else if !nodes.contains(&pod.spec.node_name) {
            out.push((pod.clone(), Why::NodeGone));
            continue;
        }
        if pod.is_ended() && !deleting {
            ended.push(pod);
        }
    }
    ended.sort_by_key(|p| (p.metadata.creation_timestamp, p.metadata.name.clone()));
    let surplus = ended.len().saturating_sub(keep);
    out.extend(
        ended
            .into_iter()
            .take(surplus)
            .map(|p| (p.clone(), Why::Ended)),
    );
    out
}

pub(crate) fn start(env: Env) {
    let pods = env.informers.all::<PodView>();
    let nodes = env.informers.all::<NodeView>();
    let queue = env.queue("pod-garbage");
    let all: Key = Arc::from("all");
    // Looks only when something could have become garbage, not every 20 s.
    let (q, key, known) = (queue.clone(), all.clone(), nodes.clone());
    pods.on_change(move |change| {
        let Some(pod) = &change.new else { return };
        let unknown = !pod.spec.node_name.is_empty() && known.get(&pod.spec.node_name).is_none();
        if pod.is_ended() || unknown || pod.metadata.deletion_timestamp.is_some() {
            q.add_after(key.clone(), DELAY);
        }
    });
    let q = queue.clone();
    nodes.on_change(move |change| {
        if change.new.is_none() {
            q.add_after(all.clone(), QUARANTINE);
        }
    });
    let ready = {
        let (pods, nodes) = (pods.clone(), nodes.clone());
        async move {
            pods.synced().await;
            nodes.synced().await;
        }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |_| {
        let (pods, nodes, client) = (pods.clone(), nodes.clone(), client.clone());
        async move {
            let names = nodes
                .list()
                .iter()
                .map(|n| n.metadata.name.clone())
                .collect();
            for (pod, why) in plan(&pods.list(), &names, KEPT) {
                if let Err(error) = remove(&client, &pod, why).await {
                    return settled(Err(error));
                }
            }
            Outcome::Done
        }
    });
}

async fn remove(client: &Client, view: &PodView, why: Why) -> Result<(), Error> {
    let pod = &view.metadata;
    let gone = |result: Result<(), Error>| match result {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other,
    };
    if why == Why::NodeGone {
        let node = client
            .get::<Value>(&kinds::NODES, "", &view.spec.node_name)
            .await;
        match node {
            Ok(_) => return Ok(()),
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    if why == Why::NodeGone && !view.is_ended() {
        let patch = json!({
            "metadata": {"uid": pod.uid},
            "status": {"phase": "Failed", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
            }]},
        });
        let marked = client
            .patch::<Value>(
                &kinds::PODS,
                &pod.namespace,
                &pod.name,
                "status",
                PatchKind::Strategic,
                &patch,
            )
            .await;
        gone(marked.map(|_| ()))?;
    }
    let mut options = DeleteOptions::default().with_uid(&pod.uid);
    options.grace_period_seconds = Some(0);
    gone(
        client
            .delete(&kinds::PODS, &pod.namespace, &pod.name, &options)
            .await,
    )
}
