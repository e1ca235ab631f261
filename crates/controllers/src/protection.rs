//! Lets claims and volumes that are going away go when nothing uses them any more.
//!
//! Follows <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>. Admission
//! adds the finalizers; here they are taken off.

use client::resource::kinds;
use client::{Change, Client, Error, Informer, ObjectMeta, Resource, View};
use reconcile::{Outcome, Queue};
use serde::Deserialize;
use serde_json::Value;

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::views::PodView;
use crate::write;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimView {
    metadata: ObjectMeta,
}

impl View for ClaimView {
    const RESOURCE: Resource = kinds::PERSISTENT_VOLUME_CLAIMS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeView {
    metadata: ObjectMeta,
    status: Phase,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

impl View for VolumeView {
    const RESOURCE: Resource = kinds::PERSISTENT_VOLUMES;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

fn is_leaving(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|f| f == finalizer)
}

/// Whether a Pod keeps the claim: one that is scheduled and has not ended.
fn uses(pod: &PodView, claim: &str) -> bool {
    !pod.is_ended() && !pod.spec.node_name.is_empty() && pod.claims().any(|name| name == claim)
}

/// Keeps claims that Pods use.
pub(crate) fn start_claims(env: Env) {
    let claims = env.informers.all::<ClaimView>();
    let pods = env.informers.all::<PodView>();
    let queue = env.queue("pvcprotection");
    enqueue_changes(&claims, &queue);
    follow_pods(&pods, &queue);
    let ready = {
        let (claims, pods) = (claims.clone(), pods.clone());
        async move {
            claims.synced().await;
            pods.synced().await;
        }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key: Key| {
        let (claims, pods, client) = (claims.clone(), pods.clone(), client.clone());
        async move {
            let Some(claim) = claims.get(&key) else {
                return Outcome::Done;
            };
            let meta = &claim.metadata;
            let in_use = || {
                let of_namespace = |p: &PodView| p.metadata.namespace == meta.namespace;
                let pods = pods.list();
                pods.iter().any(|p| of_namespace(p) && uses(p, &meta.name))
            };
            if !is_leaving(meta, CLAIM) || in_use() {
                return Outcome::Done;
            }
            settled(release(&client, &kinds::PERSISTENT_VOLUME_CLAIMS, meta, CLAIM).await)
        }
    });
}

/// A Pod that ends or goes may have been the last that used its claims.
fn follow_pods(pods: &Informer<PodView>, queue: &Queue<Key>) {
    let queue = queue.clone();
    pods.on_change(move |change: &Change<PodView>| {
        let gone = change.new.as_ref().is_none_or(|p| p.is_ended());
        if let (true, Some(pod)) = (gone, change.old.as_ref().or(change.new.as_ref())) {
            for claim in pod.claims() {
                queue.add(format!("{}/{claim}", pod.metadata.namespace).into());
            }
        }
    });
}

/// Keeps volumes that are bound to a claim.
pub(crate) fn start_volumes(env: Env) {
    let volumes = env.informers.all::<VolumeView>();
    let queue = env.queue("pvprotection");
    enqueue_changes(&volumes, &queue);
    let ready = {
        let volumes = volumes.clone();
        async move { volumes.synced().await }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key: Key| {
        let (volumes, client) = (volumes.clone(), client.clone());
        async move {
            match volumes.get(&key) {
                Some(v) if is_leaving(&v.metadata, VOLUME) && v.status.phase != "Bound" => {
                    let kind = &kinds::PERSISTENT_VOLUMES;
                    settled(release(&client, kind, &v.metadata, VOLUME).await)
                }
                _ => Outcome::Done,
            }
        }
    });
}

/// Takes the finalizer off, if the object is still the same.
async fn release(
    client: &Client,
    kind: &Resource,
    meta: &ObjectMeta,
    finalizer: &str,
) -> Result<Outcome, Error> {
    let done = write::put(client, kind, meta, "", |object| {
        if let Some(Value::Array(list)) = object["metadata"].get_mut("finalizers") {
            list.retain(|f| f != finalizer);
        }
    });
    done.await.map(|_| Outcome::Done)
}
