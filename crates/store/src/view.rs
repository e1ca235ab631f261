//! What readers see of an engine: the committed state, its past, and the watches.
//!
//! A watch or a range at a revision that memory no longer holds reads the log through an [`Archive`]. Positions are looked
//! up under the lock, some thousand at a time; reading happens without it. When what was looked up is gone meanwhile (its
//! segments were recycled), reading fails, and the reader is told what is true by then: that the revision is compacted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::mpsc;
use world::metrics::Metrics;

use crate::history::{Archive, At, Index, Place, Version};
use crate::state::{Slot, Tree};
use crate::watch::{Batch, Hub, Old, Then, Window};
use crate::{Entry, Error, Event, Range, Watch, wire};

/// Changes that are read from disk at a time for one watch.
const CHUNK: usize = 256;

struct Visible {
    tree: Tree,
    revision: u64,
}

/// The readable side of an engine. Changes enter through [`View::publish`] only, in revision order.
pub(crate) struct View {
    /// Taken for a moment to copy a pointer; written only with `hub` held, so that both show the same revision.
    visible: RwLock<Visible>,
    hub: Mutex<Hub>,
    archive: Option<Arc<dyn Archive>>,
    watch_queue: usize,
}

impl View {
    pub(crate) fn new(
        tree: Tree,
        revision: u64,
        hub: Hub,
        archive: Option<Arc<dyn Archive>>,
        window: Window,
    ) -> Self {
        Self {
            visible: RwLock::new(Visible { tree, revision }),
            hub: Mutex::new(hub),
            archive,
            watch_queue: window.watch_queue,
        }
    }

    pub(crate) fn empty(window: Window, metrics: &Metrics) -> Self {
        let hub = Self::hub_of(window, false, metrics);
        Self::new(Tree::default(), 1, hub, None, window)
    }

    pub(crate) fn hub_of(window: Window, on_disk: bool, metrics: &Metrics) -> Hub {
        let index = on_disk.then(|| {
            Index::new(metrics.gauge(
                "skiff_store_history",
                "Changes whose place in the log is known.",
                "",
            ))
        });
        Hub::new(
            window,
            index,
            metrics.gauge(
                "skiff_store_watches",
                "Watches that are open on the store.",
                "",
            ),
        )
    }

    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The committed state and its revision.
    pub(crate) fn snapshot(&self) -> (Tree, u64) {
        let visible = self.visible.read().unwrap_or_else(PoisonError::into_inner);
        (visible.tree.clone(), visible.revision)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.visible
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        let visible = self.visible.read().unwrap_or_else(PoisonError::into_inner);
        visible.tree.get(key).map(|s| s.entry.clone())
    }

    pub(crate) async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error> {
        let (tree, current) = self.snapshot();
        let (entries, remaining) = match at {
            None => tree.range(prefix, start_after, limit),
            Some(at) => {
                self.range_at(prefix, start_after, limit, at, (tree, current))
                    .await?
            }
        };
        Ok(Range {
            revision: at.unwrap_or(current),
            entries,
            remaining,
        })
    }

