//! Pods that wait for a node.
//!
//! ```text
//!   add ──► active ──pop──► (decided) ──► bound: leaves
//!             ▲                 └──► unschedulable ── something changed ──► backoff
//!             └───────────────── back-off over ────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::views::PodView;

/// The first back-off, in milliseconds; it doubles up to the last.
const FIRST_BACKOFF: u64 = 1_000;
const LAST_BACKOFF: u64 = 10_000;
/// How long a Pod stays unschedulable before it is tried without a reason.
const UNSCHEDULABLE_FOR: u64 = 300_000;

type Key = Arc<str>;
/// Highest priority first, then whoever came first.
type Rank = (std::cmp::Reverse<i64>, u64);

/// Where a Pod waits.
#[derive(Debug)]
enum State {
    /// To be decided about, at this rank.
    Active(Rank),
    /// Until this moment.
    Backoff(u64),
    /// Until something changes, or until this moment.
    Unschedulable(u64),
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodView>,
    state: State,
    failures: u32,
    /// When the last failed try was.
    tried: u64,
}

/// The queue. Times are milliseconds since any fixed moment.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    active: BTreeMap<Rank, Key>,
    timed: BTreeSet<(u64, Key)>,
    unschedulable: BTreeSet<Key>,
    arrivals: u64,
    /// Tries of Pods that were taken out to be decided about.
    failures: HashMap<Key, u32>,
    changed: bool,
}

impl Queue {
    /// A Pod wants a node. One that is known keeps waiting, unless it `asks_anew` for something else.
    pub fn add(&mut self, key: Key, pod: Arc<PodView>, asks_anew: bool) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !asks_anew
        {
            entry.pod = pod;
            return;
        }
        let failures = self.take(&key).map_or(0, |e| e.failures);
        self.activate(key, pod, failures);
    }

    fn activate(&mut self, key: Key, pod: Arc<PodView>, failures: u32) {
        self.arrivals += 1;
        let rank = (std::cmp::Reverse(pod.priority), self.arrivals);
        self.active.insert(rank, key.clone());
        self.entries.insert(
            key,
            Entry {
                pod,
                state: State::Active(rank),
                failures,
                tried: 0,
            },
        );
    }

    fn take(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        match &entry.state {
            State::Active(rank) => {
                self.active.remove(rank);
            }
            State::Backoff(at) => {
                self.timed.remove(&(*at, key.clone()));
            }
            State::Unschedulable(at) => {
                self.timed.remove(&(*at, key.clone()));
                self.unschedulable.remove(key);
            }
        }
        Some(entry)
    }

    /// A Pod no longer wants a node.
    pub fn remove(&mut self, key: &Key) {
        self.take(key);
        self.failures.remove(key);
    }

    /// The next Pod to decide about; it is no longer in the queue.
    pub fn pop(&mut self, now: u64) -> Option<(Key, Arc<PodView>)> {
        self.promote(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.remove(&key)?;
        if entry.failures > 0 {
            self.failures.insert(key.clone(), entry.failures);
        }
        Some((key, entry.pod))
    }

    /// No node can take it now.
    pub fn park(&mut self, key: Key, pod: Arc<PodView>, now: u64) {
        let failures = self.failures.remove(&key).unwrap_or(0) + 1;
        let at = now + UNSCHEDULABLE_FOR;
        self.timed.insert((at, key.clone()));
        self.unschedulable.insert(key.clone());
        self.entries.insert(
            key,
            Entry {
                pod,
                state: State::Unschedulable(at),
                failures,
                tried: now,
            },
        );
    }

    /// It could have a node, but something went wrong.
    pub fn back_off(&mut self, key: Key, pod: Arc<PodView>, now: u64) {
        let failures = self.failures.remove(&key).unwrap_or(0) + 1;
        let at = now + backoff(failures);
        self.timed.insert((at, key.clone()));
        self.entries.insert(
            key,
            Entry {
                pod,
                state: State::Backoff(at),
                failures,
                tried: now,
            },
        );
    }

    /// Something changed that may help those that found no node.
    pub fn something_changed(&mut self) {
        self.changed = !self.unschedulable.is_empty();
    }

    /// Moves on those whose time has come.
    fn promote(&mut self, now: u64) {
        if std::mem::take(&mut self.changed) {
            for key in std::mem::take(&mut self.unschedulable) {
                let Some(entry) = self.entries.get_mut(&key) else {
                    continue;
                };
                if let State::Unschedulable(at) = entry.state {
                    self.timed.remove(&(at, key.clone()));
                }
                let at = entry.tried + backoff(entry.failures);
                entry.state = State::Backoff(at);
                self.timed.insert((at, key));
            }
        }
        while let Some((at, _)) = self.timed.first() {
            if *at > now {
                break;
            }
            let Some((_, key)) = self.timed.pop_first() else {
                break;
            };
            self.unschedulable.remove(&key);
            if let Some(entry) = self.entries.remove(&key) {
                self.activate(key, entry.pod, entry.failures);
            }
        }
    }

    /// In how many milliseconds there is something to do; 0: now; `None`: not before the next event.
    #[must_use]
    pub fn next_due(&self, now: u64) -> Option<u64> {
        if !self.active.is_empty() || self.changed {
            return Some(0);
        }
        self.timed.first().map(|(at, _)| at.saturating_sub(now))
    }

    /// How many Pods wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn backoff(failures: u32) -> u64 {
    FIRST_BACKOFF
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LAST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(priority: i64) -> Arc<PodView> {
        Arc::new(PodView {
            priority,
            ..PodView::default()
        })
    }

    #[test]
    fn priority_then_order() {
        let mut queue = Queue::default();
        for (key, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.add(key.into(), pod(priority), true);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop(0))
            .map(|(k, _)| k.to_string())
            .collect();
        assert_eq!(order, ["b", "a", "c"]);
    }

    #[test]
    fn an_unschedulable_pod_waits_for_a_change_and_its_backoff() {
        let mut queue = Queue::default();
        queue.add("a".into(), pod(0), true);
        let (key, p) = queue.pop(0).unwrap();
        queue.park(key, p, 0);
        assert!(queue.pop(5_000).is_none());
        queue.something_changed();
        let (key, p) = queue.pop(5_000).unwrap();
        queue.park(key, p, 5_000);
        queue.something_changed();
        assert!(queue.pop(6_000).is_none());
        assert!(
            queue.pop(7_000).is_some(),
            "two seconds after the second failure"
        );
    }
}
