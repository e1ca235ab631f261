//! Waiting to see one's own writes before acting again.
//!
//! An informer is always a little behind. A controller that counts what it sees would make a Pod twice if it acted before
//! its first one came back. Upstream counts expectations; here a key waits until the informer has seen the revision of
//! its own last write, or until a time-out (an object may come and go unseen between two lists). What it deleted it
//! counts as gone from then on.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::env::Key;

const TIMEOUT: Duration = Duration::from_secs(10);

/// The last own write of each key.
#[derive(Default)]
pub(crate) struct Awaited {
    writes: Mutex<HashMap<Key, (u64, Instant)>>,
    deleted: Mutex<HashMap<Key, Vec<(String, Instant)>>>,
}

impl Awaited {
    /// `key` made a write that got `revision`.
    pub fn wrote(&self, key: &Key, revision: u64) {
        let mut map = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = map
            .entry(key.clone())
            .or_insert((0, Instant::now() + TIMEOUT));
        *entry = (entry.0.max(revision), Instant::now() + TIMEOUT);
    }

    /// How long `key` must still wait at most, given the newest revision seen; `None`: it may act.
    pub fn wait(&self, key: &Key, seen: u64) -> Option<Duration> {
        let mut map = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, deadline) = *map.get(key)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if seen >= revision || left.is_zero() {
            map.remove(key);
            return None;
        }
        Some(left)
    }

    /// `key` deleted the object with this UID.
    pub fn deleted(&self, key: &Key, uid: &str) {
        let mut map = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        map.entry(key.clone())
            .or_default()
            .push((uid.to_owned(), Instant::now() + TIMEOUT));
    }

    /// The UIDs that `key` deleted lately.
    pub fn gone(&self, key: &Key) -> HashSet<String> {
        let mut map = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(list) = map.get_mut(key) else {
            return HashSet::new();
        };
        let now = Instant::now();
        list.retain(|(_, until)| *until > now);
        let gone = list.iter().map(|(uid, _)| uid.clone()).collect();
        if list.is_empty() {
            map.remove(key);
        }
        gone
    }
}
