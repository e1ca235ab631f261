//! Informers: a component's local copy of the objects it follows, as small views, kept current by list and watch.
//!
//! One informer per view type and selector is shared by everyone in a process that holds the same [`Informers`], so that an
//! event is decoded once (law 3). Handlers run in the informer's task and must only enqueue keys.
//!
//! ```text
//!   Listing ── list answered ──► Watching ── stream ended ──► Watching (from the last revision)
//!      ▲                            │
//!      └──── 410 Gone, or error ◄───┘   (after a back-off)
//! ```

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use skiff_http::percent::escape;
use tokio::sync::watch;
use world::{Backoff, Shutdown};

use crate::request::List;
use crate::watch::{EventType, WatchStream};
use crate::{Client, Error, ObjectMeta, Resource};

/// A struct with the fields of a kind that a component uses.
pub trait View: DeserializeOwned + Send + Sync + 'static {
    /// The kind it is a view of.
    const RESOURCE: Resource;
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
}

/// Which objects an informer follows. The default is all of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Empty: all namespaces.
    pub namespace: String,
    /// As in `fieldSelector=`.
    pub fields: String,
    /// As in `labelSelector=`.
    pub labels: String,
}

/// What happened to one object. Both are `Some` for a change; a relist may fold several changes into one.
pub struct Change<V> {
    pub key: Arc<str>,
    pub old: Option<Arc<V>>,
    pub new: Option<Arc<V>>,
}

type Handler<V> = Box<dyn Fn(&Change<V>) + Send + Sync>;

struct Shared<V> {
    objects: RwLock<BTreeMap<Arc<str>, Arc<V>>>,
    handlers: Mutex<Vec<Handler<V>>>,
    synced: watch::Sender<bool>,
    /// Keys of objects that are there but could not be read, and of which no older view is known.
    unread: Mutex<BTreeSet<Arc<str>>>,
}

/// An object as it came, or the last view of it.
struct Seen<V> {
    key: Arc<str>,
    revision: String,
    view: Option<Arc<V>>,
}

/// The local copy of one selection of one kind.
pub struct Informer<V> {
    shared: Arc<Shared<V>>,
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// The informers by view type and selection; each is an `Informer` of its type.
type Running = HashMap<(TypeId, Selector), Box<dyn Any + Send + Sync>>;

/// All informers of a component (or of several that trust each other's permissions).
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: Shutdown,
    running: Arc<Mutex<Running>>,
}

impl Informers {
    /// Informers that use `client` and stop at `shutdown`.
    #[must_use]
    pub fn new(client: Client, shutdown: Shutdown) -> Self {
        Self {
            client,
            shutdown,
            running: Arc::default(),
        }
    }

    /// The informer of all objects of `V`'s kind.
    #[must_use]
    pub fn all<V: View>(&self) -> Informer<V> {
        self.select(Selector::default())
    }

    /// The informer of the selected objects of `V`'s kind; started at first use. Must be called inside a runtime.
    #[must_use]
    pub fn select<V: View>(&self, selector: Selector) -> Informer<V> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = running
            .entry((TypeId::of::<V>(), selector.clone()))
            .or_insert_with(|| {
                let informer = Informer::<V> {
                    shared: Arc::new(Shared {
                        objects: RwLock::default(),
                        handlers: Mutex::default(),
                        synced: watch::Sender::new(false),
                        unread: Mutex::default(),
                    }),
                };
                let (client, shared) = (self.client.clone(), informer.shared.clone());
                // A handler may panic.
                let task = world::supervise(V::RESOURCE.kind, move || {
                    reflect(client.clone(), selector.clone(), shared.clone())
                });
                let shutdown = self.shutdown.clone();
                tokio::spawn(shutdown.run_until_cancelled_owned(task));
                Box::new(informer)
            });
        match slot.downcast_ref::<Informer<V>>() {
            Some(informer) => informer.clone(),
            None => unreachable!("the map's key holds the type"),
        }
    }
}

