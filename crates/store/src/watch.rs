//! Recent changes, and those who watch them.
//!
//! The [`Hub`] keeps the newest changes in memory, in revision order, and of older ones only where they stand on disk (an
//! engine without a disk forgets them). A watch whose revision is recent starts with a copy of the changes after it and is
//! registered under the same lock, so nothing is lost or repeated between past and present; an older one is first brought
//! up to the recent changes from disk, chunk by chunk, at its reader's pace (`view.rs`). Watchers are indexed by prefix: a
//! change costs one look-up per *length* of watched prefixes, however many watchers there are.
//! A watcher whose queue is full is ended with [`Error::Compacted`], for which a place in its queue is reserved (law 5).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use world::metrics::Gauge;

use crate::history::{Index, Past, Place, Version};
use crate::{Entry, Error, Event};

/// How much history is kept, and how long a watcher's queue may get.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Changes older than this are forgotten.
    pub age: std::time::Duration,
    /// What the superseded versions in memory may weigh, in bytes. An engine with a disk reads older ones from there.
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

pub(crate) type Batch = Result<Vec<Event>, Error>;
type Permit = mpsc::OwnedPermit<Batch>;

struct Watcher {
    queue: mpsc::Sender<Batch>,
    /// The place in the queue for the error that ends the watch.
    last_word: Permit,
}

impl Watcher {
    fn end(self, error: Error) {
        self.last_word.send(Err(error));
    }
}

/// A change that memory holds whole.
pub(crate) struct Recent {
    bytes: usize,
    event: Event,
}

/// A change that only the disk holds, and where what makes up its [`Event`] is read.
pub(crate) struct Old {
    pub(crate) past: Past,
    /// `None` for a deletion: its entry is made from the version before.
    pub(crate) entry: Option<Version>,
    pub(crate) previous: Option<Version>,
}

/// What a key was at an earlier revision.
pub(crate) enum Then {
    Absent,
    Held(Arc<Entry>),
    OnDisk(Version),
}

