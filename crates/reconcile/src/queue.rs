//! A queue of keys: each at most once waiting, never two workers on one key, retried with back-off.
//!
//! ```text
//!   add ──► waiting ──► running ──► done
//!              ▲          │ add while running: waiting again when done
//!              └── after a delay: asked for, or after a failure
//! ```
//! Its length is bounded by the number of objects, since a key waits at most once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use world::metrics::{Counter, Gauge};
use world::{Backoff, Shutdown, World};

/// What a reconcile wants to happen next.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// The same key again after this long, if nothing changes before.
    After(Duration),
    /// It failed, for this reason: again after a back-off.
    Retry(String),
}

/// How a queue works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Names it in metrics and logs.
    pub name: &'static str,
    /// Keys worked on at once.
    pub workers: usize,
    /// The first delay after a failure.
    pub first_retry: Duration,
    /// The longest.
    pub last_retry: Duration,
}

impl Settings {
    /// Upstream's rate limits: 5 ms doubling to 1000 s (we stop at 5 minutes), five workers.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        Self {
            name,
            workers: 5,
            first_retry: Duration::from_millis(5),
            last_retry: Duration::from_secs(300),
        }
    }
}

struct State<K> {
    waiting: VecDeque<K>,
    queued: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    /// The earliest moment at which a key should be added.
    later: HashMap<K, Instant>,
    failures: HashMap<K, Backoff>,
}

struct Inner<K> {
    state: Mutex<State<K>>,
    /// Something is waiting, or a delay changed.
    changed: Notify,
    settings: Settings,
    world: World,
    depth: Gauge,
    retries: Counter,
    runs: Counter,
    /// Law 7 is asserted with it: an idle queue wakes nobody.
    wakeups: Counter,
}

