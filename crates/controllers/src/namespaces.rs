//! Empties namespaces that are going away, then lets them go.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/> and KEP-5080: Pods go first, so that
//! what protects them (policies, secrets) outlives them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::resource::kinds;
use client::{Client, Error, Informer};
use http::Method;
use jiff::Timestamp;
use reconcile::Outcome;
use serde_json::{Value, json};

use crate::env::{Env, Key, enqueue_changes, settled};
use crate::garbage::discovery::{self, Kind};
use crate::views::{NamespaceView, PodView};
use crate::write;

const FINALIZER: &str = "kubernetes";
/// How soon a namespace is looked at again when something is left in it.
const AGAIN: Duration = Duration::from_millis(500);

/// What is left in a namespace after one pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// `pods.` and how many, by resource.
    pub resources: Vec<(String, usize)>,
    /// Finalizers and on how many objects.
    pub finalizers: Vec<(String, usize)>,
    pub discovery_errors: Vec<String>,
    pub errors: Vec<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// The conditions that tell why a namespace is still there, in upstream's words.
pub(crate) fn conditions(left: &Left, old: &[Value], now: Timestamp) -> Vec<Value> {
    let list = |items: &[(String, usize)], kind: &str| {
        let one = |(name, n): &(String, usize)| match kind {
            "finalizer" => format!("{name} in {n} resource instances"),
            _ => format!("{name} has {n} resource instances"),
        };
        items.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let failure = |errors: &[String], reason: &'static str, good: (&'static str, &'static str)| {
        if errors.is_empty() {
            ("False", good.0, good.1.to_owned())
        } else {
            ("True", reason, errors.join(", "))
        }
    };
    let discovered = (
        "ResourcesDiscovered",
        "All resources successfully discovered",
    );
    let parsed = (
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    );
    let deleted = (
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    );
    let remaining = if left.resources.is_empty() {
        (
            "False",
            "ContentRemoved",
            "All content successfully removed".to_owned(),
        )
    } else {
        let text = list(&left.resources, "resource");
        (
            "True",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {text}"),
        )
    };
    let finalizers = if left.finalizers.is_empty() {
        (
            "False",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished".to_owned(),
        )
    } else {
        let text = list(&left.finalizers, "finalizer");
        (
            "True",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {text}"),
        )
    };
    let states = [
        (
            "NamespaceDeletionDiscoveryFailure",
            failure(&left.discovery_errors, "DiscoveryFailed", discovered),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            failure(&[], "", parsed),
        ),
        (
            "NamespaceDeletionContentFailure",
            failure(&left.errors, "ContentDeletionFailed", deleted),
        ),
        ("NamespaceContentRemaining", remaining),
        ("NamespaceFinalizersRemaining", finalizers),
    ];
    let mut out: Vec<Value> = old
        .iter()
        .filter(|c| !states.iter().any(|(kind, _)| c["type"] == *kind))
        .cloned()
        .collect();
    for (kind, (status, reason, message)) in states {
        let before = old
            .iter()
            .find(|c| c["type"] == kind && c["status"] == status);
        let since = before.map_or_else(
            || api::time::seconds(now).into(),
            |c| c["lastTransitionTime"].clone(),
        );
        out.push(json!({
            "type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
        }));
    }
    out
}

pub(crate) fn start(env: Env) {
    let namespaces = env.informers.all::<NamespaceView>();
    let pods = env.informers.all::<PodView>();
    let queue = env.queue("namespace");
    enqueue_changes(&namespaces, &queue);
    // The last Pod of a namespace that waits for it.
    let (q, known) = (queue.clone(), namespaces.clone());
    pods.on_change(move |change| {
        let (namespace, _) = client::meta::split_key(&change.key);
        if change.new.is_none() && known.get(namespace).is_some_and(|n| is_terminating(&n)) {
            q.add(Arc::from(namespace));
        }
    });
    let ready = {
        let namespaces = namespaces.clone();
        async move { namespaces.synced().await }
    };
    let (client, clock) = (env.client.clone(), env.clone());
    env.run(queue, ready, move |key| {
        let (namespaces, client, clock) = (namespaces.clone(), client.clone(), clock.clone());
        async move { settled(reconcile(&client, &namespaces, &key, clock.now()).await) }
    });
}

fn is_terminating(namespace: &NamespaceView) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

async fn reconcile(
    client: &Client,
    namespaces: &Informer<NamespaceView>,
    key: &Key,
    now: Timestamp,
) -> Result<Outcome, Error> {
    let Some(namespace) = namespaces.get(key).filter(|n| is_terminating(n)) else {
        return Ok(Outcome::Done);
    };
    if !namespace.spec.finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(Outcome::Done);
    }
    let left = empty(client, key).await;
    if left.is_nothing() {
        let mut object: Value = client.get(&kinds::NAMESPACES, "", key).await?;
        if object["metadata"]["uid"] != namespace.metadata.uid.as_str() {
            return Ok(Outcome::Done);
        }
        if let Some(finalizers) = object["spec"]["finalizers"].as_array_mut() {
            finalizers.retain(|f| f != FINALIZER);
        }
        client
            .update::<serde::de::IgnoredAny>(&kinds::NAMESPACES, "", key, "finalize", &object)
            .await?;
        return Ok(Outcome::Done);
    }
    write::put(
        client,
        &kinds::NAMESPACES,
        &namespace.metadata,
        "status",
        |object| {
            let old = object["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            object["status"]["phase"] = "Terminating".into();
            object["status"]["conditions"] = conditions(&left, &old, now).into();
        },
    )
    .await?;
    Ok(Outcome::After(AGAIN))
}

/// Deletes everything in a namespace, as far as it goes, and tells what is left.
async fn empty(client: &Client, namespace: &str) -> Left {
    let mut left = Left::default();
    let (kinds, errors) = discovery::kinds(client).await;
    left.discovery_errors = errors;
    let mut kinds: Vec<Kind> = kinds
        .into_iter()
        .filter(|k| k.namespaced && k.can("list") && k.can("delete"))
        .collect();
    kinds.sort_by_key(|k| k.plural != "pods");
    for kind in kinds {
        if let Err(error) = empty_kind(client, &kind, namespace, &mut left).await {
            left.errors.push(error.to_string());
        }
        if kind.plural == "pods" && !left.resources.is_empty() {
            break;
        }
    }
    left
}

async fn empty_kind(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    left: &mut Left,
) -> Result<(), Error> {
    let collection = kind.path(namespace, "");
    let body = Bytes::from_static(br#"{"propagationPolicy":"Background"}"#);
    let before = discovery::list(client, &collection).await?;
    if before.is_empty() {
        return Ok(());
    }
    if kind.can("deletecollection") {
        client
            .call(
                Method::DELETE,
                &collection,
                Some(("application/json", body)),
            )
            .await?;
    } else {
        for meta in &before {
            let path = kind.path(namespace, &meta.name);
            match client
                .call(
                    Method::DELETE,
                    &path,
                    Some(("application/json", body.clone())),
                )
                .await
            {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    let after = discovery::list(client, &collection).await?;
    if after.is_empty() {
        return Ok(());
    }
    let group = if kind.group.is_empty() {
        String::new()
    } else {
        kind.group.clone()
    };
    left.resources
        .push((format!("{}.{group}", kind.plural), after.len()));
    for finalizer in after.iter().flat_map(|m| &m.finalizers) {
        match left.finalizers.iter_mut().find(|(f, _)| f == finalizer) {
            Some((_, n)) => *n += 1,
            None => left.finalizers.push((finalizer.clone(), 1)),
        }
    }
    Ok(())
}
