//! Recent changes, and those who watch them.
//!
//! The [`Hub`] keeps the changes of a window in memory, in revision order. A watch starts with a copy of those after its
//! revision and is registered under the same lock, so nothing is lost or repeated between past and present. Watchers are
//! indexed by prefix: a change costs one look-up per *length* of watched prefixes, however many watchers there are.
//! A watcher whose queue is full is ended with [`Error::Compacted`], for which a place in its queue is reserved (law 5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use world::metrics::Gauge;

use crate::state::{Slot, Tree};
use crate::{Entry, Error, Event, Watch};

/// How much history is kept, and how long a watcher's queue may get.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Changes older than this are forgotten.
    pub age: std::time::Duration,
    /// What the superseded versions in memory may weigh, in bytes.
    pub bytes: usize,
    /// Batches that a watcher may lag behind before it is ended.
    pub watch_queue: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            age: std::time::Duration::from_secs(3600),
            bytes: 32 << 20,
            watch_queue: 1024,
        }
    }
}

type Batch = Result<Vec<Event>, Error>;

struct Watcher {
    queue: mpsc::Sender<Batch>,
    /// The place in the queue for the error that ends the watch.
    last_word: mpsc::OwnedPermit<Batch>,
}

impl Watcher {
    fn end(self, error: Error) {
        self.last_word.send(Err(error));
    }
}

struct Past {
    at_ms: i64,
    bytes: usize,
    event: Event,
}

/// Changes within the window, and the watchers.
pub(crate) struct Hub {
    window: Window,
    past: VecDeque<Past>,
    past_bytes: usize,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    /// Revisions strictly between each pair may have been shown to someone and were then lost in a crash.
    gaps: Vec<(u64, u64)>,
    watchers: BTreeMap<String, Vec<Watcher>>,
    /// How many watched prefixes have which length.
    lengths: BTreeMap<usize, usize>,
    closed: bool,
    watching: Gauge,
}

/// What a superseded version weighs beside its bytes.
const OVERHEAD: usize = 256;

impl Hub {
    pub(crate) fn new(window: Window, watching: Gauge) -> Self {
        Self {
            window,
            past: VecDeque::new(),
            past_bytes: 0,
            compacted: 0,
            gaps: Vec::new(),
            watchers: BTreeMap::new(),
            lengths: BTreeMap::new(),
            closed: false,
            watching,
        }
    }

    pub(crate) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(crate) fn gaps(&self) -> &[(u64, u64)] {
        &self.gaps
    }

    /// Notes that revisions strictly between `from` and `to` may have been seen and are lost.
    pub(crate) fn add_gap(&mut self, from: u64, to: u64) {
        self.gaps.push((from, to));
    }

    /// Is everything after `revision` known? `current` is the store's revision.
    fn check(&self, revision: u64, current: u64) -> Result<(), Error> {
        if revision > current {
            return Err(Error::Future {
                asked: revision,
                current,
            });
        }
        if revision < self.compacted {
            return Err(Error::Compacted {
                asked: revision,
                oldest: self.compacted,
            });
        }
        match self
            .gaps
            .iter()
            .find(|(from, to)| *from < revision && revision < *to)
        {
            Some((_, to)) => Err(Error::Compacted {
                asked: revision,
                oldest: *to,
            }),
            None => Ok(()),
        }
    }