/// Changes within the window, and the watchers.
pub(crate) struct Hub {
    window: Window,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    /// Everything after this revision is in `recent`.
    recent_from: u64,
    /// `None`: this engine has no disk.
    index: Option<Index>,
    /// (milliseconds since 1970 when it began, last revision), one for each second that saw changes.
    seconds: VecDeque<(i64, u64)>,
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
/// Most positions that are looked at under one lock.
const LOOKED_AT: usize = 8192;

impl Hub {
    pub(crate) fn new(window: Window, index: Option<Index>, watching: Gauge) -> Self {
        Self {
            window,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_from: 0,
            index,
            seconds: VecDeque::new(),
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
    pub(crate) fn check(&self, revision: u64, current: u64) -> Result<(), Error> {
        if self.closed {
            return Err(Error::Closed);
        }
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

    /// Remembers changes (recovery) without telling anyone. `place`: the group that holds them, if they are written. What
    /// is returned left memory, and should be dropped without the lock.
    pub(crate) fn remember(
        &mut self,
        events: &[Event],
        place: Option<Place>,
        now_ms: i64,
    ) -> Vec<Recent> {
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
            self.recent_bytes += bytes;
            self.recent.push_back(Recent {
                bytes,
                event: event.clone(),
            });
            if let Some(index) = &mut self.index {
                index.push(event, place);
            }
        }
        let mut left = self.tick(events.last().map(Event::revision), now_ms);
        while self.recent_bytes > self.window.bytes
            && let Some(recent) = self.take_oldest()
        {
            if self.index.is_none() {
                self.set_compacted(recent.event.revision());
            }
            left.push(recent);
        }
        left
    }

    /// Remembers a change that only the disk holds (recovery).
    pub(crate) fn recall(&mut self, past: Past, now_ms: i64) {
        self.recent_from = past.revision;
        let revision = past.revision;
        if let Some(index) = &mut self.index {
            index.recall(past);
        }
        drop(self.tick(Some(revision), now_ms));
    }

    /// Notes when `revision` was, and forgets what is older than the window.
    fn tick(&mut self, revision: Option<u64>, now_ms: i64) -> Vec<Recent> {
        if let Some(revision) = revision {
            match self.seconds.back_mut() {
                Some((began, last)) if now_ms.saturating_sub(*began) < 1000 => *last = revision,
                _ => self.seconds.push_back((now_ms, revision)),
            }
        }
        let age_ms = i64::try_from(self.window.age.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = now_ms.saturating_sub(age_ms).saturating_sub(1000);
        let mut aged = 0;
        while let Some((began, revision)) = self.seconds.front().copied()
            && began < oldest_ms
        {
            self.seconds.pop_front();
            aged = revision;
        }
        if aged > 0 {
            self.forget(aged)
        } else {
            Vec::new()
        }
    }

    /// Takes the oldest change out of memory, if it is on disk or need not be.
    fn take_oldest(&mut self) -> Option<Recent> {
        let revision = self.recent.front()?.event.revision();
        if self
            .index
            .as_ref()
            .is_some_and(|index| !index.is_written(revision))
        {
            return None;
        }
        let recent = self.recent.pop_front()?;
        self.recent_bytes -= recent.bytes;
        self.recent_from = revision;
        Some(recent)
    }

    fn set_compacted(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision);
        let compacted = self.compacted;
        self.gaps.retain(|(_, to)| *to > compacted);
    }

    /// Forgets changes at and before `revision`. Their positions stay until the log that holds them goes: a later change
    /// may have superseded one of those versions.
    pub(crate) fn forget(&mut self, revision: u64) -> Vec<Recent> {
        self.set_compacted(revision);
        let mut left = Vec::new();
        while self
            .recent
            .front()
            .is_some_and(|r| r.event.revision() <= revision)
            && let Some(recent) = self.take_oldest()
        {
            left.push(recent);
        }
        left
    }

    /// The log is kept from `revision` on, at which the whole state is on disk.
    pub(crate) fn set_base(&mut self, revision: u64) -> Vec<Recent> {
        if let Some(index) = &mut self.index {
            index.set_base(revision);
        }
        self.forget(revision)
    }

    /// Positions that nobody needs after [`Self::set_base`], some at a time.
    pub(crate) fn take_stale(&mut self) -> Option<Vec<Past>> {
        self.index.as_mut()?.take_stale()
    }

    /// Changes that were shown before they were written are now in the group at `place`.
    pub(crate) fn written(&mut self, revisions: impl Iterator<Item = u64>, place: Place) {
        if let Some(index) = &mut self.index {
            for revision in revisions {
                index.written(revision, place);
            }
        }
    }

    /// Remembers changes and hands them to their watchers.
    pub(crate) fn publish(
        &mut self,
        events: &[Event],
        place: Option<Place>,
        now_ms: i64,
    ) -> Vec<Recent> {
        let left = self.remember(events, place, now_ms);
        if self.watchers.is_empty() {
            return left;
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
        left
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

    /// Does memory hold every change after `revision`?
    pub(crate) fn is_recent(&self, revision: u64) -> bool {
        revision >= self.recent_from
    }

    /// Starts a watch after a recent revision: `backlog` takes what happened since, `last_word` is kept for its end.
    pub(crate) fn join(&mut self, prefix: &str, after: u64, backlog: Permit, last_word: Permit) {
        let start = self.recent.partition_point(|r| r.event.revision() <= after);
        let missed: Vec<Event> = self
            .recent
            .range(start..)
            .map(|r| &r.event)
            .filter(|e| e.entry.key.starts_with(prefix))
            .cloned()
            .collect();
        let queue = if missed.is_empty() {
            backlog.release()
        } else {
            backlog.send(Ok(missed))
        };
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
    }

    /// The next changes under `prefix` after `after` that are on disk, about `limit` at most, and the revision that they
    /// reach. Ends where the recent changes begin.
    pub(crate) fn old(
        &self,
        prefix: &str,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<Old>, u64), Error> {
        let Some(index) = &self.index else {
            return Ok((Vec::new(), self.recent_from));
        };
        let (mut found, mut reached) = (Vec::new(), after);
        for (i, past) in index.after(after).enumerate() {
            if past.revision > self.recent_from {
                return Ok((found, self.recent_from));
            }
            // A transaction is never cut in two.
            if past.revision != reached && (found.len() >= limit || i >= LOOKED_AT) {
                return Ok((found, reached));
            }
            reached = past.revision;
            if past.key.starts_with(prefix) {
                let version = |revision| {
                    let version = index.find(&past.key, revision);
                    version.ok_or_else(|| untold(&past.key, revision)).map(Some)
                };
                found.push(Old {
                    entry: match past.created {
                        0 => None,
                        _ => version(past.revision)?,
                    },
                    previous: match past.previous {
                        0 => None,
                        revision => version(revision)?,
                    },
                    past: past.clone(),
                });
            }
        }
        Ok((found, self.recent_from.max(reached)))
    }

    /// Looks at some changes after `after` and up to `until`, and notes for each key under `prefix` that is not in `then`
    /// yet what it was before. Returns the revision that was reached.
    pub(crate) fn rewind(
        &self,
        prefix: &str,
        (after, until): (u64, u64),
        then: &mut BTreeMap<Arc<str>, Then>,
    ) -> Result<u64, Error> {
        if self.is_recent(after) {
            let start = self.recent.partition_point(|r| r.event.revision() <= after);
            for Recent { event, .. } in self.recent.range(start..) {
                if event.revision() > until {
                    break;
                }
                let key = &event.entry.key;
                if key.starts_with(prefix) && !then.contains_key(key) {
                    let was = event.previous.clone().map_or(Then::Absent, Then::Held);
                    then.insert(key.clone(), was);
                }
            }
            return Ok(until);
        }
        let mut reached = after;
        for (i, past) in self.index.iter().flat_map(|i| i.after(after)).enumerate() {
            if past.revision > self.recent_from.min(until) {
                break;
            }
            if past.revision != reached && i >= LOOKED_AT {
                return Ok(reached);
            }
            reached = past.revision;
            if past.key.starts_with(prefix) && !then.contains_key(&past.key) {
                let was = match (past.previous, &self.index) {
                    (0, _) | (_, None) => Then::Absent,
                    (revision, Some(index)) => Then::OnDisk(
                        index
                            .find(&past.key, revision)
                            .ok_or_else(|| untold(&past.key, revision))?,
                    ),
                };
                then.insert(past.key.clone(), was);
            }
        }
        Ok(self.recent_from.min(until))
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

fn untold(key: &str, revision: u64) -> Error {
    Error::Damaged(format!(
        "the log's index does not know where revision {revision} of {key} is"
    ))
}
