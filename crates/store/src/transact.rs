//! What a transaction does to the state: pure, the same for every engine and at recovery.

use std::sync::Arc;

use bytes::Bytes;

use crate::state::{Slot, Tree};
use crate::{Beside, Compare, Entry, Error, Event, Indexer, Op, Txn, wire};

/// Upstream's limit of a request to etcd.
pub(crate) const MAX_VALUE: usize = 1_572_864;

/// A transaction with everything computed that does not depend on the state, outside of any lock.
pub(crate) struct Prepared {
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<PreparedOp>,
    pub(crate) lazy: bool,
}

pub(crate) enum PreparedOp {
    Put {
        key: Arc<str>,
        stored: Bytes,
        rv_offset: Option<u32>,
        expires_ms: i64,
        beside: Beside,
    },
    Delete {
        key: Arc<str>,
    },
}

/// Checks `txn` and indexes its values.
pub(crate) fn prepare(
    txn: Txn,
    indexer: &dyn Indexer,
    limit: usize,
    now_ms: i64,
) -> Result<Prepared, Error> {
    let mut ops = Vec::with_capacity(txn.ops.len());
    for op in txn.ops {
        ops.push(match op {
            Op::Put {
                key,
                stored,
                rv_offset,
                expire_after,
            } => {
                if stored.len() > limit {
                    return Err(Error::TooLarge {
                        key,
                        size: stored.len(),
                        limit,
                    });
                }
                wire::check_offset(&key, &stored, rv_offset)?;
                let expires_ms = expire_after.map_or(0, |after| {
                    now_ms
                        .saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
                        .max(1)
                });
                let beside = indexer.index(&key, &stored);
                PreparedOp::Put {
                    key: key.into(),
                    stored,
                    rv_offset,
                    expires_ms,
                    beside,
                }
            }
            Op::Delete { key } => PreparedOp::Delete { key: key.into() },
        });
    }
    Ok(Prepared {
        compares: txn.compares,
        ops,
        lazy: txn.lazy,
    })
}

/// What became of a transaction in memory.
pub(crate) enum Evaluated {
    /// The tree was changed; `events` has one element per key that changed.
    Changed {
        entries: Vec<Option<Arc<Entry>>>,
        events: Vec<Event>,
    },
    /// The compares held, but there was nothing to do (deletes of absent keys): no revision was taken.
    Nothing { entries: Vec<Option<Arc<Entry>>> },
    /// A compare did not hold; the tree is unchanged.
    Conflict { current: Vec<Option<Arc<Entry>>> },
}

/// Applies `txn` to `tree` as `revision`.
pub(crate) fn evaluate(tree: &mut Tree, revision: u64, txn: &Prepared) -> Evaluated {
    let held = |compare: &Compare| match compare {
        Compare::Absent(key) => tree.get(key).is_none(),
        Compare::Revision(key, wanted) => {
            tree.get(key).is_some_and(|s| s.entry.revision == *wanted)
        }
    };
    if !txn.compares.iter().all(held) {
        let current = txn.compares.iter().map(|c| match c {
            Compare::Absent(key) | Compare::Revision(key, _) => {
                tree.get(key).map(|s| s.entry.clone())
            }
        });
        return Evaluated::Conflict {
            current: current.collect(),
        };
    }
    let mut entries = Vec::with_capacity(txn.ops.len());
    let mut events = Vec::with_capacity(txn.ops.len());
    for op in &txn.ops {
        let event = match op {
            PreparedOp::Put {
                key,
                stored,
                rv_offset,
                expires_ms,
                beside,
            } => Some(put(
                tree,
                revision,
                key,
                stored,
                *rv_offset,
                *expires_ms,
                beside.clone(),
            )),
            PreparedOp::Delete { key } => delete(tree, revision, key),
        };
        entries.push(event.as_ref().map(|e| e.entry.clone()));
        events.extend(event);
    }
    if events.is_empty() {
        Evaluated::Nothing { entries }
    } else {
        Evaluated::Changed { entries, events }
    }
}

/// Writes one version.
pub(crate) fn put(
    tree: &mut Tree,
    revision: u64,
    key: &Arc<str>,
    stored: &Bytes,
    rv_offset: Option<u32>,
    expires_ms: i64,
    beside: Beside,
) -> Event {
    let (key, created) = match tree.get(key) {
        Some(slot) => (slot.entry.key.clone(), slot.entry.created),
        None => (key.clone(), revision),
    };
    let entry = wire::entry(key, stored, rv_offset, revision, created, beside);
    let previous = tree
        .insert(Slot {
            entry: entry.clone(),
            expires_ms,
        })
        .map(|s| s.entry);
    Event {
        entry,
        previous,
        deleted: false,
    }
}

/// Deletes one key; `None` when there was nothing to delete.
pub(crate) fn delete(tree: &mut Tree, revision: u64, key: &str) -> Option<Event> {
    let last = tree.remove(key)?.entry;
    Some(Event {
        entry: wire::tombstone(&last, revision),
        previous: Some(last),
        deleted: true,
    })
}

impl Prepared {
    /// The deadlines that this transaction sets, as (milliseconds since 1970, key).
    pub(crate) fn deadlines(&self) -> impl Iterator<Item = (i64, Arc<str>)> + '_ {
        self.ops.iter().filter_map(|op| match op {
            PreparedOp::Put {
                key, expires_ms, ..
            } if *expires_ms > 0 => Some((*expires_ms, key.clone())),
            _ => None,
        })
    }
}