    /// Remembers changes (recovery) without telling anyone.
    pub(crate) fn remember(&mut self, events: &[Event], now_ms: i64) {
        for event in events {
            // What the current state holds anyway costs nothing; counted is what this change superseded.
            let held = event.previous.as_ref().map_or(0, |p| p.wire.len());
            let bytes = OVERHEAD
                + held
                + if event.deleted {
                    event.entry.wire.len()
                } else {
                    0
                };
            self.past_bytes += bytes;
            self.past.push_back(Past {
                at_ms: now_ms,
                bytes,
                event: event.clone(),
            });
        }
        let age_ms = i64::try_from(self.window.age.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = now_ms.saturating_sub(age_ms);
        while let Some(front) = self.past.front()
            && (self.past_bytes > self.window.bytes || front.at_ms < oldest_ms)
        {
            self.forget(front.event.revision());
        }
    }

    /// Forgets changes at and before `revision`.
    pub(crate) fn forget(&mut self, revision: u64) {
        while self
            .past
            .front()
            .is_some_and(|p| p.event.revision() <= revision)
        {
            self.past_bytes -= self.past.pop_front().map_or(0, |p| p.bytes);
        }
        self.compacted = self.compacted.max(revision);
        let compacted = self.compacted;
        self.gaps.retain(|(_, to)| *to > compacted);
    }

    /// Remembers changes and hands them to their watchers.
    pub(crate) fn publish(&mut self, events: &[Event], now_ms: i64) {
        self.remember(events, now_ms);
        if self.watchers.is_empty() {
            return;
        }
        let mut told: BTreeMap<&str, Vec<Event>> = BTreeMap::new();
        for event in events {
            let key = &*event.entry.key;
            for (&length, _) in self.lengths.range(..=key.len()) {
                if let Some(prefix) = key.get(..length)
                    && self.watchers.contains_key(prefix)
                {
                    told.entry(prefix).or_default().push(event.clone());
                }
            }
        }
        for (prefix, batch) in told {
            self.tell(prefix, &batch);
        }
    }

    fn tell(&mut self, prefix: &str, batch: &[Event]) {
        let Some(watchers) = self.watchers.get_mut(prefix) else {
            return;
        };
        let revision = batch.last().map_or(0, Event::revision);
        for watcher in std::mem::take(watchers) {
            match watcher.queue.try_send(Ok(batch.to_vec())) {
                Ok(()) => watchers.push(watcher),
                Err(mpsc::error::TrySendError::Closed(_)) => self.watching.add(-1),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.watching.add(-1);
                    let asked = batch.first().map_or(0, Event::revision);
                    watcher.end(Error::Compacted {
                        asked,
                        oldest: revision,
                    });
                }
            }
        }
        if watchers.is_empty() {
            self.unlist(prefix);
        }
    }

    fn unlist(&mut self, prefix: &str) {
        self.watchers.remove(prefix);
        if let Some(n) = self.lengths.get_mut(&prefix.len()) {
            *n -= 1;
            if *n == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }

    /// Starts a watch; `current` is the store's revision.
    pub(crate) fn watch(&mut self, prefix: &str, after: u64, current: u64) -> Result<Watch, Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        self.check(after, current)?;
        let start = self.past.partition_point(|p| p.event.revision() <= after);
        let backlog: Vec<Event> = self
            .past
            .range(start..)
            .map(|p| &p.event)
            .filter(|e| e.entry.key.starts_with(prefix))
            .cloned()
            .collect();
        let (queue, events) = mpsc::channel(self.window.watch_queue.max(1) + 2);
        let last_word = queue
            .clone()
            .try_reserve_owned()
            .map_err(|_| Error::Closed)?;
        if !backlog.is_empty() {
            queue.try_send(Ok(backlog)).map_err(|_| Error::Closed)?;
        }
        let watchers = match self.watchers.entry(prefix.to_owned()) {
            std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
            std::collections::btree_map::Entry::Vacant(v) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                v.insert(Vec::new())
            }
        };
        // Watchers that went away without a change to tell them are cleared now and then: at 16, 32, 64, …
        if watchers.len() >= 16 && watchers.len().is_power_of_two() {
            let before = watchers.len();
            watchers.retain(|w| !w.queue.is_closed());
            self.watching.add(
                i64::try_from(watchers.len()).unwrap_or(0) - i64::try_from(before).unwrap_or(0),
            );
        }
        watchers.push(Watcher { queue, last_word });
        self.watching.add(1);
        Ok(Watch { events })
    }

    /// `tree`, which shows `current`, as it was at revision `at` for the keys under `prefix`.
    pub(crate) fn rewind(
        &self,
        tree: &Tree,
        current: u64,
        prefix: &str,
        at: u64,
    ) -> Result<Tree, Error> {
        self.check(at, current)?;
        let start = self.past.partition_point(|p| p.event.revision() <= at);
        let mut then: BTreeMap<&str, &Option<Arc<Entry>>> = BTreeMap::new();
        for past in self.past.range(start..).rev() {
            if past.event.entry.key.starts_with(prefix) {
                then.insert(&past.event.entry.key, &past.event.previous);
            }
        }
        let mut tree = tree.clone();
        for (key, version) in then {
            match version {
                Some(entry) => {
                    tree.insert(Slot {
                        entry: entry.clone(),
                        expires_ms: 0,
                    });
                }
                None => {
                    tree.remove(key);
                }
            }
        }
        Ok(tree)
    }

    /// Ends every watch.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.lengths.clear();
        for watcher in std::mem::take(&mut self.watchers).into_values().flatten() {
            watcher.end(Error::Closed);
        }
        self.watching.set(0);
    }
}
