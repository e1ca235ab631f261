//! Counts what a ResourceQuota's namespace uses when the quota is new or changed.
//!
//! Follows <https://kubernetes.io/docs/concepts/policy/resource-quotas/>. From then on the API server keeps the count with
//! each write, so that nothing is counted again and again. Upstream's API server charges creations only; beside one, a
//! count that is too high is put right by touching the quota.

use std::sync::Arc;

use client::resource::kinds;
use client::{Client, Error, ObjectMeta, Resource, View};
use reconcile::Outcome;
use rules::quota;
use rules::resources::{Resources, parse};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::write::Written;

/// What a quota bounds and what is used of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct QuotaView {
    metadata: ObjectMeta,
    spec: Value,
    status: Value,
}

impl View for QuotaView {
    const RESOURCE: Resource = kinds::RESOURCE_QUOTAS;
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl QuotaView {
    /// Whether what the status says was counted for these bounds.
    fn is_counted(&self) -> bool {
        let hard = parse(&self.spec["hard"]);
        let used = parse(&self.status["used"]);
        parse(&self.status["hard"]) == hard && hard.keys().eq(used.keys())
    }

    /// The kinds that its bounds are about.
    fn kinds(&self) -> impl Iterator<Item = &'static api::facts::Kind> {
        let hard = parse(&self.spec["hard"]);
        api::facts::KINDS.iter().filter(move |kind| {
            let about = |name: &String| quota::is_about(name, kind.group, kind.plural);
            kind.namespaced && kind.stored() && hard.keys().any(about)
        })
    }
}

pub(crate) fn start(env: Env) {
    let quotas = env.informers.all::<QuotaView>();
    let queue = env.queue("resourcequota");
    enqueue_changes(&quotas, &queue);
    let ready = {
        let quotas = quotas.clone();
        async move { quotas.synced().await }
    };
    let client = env.client.clone();
    env.run(queue, ready, move |key: Key| {
        let (quotas, client) = (quotas.clone(), client.clone());
        async move {
            match quotas.get(&key) {
                Some(view) if !view.is_counted() && view.metadata.deletion_timestamp.is_none() => {
                    settled(count(&client, view).await)
                }
                _ => Outcome::Done,
            }
        }
    });
}

/// Counts, writes, and counts again as of the write: what was created in between was charged to no one.
async fn count(client: &Client, view: Arc<QuotaView>) -> Result<Outcome, Error> {
    let first = used_at(client, &view, None).await?;
    let written = put(client, &view, view.metadata.revision(), &first).await?;
    let exact = used_at(client, &view, Some(written)).await?;
    if exact == first {
        return Ok(Outcome::Done);
    }
    // Others may have charged since: what was missed is added to what they left.
    loop {
        let query = format!("fieldSelector=metadata.name%3D{}", view.metadata.name);
        let list =
            client.list::<QuotaView>(&kinds::RESOURCE_QUOTAS, &view.metadata.namespace, &query);
        let Some(current) = list.await?.items.into_iter().next() else {
            return Ok(Outcome::Done);
        };
        if current.metadata.uid != view.metadata.uid || current.spec != view.spec {
            return Ok(Outcome::Done);
        }
        let mut used = parse(&current.status["used"]);
        for (name, amount) in &mut used {
            if let (Some(exact), Some(first)) = (exact.get(name), first.get(name)) {
                *amount = *amount + *exact - *first;
            }
        }
        match put(client, &view, current.metadata.revision(), &used).await {
            Err(error) if error.is_conflict() => {}
            done => return done.map(|_| Outcome::Done),
        }
    }
}

/// What the namespace uses of what the quota bounds, now or as of a revision.
async fn used_at(
    client: &Client,
    view: &QuotaView,
    revision: Option<u64>,
) -> Result<Resources, Error> {
    let quota = json!({"spec": view.spec});
    let mut used: Resources = parse(&view.spec["hard"])
        .into_keys()
        .map(|name| (name, api::Quantity::ZERO))
        .collect();
    for kind in view.kinds() {
        let resource = Resource::namespaced(kind.group, kind.version, kind.plural, kind.kind);
        let query = revision.map_or_else(String::new, |revision| {
            format!("resourceVersion={revision}&resourceVersionMatch=Exact")
        });
        let list = client.list::<Value>(&resource, &view.metadata.namespace, &query);
        let items = match list.await {
            Ok(list) => list.items,
            // A kind that this server does not have is not used.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for object in items {
            if !quota::in_scope(&quota, kind.group, kind.plural, &object) {
                continue;
            }
            let more = quota::usage(kind.group, kind.plural, &object);
            for (name, sum) in &mut used {
                let about = quota::is_about(name, kind.group, kind.plural);
                if let Some(amount) = more.get(name).filter(|_| about) {
                    *sum += *amount;
                }
            }
        }
    }
    Ok(used)
}

/// Writes the count; returns the revision written.
async fn put(
    client: &Client,
    view: &QuotaView,
    revision: u64,
    used: &Resources,
) -> Result<u64, Error> {
    let meta = &view.metadata;
    let used: Map<String, Value> = used
        .iter()
        .map(|(name, amount)| (name.clone(), amount.to_string().into()))
        .collect();
    let object = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
            "resourceVersion": revision.to_string(),
        },
        "spec": view.spec,
        "status": {"hard": view.spec["hard"], "used": used},
    });
    let written: Written = client
        .update(
            &kinds::RESOURCE_QUOTAS,
            &meta.namespace,
            &meta.name,
            "status",
            &object,
        )
        .await?;
    Ok(written.metadata.revision())
}
