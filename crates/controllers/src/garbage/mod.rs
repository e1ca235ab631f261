//! Deletes what nobody owns any more.
//!
//! Follows <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#owners-dependents>. The metadata of all
//! kinds that can be listed, watched and deleted is followed in one [`graph`]; every decision is checked against the API
//! server before anything is deleted, since the graph may be behind.
//!
//! ```text
//!   owner deleted ──background──► owner gone ──► dependents deleted
//!                 ──foreground──► dependents deleted ──► owner's finalizer off
//!                 ──orphan──────► dependents let go ──► owner's finalizer off
//! ```

pub(crate) mod discovery;
mod graph;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use client::request::List;
use client::watch::{EventType, WatchStream};
use client::{Client, DeleteOptions, Error, ObjectMeta, OwnerReference, Propagation};
use http::Method;
use reconcile::{Outcome, Queue};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use world::Backoff;

use crate::env::{Env, Key, settled};
use discovery::{Kind, Meta};
use graph::{FOREGROUND, Graph, Node, ORPHAN};

/// Kinds are looked for again this long after a CustomResourceDefinition or APIService changed, or discovery failed.
const DISCOVERY: Duration = Duration::from_secs(1);

/// How long the first list of a kind may take. Going on without it is safe: unknown owners are asked for.
const PATIENCE: Duration = Duration::from_secs(30);

struct Collector {
    client: Client,
    reader: Client,
    queue: Queue<Key>,
    graph: Mutex<Graph>,
    /// Other kinds may be served now.
    kinds_changed: Notify,
    /// By group and kind, for resolving owner references.
    kinds: Mutex<BTreeMap<(String, String), Arc<Kind>>>,
}