impl<V: View> Informer<V> {
    /// The object's latest known view. `key` is `namespace/name`, or the name.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<V>> {
        self.read().get(key).cloned()
    }

    /// All objects, by key.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<V>> {
        self.read().values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<V>> {
        let prefix = format!("{namespace}/");
        let objects = self.read();
        objects
            .range::<str, _>((
                std::ops::Bound::Included(prefix.as_str()),
                std::ops::Bound::Unbounded,
            ))
            .take_while(|(key, _)| key.starts_with(&prefix))
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Arc<str>, Arc<V>>> {
        self.shared
            .objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `handler` for each object that is there (as added) and then for each change. It runs in the informer's
    /// task: it must not block, and usually only puts a key into a queue.
    pub fn on_change(&self, handler: impl Fn(&Change<V>) + Send + Sync + 'static) {
        // Holding the handlers' lock keeps changes from being announced between the replay and the registration.
        let mut handlers = self
            .shared
            .handlers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let present: Vec<_> = self
            .read()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for (key, object) in present {
            handler(&Change {
                key,
                old: None,
                new: Some(object),
            });
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        if synced.wait_for(|done| *done).await.is_err() {
            // The informer's task ended: the process is shutting down, and so will the caller.
            std::future::pending::<()>().await;
        }
    }

    /// Whether each object that there is could be read. Who takes absence for a deletion should ask.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let unread = self.shared.unread.lock();
        unread.unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether the first list is in.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

impl<V: View> Shared<V> {
    /// Puts `new` in the place of `key`'s object and tells the handlers.
    fn replace(&self, key: Arc<str>, new: Option<Arc<V>>) {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let old = match &new {
            Some(object) => objects.insert(key.clone(), object.clone()),
            None => objects.remove(&key),
        };
        drop(objects);
        if old.is_none() && new.is_none() {
            return;
        }
        if let (Some(old), Some(new)) = (&old, &new)
            && old.meta().resource_version == new.meta().resource_version
        {
            return;
        }
        let change = Change { key, old, new };
        for handler in &*handlers {
            handler(&change);
        }
    }

    /// The object in `json`; if it cannot be read, the last view of it that could, so that it is not taken for deleted.
    fn read(&self, json: &str) -> Result<Seen<V>, Error> {
        let unreadable = match serde_json::from_str::<V>(json) {
            Ok(view) => {
                let revision = view.meta().resource_version.clone();
                let key: Arc<str> = view.meta().key().into();
                self.unread().remove(&key);
                let view = Some(Arc::new(view));
                return Ok(Seen {
                    key,
                    revision,
                    view,
                });
            }
            Err(error) => error,
        };
        #[derive(serde::Deserialize)]
        struct Head {
            metadata: ObjectMeta,
        }
        let head: Head = serde_json::from_str(json).map_err(|e| {
            Error::Decode(
                format!("an object of kind {}", V::RESOURCE.kind),
                e.to_string(),
            )
        })?;
        let key: Arc<str> = head.metadata.key().into();
        tracing::error!(kind = V::RESOURCE.kind, key = &*key, error = %unreadable, "an object cannot be read");
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        let view = objects.get(&key).cloned();
        drop(objects);
        if view.is_none() {
            self.unread().insert(key.clone());
        }
        let revision = head.metadata.resource_version;
        Ok(Seen {
            key,
            revision,
            view,
        })
    }

    fn unread(&self) -> MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the copy equal to a list.
    fn replace_all(&self, items: Vec<Arc<V>>) {
        let listed: BTreeMap<Arc<str>, Arc<V>> = items
            .into_iter()
            .map(|v| (Arc::from(v.meta().key()), v))
            .collect();
        let known: Vec<Arc<str>> = self
            .objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        for gone in known.into_iter().filter(|k| !listed.contains_key(k)) {
            self.replace(gone, None);
        }
        for (key, object) in listed {
            self.replace(key, Some(object));
        }
        self.synced.send_replace(true);
    }
}

impl Selector {
    fn query(&self) -> String {
        let mut query = String::new();
        for (name, value) in [
            ("fieldSelector", &self.fields),
            ("labelSelector", &self.labels),
        ] {
            if !value.is_empty() {
                query.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        query
    }
}

async fn reflect<V: View>(client: Client, selector: Selector, shared: Arc<Shared<V>>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
    let path = V::RESOURCE.path(&selector.namespace, "", "");
    let query = selector.query();
    loop {
        match list(&client, &selector, &shared).await {
            Ok(revision) => {
                if let Err(error) =
                    follow(&client, &path, &query, revision, &shared, &mut backoff).await
                    && !error.is_expired()
                {
                    tracing::debug!(kind = V::RESOURCE.kind, %error, "watch failed; listing again");
                }
            }
            Err(error) => {
                tracing::warn!(kind = V::RESOURCE.kind, %error, "cannot list");
            }
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Lists, in pages, and returns the revision to watch from.
async fn list<V: View>(
    client: &Client,
    selector: &Selector,
    shared: &Shared<V>,
) -> Result<String, Error> {
    let (mut items, mut page) = (Vec::new(), String::new());
    shared.unread().clear();
    loop {
        let query = format!("limit=2000{}{page}", selector.query());
        let list: List<Box<RawValue>> = client
            .list(&V::RESOURCE, &selector.namespace, &query)
            .await?;
        for item in list.items {
            items.extend(shared.read(item.get())?.view);
        }
        if list.metadata.continue_token.is_empty() {
            shared.replace_all(items);
            return Ok(list.metadata.resource_version);
        }
        page = format!("&continue={}", escape(&list.metadata.continue_token));
    }
}

/// Follows changes until an error; a watch that merely ends is opened again where it stopped.
async fn follow<V: View>(
    client: &Client,
    path: &str,
    query: &str,
    mut revision: String,
    shared: &Shared<V>,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    loop {
        let url =
            format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}{query}");
        let mut stream = client.watch(&url).await?;
        let mut quiet = true;
        while let Some(line) = stream.next_line().await? {
            let event = WatchStream::decode(&line)?;
            quiet = false;
            backoff.reset();
            if event.kind == EventType::Bookmark {
                #[derive(serde::Deserialize)]
                struct Bookmark {
                    metadata: ObjectMeta,
                }
                if let Ok(mark) = serde_json::from_str::<Bookmark>(event.object.get()) {
                    revision = mark.metadata.resource_version;
                }
                continue;
            }
            let seen = shared.read(event.object.get())?;
            revision = seen.revision;
            if event.kind == EventType::Deleted {
                shared.unread().remove(&seen.key);
                shared.replace(seen.key, None);
            } else if seen.view.is_some() {
                shared.replace(seen.key, seen.view);
            }
        }
        if quiet {
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }
}
