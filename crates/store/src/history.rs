//! Where older versions stand: memory keeps positions, the log keeps the bytes.
//!
//! For each change after the *base* the [`Index`] holds its key, the revisions involved and the group of the log that holds
//! it. The base is the state that the kept log starts from: the oldest kept checkpoint, or nothing at all. So every version
//! that was current at any moment after the base can be read: one written after it from its group, an earlier one from the
//! base's checkpoint. Positions go when the base moves on, which is when their segments go.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use world::metrics::Gauge;

use crate::{Entry, Error, Event};

/// Changes in one page of the index. Pages are made and dropped whole, so that no large vector is ever moved.
const PAGE: usize = 1024;

/// A group of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    /// Where the group starts in its segment; 0: not written yet (a lazy transaction).
    pub(crate) offset: u32,
}

impl Place {
    pub(crate) const UNWRITTEN: Self = Self {
        segment: 0,
        offset: 0,
    };
}

/// One change: 48 bytes, and its key, which it usually shares with the current state.
#[derive(Debug, Clone)]
pub(crate) struct Past {
    pub(crate) key: Arc<str>,
    pub(crate) revision: u64,
    /// The revision of the version before; 0: the key was created.
    pub(crate) previous: u64,
    /// As [`Entry::created`]; 0: the key was deleted.
    pub(crate) created: u64,
    pub(crate) place: Place,
}

impl Past {
    fn of(event: &Event, place: Place) -> Self {
        Self {
            key: event.entry.key.clone(),
            revision: event.entry.revision,
            previous: event.previous.as_ref().map_or(0, |p| p.revision),
            created: if event.deleted {
                0
            } else {
                event.entry.created
            },
            place,
        }
    }
}

/// A version that is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) key: Arc<str>,
    pub(crate) revision: u64,
    pub(crate) at: At,
}

/// Where a version is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// In the checkpoint of this revision.
    Checkpoint(u64),
    Log {
        place: Place,
        created: u64,
    },
}

/// Reads versions back.
#[async_trait::async_trait]
pub(crate) trait Archive: Send + Sync + 'static {
    /// The versions asked for, in the same order.
    async fn read(&self, versions: Vec<Version>) -> Result<Vec<Arc<Entry>>, Error>;
}

/// See the module's comment.
pub(crate) struct Index {
    base: u64,
    /// In revision order; no page is empty.
    pages: VecDeque<Vec<Past>>,
    /// Revisions that have been shown and are not in the log yet.
    unwritten: BTreeSet<u64>,
    length: Gauge,
}

impl Index {
    pub(crate) fn new(length: Gauge) -> Self {
        Self {
            base: 0,
            pages: VecDeque::new(),
            unwritten: BTreeSet::new(),
            length,
        }
    }

    /// The state at `revision` is what the kept log starts from.
    pub(crate) fn set_base(&mut self, revision: u64) {
        self.base = self.base.max(revision);
    }

    /// Takes out a page that ends at or before the base; the caller drops it where that holds nobody up.
    pub(crate) fn take_stale(&mut self) -> Option<Vec<Past>> {
        let stale = self
            .pages
            .front()?
            .last()
            .is_some_and(|p| p.revision <= self.base);
        let page = stale.then(|| self.pages.pop_front()).flatten()?;
        self.length.add(-i64::try_from(page.len()).unwrap_or(0));
        Some(page)
    }

    pub(crate) fn push(&mut self, event: &Event, place: Option<Place>) {
        if place.is_none() {
            self.unwritten.insert(event.revision());
        }
        self.recall(Past::of(event, place.unwrap_or(Place::UNWRITTEN)));
    }

    /// Adds a change.
    pub(crate) fn recall(&mut self, past: Past) {
        match self.pages.back_mut() {
            Some(page) if page.len() < PAGE => page.push(past),
            _ => {
                // Most stores see few changes: only pages after the first are made whole.
                let mut page = Vec::with_capacity(if self.pages.is_empty() { 16 } else { PAGE });
                page.push(past);
                self.pages.push_back(page);
            }
        }
        self.length.add(1);
    }

    /// The changes of `revision`, which had been shown before, are now in the log.
    pub(crate) fn written(&mut self, revision: u64, place: Place) {
        if !self.unwritten.remove(&revision) {
            return;
        }
        let first = self.page_of(revision);
        for page in self.pages.range_mut(first..) {
            let at = page.partition_point(|p| p.revision < revision);
            for past in &mut page[at..] {
                if past.revision != revision {
                    return;
                }
                past.place = place;
            }
        }
    }

    /// Is everything up to `revision` in the log?
    pub(crate) fn is_written(&self, revision: u64) -> bool {
        self.unwritten
            .first()
            .is_none_or(|oldest| revision < *oldest)
    }

    /// The first page that has `revision` or a later one.
    fn page_of(&self, revision: u64) -> usize {
        self.pages
            .partition_point(|page| page.last().is_some_and(|p| p.revision < revision))
    }

    /// The changes after `revision`, in order.
    pub(crate) fn after(&self, revision: u64) -> impl Iterator<Item = &Past> {
        let first = self.page_of(revision + 1);
        self.pages
            .range(first..)
            .enumerate()
            .flat_map(move |(i, page)| {
                let at = if i == 0 {
                    page.partition_point(|p| p.revision <= revision)
                } else {
                    0
                };
                &page[at..]
            })
    }

    /// Where the version of `key` that `revision` wrote is read. `None`: nowhere, which no index of a whole log says.
    pub(crate) fn find(&self, key: &Arc<str>, revision: u64) -> Option<Version> {
        let at = if revision <= self.base {
            At::Checkpoint(self.base)
        } else {
            let past = self
                .after(revision - 1)
                .take_while(|p| p.revision == revision)
                .find(|p| p.key == *key && p.created > 0)?;
            At::Log {
                place: past.place,
                created: past.created,
            }
        };
        Some(Version {
            key: key.clone(),
            revision,
            at,
        })
    }
}