/// A shared queue of keys.
pub struct Queue<K>(Arc<Inner<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash + std::fmt::Display + Send + Sync + 'static> Queue<K> {
    /// An empty queue.
    #[must_use]
    pub fn new(settings: Settings, world: World) -> Self {
        let label = format!("name=\"{}\"", settings.name);
        let depth = world
            .metrics
            .gauge("workqueue_depth", "Keys waiting in a queue.", &label);
        let retries =
            world
                .metrics
                .counter("workqueue_retries_total", "Reconciles that failed.", &label);
        let runs = world
            .metrics
            .counter("skiff_reconciles_total", "Reconciles.", &label);
        let wakeups = world.metrics.counter(
            "skiff_queue_wakeups_total",
            "Times that a queue's worker woke up.",
            &label,
        );
        let state = State {
            waiting: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            later: HashMap::new(),
            failures: HashMap::new(),
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            changed: Notify::new(),
            settings,
            world,
            depth,
            retries,
            runs,
            wakeups,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `key` reconciled soon.
    pub fn add(&self, key: K) {
        self.enqueue(&mut self.lock(), key);
        self.0.changed.notify_one();
    }

    fn enqueue(&self, state: &mut State<K>, key: K) {
        state.later.remove(&key);
        if state.running.contains(&key) {
            state.again.insert(key);
        } else if state.queued.insert(key.clone()) {
            state.waiting.push_back(key);
            self.0
                .depth
                .set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
        }
    }

    /// Has `key` reconciled after `delay`, or earlier if it was to be earlier.
    pub fn add_after(&self, key: K, delay: Duration) {
        let due = Instant::now() + delay;
        let mut state = self.lock();
        let entry = state.later.entry(key).or_insert(due);
        *entry = (*entry).min(due);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Moves what is due to the waiting keys; returns the next deadline.
    fn promote(&self, state: &mut State<K>) -> Option<Instant> {
        let now = Instant::now();
        let due: Vec<K> = state
            .later
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(k, _)| k.clone())
            .collect();
        for key in due {
            self.enqueue(state, key);
        }
        state.later.values().min().copied()
    }

    async fn next(&self) -> K {
        loop {
            let deadline = {
                let mut state = self.lock();
                let deadline = self.promote(&mut state);
                if let Some(key) = state.waiting.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    self.0
                        .depth
                        .set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
                    if !state.waiting.is_empty() {
                        self.0.changed.notify_one();
                    }
                    return key;
                }
                deadline
            };
            match deadline {
                // Whether time or a change woke it, what is due is looked for again.
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.0.changed.notified()).await;
                }
                None => self.0.changed.notified().await,
            }
            self.0.wakeups.inc();
        }
    }

    fn finish(&self, key: K, outcome: Outcome) {
        let mut state = self.lock();
        state.running.remove(&key);
        let again = state.again.remove(&key);
        match outcome {
            Outcome::Done => {
                state.failures.remove(&key);
            }
            Outcome::After(delay) => {
                state.failures.remove(&key);
                let due = Instant::now() + delay;
                let entry = state.later.entry(key.clone()).or_insert(due);
                *entry = (*entry).min(due);
            }
            Outcome::Retry(reason) => {
                self.0.retries.inc();
                let Settings {
                    name,
                    first_retry,
                    last_retry,
                    ..
                } = self.0.settings;
                let backoff = state
                    .failures
                    .entry(key.clone())
                    .or_insert_with(|| Backoff::new(first_retry, last_retry));
                let delay = backoff
                    .next_delay()
                    .mul_f64(1.0 + 0.1 * self.0.world.rng.unit());
                let failures = backoff.failures();
                if failures > 3 {
                    tracing::warn!(queue = name, %key, failures, reason, "cannot reconcile");
                } else {
                    tracing::debug!(queue = name, %key, failures, reason, "cannot reconcile");
                }
                state.later.insert(key.clone(), Instant::now() + delay);
            }
        }
        if again {
            self.enqueue(&mut state, key);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Works on the keys with `reconcile` until `shutdown`.
    pub async fn run<F, Fut>(&self, shutdown: Shutdown, reconcile: F)
    where
        F: Fn(K) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send,
    {
        let reconcile = Arc::new(reconcile);
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.0.settings.workers {
            let (queue, reconcile) = (self.clone(), reconcile.clone());
            workers.spawn(shutdown.clone().run_until_cancelled_owned(async move {
                loop {
                    let key = queue.next().await;
                    queue.0.runs.inc();
                    // A panic is one key's failure, not the end of the worker.
                    let work = AssertUnwindSafe((reconcile.as_ref())(key.clone()));
                    let outcome = work.catch_unwind().await.unwrap_or_else(|_| {
                        let name = queue.0.settings.name;
                        tracing::error!(queue = name, %key, "a reconcile panicked");
                        Outcome::Retry("the reconcile panicked".into())
                    });
                    queue.finish(key, outcome);
                }
            }));
        }
        while workers.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(workers: usize) -> Queue<String> {
        Queue::new(
            Settings {
                workers,
                ..Settings::named("test")
            },
            World::seeded(1),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_tried_again_and_takes_no_worker() {
        let queue = queue(1);
        let runs = Arc::new(Mutex::new(Vec::new()));
        queue.add("a".into());
        queue.add("b".into());
        let seen = runs.clone();
        let work = queue.run(Shutdown::new(), move |key: String| {
            let seen = seen.clone();
            async move {
                let first = !seen.lock().unwrap().contains(&key);
                seen.lock().unwrap().push(key.clone());
                assert!(key != "a" || !first, "a defect");
                Outcome::Done
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(60), work).await;
        assert_eq!(*runs.lock().unwrap(), ["a", "b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_runs_runs_once_more_and_never_twice_at_once() {
        let queue = queue(4);
        let (runs, at_once) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let shutdown = Shutdown::new();
        queue.add("a".into());
        let (q, r, n) = (queue.clone(), runs.clone(), at_once.clone());
        let work = queue.run(shutdown.clone(), move |key| {
            let (q, r, n) = (q.clone(), r.clone(), n.clone());
            async move {
                *n.lock().unwrap() += 1;
                assert_eq!(*n.lock().unwrap(), 1, "two workers on one key");
                if *r.lock().unwrap() == 0 {
                    for _ in 0..5 {
                        q.add(key.clone());
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                *r.lock().unwrap() += 1;
                *n.lock().unwrap() -= 1;
                Outcome::Done
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(10), work).await;
        assert_eq!(*runs.lock().unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time() {
        let queue = queue(1);
        let starts = Arc::new(Mutex::new(Vec::new()));
        queue.add("a".into());
        let (s, begin) = (starts.clone(), Instant::now());
        let work = queue.run(Shutdown::new(), move |_| {
            let s = s.clone();
            async move {
                s.lock().unwrap().push(begin.elapsed());
                Outcome::Retry("no".into())
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(2), work).await;
        let starts = starts.lock().unwrap();
        assert!(starts.len() > 5 && starts.len() < 12, "{starts:?}");
        let gaps: Vec<_> = starts.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(gaps.windows(2).all(|g| g[0] < g[1]), "{gaps:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_wins() {
        let queue = queue(1);
        queue.add_after("a".into(), Duration::from_secs(100));
        queue.add_after("a".into(), Duration::from_secs(1));
        let begin = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(begin.elapsed().as_secs(), 1);
    }
}
