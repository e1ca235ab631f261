//! What readers see of an engine: the committed state, its recent past, and the watches.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::state::Tree;
use crate::watch::{Hub, Window};
use crate::{Entry, Error, Event, Range, Watch};
use world::metrics::Metrics;

struct Visible {
    tree: Tree,
    revision: u64,
}

/// The readable side of an engine. Changes enter through [`View::publish`] only, in revision order.
pub(crate) struct View {
    /// Taken for a moment to copy a pointer; written only with `hub` held, so that both show the same revision.
    visible: RwLock<Visible>,
    hub: Mutex<Hub>,
}

impl View {
    pub(crate) fn new(tree: Tree, revision: u64, hub: Hub) -> Self {
        Self {
            visible: RwLock::new(Visible { tree, revision }),
            hub: Mutex::new(hub),
        }
    }

    pub(crate) fn empty(window: Window, metrics: &Metrics) -> Self {
        Self::new(Tree::default(), 1, Self::hub_of(window, metrics))
    }

    pub(crate) fn hub_of(window: Window, metrics: &Metrics) -> Hub {
        Hub::new(
            window,
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

    pub(crate) fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error> {
        let (tree, revision) = match at {
            None => self.snapshot(),
            Some(at) => {
                let hub = self.hub();
                let (tree, current) = self.snapshot();
                (hub.rewind(&tree, current, prefix, at)?, at)
            }
        };
        let (entries, remaining) = tree.range(prefix, start_after, limit);
        Ok(Range {
            revision,
            entries,
            remaining,
        })
    }

    pub(crate) fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Error> {
        let mut hub = self.hub();
        let current = self.revision();
        hub.watch(prefix, after, current)
    }

    /// Makes `tree` what readers see, and tells the watchers.
    pub(crate) fn publish(&self, tree: Tree, revision: u64, events: &[Event], now_ms: i64) {
        let mut hub = self.hub();
        let old = {
            let mut visible = self.visible.write().unwrap_or_else(PoisonError::into_inner);
            visible.revision = revision;
            std::mem::replace(&mut visible.tree, tree)
        };
        hub.publish(events, now_ms);
        drop(hub);
        drop(old);
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
        hub.forget(revision);
        Ok(())
    }
}