    async fn range_at(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        limit: usize,
        at: u64,
        (mut tree, current): (Tree, u64),
    ) -> Result<(Vec<Arc<Entry>>, u64), Error> {
        let (mut then, mut reached) = (BTreeMap::new(), at);
        loop {
            {
                let hub = self.hub();
                hub.check(at, current)?;
                if reached < current {
                    reached = hub.rewind(prefix, (reached, current), &mut then)?;
                }
            }
            if reached >= current {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut on_disk: BTreeMap<Arc<str>, Version> = BTreeMap::new();
        for (i, (key, was)) in then.into_iter().enumerate() {
            if i % 1024 == 1023 {
                tokio::task::yield_now().await;
            }
            let entry = match was {
                Then::Absent => {
                    tree.remove(&key);
                    continue;
                }
                Then::Held(entry) => entry,
                Then::OnDisk(version) => {
                    let blank = blank(&version);
                    on_disk.insert(key, version);
                    blank
                }
            };
            tree.insert(Slot {
                entry,
                expires_ms: 0,
            });
        }
        let (mut entries, remaining) = tree.range(prefix, start_after, limit);
        // Only those of this page are read.
        let (places, wanted): (Vec<usize>, Vec<Version>) = entries
            .iter()
            .enumerate()
            .filter_map(|(i, e)| Some((i, on_disk.get(&e.key)?.clone())))
            .unzip();
        for (place, entry) in places.into_iter().zip(self.read(wanted, at).await?) {
            entries[place] = entry;
        }
        Ok((entries, remaining))
    }

    /// Reads versions that were current at some moment after `since`.
    async fn read(&self, versions: Vec<Version>, since: u64) -> Result<Vec<Arc<Entry>>, Error> {
        if versions.is_empty() {
            return Ok(Vec::new());
        }
        let read = match &self.archive {
            Some(archive) => archive.read(versions).await,
            None => Err(Error::Damaged("this store keeps nothing on disk".into())),
        };
        if read.is_err() {
            // Perhaps it was recycled while we read.
            self.hub().check(since, u64::MAX)?;
        }
        read
    }

    pub(crate) async fn watch(self: &Arc<Self>, prefix: &str, after: u64) -> Result<Watch, Error> {
        let (queue, events) = mpsc::channel(self.watch_queue.max(1) + 2);
        let reserve = || queue.clone().try_reserve_owned().map_err(|_| Error::Closed);
        let (last_word, backlog) = (reserve()?, reserve()?);
        let joined = Arc::new(AtomicBool::new(false));
        let (view, is_joined) = (self.clone(), joined.clone());
        let told = Box::new(move || {
            // Under the hub's lock no change is visible that is not told yet.
            let hub = view.hub();
            let told = is_joined.load(Ordering::Acquire).then(|| view.revision());
            drop(hub);
            told
        });
        {
            let mut hub = self.hub();
            hub.check(after, self.revision())?;
            if hub.is_recent(after) {
                hub.join(prefix, after, backlog, last_word);
                joined.store(true, Ordering::Release);
                return Ok(Watch { events, told });
            }
        }
        drop(backlog);
        let (view, prefix) = (self.clone(), prefix.to_owned());
        tokio::spawn(async move {
            view.catch_up(&prefix, after, queue, last_word, &joined)
                .await;
        });
        Ok(Watch { events, told })
    }

    /// Tells a watcher what happened after `after` from disk, as fast as it takes it, until the recent changes go on from
    /// there; then it joins those who are told of what happens.
    async fn catch_up(
        &self,
        prefix: &str,
        mut after: u64,
        queue: mpsc::Sender<Batch>,
        last_word: mpsc::OwnedPermit<Batch>,
        joined: &AtomicBool,
    ) {
        loop {
            // An error here: nobody listens any more.
            let Ok(place) = queue.clone().reserve_owned().await else {
                return;
            };
            let found = {
                let mut hub = self.hub();
                match hub.check(after, u64::MAX) {
                    Ok(()) if hub.is_recent(after) => {
                        hub.join(prefix, after, place, last_word);
                        return joined.store(true, Ordering::Release);
                    }
                    Ok(()) => hub.old(prefix, after, CHUNK),
                    Err(error) => Err(error),
                }
            };
            let told = match found {
                Ok((found, reached)) => self.events(found, after).await.map(|e| (e, reached)),
                Err(error) => Err(error),
            };
            match told {
                Ok((events, reached)) => {
                    after = reached;
                    if events.is_empty() {
                        tokio::task::yield_now().await;
                    } else {
                        place.send(Ok(events));
                    }
                }
                Err(error) => {
                    last_word.send(Err(error));
                    return;
                }
            }
        }
    }

    /// Reads what makes up `changes`, each version once.
    async fn events(&self, changes: Vec<Old>, since: u64) -> Result<Vec<Event>, Error> {
        let mut wanted: BTreeMap<(Arc<str>, u64), Version> = BTreeMap::new();
        for version in changes
            .iter()
            .flat_map(|o| [&o.entry, &o.previous])
            .flatten()
        {
            wanted.insert((version.key.clone(), version.revision), version.clone());
        }
        let (names, versions): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
        let read = self.read(versions, since).await?;
        let read: BTreeMap<_, _> = names.into_iter().zip(read).collect();
        let get = |version: &Option<Version>| {
            let version = version.as_ref()?;
            read.get(&(version.key.clone(), version.revision)).cloned()
        };
        let events = changes.iter().map(|old| {
            let previous = get(&old.previous);
            let entry = match (&old.entry, &previous) {
                (None, Some(last)) => Some(wire::tombstone(last, old.past.revision)),
                (entry, _) => get(entry),
            };
            let entry = entry.ok_or_else(|| {
                let Old { past, .. } = old;
                Error::Damaged(format!(
                    "nothing was read for {}@{}",
                    past.key, past.revision
                ))
            })?;
            Ok(Event {
                entry,
                previous,
                deleted: old.entry.is_none(),
            })
        });
        events.collect()
    }

    /// Makes `tree` what readers see, and tells the watchers. `place`: the group that holds the changes, if they are written.
    pub(crate) fn publish(
        &self,
        tree: Tree,
        revision: u64,
        events: &[Event],
        place: Option<Place>,
        now_ms: i64,
    ) {
        let mut hub = self.hub();
        let old = {
            let mut visible = self.visible.write().unwrap_or_else(PoisonError::into_inner);
            visible.revision = revision;
            std::mem::replace(&mut visible.tree, tree)
        };
        let left = hub.publish(events, place, now_ms);
        drop(hub);
        drop((old, left));
    }

    pub(crate) fn compact(&self, revision: u64) -> Result<(), Error> {
        let mut hub = self.hub();
        let current = self.revision();
        if revision > current {
            return Err(Error::Future {
                asked: revision,
                current,
            });
        }
        if revision < hub.compacted() {
            return Err(Error::Compacted {
                asked: revision,
                oldest: hub.compacted(),
            });
        }
        let left = hub.forget(revision);
        drop(hub);
        drop(left);
        Ok(())
    }

    /// The log is kept from `revision` on: what only stood before is forgotten. Called before it is removed.
    pub(crate) fn set_base(&self, revision: u64) {
        drop(self.hub().set_base(revision));
        while let Some(page) = { self.hub().take_stale() } {
            drop(page);
        }
    }
}

/// Stands for a version that is still to be read.
fn blank(version: &Version) -> Arc<Entry> {
    Arc::new(Entry {
        key: version.key.clone(),
        wire: Bytes::new(),
        rv_span: (0, 0),
        revision: version.revision,
        created: match version.at {
            At::Log { created, .. } => created,
            At::Checkpoint(_) => 0,
        },
        beside: Arc::new(()),
    })
}
