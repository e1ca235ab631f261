//! The engine without a disk: tests, simulation, throw-away clusters.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use world::Clock;
use world::metrics::Metrics;

use crate::expiry::{self, Deadlines, Timed};
use crate::state::Tree;
use crate::transact::{self, Evaluated};
use crate::view::View;
use crate::watch::Window;
use crate::{Entry, Error, Indexer, Outcome, Range, Store, Txn, Watch};

/// A store that forgets everything when it is dropped.
pub struct Memory(Arc<Inner>);

struct Inner {
    indexer: Arc<dyn Indexer>,
    clock: Arc<dyn Clock>,
    /// The state that the next transaction sees. Held until the change is published, so that revisions appear in order.
    head: Mutex<(Tree, u64)>,
    view: Arc<View>,
    deadlines: Deadlines,
    closed: AtomicBool,
}

impl Memory {
    /// An empty store at revision 1.
    #[must_use]
    pub fn new(indexer: Arc<dyn Indexer>, clock: Arc<dyn Clock>) -> Self {
        Self::with_window(indexer, clock, Window::default())
    }

    /// An empty store that keeps another amount of history than the default.
    #[must_use]
    pub fn with_window(indexer: Arc<dyn Indexer>, clock: Arc<dyn Clock>, window: Window) -> Self {
        Self(Arc::new(Inner {
            indexer,
            clock,
            head: Mutex::new((Tree::default(), 1)),
            view: Arc::new(View::empty(window, &Metrics::default())),
            deadlines: Deadlines::default(),
            closed: AtomicBool::new(false),
        }))
    }
}

impl Inner {
    fn commit(&self, txn: Txn) -> Result<Outcome, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let now_ms = self.now_ms();
        let prepared = transact::prepare(txn, &*self.indexer, transact::MAX_VALUE, now_ms)?;
        let mut head = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        let (tree, current) = &mut *head;
        match transact::evaluate(tree, *current + 1, &prepared) {
            Evaluated::Conflict { current: found } => Ok(Outcome::Conflict {
                revision: *current,
                current: found,
            }),
            Evaluated::Nothing { entries } => Ok(Outcome::Committed {
                revision: *current,
                entries,
            }),
            Evaluated::Changed { entries, events } => {
                *current += 1;
                let revision = *current;
                self.view
                    .publish(tree.clone(), revision, &events, None, now_ms);
                drop(head);
                for (at_ms, key) in prepared.deadlines() {
                    self.deadlines.add(at_ms, key, revision);
                }
                Ok(Outcome::Committed { revision, entries })
            }
        }
    }
}

#[async_trait::async_trait]
impl Timed for Inner {
    fn deadlines(&self) -> &Deadlines {
        &self.deadlines
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    async fn expire(&self, txn: Txn) -> Result<(), Error> {
        self.commit(txn).map(drop)
    }

    fn flush_by(&self) -> Option<tokio::time::Instant> {
        None
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Memory {
    fn revision(&self) -> u64 {
        self.0.view.revision()
    }

    async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        Ok(self.0.view.get(key))
    }

    async fn range(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        at: Option<u64>,
        limit: usize,
    ) -> Result<Range, Error> {
        self.0.view.range(prefix, start_after, at, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, Error> {
        expiry::ensure(&self.0);
        self.0.commit(txn)
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<Watch, Error> {
        self.0.view.watch(prefix, after).await
    }

    async fn compact(&self, revision: u64) -> Result<(), Error> {
        self.0.view.compact(revision)
    }

    async fn close(&self) -> Result<(), Error> {
        self.0.closed.store(true, Ordering::Release);
        self.0.deadlines.wake();
        self.0.view.hub().close();
        Ok(())
    }
}
