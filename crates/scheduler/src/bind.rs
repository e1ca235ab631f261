//! Carries decisions out: bindings, conditions, events. Many at once, beside the next decisions.

use std::sync::Arc;

use client::resource::kinds;
use client::{Client, EventRecorder, ObjectReference, PatchKind};
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::sync::Semaphore;
use world::{Shutdown, World};

use crate::Shared;
use crate::cycle::Decision;
use crate::views::PodView;

/// Writes under way at once.
const CONCURRENT: usize = 256;

pub(crate) struct Binder {
    client: Client,
    events: EventRecorder,
    world: World,
    shared: Arc<Shared>,
    shutdown: Shutdown,
    permits: Arc<Semaphore>,
}

impl Binder {
    pub fn new(
        client: Client,
        events: EventRecorder,
        world: World,
        shared: Arc<Shared>,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            client,
            events,
            world,
            shared,
            shutdown,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        }
    }

    /// Starts the writes of a decision; waits only while too many are under way.
    pub async fn carry_out(&self, key: Arc<str>, pod: Arc<PodView>, decision: Decision) {
        let Ok(permit) = self.permits.clone().acquire_owned().await else {
            return;
        };
        let (client, events) = (self.client.clone(), self.events.clone());
        let (shared, world) = (self.shared.clone(), self.world.clone());
        let work = async move {
            match decision {
                Decision::Bind(node) => bind(&client, &events, &shared, &key, &pod, &node).await,
                Decision::Unschedulable(why) => refuse(&client, &events, &world, &pod, &why).await,
            }
            drop(permit);
        };
        tokio::spawn(self.shutdown.clone().run_until_cancelled_owned(work));
    }
}

async fn bind(
    client: &Client,
    events: &EventRecorder,
    shared: &Shared,
    key: &Arc<str>,
    pod: &PodView,
    node: &str,
) {
    let meta = &pod.metadata;
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let done = client
        .create_subresource::<IgnoredAny>(
            &kinds::PODS,
            &meta.namespace,
            &meta.name,
            "binding",
            &binding,
        )
        .await;
    let about = ObjectReference::to(&kinds::PODS, meta);
    match done {
        Ok(_) => {
            let message = format!("Successfully assigned {} to {node}", meta.key());
            events.normal(&about, "Scheduled", message);
        }
        Err(error) => {
            // Gone, or bound by somebody else: the informer says so, and nothing is to be done.
            if !error.is_not_found() {
                events.warning(
                    &about,
                    "FailedScheduling",
                    format!("binding rejected: {error}"),
                );
            }
            let now = shared.now();
            shared.core().not_bound(key, &meta.uid, now);
            shared.wake.notify_one();
        }
    }
}

/// Says why a Pod has no node, unless that has been said.
async fn refuse(client: &Client, events: &EventRecorder, world: &World, pod: &PodView, why: &str) {
    let meta = &pod.metadata;
    events.warning(
        &ObjectReference::to(&kinds::PODS, meta),
        "FailedScheduling",
        why,
    );
    if pod.refused.as_deref() == Some(why) {
        return;
    }
    let now = api::time::seconds(world.now());
    let patch = json!({
        "metadata": {"uid": meta.uid},
        "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
            "lastTransitionTime": now,
        }]},
    });
    let done = client
        .patch::<IgnoredAny>(
            &kinds::PODS,
            &meta.namespace,
            &meta.name,
            "status",
            PatchKind::Strategic,
            &patch,
        )
        .await;
    if let Err(error) = done
        && !error.is_not_found()
        && !error.is_conflict()
    {
        tracing::warn!(pod = meta.key(), %error, "cannot say that a Pod is unschedulable");
    }
}