/// `reader` may list and watch everything.
pub(crate) fn start(env: Env, reader: Client) {
    let queue = env.queue("garbage_collector");
    let collector = Arc::new(Collector {
        client: env.client.clone(),
        reader,
        queue: queue.clone(),
        graph: Mutex::default(),
        kinds_changed: Notify::new(),
        kinds: Mutex::default(),
    });
    let (synced, mut all) = watch::channel(false);
    let watching = collector.clone().follow_all(env.shutdown.clone(), synced);
    tokio::spawn(env.shutdown.clone().run_until_cancelled_owned(watching));
    let ready = async move {
        if all.wait_for(|done| *done).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    env.run(queue, ready, move |uid| {
        let collector = collector.clone();
        async move { settled(collector.look_at(&uid).await) }
    });
}

/// What became of one owner reference.
enum Owner {
    There,
    Gone,
    /// It is being deleted in the foreground.
    Waiting,
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, uids: Vec<String>) {
        for uid in uids {
            self.queue.add(Key::from(uid));
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<(String, String), Arc<Kind>>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts following each kind as it is discovered. `synced` turns true when the first ones are listed: before that
    /// an owner might merely not be listed yet.
    async fn follow_all(self: Arc<Self>, shutdown: world::Shutdown, synced: watch::Sender<bool>) {
        loop {
            let (kinds, errors) = discovery::kinds(&self.reader).await;
            for error in &errors {
                tracing::warn!(error, "the garbage collector cannot discover all kinds");
            }
            let mut first = Vec::new();
            for kind in kinds {
                let followed = ["list", "watch", "delete"].iter().all(|v| kind.can(v))
                    && kind.plural != "events";
                let id = (kind.group.clone(), kind.kind.clone());
                if self.known().contains_key(&id) || !kind.can("get") {
                    continue;
                }
                let kind = Arc::new(kind);
                self.known().insert(id, kind.clone());
                if followed {
                    let (listed, done) = watch::channel(false);
                    first.push(done);
                    let task = self.clone().follow(kind, listed);
                    tokio::spawn(shutdown.clone().run_until_cancelled_owned(task));
                }
            }
            if errors.is_empty() {
                for mut done in first {
                    let waiting = tokio::time::timeout(PATIENCE, done.wait_for(|d| *d)).await;
                    if waiting.is_err() {
                        tracing::warn!(
                            "the garbage collector goes on without a kind that cannot be listed"
                        );
                    }
                }
                synced.send_replace(true);
                self.kinds_changed.notified().await;
            }
            tokio::time::sleep(DISCOVERY).await;
        }
    }

    /// Keeps the graph current with one kind.
    async fn follow(self: Arc<Self>, kind: Arc<Kind>, listed: watch::Sender<bool>) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        let mut present: BTreeMap<String, ()> = BTreeMap::new();
        loop {
            match self
                .list_and_watch(&kind, &listed, &mut present, &mut backoff)
                .await
            {
                Ok(()) => {}
                Err(error) if error.is_expired() => {}
                Err(error) => {
                    tracing::debug!(kind = kind.kind, %error, "watch failed; listing again")
                }
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn list_and_watch(
        &self,
        kind: &Arc<Kind>,
        listed: &watch::Sender<bool>,
        present: &mut BTreeMap<String, ()>,
        backoff: &mut Backoff,
    ) -> Result<(), Error> {
        let path = kind.path("", "");
        let bytes: Bytes = self.reader.call(Method::GET, &path, None).await?;
        let list: List<Meta> = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Decode(path.clone(), e.to_string()))?;
        let mut before = std::mem::take(present);
        for item in list.items {
            before.remove(&item.metadata.uid);
            present.insert(item.metadata.uid.clone(), ());
            let look = self.graph().put(kind, &item.metadata);
            self.look(look);
        }
        for uid in before.keys() {
            let look = self.graph().remove(uid);
            self.look(look);
        }
        listed.send_replace(true);
        let mut revision = list.metadata.resource_version;
        loop {
            let url =
                format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}");
            let mut stream = self.reader.watch(&url).await?;
            let mut quiet = true;
            while let Some(line) = stream.next_line().await? {
                let event = WatchStream::decode(&line)?;
                let object: Meta = serde_json::from_str(event.object.get()).map_err(|e| {
                    Error::Decode(format!("a watched {}", kind.kind), e.to_string())
                })?;
                let meta = object.metadata;
                revision.clone_from(&meta.resource_version);
                (quiet, *backoff) = (
                    false,
                    Backoff::new(Duration::from_millis(100), Duration::from_secs(30)),
                );
                let tells_kinds = matches!(
                    kind.plural.as_str(),
                    "customresourcedefinitions" | "apiservices"
                );
                if tells_kinds && event.kind != EventType::Bookmark {
                    self.kinds_changed.notify_one();
                }
                let look = match event.kind {
                    EventType::Added | EventType::Modified => {
                        present.insert(meta.uid.clone(), ());
                        self.graph().put(kind, &meta)
                    }
                    EventType::Deleted => {
                        present.remove(&meta.uid);
                        self.graph().remove(&meta.uid)
                    }
                    EventType::Bookmark | EventType::Error => Vec::new(),
                };
                self.look(look);
            }
            if quiet {
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }

    async fn live(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, Error> {
        let path = kind.path(namespace, name);
        match self.client.call(Method::GET, &path, None).await {
            Ok(bytes) => {
                let object: Meta = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::Decode(path, e.to_string()))?;
                Ok(Some(object.metadata))
            }
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn look_at(&self, uid: &str) -> Result<Outcome, Error> {
        let Some(node) = self.graph().get(uid).cloned() else {
            return Ok(Outcome::Done);
        };
        if node.is_orphaning() {
            self.orphan(uid, &node).await?;
            return Ok(Outcome::Done);
        }
        if node.is_deleting_dependents() {
            return self.delete_dependents(uid, &node).await;
        }
        if node.deleting || node.owners.is_empty() {
            return Ok(Outcome::Done);
        }
        let Some(meta) = self.live(&node.kind, &node.namespace, &node.name).await? else {
            return Ok(Outcome::Done);
        };
        if meta.uid != uid || meta.owner_references.is_empty() {
            return Ok(Outcome::Done);
        }
        let (mut there, mut gone, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &meta.owner_references {
            match self.owner(owner, &node).await? {
                Owner::There => there += 1,
                Owner::Gone => gone.push(owner.uid.clone()),
                Owner::Waiting => waiting.push(owner.uid.clone()),
            }
        }
        if there > 0 {
            // It has another owner to live for: the others no longer count.
            let lost: Vec<String> = gone.into_iter().chain(waiting).collect();
            if !lost.is_empty() {
                self.change(&node, &meta, |m| {
                    m.owner_references.retain(|o| !lost.contains(&o.uid))
                })
                .await?;
            }
            return Ok(Outcome::Done);
        }
        let has_dependents = !self.graph().dependents_of(uid).is_empty();
        let policy = if !waiting.is_empty() && has_dependents {
            Propagation::Foreground
        } else if meta.finalizers.iter().any(|f| f == ORPHAN) {
            Propagation::Orphan
        } else if meta.finalizers.iter().any(|f| f == FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.delete(&node, &meta, policy).await?;
        Ok(Outcome::Done)
    }

    /// Whether an owner is there: by the graph, and asked for where the graph does not know it.
    async fn owner(&self, owner: &OwnerReference, of: &Node) -> Result<Owner, Error> {
        if let Some(known) = self.graph().get(&owner.uid) {
            return Ok(if known.is_deleting_dependents() {
                Owner::Waiting
            } else {
                Owner::There
            });
        }
        let (group, _) = api::facts::split_api_version(&owner.api_version);
        let kind = self
            .known()
            .get(&(group.to_owned(), owner.kind.clone()))
            .cloned();
        let Some(kind) = kind else {
            self.kinds_changed.notify_one();
            let what = format!("an owner of kind {} {}", owner.api_version, owner.kind);
            return Err(Error::Decode(what, "no such kind is served".into()));
        };
        let namespace = if kind.namespaced {
            of.namespace.as_str()
        } else {
            ""
        };
        if kind.namespaced && namespace.is_empty() {
            // Something cluster-wide cannot belong to something in a namespace; upstream lets it live and warns.
            tracing::warn!(
                object = of.name,
                owner = owner.name,
                "owner reference across namespaces"
            );
            return Ok(Owner::There);
        }
        Ok(match self.live(&kind, namespace, &owner.name).await? {
            Some(meta) if meta.uid == owner.uid => {
                let foreground = meta.finalizers.iter().any(|f| f == FOREGROUND);
                if meta.deletion_timestamp.is_some() && foreground {
                    Owner::Waiting
                } else {
                    Owner::There
                }
            }
            _ => Owner::Gone,
        })
    }

    async fn delete_dependents(&self, uid: &str, node: &Node) -> Result<Outcome, Error> {
        let blocking = self.graph().blocking(uid);
        if blocking.is_empty() {
            self.drop_finalizer(uid, node, FOREGROUND).await?;
        }
        let pending: Vec<String> = {
            let graph = self.graph();
            let pending = |d: &String| graph.get(d).is_some_and(|n| !n.deleting);
            graph
                .dependents_of(uid)
                .into_iter()
                .filter(pending)
                .collect()
        };
        self.look(pending);
        Ok(Outcome::Done)
    }

    /// Lets go of everything that the object owns, then of the object.
    async fn orphan(&self, uid: &str, node: &Node) -> Result<(), Error> {
        let dependents: Vec<Node> = {
            let graph = self.graph();
            graph
                .dependents_of(uid)
                .iter()
                .filter_map(|d| graph.get(d).cloned())
                .collect()
        };
        for dependent in dependents {
            let Some(meta) = self
                .live(&dependent.kind, &dependent.namespace, &dependent.name)
                .await?
            else {
                continue;
            };
            self.change(&dependent, &meta, |m| {
                m.owner_references.retain(|o| o.uid != uid)
            })
            .await?;
        }
        self.drop_finalizer(uid, node, ORPHAN).await
    }

    async fn drop_finalizer(&self, uid: &str, node: &Node, finalizer: &str) -> Result<(), Error> {
        match self.live(&node.kind, &node.namespace, &node.name).await? {
            Some(meta) if meta.uid == uid => {
                self.change(node, &meta, |m| m.finalizers.retain(|f| f != finalizer))
                    .await
            }
            _ => Ok(()),
        }
    }

    /// Changes an object's owners and finalizers, if it is still the version that `meta` shows.
    async fn change(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        change: impl FnOnce(&mut ObjectMeta),
    ) -> Result<(), Error> {
        let mut new = meta.clone();
        change(&mut new);
        if new == *meta {
            return Ok(());
        }
        let null_if_empty = |v: Value| {
            if v.as_array().is_some_and(Vec::is_empty) {
                Value::Null
            } else {
                v
            }
        };
        let patch = json!({"metadata": {
            "uid": meta.uid,
            "resourceVersion": meta.resource_version,
            "ownerReferences": null_if_empty(json!(new.owner_references)),
            "finalizers": null_if_empty(json!(new.finalizers)),
        }});
        let path = node.kind.path(&node.namespace, &node.name);
        let body = Bytes::from(patch.to_string());
        let content = Some(("application/merge-patch+json", body));
        match self.client.call(Method::PATCH, &path, content).await {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }

    async fn delete(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        policy: Propagation,
    ) -> Result<(), Error> {
        let mut options = DeleteOptions::default().with_uid(&meta.uid);
        options.propagation_policy = Some(policy);
        options
            .preconditions
            .get_or_insert_default()
            .resource_version = Some(meta.resource_version.clone());
        let path = node.kind.path(&node.namespace, &node.name);
        let body =
            serde_json::to_vec(&options).map_err(|e| Error::Decode(path.clone(), e.to_string()))?;
        match self
            .client
            .call(
                Method::DELETE,
                &path,
                Some(("application/json", body.into())),
            )
            .await
        {
            Err(e) if !e.is_not_found() => Err(e),
            _ => Ok(()),
        }
    }
}
